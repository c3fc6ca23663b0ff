package alert

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

const (
	rulesPrefix = "alerts/rules/"
	stateKey    = "alerts/state"
	objectMost  = 64 << 20 // bytes of rules, or of the state
	byMost      = 200      // bytes of who made a version
)

func rulesKey(version int) string { return fmt.Sprintf("%s%010d", rulesPrefix, version) }

// Rules gives a version of the rules; 0: the newest, which has no rules where none were
// ever applied. A version that does not exist is NotFound.
func (m *Manager) Rules(ctx context.Context, version int) (*Rules, error) {
	if version != 0 {
		return m.rules(ctx, version)
	}
	cached, after := m.cached.Load(), ""
	if cached != nil {
		version, after = cached.Version, rulesKey(cached.Version)
	}
	for o, err := range m.blob.List(ctx, rulesPrefix, after) {
		if err != nil {
			return nil, fmt.Errorf("list versions of alert rules: %w", err)
		}
		if n, err := strconv.Atoi(strings.TrimPrefix(o.Key, rulesPrefix)); err == nil && rulesKey(n) == o.Key {
			version = n
		}
	}
	switch {
	case version == 0:
		return &Rules{Rules: []Rule{}}, nil
	case cached != nil && version == cached.Version:
		return cached, nil
	}
	r, err := m.rules(ctx, version)
	if err != nil {
		return nil, err
	}
	m.cached.Store(r) // one that is older is found out by the next list
	return r, nil
}

func (m *Manager) rules(ctx context.Context, version int) (*Rules, error) {
	if version < 1 {
		return nil, fault.New(fault.NotFound, "the alert rules have no version %d", version)
	}
	r := &Rules{}
	_, err := m.get(ctx, rulesKey(version), r)
	if fault.Is(err, fault.NotFound) {
		return nil, fault.New(fault.NotFound, "the alert rules have no version %d", version)
	}
	if err == nil && r.Version != version {
		err = fault.New(fault.Internal, "the bucket's %s is damaged: it says that it is version %d", rulesKey(version), r.Version)
	}
	return r, err
}

// Apply makes rules, which Parse has read, the next version, in place of all that there
// are, and gives that version and what differs in it; where nothing does, it is the
// current one. A dry one is not written.
func (m *Manager) Apply(ctx context.Context, rules []Rule, by string, dry bool) (*Rules, []Difference, error) {
	if len(by) > byMost {
		return nil, nil, fault.New(fault.Invalid, "by is longer than %d bytes", byMost)
	}
	for {
		current, err := m.Rules(ctx, 0)
		if err != nil {
			return nil, nil, err
		}
		differences := diff(current.Rules, rules)
		if len(differences) == 0 {
			return current, differences, nil
		}
		next := &Rules{Version: current.Version + 1, At: m.now().UTC(), By: by, Rules: rules}
		if dry {
			return next, differences, nil
		}
		err = m.put(ctx, rulesKey(next.Version), next, store.IfAbsent())
		if fault.Is(err, fault.Conflict) {
			continue
		}
		return next, differences, err
	}
}

// get reads JSON from the bucket, and gives the version of the object: also with the error
// of one that is there, and is not what it should be.
func (m *Manager) get(ctx context.Context, key string, v any) (version string, err error) {
	return store.ReadJSON(ctx, m.blob, key, objectMost, v)
}

func (m *Manager) put(ctx context.Context, key string, v any, c store.Condition) error {
	b := encode(v)
	if _, err := m.blob.Put(ctx, key, bytes.NewReader(b), int64(len(b)), c); err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	return nil
}
