package model

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Listed is a model in a list.
type Listed struct {
	Name     string
	Versions int // how many there are
	Newest   int
	Aliases  map[string]int
	Splits   map[string]*Split // of those that name more than one version
}

// listReads is how many models have their aliases read at once for a list.
const listReads = 16

// List gives the models whose names begin with a prefix and come after a name, in the order of their names: limit of them at most (0:
// all), and whether there are more. It reads of the bucket what is about those that it gives, and little else.
func (c *Catalog) List(ctx context.Context, prefix, after string, limit int) (list []*Listed, more bool, err error) {
	if prefix != "" && CheckName(prefix) != nil || after != "" && CheckName(after) != nil {
		return nil, false, nil // there is no such name, and none after it in this order that a caller could mean
	}
	l := lister{blob: c.blob, prefix: prefix, after: after, limit: limit, looked: map[string]bool{}}
	if err := l.walk(ctx); err != nil {
		return nil, false, fmt.Errorf("list models: %w", err)
	}
	if more = limit > 0 && len(l.found) > limit; more {
		l.found = l.found[:limit]
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(listReads)
	for _, f := range l.found {
		list = append(list, &f.Listed)
		if !f.named {
			f.Aliases = map[string]int{}
			continue
		}
		group.Go(func() error {
			a, _, err := c.readAliases(ctx, f.Name)
			if err == nil {
				f.Aliases, f.Splits = a.Current, a.Splits
			}
			return err
		})
	}
	return list, more, group.Wait()
}

// lister finds models in the order of their names. That of the keys is another one: those of "a-1" and "a.1" stand before those of "a",
// as '-' and '.' come before '/'. So whenever a name is met, those that it goes on from are looked for first.
type lister struct {
	blob          store.Blob
	prefix, after string
	limit         int
	found         []*found
	looked        map[string]bool // names that were looked for, or met
}

type found struct {
	Listed
	named bool // it has aliases
}

// take notes an object of the model.
func (f *found) take(rest string) {
	if rest == "aliases" {
		f.named = true
	} else if n, err := strconv.Atoi(strings.TrimPrefix(rest, "versions/")); err == nil && strings.HasPrefix(rest, "versions/") {
		f.Versions, f.Newest = f.Versions+1, n
	}
}

const modelsPrefix = "models/"

func (l *lister) full() bool { return l.limit > 0 && len(l.found) > l.limit }

func (l *lister) walk(ctx context.Context) error {
	var now *found
	for o, err := range l.blob.List(ctx, modelsPrefix+l.prefix, l.behind()) {
		if err != nil {
			return err
		}
		name, rest, _ := strings.Cut(strings.TrimPrefix(o.Key, modelsPrefix), "/")
		if now == nil || now.Name != name {
			l.add(now)
			if now = nil; l.full() {
				return nil
			}
			if name <= l.after || l.looked[name] {
				continue
			}
			if err := l.stems(ctx, name); err != nil {
				return err
			}
			if l.full() {
				return nil
			}
			l.looked[name] = true
			now = &found{Listed: Listed{Name: name}}
		}
		now.take(rest)
	}
	l.add(now)
	return nil
}

// behind is the key behind which the walk begins.
func (l *lister) behind() string {
	if l.after == "" {
		return ""
	}
	return modelsPrefix + l.after
}

// add takes a model, if it is one: it has versions.
func (l *lister) add(f *found) {
	if f != nil && f.Versions > 0 {
		l.found = append(l.found, f)
	}
}

// stems adds the models that a name goes on from by '-' or '.', as far as there are any.
func (l *lister) stems(ctx context.Context, name string) error {
	for i := max(len(l.prefix), 1); i < len(name) && !l.full(); i++ {
		stem := name[:i]
		if name[i] != '-' && name[i] != '.' || stem <= l.after || l.looked[stem] {
			continue
		}
		l.looked[stem] = true
		f := &found{Listed: Listed{Name: stem}}
		for o, err := range l.blob.List(ctx, modelsPrefix+stem+"/", "") {
			if err != nil {
				return err
			}
			f.take(strings.TrimPrefix(o.Key, modelsPrefix+stem+"/"))
		}
		l.add(f)
	}
	return nil
}

// Newest gives the numbers of the newest versions of a model below a number (0: of all), oldest first: limit of them at most (0: all),
// and how many the model has.
func (c *Catalog) Newest(ctx context.Context, name string, below, limit int) (versions []int, all int, err error) {
	versions, err = c.Versions(ctx, name)
	if err != nil {
		return nil, 0, err
	}
	all = len(versions)
	if below > 0 {
		at, _ := slices.BinarySearch(versions, below)
		versions = versions[:at]
	}
	if limit > 0 && len(versions) > limit {
		versions = versions[len(versions)-limit:]
	}
	return versions, all, nil
}
