//go:build !linux

package model

func hugePages([]byte) {}
