package feedback

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

var ample = IntakeConfig{Rows: 1000, Bytes: 1 << 20, Write: 10 * time.Second, Ahead: time.Hour, Request: 1000}

func quiet(t testing.TB) *telemetry.Telemetry {
	t.Helper()
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		t.Fatal(err)
	}
	return tel
}

func bucket(t testing.TB) store.Blob {
	t.Helper()
	b, err := memstore.OpenBlob(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// front is what an Intake hears and answers, at noon.
type front struct {
	*Intake
	mux    *http.ServeMux
	events *event.Mux
	tel    *telemetry.Telemetry
}

func open(t testing.TB, c IntakeConfig, blob store.Blob) *front {
	t.Helper()
	f := &front{mux: http.NewServeMux(), tel: quiet(t)}
	var err error
	if f.Intake, err = NewIntake(&c, blob, f.tel); err != nil {
		t.Fatal(err)
	}
	if f.events, err = event.NewMux(f.tel); err != nil {
		t.Fatal(err)
	}
	f.now = func() time.Time { return noon }
	f.Hear(f.events)
	f.Register(f.mux)
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// post gives the status and the body of the answer.
func (f *front) post(ctx context.Context, body io.Reader, header ...string) (int, string, http.Header) {
	r := httptest.NewRequestWithContext(ctx, "POST", "/feedback", body)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	f.mux.ServeHTTP(w, r)
	return w.Code, strings.TrimSpace(w.Body.String()), w.Header()
}

// inbox gives all outcomes that were accepted, object by object.
func inbox(t testing.TB, blob store.Blob) (objects [][]Outcome) {
	t.Helper()
	for key, data := range objectsOf(t, blob, InboxPrefix) {
		o, err := readOutcomes(key, data)
		if err != nil {
			t.Fatal(err)
		}
		objects = append(objects, o)
	}
	return objects
}

func objectsOf(t testing.TB, blob store.Blob, prefix string) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for o, err := range blob.List(t.Context(), prefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		r, _, err := blob.Get(t.Context(), o.Key, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if all[o.Key], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
		r.Close()
	}
	return all
}

// kept gives the lines of what was rejected, in order.
func kept(t testing.TB, blob store.Blob) (lines []string) {
	t.Helper()
	for key, data := range objectsOf(t, blob, RejectedPrefix) {
		if !strings.HasPrefix(key, "outcomes/rejected/2026-11-25/") {
			t.Errorf("kept as %s", key)
		}
		lines = append(lines, strings.Split(strings.TrimSpace(string(data)), "\n")...)
	}
	slices.Sort(lines)
	return lines
}

func pack(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

const (
	good  = `{"prediction":"p","value":true}`
	bad   = `{"prediction":"p"}`
	nline = "application/x-ndjson"
)

func TestPost(t *testing.T) {
	four := "[" + good + strings.Repeat(","+good, 3) + "]"
	for _, c := range []struct {
		name, body string
		header     []string
		status     int
		said       string
		kept       int // of rejected
	}{
		{"one", good, nil, 202, `{"accepted":1,"rejected":0}`, 0},
		{"array", "[" + good + "," + good + "]", nil, 202, `{"accepted":2,"rejected":0}`, 0},
		{"whatever the type", good, []string{"Content-Type", "application/x-www-form-urlencoded"}, 202, `{"accepted":1,"rejected":0}`, 0},
		{"lines", good + "\n\n" + good, []string{"Content-Type", nline + "; charset=utf-8"}, 202, `{"accepted":2,"rejected":0}`, 0},
		{"packed", pack(t, good), []string{"Content-Encoding", "gzip"}, 202, `{"accepted":1,"rejected":0}`, 0},
		{
			"a poisoned one", "[" + good + ",{\xff\"," + `"},` + good + "]", nil, 202,
			`{"accepted":2,"rejected":1,"rejections":[{"index":1,"reason":"json","detail":"the outcome is not valid JSON at byte 1: byte 0xff stands where a key in quotes is expected"}]}`, 1,
		},
		{
			"a poisoned line", good + "\n{\"prediction\n" + good,
			[]string{"Content-Type", nline},
			202,
			`{"accepted":2,"rejected":1,"rejections":[{"index":1,"reason":"json","detail":"the outcome is not valid JSON at byte 12: it ends where a closing quote is expected"}]}`, 1,
		},
		{
			"one too long", "[" + `{"prediction":"` + strings.Repeat("p", 20_000) + `"},` + good + "]", nil, 202,
			`{"accepted":1,"rejected":1,"rejections":[{"index":0,"reason":"size","detail":"the outcome has more than 16384 bytes"}]}`, 1,
		},
		{"one bad", bad, nil, 400, `{"error":"\"value\" is missing"}`, 1},
		{"bad ones", "[" + bad + ",7]", nil, 400, `{"error":"none of 2 outcomes can be taken; the first: \"value\" is missing"}`, 2},
		{"empty", "", nil, 400, `{"error":"the body holds no outcome"}`, 0},
		{"empty array", "[]", nil, 400, `{"error":"the body holds no outcome"}`, 0},
		{"text", "hello", nil, 400, `{"error":"the body begins with 'h', expected an outcome, an array of them, or one a line as application/x-ndjson"}`, 0},
		{"cut off", "[" + good + `,{"pred`, nil, 400, `{"error":"the body ends within outcome 1"}`, 0},
		{"lines by mistake", good + "\n" + good, nil, 400, `{"error":"'{' stands behind the end of the outcome; several are sent as an array, or one a line as application/x-ndjson"}`, 0},
		{"not packed", good, []string{"Content-Encoding", "gzip"}, 400, `{"error":"the body is not valid gzip, as its Content-Encoding says"}`, 0},
		{"packed and cut off", pack(t, four)[:30], []string{"Content-Encoding", "gzip"}, 400, `{"error":"the body is not valid gzip, as its Content-Encoding says"}`, 0},
		{"another coding", good, []string{"Content-Encoding", "br"}, 400, `{"error":"Content-Encoding \"br\" is not one of gzip, deflate, identity"}`, 0},
		{"too many", four, nil, 413, `{"error":"there are more than 3 outcomes; send them in several requests"}`, 0},
		{"too many lines", strings.Repeat(good+"\n", 4), []string{"Content-Type", nline}, 413, `{"error":"there are more than 3 outcomes; send them in several requests"}`, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			blob := bucket(t)
			conf := ample
			conf.Request = 3
			f := open(t, conf, blob)
			status, said, _ := f.post(t.Context(), strings.NewReader(c.body), c.header...)
			if status != c.status || said != c.said {
				t.Errorf("got %d %s\nwant %d %s", status, said, c.status, c.said)
			}
			var result Result
			if c.status == 202 {
				if err := json.Unmarshal([]byte(said), &result); err != nil {
					t.Fatal(err)
				}
			}
			accepted := 0
			for _, o := range inbox(t, blob) {
				accepted += len(o)
			}
			if n := len(kept(t, blob)); accepted != result.Accepted || n != c.kept {
				t.Errorf("the bucket has %d accepted and %d rejected ones, want %d and %d", accepted, n, result.Accepted, c.kept)
			}
		})
	}
}

func TestWhatIsKept(t *testing.T) {
	blob := bucket(t)
	f := open(t, ample, blob)
	long := strings.Repeat("7,", 20)
	status, said, _ := f.post(t.Context(), strings.NewReader(`[{ "value" : "\u00e9" },`+"{oops}, {\"\x01\":1},"+long+good+`]`))
	if status != 202 || strings.Count(said, `"index"`) != rejectionsMost || !strings.HasPrefix(said, `{"accepted":1,"rejected":23,`) {
		t.Errorf("got %d %s, want 23 rejected and %d told", status, said, rejectionsMost)
	}
	e := observed("1", bad)
	if status, said := f.arrive(t, e); status != 202 {
		t.Errorf("got %d %s", status, said)
	}
	const seven = `{"reason":"type","detail":"the outcome is a number, expected an object","outcome":7}`
	want := []string{
		`{"reason":"json","detail":"the outcome is not valid JSON at byte 1: 'o' stands where a key in quotes is expected","text":"{oops}"}`,
		`{"reason":"json","detail":"the outcome is not valid JSON at byte 2: a control character in a string must be escaped","bytes":"eyIBIjoxfQ=="}`,
		`{"reason":"missing","detail":"\"prediction\" is missing, or \"model\", \"entity\" and \"at\" in its place","outcome":{"value":"\u00e9"}}`,
		`{"reason":"missing","detail":"\"value\" is missing","source":"/test","outcome":{"prediction":"p"}}`,
	}
	want = append(want, slices.Repeat([]string{seven}, 20)...)
	if got := kept(t, blob); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	w := httptest.NewRecorder()
	f.tel.Metrics().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	for _, line := range []string{`reason="",result="accepted"} 1`, `reason="type",result="rejected"} 20`, `reason="missing",result="rejected"} 2`, `reason="json",result="rejected"} 2`} {
		if line = "pilotlight_feedback_outcomes_total{" + line; !strings.Contains(w.Body.String(), line) {
			t.Errorf("the metrics lack %s", line)
		}
	}
}

// What comes again is the same outcome.
func TestRepeated(t *testing.T) {
	blob := bucket(t)
	f := open(t, ample, blob)
	body := `[{"prediction":"p","value":1},{"prediction":"p","value":1,"id":"a"},{"model":"m","entity":{"a":1},"at":1795604400,"value":"x"}]`
	for i := range 3 {
		f.now = func() time.Time { return noon.Add(time.Duration(i) * time.Minute) }
		if status, said, _ := f.post(t.Context(), strings.NewReader(body)); status != 202 {
			t.Fatal(status, said)
		}
	}
	seen := map[uint64]int{}
	for _, object := range inbox(t, blob) {
		for _, o := range object {
			seen[o.ID]++
		}
	}
	if len(seen) != 3 {
		t.Errorf("got %v, want three ids", seen)
	}
	for id, n := range seen {
		if n != 3 {
			t.Errorf("%x is there %d times, want 3", id, n)
		}
	}
}

// endless is a body without an end, and counts what is read of it.
type endless struct {
	begin, again string
	rest         string
	read         int
}

func (e *endless) Read(p []byte) (int, error) {
	if e.read == 0 {
		e.rest = e.begin
	}
	n := 0
	for n < len(p) {
		if e.rest == "" {
			e.rest = e.again
		}
		m := copy(p[n:], e.rest)
		e.rest, n = e.rest[m:], n+m
	}
	e.read += n
	return n, nil
}

func TestAMillionOutcomes(t *testing.T) {
	blob := bucket(t)
	var conf IntakeConfig
	if _, err := env.Load(map[string]string{}, &conf); err != nil {
		t.Fatal(err)
	}
	f := open(t, conf, blob)
	for name, body := range map[string]*endless{"array": {begin: "[" + good, again: "," + good}, "lines": {begin: good, again: "\n" + good}} {
		header := []string{"Content-Type", map[string]string{"lines": nline}[name]}
		status, said, _ := f.post(t.Context(), io.LimitReader(body, 1e6*int64(len(body.again))), header...)
		if status != 413 || said != `{"error":"there are more than 100000 outcomes; send them in several requests"}` {
			t.Errorf("%s: got %d %s, want 413", name, status, said)
		}
		if most := 100_002*len(body.again) + 64<<10; body.read > most {
			t.Errorf("%s: %d bytes were read, want no more than %d", name, body.read, most)
		}
	}
	if n := len(objectsOf(t, blob, "outcomes/")); n != 0 {
		t.Errorf("%d objects were written of what was refused", n)
	}
	// As ten requests they are taken.
	part := "[" + good + strings.Repeat(","+good, 99_999) + "]"
	for range 10 {
		if status, said, _ := f.post(t.Context(), strings.NewReader(part)); status != 202 || said != `{"accepted":100000,"rejected":0}` {
			t.Fatalf("got %d %s", status, said)
		}
	}
	n := 0
	for _, o := range inbox(t, blob) {
		n += len(o)
	}
	if n == 0 || n%100_000 != 0 { // the same at the same time is one object
		t.Errorf("the inbox has %d", n)
	}
}

// However large a poisoned outcome is, it takes no memory.
func TestMemoryWhileReading(t *testing.T) {
	f := open(t, ample, bucket(t))
	for name, body := range map[string]io.Reader{
		"one text":  io.MultiReader(strings.NewReader("["+good+`,"`), io.LimitReader(&endless{begin: "x", again: "xxxxxxxx"}, 256<<20), strings.NewReader(`",`+good+"]")),
		"brackets":  io.MultiReader(strings.NewReader("["+good+`,`), io.LimitReader(&endless{begin: "[", again: "[[[[[[[["}, 64<<20), io.LimitReader(&endless{begin: "]", again: "]]]]]]]]"}, 64<<20), strings.NewReader(`,`+good+"]")),
		"no commas": io.MultiReader(strings.NewReader("["+good+`,`), io.LimitReader(&endless{begin: " ", again: "        "}, 256<<20), strings.NewReader(`7,`+good+"]")),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		status, said, _ := f.post(t.Context(), body)
		runtime.ReadMemStats(&after)
		if status != 202 || !strings.HasPrefix(said, `{"accepted":2,"rejected":1,`) {
			t.Errorf("%s: got %d %s", name, status, said)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 8<<20 {
			t.Errorf("%s: %d bytes were allocated", name, took)
		}
	}
}

// A compressed body may grow to the limit of bodies and no further.
func TestABombIsRefused(t *testing.T) {
	f := open(t, ample, bucket(t))
	mux := http.NewServeMux()
	f.Register(mux)
	var c serve.Config
	if _, err := env.Load(map[string]string{"PORT": "0", "MAX_BODY": "1MiB"}, &c); err != nil {
		t.Fatal(err)
	}
	url := listen(t, &c, mux, quiet(t))
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	if _, err := io.Copy(z, io.LimitReader(&endless{begin: "[", again: "      "}, 64<<20)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), "POST", url+"/feedback", &bomb)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Encoding", "gzip")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); resp.StatusCode != 413 || string(b) != `{"error":"the body is larger than the limit of 1048576 bytes"}` {
		t.Errorf("got %d %s", resp.StatusCode, b)
	}
}

// listen serves on a free port until the test ends.
func listen(t testing.TB, c *serve.Config, mux http.Handler, tel *telemetry.Telemetry) (url string) {
	t.Helper()
	s, err := serve.Open(t.Context(), c, tel, mux)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return "http://" + s.Addr().String()
}

// held is a bucket whose writes wait, and may fail.
type held struct {
	store.Blob
	begun chan string // keys
	free  chan error  // what a write waits for, and ends with unless it is nil
}

func (h *held) Put(ctx context.Context, key string, body io.ReadSeeker, size int64, c store.Condition) (string, error) {
	h.begun <- key
	select {
	case err := <-h.free:
		if errors.Is(err, errPanic) {
			panic("the bucket broke")
		}
		if err != nil {
			return "", err
		}
	case <-ctx.Done():
		return "", ctx.Err()
	}
	return h.Blob.Put(ctx, key, body, size, c)
}

var errPanic = errors.New("panic")

func hold(t *testing.T) *held {
	return &held{Blob: bucket(t), begun: make(chan string, 10), free: make(chan error, 10)}
}

// No failure of the bucket is acknowledged, and the same again goes through once it is over.
func TestABucketThatFails(t *testing.T) {
	away := `{"error":"outcomes can't be kept at the moment; send them again"}`
	for _, c := range []struct {
		name, body string
		errs       []error // one for each write
		status     int
		said       string
	}{
		{"away", good, []error{fault.New(fault.Unavailable, "the bucket is away")}, 503, away},
		{"unknown", good, []error{errors.New("disk full")}, 503, away},
		{"gone", good, []error{fault.New(fault.NotFound, "no bucket")}, 503, away},
		{"for rejected ones", bad, []error{errors.New("disk full")}, 503, away},
		{"for half of it", "[" + good + "," + bad + "]", []error{nil, errors.New("disk full")}, 503, away},
		{"panics", good, []error{errPanic}, 500, `{"error":"internal error"}`},
		{"there already", good, []error{fault.New(fault.Conflict, "it is there")}, 202, `{"accepted":1,"rejected":0}`},
	} {
		blob := hold(t)
		f := open(t, ample, blob)
		for _, err := range c.errs {
			blob.free <- err
		}
		status, said, header := f.post(t.Context(), strings.NewReader(c.body))
		if status != c.status || said != c.said || (status == 503) != (header.Get("Retry-After") == "1") {
			t.Errorf("%s: got %d %s %v, want %d %s", c.name, status, said, header, c.status, c.said)
		}
		blob.free <- nil
		blob.free <- nil
		if status, said, _ := f.post(t.Context(), strings.NewReader("["+good+"]")); status != 202 || len(inbox(t, blob.Blob)) != 1 {
			t.Errorf("%s: again: got %d %s and %d objects", c.name, status, said, len(inbox(t, blob.Blob)))
		}
	}
}

func TestABucketThatIsSlow(t *testing.T) {
	blob := hold(t)
	conf := ample
	conf.Rows = 5
	f := open(t, conf, blob)
	var callers sync.WaitGroup
	post := func(n int) {
		callers.Go(func() {
			body := "[" + good + strings.Repeat(","+good, n-1) + "]"
			if status, said, _ := f.post(t.Context(), strings.NewReader(body)); status != 202 {
				t.Errorf("got %d %s", status, said)
			}
		})
	}
	post(1)
	<-blob.begun
	ctx, leave := context.WithCancel(t.Context())
	callers.Go(func() { // it is written though its caller leaves
		if status, said, _ := f.post(ctx, strings.NewReader(good)); status != fault.StatusClientClosed {
			t.Errorf("got %d %s of a caller that left", status, said)
		}
	})
	for f.groups.Waiting() != 1 {
		time.Sleep(time.Millisecond)
	}
	leave()
	post(3)
	for f.groups.Waiting() != 4 {
		time.Sleep(time.Millisecond)
	}
	status, said, header := f.post(t.Context(), strings.NewReader("["+good+","+bad+"]"))
	if status != 429 || !strings.HasPrefix(said, `{"error":"4 outcomes wait to be written; try again in `) || header.Get("Retry-After") == "" {
		t.Errorf("got %d %s %v, want 429", status, said, header)
	}
	blob.free <- nil
	blob.free <- nil
	callers.Wait()
	sizes := []int{}
	for _, o := range inbox(t, blob.Blob) {
		sizes = append(sizes, len(o))
	}
	if slices.Sort(sizes); !slices.Equal(sizes, []int{1, 4}) {
		t.Errorf("the inbox has objects of %v, want 1 and 4", sizes)
	}

	conf.Write = 10 * time.Millisecond
	f = open(t, conf, blob)
	if status, said, _ := f.post(t.Context(), strings.NewReader(good)); status != 503 {
		t.Errorf("too slow: got %d %s, want 503", status, said)
	}
}

func observed(id string, outcomes ...string) event.Event {
	e := event.OutcomeObserved.New(event.Outcomes{})
	e.SetID(id)
	e.SetSource("/test")
	e.DataEncoded = []byte(`{"outcomes":[` + strings.Join(outcomes, ",") + `]}`)
	return e
}

func (f *front) arrive(t *testing.T, events ...event.Event) (int, string) {
	t.Helper()
	b, err := json.Marshal(events)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequestWithContext(t.Context(), "POST", "/events", bytes.NewReader(b))
	r.Header.Set("Content-Type", "application/cloudevents-batch+json")
	w := httptest.NewRecorder()
	f.events.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func TestOutcomesComeByEvents(t *testing.T) {
	blob := bucket(t)
	conf := ample
	conf.Request = 3
	f := open(t, conf, blob)
	again := []event.Event{observed("1", good, bad, good), observed("2", good, `{"prediction":"p","value":1,"id":"mine"}`), observed("3", bad), observed("4")}
	for i := range 2 { // what is delivered twice is the same
		if status, said := f.arrive(t, again...); status != 202 {
			t.Fatalf("got %d %s, want 202", status, said)
		}
		f.now = func() time.Time { return noon.Add(time.Duration(i+1) * time.Second) }
	}
	ids := map[uint64]int{}
	objects := inbox(t, blob)
	for _, object := range objects {
		for _, o := range object {
			if ids[o.ID]++; o.Source != "/test" {
				t.Errorf("got source %q", o.Source)
			}
		}
	}
	if len(objects) != 2 || len(ids) != 4 || len(kept(t, blob)) != 2 { // what is rejected again is kept once
		t.Errorf("got %d objects, %d outcomes and %d rejected, want 2, 4 and 2", len(objects), len(ids), len(kept(t, blob)))
	}

	many := observed("5", good, good, good, good)
	far := observed("6", good)
	far.SetSource("/" + strings.Repeat("x", 1024))
	other := observed("7", `{"prediction":"p","value":7}`)
	broken := observed("8")
	broken.DataEncoded = []byte(`{"outcomes":7}`)
	for name, c := range map[string]struct {
		events []event.Event
		status int
		said   string
	}{
		"too many":      {[]event.Event{many, other}, 413, `{"error":"there are more than 3 outcomes; send them in several requests"}`},
		"a long source": {[]event.Event{other, far}, 400, `{"error":"the event's source has 1025 bytes, more than 1024"}`},
		"no outcomes":   {[]event.Event{other, broken}, 400, `{"error":"the data of the event dev.pilotlight.outcome.observed.v1 does not fit its schema: \"outcomes\" is a number, expected []json.RawMessage"}`},
	} {
		blob := bucket(t)
		f := open(t, conf, blob)
		if status, said := f.arrive(t, c.events...); status != c.status || said != c.said {
			t.Errorf("%s: got %d %s, want %d %s", name, status, said, c.status, c.said)
		}
		if got := inbox(t, blob); len(got) != 1 || len(got[0]) != 1 || got[0][0].Value != "7" {
			t.Errorf("%s: got %v, want what came beside it", name, got)
		}
	}

	held := hold(t)
	f = open(t, conf, held)
	held.free <- errors.New("disk full")
	if status, said := f.arrive(t, other); status != 503 {
		t.Errorf("got %d %s, want 503", status, said)
	}
}

func TestDamagedObjects(t *testing.T) {
	b := open(t, ample, bucket(t)).batch()
	for i := range 10 {
		if err := b.add(i, []byte(good), "", 0); err != nil {
			t.Fatal(err)
		}
	}
	key, data, err := encode([]*batch{b})
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(data); i += 7 {
		damaged := bytes.Clone(data)
		damaged[i] ^= 1
		if _, err := readOutcomes(key, damaged); !errors.Is(err, errDamaged) {
			t.Fatalf("byte %d: got %v, want it damaged", i, err)
		}
	}
	if _, err := readOutcomes(key, data[:len(data)-1]); !errors.Is(err, errDamaged) {
		t.Errorf("cut off: got %v", err)
	}
	text := []byte("no Parquet")
	hash := sha256.Sum256(text)
	if _, err := readOutcomes(InboxPrefix+segment.Name(1, hash[:]), text); !errors.Is(err, errDamaged) {
		t.Errorf("no Parquet: got %v", err)
	}
	if got, err := readOutcomes(key, data); err != nil || fmt.Sprint(got) != fmt.Sprint(b.good) {
		t.Errorf("got %v %v", got, err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for what, spoil := range map[string]func(*IntakeConfig){
		"FEEDBACK_GROUP_ROWS must be positive":    func(c *IntakeConfig) { c.Rows = 0 },
		"FEEDBACK_GROUP_SIZE must be positive":    func(c *IntakeConfig) { c.Bytes = -1 },
		"FEEDBACK_WRITE_TIMEOUT must be positive": func(c *IntakeConfig) { c.Write = 0 },
		"FEEDBACK_AHEAD must not be negative":     func(c *IntakeConfig) { c.Ahead = -1 },
		"FEEDBACK_REQUEST_ROWS must be positive":  func(c *IntakeConfig) { c.Request = 0 },
	} {
		c := ample
		spoil(&c)
		if _, err := NewIntake(&c, bucket(t), quiet(t)); !fault.Is(err, fault.Invalid) || err.Error() != what {
			t.Errorf("got %v, want %s", err, what)
		}
	}
}
