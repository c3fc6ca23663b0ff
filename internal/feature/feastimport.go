package feature

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/feast"
	"github.com/pilotlight-ml/pilotlight/internal/row"
)

// ImportFeast makes definitions of a registry of Feast: the file that its local
// provider keeps. project may be empty where the registry has just one. What can't
// be taken over, or not as it was, is told in the notes, a sentence each. The set is one
// that Compile takes. What is no registry is Invalid, a project that it does not
// have NotFound.
func ImportFeast(registry []byte, project string) (*Set, []string, error) {
	im := &importing{sources: map[string]*Source{}, set: &Set{}}
	if err := im.from.Decode(registry); err != nil {
		return nil, nil, err
	}
	switch projects := im.from.Projects; {
	case project == "" && len(projects) > 1:
		return nil, nil, invalid("the registry has the projects %s; one must be named", strings.Join(projects, ", "))
	case project == "":
		project = projects[0]
	case !slices.Contains(projects, project):
		return nil, nil, fault.New(fault.NotFound, "the registry has no project %.100q, but %s", project, strings.Join(projects, ", "))
	}
	im.project = project
	for i := range im.from.Views {
		if v := &im.from.Views[i]; v.Project == project {
			im.try("feature view", v.Name, func() error { return im.view(v) })
		}
	}
	for _, n := range im.from.OnDemand {
		if n.Project == project {
			im.note("on-demand feature view %q is left out: its Python code can't be taken over; write an expression for it", n.Name)
		}
	}
	for _, n := range im.from.Labels {
		if n.Project == project {
			im.note("label view %q is left out: there is nothing like it here", n.Name)
		}
	}
	for i := range im.from.Services {
		if s := &im.from.Services[i]; s.Project == project {
			im.try("feature service", s.Name, func() error { return im.service(s) })
		}
	}
	im.sort()
	if _, err := Compile(im.set); err != nil {
		return nil, nil, fault.Wrap(fault.Invalid, err, "the registry's definitions do not fit together here: %s", fault.Message(err))
	}
	return im.set, im.notes, nil
}

type importing struct {
	from    feast.Registry
	project string
	set     *Set
	sources map[string]*Source
	notes   []string
}

func (im *importing) note(format string, args ...any) {
	if n := fmt.Sprintf(format, args...); !slices.Contains(im.notes, n) {
		im.notes = append(im.notes, n)
	}
}

// try takes one thing over, or notes why it is left out. What is left out half-way is put back.
func (im *importing) try(what, name string, take func() error) {
	before, sources, notes := *im.set, map[string]*Source{}, len(im.notes)
	for n, s := range im.sources {
		c := *s
		c.Fields = slices.Clone(s.Fields)
		sources[n] = &c
	}
	err := take()
	if err == nil {
		im.sort()
		_, err = Compile(im.set)
	}
	if err != nil {
		*im.set, im.sources, im.notes = before, sources, im.notes[:notes]
		im.note("%s %q is left out: %s", what, name, fault.Message(err))
	}
}

// sort puts the sources into the set, in the order of their names, and the entities.
func (im *importing) sort() {
	im.set.Sources = im.set.Sources[:0:0]
	for _, s := range im.sources {
		im.set.Sources = append(im.set.Sources, *s)
	}
	slices.SortFunc(im.set.Sources, func(a, b Source) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(im.set.Entities, func(a, b Entity) int { return cmp.Compare(a.Name, b.Name) })
}

// dummy is the entity of views that have none.
const dummy = "__dummy"

func (im *importing) view(v *feast.FeatureView) error {
	if len(v.Entities) == 0 || v.Entities[0] == dummy {
		return invalid("it is of no entity")
	}
	view := View{Name: v.Name, TTL: Duration(v.TTL)}
	var fields []Field
	for _, name := range v.Entities {
		key, err := im.entity(v, name)
		if err != nil {
			return err
		}
		view.Entities = append(view.Entities, name)
		fields = append(fields, key)
	}
	if len(v.Aggregations) > 0 {
		view.TTL = 0 // the sizes of the windows say how old a row may be
		columns, err := im.windows(v, &view)
		if err != nil {
			return err
		}
		fields = append(fields, columns...)
	} else {
		if v.Code {
			im.note("feature view %q is transformed by Python code, which can't be taken over: bring rows that are transformed", v.Name)
		}
		for _, f := range v.Features {
			t := feast.TypeOf(f.Type)
			if t == 0 {
				return invalid("feature %q is of Feast's type %d, which there is no type for here", f.Name, f.Type)
			}
			view.Features = append(view.Features, f.Name)
			fields = append(fields, Field{Name: f.Name, Type: t})
		}
	}
	var err error
	if view.Source, err = im.source(v, fields); err != nil {
		return err
	}
	im.set.Views = append(im.set.Views, view)
	return nil
}

// entity takes over an entity of a view, and gives its key.
func (im *importing) entity(v *feast.FeatureView, name string) (Field, error) {
	at := slices.IndexFunc(im.from.Entities, func(e feast.Entity) bool { return e.Name == name && e.Project == im.project })
	if at < 0 {
		return Field{}, invalid("its entity %q is not in the registry", name)
	}
	e := &im.from.Entities[at]
	key := Field{Name: cmp.Or(e.Key, e.Name), Type: feast.TypeOf(e.Type)}
	for _, k := range v.Keys {
		if k.Name == key.Name && feast.TypeOf(k.Type) != 0 {
			key.Type = feast.TypeOf(k.Type)
		}
	}
	if key.Type == 0 {
		key.Type = row.String
		im.note("entity %q has no type in the registry: it is taken for a string", name)
	}
	if !slices.ContainsFunc(im.set.Entities, func(o Entity) bool { return o.Name == name }) {
		im.set.Entities = append(im.set.Entities, Entity{Name: name, Keys: []Field{key}})
	}
	return key, nil
}

var aggregates = map[string]string{
	"sum": "sum", "mean": "mean", "avg": "mean", "min": "min", "max": "max", "count": "count", "count_distinct": "distinct", "distinct": "distinct", "last": "last",
}

// windows takes over the aggregations of a view, and gives the columns that they are of.
func (im *importing) windows(v *feast.FeatureView, view *View) ([]Field, error) {
	var columns []Field
	for _, a := range v.Aggregations {
		name := a.Feature()
		aggregate := aggregates[a.Function]
		if aggregate == "" {
			return nil, invalid("there is no aggregate %q here", a.Function)
		}
		w := Window{Name: name, Aggregate: aggregate, Of: a.Column, Size: Duration(a.Window), Slide: Duration(a.Slide)}
		if w.Slide == w.Size { // Feast has no other word for tumbling
			w.Slide = 0
		}
		view.Windows = append(view.Windows, w)
		if slices.ContainsFunc(columns, func(f Field) bool { return f.Name == a.Column }) {
			continue
		}
		t := row.Float64
		for _, f := range v.Features {
			known := feast.TypeOf(f.Type)
			if f.Name == name && known != 0 && (aggregate == "sum" || aggregate == "min" || aggregate == "max" || aggregate == "last") {
				t = known
			}
		}
		columns = append(columns, Field{Name: a.Column, Type: t})
		im.note("feature view %q: column %q of its rows has no type in the registry: it is taken for a %s", v.Name, a.Column, t)
	}
	if v.Code {
		im.note("feature view %q is transformed by Python code, which can't be taken over: bring rows that are transformed", v.Name)
	}
	return columns, nil
}

// source takes over where a view's rows come from, with the columns that the view
// needs, and gives its name. Feast does not tell the columns of sources, so one of
// several views has what they need together.
func (im *importing) source(v *feast.FeatureView, fields []Field) (string, error) {
	of, batch := v.Stream, v.Batch
	if of == nil {
		of = batch
	}
	if of == nil {
		return "", invalid("it has no source")
	}
	if of.Batch != nil {
		batch = of.Batch
	}
	s := Source{Name: cmp.Or(of.Name, v.Name), Time: of.Time, Created: of.Created}
	if batch != nil {
		s.Time, s.Created = cmp.Or(s.Time, batch.Time), cmp.Or(s.Created, batch.Created)
	}
	s.Time = cmp.Or(s.Time, defaultTime)
	fields = append(fields, Field{Name: s.Time, Type: row.Timestamp})
	if s.Created != "" {
		fields = append(fields, Field{Name: s.Created, Type: row.Timestamp})
	}
	switch {
	case of.Kind == feast.PushSource:
	case of.Topic != "":
		im.note("source %q was fed by the stream %q: bring its rows as events or by push", s.Name, of.Topic)
	case of.Path != "":
		im.note("source %q was read of %s: bring its rows by push, or put its files into the bucket and give it their path", s.Name, of.Path)
	default:
		im.note("source %q was read of a warehouse: bring its rows by push, or put them into the bucket as Parquet and give it their path", s.Name)
	}
	for _, mapped := range []*feast.DataSource{of, batch} {
		if mapped != nil && len(mapped.Mapping) > 0 {
			im.note("source %q had its columns renamed: bring them by the names of the features", s.Name)
		}
	}
	known := im.sources[s.Name]
	if known != nil && !fits(known, &s, fields) {
		im.note("feature view %q takes columns of source %q by other types than other views: it gets a source of its own", v.Name, s.Name)
		s.Name += "_" + v.Name
		known = nil
	}
	if known == nil {
		known = &s
		im.sources[s.Name] = known
	}
	for _, f := range fields {
		if !slices.ContainsFunc(known.Fields, func(o Field) bool { return o.Name == f.Name }) {
			known.Fields = append(known.Fields, f)
		}
	}
	return s.Name, nil
}

// fits tells whether a source can have more fields.
func fits(known, s *Source, fields []Field) bool {
	if known.Time != s.Time || known.Created != s.Created {
		return false
	}
	for _, f := range fields {
		if slices.ContainsFunc(known.Fields, func(o Field) bool { return o.Name == f.Name && o.Type != f.Type }) {
			return false
		}
	}
	return true
}

func (im *importing) service(s *feast.FeatureService) error {
	service := Service{Name: s.Name}
	for _, p := range s.Choices {
		switch {
		case p.Rejoined:
			im.note("feature service %q: view %q is left out, as it is joined by other keys than its own", s.Name, p.View)
			continue
		case !slices.ContainsFunc(im.set.Views, func(v View) bool { return v.Name == p.View }):
			im.note("feature service %q: view %q is left out, as it was not taken over", s.Name, p.View)
			continue
		}
		for _, f := range p.Features {
			c := Choice{Feature: p.View + ":" + f}
			if slices.ContainsFunc(service.Features, func(o Choice) bool { return strings.HasSuffix(o.Feature, ":"+f) }) {
				c.As = cmp.Or(p.Alias, p.View) + "__" + f
				im.note("feature service %q: %s is called %s, as there is another feature of its name", s.Name, c.Feature, c.As)
			}
			service.Features = append(service.Features, c)
		}
	}
	if len(service.Features) == 0 {
		return invalid("none of its views was taken over")
	}
	im.set.Services = append(im.set.Services, service)
	return nil
}

// FeastYAML writes imported definitions, with the notes as comments in front.
func FeastYAML(s *Set, notes []string, at time.Time) ([]byte, error) {
	b, err := s.YAML()
	if err != nil {
		return nil, err
	}
	head := "# Taken over from a Feast registry on " + at.UTC().Format(time.DateOnly) + ".\n"
	for _, n := range notes {
		head += "# - " + strings.ReplaceAll(n, "\n", " ") + "\n"
	}
	return append([]byte(head), b...), nil
}
