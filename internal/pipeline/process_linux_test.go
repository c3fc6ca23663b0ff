package pipeline

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
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
