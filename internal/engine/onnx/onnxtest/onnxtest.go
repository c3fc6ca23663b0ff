// Package onnxtest has ONNX models for tests and benchmarks, and finds the runtime that runs
// them.
package onnxtest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx"
)

// Library finds ONNX Runtime for tests: the file that ORT_LIB names, else the
// one `make ort` puts beside go.mod. Without it the test is skipped, but on CI
// it fails.
func Library(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("ORT_LIB"); path != "" {
		return path
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		path := filepath.Join(dir, ".ort", "libonnxruntime.so")
		if _, err := os.Stat(path); err == nil {
			return path
		}
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil || dir == filepath.Dir(dir) {
			break
		}
		dir = filepath.Dir(dir)
	}
	if os.Getenv("CI") != "" {
		t.Fatal("ONNX Runtime is missing: run `make ort`, or set ORT_LIB")
	}
	t.Skip("SKIPPED, because ONNX Runtime is missing: run `make ort`, or set ORT_LIB")
	return ""
}

// Format gives the runtime itself, as Library finds it.
func Format(t testing.TB) engine.Format {
	t.Helper()
	f, err := onnx.New(onnx.Config{Library: Library(t)})
	if err != nil {
		t.Fatal(err)
	}
	return f
}
