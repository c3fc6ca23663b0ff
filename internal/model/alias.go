package model

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Aliases are the names that a model's versions go by, and how they came to.
// They live in one object that is replaced by compare-and-swap, so that racing
// moves leave one linear history.
type Aliases struct {
	Current map[string]int `json:"aliases"`
	// Splits are of those aliases that name more than one version.
	Splits  map[string]*Split `json:"splits,omitempty"`
	History []Move            `json:"history"` // oldest first
}

// Move is one change of one alias.
type Move struct {
	Seq    int       `json:"seq"` // 1 for the model's first move
	Alias  string    `json:"alias"`
	From   int       `json:"from,omitempty"`   // 0: the alias did not exist
	To     int       `json:"to,omitempty"`     // 0: the alias was removed
	Before *Split    `json:"before,omitempty"` // what it named beside From
	After  *Split    `json:"after,omitempty"`  // what it names beside To
	At     time.Time `json:"at"`
	By     string    `json:"by,omitempty"`
	Why    string    `json:"why,omitempty"`
	// Cause is the id of the event that it was for, such as that of a pipeline's run.
	Cause string `json:"cause,omitempty"`
	// Undoes is the Seq of the move that a rollback took back, with all moves of the alias between the two.
	Undoes int `json:"undoes,omitempty"`
}

// Change asks for a move.
type Change struct {
	To int // the version; 0: none
	// Expect, when not nil, is the version that the alias must name now (0: it
	// must not exist); otherwise the move is refused as a Conflict.
	Expect *int
	// Seen, when not nil, is the Seq of the alias's last move that the caller knows
	// of (0: it knows of none); if there is a newer one the move is refused as a Conflict.
	Seen *int
	By   string
	Why  string
	// Cause is the id of the event that it is for; "": nobody says.
	Cause string
}

// refused tells whether somebody else was quicker.
func (ch *Change) refused(a *Aliases, name, alias string) error {
	if from := a.Current[alias]; ch.Expect != nil && *ch.Expect != from {
		return fault.New(fault.Conflict, "alias %q of model %q names version %d, not %d as expected", alias, name, from, *ch.Expect)
	}
	if last := a.Last(alias); ch.Seen != nil && *ch.Seen != last {
		return fault.New(fault.Conflict, "alias %q of model %q was last moved by move %d, not %d as expected", alias, name, last, *ch.Seen)
	}
	return nil
}

// Last is the Seq of an alias's last move; 0: there is none.
func (a *Aliases) Last(alias string) int {
	for _, m := range slices.Backward(a.History) {
		if m.Alias == alias {
			return m.Seq
		}
	}
	return 0
}

// earlier finds the move that a rollback takes back: the newest that was not taken
// back yet, before which the alias was otherwise than now and had no canary, and by which no shadow became one that
// answers still. So one rollback takes a version back whatever it went through on its way, as a shadow and with
// any shares, and none begins a canary.
func (a *Aliases) earlier(alias string) (Move, bool) {
	end := len(a.History) + 1 // moves from here on were taken back
	for _, m := range slices.Backward(a.History) {
		switch {
		case m.Alias != alias || m.Seq >= end:
		case m.Undoes > 0:
			end = m.Undoes
		case m.Before.canaries() > 0 || m.Before != nil && m.After.has(m.Before.Shadow) && (a.Current[alias] == m.Before.Shadow || a.Splits[alias].has(m.Before.Shadow)) || m.From == a.Current[alias] && m.Before.equal(a.Splits[alias]):
		default:
			return m, true
		}
	}
	return Move{}, false
}

func aliasKey(name string) string { return "models/" + name + "/aliases" }

// readAliases gives a model's aliases and the version of the object that holds
// them; a model without any has an empty version.
func (c *Catalog) readAliases(ctx context.Context, name string) (*Aliases, string, error) {
	a := &Aliases{Current: map[string]int{}}
	b, o, err := store.ReadAll(ctx, c.blob, aliasKey(name))
	if fault.Is(err, fault.NotFound) {
		return a, "", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("read aliases of %q: %w", name, err)
	}
	if err := json.Unmarshal(b, a); err != nil {
		return nil, "", fault.Wrap(fault.Internal, err, "the aliases of model %q are damaged in the bucket", name)
	}
	if a.Current == nil { // it said null
		a.Current = map[string]int{}
	}
	maps.DeleteFunc(a.Splits, func(alias string, s *Split) bool { return !s.sound(a.Current[alias]) })
	return a, o.Version, nil
}

// Aliases reads a model's aliases and their history from the bucket.
func (c *Catalog) Aliases(ctx context.Context, name string) (*Aliases, error) {
	if err := c.exists(ctx, name); err != nil {
		return nil, err
	}
	a, _, err := c.readAliases(ctx, name)
	return a, err
}

// checkMove refuses changes of what does not exist.
func (c *Catalog) checkMove(ctx context.Context, name, alias string, to int) error {
	if err := CheckAlias(alias); err != nil {
		return err
	}
	if to == 0 {
		return c.exists(ctx, name)
	}
	_, err := c.Manifest(ctx, name, to)
	return err
}

// Move points an alias at a version, which then answers all of its traffic: a canary
// ends, and a shadow stays unless it is the version. Moving it where it is already changes
// nothing and adds nothing to the history, so a repeated call is harmless.
func (c *Catalog) Move(ctx context.Context, name, alias string, ch Change) (Move, error) {
	if err := c.checkMove(ctx, name, alias, ch.To); err != nil {
		return Move{}, err
	}
	return c.change(ctx, name, alias, &ch, func(a *Aliases) (Move, error) {
		m := Move{To: ch.To}
		if ch.To != 0 {
			m.After = a.Splits[alias].alone(ch.To)
		}
		return m, nil
	})
}

// Rollback takes back the newest move of an alias that was not taken back yet;
// called again, the one before it. It takes back a canary as a whole, however
// often its share was changed. ch.To says nothing.
func (c *Catalog) Rollback(ctx context.Context, name, alias string, ch Change) (Move, error) {
	if err := c.checkMove(ctx, name, alias, 0); err != nil {
		return Move{}, err
	}
	return c.change(ctx, name, alias, &ch, func(a *Aliases) (Move, error) {
		m, ok := a.earlier(alias)
		if !ok || m.From == 0 {
			return Move{}, fault.New(fault.Conflict, "alias %q of model %q has no earlier version to go back to", alias, name)
		}
		return Move{To: m.From, After: m.Before, Undoes: m.Seq}, nil
	})
}

// change applies one move of an alias by compare-and-swap; a lost race starts again from
// what the winner wrote.
func (c *Catalog) change(ctx context.Context, name, alias string, ch *Change, next func(*Aliases) (Move, error)) (Move, error) {
	for attempt := range 100 {
		a, version, err := c.readAliases(ctx, name)
		if err != nil {
			return Move{}, err
		}
		if err := ch.refused(a, name, alias); err != nil {
			return Move{}, err
		}
		m, err := next(a)
		if err != nil {
			return Move{}, err
		}
		m.Alias, m.From, m.Before, m.By, m.Why, m.Cause = alias, a.Current[alias], a.Splits[alias], ch.By, ch.Why, ch.Cause
		if m.From == m.To && m.Before.equal(m.After) {
			return m, nil
		}
		m.At = c.now().UTC()
		m.Seq = len(a.History) + 1
		m.After = m.After.since(m.Seq)
		b, err := json.Marshal(a.with(m))
		if err != nil {
			return Move{}, fmt.Errorf("encode aliases of %q: %w", name, err)
		}
		condition := store.IfAbsent()
		if version != "" {
			condition = store.IfVersion(version)
		}
		_, err = c.blob.Put(ctx, aliasKey(name), bytes.NewReader(b), int64(len(b)), condition)
		if err == nil {
			c.forget(name)
			c.outbox.Give(ctx, event.AliasMoved.New(m.event(name)))
			return m, nil
		}
		if !fault.Is(err, fault.Conflict) {
			return Move{}, fmt.Errorf("write aliases of %q: %w", name, err)
		}
		select {
		case <-ctx.Done():
			return Move{}, ctx.Err()
		case <-time.After(rand.N(time.Duration(min(attempt+1, 20)) * time.Millisecond)):
		}
	}
	return Move{}, fault.New(fault.Conflict, "the aliases of model %q change faster than this move can be made; try again", name)
}

// with adds a move to the aliases, whose maps are theirs alone.
func (a *Aliases) with(m Move) *Aliases {
	a.History = append(a.History, m)
	a.Current[m.Alias] = m.To
	if m.To == 0 {
		delete(a.Current, m.Alias)
	}
	if a.Splits == nil {
		a.Splits = map[string]*Split{}
	}
	a.Splits[m.Alias] = m.After
	if m.After == nil {
		delete(a.Splits, m.Alias)
	}
	return a
}

// event is the move as it is told to others.
func (m *Move) event(name string) event.Moved {
	e := event.Moved{Model: name, Alias: m.Alias, Seq: m.Seq, From: m.From, To: m.To, At: m.At, By: m.By, Why: m.Why, Cause: m.Cause}
	if m.After != nil {
		e.Shadow = m.After.Shadow
		for _, s := range m.After.Canaries {
			e.Canaries = append(e.Canaries, event.Share{Version: s.Version, Share: s.Share})
		}
	}
	return e
}
