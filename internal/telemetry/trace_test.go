package telemetry_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry/telemetrytest"
)

// kept gathers what is kept.
type kept struct {
	mu    sync.Mutex
	parts [][]telemetry.Span
}

func (k *kept) take(part []telemetry.Span) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.parts = append(k.parts, part)
}

func (k *kept) names() (all []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range k.parts {
		for _, s := range p {
			all = append(all, s.Name)
		}
	}
	return all
}

// recording starts telemetry that is taken by what it gives, once it has ended.
func recording(t *testing.T, environ map[string]string) (tel *telemetry.Telemetry, end func() *kept) {
	t.Helper()
	tel = start(t, environ)
	k := &kept{}
	stop := tel.TakeSpans(k.take)
	return tel, func() *kept { stop(); return k }
}

// one has a line begin and end.
func one(tel *telemetry.Telemetry, from trace.SpanContext, id trace.TraceID, o telemetry.Outcome, took time.Duration) {
	begin := time.Now()
	ctx, line := tel.Begin(context.Background(), from, id, begin)
	o.At = begin.Add(took)
	line.End(ctx, &o)
}

func idOf(n uint64) (id trace.TraceID) {
	binary.LittleEndian.PutUint64(id[:8], n|1)
	binary.BigEndian.PutUint64(id[8:], n)
	return id
}

func remote(sampled bool) trace.SpanContext {
	c := trace.SpanContextConfig{TraceID: trace.TraceID{1, 15: 0xff, 9: 0xff}, SpanID: trace.SpanID{7}, Remote: true}
	if sampled {
		c.TraceFlags = trace.FlagsSampled
	}
	return trace.NewSpanContext(c)
}

func TestErrorsAndWhatIsAskedForAreKept(t *testing.T) {
	tel, end := recording(t, map[string]string{"TRACE_SAMPLE": "0"})
	one(tel, trace.SpanContext{}, idOf(1), telemetry.Outcome{Name: "fine"}, time.Millisecond)
	one(tel, trace.SpanContext{}, idOf(2), telemetry.Outcome{Name: "failed", Failed: "no luck"}, time.Millisecond)
	one(tel, remote(true), idOf(3), telemetry.Outcome{Name: "asked"}, time.Millisecond)
	one(tel, remote(false), idOf(4), telemetry.Outcome{Name: "not asked"}, time.Millisecond)
	_, span := tel.Tracer.Start(t.Context(), "background")
	span.RecordError(errors.New("broken"))
	span.End()
	ctx, span := tel.Tracer.Start(t.Context(), "on purpose")
	telemetry.Keep(ctx)
	if !span.SpanContext().IsSampled() {
		t.Error("others are not told that it is kept")
	}
	span.End()
	k := end()
	if got := strings.Join(k.names(), ", "); got != "failed, asked, background, on purpose" {
		t.Errorf("got %s", got)
	}
	failed, asked := k.parts[0][0], k.parts[1][0]
	if failed.Error != "no luck" || failed.Trace != idOf(2) || failed.Parent.IsValid() || failed.End.Sub(failed.Start) != time.Millisecond {
		t.Errorf("got %+v", failed)
	}
	if asked.Trace != remote(true).TraceID() || asked.Parent != remote(true).SpanID() {
		t.Errorf("got %+v, want it below the caller's span", asked)
	}
}

func TestSlowOnesAreKept(t *testing.T) {
	tel, end := recording(t, map[string]string{"TRACE_SAMPLE": "0", "TRACE_RATE": "0"})
	var pace telemetry.Pace
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a test
	const n, usual = 20000, 10 * time.Millisecond
	for i := range n {
		one(tel, trace.SpanContext{}, idOf(uint64(i)), telemetry.Outcome{Name: "usual", Pace: &pace}, time.Duration(random.ExpFloat64()*float64(usual)))
	}
	one(tel, trace.SpanContext{}, idOf(n), telemetry.Outcome{Name: "slow", Pace: &pace}, time.Second)
	names := end().names()
	if !slices.Contains(names, "slow") {
		t.Error("the slow one was not kept")
	}
	// All that the recorder could not hand on is not in it, so the estimate itself is asked.
	slow := 0
	for range n {
		if pace.Slow(time.Duration(random.ExpFloat64() * float64(usual))) {
			slow++
		}
	}
	if share := float64(slow) / n; share < .005 || share > .02 {
		t.Errorf("%.2f %% are slow, want about 1 %%", 100*share)
	}
}

func TestSampleIsTheSameForAll(t *testing.T) {
	environ := map[string]string{"TRACE_SAMPLE": "0.1", "TRACE_RATE": "0"}
	a, endA := recording(t, environ)
	defer endA()
	b, endB := recording(t, environ)
	defer endB()
	sampled, n := 0, 20000
	for range n {
		var id trace.TraceID
		for i := range id {
			id[i] = byte(rand.Uint32()) //nolint:gosec // a test
		}
		_, first := a.Begin(t.Context(), trace.SpanContext{}, id, time.Now())
		// The one that is asked decides by the same id, even if its caller has lost the flag.
		from := first.SpanContext()
		_, second := b.Begin(t.Context(), from.WithTraceFlags(0), trace.TraceID{1}, time.Now())
		if first.SpanContext().IsSampled() != second.SpanContext().IsSampled() || second.Trace() != id {
			t.Fatalf("%s: two processes differ", id)
		}
		if first.SpanContext().IsSampled() {
			sampled++
		}
	}
	if share := float64(sampled) / float64(n); share < .08 || share > .12 {
		t.Errorf("got a share of %.3f, want 0.1", share)
	}
}

// A process that keeps nothing leaves it to others what the caller wishes, and wishes nothing itself.
func TestFlagIsHandedOnWhereNobodyTakesSpans(t *testing.T) {
	for name, environ := range map[string]map[string]string{
		"a share": {"TRACE_SAMPLE": "1", "TRACE_RATE": "1"}, "no share": {"TRACE_SAMPLE": "0", "TRACE_RATE": "1"}, "always off": {"OTEL_TRACES_SAMPLER": "always_off"},
	} {
		tel := start(t, environ)
		for range 3 {
			for _, asked := range []bool{false, true} {
				if _, line := tel.Begin(t.Context(), remote(asked), idOf(1), time.Now()); line.SpanContext().IsSampled() != asked {
					t.Errorf("%s: got %v, want the caller's %v", name, !asked, asked)
				}
			}
			if _, line := tel.Begin(t.Context(), trace.SpanContext{}, idOf(1), time.Now()); line.SpanContext().IsSampled() {
				t.Errorf("%s: others are told to keep what is kept nowhere", name)
			}
		}
		if dropped := scrape(t, tel.Metrics())["pilotlight_traces_dropped_total"]; dropped != nil {
			t.Errorf("%s: got %v, want nothing dropped", name, dropped)
		}
	}
}

// What there was no room for is dropped, and not kept; what processes make themselves counts, too.
func TestEachTraceIsCountedOnce(t *testing.T) {
	tel := start(t, map[string]string{"TRACE_SAMPLE": "0", "TRACE_RATE": "0"})
	taking, gate := make(chan struct{}, 1), make(chan struct{})
	stop := tel.TakeSpans(func([]telemetry.Span) {
		select {
		case taking <- struct{}{}:
		default:
		}
		<-gate
	})
	tel.Emit(telemetry.Span{Trace: idOf(1), Name: "run"})
	<-taking
	const n = 1000
	for i := range n {
		one(tel, trace.SpanContext{}, idOf(uint64(i)), telemetry.Outcome{Name: "failed", Failed: "x"}, time.Millisecond)
	}
	waiting := tel.Waiting()
	close(gate)
	stop()
	all := scrape(t, tel.Metrics())
	kept := map[string]float64{}
	for _, m := range all["pilotlight_traces_kept_total"].GetMetric() {
		kept[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
	}
	if dropped := all["pilotlight_traces_dropped_total"].GetMetric()[0].GetCounter().GetValue(); kept["sampled"] != 1 || kept["error"] != float64(waiting) || dropped != float64(n-waiting) {
		t.Errorf("got %v kept and %v dropped, want the one that was emitted, and %d of %d that failed", kept, dropped, waiting, n)
	}
}

func TestRateIsBounded(t *testing.T) {
	tel, end := recording(t, map[string]string{"TRACE_SAMPLE": "0", "TRACE_RATE": "5"})
	at := time.Unix(1e9, 0)
	for i := range 20 {
		ctx, line := tel.Begin(t.Context(), trace.SpanContext{}, idOf(uint64(i)), at)
		line.End(ctx, &telemetry.Outcome{Name: "failed", Failed: "x", At: at.Add(time.Millisecond)})
		ctx, line = tel.Begin(t.Context(), remote(true), idOf(uint64(i)), at)
		line.End(ctx, &telemetry.Outcome{Name: "asked", At: at.Add(time.Millisecond)})
	}
	ctx, line := tel.Begin(t.Context(), trace.SpanContext{}, idOf(99), at)
	line.End(ctx, &telemetry.Outcome{Name: "later", Failed: "x", At: at.Add(time.Second)})
	names := end().names()
	count := func(name string) (n int) {
		for _, s := range names {
			if s == name {
				n++
			}
		}
		return n
	}
	if count("failed") != 5 || count("asked") != 5 || count("later") != 1 {
		t.Errorf("got %v", names)
	}
	dropped := map[string]float64{}
	for _, m := range scrape(t, tel.Metrics())["pilotlight_traces_dropped_total"].GetMetric() {
		dropped[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
	}
	if dropped["error"] != 15 || dropped["asked"] != 15 {
		t.Errorf("got dropped %v, want 15 for each reason", dropped)
	}
}

func TestStepsBecomeSpans(t *testing.T) {
	tel, end := recording(t, map[string]string{"TRACE_SAMPLE": "1"})
	begin := time.Now()
	ctx, line := tel.Begin(t.Context(), trace.SpanContext{}, idOf(1), begin)
	line.SetModel("iris", "3")
	line.Step(telemetry.StepDecode, begin, time.Millisecond)
	line.Step(telemetry.StepFeatures, begin.Add(time.Millisecond), 3*time.Millisecond)
	line.Step(telemetry.StepOnline, begin.Add(2*time.Millisecond), time.Millisecond)
	call := line.StepContext(telemetry.StepCall)
	line.Step(telemetry.StepCall, begin.Add(4*time.Millisecond), time.Millisecond)
	_, child := tel.Tracer.Start(ctx, "child")
	child.SetStatus(codes.Error, "the child failed")
	late, grandchild := tel.Tracer.Start(trace.ContextWithSpan(ctx, child), "grandchild")
	child.End()
	line.End(ctx, &telemetry.Outcome{Name: "root", Kind: trace.SpanKindServer, At: begin.Add(6 * time.Millisecond)})
	grandchild.End() // behind the answer
	_, last := tel.Tracer.Start(late, "last")
	last.End()

	k := end()
	spans := map[string]telemetry.Span{}
	for _, p := range k.parts {
		for _, s := range p {
			if s.Trace != idOf(1) || !s.ID.IsValid() {
				t.Errorf("got %+v", s)
			}
			spans[s.Name] = s
		}
	}
	root := spans["root"]
	attributes := attribute.NewSet(root.Attributes...)
	if root.Kind != trace.SpanKindServer || attributes.Encoded(attribute.DefaultEncoder()) != "model=iris,version=3" {
		t.Errorf("got root %+v", root)
	}
	for name, want := range map[string]struct {
		parent string
		at     time.Duration
		took   time.Duration
	}{
		"decode":   {"root", 0, time.Millisecond},
		"features": {"root", time.Millisecond, 3 * time.Millisecond},
		"online":   {"features", 2 * time.Millisecond, time.Millisecond},
		"call":     {"root", 4 * time.Millisecond, time.Millisecond},
	} {
		s := spans[name]
		if s.Parent != spans[want.parent].ID || s.Start.UnixNano() != begin.Add(want.at).UnixNano() || s.End.Sub(s.Start) != want.took {
			t.Errorf("%s: got %+v", name, s)
		}
	}
	if spans["call"].ID != call.SpanID() || !call.IsSampled() || spans["call"].Kind != trace.SpanKindClient {
		t.Errorf("the call is known as %v, and is %+v", call, spans["call"])
	}
	if spans["grandchild"].Parent != spans["child"].ID || spans["child"].Parent != root.ID || spans["last"].Parent != spans["grandchild"].ID {
		t.Error("spans do not stand below the ones that they were begun in")
	}
	if spans["child"].Error != "the child failed" {
		t.Errorf("got %+v", spans["child"])
	}
}

func TestMessagesHaveSpansOfTheirOwn(t *testing.T) {
	tel, end := recording(t, map[string]string{"TRACE_SAMPLE": "0"})
	ctx, stream := tel.Begin(t.Context(), trace.SpanContext{}, idOf(1), time.Now())
	for i := range 3 {
		within, m := stream.Message(ctx, time.Now())
		if telemetry.LineFrom(within) != m || trace.SpanContextFromContext(within).TraceID() != idOf(1) {
			t.Fatal("the message is not in its context")
		}
		m.SetModel("iris", fmt.Sprint(i))
		m.Timing("decode", time.Duration(i)*time.Microsecond)
		o := telemetry.Outcome{Name: "message", At: time.Now()}
		if i == 1 {
			o.Failed = "this one failed"
		}
		stream.EndMessage(within, m, &o)
	}
	stream.End(ctx, &telemetry.Outcome{Name: "stream", At: time.Now()})
	k := end()
	if len(k.parts) != 1 || k.parts[0][0].Error != "this one failed" || k.parts[0][0].Parent != stream.SpanContext().SpanID() {
		t.Errorf("got %+v, want the message that failed, below the stream", k.parts)
	}
	var none *telemetry.Line
	within, m := none.Message(t.Context(), time.Now())
	none.EndMessage(within, m, &telemetry.Outcome{})
}

func TestSpansAreMadeByManyAtOnce(t *testing.T) {
	tel, end := recording(t, map[string]string{"TRACE_SAMPLE": "1", "TRACE_RATE": "0"})
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			for j := range 10 { // so that all of them may wait at once
				ctx, line := tel.Begin(t.Context(), trace.SpanContext{}, idOf(uint64(i*100+j)), time.Now())
				var children sync.WaitGroup
				for range 3 {
					children.Go(func() {
						_, s := tel.Tracer.Start(ctx, "child")
						s.SetName("kid")
						s.End()
					})
				}
				line.End(ctx, &telemetry.Outcome{Name: "root", At: time.Now()})
				children.Wait()
			}
		})
	}
	wait.Wait()
	count := map[string]int{}
	for _, name := range end().names() {
		count[name]++
	}
	if count["root"] != 80 || count["kid"] != 240 || len(count) != 2 {
		t.Errorf("got %v, want 80 roots and 240 kids", count)
	}
	if tel.Tracing() {
		t.Error("nobody takes spans any more, and they are made")
	}
}

func TestHostileContextBeginsANewTrace(t *testing.T) {
	tel := start(t, nil)
	for _, header := range []string{
		"", "x", "00-00000000000000000000000000000000-00f067aa0ba902b7-01", "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
		"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		"00-<script>alert(1)</script>aaaaaaaa-00f067aa0ba902b7-01", strings.Repeat("0", 1<<16), "00-\u202e4bf92f3577b34da6a3ce929d0e0e47-00f067aa0ba902b7-01",
	} {
		if c := telemetry.ReadTraceparent(header); c.IsValid() {
			t.Errorf("%.80q: got %v, want none", header, c)
		}
		from := trace.SpanContextFromContext(tel.Context.Extract(t.Context(), propagation.MapCarrier{"traceparent": header}))
		if _, line := tel.Begin(t.Context(), from, idOf(5), time.Now()); line.Trace() != idOf(5) {
			t.Errorf("%.80q: got the trace %s", header, line.Trace())
		}
	}
	c := telemetry.ReadTraceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	if got := telemetry.Traceparent(c); got != "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01" || !c.IsSampled() {
		t.Errorf("got %s", got)
	}
}

// Others ask for a span's context while something below it fails.
func TestSpanIsToldWhileItFails(t *testing.T) {
	for _, want := range []string{"", "a=b"} {
		tel, end := recording(t, map[string]string{"TRACE_SAMPLE": "1"})
		state, err := trace.ParseTraceState(want)
		if err != nil {
			t.Fatal(err)
		}
		ctx, line := tel.Begin(t.Context(), remote(true).WithTraceState(state), idOf(1), time.Now())
		var wait sync.WaitGroup
		wait.Go(func() {
			for range 1000 {
				if got := trace.SpanContextFromContext(ctx).TraceState().String(); got != want {
					t.Errorf("got the state %q, want %q", got, want)
				}
			}
		})
		wait.Go(func() {
			_, child := tel.Tracer.Start(ctx, "child")
			child.SetStatus(codes.Error, "broken")
			child.End()
		})
		wait.Wait()
		line.End(ctx, &telemetry.Outcome{Name: "root", At: time.Now()})
		if root := end().parts[0][0]; root.Name != "root" || root.State.String() != want {
			t.Errorf("got %+v, want the state %q", root, want)
		}
	}
}

// While a model is loaded, all who come wait for as long; they must not make everything later look fast.
func TestSlowOnesAreToldAfterAColdStart(t *testing.T) {
	for name, usual := range map[string]time.Duration{"fast": 200 * time.Microsecond, "slow": 20 * time.Millisecond} {
		var pace telemetry.Pace
		random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a test
		for range 8 {
			pace.Slow(3 * time.Second)
		}
		slow := 0
		for range 2000 {
			if pace.Slow(time.Duration(random.ExpFloat64() * float64(usual))) {
				slow++
			}
		}
		if slow < 10 || slow > 60 {
			t.Errorf("%s: %d of the first 2000 are slow, want about 20", name, slow)
		}
		if !pace.Slow(50 * usual) {
			t.Errorf("%s: what takes 50 times as long is not slow", name)
		}
	}
	// Even where more of them wait than are left out.
	var pace telemetry.Pace
	for range 64 {
		pace.Slow(3 * time.Second)
	}
	for range 1000 {
		pace.Slow(30 * time.Millisecond)
	}
	if !pace.Slow(300 * time.Millisecond) {
		t.Error("what takes ten times as long is not slow")
	}
}

// Each measurement counts, though only the last waits until the line ends.
func TestManyMeasurementsOfALine(t *testing.T) {
	tel := start(t, nil)
	h, err := tel.Meter.Float64Histogram("pilotlight.test.duration")
	if err != nil {
		t.Fatal(err)
	}
	ctx, line := tel.Begin(t.Context(), trace.SpanContext{}, idOf(1), time.Now())
	for range 3 {
		line.Measure(ctx, h, 0.5, nil)
	}
	line.End(ctx, &telemetry.Outcome{Name: "x", At: time.Now()})
	if n := scrape(t, tel.Metrics())["pilotlight_test_duration"].GetMetric()[0].GetHistogram().GetSampleCount(); n != 3 {
		t.Errorf("got %d measurements, want 3", n)
	}
}

// Latencies are told with traces that are kept as examples, to those who ask for OpenMetrics, and by OTLP.
func TestExamplesAreTracesThatAreKept(t *testing.T) {
	collector := telemetrytest.NewCollector(t)
	tel := start(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL, "TRACE_SAMPLE": "0"})
	h, err := tel.Meter.Float64Histogram("pilotlight.test.duration")
	if err != nil {
		t.Fatal(err)
	}
	const failure = "no luck with the token=eyJhbGciOi"
	for i, failed := range []string{"", failure} {
		ctx, line := tel.Begin(t.Context(), trace.SpanContext{}, idOf(uint64(i+1)), time.Now())
		line.Measure(ctx, h, 0.5, nil)
		line.End(ctx, &telemetry.Outcome{Name: "x", Failed: failed, At: time.Now()})
	}
	var none *telemetry.Line
	none.Measure(t.Context(), h, 0.5, nil)
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil)
	r.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	w := httptest.NewRecorder()
	tel.Metrics().ServeHTTP(w, r)
	if body := w.Body.String(); !strings.Contains(body, `trace_id="`+idOf(2).String()+`"`) || strings.Contains(body, idOf(1).String()) || !strings.Contains(body, "pilotlight_test_duration_count 3") {
		t.Errorf("got\n%s\nwant the trace that is kept as an example, and no other", body)
	}
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, p := range collector.Metric("pilotlight.test.duration").GetHistogram().GetDataPoints() {
		for _, e := range p.GetExemplars() {
			found = found || trace.TraceID(e.GetTraceId()) == idOf(2)
		}
	}
	if !found {
		t.Error("no example was sent by OTLP")
	}
	// What collectors redact are attributes, so what may hold a secret is one.
	s := collector.Span("x")
	if s == nil || trace.TraceID(s.TraceId) != idOf(2) || s.GetStatus().GetCode().String() != "STATUS_CODE_ERROR" || s.GetStatus().GetMessage() != "" ||
		s.GetAttributes()[len(s.GetAttributes())-1].GetKey() != "error.message" || s.GetAttributes()[len(s.GetAttributes())-1].GetValue().GetStringValue() != failure {
		t.Errorf("got the span %v", s)
	}
}

func BenchmarkTrace(b *testing.B) {
	for _, sinks := range []bool{false, true} {
		b.Run(fmt.Sprintf("taken=%t", sinks), func(b *testing.B) {
			tel := start(b, nil)
			if sinks {
				defer tel.TakeSpans(func([]telemetry.Span) {})()
			}
			var pace telemetry.Pace
			now := time.Now()
			b.ReportAllocs()
			for b.Loop() {
				id := trace.TraceID{8: byte(rand.Uint32()), 9: byte(rand.Uint32()), 15: 1} //nolint:gosec // a test
				ctx, line := tel.Begin(b.Context(), trace.SpanContext{}, id, now)
				for s := range telemetry.StepCall {
					line.Step(s, now, time.Microsecond)
				}
				line.End(ctx, &telemetry.Outcome{At: now.Add(time.Millisecond), Name: "x", Pace: &pace})
			}
		})
	}
}
