package pipeline

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

const (
	versionMost = 8 << 20 // bytes of a version: in JSON "<" is six
	byMost      = 200     // bytes of who did something
	whyMost     = 1000    // bytes of why
)

// Version is a definition as it was applied.
type Version struct {
	Version int       `json:"version"`
	At      time.Time `json:"at"`
	By      string    `json:"by,omitempty"`
	Text    string    `json:"text"` // YAML
}

func versionKey(name string, version int) string {
	return fmt.Sprintf("%s%s/versions/%010d", Prefix, name, version)
}

// Applied answers a change of a definition.
type Applied struct {
	Version int  `json:"version"` // that is current now or, of a dry one, would be
	Changed bool `json:"changed"` // false: the version was current before
	Dry     bool `json:"dry,omitempty"`
}

// Apply makes a definition the next version of its pipeline, unless it is the current one. A dry one is
// only checked. Runs that are under way keep to the version that they began with.
func (m *Manager) Apply(ctx context.Context, d *Definition, by string, dry bool) (*Applied, error) {
	if len(by) > byMost {
		return nil, fault.New(fault.Invalid, "by is longer than %d bytes", byMost)
	}
	if _, err := d.compile(m.kinds); err != nil {
		return nil, err
	}
	for {
		current, err := m.newest(ctx, d.Name)
		if err != nil && (current == nil || !fault.Is(err, fault.Invalid)) { // one that is damaged is repaired by this
			return nil, err
		}
		if current.Text == d.Text {
			return &Applied{Version: current.Version, Dry: dry}, nil
		}
		next := &Version{Version: current.Version + 1, At: m.now().UTC(), By: by, Text: d.Text}
		if !dry {
			_, err = store.WriteJSON(ctx, m.blob, versionKey(d.Name, next.Version), next, store.IfAbsent())
			if fault.Is(err, fault.Conflict) {
				continue
			}
		}
		return &Applied{Version: next.Version, Changed: true, Dry: dry}, err
	}
}

// newest gives the newest version of a definition; where there is none, one of number 0. Of one that is damaged it gives the number
// beside the error.
func (m *Manager) newest(ctx context.Context, name string) (*Version, error) {
	if err := checkName("pipeline's name", name); err != nil {
		return nil, err
	}
	prefix, newest, after := Prefix+name+"/versions/", 0, ""
	m.mu.Lock()
	cached := m.cached[name]
	m.mu.Unlock()
	if cached != nil {
		newest, after = cached.Version, versionKey(name, cached.Version)
	}
	for o, err := range m.blob.List(ctx, prefix, after) {
		if err != nil {
			return nil, fmt.Errorf("list versions of the pipeline %s: %w", name, err)
		}
		if n, err := strconv.Atoi(strings.TrimPrefix(o.Key, prefix)); err == nil && versionKey(name, n) == o.Key {
			newest = n
		}
	}
	switch {
	case newest == 0:
		return &Version{}, nil
	case cached != nil && cached.Version == newest:
		return cached, nil
	}
	v, err := m.version(ctx, name, newest)
	if err != nil {
		return &Version{Version: newest}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cached[name] = v // one that is older is found out by the next list
	return v, nil
}

func (m *Manager) version(ctx context.Context, name string, version int) (*Version, error) {
	v := &Version{}
	key := versionKey(name, version)
	there, err := store.ReadJSON(ctx, m.blob, key, versionMost, v)
	switch {
	case fault.Is(err, fault.NotFound):
		return nil, fault.New(fault.NotFound, "the pipeline %s has no version %d", name, version)
	case err != nil && there == "":
		return nil, err
	case err != nil || v.Version != version: // trying again helps nobody
		return nil, fault.Wrap(fault.Invalid, err, "the bucket's %s is damaged", key)
	}
	return v, nil
}

// current gives the newest version of a pipeline and its definition; one that was never applied is NotFound.
func (m *Manager) current(ctx context.Context, name string) (*Version, *Definition, error) {
	v, err := m.newest(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	if v.Version == 0 {
		return nil, nil, fault.New(fault.NotFound, "there is no pipeline %s", name)
	}
	d, err := v.definition(name)
	return v, d, err
}

// definition reads what was applied.
func (v *Version) definition(name string) (*Definition, error) {
	all, err := Parse(fmt.Sprintf("version %d of pipeline %s", v.Version, name), []byte(v.Text))
	if err != nil {
		return nil, err
	}
	if len(all) != 1 || all[0].Name != name {
		return nil, fault.New(fault.Invalid, "the bucket's %s is damaged: it holds no definition of that name", versionKey(name, v.Version))
	}
	return &all[0], nil
}

// names lists the pipelines that there are.
func (m *Manager) names(ctx context.Context) ([]string, error) {
	names, after := []string{}, ""
	for {
		found := ""
		for o, err := range m.blob.List(ctx, Prefix, after) {
			if err != nil {
				return nil, fmt.Errorf("list pipelines: %w", err)
			}
			found, _, _ = strings.Cut(strings.TrimPrefix(o.Key, Prefix), "/")
			break
		}
		if found == "" {
			return names, nil
		}
		names = append(names, found)
		after = Prefix + found + "0" // the first key behind all of that pipeline's, for '0' follows '/'
	}
}
