package alert

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/s3store"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

func bucket(t *testing.T) store.Blob {
	t.Helper()
	b, err := memstore.OpenBlob(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mute(t *testing.T) *telemetry.Telemetry {
	t.Helper()
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		t.Fatal(err)
	}
	return tel
}

// manager makes an instance whose clock shows now.
func manager(t *testing.T, d Deps, hook string, tel *telemetry.Telemetry, now *time.Time) *Manager {
	t.Helper()
	d.Quality = quality
	m, err := New(&Config{Every: 30 * time.Second, Webhook: env.Secret(hook)}, d, tel)
	if err != nil {
		t.Fatal(err)
	}
	m.now = func() time.Time { return *now }
	if m.hook != nil {
		m.hook.first = time.Millisecond
	}
	return m
}

// heard is a broker that keeps what it takes.
type heard struct {
	mu     sync.Mutex
	events []event.Event
	err    error // what it says instead
}

func (h *heard) Send(_ context.Context, events ...event.Event) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err == nil {
		h.events = append(h.events, events...)
	}
	return h.err
}

// ids gives what was heard in the order of the first time.
func (h *heard) ids() []string {
	var all []string
	for _, e := range h.events {
		if id := e.ID(); !slices.Contains(all, id) {
			all = append(all, id)
		}
	}
	return all
}

func apply(t *testing.T, m *Manager, rules string) {
	t.Helper()
	if _, _, err := m.Apply(t.Context(), parse(t, rules), "me", false); err != nil {
		t.Fatal(err)
	}
}

// waves is a source in which versions get worse and better by the clock, each at times of its own.
func waves(q *Query) ([]Sample, error) {
	minute := int(q.Until.Sub(noon) / time.Minute)
	var all []Sample
	for version := 1; version <= 3; version++ {
		all = append(all, sample(fmt.Sprint(version), .75-.1*float64(minute/(version+1)%2)))
	}
	return all, nil
}

const (
	waveRules = "rules:\n  - " + auc + "}\n  - {name: auc-for-two, model: m, metric: auc, window: 1h, below: 0.7, for: 2}\n"
	steps     = 12
)

// undisturbed is what one instance that nobody disturbs makes of the waves.
func undisturbed(t *testing.T) (state string, ids []string) {
	t.Helper()
	now, sink := noon, &heard{}
	m := manager(t, Deps{Blob: bucket(t), Sink: sink}, "", mute(t), &now)
	apply(t, m, waveRules)
	for range steps {
		if err := m.Tick(t.Context(), answers(waves), time.Time{}); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Minute)
	}
	if len(sink.events) < 10 || len(sink.events) != len(sink.ids()) {
		t.Fatalf("got %d events with %d ids", len(sink.events), len(sink.ids()))
	}
	return written(t, m), sink.ids()
}

func written(t *testing.T, m *Manager) string {
	t.Helper()
	s, _, err := m.state(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return string(encode(s))
}

func TestManyInstancesAreAsOne(t *testing.T) {
	for _, test := range []struct {
		name string
		open func(t *testing.T) store.Blob
	}{
		{"memory", bucket},
		{"S3", func(t *testing.T) store.Blob {
			u, err := url.Parse(storetest.S3URL(t))
			if err != nil {
				t.Fatal(err)
			}
			b, err := s3store.OpenBlob(t.Context(), u)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			state, ids := undisturbed(t)
			now, sink, blob, tel := noon, &heard{}, test.open(t), mute(t)
			var instances []*Manager
			for range 4 {
				instances = append(instances, manager(t, Deps{Blob: blob, Sink: sink}, "", tel, &now))
			}
			apply(t, instances[0], waveRules)
			for range steps {
				var all sync.WaitGroup
				for _, m := range instances {
					all.Go(func() {
						for range 2 {
							if err := m.Tick(t.Context(), answers(waves), time.Time{}); err != nil {
								t.Error(err)
							}
						}
					})
				}
				all.Wait()
				now = now.Add(time.Minute)
			}
			if got := written(t, instances[0]); got != state {
				t.Errorf("state: got %s\nwant %s", got, state)
			}
			if got := sink.ids(); !slices.Equal(got, ids) {
				t.Errorf("events: got %v\nwant %v", got, ids)
			}
			if got, want := len(sink.events), len(ids); got != want {
				t.Errorf("got %d events, want each of %d once where nobody dies", got, want)
			}
		})
	}
}

var errKilled = errors.New("killed")

// mortal stands between an instance and all that it touches, and lets only so many
// calls through. The last one is done, and its answer lost, if late.
type mortal struct {
	store.Blob
	sink event.Sink
	left int
	late bool
}

func (m *mortal) dead() (before, after error) {
	m.left--
	switch {
	case m.left < 0:
		return errKilled, errKilled
	case m.left == 0 && m.late:
		return nil, errKilled
	}
	return nil, nil
}

func (m *mortal) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, store.Object, error) {
	if before, after := m.dead(); before != nil || after != nil {
		return nil, store.Object{}, errKilled
	}
	return m.Blob.Get(ctx, key, offset, length)
}

func (m *mortal) Put(ctx context.Context, key string, body io.ReadSeeker, size int64, c store.Condition) (string, error) {
	before, after := m.dead()
	if before != nil {
		return "", before
	}
	version, err := m.Blob.Put(ctx, key, body, size, c)
	return version, errors.Join(err, after)
}

func (m *mortal) Send(ctx context.Context, events ...event.Event) error {
	before, after := m.dead()
	if before != nil {
		return before
	}
	return errors.Join(m.sink.Send(ctx, events...), after)
}

// TestKilledAnywhere kills an instance after each number of calls that it may make, and has others go on.
func TestKilledAnywhere(t *testing.T) {
	state, ids := undisturbed(t)
	tel, again := mute(t), 0
	for kill := 1; ; kill++ {
		survived := false
		for _, late := range []bool{false, true} {
			now, sink, blob := noon, &heard{}, bucket(t)
			apply(t, manager(t, Deps{Blob: blob}, "", tel, &now), waveRules)
			dying := &mortal{Blob: blob, sink: sink, left: kill, late: late}
			m := manager(t, Deps{Blob: dying, Sink: dying}, "", tel, &now)
			for step := range steps {
				if step == steps-1 { // so that what was left is sent by somebody
					m = manager(t, Deps{Blob: blob, Sink: sink}, "", tel, &now)
				}
				if err := m.Tick(t.Context(), answers(waves), time.Time{}); err != nil {
					m = manager(t, Deps{Blob: blob, Sink: sink}, "", tel, &now)
					if err := m.Tick(t.Context(), answers(waves), time.Time{}); err != nil {
						t.Fatal(err)
					}
				}
				now = now.Add(time.Minute)
			}
			if got := written(t, m); got != state {
				t.Fatalf("killed after %d calls (late: %t): got %s\nwant %s", kill, late, got, state)
			}
			if got := sink.ids(); !slices.Equal(got, ids) {
				t.Fatalf("killed after %d calls (late: %t): got %v\nwant %v", kill, late, got, ids)
			}
			again += len(sink.events) - len(ids)
			survived = dying.left > 0
		}
		if survived {
			t.Logf("killed in %d places, %d events told again", kill-1, again)
			break
		}
	}
	if again == 0 {
		t.Error("got no event twice, want some: the test kills between sending and writing that down")
	}
}

// hook is a receiver of webhooks.
type hook struct {
	mu       sync.Mutex
	statuses []int // the next answers; then 200
	bodies   []string
}

func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	h.mu.Lock()
	defer h.mu.Unlock()
	status := http.StatusOK
	if len(h.statuses) > 0 {
		status, h.statuses = h.statuses[0], h.statuses[1:]
	}
	if status == http.StatusOK {
		h.bodies = append(h.bodies, string(b))
	}
	if status == http.StatusFound {
		w.Header().Set("Location", "/elsewhere")
	}
	w.WriteHeader(status)
}

func TestWebhook(t *testing.T) {
	h := &hook{statuses: []int{500, 429}}
	server := httptest.NewServer(h)
	defer server.Close()
	now, sink := noon, &heard{}
	m := manager(t, Deps{Blob: bucket(t), Sink: sink}, server.URL+"/hook?key=hush", mute(t), &now)
	apply(t, m, "rules: ["+auc+`, severity: page, slice: {"carrier-code": B6}, description: Call them.}]`)
	value := .6
	tick := func() error {
		defer func() { now = now.Add(time.Minute) }()
		return m.Tick(t.Context(), answers(func(*Query) ([]Sample, error) { return []Sample{sample("1", value)}, nil }), time.Time{})
	}
	if err := tick(); err != nil {
		t.Fatal(err)
	}
	value = .8
	h.statuses = []int{302, 401, 500, 503, 500} // four tries, and a redirect is none
	sink.err = fault.New(fault.Unavailable, "the broker is away")
	if err := tick(); err == nil || !strings.Contains(err.Error(), "the broker is away") || !strings.Contains(err.Error(), "the webhook answers 503") {
		t.Errorf("got %v, want both to be away", err)
	}
	if status, err := m.Status(t.Context()); err != nil || status.Unsent != 1 {
		t.Errorf("got %+v, %v, want one change to wait", status, err)
	}
	sink.err = nil
	if err := tick(); err != nil {
		t.Fatal(err)
	}
	if status, err := m.Status(t.Context()); err != nil || status.Unsent != 0 || len(status.Resolved) != 1 {
		t.Errorf("got %+v, %v, want no change to wait", status, err)
	}
	id := sink.events[0].ID()
	if len(sink.events) != 2 || sink.events[1].ID() != id+":resolved" {
		t.Errorf("events: got %v", sink.events)
	}
	fingerprint := idOf(key("auc", "m", "1", map[string]string{"carrier-code": "B6"}), time.Time{})[:16]
	labels := `{"alertname":"auc","metric":"auc","model":"m","severity":"page","slice_carrier_code":"B6","version":"1"}`
	want := func(status, summary, ends string) string {
		annotations := `{"description":"Call them.","id":"` + id + `","summary":"` + summary + `"}`
		return `{"version":"4","groupKey":"{}:{alertname=\"auc\"}","truncatedAlerts":0,"status":"` + status + `","receiver":"pilotlight","groupLabels":{"alertname":"auc"},"commonLabels":` + labels +
			`,"commonAnnotations":` + annotations + `,"externalURL":"","alerts":[{"status":"` + status + `","labels":` + labels + `,"annotations":` + annotations +
			`,"startsAt":"2026-11-25T12:00:00Z","endsAt":"` + ends + `","generatorURL":"","fingerprint":"` + fingerprint + `"}]}`
	}
	wants := []string{
		want("firing", "auc of m version 1 where carrier-code is B6 is 0.6 (0.55 to 0.65) over 1h, below 0.7", "0001-01-01T00:00:00Z"),
		want("resolved", "auc of m version 1 where carrier-code is B6 is 0.8 (0.75 to 0.85) over 1h, no longer below 0.7", "2026-11-25T12:01:00Z"),
	}
	if !slices.Equal(h.bodies, wants) {
		t.Errorf("got %s\nwant %s", h.bodies, wants)
	}
}

// What is refused for good is given up, and what is behind it is sent.
func TestARefusedAlertIsDropped(t *testing.T) {
	h := &hook{statuses: []int{400}}
	server := httptest.NewServer(h)
	defer server.Close()
	now := noon
	m := manager(t, Deps{Blob: bucket(t)}, server.URL, mute(t), &now)
	apply(t, m, "rules: ["+auc+"}]")
	if err := m.Tick(t.Context(), answers(func(*Query) ([]Sample, error) { return []Sample{sample("1", .1), sample("2", .1)}, nil }), time.Time{}); err != nil {
		t.Fatal(err)
	}
	status, err := m.Status(t.Context())
	if err != nil || status.Unsent != 0 || len(h.bodies) != 1 || !strings.Contains(h.bodies[0], `"version":"2"`) {
		t.Errorf("got %+v, %v, %s", status, err, h.bodies)
	}
}

// The webhook's URL is in no error, log or message, whatever goes wrong.
func TestTheWebhookIsASecret(t *testing.T) {
	l := httptest.NewServer(nil)
	l.Close() // nobody listens
	broken := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer broken.Close()
	for _, target := range []string{l.URL + "/hush", broken.URL + "/hush", "http://hush.invalid:0/x"} {
		var log strings.Builder
		tel, err := telemetry.Start(t.Context(), &telemetry.Config{Output: &log}, "test")
		if err != nil {
			t.Fatal(err)
		}
		now := noon
		m := manager(t, Deps{Blob: bucket(t)}, target, tel, &now)
		apply(t, m, "rules: ["+auc+"}]")
		err = m.Tick(t.Context(), answers(waves), time.Time{})
		if err != nil {
			t.Fatal(err) // nothing is raised yet
		}
		now = now.Add(2 * time.Minute)
		err = m.Tick(t.Context(), answers(waves), time.Time{})
		if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "the webhook does not answer: ") {
			t.Errorf("got %v, want that it does not answer", err)
		}
		if err := tel.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{fmt.Sprint(err), log.String()} {
			if strings.Contains(text, "hush") || strings.Contains(text, "127.0.0.1") {
				t.Errorf("got %q, which has the URL in it", text)
			}
		}
	}
	err := (&Config{Every: time.Second, Webhook: "hush"}).Validate()
	if !fault.Is(err, fault.Invalid) || strings.Contains(err.Error(), "hush") {
		t.Errorf("got %v", err)
	}
}

// A state that is damaged does not silence alerts for good; one of the future does not either.
func TestTheStateIsNotTrusted(t *testing.T) {
	for name, text := range map[string]string{"damaged": "{", "of another kind": `[]`, "of the future": `{"at":"2036-01-01T00:00:00Z"}`} {
		blob, now := bucket(t), noon.Add(2*time.Minute)
		sink := &heard{}
		m := manager(t, Deps{Blob: blob, Sink: sink}, "", mute(t), &now)
		apply(t, m, "rules: ["+auc+"}]")
		if _, err := blob.Put(t.Context(), stateKey, strings.NewReader(text), int64(len(text)), store.Condition{}); err != nil {
			t.Fatal(err)
		}
		if err := m.Tick(t.Context(), answers(waves), time.Time{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got, want := len(sink.events), 1; got != want {
			t.Errorf("%s: got %d events, want %d", name, got, want)
		}
	}
}

// Two who apply rules at once make two versions.
func TestApplyAtOnce(t *testing.T) {
	blob, now, tel := bucket(t), noon, mute(t)
	var all sync.WaitGroup
	for i := range 8 {
		m := manager(t, Deps{Blob: blob}, "", tel, &now)
		all.Go(func() {
			rules := parse(t, strings.Replace("rules: ["+auc+"}]", "name: auc", fmt.Sprintf("name: r%d", i), 1))
			if _, _, err := m.Apply(t.Context(), rules, "me", false); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	m := manager(t, Deps{Blob: blob}, "", tel, &now)
	newest, err := m.Rules(t.Context(), 0)
	if err != nil || newest.Version != 8 {
		t.Fatalf("got %+v, %v, want version 8", newest, err)
	}
	seen := map[string]bool{}
	for version := 1; version <= 8; version++ {
		r, err := m.Rules(t.Context(), version)
		if err != nil || r.Version != version || len(r.Rules) != 1 {
			t.Fatalf("got %+v, %v", r, err)
		}
		seen[r.Rules[0].Name] = true
	}
	if len(seen) != 8 {
		t.Errorf("got %v, want the rules of all", seen)
	}
}

// A source that hangs costs the rules that come after it their verdict, and nothing else.
func TestASourceThatHangs(t *testing.T) {
	now, sink := noon.Add(2*time.Minute), &heard{}
	m := manager(t, Deps{Blob: bucket(t), Sink: sink}, "", mute(t), &now)
	apply(t, m, "rules: ["+auc+"}, {name: hangs, model: m, metric: mae, window: 1h, above: 1}, {name: late, model: m, metric: auc, window: 1h, below: 1}]")
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	if err := m.Tick(ctx, hanging{}, time.Time{}); err != nil {
		t.Fatal(err)
	}
	status, err := m.Status(t.Context())
	want := map[string]string{"hangs": "the request's time ran out", "late": "time ran out before it was asked"}
	if err != nil || len(status.Active) != 1 || !maps.Equal(status.Troubles, want) || len(sink.events) != 1 {
		t.Errorf("got %+v, %v, %d events", status, err, len(sink.events))
	}
}

// hanging answers for mae once its caller has no time left, and for the rest as waves do.
type hanging struct{}

func (hanging) Samples(ctx context.Context, q *Query) ([]Sample, error) {
	if q.Metric == "mae" {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return waves(q)
}

// What happened is found out the same when it is looked at later, as of then.
func TestTickAsOfAMoment(t *testing.T) {
	want, ids := undisturbed(t)
	now, sink := noon.AddDate(12, 0, 0), &heard{}
	m := manager(t, Deps{Blob: bucket(t), Sink: sink}, "", mute(t), &now)
	apply(t, m, waveRules)
	for i := range steps {
		for range 2 { // the second is the same tick
			if err := m.Tick(t.Context(), answers(waves), noon.Add(time.Duration(i)*time.Minute)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := written(t, m); got != want || !slices.Equal(sink.ids(), ids) {
		t.Errorf("got %s, want %s", got, want)
	}
}
