package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// lockedOutput is a log that a test reads while it grows.
type lockedOutput struct {
	mu     sync.Mutex
	b      bytes.Buffer
	writes int
}

func (o *lockedOutput) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.writes++
	return o.b.Write(p)
}

func (o *lockedOutput) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func newLog(out io.Writer) (*slog.Logger, *buffer) {
	b := newBuffer(out)
	return slog.New(&handler{Handler: slog.NewJSONHandler(b, nil), out: b, own: true}), b
}

func TestLogWaitsAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out lockedOutput
		log, _ := newLog(&out)
		log.InfoContext(t.Context(), "one")
		time.Sleep(flushAfter - time.Millisecond)
		log.InfoContext(t.Context(), "two")
		if got := out.String(); got != "" {
			t.Errorf("got %q at once, want it to wait", got)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if got, want := messages(t, out.String()), "one two"; got != want || out.writes != 1 {
			t.Errorf("got %q in %d writes, want %q in one", got, out.writes, want)
		}
		log.InfoContext(t.Context(), "three")
		time.Sleep(flushAfter)
		synctest.Wait()
		if got, want := messages(t, out.String()), "one two three"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestLogOfTroubleIsWrittenAtOnce(t *testing.T) {
	var out lockedOutput
	log, _ := newLog(&out)
	log.With("part", "x").InfoContext(t.Context(), "before")
	log.WithGroup("g").WarnContext(t.Context(), "trouble")
	if got, want := messages(t, out.String()), "before trouble"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestLogIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out lockedOutput
		log, b := newLog(&out)
		long := strings.Repeat("x", 1000)
		for range 1000 {
			log.InfoContext(t.Context(), long)
			if len(b.lines) > bufferMost {
				t.Fatalf("%d bytes wait, want at most %d", len(b.lines), bufferMost)
			}
		}
		if err := b.close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(out.String(), "\n"); got != 1000 {
			t.Errorf("got %d lines, want 1000", got)
		}
		log.InfoContext(t.Context(), "after")
		if !strings.HasSuffix(messages(t, out.String()), " after") {
			t.Error("a line after the end was not written at once")
		}
	})
}

func TestLogKeepsOrder(t *testing.T) {
	var out lockedOutput
	log, b := newLog(&out)
	var wait sync.WaitGroup
	for g := range 4 {
		wait.Go(func() {
			for i := range 2000 {
				level := slog.LevelInfo
				if i%100 == 0 {
					level = slog.LevelWarn
				}
				log.LogAttrs(t.Context(), level, "m", slog.Int("g", g), slog.Int("i", i))
			}
		})
	}
	wait.Wait()
	_ = b.close(t.Context())
	next := [4]int{}
	for line := range strings.Lines(out.String()) {
		var got struct{ G, I int }
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		if got.I != next[got.G] {
			t.Fatalf("goroutine %d: got line %d, want %d", got.G, got.I, next[got.G])
		}
		next[got.G]++
	}
	if next != [4]int{2000, 2000, 2000, 2000} {
		t.Errorf("got %v lines", next)
	}
}

func TestLogNamesTheTrace(t *testing.T) {
	var out lockedOutput
	log, _ := newLog(&out)
	ctx := trace.ContextWithRemoteSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{0xab, 15: 1}, SpanID: trace.SpanID{1},
	}))
	log.WarnContext(ctx, "m")
	own := trace.ContextWithSpanContext(ctx, trace.SpanContextFromContext(ctx).WithRemote(false))
	log.WarnContext(own, "m")
	want := []string{`"trace_id":"ab000000000000000000000000000001"}`, `"trace_id":"ab000000000000000000000000000001","span_id":"0100000000000000"}`}
	for i, line := range slices.Collect(strings.Lines(out.String())) {
		if !strings.HasSuffix(line, want[i]+"\n") {
			t.Errorf("got %s, want %s at its end", line, want[i])
		}
	}
}

func TestLine(t *testing.T) {
	var out lockedOutput
	log, _ := newLog(&out)
	ctx, line := WithLine(t.Context())
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if LineFrom(ctx) != line {
		t.Fatal("the line is not found in its context")
	}
	line.SetID("42")
	line.SetModel("iris", "champion")
	line.Timing("decode", 1500*time.Microsecond)
	line.Timing("run", time.Second)
	line.SetModel("iris", "3")
	line.Timing("run", 2*time.Second)
	line.Set(slog.Int("rows", 7), slog.Bool("cached", false))
	line.Fail(fmt.Errorf("run the model: %w", errors.New("no luck")))
	line.Fail(errors.New("and then this"))
	line.Log(ctx, log, time.Now(), slog.LevelWarn, "request", slog.String("method", "GET"))
	_, got, _ := strings.Cut(out.String(), `,"level"`)
	want := `:"WARN","msg":"request","method":"GET","id":"42","model":"iris","version":"3","rows":7,"cached":false,` +
		`"us":{"decode":1500,"run":2000000},"error":"run the model: no luck"}` + "\n"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	line.Log(ctx, log, time.Now(), slog.LevelDebug, "unseen")
	if strings.Contains(out.String(), "unseen") {
		t.Error("a line below the level was written")
	}
}

func TestLineHoldsManyAttributes(t *testing.T) {
	var out lockedOutput
	log, _ := newLog(&out)
	_, line := WithLine(t.Context())
	var wait sync.WaitGroup
	for i := range 20 {
		wait.Go(func() {
			line.Set(slog.Int(fmt.Sprint("a", i), i))
			line.Timing(fmt.Sprint("t", i), time.Duration(i)*time.Microsecond)
		})
	}
	wait.Wait()
	line.Log(t.Context(), log, time.Now(), slog.LevelWarn, "m")
	var got map[string]any
	if err := json.Unmarshal([]byte(out.String()), &got); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if got[fmt.Sprint("a", i)] != float64(i) || got["us"].(map[string]any)[fmt.Sprint("t", i)] != float64(i) {
			t.Errorf("%d is missing or wrong in %v", i, got)
		}
	}
}

func TestNoLine(t *testing.T) {
	line := LineFrom(t.Context())
	line.SetID("42")
	line.SetModel("m", "1")
	line.Timing("run", time.Second)
	line.Fail(io.EOF)
	line.Log(t.Context(), slog.New(slog.DiscardHandler), time.Now(), slog.LevelError, "m")
	if line != nil || line.Err() != nil {
		t.Errorf("got line %v with error %v, want none", line, line.Err())
	}
}

func BenchmarkLine(b *testing.B) {
	log, _ := newLog(io.Discard)
	b.ReportAllocs()
	for b.Loop() {
		ctx, line := WithLine(b.Context())
		line.SetID("0123456789")
		line.SetModel("iris", "3")
		line.Timing("decode", time.Millisecond)
		line.Timing("run", time.Millisecond)
		line.Log(ctx, log, time.Now(), slog.LevelInfo, "request", slog.String("method", "POST"), slog.Int("status", 200))
	}
}

// messages gives the messages of a log, checking that each line is whole.
func messages(t *testing.T, log string) string {
	t.Helper()
	var all []string
	for line := range strings.Lines(log) {
		var record struct{ Msg string }
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		all = append(all, record.Msg)
	}
	return strings.Join(all, " ")
}

// What is written without slog reads as if it had been.
func TestLineIsThatOfSlog(t *testing.T) {
	remote := trace.ContextWithRemoteSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{0xab, 15: 1}, SpanID: trace.SpanID{1},
	}))
	for name, attrs := range map[string][]slog.Attr{
		"nothing":         nil,
		"plain":           {slog.String("a", "x <&> y"), slog.Int("b", -5), slog.Bool("c", true), slog.String("d", "")},
		"letters":         {slog.String("a", "caf\u00e9 \"\\ \n\x7f\u2028\xff"), slog.Int("b", 1)},
		"groups":          {slog.Group("a", slog.Int("b", 1), slog.Group("c", slog.String("d", "e"), slog.Int("f", 2))), slog.Int("g", 3)},
		"letters in them": {slog.Group("a", slog.String("b", "\t"))},
		"numbers":         {slog.Float64("a", .25), slog.Float64("b", 0), slog.Float64("c", 1.0/3), slog.Float64("d", 123456789)},
		"small numbers":   {slog.Float64("a", 1e-7)},
		"no numbers":      {slog.Float64("a", math.NaN())},
		"an empty group":  {slog.Group("a"), slog.Int("b", 1)},
		"other kinds":     {slog.Duration("a", time.Second), slog.Float64("b", 1.5), slog.Any("c", []int{1})},
	} {
		own := trace.ContextWithSpanContext(t.Context(), trace.SpanContextFromContext(remote).WithRemote(false))
		for level, ctx := range map[slog.Level]context.Context{slog.LevelInfo: t.Context(), slog.LevelWarn: own, slog.LevelError: remote} {
			var lines [2]lockedOutput
			for i := range lines {
				log, out := newLog(&lines[i])
				log.Handler().(*handler).own = i == 0
				_, line := WithLine(ctx)
				line.Set(attrs...)
				line.Timing("run", time.Second)
				line.Log(ctx, log, time.Unix(1e9, 123456000), level, "request", attrs...)
				out.flush()
			}
			if got, want := lines[0].String(), lines[1].String(); got != want || got == "" {
				t.Errorf("%s:\ngot  %swant %s", name, got, want)
			}
		}
	}
}
