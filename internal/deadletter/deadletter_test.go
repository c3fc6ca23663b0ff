package deadletter

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/diskstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// bucket is one that can be away, and whose deletes can fail.
type bucket struct {
	store.Blob
	mu           sync.Mutex
	away, noDrop bool
}

func (b *bucket) set(away, noDrop bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.away, b.noDrop = away, noDrop
}

func (b *bucket) Put(ctx context.Context, key string, body io.ReadSeeker, size int64, c store.Condition) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.away {
		return "", fault.New(fault.Unavailable, "the object store cannot be reached")
	}
	return b.Blob.Put(ctx, key, body, size, c)
}

func (b *bucket) Delete(ctx context.Context, key string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.noDrop {
		return fault.New(fault.Unavailable, "the object store cannot be reached")
	}
	return b.Blob.Delete(ctx, key)
}

// broker is a sink that keeps what it accepts.
type broker struct {
	mu     sync.Mutex
	refuse error
	got    []event.Event
}

func (b *broker) Send(_ context.Context, events ...event.Event) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refuse != nil {
		return b.refuse
	}
	b.got = append(b.got, events...)
	return nil
}

// system is a store with its HTTP edge.
type system struct {
	*Store
	t      *testing.T
	bucket *bucket
	broker *broker
	mux    *http.ServeMux
}

func open(t *testing.T) *system {
	t.Helper()
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		t.Fatal(err)
	}
	blob, err := memstore.OpenBlob(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &system{t: t, bucket: &bucket{Blob: blob}, broker: &broker{}, mux: http.NewServeMux()}
	if s.Store, err = New(&Config{Keep: 24 * time.Hour}, s.bucket, s.broker, tel); err != nil {
		t.Fatal(err)
	}
	events, err := event.NewMux(tel)
	if err != nil {
		t.Fatal(err)
	}
	s.Hear(events)
	events.Register(s.mux)
	s.Register(s.mux)
	return s
}

var now = time.Date(2026, 11, 24, 9, 30, 0, 0, time.UTC)

// dead is an event as a broker hands it to its dead-letter sink.
func dead(id, kind string, arrived time.Time) event.Event {
	e := event.Event{}
	e.SetSpecVersion("1.0")
	e.SetID(id)
	e.SetSource("/s")
	e.SetType(kind)
	e.SetExtension("mine", "stays")
	e.SetExtension(arrival, arrived.Format(time.RFC3339Nano))
	e.SetExtension(brokerTTL, 254)
	e.SetExtension(errorDestination, "http://predict/events")
	e.SetExtension(errorCode, 503)
	e.SetExtension(errorData, base64.StdEncoding.EncodeToString([]byte("no\nroom")))
	return e
}

func (s *system) post(e event.Event) int {
	s.t.Helper()
	r, err := event.Request(s.t.Context(), "/events", &e)
	if err != nil {
		s.t.Fatal(err)
	}
	if r.Body == nil {
		r.Body = http.NoBody
	}
	w := httptest.NewRecorder()
	s.mux.ServeHTTP(w, r)
	return w.Code
}

// call asks the API and gives what it says.
func (s *system) call(method, path, body string, want int, into any) string {
	s.t.Helper()
	w := httptest.NewRecorder()
	s.mux.ServeHTTP(w, httptest.NewRequestWithContext(s.t.Context(), method, path, strings.NewReader(body)))
	if w.Code != want {
		s.t.Errorf("%s %s: got %d %s, want %d", method, path, w.Code, w.Body, want)
	}
	if into != nil {
		if err := json.Unmarshal(w.Body.Bytes(), into); err != nil {
			s.t.Fatalf("%s %s: %v: %s", method, path, err, w.Body)
		}
	}
	return w.Body.String()
}

func (s *system) list(query string) (l List) {
	s.t.Helper()
	s.call("GET", "/admin/v1/deadletters?"+query, "", 200, &l)
	return l
}

func TestALetterIsKeptOnceAndWhole(t *testing.T) {
	s := open(t)
	for range 3 { // the broker did not hear the first answers
		if status := s.post(dead("1", "a", now)); status != 202 {
			t.Fatalf("got %d", status)
		}
	}
	all := s.list("").Letters
	if len(all) != 1 {
		t.Fatalf("got %d letters, want one", len(all))
	}
	want := Summary{ID: all[0].ID, At: now, Destination: "http://predict/events", Code: 503, Reason: "no\nroom", EventID: "1", Type: "a", Source: "/s"}
	if all[0] != want || !strings.HasPrefix(want.ID, "20261124T093000.000Z-") {
		t.Errorf("got %+v, want %+v", all[0], want)
	}
	var l Letter
	s.call("GET", "/admin/v1/deadletters/"+want.ID, "", 200, &l)
	if x := l.Event.Extensions(); len(x) != 1 || x["mine"] != "stays" {
		t.Errorf("got extensions %v, want the sender's own alone", x)
	}
	// The same event at another destination is another letter.
	other := dead("1", "a", now)
	other.SetExtension(errorDestination, "http://feedback/events")
	s.post(other)
	if n := len(s.list("").Letters); n != 2 {
		t.Errorf("got %d letters, want two", n)
	}
}

func TestNothingIsAcknowledgedThatIsNotKept(t *testing.T) {
	s := open(t)
	s.bucket.set(true, false)
	if status := s.post(dead("1", "a", now)); status != 503 {
		t.Errorf("without a bucket: got %d, want 503", status)
	}
	s.bucket.set(false, false)
	if status := s.post(dead("1", "a", now)); status != 202 || len(s.list("").Letters) != 1 {
		t.Errorf("got %d, want it kept", status)
	}
}

func TestStrangeLetters(t *testing.T) {
	s := open(t)
	bare := event.Event{} // of a broker that says nothing
	bare.SetSpecVersion("1.0")
	bare.SetID("bare")
	bare.SetSource("/s")
	bare.SetType("t")
	long := dead("long", "t", now)
	long.SetExtension(errorData, strings.Repeat("é", 10000))
	long.SetExtension(errorCode, "-1")
	early := dead("early", "t", time.Time{})
	for _, e := range []event.Event{bare, long, early} {
		if status := s.post(e); status != 202 {
			t.Errorf("%s: got %d", e.ID(), status)
		}
	}
	for _, l := range s.list("").Letters {
		switch l.EventID {
		case "bare":
			if l.Code != 0 || l.Destination != "" || !strings.HasPrefix(l.ID, "19700101T") {
				t.Errorf("got %+v", l)
			}
		case "long":
			if l.Code != -1 || len(l.Reason) > reasonMost {
				t.Errorf("got code %d and a reason of %d bytes", l.Code, len(l.Reason))
			}
		case "early":
			if !strings.HasPrefix(l.ID, "19700101T") {
				t.Errorf("got %+v", l)
			}
		}
	}
}

func TestList(t *testing.T) {
	s := open(t)
	for i := range 40 {
		s.post(dead(fmt.Sprint(i), []string{"even", "odd"}[i%2], now.Add(time.Duration(i)*time.Minute)))
	}
	first := s.list("limit=15")
	second := s.list("limit=15&cursor=" + first.Cursor)
	third := s.list("limit=15&cursor=" + second.Cursor)
	if len(first.Letters) != 15 || first.Letters[0].EventID != "39" || second.Letters[0].EventID != "24" || len(third.Letters) != 10 || third.Cursor != "" {
		t.Errorf("got pages of %d, %d and %d", len(first.Letters), len(second.Letters), len(third.Letters))
	}
	if odd := s.list("type=odd&limit=1000").Letters; len(odd) != 20 {
		t.Errorf("got %d odd ones", len(odd))
	}
	some := s.list("since=2026-11-24T09:40:00Z&before=2026-11-24T09:45:00Z").Letters
	if len(some) != 5 || some[4].EventID != "10" {
		t.Errorf("got %+v, want 10 to 14", some)
	}
}

func TestRefusals(t *testing.T) {
	s := open(t)
	const unknown = "20261124T093000.000Z-00000000000000000000000000000000"
	for _, test := range []struct {
		method, path, body string
		status             int
		err                string
	}{
		{"GET", "?limit=0", "", 400, `limit is \"0\", expected 1 to 1000`},
		{"GET", "?since=today", "", 400, `since is \"today\", expected a time such as 2026-11-24T09:30:00Z`},
		{"GET", "?cursor=x", "", 400, `\"x\" is not the id of a dead letter`},
		{"GET", "/x", "", 400, `\"x\" is not the id of a dead letter`},
		{"GET", "/" + unknown, "", 404, "there is no dead letter " + unknown},
		{"DELETE", "/" + unknown, "", 404, "there is no dead letter " + unknown},
		{"POST", "/" + unknown + "/replay", "", 404, "there is no dead letter " + unknown},
		{"POST", "/replay", "", 400, `say which letters`},
		{"POST", "/replay", "[1]", 400, "the body is not the JSON expected here: the value must be an object, not array"},
		{"POST", "/replay", "{}", 400, `say which letters`},
		{"POST", "/replay", `{"al":true}`, 400, `unknown field`},
		{"POST", "/replay", `{"all":true} {"type":"a"}`, 400, `something follows the JSON value`},
	} {
		if said := s.call(test.method, "/admin/v1/deadletters"+test.path, test.body, test.status, nil); !strings.Contains(said, test.err) {
			t.Errorf("%s %s: got %s, want %s", test.method, test.path, said, test.err)
		}
	}
	s.sink = nil
	s.post(dead("1", "a", now))
	if said := s.call("POST", "/admin/v1/deadletters/"+s.list("").Letters[0].ID+"/replay", "", 503, nil); !strings.Contains(said, "K_SINK is empty") {
		t.Errorf("got %s", said)
	}
}

func TestReplay(t *testing.T) {
	s := open(t)
	s.post(dead("1", "a", now))
	id := s.list("").Letters[0].ID
	replay := "/admin/v1/deadletters/" + id + "/replay"

	s.broker.refuse = fault.New(fault.Unavailable, "the broker can't be reached")
	s.call("POST", replay, "", 503, nil)
	if len(s.list("").Letters) != 1 {
		t.Fatal("the broker refused the event, and the letter is gone")
	}
	s.broker.refuse = nil
	s.bucket.set(false, true)
	s.call("POST", replay, "", 503, nil)
	if len(s.list("").Letters) != 1 || len(s.broker.got) != 1 {
		t.Fatal("what happens between the broker's yes and the delete must leave the letter")
	}
	s.bucket.set(false, false)
	var done Replayed
	s.call("POST", replay, "", 200, &done)
	if done.Replayed != 1 || len(s.list("").Letters) != 0 || len(s.broker.got) != 2 {
		t.Errorf("got %+v", done)
	}
	e := s.broker.got[1]
	if e.ID() != "1" || e.Source() != "/s" || len(e.Extensions()) != 1 {
		t.Errorf("got %s, want the event as it first came", e)
	}
}

func TestReplayMany(t *testing.T) {
	s := open(t)
	for i := range 30 {
		s.post(dead(fmt.Sprint(i), []string{"even", "odd"}[i%2], now.Add(time.Duration(i)*time.Minute)))
	}
	var done Replayed
	s.call("POST", "/admin/v1/deadletters/replay", `{"type":"odd"}`, 200, &done)
	if done.Replayed != 15 || len(s.list("").Letters) != 15 {
		t.Errorf("got %+v", done)
	}
	for _, e := range s.broker.got {
		if e.Type() != "odd" {
			t.Errorf("replayed %s, want odd ones only", e)
		}
	}
	s.broker.refuse = fault.New(fault.Invalid, "no")
	s.call("POST", "/admin/v1/deadletters/replay", `{"all":true}`, 200, &done)
	if done.Replayed != 0 || len(done.Failed) != 15 || done.Failed[0].Error != "no" {
		t.Errorf("got %+v", done)
	}
	s.broker.refuse = fault.New(fault.Unavailable, "away")
	if said := s.call("POST", "/admin/v1/deadletters/replay", `{"all":true}`, 503, nil); !strings.Contains(said, "away") || len(s.list("").Letters) != 15 {
		t.Errorf("got %s, and %d letters", said, len(s.list("").Letters))
	}
	s.broker.refuse = nil
	s.call("POST", "/admin/v1/deadletters/replay", `{"before":"2026-11-24T09:35:00Z"}`, 200, &done)
	if done.Replayed != 3 {
		t.Errorf("got %+v, want 0, 2 and 4", done)
	}
}

func TestATickSweepsAndADeadTickDoesNot(t *testing.T) {
	s := open(t)
	s.now = func() time.Time { return now.Add(24*time.Hour + time.Minute) }
	s.post(dead("old", "a", now))
	s.post(dead("young", "a", now.Add(2*time.Minute)))
	tick := func(data string) event.Event {
		e := event.Event{}
		e.SetSpecVersion("1.0")
		e.SetID("tick")
		e.SetSource("/ping")
		e.SetType(event.Tick.Name)
		if err := e.SetData("application/json", json.RawMessage(data)); err != nil {
			t.Fatal(err)
		}
		return e
	}
	deadTick := tick(`{"job":"sweep-deadletters"}`)
	deadTick.SetExtension(errorCode, 503)
	deadTick.SetExtension(arrival, now.Add(3*time.Minute).Format(time.RFC3339Nano))
	if status := s.post(deadTick); status != 202 || len(s.list("").Letters) != 3 {
		t.Errorf("a dead tick: got %d and %d letters, want it kept like any other", status, len(s.list("").Letters))
	}
	if status := s.post(tick(`{"job":"dance"}`)); status != 400 {
		t.Errorf("another job: got %d", status)
	}
	if status := s.post(tick(`{"job":"sweep-deadletters"}`)); status != 202 {
		t.Errorf("got %d", status)
	}
	left := s.list("").Letters
	if len(left) != 2 || left[1].EventID != "young" {
		t.Errorf("got %+v, want what is younger than DEADLETTER_KEEP", left)
	}
}

func TestADamagedLetterHidesNoOther(t *testing.T) {
	s := open(t)
	s.post(dead("1", "a", now))
	const damaged = `{"event":{}}`
	const id = "20261124T093100.000Z-00000000000000000000000000000000"
	if _, err := s.bucket.Put(t.Context(), key(id), strings.NewReader(damaged), int64(len(damaged)), store.Condition{}); err != nil {
		t.Fatal(err)
	}
	if all := s.list("").Letters; len(all) != 1 {
		t.Errorf("got %+v", all)
	}
	s.call("GET", "/admin/v1/deadletters/"+id, "", 500, nil)
	s.call("DELETE", "/admin/v1/deadletters/"+id, "", 204, nil)
	s.call("GET", "/admin/v1/deadletters/"+id, "", 404, nil)
}

func TestReason(t *testing.T) {
	in64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	for data, want := range map[string]string{
		"":                                "",
		"no room":                         "no room",
		in64("no room"):                   "no room",
		in64("kein Gerät"):                "kein Gerät",
		in64("kein Ger\xc3"):              "kein Ger", // the broker cut it there
		in64("zu teuer: 5 \xe2\x82"):      "zu teuer: 5 ",
		in64("\xff\xfe and more"):         in64("\xff\xfe and more"), // no text
		"\xffbroken":                      "broken",
		strings.Repeat("!", 2*reasonMost): strings.Repeat("!", reasonMost),
	} {
		if got := reason(data); got != want {
			t.Errorf("%.60q: got %.60q, want %.60q", data, got, want)
		}
	}
}

// A letter under another's name would lead pages and replays astray.
func TestALetterUnderAnothersName(t *testing.T) {
	s := open(t)
	s.post(dead("1", "a", now))
	id := s.list("").Letters[0].ID
	b, _, err := s.bucket.Get(t.Context(), key(id), 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	copied, err := io.ReadAll(b)
	if err != nil {
		t.Fatal(err)
	}
	const other = "20261124T093100.000Z-00000000000000000000000000000000"
	if _, err := s.bucket.Put(t.Context(), key(other), strings.NewReader(string(copied)), int64(len(copied)), store.Condition{}); err != nil {
		t.Fatal(err)
	}
	if said := s.call("GET", "/admin/v1/deadletters/"+other, "", 500, nil); !strings.Contains(said, "the dead letter "+other+" is damaged in the bucket") {
		t.Errorf("got %s", said)
	}
	if all := s.list("").Letters; len(all) != 1 || all[0].ID != id {
		t.Errorf("got %+v", all)
	}
}

func TestManyAtOnce(t *testing.T) {
	s := open(t)
	var posts sync.WaitGroup
	for i := range 64 { // each event comes four times
		posts.Go(func() {
			if status := s.post(dead(fmt.Sprint(i%16), "a", now)); status != 202 {
				t.Errorf("got %d", status)
			}
		})
	}
	posts.Wait()
	if n := len(s.list("").Letters); n != 16 {
		t.Errorf("got %d letters, want 16", n)
	}
	var replays sync.WaitGroup
	var sum atomic.Int64
	for range 2 {
		replays.Go(func() {
			n, failed, err := s.ReplayAll(t.Context(), &Filter{})
			if err != nil || len(failed) > 0 {
				t.Errorf("got %v %v", failed, err)
			}
			sum.Add(int64(n))
		})
	}
	replays.Wait()
	// Two that replay the same letter may both send it; neither may lose one.
	sent := map[string]bool{}
	for _, e := range s.broker.got {
		sent[e.ID()] = true
	}
	if len(sent) != 16 || int(sum.Load()) != len(s.broker.got) || len(s.list("").Letters) != 0 {
		t.Errorf("got %d different events of %d sent, %d told of", len(sent), len(s.broker.got), sum.Load())
	}
}

func TestASweepHasABoundAndTellsWhatItLeaves(t *testing.T) {
	s := open(t)
	s.now = func() time.Time { return now.Add(48 * time.Hour) }
	for i := range sweepMost + 5 {
		id := now.Add(time.Duration(i)*time.Millisecond).Format(timeLayout) + "-00000000000000000000000000000000"
		if _, err := s.bucket.Put(t.Context(), key(id), strings.NewReader(""), 0, store.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	if swept, left, err := s.Sweep(t.Context()); swept != sweepMost || left != 5 || err != nil {
		t.Errorf("got %d swept and %d left, %v", swept, left, err)
	}
	s.bucket.set(false, true)
	if swept, left, err := s.Sweep(t.Context()); swept != 0 || left != 5 || !fault.Is(err, fault.Unavailable) {
		t.Errorf("without deletes: got %d swept and %d left, %v", swept, left, err)
	}
	s.bucket.set(false, false)
	if swept, left, err := s.Sweep(t.Context()); swept != 5 || left != 0 || err != nil {
		t.Errorf("got %d swept and %d left, %v", swept, left, err)
	}
}

// FuzzDecode: what lies in a bucket may be anybody's, and is refused or kept as it is.
func FuzzDecode(f *testing.F) {
	e := dead("1", "a", now)
	l := letter(&e)
	b, err := json.Marshal(l)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(l.ID, b)
	f.Add("../x", []byte(`{"event":{}}`))
	f.Fuzz(func(t *testing.T, id string, b []byte) {
		if checkID(id) == nil {
			if err := store.CheckKey(prefix + id); err != nil {
				t.Errorf("the id %q passes, and its key does not: %v", id, err)
			}
		}
		l, err := decode(id, b)
		if err != nil {
			return
		}
		if l.ID != id || event.Check(l.Event) != nil {
			t.Errorf("got %+v", l)
		}
		again, err := json.Marshal(l)
		if err != nil {
			return // a time beyond the year 9999
		}
		if _, err := decode(id, again); err != nil && utf8.ValidString(id) {
			t.Errorf("%q: once written anew it is refused: %v", b, err)
		}
	})
}

// BenchmarkListOfMany is what a page of 50 takes of a million letters on a disk, two weeks of them evenly and in one burst.
func BenchmarkListOfMany(b *testing.B) {
	const n = 1_000_000
	for _, spread := range []struct {
		name string
		step time.Duration
	}{{"two weeks", 14 * 24 * time.Hour / n}, {"a burst of ten minutes", 10 * time.Minute / n}} {
		b.Run(spread.name, func(b *testing.B) {
			dir := b.TempDir()
			blob, err := diskstore.OpenBlob(b.Context(), &url.URL{Scheme: "file", Path: dir})
			if err != nil {
				b.Fatal(err)
			}
			defer blob.Close()
			tel, err := telemetry.Start(b.Context(), &telemetry.Config{Output: io.Discard}, "test")
			if err != nil {
				b.Fatal(err)
			}
			s, err := New(&Config{Keep: 30 * 24 * time.Hour}, blob, nil, tel)
			if err != nil {
				b.Fatal(err)
			}
			begin := time.Now().UTC().Add(-spread.step * n)
			folder := ""
			for i := range n {
				e := dead(fmt.Sprint(i), []string{"often", "often", "often", "often", "seldom"}[i%5], begin.Add(time.Duration(i)*spread.step))
				l := letter(&e)
				content, err := json.Marshal(l)
				if err != nil {
					b.Fatal(err)
				}
				path := filepath.Join(dir, key(l.ID)) // as the store would, without its care for each
				if parent := filepath.Dir(path); parent != folder {
					folder = parent
					if err := os.MkdirAll(folder, 0o755); err != nil {
						b.Fatal(err)
					}
				}
				if err := os.WriteFile(path, content, 0o600); err != nil {
					b.Fatal(err)
				}
			}
			first, cursor, err := s.List(b.Context(), &Filter{}, 50)
			if err != nil || len(first) != 50 || first[0].EventID != fmt.Sprint(n-1) {
				b.Fatalf("got %d letters, %v", len(first), err)
			}
			for _, of := range []struct {
				name   string
				filter Filter
			}{{"newest", Filter{}}, {"next", Filter{Cursor: cursor}}, {"middle", Filter{Before: begin.Add(spread.step * n / 2)}}, {"of a type", Filter{Type: "seldom"}}, {"of no type", Filter{Type: "never"}}} {
				b.Run(of.name, func(b *testing.B) {
					for b.Loop() {
						if _, _, err := s.List(b.Context(), &of.filter, 50); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		})
	}
}

// Letters of before minutes had folders are listed in their place, read, replayed, deleted and swept as others are.
func TestLettersOfBefore(t *testing.T) {
	s := open(t)
	move := func(id string) { // to where it would have lain
		t.Helper()
		b, _, err := store.ReadAll(t.Context(), s.bucket, key(id))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.bucket.Blob.Put(t.Context(), oldKey(id), bytes.NewReader(b), int64(len(b)), store.Condition{}); err != nil {
			t.Fatal(err)
		}
		if err := s.bucket.Delete(t.Context(), key(id)); err != nil {
			t.Fatal(err)
		}
	}
	fill := func() (letters []Summary) {
		t.Helper()
		for i := range 24 {
			s.post(dead(fmt.Sprint(i), []string{"even", "odd"}[i%2], now.Add(time.Duration(i)*10*time.Second)))
		}
		letters = s.list("").Letters
		for i, l := range letters {
			if i%3 != 0 {
				move(l.ID)
			}
		}
		return letters
	}
	all := fill()
	seen := map[string]bool{}
	minute, n := "9999", 0
	for cursor := ""; ; {
		page := s.list("limit=5&cursor=" + cursor)
		for _, l := range page.Letters {
			if m := l.At.Format("1504"); m > minute {
				t.Errorf("%s comes after minute %s", l.At, minute)
			} else {
				minute = m
			}
			seen[l.ID] = true
			n++
		}
		if cursor = page.Cursor; cursor == "" {
			break
		}
	}
	if n != 24 || len(seen) != 24 {
		t.Errorf("pages have %d letters, %d different ones, want 24", n, len(seen))
	}
	if odd := s.list("type=odd").Letters; len(odd) != 12 {
		t.Errorf("got %d odd ones", len(odd))
	}
	some := s.list("since=2026-11-24T09:30:25Z&before=2026-11-24T09:31:35Z").Letters
	for _, l := range some {
		if l.At.Before(now.Add(25*time.Second)) || !l.At.Before(now.Add(95*time.Second)) {
			t.Errorf("got one of %s", l.At)
		}
	}
	if len(some) != 7 {
		t.Errorf("got %d letters of 70 seconds, want 7", len(some))
	}
	for _, l := range all[:3] {
		s.call("GET", "/admin/v1/deadletters/"+l.ID, "", 200, nil)
		s.call("DELETE", "/admin/v1/deadletters/"+l.ID, "", 204, nil)
		s.call("GET", "/admin/v1/deadletters/"+l.ID, "", 404, nil)
	}
	if n, failed, err := s.ReplayAll(t.Context(), &Filter{}); n != 21 || len(failed) > 0 || err != nil || len(s.broker.got) != 21 || len(s.list("").Letters) != 0 {
		t.Errorf("replayed %d of 21: %v, %v; %d are left", n, failed, err, len(s.list("").Letters))
	}
	fill()
	s.now = func() time.Time { return now.Add(24*time.Hour + 125*time.Second) }
	if swept, left, err := s.Sweep(t.Context()); swept != 13 || left != 0 || err != nil || len(s.list("").Letters) != 11 {
		t.Errorf("swept %d, want 13; %d left of those, %v", swept, left, err)
	}
}

// Listing holds no events: summaries are what it has of letters.
func TestListHoldsNoEvents(t *testing.T) {
	s := open(t)
	const letters, size = 64, 1 << 20
	for i := range letters {
		e := dead(fmt.Sprint(i), "large", now.Add(time.Duration(i)*time.Second))
		if err := e.SetData("text/plain", strings.Repeat("x", size)); err != nil {
			t.Fatal(err)
		}
		if err := s.Keep(t.Context(), &e); err != nil {
			t.Fatal(err)
		}
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	keys, err := s.keys(t.Context(), &Filter{})
	if err != nil {
		t.Fatal(err)
	}
	before := heap()
	read, err := s.read(t.Context(), keys)
	if err != nil || len(read) != letters {
		t.Fatalf("got %d, %v", len(read), err)
	}
	if grown := int64(heap()) - int64(before); grown > letters*size/4 { //nolint:gosec // heaps are not that large
		t.Errorf("%d summaries hold %d bytes", letters, grown)
	}
	runtime.KeepAlive(read)
}
