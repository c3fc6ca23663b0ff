package main

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx"
)

// report is the text of a file of results; it shows on the screen as it grows.
type report struct {
	text  strings.Builder
	files map[string][]byte // beside it, by name
	begin time.Time
}

func (r *report) add(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	fmt.Print(line)
	r.text.WriteString(line)
}

// progress is for the screen alone.
func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func (r *report) header(ctx context.Context, b *bench, title string) {
	r.begin = time.Now()
	commit := output(ctx, b.root, "git", "rev-parse", "--short=12", "HEAD")
	if output(ctx, b.root, "git", "status", "--porcelain", "--", "*.go", "go.mod") != "" {
		commit += ", with changes that were not committed"
	}
	version := "not found"
	if f, err := onnx.New(onnx.Config{Library: b.library}); err == nil {
		version = f.Version()
	}
	where := "Servers and load had no cores of their own (no taskset, or one core)."
	if b.pinned {
		where = "Servers whose requests are counted ran on the first core alone with GOMAXPROCS=1, the load on the last."
	}
	r.add("# %s\n\nWritten by `make bench` (`go run ./test/bench`); [README.md](README.md) says what each number is.\n\n", title)
	r.table([]string{"", ""}, [][]string{
		{"when", r.begin.UTC().Format("2006-01-02 15:04 MST")},
		{"commit", commit},
		{"machine", fmt.Sprintf("%s, %d cores, %s", firstLine("/proc/cpuinfo", "model name"), runtime.NumCPU(), firstLine("/proc/meminfo", "MemTotal"))},
		{"kernel", strings.TrimSpace(runtime.GOOS + " " + output(ctx, b.root, "uname", "-r") + " " + runtime.GOARCH)},
		{"versions", runtime.Version() + ", " + version},
		{"rounds", fmt.Sprintf("%d, each load %s", b.rounds, b.seconds)},
		{"load average before", loadAverage()},
	})
	r.add("%s The machine was shared: ratios within a round say more than times.\n", where)
}

func (r *report) footer() {
	r.add("\nLoad average after: %s. All of it took %s.\n", loadAverage(), time.Since(r.begin).Round(time.Second))
}

func (r *report) section(title string) { r.add("\n## %s\n\n", title) }

func (r *report) table(head []string, rows [][]string) {
	line := func(cells []string) { r.add("| %s |\n", strings.Join(cells, " | ")) }
	line(head)
	rule := make([]string, len(head))
	for i := range rule {
		rule[i] = "---:"
	}
	rule[0] = "---"
	line(rule)
	for _, row := range rows {
		line(row)
	}
	r.add("\n")
}

func (r *report) write(dir, name string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	r.files[name] = []byte(r.text.String())
	for name, data := range r.files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func output(ctx context.Context, dir, name string, args ...string) string {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(b))[:3], " ")
}

// firstLine gives what follows a name and a colon in a file of the kernel.
func firstLine(path, name string) string {
	f, err := os.Open(path)
	if err != nil {
		return "unknown"
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if k, v, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
}

// quantile is the value below which that share of all lies.
func quantile[T cmp.Ordered](values []T, q float64) T {
	s := slices.Sorted(slices.Values(values))
	return s[min(int(q*float64(len(s))), len(s)-1)]
}

func median[T cmp.Ordered](values []T) T { return quantile(values, 0.5) }

// of gives one number of each round.
func of[R any, T cmp.Ordered](rounds []R, f func(R) T) []T {
	out := make([]T, len(rounds))
	for i, r := range rounds {
		out[i] = f(r)
	}
	return out
}

func micros[T ~int64 | ~float64](d T) string { return fmt.Sprintf("%.1f µs", float64(d)/1e3) }

func millis(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/1e6) }

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

func count(perSecond float64) string { return fmt.Sprintf("%.0f", perSecond) }

// spread is the median with the least and the most.
func spread(values []float64, format string) string {
	return fmt.Sprintf(format+" ("+format+" to "+format+")", median(values), slices.Min(values), slices.Max(values))
}
