package telemetry

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
)

func openLines(t *testing.T, share float64) *Telemetry {
	t.Helper()
	tel, err := Start(t.Context(), &Config{LogSample: share, LogSlow: time.Second, Output: new(lockedOutput)}, "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tel.Shutdown(context.WithoutCancel(t.Context())) })
	return tel
}

func inTrace(ctx context.Context, id trace.TraceID) context.Context {
	return trace.ContextWithRemoteSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{TraceID: id, SpanID: trace.SpanID{1}}))
}

func randomTrace(random *rand.Rand) (id trace.TraceID) {
	for i := range id {
		id[i] = byte(random.Uint32())
	}
	return id
}

// Processes that never heard of each other keep the lines of the same traces, and one with a larger share those and more.
func TestLinesGoByTheTrace(t *testing.T) {
	small, same, large := openLines(t, .2).Lines, openLines(t, .2).Lines, openLines(t, .5).Lines
	random := rand.New(rand.NewPCG(1, 2))
	kept := 0
	for i := range 10_000 {
		ctx := inTrace(t.Context(), randomTrace(random))
		got := small.Keeps(ctx, nil, time.Millisecond, fmt.Sprint("request", i))
		if same.Keeps(ctx, nil, time.Millisecond, "another") != got || got && !large.Keeps(ctx, nil, time.Millisecond, "") {
			t.Fatalf("trace %s: kept by one and not by another", trace.SpanContextFromContext(ctx).TraceID())
		}
		if got {
			kept++
		}
	}
	if kept < 1800 || kept > 2200 {
		t.Errorf("kept %d of 10000, want a fifth", kept)
	}
}

// Without a trace it is the request's id that decides, however alike ids are.
func TestLinesGoByTheRequest(t *testing.T) {
	samples := []*Lines{openLines(t, .1).Lines, openLines(t, .1).Lines}
	kept := 0
	for i := range 10_000 {
		id := fmt.Sprintf("order-%06d", i)
		a, b := samples[0].Keeps(t.Context(), nil, 0, id), samples[1].Keeps(t.Context(), nil, 0, id)
		if a != b {
			t.Fatalf("request %s is kept by one and not by the other", id)
		}
		if a {
			kept++
		}
	}
	if kept < 800 || kept > 1200 {
		t.Errorf("kept %d of 10000, want a tenth", kept)
	}
}

func TestLinesOfWhatIsSlow(t *testing.T) {
	s := openLines(t, 0).Lines
	ctx, line := WithLine(t.Context())
	if s.Keeps(ctx, line, time.Second-1, "a") || !s.Keeps(ctx, line, time.Second, "a") {
		t.Error("want a line of what takes a second, and of nothing else")
	}
	if len(line.attrs) > 0 {
		t.Errorf("a line that stands for itself alone says %v", line.attrs)
	}
}

// What was left out is counted, and who reads a line that was kept sees that there are others.
func TestLinesThatAreLeftOut(t *testing.T) {
	tel := openLines(t, .5)
	random := rand.New(rand.NewPCG(3, 4))
	omitted := 0
	for range 1000 {
		ctx, line := WithLine(inTrace(t.Context(), randomTrace(random)))
		if !tel.Lines.Keeps(ctx, line, 0, "") {
			omitted++
		} else if len(line.attrs) != 1 || line.attrs[0].String() != "share=0.5" {
			t.Fatalf("the line says %v, want share=0.5", line.attrs)
		}
	}
	w := httptest.NewRecorder()
	tel.Metrics().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	if want := fmt.Sprintf("pilotlight_log_omitted_total %d\n", omitted); omitted < 400 || !strings.Contains(w.Body.String(), want) {
		t.Errorf("want %q in\n%s", want, w.Body)
	}
	ctx, line := WithLine(t.Context())
	if whole := openLines(t, 1).Lines; !whole.Keeps(ctx, line, 0, "") || len(line.attrs) > 0 {
		t.Errorf("with a share of 1 a line is missing, or says %v", line.attrs)
	}
}

func TestLogSampleIsAShare(t *testing.T) {
	for _, share := range []string{"-0.1", "1.1", "NaN"} {
		c := Config{Protocol: "http/protobuf"}
		if _, err := fmt.Sscan(share, &c.LogSample); err != nil {
			t.Fatal(err)
		}
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "expected a share from 0 to 1") {
			t.Errorf("%s: got %v", share, err)
		}
	}
}
