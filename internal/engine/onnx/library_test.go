package onnx_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx"
	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

func TestWhereTheLibraryIsLookedFor(t *testing.T) {
	name := "libonnxruntime.so"
	if runtime.GOOS == "darwin" {
		name = "libonnxruntime.dylib"
	}
	dir := t.TempDir()
	t.Chdir(dir) // where it must not be taken from
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(dir, name), filepath.Join(data, name), filepath.Join(dir, "mine.so")} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name   string
		config onnx.Config
		want   string
	}{
		{"set", onnx.Config{Library: filepath.Join(dir, "mine.so"), Data: data}, filepath.Join(dir, "mine.so")},
		{"set, from here", onnx.Config{Library: "mine.so"}, filepath.Join(dir, "mine.so")},
		{"in the image", onnx.Config{Data: data}, filepath.Join(data, name)},
		{"not in the image", onnx.Config{Data: filepath.Join(dir, "none")}, name},
		{"the system's", onnx.Config{}, name},
	} {
		if got, err := onnx.Find(tt.config); err != nil || got != tt.want {
			t.Errorf("%s: got %q, %v; want %q", tt.name, got, err, tt.want)
		}
	}
	_, err := onnx.New(onnx.Config{Library: filepath.Join(dir, "none")})
	if want := "which cannot be read"; !fault.Is(err, fault.Unavailable) || !strings.Contains(fault.Message(err), want) {
		t.Errorf("a library that is not there: got %v, want %s", err, want)
	}
}

// A process has one ONNX Runtime, so one without it is another process.
func TestNoLibrary(t *testing.T) {
	if library := os.Getenv("ONNX_TEST_LIBRARY"); library != "" {
		f, err := onnx.New(onnx.Config{Library: library})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			err = f.Warm()
			for _, want := range []string{library, "make ort", "ORT_LIB"} {
				if !fault.Is(err, fault.Unavailable) || !strings.Contains(fault.Message(err), want) {
					t.Errorf("got %v, want it to tell of %s", err, want)
				}
			}
		}
		return
	}
	path := filepath.Join(t.TempDir(), "text.so")
	if err := os.WriteFile(path, []byte("not a library"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestNoLibrary$")
	cmd.Env = append(os.Environ(), "ONNX_TEST_LIBRARY="+path)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestWarm(t *testing.T) {
	library := onnxtest.Library(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			f, err := onnx.New(onnx.Config{Library: library})
			if err != nil {
				t.Error(err)
				return
			}
			if err := f.Warm(); err != nil {
				t.Error(err)
			}
			if got, want := f.Version(), "ONNX Runtime 1."; !strings.HasPrefix(got, want) {
				t.Errorf("got version %q, want %s...", got, want)
			}
		})
	}
	wg.Wait()

	other := filepath.Join(t.TempDir(), "other.so")
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := onnx.New(onnx.Config{Library: other})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Warm(); !fault.Is(err, fault.Internal) {
		t.Errorf("a second library: got %v, want an error", err)
	}
}

func TestConfig(t *testing.T) {
	if _, err := onnx.New(onnx.Config{Threads: -1}); !fault.Is(err, fault.Invalid) {
		t.Errorf("got %v, want it refused", err)
	}
}
