package model

import (
	"errors"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
)

func TestCards(t *testing.T) {
	c := newCatalog(newMem())
	publish(t, c, "m")
	if _, err := c.Card(t.Context(), "m", 1); !fault.Is(err, fault.NotFound) || !strings.Contains(err.Error(), "has no card") {
		t.Errorf("got %v", err)
	}
	if err := c.PutCard(t.Context(), "m", 1, []byte(`{"model":"m"}`)); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Card(t.Context(), "m", 1); err != nil || string(got) != `{"model":"m"}` {
		t.Errorf("got %s, %v", got, err)
	}
	for _, bad := range []string{"", "{", `"` + strings.Repeat("x", cardMost) + `"`} {
		if err := c.PutCard(t.Context(), "m", 1, []byte(bad)); !fault.Is(err, fault.Invalid) {
			t.Errorf("%.10q: got %v", bad, err)
		}
	}
	if err := c.PutCard(t.Context(), "m", 2, []byte(`{}`)); !fault.Is(err, fault.NotFound) {
		t.Errorf("got %v", err)
	}
	if got, err := c.Versions(t.Context(), "m"); err != nil || len(got) != 1 {
		t.Errorf("cards are no versions: got %v, %v", got, err)
	}
	if m, err := c.Resolve(t.Context(), Ref{Name: "m"}); err != nil || m.Version != 1 {
		t.Errorf("got %v, %v", m, err)
	}
}

// What is published for a cause is there once, however often it is repeated, by whomever, and after which kill.
func TestACauseIsPublishedOnce(t *testing.T) {
	for write := range 3 {
		blob := newMem()
		c := newCatalog(blob)
		publish(t, c, "m")
		m := manifest("m")
		m.Cause = "flights:7"
		if _, err := newCatalog(storetest.NewMortal(blob, write)).Publish(t.Context(), m); err != nil && !errors.Is(err, storetest.ErrKilled) {
			t.Fatal(err)
		}
		publish(t, c, "m") // somebody else's
		for range 2 {
			if got, err := newCatalog(blob).Publish(t.Context(), m); err != nil || got.Cause != m.Cause {
				t.Fatalf("got %+v, %v", got, err)
			}
		}
		versions, err := newCatalog(blob).Versions(t.Context(), "m")
		if err != nil || len(versions) != 3 {
			t.Errorf("killed at write %d: got %v, %v", write, versions, err)
		}
		other := manifest("m")
		other.Cause, other.Digest = m.Cause, newDigest(append(make([]byte, 31), 1))
		if got, err := c.Publish(t.Context(), other); err != nil || got.Version != 4 {
			t.Errorf("another file for the same cause: got %+v, %v", got, err)
		}
	}
	// Two at once, neither of which saw the other's.
	blob := newMem()
	m := manifest("m")
	m.Cause = "flights:8"
	done := make(chan int)
	for range 8 {
		go func() {
			got, err := newCatalog(blob).Publish(t.Context(), m)
			if err != nil {
				t.Error(err)
				got = &Manifest{}
			}
			done <- got.Version
		}()
	}
	for range 8 {
		if v := <-done; v != 1 {
			t.Errorf("got version %d", v)
		}
	}
}

// One rollback takes a version back that was a shadow, then a canary, then everything, at whatever stage it is.
func TestRollbackOfAVersionOnItsWay(t *testing.T) {
	for stage := range 4 {
		c := newCatalog(newMem())
		for range 2 {
			publish(t, c, "m")
		}
		steps := []func() (Move, error){
			func() (Move, error) { return c.Shadow(t.Context(), "m", Champion, Change{To: 2}) },
			func() (Move, error) { return c.Canary(t.Context(), "m", Champion, .1, Change{To: 2}) },
			func() (Move, error) { return c.Canary(t.Context(), "m", Champion, .5, Change{To: 2}) },
			func() (Move, error) { return c.Promote(t.Context(), "m", Champion, Change{}) },
		}
		if _, err := c.Move(t.Context(), "m", Champion, Change{To: 1}); err != nil {
			t.Fatal(err)
		}
		for _, step := range steps[:stage+1] {
			if _, err := step(); err != nil {
				t.Fatal(err)
			}
		}
		m, err := c.Rollback(t.Context(), "m", Champion, Change{})
		if err != nil || m.To != 1 || m.After != nil {
			t.Errorf("stage %d: got %+v, %v", stage, m, err)
		}
		if m, err := c.Rollback(t.Context(), "m", Champion, Change{}); !fault.Is(err, fault.Conflict) {
			t.Errorf("stage %d: there is nothing earlier: got %+v, %v", stage, m, err)
		}
	}
}
