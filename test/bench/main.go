// Command bench measures what docs/bench/README.md explains, and writes
// docs/bench/results.md. It starts its servers itself, all on the loopback
// interface, and checks every answer while it measures. It needs Linux: times
// and memory of other processes come from /proc.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

// bench is what all measurements share.
type bench struct {
	root    string // of the repository
	dir     string // for temporary files
	library string // ONNX Runtime
	self    string // this program, to be started as a child
	predict string // functions/predict, built
	pinned  bool   // servers and load get a core each
	rounds  int
	s3      *s3 // nil until the first part that needs it
	report  *report
}

// part is one measurement; name is for -only.
type part struct {
	name string
	run  func(*bench, context.Context) error
}

var parts = []part{
	{"overhead", (*bench).overhead},
	{"inside", (*bench).insideProcess},
	{"start", (*bench).starts},
	{"artifact", (*bench).artifact},
	{"memory", (*bench).memory},
	{"profile", (*bench).profiled},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	var err error
	if len(os.Args) > 1 && os.Args[1] == "child" {
		err = child(ctx, os.Args[2:])
	} else {
		err = parent(ctx)
	}
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

func parent(ctx context.Context) (err error) {
	only := flag.String("only", "", "the parts to measure, separated by commas; nothing is written then")
	rounds := flag.Int("rounds", 7, "how often each thing is measured")
	flag.Parse()
	if *rounds < 1 {
		return errors.New("-rounds must be positive")
	}

	chosen, err := choose(*only)
	if err != nil {
		return err
	}
	b := &bench{rounds: *rounds, report: &report{}}
	if b.root, err = repository(); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "bench-*"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	if b.library = os.Getenv("ORT_LIB"); b.library == "" {
		b.library = filepath.Join(b.root, ".ort", "libonnxruntime.so")
	}
	if err := os.Setenv("ORT_LIB", b.library); err != nil { // for what this process opens itself
		return err
	}
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	// Servers write what they log and cache into the folder of this run alone.
	b.predict = filepath.Join(b.dir, "predict")
	build := exec.CommandContext(ctx, "go", "build", "-o", b.predict, "./functions/predict")
	build.Dir = b.root
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build functions/predict: %w\n%s", err, out)
	}
	if _, err := exec.LookPath("taskset"); err == nil && runtime.NumCPU() > 1 {
		b.pinned = true
	}
	defer func() {
		if b.s3 != nil {
			err = errors.Join(err, b.s3.stop())
		}
	}()

	b.report.header(ctx, b)
	for _, p := range chosen {
		if err := p.run(b, ctx); err != nil {
			return fmt.Errorf("measure %s: %w", p.name, err)
		}
	}
	b.report.footer()
	if *only != "" {
		return nil
	}
	return b.report.write(filepath.Join(b.root, "docs", "bench", "results.md"))
}

// choose finds the parts of the given names, all if there is none.
func choose(names string) ([]part, error) {
	if names == "" {
		return parts, nil
	}
	var chosen []part
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(parts, func(p part) bool { return p.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no part %q", name)
		}
		chosen = append(chosen, parts[i])
	}
	return chosen, nil
}

// repository finds the folder of go.mod.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("run it inside the repository")
		}
	}
}

// pin keeps this process to the last core, beside the servers on the first,
// until the function it gives is called.
func (b *bench) pin(ctx context.Context) (func(), error) {
	if !b.pinned {
		return func() {}, nil
	}
	set := func(ctx context.Context, cores string) error {
		return exec.CommandContext(ctx, "taskset", "-a", "-c", "-p", cores, fmt.Sprint(os.Getpid())).Run()
	}
	last := runtime.NumCPU() - 1
	if err := set(ctx, fmt.Sprint(last)); err != nil {
		return nil, err
	}
	n := runtime.GOMAXPROCS(1)
	return func() {
		runtime.GOMAXPROCS(n)
		_ = set(context.WithoutCancel(ctx), fmt.Sprint("0-", last)) // what was possible before
	}, nil
}
