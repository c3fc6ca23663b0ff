package pipeline

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What the process of a step starts counts as its own, and ends with it, also in a group of its own, as trainers are.
func TestWhatAStepStarts(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "set -m; sleep 600 & echo $!; read x")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	end, err := start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if got := members(cmd.Process.Pid); !slices.Contains(got, child) || !slices.Contains(got, cmd.Process.Pid) || slices.Contains(got, os.Getpid()) {
		t.Errorf("got %v, want %d and %d", got, cmd.Process.Pid, child)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // a shell that reads nothing says 1
	end()
	for range 1000 {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child))
		_, state, _ := strings.Cut(string(b), ") ")
		if err != nil || strings.HasPrefix(state, "Z") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d outlived the process that started it", child)
}

// Folders that killed processes leave are deleted, and no others.
func TestForsakenFolders(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	held, remove, err := folder()
	if err != nil {
		t.Fatal(err)
	}
	forsaken, fresh, other := folders+"1", folders+"2", "pipeline-3"
	for _, name := range []string{forsaken, fresh, other} {
		if err := os.MkdirAll(filepath.Join(os.TempDir(), name, "out"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	long := time.Now().Add(-time.Hour)
	for _, name := range []string{filepath.Base(held), forsaken, other} {
		if err := os.Chtimes(filepath.Join(os.TempDir(), name), long, long); err != nil {
			t.Fatal(err)
		}
	}
	there := func() (names []string) {
		all, err := os.ReadDir(os.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range all {
			names = append(names, e.Name())
		}
		return names
	}
	if n := tidy(); n != 1 || slices.Contains(there(), forsaken) || len(there()) != 3 {
		t.Errorf("got %d deleted, left are %q", n, there())
	}
	if remove(); slices.Contains(there(), filepath.Base(held)) {
		t.Errorf("left are %q", there())
	}
}
