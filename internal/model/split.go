package model

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"strconv"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// Split is what an alias names beside its version: canaries, which answer a share of
// its traffic each, while the version has the rest, and a shadow, which is asked the
// same and whose answers nobody gets. A nil Split is of an alias that names one version alone.
// It is never changed once made.
type Split struct {
	Canaries []Canary `json:"canaries,omitempty"` // canariesMost at most
	Shadow   int      `json:"shadow,omitempty"`   // 0: none
	// Since is the Seq of the move with which the canaries began; 0: there are none. Who is
	// answered by a canary depends on it, so that it is not always the same customers.
	Since int `json:"since,omitempty"`
}

// Canary is a version that answers a share of an alias's traffic.
type Canary struct {
	Version int     `json:"version"`
	Share   float64 `json:"share"` // above 0 and below 1
	// High tells from which end of all keys' hashes its share grows: the top, or else the bottom. It keeps its
	// end for as long as it is there. So no key changes between two versions neither of which has
	// a new share, nor out of one whose share grows.
	High bool `json:"high,omitempty"`
}

// canariesMost is one for each end of the hashes.
const canariesMost = 2

// shareLeast is the least that a canary and the version beside all canaries may have.
const shareLeast = 1e-6

func (s *Split) canaries() int {
	if s == nil {
		return 0
	}
	return len(s.Canaries)
}

// has tells whether a version is a canary.
func (s *Split) has(version int) bool {
	return s != nil && slices.ContainsFunc(s.Canaries, func(c Canary) bool { return c.Version == version })
}

// Versions lists the versions that the split names.
func (s *Split) Versions() (all []int) {
	if s == nil {
		return nil
	}
	for _, c := range s.Canaries {
		all = append(all, c.Version)
	}
	if s.Shadow > 0 {
		all = append(all, s.Shadow)
	}
	return all
}

func (s *Split) equal(o *Split) bool {
	if s == nil || o == nil {
		return s == o
	}
	return s.Shadow == o.Shadow && slices.Equal(s.Canaries, o.Canaries)
}

// sound tells whether a split that was read is one of an alias that names version.
func (s *Split) sound(version int) bool {
	if s == nil || version < 1 || s.Shadow < 0 || s.Shadow == version || len(s.Canaries) > canariesMost || s.Shadow == 0 && len(s.Canaries) == 0 {
		return false
	}
	rest := 1.0
	for i, c := range s.Canaries {
		if c.Version < 1 || c.Version == version || c.Version == s.Shadow || !(c.Share > 0) || i > 0 && (c.High == s.Canaries[0].High || c.Version == s.Canaries[0].Version) {
			return false
		}
		rest -= c.Share
	}
	return rest > 0
}

// copied is a split to be changed.
func (s *Split) copied() *Split {
	if s == nil {
		return &Split{}
	}
	return &Split{Canaries: slices.Clone(s.Canaries), Shadow: s.Shadow, Since: s.Since}
}

// made is a split that was changed, nil if nothing is left of it.
func (s *Split) made() *Split {
	if len(s.Canaries) == 0 {
		s.Canaries, s.Since = nil, 0
		if s.Shadow == 0 {
			return nil
		}
	}
	return s
}

// since notes the move with which canaries began, if they did not before.
func (s *Split) since(seq int) *Split {
	if s.canaries() == 0 || s.Since > 0 {
		return s
	}
	c := s.copied()
	c.Since = seq
	return c
}

// alone is what is left beside a version that answers everything.
func (s *Split) alone(version int) *Split {
	c := s.copied()
	c.Canaries = nil
	if c.Shadow == version {
		c.Shadow = 0
	}
	return c.made()
}

// Share is the share of traffic that a version has which is the alias's own or a canary.
func (s *Split) Share(version int) float64 {
	rest := 1.0
	if s == nil {
		return rest
	}
	for _, c := range s.Canaries {
		if c.Version == version {
			return c.Share
		}
		rest -= c.Share
	}
	return rest
}

// Canary has a version answer a share of an alias's traffic, or with a share of 0 none
// any more. A version that was the alias's shadow is it no longer. Having it as it is changes nothing.
func (c *Catalog) Canary(ctx context.Context, name, alias string, share float64, ch Change) (Move, error) {
	if !(share == 0 || share >= shareLeast && share <= 1-shareLeast) {
		return Move{}, fault.New(fault.Invalid, "the share is %g, expected one from %g to %g, or 0: the canary ends; to have a version answer everything, promote it", share, shareLeast, 1-shareLeast)
	}
	if ch.To < 1 {
		return Move{}, fault.New(fault.Invalid, "version is %d, expected the number of a version", ch.To)
	}
	if err := c.checkMove(ctx, name, alias, ch.To); err != nil {
		return Move{}, err
	}
	return c.change(ctx, name, alias, &ch, func(a *Aliases) (Move, error) {
		m, s := Move{To: a.Current[alias]}, a.Splits[alias].copied()
		at := slices.IndexFunc(s.Canaries, func(c Canary) bool { return c.Version == ch.To })
		switch {
		case m.To == 0:
			return m, fault.New(fault.NotFound, "model %q has no alias %q that a canary could take a share of", name, alias)
		case m.To == ch.To:
			return m, fault.New(fault.Invalid, "version %d of model %q is what alias %q names already: a canary is another version", ch.To, name, alias)
		case share == 0 && at >= 0:
			s.Canaries = slices.Delete(s.Canaries, at, at+1)
		case share == 0:
		case at >= 0:
			s.Canaries[at].Share = share
		case len(s.Canaries) == canariesMost:
			return m, fault.New(fault.Conflict, "alias %q of model %q has %d canaries already, versions %d and %d: end one of them first", alias, name, canariesMost, s.Canaries[0].Version, s.Canaries[1].Version)
		default:
			s.Canaries = append(s.Canaries, Canary{Version: ch.To, Share: share, High: len(s.Canaries) > 0 && !s.Canaries[0].High})
		}
		if share > 0 && s.Shadow == ch.To {
			s.Shadow = 0
		}
		if rest := s.Share(m.To); rest < shareLeast/2 {
			return m, fault.New(fault.Invalid, "with %g for version %d the canaries of alias %q have %.6g in all, expected less than 1: the rest is version %d's", share, ch.To, alias, 1-rest, m.To)
		}
		m.After = s.made()
		return m, nil
	})
}

// Shadow has a version asked what an alias is, behind the answers; version 0 ends that.
// Having it as it is changes nothing.
func (c *Catalog) Shadow(ctx context.Context, name, alias string, ch Change) (Move, error) {
	if ch.To < 0 {
		return Move{}, fault.New(fault.Invalid, "version is %d, expected the number of a version", ch.To)
	}
	if err := c.checkMove(ctx, name, alias, ch.To); err != nil {
		return Move{}, err
	}
	return c.change(ctx, name, alias, &ch, func(a *Aliases) (Move, error) {
		m, s := Move{To: a.Current[alias]}, a.Splits[alias].copied()
		switch {
		case m.To == 0:
			return m, fault.New(fault.NotFound, "model %q has no alias %q that could have a shadow", name, alias)
		case m.To == ch.To, s.has(ch.To):
			return m, fault.New(fault.Invalid, "version %d of model %q answers alias %q already: a shadow is another version", ch.To, name, alias)
		}
		s.Shadow = ch.To
		m.After = s.made()
		return m, nil
	})
}

// Promote has a canary answer all of an alias's traffic; ch.To says which, 0: the only one.
func (c *Catalog) Promote(ctx context.Context, name, alias string, ch Change) (Move, error) {
	if err := c.checkMove(ctx, name, alias, 0); err != nil {
		return Move{}, err
	}
	return c.change(ctx, name, alias, &ch, func(a *Aliases) (Move, error) {
		s := a.Splits[alias]
		to := ch.To
		switch n := s.canaries(); {
		case to == 0 && n == 1:
			to = s.Canaries[0].Version
		case to == 0 && n > 1:
			return Move{}, fault.New(fault.Conflict, "alias %q of model %q has the canaries %d and %d: say which", alias, name, s.Canaries[0].Version, s.Canaries[1].Version)
		case !s.has(to):
			if to != 0 && to == a.Current[alias] {
				return Move{To: to, After: s}, nil // by a call before
			}
			return Move{}, fault.New(fault.Conflict, "alias %q of model %q has no canary%s to promote", alias, name, numbered(to))
		}
		return Move{To: to, After: s.alone(to)}, nil
	})
}

func numbered(version int) string {
	if version == 0 {
		return ""
	}
	return " " + strconv.Itoa(version)
}

// Point is where a key lies among all hashes of keys, from 0 to below 1. The same key has
// the same point in all processes. The split must have canaries.
func (s *Split) Point(model string, key []byte) float64 {
	var room [128]byte
	b := append(room[:0], model...)
	b = append(b, 0)
	b = binary.LittleEndian.AppendUint64(b, uint64(s.Since))
	sum := sha256.Sum256(append(b, key...))
	return float64(binary.LittleEndian.Uint64(sum[:])>>11) / (1 << 53)
}

// Anywhere is a point for who has no key.
func Anywhere() float64 { return rand.Float64() }

// Choose gives the canary that answers at a point; 0: none does.
func (s *Split) Choose(point float64) int {
	if s == nil {
		return 0
	}
	for _, c := range s.Canaries {
		if c.High && point >= 1-c.Share || !c.High && point < c.Share {
			return c.Version
		}
	}
	return 0
}
