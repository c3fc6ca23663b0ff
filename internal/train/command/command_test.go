package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// shell runs a script of sh as a trainer.
func shell(t *testing.T, ctx context.Context, script string) (log string, c *Command, err error) {
	t.Helper()
	return try(t, ctx, "/bin/sh", "-c", script)
}

// elsewhere has a host run it.
func elsewhere(t *testing.T, ctx context.Context, script string) (log string, c *Command, err error) {
	t.Helper()
	return try(t, ctx, Socket+host(t, t.Context(), "/bin/sh", "-c", script))
}

// host begins one in this process, which ends with ctx or the test, and gives its socket.
func host(t *testing.T, ctx context.Context, words ...string) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "socket")
	l, err := new(net.ListenConfig).Listen(ctx, "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- (&Host{Words: words, Log: slog.New(slog.DiscardHandler)}).Serve(ctx, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return socket
}

func try(t *testing.T, ctx context.Context, words ...string) (log string, c *Command, err error) {
	t.Helper()
	dir := t.TempDir()
	var out bytes.Buffer
	c = &Command{
		Name: "t", Words: words, Dataset: filepath.Join(dir, "data"), Output: filepath.Join(dir, "out"), Scratch: filepath.Join(dir, "scratch"),
		Most: 1 << 20, Log: slog.New(slog.NewTextHandler(&out, nil)), Grace: 200 * time.Millisecond,
	}
	err = c.Run(ctx)
	return out.String(), c, err
}

func TestRun(t *testing.T) {
	t.Setenv("AWS_SECRET_ACCESS_KEY", "hush")
	t.Setenv("KV_URL", "redis://:hush@localhost")
	for where, run := range places {
		log, c, err := run(t, t.Context(), `echo "one: $DATASET"; echo two >&2; printf 'no newline'; env > "$OUTPUT/env"; pwd > "$OUTPUT/pwd"; test "$HOME" = "$TMPDIR"`)
		if err != nil {
			t.Fatalf("%s: %v", where, err)
		}
		for _, want := range []string{"one: " + c.Dataset, "msg=two", "no newline"} {
			if !strings.Contains(log, want) {
				t.Errorf("%s: the log has no %q: %s", where, want, log)
			}
		}
		env, _ := os.ReadFile(filepath.Join(c.Output, "env"))
		if strings.Contains(string(env), "hush") || !strings.Contains(string(env), "PATH=") {
			t.Errorf("%s: the trainer sees %s", where, env)
		}
		if pwd, _ := os.ReadFile(filepath.Join(c.Output, "pwd")); strings.TrimSpace(string(pwd)) != c.Scratch {
			t.Errorf("%s: it runs in %s", where, pwd)
		}
	}
}

// places are where a program may run.
var places = map[string]func(*testing.T, context.Context, string) (string, *Command, error){"here": shell, "in another container": elsewhere}

func TestHowItEnds(t *testing.T) {
	for name, test := range map[string]struct {
		script string
		kind   fault.Kind
		want   string
	}{
		"a status":           {"echo no such column; exit 3", fault.Invalid, "trainer t ended with status 3; the last that it said: no such column"},
		"a signal":           {"kill -SEGV $$", fault.Invalid, "trainer t was ended by the signal segmentation fault"},
		"killed":             {"kill -KILL $$", fault.Overloaded, "trainer t was killed, most likely because memory ran out"},
		"no such program":    {"exec /nowhere/trainer", fault.Invalid, "trainer t ended with status 127"},
		"too much output":    {"head -c 3000000 /dev/zero > \"$OUTPUT/model.onnx\"", fault.Invalid, "wrote more than the 1048576 bytes"},
		"output without end": {"yes > \"$OUTPUT/a\"", fault.Invalid, "wrote more than the 1048576 bytes"},
		"scratch":            {"yes > \"$TMPDIR/a\"", fault.Invalid, "wrote more than the 1048576 bytes"},
	} {
		for where, run := range places {
			if _, _, err := run(t, t.Context(), test.script); !fault.Is(err, test.kind) || !strings.Contains(fault.Message(err), test.want) {
				t.Errorf("%s, %s: got %v (%v), want %s", name, where, err, fault.KindOf(err), test.want)
			}
		}
	}
	c := &Command{Name: "t", Words: []string{"/nowhere/trainer"}, Output: t.TempDir(), Scratch: t.TempDir(), Most: 1, Log: slog.New(slog.DiscardHandler)}
	if err := c.Run(t.Context()); !fault.Is(err, fault.Invalid) || !strings.Contains(fault.Message(err), "can't be started") {
		t.Errorf("got %v", err)
	}
}

// A log without end is read to the end, and so much of it is told.
func TestLog(t *testing.T) {
	log, _, err := shell(t, t.Context(), `yes 0123456789 | head -n 30000; head -c 100000 /dev/zero | tr '\0' x; printf '\n\n10%%\r20%%\r'; printf '\377\n'`)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(log, "\n"); n != LinesMost+1 || !strings.Contains(log, "lines=20004") || len(log) > 200*LinesMost {
		t.Errorf("got %d lines: %s", n, log[max(0, len(log)-300):])
	}
	log, _, err = shell(t, t.Context(), `head -c 100000 /dev/zero | tr '\0' x; printf '\n10%%\r20%%\r\377\n'`)
	if err != nil || strings.Count(log, "\n") != 4 || !strings.Contains(log, strings.Repeat("x", LineMost)+"...") || strings.Contains(log, strings.Repeat("x", LineMost+1)) || !strings.Contains(log, "10%") {
		t.Errorf("got %v, %.300s", err, log)
	}
}

// gone tells whether no process of the number that a file has is there.
func gone(t *testing.T, path string) bool {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	for range 100 { // a killed process may take a moment to go
		if state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err != nil || strings.Contains(string(state), ") Z ") {
			return true
		}
		time.Sleep(20 * time.Millisecond)
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
	return false
}

// Whoever hangs, also one that does not listen, is ended with all that it has started, and one that has ended leaves nobody behind.
func TestNobodyIsLeftBehind(t *testing.T) {
	for name, script := range map[string]string{
		"hangs":           `echo $$ > "$OUTPUT/pid"; touch UP; sleep 600`,
		"does not listen": `trap '' TERM; echo $$ > "$OUTPUT/pid"; touch UP; while :; do sleep 0.05; done`,
		"forks":           `(trap '' TERM; sleep 600) & echo $! > "$OUTPUT/pid"; touch UP; wait`,
	} {
		ctx, cancel := context.WithCancel(t.Context())
		up := filepath.Join(t.TempDir(), "up")
		go func() { // once it runs
			for ctx.Err() == nil {
				if _, err := os.Stat(up); err == nil {
					cancel()
				}
				time.Sleep(10 * time.Millisecond)
			}
		}()
		_, c, err := shell(t, ctx, strings.ReplaceAll(script, "UP", up))
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v", name, err)
		}
		if !gone(t, filepath.Join(c.Output, "pid")) {
			t.Errorf("%s: it is still there", name)
		}
		cancel()
	}
	_, c, err := shell(t, t.Context(), `sleep 600 & echo $! > "$OUTPUT/pid"`)
	if err != nil || !gone(t, filepath.Join(c.Output, "pid")) {
		t.Errorf("got %v, or its child is still there", err)
	}
}

// A step that ends has its program ended in the other container, and a container that ends is told as what it most likely is.
func TestEitherEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	marks := t.TempDir()
	begun, ended := filepath.Join(marks, "begun"), filepath.Join(marks, "ended")
	script := fmt.Sprintf("trap 'touch %s; exit 1' TERM; touch %s; while :; do sleep 0.01; done", ended, begun)
	go func() { // the step ends once the program has begun
		for ctx.Err() == nil {
			if _, err := os.Stat(begun); err == nil {
				cancel()
			}
			time.Sleep(time.Millisecond)
		}
	}()
	if _, _, err := elsewhere(t, ctx, script); !errors.Is(err, context.Canceled) {
		t.Errorf("the step ends: got %v", err)
	}
	for _, err := os.Stat(ended); err != nil; _, err = os.Stat(ended) { // the test's own deadline ends it
		time.Sleep(time.Millisecond)
	}

	container, kill := context.WithCancel(t.Context())
	defer kill()
	again := filepath.Join(marks, "again")
	socket := host(t, container, "/bin/sh", "-c", "touch "+again+"; sleep 60")
	go func() {
		for container.Err() == nil {
			if _, err := os.Stat(again); err == nil {
				kill()
			}
			time.Sleep(time.Millisecond)
		}
	}()
	if _, _, err := try(t, t.Context(), Socket+socket); !fault.Is(err, fault.Overloaded) || !strings.Contains(fault.Message(err), "the container of trainer t ended while it worked") {
		t.Errorf("the container ends: got %v", err)
	}
}
