package model

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
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
	History []Move         `json:"history"` // oldest first
}

// Move is one change of one alias.
type Move struct {
	Seq    int       `json:"seq"` // 1 for the model's first move
	Alias  string    `json:"alias"`
	From   int       `json:"from,omitempty"` // 0: the alias did not exist
	To     int       `json:"to,omitempty"`   // 0: the alias was removed
	At     time.Time `json:"at"`
	By     string    `json:"by,omitempty"`
	Why    string    `json:"why,omitempty"`
	Undoes int       `json:"undoes,omitempty"` // the Seq that a rollback took back
}

// Change asks for a move.
type Change struct {
	To int // the version; 0 removes the alias
	// Expect, when not nil, is the version that the alias must name now (0: it
	// must not exist); otherwise the move is refused as a Conflict.
	Expect *int
	By     string
	Why    string
}

// undoable finds the newest move of the alias that was not taken back yet.
func (a *Aliases) undoable(alias string) (Move, bool) {
	undone := map[int]bool{}
	for _, m := range slices.Backward(a.History) {
		switch {
		case m.Alias != alias || undone[m.Seq]:
		case m.Undoes > 0:
			undone[m.Undoes] = true
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

// Move points an alias at a version. Moving it where it is already changes
// nothing and adds nothing to the history, so a repeated call is harmless.
func (c *Catalog) Move(ctx context.Context, name, alias string, ch Change) (Move, error) {
	if err := CheckAlias(alias); err != nil {
		return Move{}, err
	}
	if ch.To != 0 {
		if _, err := c.Manifest(ctx, name, ch.To); err != nil {
			return Move{}, err
		}
	} else if err := c.exists(ctx, name); err != nil {
		return Move{}, err
	}
	return c.change(ctx, name, func(a *Aliases) (Move, error) {
		from := a.Current[alias]
		if ch.Expect != nil && *ch.Expect != from {
			return Move{}, fault.New(fault.Conflict, "alias %q of model %q names version %d, not %d as expected", alias, name, from, *ch.Expect)
		}
		return Move{Alias: alias, From: from, To: ch.To, By: ch.By, Why: ch.Why}, nil
	})
}

// Rollback takes back the newest move of an alias that was not taken back yet;
// called again, the one before it.
func (c *Catalog) Rollback(ctx context.Context, name, alias, by, why string) (Move, error) {
	if err := c.exists(ctx, name); err != nil {
		return Move{}, err
	}
	return c.change(ctx, name, func(a *Aliases) (Move, error) {
		m, ok := a.undoable(alias)
		if !ok || m.From == 0 {
			return Move{}, fault.New(fault.Conflict, "alias %q of model %q has no earlier version to go back to", alias, name)
		}
		return Move{Alias: alias, From: a.Current[alias], To: m.From, By: by, Why: why, Undoes: m.Seq}, nil
	})
}

// change applies one move by compare-and-swap; a lost race starts again from
// what the winner wrote.
func (c *Catalog) change(ctx context.Context, name string, next func(*Aliases) (Move, error)) (Move, error) {
	for attempt := range 100 {
		a, version, err := c.readAliases(ctx, name)
		if err != nil {
			return Move{}, err
		}
		m, err := next(a)
		if err != nil {
			return Move{}, err
		}
		if m.From == m.To {
			return m, nil
		}
		m.At = c.now().UTC()
		m.Seq = len(a.History) + 1
		a.History = append(a.History, m)
		a.Current[m.Alias] = m.To
		if m.To == 0 {
			delete(a.Current, m.Alias)
		}
		b, err := json.Marshal(a)
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
			c.outbox.Give(ctx, event.AliasMoved.New(event.Moved{Model: name, Alias: m.Alias, Seq: m.Seq, From: m.From, To: m.To, At: m.At, By: m.By, Why: m.Why}))
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
