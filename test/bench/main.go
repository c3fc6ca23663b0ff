// Command bench measures what docs/bench/README.md explains, and writes
// docs/bench/results.md and docs/bench/peers.md. It starts its servers itself, all on the loopback
// interface, and checks every answer while it measures. It needs Linux: times
// and memory of other processes come from /proc.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
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
	seconds time.Duration // of each load of a round
	chosen  []*peer
	s3      *s3 // nil until the first part that needs it
	report  *report
}

// part is one measurement; name is for -only.
type part struct {
	name string
	run  func(*bench, context.Context) error
}

// book is a file of results, and how its parts are measured unless flags say otherwise.
type book struct {
	file, title string
	rounds      int
	load        time.Duration
	parts       []part
}

var books = []book{
	{"results.md", "Results", 7, time.Second, []part{
		{"overhead", (*bench).overhead},
		{"inside", (*bench).insideProcess},
		{"start", (*bench).starts},
		{"artifact", (*bench).artifact},
		{"memory", (*bench).memory},
		{"profile", (*bench).profiled},
	}},
	{"peers.md", "Beside others", 3, 1200 * time.Millisecond, []part{{"peers", (*bench).peers}}},
	{"features.md", "Features", 5, time.Second, []part{{"features", (*bench).features}}},
	{"feedback.md", "Feedback", 5, time.Second, []part{{"feedback", (*bench).feedback}, {"windows", (*bench).windows}}},
	{"stall.md", "A bucket that hangs", 5, 10 * time.Second, []part{{"stall", (*bench).stall}}},
	{"release.md", "Releases", 15, time.Second, []part{{"release", (*bench).release}}},
	{"etl.md", "ETL", 5, time.Second, []part{{"etl", (*bench).etl}}},
	{"pipelines.md", "Pipelines", 5, 10 * time.Second, []part{{"pipelines", (*bench).pipelines}}},
	{"gateway.md", "Gateway", 5, time.Second, []part{{"gateway", (*bench).gateway}}},
	{"seeing.md", "Seeing", 21, time.Second, []part{{"seeing", (*bench).seeing}}},
	{"watching.md", "Watching", 5, time.Second, []part{{"watching", (*bench).watching}}},
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
	only := flag.String("only", "", "the parts to measure, separated by commas; nothing is written then unless -out is given")
	names := flag.String("peers", "", "the peers to measure beside us, separated by commas; empty: all")
	rounds := flag.Int("rounds", 0, "how often each thing is measured; 0: 7 times, or 3 beside peers")
	seconds := flag.Float64("seconds", 0, "how long each load of a round goes on; 0: 1, or 1.2 beside peers")
	out := flag.String("out", "", "the folder to write into; empty: docs/bench, if all parts are measured")
	flag.Parse()
	if *rounds < 0 || *seconds < 0 {
		return errors.New("-rounds and -seconds cannot be negative")
	}

	chosen, err := choose(*only)
	if err != nil {
		return err
	}
	b := &bench{}
	if b.chosen, err = choosePeers(*names); err != nil {
		return err
	}
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
	linked, err := os.Executable()
	if err != nil {
		return err
	}
	b.self = filepath.Join(b.dir, "bench")
	if err := install(linked, b.self); err != nil {
		return err
	}
	// Servers write what they log and cache into the folder of this run alone.
	b.predict = filepath.Join(b.dir, "predict")
	if err := b.build(ctx, b.predict, "./functions/predict"); err != nil {
		return err
	}
	if _, err := exec.LookPath("taskset"); err == nil && runtime.NumCPU() > 1 {
		b.pinned = true
	}
	defer func() {
		if b.s3 != nil {
			err = errors.Join(err, b.s3.stop())
		}
	}()

	if *out == "" && *only == "" {
		*out = filepath.Join(b.root, "docs", "bench")
	}
	for _, k := range chosen {
		b.rounds, b.seconds, b.report = k.rounds, k.load, &report{files: map[string][]byte{}}
		if *rounds > 0 {
			b.rounds = *rounds
		}
		if *seconds > 0 {
			b.seconds = time.Duration(*seconds * float64(time.Second))
		}
		b.report.header(ctx, b, k.title)
		for _, p := range k.parts {
			if err := p.run(b, ctx); err != nil {
				return fmt.Errorf("measure %s: %w", p.name, err)
			}
		}
		b.report.footer()
		if *out != "" {
			if err := b.report.write(*out, k.file); err != nil {
				return err
			}
		}
	}
	return nil
}

// choose finds the parts of the given names in their books, all if there is none.
func choose(names string) ([]book, error) {
	if names == "" {
		return books, nil
	}
	wanted := strings.Split(names, ",")
	var chosen []book
	found := 0
	for _, k := range books {
		k.parts = slices.DeleteFunc(slices.Clone(k.parts), func(p part) bool { return !slices.Contains(wanted, p.name) })
		if found += len(k.parts); len(k.parts) > 0 {
			chosen = append(chosen, k)
		}
	}
	if found != len(wanted) {
		return nil, fmt.Errorf("-only names a part that there is not, or one twice: %s", names)
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

// build makes a program of the repository.
func (b *bench) build(ctx context.Context, binary, pkg string) error {
	linked := binary + ".linked"
	build := exec.CommandContext(ctx, "go", "build", "-tags=grpcnotrace", "-o", linked, pkg) // as the Makefile does
	build.Dir = b.root
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return errors.Join(install(linked, binary), os.Remove(linked))
}

// install copies a program, as whoever unpacks an image does. Of a file as the linker leaves it some kernels map pages
// of 2 MB, and the program takes 10 MB more and a tenth more time (docs/bench/README.md).
func install(linked, program string) error {
	in, err := os.Open(linked)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(program, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	// In pieces of 32 KiB: the system call that copies whole files would make large pages again.
	_, err = io.Copy(struct{ io.Writer }{out}, struct{ io.Reader }{in})
	return errors.Join(err, out.Close())
}
