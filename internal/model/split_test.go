package model

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// words writes what an alias names: "1", "1 2:0.1 3:0.2^ ~4", where ^ is the high end and ~ a shadow.
func words(a *Aliases, alias string) string {
	out := fmt.Sprint(a.Current[alias])
	s := a.Splits[alias]
	if s == nil {
		return out
	}
	for _, c := range s.Canaries {
		out += fmt.Sprintf(" %d:%g", c.Version, c.Share)
		if c.High {
			out += "^"
		}
	}
	if s.Shadow > 0 {
		out += fmt.Sprintf(" ~%d", s.Shadow)
	}
	return out
}

func TestSplit(t *testing.T) {
	c := newCatalog(newMem())
	for range 5 {
		publish(t, c, "m")
	}
	for i, step := range []struct {
		do    string
		to    int
		share float64
		want  string // champion afterwards
		kind  fault.Kind
		err   string
	}{
		{do: "canary", to: 2, share: .1, want: "0", kind: fault.NotFound, err: `no alias "champion"`},
		{do: "shadow", to: 2, want: "0", kind: fault.NotFound, err: `no alias "champion"`},
		{do: "promote", want: "0", kind: fault.Conflict, err: "no canary to promote"},
		{do: "move", to: 1, want: "1"},
		{do: "canary", to: 9, share: .1, want: "1", kind: fault.NotFound, err: "no version 9"},
		{do: "canary", to: 1, share: .1, want: "1", kind: fault.Invalid, err: "names already"},
		{do: "canary", to: 2, share: 1, want: "1", kind: fault.Invalid, err: "promote it"},
		{do: "canary", to: 2, share: -.1, want: "1", kind: fault.Invalid, err: "the share is -0.1"},
		{do: "canary", to: 2, share: math.NaN(), want: "1", kind: fault.Invalid, err: "the share is NaN"},
		{do: "canary", to: 0, share: .1, want: "1", kind: fault.Invalid, err: "version is 0"},
		{do: "canary", to: 2, want: "1"},
		{do: "shadow", to: 1, want: "1", kind: fault.Invalid, err: "answers alias"},
		{do: "shadow", to: 2, want: "1 ~2"},
		{do: "canary", to: 2, share: .1, want: "1 2:0.1"}, // it is the shadow no longer
		{do: "shadow", to: 2, want: "1 2:0.1", kind: fault.Invalid, err: "answers alias"},
		{do: "shadow", to: 4, want: "1 2:0.1 ~4"},
		{do: "canary", to: 3, share: .95, want: "1 2:0.1 ~4", kind: fault.Invalid, err: "have 1.05 in all"},
		{do: "canary", to: 3, share: .9, want: "1 2:0.1 ~4", kind: fault.Invalid, err: "in all"},
		{do: "canary", to: 3, share: .2, want: "1 2:0.1 3:0.2^ ~4"},
		{do: "canary", to: 5, share: .1, want: "1 2:0.1 3:0.2^ ~4", kind: fault.Conflict, err: "has 2 canaries already, versions 2 and 3"},
		{do: "promote", want: "1 2:0.1 3:0.2^ ~4", kind: fault.Conflict, err: "say which"},
		{do: "promote", to: 4, want: "1 2:0.1 3:0.2^ ~4", kind: fault.Conflict, err: "no canary 4"},
		{do: "canary", to: 2, share: .3, want: "1 2:0.3 3:0.2^ ~4"},
		{do: "canary", to: 2, want: "1 3:0.2^ ~4"},                  // it ends, and the other keeps its end
		{do: "canary", to: 5, share: .1, want: "1 3:0.2^ 5:0.1 ~4"}, // and has the free one
		{do: "promote", to: 3, want: "3 ~4"},
		{do: "promote", to: 3, want: "3 ~4"},
		{do: "rollback", want: "1 ~2"}, // what it was before all canaries
		{do: "rollback", want: "1"},
		{do: "rollback", want: "1", kind: fault.Conflict, err: "no earlier version"},
		{do: "move", to: 3, want: "3"},
		{do: "canary", to: 5, share: .01, want: "3 5:0.01"},
		{do: "canary", to: 5, share: .5, want: "3 5:0.5"},
		{do: "rollback", want: "3"}, // however often the share was changed
		{do: "rollback", want: "1"},
		{do: "canary", to: 5, share: .5, want: "1 5:0.5"},
		{do: "canary", to: 5, want: "1"},
		{do: "rollback", want: "1", kind: fault.Conflict, err: "no earlier version"}, // no canary begins by it
		{do: "canary", to: 5, share: .5, want: "1 5:0.5"},
		{do: "move", to: 1, want: "1"}, // a move to where it is ends canaries
		{do: "shadow", to: 2, want: "1 ~2"},
		{do: "move", to: 3, want: "3 ~2"},
		{do: "move", to: 2, want: "2"},
		{do: "canary", to: 3, share: .5, want: "2 3:0.5"},
		{do: "move", to: 0, want: "0"},
		{do: "rollback", want: "2"}, // it comes back without the canary
		{do: "rollback", want: "3 ~2"},
	} {
		var err error
		switch ch := (Change{To: step.to}); step.do {
		case "move":
			_, err = c.Move(t.Context(), "m", Champion, ch)
		case "canary":
			_, err = c.Canary(t.Context(), "m", Champion, step.share, ch)
		case "shadow":
			_, err = c.Shadow(t.Context(), "m", Champion, ch)
		case "promote":
			_, err = c.Promote(t.Context(), "m", Champion, ch)
		case "rollback":
			_, err = c.Rollback(t.Context(), "m", Champion, ch)
		}
		if (err != nil) != (step.err != "") || err != nil && (fault.KindOf(err) != step.kind || !strings.Contains(err.Error(), step.err)) {
			t.Fatalf("%d, %s %d: got error %v, want %q", i, step.do, step.to, err, step.err)
		}
		a, err := c.Aliases(t.Context(), "m")
		if err != nil {
			t.Fatal(err)
		}
		if got := words(a, Champion); got != step.want {
			t.Fatalf("%d, after %s %d: got champion %s, want %s", i, step.do, step.to, got, step.want)
		}
	}
	checkHistory(t, c)
}

// checkHistory follows the history of m's champion and holds it against what there is.
func checkHistory(t *testing.T, c *Catalog) {
	t.Helper()
	a, err := c.Aliases(t.Context(), "m")
	if err != nil {
		t.Fatal(err)
	}
	now := &Aliases{Current: map[string]int{}, Splits: map[string]*Split{}}
	for i, m := range a.History {
		if m.Seq != i+1 || m.From != now.Current[Champion] || !m.Before.equal(now.Splits[Champion]) || m.From == m.To && m.Before.equal(m.After) {
			t.Fatalf("move %d does not follow from the one before: got %+v after %s", i+1, m, words(now, Champion))
		}
		if m.After != nil && !m.After.sound(m.To) {
			t.Fatalf("move %d: %+v is not sound", i+1, m.After)
		}
		now.with(m)
	}
	if got, want := words(a, Champion), words(now, Champion); got != want {
		t.Errorf("champion: got %s, want %s, where the history ends", got, want)
	}
}

func TestRacingCanariesLeaveOneHistory(t *testing.T) {
	forEachBucket(t, func(t *testing.T, open func() store.Blob) {
		first := newCatalog(open())
		for range 5 {
			publish(t, first, "m")
		}
		if _, err := first.Move(t.Context(), "m", Champion, Change{To: 1}); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for i := range 5 {
			c := newCatalog(open())
			wg.Go(func() {
				random := rand.New(rand.NewPCG(1, uint64(i)))
				for range 10 {
					var err error
					switch ch := (Change{To: 1 + random.IntN(5), By: fmt.Sprint(i)}); random.IntN(6) {
					case 0:
						_, err = c.Move(t.Context(), "m", Champion, ch)
					case 1:
						_, err = c.Rollback(t.Context(), "m", Champion, ch)
					case 2:
						_, err = c.Promote(t.Context(), "m", Champion, Change{})
					case 3:
						_, err = c.Shadow(t.Context(), "m", Champion, ch)
					default:
						_, err = c.Canary(t.Context(), "m", Champion, float64(random.IntN(9))/10, ch)
					}
					if err != nil && !fault.Is(err, fault.Conflict) && !fault.Is(err, fault.Invalid) {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		checkHistory(t, first)
	})
}

// Who acts on what he saw is refused when it is no longer so.
func TestAChangeOfWhatWasSeen(t *testing.T) {
	c := newCatalog(newMem())
	publish(t, c, "m")
	publish(t, c, "m")
	seen := func(n int) Change { return Change{To: 2, Seen: &n} }
	if _, err := c.Move(t.Context(), "m", Champion, Change{To: 1, Seen: new(int)}); err != nil {
		t.Fatal(err)
	}
	m, err := c.Canary(t.Context(), "m", Champion, .1, seen(1))
	if err != nil || m.Seq != 2 {
		t.Fatalf("got %+v, %v", m, err)
	}
	if _, err := c.Move(t.Context(), "m", "other", Change{To: 1}); err != nil { // which is another alias
		t.Fatal(err)
	}
	if _, err := c.Canary(t.Context(), "m", Champion, .2, seen(2)); err != nil {
		t.Fatal(err)
	}
	for name, do := range map[string]func() (Move, error){
		"canary":   func() (Move, error) { return c.Canary(t.Context(), "m", Champion, .3, seen(2)) },
		"promote":  func() (Move, error) { return c.Promote(t.Context(), "m", Champion, seen(2)) },
		"rollback": func() (Move, error) { return c.Rollback(t.Context(), "m", Champion, seen(2)) },
		"shadow":   func() (Move, error) { return c.Shadow(t.Context(), "m", Champion, seen(2)) },
	} {
		if _, err := do(); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "last moved by move 4, not 2") {
			t.Errorf("%s: got %v, want a conflict", name, err)
		}
	}
	if m, err := c.Rollback(t.Context(), "m", Champion, seen(4)); err != nil || m.Undoes != 2 || m.To != 1 || m.After != nil {
		t.Errorf("got %+v, %v", m, err)
	}
}

func TestACrashLeavesTheOldSplitOrTheNew(t *testing.T) {
	for _, after := range []bool{false, true} {
		blob := newMem()
		c := newCatalog(blob)
		publish(t, c, "m")
		publish(t, c, "m")
		if _, err := c.Move(t.Context(), "m", Champion, Change{To: 1}); err != nil {
			t.Fatal(err)
		}
		dying := newCatalog(&crash{Blob: blob, left: 1, after: after})
		if _, err := dying.Canary(t.Context(), "m", Champion, .25, Change{To: 2}); !errors.Is(err, errCrash) {
			t.Fatalf("got %v, want a crash", err)
		}
		a, err := newCatalog(blob).Aliases(t.Context(), "m")
		if err != nil {
			t.Fatal(err)
		}
		want, moves := "1", 1
		if after {
			want, moves = "1 2:0.25", 2
		}
		if got := words(a, Champion); got != want || len(a.History) != moves {
			t.Errorf("after=%v: got %s with %d moves, want %s with %d", after, got, len(a.History), want, moves)
		}
	}
}

func TestSplitsOfOthersAreSeen(t *testing.T) {
	blob := newMem()
	here, there := NewCatalog(blob, time.Millisecond, nil), newCatalog(blob)
	publish(t, there, "m")
	publish(t, there, "m")
	if _, err := there.Move(t.Context(), "m", Champion, Change{To: 1}); err != nil {
		t.Fatal(err)
	}
	route := func(ref Ref) *Split {
		t.Helper()
		m, s, err := here.Route(t.Context(), ref)
		if err != nil || m.Version != 1 {
			t.Fatalf("got %v, %v, want version 1", m, err)
		}
		return s
	}
	if s := route(Ref{Name: "m"}); s != nil {
		t.Fatalf("got %+v", s)
	}
	if _, err := there.Canary(t.Context(), "m", Champion, .25, Change{To: 2}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { s := route(Ref{Name: "m"}); return s != nil && s.Choose(0) == 2 })
	if here.Known("m", 2) == nil {
		t.Error("the canary's manifest is not known yet: who chooses it would wait")
	}
	if s := route(Ref{Name: "m", Version: "champion"}); s.Share(2) != .25 || s.Share(1) != .75 {
		t.Errorf("got %+v", s)
	}
	if s := route(Ref{Name: "m", Version: "1"}); s != nil {
		t.Errorf("a version has %+v", s)
	}
	if _, err := there.Rollback(t.Context(), "m", Champion, Change{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return route(Ref{Name: "m"}) == nil })
}

// What can't be a split, or has versions that are not there, is none: the alias's version answers.
func TestDamagedSplitsAreNone(t *testing.T) {
	for _, split := range []string{
		`null`, `{}`, `{"shadow":1}`, `{"shadow":-2}`, `{"shadow":7}`, `{"canaries":[{"version":2}]}`, `{"canaries":[{"version":2,"share":1}]}`,
		`{"canaries":[{"version":1,"share":0.1}]}`, `{"canaries":[{"version":7,"share":0.1}]}`, `{"canaries":[{"version":2,"share":-0.1}]}`,
		`{"canaries":[{"version":2,"share":0.1},{"version":3,"share":0.1}]}`, `{"canaries":[{"version":2,"share":0.1},{"version":2,"share":0.1,"high":true}]}`,
		`{"canaries":[{"version":2,"share":0.6},{"version":3,"share":0.6,"high":true}]}`, `{"canaries":[{"version":2,"share":0.1}],"shadow":2}`,
	} {
		blob := newMem()
		c := newCatalog(blob)
		for range 3 {
			publish(t, c, "m")
		}
		b := []byte(`{"aliases":{"champion":1},"splits":{"champion":` + split + `,"gone":{"shadow":2}},"history":[]}`)
		if _, err := blob.Put(t.Context(), aliasKey("m"), bytes.NewReader(b), int64(len(b)), store.Condition{}); err != nil {
			t.Fatal(err)
		}
		m, s, err := c.Route(t.Context(), Ref{Name: "m"})
		if err != nil || m.Version != 1 || s != nil {
			t.Errorf("%s: got %v, %+v, %v", split, m, s, err)
		}
		if _, err := c.Canary(t.Context(), "m", Champion, .5, Change{To: 3}); err != nil {
			t.Errorf("%s: %v", split, err)
		}
	}
}

func FuzzAliases(f *testing.F) {
	for _, seed := range []string{
		`{"aliases":{"champion":1},"splits":{"champion":{"canaries":[{"version":2,"share":0.1},{"version":3,"share":0.5,"high":true}],"since":2}},"history":[{"seq":1,"alias":"champion","to":1},{"seq":2,"alias":"champion","from":1,"to":1,"after":{"canaries":[{"version":2,"share":0.1}],"since":2}}]}`,
		`{"aliases":null,"splits":null,"history":null}`, `{"aliases":{"champion":-1},"history":[{"seq":9,"alias":"champion","undoes":-3},{"seq":-9,"alias":"champion","before":{}}]}`, `[]`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		blob := newMem()
		c := newCatalog(blob)
		for range 3 {
			if _, err := c.Publish(t.Context(), manifest("m")); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := blob.Put(t.Context(), aliasKey("m"), bytes.NewReader(b), int64(len(b)), store.Condition{}); err != nil {
			t.Fatal(err)
		}
		if m, s, err := c.Route(t.Context(), Ref{Name: "m"}); err == nil && s != nil {
			if !s.sound(m.Version) {
				t.Errorf("got %+v beside version %d", s, m.Version)
			}
			for _, v := range s.Versions() {
				if c.Known("m", v) == nil {
					t.Errorf("version %d is not known", v)
				}
			}
		}
		for _, err := range []error{
			second(c.Canary(t.Context(), "m", Champion, .5, Change{To: 3})), second(c.Promote(t.Context(), "m", Champion, Change{})),
			second(c.Rollback(t.Context(), "m", Champion, Change{})), second(c.Shadow(t.Context(), "m", Champion, Change{})),
		} {
			if err != nil && fault.KindOf(err) == fault.Internal && json.Valid(b) && json.Unmarshal(b, &Aliases{}) == nil {
				t.Error(err)
			}
		}
	})
}

// A share that grows moves keys only to the version that it is of, and one that
// shrinks only away from it, to the version beside the canaries: whatever the others have.
func TestAGrowingShareMovesKeysOnlyIntoIt(t *testing.T) {
	c := newCatalog(newMem())
	for range 3 {
		publish(t, c, "m")
	}
	if _, err := c.Move(t.Context(), "m", Champion, Change{To: 1}); err != nil {
		t.Fatal(err)
	}
	keys := make([][]byte, 5000)
	for i := range keys {
		keys[i] = fmt.Appendf(nil, "customer-%d", i)
	}
	var split *Split
	assign := func() []int {
		_, s, err := c.Route(t.Context(), Ref{Name: "m"})
		if err != nil {
			t.Fatal(err)
		}
		split = s
		out := make([]int, len(keys))
		for i, k := range keys {
			out[i] = 1
			if s.canaries() > 0 {
				if v := s.Choose(s.Point("m", k)); v != 0 {
					out[i] = v
				}
			}
		}
		return out
	}
	random := rand.New(rand.NewPCG(7, 7))
	before := assign()
	had, since, moved := [4]float64{}, 0, 0
	for range 200 {
		version, share := 2+random.IntN(2), float64(random.IntN(10))/10
		_, err := c.Canary(t.Context(), "m", Champion, share, Change{To: version})
		if fault.Is(err, fault.Invalid) {
			continue // too much in all
		}
		if err != nil {
			t.Fatal(err)
		}
		now := assign()
		same := since == 0 || split == nil || split.Since == since // else the canaries began anew, for others
		for i := range keys {
			switch {
			case before[i] == now[i]:
			case !same && had[5-version] == 0:
			case share > had[version] && now[i] == version && before[i] == 1:
				moved++
			case share < had[version] && before[i] == version && now[i] == 1:
				moved++
			default:
				t.Fatalf("%s went from version %d to %d as the share of version %d went from %g to %g", keys[i], before[i], now[i], version, had[version], share)
			}
		}
		had[version] = share
		for v := 2; v <= 3; v++ {
			n := len(slices.DeleteFunc(slices.Clone(now), func(x int) bool { return x != v }))
			if got := float64(n) / float64(len(keys)); math.Abs(got-had[v]) > .03 { // 4 standard errors
				t.Errorf("version %d has %g of the keys, want %g", v, got, had[v])
			}
		}
		before, since = now, 0
		if split.canaries() > 0 {
			since = split.Since
		}
	}
	if moved < len(keys) {
		t.Errorf("%d keys moved in all: too few to tell", moved)
	}
}

// Who is in a canary is not who was in the one before, nor in another model's, but the same in all processes.
func TestPointsDependOnTheCanary(t *testing.T) {
	a, b := &Split{Canaries: []Canary{{Version: 2, Share: .1}}, Since: 3}, &Split{Canaries: []Canary{{Version: 2, Share: .1}}, Since: 4}
	both := 0
	const n = 20_000
	for i := range n {
		k := fmt.Append(nil, i)
		if a.Choose(a.Point("m", k)) == 2 && b.Choose(b.Point("m", k)) == 2 {
			both++
		}
		if a.Point("m", k) == a.Point("o", k) {
			t.Fatalf("key %d has the same point in two models", i)
		}
	}
	if both < n/200 || both > n/50 { // 1 % is expected
		t.Errorf("%d of %d are in both canaries", both, n)
	}
	if got, want := a.Point("m", []byte("d7")), 0.042119875626721925; got != want {
		t.Errorf("got %v, want %v: processes of different builds must agree", got, want)
	}
}

// gathered is a sink that keeps events.
type gathered struct {
	mu     sync.Mutex
	events []event.Event
}

func (g *gathered) Send(_ context.Context, events ...event.Event) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.events = append(g.events, events...)
	return nil
}

func TestSplitsAreTold(t *testing.T) {
	var sink gathered
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Output: testWriter{t}}, "test")
	if err != nil {
		t.Fatal(err)
	}
	outbox, err := event.NewOutbox(&sink, tel)
	if err != nil {
		t.Fatal(err)
	}
	c := NewCatalog(newMem(), time.Hour, outbox)
	for range 3 {
		publish(t, c, "m")
	}
	for _, err := range []error{
		second(c.Move(t.Context(), "m", Champion, Change{To: 1})),
		second(c.Shadow(t.Context(), "m", Champion, Change{To: 3})),
		second(c.Canary(t.Context(), "m", Champion, .25, Change{To: 2, By: "me", Why: "try"})),
		second(c.Promote(t.Context(), "m", Champion, Change{})),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := outbox.Close(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range sink.events {
		if e.Type() == event.AliasMoved.Name {
			d, err := event.AliasMoved.Decode(&e)
			if err != nil {
				t.Fatal(err)
			}
			d.At = time.Time{}
			b, _ := json.Marshal(d)
			got = append(got, e.ID()+" "+string(b))
		}
	}
	want := []string{
		`m:champion:1 {"model":"m","alias":"champion","seq":1,"to":1,"at":"0001-01-01T00:00:00Z"}`,
		`m:champion:2 {"model":"m","alias":"champion","seq":2,"from":1,"to":1,"at":"0001-01-01T00:00:00Z","shadow":3}`,
		`m:champion:3 {"model":"m","alias":"champion","seq":3,"from":1,"to":1,"at":"0001-01-01T00:00:00Z","by":"me","why":"try","canaries":[{"version":2,"share":0.25}],"shadow":3}`,
		`m:champion:4 {"model":"m","alias":"champion","seq":4,"from":1,"to":2,"at":"0001-01-01T00:00:00Z","shadow":3}`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func second(_ Move, err error) error { return err }

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(string(b))
	return len(b), nil
}

func BenchmarkPoint(b *testing.B) {
	s := &Split{Canaries: []Canary{{Version: 2, Share: .1}}, Since: 3}
	key := []byte("customer-1234567")
	b.ReportAllocs()
	for b.Loop() {
		s.Choose(s.Point("flights", key))
	}
}
