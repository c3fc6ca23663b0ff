package span_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/span"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/diskstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

func disk(t testing.TB) store.Blob {
	t.Helper()
	b, err := diskstore.OpenBlob(t.Context(), &url.URL{Scheme: "file", Path: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func tel(t testing.TB, service string) *telemetry.Telemetry {
	t.Helper()
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Output: io.Discard}, service)
	if err != nil {
		t.Fatal(err)
	}
	return tel
}

// write has a process of a service keep parts.
func write(t testing.TB, blob store.Blob, service string, parts ...telemetry.Span) {
	t.Helper()
	tl := tel(t, service)
	l, err := span.New(&span.Config{On: "on", Memory: 8 << 20, Every: time.Hour}, blob, tl)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range parts {
		tl.Emit(s)
		for i := 0; i < 1000 && tl.Waiting() > 100; i++ {
			time.Sleep(time.Millisecond)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func reader(t testing.TB, blob store.Blob) *span.Reader {
	t.Helper()
	r, err := span.NewReader(blob, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func idOf(n int) trace.TraceID {
	return trace.TraceID{1, 13: byte(n >> 16), 14: byte(n >> 8), 15: byte(n)}
}

var begin = time.Now().UTC().Add(-2 * time.Hour).Truncate(time.Second)

// one is the n-th of spans that begin a second after another.
func one(n int, name string, took time.Duration, more ...attribute.KeyValue) telemetry.Span {
	start := begin.Add(time.Duration(n) * time.Second)
	return telemetry.Span{
		Trace: idOf(n), ID: trace.SpanID{2, 7: byte(n) | 1}, Name: name, Kind: trace.SpanKindServer, Start: start, End: start.Add(took), Attributes: more,
	}
}

func ask(t *testing.T, r *span.Reader, path string, into any) int {
	t.Helper()
	mux := http.NewServeMux()
	r.Register(mux)
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", path, nil))
	if w.Code == http.StatusOK {
		if err := json.Unmarshal(w.Body.Bytes(), into); err != nil {
			t.Fatalf("%s: %v in %s", path, err, w.Body)
		}
	}
	return w.Code
}

type told struct {
	Trace string `json:"trace"`
	Spans []struct {
		Span, Parent, Name, Service, Kind, Start, Error string
		Duration                                        int64 `json:"duration_us"`
		Attributes                                      map[string]any
		Links                                           []map[string]string
	} `json:"spans"`
}

type listed struct {
	Traces []struct {
		Trace, Name, Service, Start, Error, Model string
		Duration                                  int64 `json:"duration_us"`
		Spans                                     int
	} `json:"traces"`
	Next string `json:"next"`
}

func TestTraceOfManyProcessesIsFound(t *testing.T) {
	blob := disk(t)
	root := one(1, "POST /v2/models/{model}/infer", 20*time.Millisecond, attribute.String("function", "predict"))
	below := one(1, "POST /v2/models/{model}/infer", 15*time.Millisecond, attribute.String("model", "<script>alert(1)</script>\u202e\x00\xff"), attribute.Int("rows", 3), attribute.Bool("hit", true))
	below.ID, below.Parent, below.Start, below.Error = trace.SpanID{3}, root.ID, root.Start.Add(time.Millisecond), "the model \"x\" broke"
	below.Links = []trace.Link{{SpanContext: trace.NewSpanContext(trace.SpanContextConfig{TraceID: idOf(9), SpanID: trace.SpanID{9}})}}
	write(t, blob, "predict", below)
	write(t, blob, "gateway", root, one(2, "other", time.Second))

	r := reader(t, blob)
	for _, query := range []string{"", "?at=" + url.QueryEscape(root.Start.Add(20*time.Minute).Format(time.RFC3339))} {
		var got told
		if status := ask(t, r, "/admin/v1/traces/"+idOf(1).String()+query, &got); status != 200 || got.Trace != idOf(1).String() || len(got.Spans) != 2 {
			t.Fatalf("got %d %+v", status, got)
		}
		a, b := got.Spans[0], got.Spans[1]
		if a.Service != "gateway" || a.Parent != "" || a.Span != root.ID.String() || a.Duration != 20000 || a.Kind != "server" || a.Start != root.Start.Format(time.RFC3339Nano) || a.Error != "" {
			t.Errorf("got %+v", a)
		}
		if b.Service != "predict" || b.Parent != a.Span || b.Error != "the model \"x\" broke" || b.Attributes["rows"] != 3.0 || b.Attributes["hit"] != true ||
			b.Attributes["model"] != "<script>alert(1)</script>\u202e\x00\uFFFD" || len(b.Links) != 1 || b.Links[0]["trace"] != idOf(9).String() || b.Links[0]["span"] != "0900000000000000" {
			t.Errorf("got %+v", b)
		}
	}
	for path, want := range map[string]int{
		"/admin/v1/traces/" + idOf(7).String():                              404,
		"/admin/v1/traces/" + idOf(1).String() + "?at=2001-01-01T00:00:00Z": 404,
		"/admin/v1/traces/" + idOf(1).String() + "?at=yesterday":            400,
		"/admin/v1/traces/" + strings.ToUpper(idOf(0xab).String()):          400,
		"/admin/v1/traces/x": 400, "/admin/v1/traces/" + strings.Repeat("0", 32): 400,
		"/admin/v1/traces?limit=0": 400, "/admin/v1/traces?slow=x": 400, "/admin/v1/traces?errors=x": 400, "/admin/v1/traces?from=x": 400, "/admin/v1/traces?after=x": 400,
	} {
		if got := ask(t, r, path, &told{}); got != want {
			t.Errorf("%s: got %d, want %d", path, got, want)
		}
	}
}

func TestTracesAreListed(t *testing.T) {
	blob := disk(t)
	var parts []telemetry.Span
	for i := range 25 {
		s := one(i, fmt.Sprint("n", i), time.Duration(i)*time.Millisecond, attribute.String("model", []string{"a", "b"}[i%2]))
		if i%5 == 0 {
			s.Error = "broken"
		}
		parts = append(parts, s)
	}
	write(t, blob, "predict", parts[:10]...)
	write(t, blob, "predict", parts[10:]...)
	gateway := one(24, "gateway", 100*time.Millisecond)
	gateway.ID, gateway.Start = trace.SpanID{8}, gateway.Start.Add(-time.Millisecond)
	write(t, blob, "gateway", gateway)
	r := reader(t, blob)

	var got []string
	query := "/admin/v1/traces?limit=10"
	for pages := 1; ; pages++ {
		var page listed
		if status := ask(t, r, query, &page); status != 200 {
			t.Fatalf("got %d", status)
		}
		for _, s := range page.Traces {
			got = append(got, s.Name)
		}
		if page.Next == "" {
			if pages != 3 {
				t.Errorf("got %d pages, want 3", pages)
			}
			break
		}
		query = "/admin/v1/traces?limit=10&after=" + page.Next
	}
	var want []string
	for i := 24; i >= 0; i-- {
		want = append(want, fmt.Sprint("n", i))
	}
	want[0] = "gateway"
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v\nwant %v", got, want)
	}

	at := func(n int) string {
		return url.QueryEscape(begin.Add(time.Duration(n) * time.Second).Format(time.RFC3339))
	}
	for query, want := range map[string]string{
		"errors=true":                           "n20 n15 n10 n5 n0",
		"errors=true&model=a":                   "n20 n10 n0",
		"slow=23ms":                             "gateway n23",
		"service=gateway":                       "gateway",
		"service=nobody":                        "",
		"from=" + at(3) + "&to=" + at(6):        "n5 n4 n3",
		"model=b&slow=21ms":                     "n23 n21",
		"from=2001-01-01T00:00:00Z&to=" + at(1): "n0",
	} {
		var page listed
		if status := ask(t, r, "/admin/v1/traces?"+query, &page); status != 200 || page.Traces == nil {
			t.Fatalf("%s: got %d %+v", query, status, page)
		}
		var names []string
		for _, s := range page.Traces {
			names = append(names, s.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s: got %s, want %s", query, got, want)
		}
	}
	var page listed
	ask(t, r, "/admin/v1/traces?limit=1", &page)
	if s := page.Traces[0]; s.Spans != 2 || s.Duration != 101000 || s.Model != "a" || s.Service != "gateway" || s.Trace != idOf(24).String() {
		t.Errorf("got %+v", s)
	}
}

func TestNoTraces(t *testing.T) {
	var page listed
	if status := ask(t, reader(t, disk(t)), "/admin/v1/traces", &page); status != 200 || page.Traces == nil || len(page.Traces) != 0 {
		t.Errorf("got %d %+v", status, page)
	}
}

func keys(t *testing.T, blob store.Blob) (all []string) {
	t.Helper()
	for o, err := range blob.List(t.Context(), span.Prefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, o.Key)
	}
	return all
}

func TestSmallObjectsAreJoinedAndOldOnesSwept(t *testing.T) {
	blob := disk(t)
	for i := range 6 {
		write(t, blob, "predict", one(i, fmt.Sprint("n", i), time.Millisecond))
	}
	before := keys(t, blob)
	if len(before) != 6 {
		t.Fatalf("got %v", before)
	}
	damaged := strings.Replace(before[0], "-", "-0", 1)
	if _, err := blob.Put(t.Context(), damaged, strings.NewReader("junk"), 4, store.Condition{}); err != nil {
		t.Fatal(err)
	}
	r := reader(t, blob)
	joined, err := r.Join(t.Context())
	if err != nil || joined < 5 { // six, unless an hour began among them
		t.Errorf("joined %d, %v", joined, err)
	}
	if again, err := r.Join(t.Context()); err != nil || again != 0 {
		t.Errorf("joined %d once more, %v", again, err)
	}
	if after := keys(t, blob); len(after) > 3 {
		t.Errorf("got %v", after)
	}
	for i := range 6 {
		if spans, err := r.Trace(t.Context(), idOf(i).String(), time.Time{}); err != nil || len(spans) != 1 || spans[0].Name != fmt.Sprint("n", i) {
			t.Errorf("trace %d: got %v, %v", i, spans, err)
		}
	}
	if page, err := reader(t, blob).List(t.Context(), &span.Query{Limit: 100}); err != nil || len(page.Traces) != 6 {
		t.Errorf("got %+v, %v", page, err)
	}
	write(t, blob, "predict", one(3600, "new", time.Millisecond))
	if _, err := r.Sweep(t.Context(), begin.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if page, err := r.List(t.Context(), &span.Query{Limit: 100}); err != nil || len(page.Traces) != 1 || page.Traces[0].Name != "new" {
		t.Errorf("got %+v, %v", page, err)
	}
}

// broken is a bucket that takes nothing until it is mended.
type broken struct {
	store.Blob
	mended atomic.Bool
}

func (b *broken) Put(ctx context.Context, key string, body io.ReadSeeker, size int64, c store.Condition) (string, error) {
	if !b.mended.Load() {
		return "", fault.New(fault.Unavailable, "the bucket is away")
	}
	return b.Blob.Put(ctx, key, body, size, c)
}

func TestBucketThatIsAwayCostsNoMoreThanIsSaid(t *testing.T) {
	blob := &broken{Blob: disk(t)}
	tl := tel(t, "predict")
	l, err := span.New(&span.Config{On: "on", Memory: env.Size(64 << 10), Every: 10 * time.Millisecond}, blob, tl)
	if err != nil {
		t.Fatal(err)
	}
	const n = 1000
	for i := range n {
		tl.Emit(one(i, strings.Repeat("x", 500), time.Millisecond))
		for tl.Waiting() > 100 {
			time.Sleep(time.Millisecond)
		}
	}
	blob.mended.Store(true)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	written, dropped := l.Counts()
	if written+dropped != n || dropped == 0 || written < 50 {
		t.Errorf("got %d written and %d dropped of %d", written, dropped, n)
	}
	found, next := int64(0), ""
	for {
		page, err := reader(t, blob).List(t.Context(), &span.Query{Limit: 1000, After: next})
		if err != nil {
			t.Fatal(err)
		}
		found += int64(len(page.Traces))
		if next = page.Next; next == "" {
			break
		}
	}
	if found != written {
		t.Errorf("found %d traces, %d were written", found, written)
	}
}

func TestMemoryKeepsNoTracesUnlessItIsAsked(t *testing.T) {
	blob, err := memstore.OpenBlob(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for on, want := range map[string]bool{"auto": false, "on": true, "off": false} {
		l, err := span.New(&span.Config{On: on, Memory: 1 << 20, Every: time.Second}, blob, tel(t, "all"))
		if err != nil || (l != nil) != want {
			t.Errorf("%s: got %v, %v", on, l, err)
		}
		if l != nil {
			_ = l.Close()
		}
	}
	for _, c := range []span.Config{{On: "maybe"}, {On: "on", Memory: 1, Every: 1}, {On: "on", Memory: 1 << 20}} {
		if c.Validate() == nil {
			t.Errorf("%+v was taken", c)
		}
	}
}

// Whatever lies in the bucket costs what is beside it nothing.
func FuzzObject(f *testing.F) {
	f.Add([]byte("junk"), true)
	f.Add([]byte(`{"t":"01000000000000000000000000000001","n":"x","s":"y","f":5,"u":1,"c":1}`+"\n[]\n"), false)
	f.Add([]byte(`{"t":"01000000000000000000000000000001"}`+"\n"+`[{"span":"x","start":"2026-01-01T00:00:00Z"}]`), false)
	f.Fuzz(func(t *testing.T, data []byte, raw bool) {
		blob, err := memstore.OpenBlob(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if !raw {
			data = span.Pack(data)
		}
		key := fmt.Sprintf("%s%s/%016d-%016d-00.jsonl.zst", span.Prefix, begin.Format(time.DateOnly), begin.UnixMicro()+1, begin.UnixMicro())
		if _, err := blob.Put(t.Context(), key, bytes.NewReader(data), int64(len(data)), store.Condition{}); err != nil {
			t.Fatal(err)
		}
		write(t, blob, "predict", one(1, "whole", time.Millisecond))
		r := reader(t, blob)
		if _, err := r.Trace(t.Context(), idOf(1).String(), time.Time{}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.List(t.Context(), &span.Query{Limit: 10}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Join(t.Context()); err != nil {
			t.Fatal(err)
		}
		if spans, err := r.Trace(t.Context(), idOf(1).String(), time.Time{}); err != nil || len(spans) == 0 {
			t.Fatalf("got %v, %v", spans, err)
		}
	})
}

// A day of 100,000 spans, as they lie once joined.
func BenchmarkDay(b *testing.B) {
	blob := disk(b)
	const traces, each = 14_300, 7
	for hour := range 24 {
		tl := tel(b, "predict")
		l, err := span.New(&span.Config{On: "on", Memory: 64 << 20, Every: time.Hour}, blob, tl)
		if err != nil {
			b.Fatal(err)
		}
		for i := range traces / 24 {
			n := hour*traces/24 + i
			start := begin.Truncate(24 * time.Hour).Add(time.Duration(hour)*time.Hour + time.Duration(i)*time.Second)
			for k := range each {
				s := telemetry.Span{
					Trace: idOf(n), ID: trace.SpanID{1, 6: byte(n >> 8), 7: byte(k + 1)}, Name: "POST /v2/models/{model}/infer", Start: start, End: start.Add(time.Millisecond),
					Attributes: []attribute.KeyValue{attribute.String("http.request.method", "POST"), attribute.String("model", "flights"), attribute.Int("http.response.status_code", 200), attribute.Int("n", n)},
				}
				tl.Emit(s)
				for tl.Waiting() > 100 {
					time.Sleep(100 * time.Microsecond)
				}
			}
		}
		if err := l.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("by id", func(b *testing.B) {
		for b.Loop() {
			if _, err := reader(b, blob).Trace(b.Context(), idOf(7000).String(), time.Time{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("list", func(b *testing.B) {
		for b.Loop() {
			if _, err := reader(b, blob).List(b.Context(), &span.Query{Limit: 50, Errors: true}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// A pipeline's run goes on for days beside short requests: each is listed once, page by page, also if objects are joined meanwhile.
func TestPagesOverDaysSkipNothing(t *testing.T) {
	blob := disk(t)
	want := map[string]bool{}
	n := 0
	add := func(end time.Time, took time.Duration) telemetry.Span {
		n++
		s := telemetry.Span{Trace: idOf(n), ID: trace.SpanID{2, 7: 1}, Name: "x", Start: end.Add(-took), End: end}
		want[idOf(n).String()] = true
		return s
	}
	for hours := 0; hours < 80; hours += 4 {
		end := begin.Add(-time.Duration(hours) * time.Hour)
		write(t, blob, "predict", add(end, time.Second), add(end.Add(-time.Second), time.Duration(hours)*time.Hour), add(end.Add(-20*time.Minute), time.Millisecond))
		write(t, blob, "pipeline", add(end, 50*time.Hour))
	}
	for _, limit := range []int{1, 3, 7, 100} {
		r := reader(t, blob)
		got, next := map[string]bool{}, ""
		last := time.Now().Add(time.Hour)
		for page := 0; ; page++ {
			p, err := r.List(t.Context(), &span.Query{Limit: limit, After: next})
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range p.Traces {
				end := s.Start.Add(time.Duration(s.Duration) * time.Microsecond)
				if got[s.Trace] || end.After(last) {
					t.Errorf("pages of %d: %s is listed twice, or out of order", limit, s.Trace)
				}
				got[s.Trace], last = true, end
			}
			if page == 2 {
				if _, err := r.Join(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if next = p.Next; next == "" {
				break
			}
			if page > len(want) {
				t.Fatalf("pages of %d do not end", limit)
			}
		}
		if len(got) != len(want) {
			t.Errorf("pages of %d: got %d traces, want %d", limit, len(got), len(want))
		}
	}
	from, to := begin.Add(-60*time.Hour), begin.Add(-50*time.Hour)
	p, err := reader(t, blob).List(t.Context(), &span.Query{Limit: 1000, From: from, To: to})
	if err != nil || len(p.Traces) == 0 {
		t.Fatalf("got %v, %v", p, err)
	}
	for _, s := range p.Traces {
		if s.Start.Before(from) || !s.Start.Before(to) {
			t.Errorf("a trace that began at %v is listed from %v to %v", s.Start, from, to)
		}
	}
}

// counting counts the objects that are read.
type counting struct {
	store.Blob
	read atomic.Int64
}

func (c *counting) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, store.Object, error) {
	c.read.Add(1)
	return c.Blob.Get(ctx, key, offset, length)
}

// A page costs what is on it, and not what the day has.
func TestPageReadsNoWholeDay(t *testing.T) {
	blob := &counting{Blob: disk(t)}
	const objects, each = 60, 600 // an object is a minute
	put := func(i int) {
		var lines []byte
		end := begin.Add(time.Duration(i) * time.Minute)
		for k := range each {
			at := end.Add(-time.Duration(k) * 100 * time.Millisecond).UnixMicro()
			lines = fmt.Appendf(lines, `{"t":%q,"n":"x","s":"y","f":%d,"u":%d,"c":1}`+"\n[]\n", idOf(1+i*each+k), at, at)
		}
		data := span.Pack(lines)
		key := fmt.Sprintf("%s%s/%016d-%016d-00.jsonl.zst", span.Prefix, end.Format(time.DateOnly), end.UnixMicro(), end.Add(-time.Minute).UnixMicro())
		if _, err := blob.Put(t.Context(), key, bytes.NewReader(data), int64(len(data)), store.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range objects {
		put(i)
	}
	if p, err := reader(t, blob).List(t.Context(), &span.Query{Limit: 50}); err != nil || len(p.Traces) != 50 || p.Next == "" {
		t.Fatalf("got %+v, %v", p, err)
	}
	if got := blob.read.Swap(0); got > 20 {
		t.Errorf("a page of 50 of %d read %d of %d objects", objects*each, got, objects)
	}
	// Where nothing suits a page ends all the same, and the last of them says so.
	r, next, pages := reader(t, blob), "", 0
	for {
		before := blob.read.Load()
		p, err := r.List(t.Context(), &span.Query{Limit: 50, Errors: true, After: next})
		if err != nil || len(p.Traces) != 0 {
			t.Fatalf("got %+v, %v", p, err)
		}
		if got := blob.read.Load() - before; got > 45 {
			t.Errorf("a page on which there is nothing read %d objects", got)
		}
		if pages++; p.Next == "" {
			break
		}
		next = p.Next
	}
	if pages < 2 || pages > 4 {
		t.Errorf("got %d pages", pages)
	}
	found := 0
	for next = ""; ; {
		p, err := r.List(t.Context(), &span.Query{Limit: 1000, After: next})
		if err != nil {
			t.Fatal(err)
		}
		found += len(p.Traces)
		if next = p.Next; next == "" {
			break
		}
	}
	if found != objects*each {
		t.Errorf("pages have %d traces, want %d", found, objects*each)
	}
}
