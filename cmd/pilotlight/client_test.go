package main

import (
	"strings"
	"testing"
)

func TestNamesBelowLocalhostAreThisMachine(t *testing.T) {
	url, _ := letters(t)
	out, err := run(t, "", "events", "list", "--server", strings.Replace(url, "127.0.0.1", "deadletter.space.localhost", 1))
	if err != nil || out != "no dead letters\n" {
		t.Errorf("got %q %v", out, err)
	}
}
