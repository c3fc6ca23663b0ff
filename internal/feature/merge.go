package feature

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/row"
)

// The kinds of definition, as a Ref names them.
const (
	KindEntity     = "entity"
	KindSource     = "source"
	KindView       = "view"
	KindExpression = "expression"
	KindService    = "service"
)

var kinds = []string{KindEntity, KindSource, KindView, KindExpression, KindService}

// Ref names one definition.
type Ref struct {
	Kind string `json:"kind"` // entity, source, view, expression or service
	Name string `json:"name"`
}

// String is the ref as people write it: "view/delays".
func (r Ref) String() string { return r.Kind + "/" + r.Name }

// ParseRef reads "view/delays".
func ParseRef(s string) (Ref, error) {
	kind, name, _ := strings.Cut(s, "/")
	if !slices.Contains(kinds, kind) || name == "" {
		return Ref{}, fault.New(fault.Invalid, `%.120q is not KIND/NAME such as "view/delays", where KIND is one of %s`, s, strings.Join(kinds, ", "))
	}
	return Ref{kind, name}, nil
}

// refs lists everything that a set defines.
func (s *Set) refs() []Ref {
	var all []Ref
	s.each(func(r Ref, _ any) { all = append(all, r) })
	return all
}

// each visits everything that a set defines.
func (s *Set) each(visit func(r Ref, definition any)) {
	for i := range s.Entities {
		visit(Ref{KindEntity, s.Entities[i].Name}, &s.Entities[i])
	}
	for i := range s.Sources {
		visit(Ref{KindSource, s.Sources[i].Name}, &s.Sources[i])
	}
	for i := range s.Views {
		visit(Ref{KindView, s.Views[i].Name}, &s.Views[i])
	}
	for i := range s.Expressions {
		visit(Ref{KindExpression, s.Expressions[i].Name}, &s.Expressions[i])
	}
	for i := range s.Services {
		visit(Ref{KindService, s.Services[i].Name}, &s.Services[i])
	}
}

// Only gives this version with one of its definitions; one that is not there is NotFound.
func (s *Set) Only(r Ref) (*Set, error) {
	one := &Set{Version: s.Version, At: s.At, By: s.By}
	s.each(func(at Ref, definition any) {
		if at != r {
			return
		}
		switch d := definition.(type) {
		case *Entity:
			one.Entities = []Entity{*d}
		case *Source:
			one.Sources = []Source{*d}
		case *View:
			one.Views = []View{*d}
		case *Expression:
			one.Expressions = []Expression{*d}
		case *Service:
			one.Services = []Service{*d}
		}
	})
	if len(one.refs()) == 0 {
		return nil, fault.New(fault.NotFound, "%s %.100s does not exist", r.Kind, r.Name)
	}
	return one, nil
}

// Merge gives the set that follows old, which is compiled, when what is put over
// it by name and then some are removed. Neither is changed. The new set has the
// next version and is checked. What can't be done to what is in use is refused: as
// Invalid where a view is live in another form, as Conflict where what is to be
// removed has users.
func Merge(old, what *Set, remove ...Ref) (*Set, error) {
	was, err := Compile(old)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "version %d of the definitions does not compile: %s", old.Version, fault.Message(err))
	}
	seen := map[Ref]bool{}
	for _, r := range what.refs() {
		if seen[r] {
			return nil, invalid("%s %.120q is defined twice", r.Kind, r.Name)
		}
		seen[r] = true
	}
	s := &Set{
		Version:     old.Version + 1,
		Entities:    upsert(old.Entities, what.Entities, func(e *Entity) string { return e.Name }),
		Sources:     upsert(old.Sources, what.Sources, func(s *Source) string { return s.Name }),
		Views:       upsert(old.Views, what.Views, func(v *View) string { return v.Name }),
		Expressions: upsert(old.Expressions, what.Expressions, func(e *Expression) string { return e.Name }),
		Services:    upsert(old.Services, what.Services, func(s *Service) string { return s.Name }),
	}
	for _, r := range remove {
		if _, err := s.Only(r); err != nil {
			return nil, err
		}
	}
	whole := *s
	s.drop(remove)
	if err := s.checkUnused(remove); err != nil {
		return nil, err
	}
	if err := s.follow(was); err != nil {
		return nil, err
	}
	now, err := Compile(s)
	if err != nil {
		// What expressions name is known to the compiler alone.
		if _, sound := Compile(&whole); len(remove) > 0 && sound == nil {
			return nil, fault.Wrap(fault.Conflict, err, "%s can't be removed, for it is used: %s", remove[0], fault.Message(err))
		}
		return nil, err
	}
	if err := s.number(was, now); err != nil {
		return nil, err
	}
	return s, nil
}

// upsert puts new ones over old ones of the same name, and others behind them.
func upsert[T any](old, what []T, name func(*T) string) []T {
	all := slices.Clone(old)
	at := map[string]int{}
	for i := range all {
		at[name(&all[i])] = i
	}
	for i := range what {
		if o, ok := at[name(&what[i])]; ok {
			all[o] = what[i]
		} else {
			all = append(all, what[i])
		}
	}
	return all
}

// drop takes definitions out.
func (s *Set) drop(remove []Ref) {
	gone := func(kind, name string) bool { return slices.Contains(remove, Ref{kind, name}) }
	s.Entities = slices.DeleteFunc(slices.Clone(s.Entities), func(e Entity) bool { return gone(KindEntity, e.Name) })
	s.Sources = slices.DeleteFunc(slices.Clone(s.Sources), func(o Source) bool { return gone(KindSource, o.Name) })
	s.Views = slices.DeleteFunc(slices.Clone(s.Views), func(v View) bool { return gone(KindView, v.Name) })
	s.Expressions = slices.DeleteFunc(slices.Clone(s.Expressions), func(e Expression) bool { return gone(KindExpression, e.Name) })
	s.Services = slices.DeleteFunc(slices.Clone(s.Services), func(o Service) bool { return gone(KindService, o.Name) })
}

// checkUnused refuses what was removed while views and services name it.
func (s *Set) checkUnused(removed []Ref) error {
	for _, r := range removed {
		var users []string
		for _, v := range s.Views {
			if r.Kind == KindEntity && slices.Contains(v.Entities, r.Name) || r.Kind == KindSource && v.Source == r.Name {
				users = append(users, "view "+v.Name)
			}
		}
		for _, o := range s.Services {
			uses := func(c Choice) bool { return strings.HasPrefix(c.Feature, r.Name+":") }
			if (r.Kind == KindView || r.Kind == KindExpression) && slices.ContainsFunc(o.Features, uses) {
				users = append(users, "service "+o.Name)
			}
		}
		if len(users) > 0 {
			return fault.New(fault.Conflict, "%s can't be removed, for it is used by %s", r, strings.Join(users[:min(len(users), 10)], ", "))
		}
	}
	return nil
}

// follow gives each view the numbers that its columns have had, and refuses what
// would make other rows of those that lie in the store.
func (s *Set) follow(was *Compiled) error {
	s.Retired = maps.Clone(was.Retired)
	keys := map[string]string{} // of entities
	for _, e := range s.Entities {
		keys[e.Name] = typed(e.Keys)
	}
	sources := map[string]map[string]row.Type{}
	for _, o := range s.Sources {
		types := map[string]row.Type{}
		for _, f := range o.Fields {
			types[f.Name] = f.Type
		}
		sources[o.Name] = types
	}
	kept := map[string]bool{} // views
	for i := range s.Views {
		v := &s.Views[i]
		kept[v.Name] = true
		before := was.views[v.Name]
		if before == nil {
			v.IDs = nil
			if last := s.Retired[v.Name]; last > 0 {
				v.IDs = map[string]uint32{"@" + strconv.Itoa(s.Version): last}
			}
			continue
		}
		if err := checkLive(v, was, keys, sources[v.Source]); err != nil {
			return err
		}
		v.IDs = s.keep(v, before, sources[v.Source])
	}
	for _, v := range was.views {
		if !kept[v.Name] {
			if s.Retired == nil {
				s.Retired = map[string]uint32{}
			}
			for _, id := range v.IDs {
				s.Retired[v.Name] = max(s.Retired[v.Name], id)
			}
		}
	}
	return nil
}

// checkLive refuses another form of a view that there was, by its own doing, that of
// an entity, whose keys are as told, or that of its source, whose columns are of types.
func checkLive(v *View, was *Compiled, keys map[string]string, types map[string]row.Type) error {
	before := was.views[v.Name]
	live := func(what string, old, new any) error {
		return invalid("view %q is live: %s %v and can't become %.200v; make a new view", v.Name, what, old, new)
	}
	switch {
	case !slices.Equal(v.Entities, before.Entities):
		return live("its entities are", strings.Join(before.Entities, ", "), strings.Join(v.Entities, ", "))
	case v.Source != before.Source:
		return live("its source is", before.Source, v.Source)
	case len(v.Windows) > 0 && len(before.Windows) == 0:
		return live("it is made of", "features", "windows")
	case len(v.Windows) == 0 && len(before.Windows) > 0:
		return live("it is made of", "windows", "features")
	}
	for _, name := range v.Entities {
		old := typed(was.entities[name].Keys)
		if now, ok := keys[name]; ok && now != old {
			return live("the keys of entity "+name+" are", old, now)
		}
	}
	for _, f := range before.From.Fields {
		if now, ok := types[f.Name]; ok && now != f.Type {
			return live("in its source "+v.Source+" the column "+f.Name+" is", f.Type, now)
		}
	}
	return nil
}

func typed(fields []Field) string {
	words := make([]string, len(fields))
	for i, f := range fields {
		words[i] = f.Name + " " + f.Type.String()
	}
	return strings.Join(words, ", ")
}

// keep gives the numbers of the columns that are what they were. Those of others stay
// taken under a name that no column has: a window that is another now, or was left
// out for a while and so has missed rows, and a column that its source has lost.
func (s *Set) keep(v *View, before *CompiledView, types map[string]row.Type) map[string]uint32 {
	windows := map[Window]bool{} // that there were
	for _, w := range before.Windows {
		windows[w] = true
	}
	same := map[string]bool{}
	for _, w := range v.Windows {
		same[w.Name] = windows[w]
	}
	if len(v.Windows) == 0 {
		for name := range types {
			same[name] = true
		}
	}
	ids := make(map[string]uint32, len(before.IDs))
	for name, id := range before.IDs {
		if !strings.Contains(name, "@") && !same[name] {
			name += "@" + strconv.Itoa(s.Version)
		}
		ids[name] = id
	}
	return ids
}

// number gives the columns of a checked set their numbers, and says of what has changed since was that it is of this version.
func (s *Set) number(was, now *Compiled) error {
	for i := range s.Views {
		v := &s.Views[i]
		k, before := now.views[v.Name], was.views[v.Name]
		var err error
		if v.IDs, err = number(v.IDs, k.Columns); err != nil {
			return err
		}
		v.Version = s.Version
		if before != nil && k.same(before) {
			v.Version = before.Version
		}
	}
	for i := range s.Expressions {
		e := &s.Expressions[i]
		before := was.expressions[e.Name]
		e.Version = s.Version
		if before != nil && equal(e.Inputs, before.Inputs) && equal(e.Features, before.Features) {
			e.Version = before.Version
		}
	}
	return nil
}

// same tells whether two versions of a view make the same of the same rows.
func (k *CompiledView) same(o *CompiledView) bool {
	a, b := *k.View, *o.View
	a.Version, a.IDs, b.Version, b.IDs = 0, nil, 0, nil
	return equal(a, b) && slices.Equal(k.Columns, o.Columns) && k.From.timeColumn() == o.From.timeColumn() && k.From.Created == o.From.Created
}

// equal tells whether two definitions say the same, however they were written.
func equal(a, b any) bool { return bytes.Equal(encode(a), encode(b)) }

// encode writes what Compile has taken, which JSON has a form for, as it stands.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // people read expressions
	if err := e.Encode(v); err != nil {
		panic(fmt.Errorf("encode a definition: %w", err))
	}
	return bytes.TrimSpace(b.Bytes())
}
