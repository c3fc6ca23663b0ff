package model

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// hot is what instances tell each other, through a KV, about which versions are
// in use, so that a new instance loads them before it is asked.
//
// Each instance adds to one record what its callers used since it last did, by
// compare-and-swap. What was added fades. The record is a hint: one that is
// lost, late or wrong costs a first caller the time of a load.
type hot struct {
	kv      store.KV
	key     string
	catalog *Catalog
	warm    *Warm
	log     *slog.Logger
	now     func() time.Time
	pending map[versionID]uint64 // uses that no record holds yet
}

const (
	hotMost    = 200       // versions that a record lists
	hotHalf    = time.Hour // after which a use counts half
	hotLeast   = 0.001     // below which a version is forgotten
	hotKeep    = 7 * 24 * time.Hour
	hotEvery   = 10 * time.Second // a record is written at most so often by an instance
	hotTimeout = time.Second      // of a look at the KV
)

// hotRecord is the value in the KV.
type hotRecord struct {
	At     time.Time    `json:"at"`
	Models []hotVersion `json:"models"` // hottest first
}

type hotVersion struct {
	Model   string  `json:"model"`
	Version int     `json:"version"`
	Uses    float64 `json:"uses"` // faded
}

// add gives the record with uses added, faded up to now.
func (r hotRecord) add(uses map[versionID]uint64, now time.Time) hotRecord {
	fade := math.Exp2(-max(0, now.Sub(r.At).Hours()) / hotHalf.Hours())
	sum := map[versionID]float64{}
	for _, v := range r.Models {
		sum[versionID{v.Model, v.Version}] += v.Uses * fade
	}
	for id, n := range uses {
		sum[id] += float64(n)
	}
	next := hotRecord{At: now, Models: make([]hotVersion, 0, len(sum))}
	for id, n := range sum {
		if n >= hotLeast {
			next.Models = append(next.Models, hotVersion{id.name, id.version, n})
		}
	}
	slices.SortFunc(next.Models, func(x, y hotVersion) int {
		return cmp.Or(cmp.Compare(y.Uses, x.Uses), strings.Compare(x.Model, y.Model), cmp.Compare(x.Version, y.Version))
	})
	next.Models = slices.Clip(next.Models[:min(len(next.Models), hotMost)])
	return next
}

// run loads what is hot, and tells what is used here until ctx ends.
func (h *hot) run(ctx context.Context) {
	h.prefetch(ctx)
	ticker := time.NewTicker(hotEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			h.tell(ctx)
		case <-ctx.Done():
			h.tell(context.WithoutCancel(ctx))
			return
		}
	}
}

// read gives the record and its version; one that is not there, or not one, is empty.
func (h *hot) read(ctx context.Context) (hotRecord, string, error) {
	ctx, cancel := context.WithTimeout(ctx, hotTimeout)
	defer cancel()
	var r hotRecord
	item, err := h.kv.Get(ctx, h.key)
	if fault.Is(err, fault.NotFound) {
		return r, "", nil
	}
	if err != nil {
		return r, "", fmt.Errorf("read which models are hot: %w", err)
	}
	if err := json.Unmarshal(item.Value, &r); err != nil || len(r.Models) > hotMost {
		h.log.WarnContext(ctx, "the record of hot models is damaged and begun anew", "key", h.key, "error", err)
		return hotRecord{}, item.Version, nil
	}
	return r, item.Version, nil
}

// prefetch loads the hottest versions into half of the budget, one after the other
// and none while a caller waits for another: beside a caller's load it would only
// be in the way.
func (h *hot) prefetch(ctx context.Context) {
	begin := h.now()
	r, _, err := h.read(ctx)
	if err != nil {
		h.log.WarnContext(ctx, "no model is prefetched", "error", err)
		return
	}
	loaded := 0
	for _, v := range r.Models {
		if ctx.Err() != nil {
			return
		}
		m, err := h.catalog.Resolve(ctx, Ref{Name: v.Model, Version: fmt.Sprint(v.Version)})
		room := true
		if err == nil {
			room, err = h.warm.heat(ctx, m, h.warm.budget/2)
		}
		switch {
		case err != nil && ctx.Err() == nil:
			h.log.WarnContext(ctx, "model not prefetched", "model", v.Model, "version", v.Version, "error", err)
		case err == nil && room:
			loaded++
		}
	}
	if len(r.Models) > 0 {
		h.log.InfoContext(ctx, "hot models prefetched", "known", len(r.Models), "loaded", loaded, "duration", h.now().Sub(begin))
	}
}

// tell adds what was used here to the record. What can't be told now is told the
// next time.
func (h *hot) tell(ctx context.Context) {
	for id, n := range h.warm.takeUses() {
		h.pending[id] += n
	}
	if len(h.pending) == 0 {
		return
	}
	err := h.put(ctx)
	if err != nil {
		h.log.WarnContext(ctx, "which models are hot is not told to other instances", "error", err)
		return
	}
	clear(h.pending)
}

func (h *hot) put(ctx context.Context) error {
	const attempts = 5
	ctx, cancel := context.WithTimeout(ctx, 2*hotTimeout)
	defer cancel()
	for attempt := 1; ; attempt++ {
		r, version, err := h.read(ctx)
		if err != nil {
			return err
		}
		value, err := json.Marshal(r.add(h.pending, h.now().UTC()))
		if err != nil {
			return fmt.Errorf("encode which models are hot: %w", err)
		}
		condition := store.IfAbsent()
		if version != "" {
			condition = store.IfVersion(version)
		}
		_, err = h.kv.Put(ctx, h.key, value, hotKeep, condition)
		if err == nil {
			return nil
		}
		if !fault.Is(err, fault.Conflict) || attempt == attempts {
			return fmt.Errorf("write which models are hot: %w", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(rand.N(time.Duration(attempt) * 20 * time.Millisecond)):
		}
	}
}
