package feature

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

// Change is what differs in one definition between two sets.
type Change struct {
	Ref
	Op     string        `json:"op"`               // added, changed or removed
	Fields []FieldChange `json:"fields,omitempty"` // of one that changed
}

// FieldChange is one value of a definition, as JSON; absent: there is none.
type FieldChange struct {
	Path string          `json:"path"` // "fields.delay.min"
	Old  json.RawMessage `json:"old,omitempty"`
	New  json.RawMessage `json:"new,omitempty"`
}

// String shows the change for people, in a line for it and one for each value.
func (c Change) String() string {
	var b strings.Builder
	show := func(r json.RawMessage) []byte {
		v, err := yamlwire.Plain(r) // which may have escapes by now
		if err != nil {
			return r
		}
		return encode(v)
	}
	fmt.Fprintf(&b, "%s %s", map[string]string{"added": "+", "changed": "~", "removed": "-"}[c.Op], c.Ref)
	for _, f := range c.Fields {
		switch {
		case f.Old == nil:
			fmt.Fprintf(&b, "\n    + %s: %s", f.Path, show(f.New))
		case f.New == nil:
			fmt.Fprintf(&b, "\n    - %s: %s", f.Path, show(f.Old))
		default:
			fmt.Fprintf(&b, "\n    %s: %s -> %s", f.Path, show(f.Old), show(f.New))
		}
	}
	return b.String()
}

// Diff tells what was added, changed and removed from one set to another, in the
// order of the kinds and of the definitions. What the catalog puts in by itself,
// such as versions, does not count. Both sets can be compiled.
func Diff(old, new *Set) []Change {
	was, is := old.trees(), new.trees()
	var changes []Change
	for _, r := range new.refs() {
		before, ok := was[r]
		if !ok {
			changes = append(changes, Change{Ref: r, Op: "added"})
			continue
		}
		c := Change{Ref: r, Op: "changed"}
		c.compare("", before, is[r])
		if len(c.Fields) > 0 {
			changes = append(changes, c)
		}
	}
	for _, r := range old.refs() {
		if _, ok := is[r]; !ok {
			changes = append(changes, Change{Ref: r, Op: "removed"})
		}
	}
	slices.SortStableFunc(changes, func(a, b Change) int { return slices.Index(kinds, a.Kind) - slices.Index(kinds, b.Kind) })
	return changes
}

// trees gives each definition as JSON has it.
func (s *Set) trees() map[Ref]any {
	all := map[Ref]any{}
	s.each(func(r Ref, definition any) {
		v, _ := yamlwire.Plain(encode(definition)) // which is JSON
		tree, _ := v.(map[string]any)
		delete(tree, "version")
		delete(tree, "ids")
		all[r] = tree
	})
	return all
}

// compare adds what differs between two JSON values at a path.
func (c *Change) compare(path string, old, new any) {
	a, aNames := parts(old)
	b, bNames := parts(new)
	if a == nil || b == nil {
		if !reflect.DeepEqual(old, new) {
			c.Fields = append(c.Fields, FieldChange{path, raw(old), raw(new)})
		}
		return
	}
	names := bNames
	for _, name := range aNames {
		if _, ok := b[name]; !ok {
			names = append(names, name)
		}
	}
	for _, name := range names {
		c.compare(strings.TrimPrefix(path+"."+name, "."), a[name], b[name])
	}
	inBoth := func(other map[string]any) func(string) bool {
		return func(name string) bool { _, ok := other[name]; return !ok }
	}
	if x, y := slices.DeleteFunc(aNames, inBoth(b)), slices.DeleteFunc(slices.Clone(bNames), inBoth(a)); !slices.Equal(x, y) {
		c.Fields = append(c.Fields, FieldChange{path + " in order", raw(x), raw(y)})
	}
}

// parts gives the parts of an object, or of a list of things that have names, and
// their names in order; nil of anything else.
func parts(v any) (map[string]any, []string) {
	switch v := v.(type) {
	case map[string]any:
		return v, slices.Sorted(maps.Keys(v))
	case []any:
		all, names := make(map[string]any, len(v)), make([]string, 0, len(v))
		for _, e := range v {
			tree, _ := e.(map[string]any)
			name, ok := tree["name"].(string)
			if !ok {
				name, ok = tree["feature"].(string)
			}
			if _, twice := all[name]; !ok || twice {
				return nil, nil
			}
			all[name], names = e, append(names, name)
		}
		return all, names
	}
	return nil, nil
}

func raw(v any) json.RawMessage {
	if v == nil {
		return nil
	}
	return encode(v)
}
