package feast

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// Registry is what a registry of Feast has, as far as it says what there is and
// not what was done with it. Types are numbers for TypeOf.
type Registry struct {
	Projects []string // in the order of their coming
	Entities []Entity
	Views    []FeatureView
	Services []FeatureService
	// What can't be taken over is told by name alone.
	OnDemand []Named
	Labels   []Named
}

// Named is something of a project.
type Named struct{ Name, Project string }

// Entity is a join key with a name.
type Entity struct {
	Named
	Key  string
	Type int // 0: unknown
}

// ColumnSpec declares a column.
type ColumnSpec struct {
	Name string
	Type int
}

// FeatureView is a FeatureView or, with Aggregations perhaps, a StreamFeatureView.
type FeatureView struct {
	Named
	Entities      []string
	Keys          []ColumnSpec // join keys
	Features      []ColumnSpec
	TTL           time.Duration
	Batch, Stream *DataSource // either may be nil
	Aggregations  []Aggregation
	Code          bool // is transformed by Python code
}

// DataSource is where rows come from.
type DataSource struct {
	Name          string
	Kind          int // see the constants
	Time, Created string
	Mapping       map[string]string // of columns to fields
	Path          string            // of files
	Topic         string            // of streams
	Batch         *DataSource       // where a stream's or push source's history lies
}

// Kinds of a DataSource that matter here.
const (
	FileSource    = 1
	KafkaSource   = 3
	KinesisSource = 4
	PushSource    = 9
)

// Aggregation is one window over a stream.
type Aggregation struct {
	Column, Function string
	Window, Slide    time.Duration
	Name             string // empty: see Feature
}

// Feature is the name that the aggregate goes by.
func (a *Aggregation) Feature() string {
	switch {
	case a.Name != "":
		return a.Name
	case a.Window > 0:
		return fmt.Sprintf("%s_%s_%ds", a.Function, a.Column, int64(a.Window.Seconds()))
	}
	return a.Function + "_" + a.Column
}

// FeatureService is a list of features by view.
type FeatureService struct {
	Named
	Choices []Projection
}

// Projection is some features of a view.
type Projection struct {
	View, Alias string
	Features    []string
	Rejoined    bool // by other join keys than the view's
}

// Decode reads a feast.core.Registry: the file that a local registry is.
func (r *Registry) Decode(b []byte) error {
	*r = Registry{}
	err := each(b, func(f *field) (err error) {
		if f.kind != protowire.BytesType {
			return nil
		}
		spec := func(read func(f *field) error) error {
			return each(f.bytes, func(f *field) error {
				if f.is(1, protowire.BytesType) {
					return each(f.bytes, read)
				}
				return nil
			})
		}
		switch f.number {
		case 1:
			var e Entity
			if err = spec(e.read); err == nil {
				r.Entities = append(r.Entities, e)
				r.see(e.Project)
			}
		case 6, 14:
			var v FeatureView
			read := v.read
			if f.number == 14 {
				read = v.readStream
			}
			if err = spec(read); err == nil {
				r.Views = append(r.Views, v)
				r.see(v.Project)
			}
		case 7:
			var s FeatureService
			if err = spec(s.read); err == nil {
				r.Services = append(r.Services, s)
				r.see(s.Project)
			}
		case 8:
			err = r.named(&r.OnDemand, spec)
		case 19:
			err = r.named(&r.Labels, spec)
		}
		return err
	})
	if err == nil && len(r.Projects) == 0 {
		err = invalid("the file is no Feast registry, or one with nothing in it")
	}
	return err
}

func (r *Registry) see(project string) {
	for _, p := range r.Projects {
		if p == project {
			return
		}
	}
	r.Projects = append(r.Projects, project)
}

func (r *Registry) named(list *[]Named, spec func(func(*field) error) error) error {
	var n Named
	err := spec(func(f *field) (err error) {
		switch f.number {
		case 1:
			return read(f, &n.Name)
		case 2:
			return read(f, &n.Project)
		}
		return nil
	})
	*list = append(*list, n)
	return err
}

// read takes a string.
func read(f *field, into *string) (err error) {
	if f.kind == protowire.BytesType {
		*into, err = f.text("the registry")
	}
	return err
}

func reads(f *field, into *[]string) error {
	var s string
	err := read(f, &s)
	*into = append(*into, s)
	return err
}

func (e *Entity) read(f *field) error {
	switch f.number {
	case 1:
		return read(f, &e.Name)
	case 9:
		return read(f, &e.Project)
	case 2:
		e.Type = int(int32(f.word))
	case 4:
		return read(f, &e.Key)
	}
	return nil
}

func readColumn(f *field, into *[]ColumnSpec) error {
	var c ColumnSpec
	err := each(f.bytes, func(f *field) error {
		switch f.number {
		case 1:
			return read(f, &c.Name)
		case 2:
			c.Type = int(int32(f.word))
		}
		return nil
	})
	*into = append(*into, c)
	return err
}

func readDuration(f *field, into *time.Duration) error {
	var s, nanos int64
	err := each(f.bytes, func(f *field) error {
		switch {
		case f.is(1, protowire.VarintType):
			s = int64(f.word)
		case f.is(2, protowire.VarintType):
			nanos = int64(int32(f.word))
		}
		return nil
	})
	const most = 1 << 33 // seconds, what a time.Duration holds
	if err == nil && (s < 0 || s > most || nanos < 0 || nanos >= 1e9) {
		err = invalid("a duration of %d seconds and %d nanoseconds is none", s, nanos)
	}
	*into = time.Duration(s)*time.Second + time.Duration(nanos)
	return err
}

func (v *FeatureView) read(f *field) error {
	switch f.number {
	case 1:
		return read(f, &v.Name)
	case 2:
		return read(f, &v.Project)
	case 3:
		return reads(f, &v.Entities)
	case 4:
		return readColumn(f, &v.Features)
	case 6:
		return readDuration(f, &v.TTL)
	case 7:
		return readSource(f, &v.Batch, 0)
	case 9:
		return readSource(f, &v.Stream, 0)
	case 12:
		return readColumn(f, &v.Keys)
	case 15:
		v.Code = true
	}
	return nil
}

func (v *FeatureView) readStream(f *field) error {
	switch f.number {
	case 1, 2, 3, 4:
		return v.read(f)
	case 5:
		return readColumn(f, &v.Keys)
	case 9:
		return readDuration(f, &v.TTL)
	case 10:
		return readSource(f, &v.Batch, 0)
	case 11:
		return readSource(f, &v.Stream, 0)
	case 13, 17:
		v.Code = true
	case 15:
		var a Aggregation
		err := each(f.bytes, a.read)
		v.Aggregations = append(v.Aggregations, a)
		return err
	}
	return nil
}

func (a *Aggregation) read(f *field) error {
	switch f.number {
	case 1:
		return read(f, &a.Column)
	case 2:
		return read(f, &a.Function)
	case 3:
		return readDuration(f, &a.Window)
	case 4:
		return readDuration(f, &a.Slide)
	case 5:
		return read(f, &a.Name)
	}
	return nil
}

// readSource reads a source, which may have one in it: deeper than one there is none.
func readSource(f *field, into **DataSource, depth int) error {
	s := &DataSource{}
	*into = s
	options := func(f *field, number protowire.Number, into *string) error {
		return each(f.bytes, func(f *field) error {
			if f.number == number {
				return read(f, into)
			}
			return nil
		})
	}
	return each(f.bytes, func(f *field) error {
		switch f.number {
		case 1:
			s.Kind = int(int32(f.word))
		case 2:
			key, value, err := entry(f.bytes, "field_mapping")
			if err == nil && key != string(value) {
				if s.Mapping == nil {
					s.Mapping = map[string]string{}
				}
				s.Mapping[key] = string(value)
			}
			return err
		case 3:
			return read(f, &s.Time)
		case 5:
			return read(f, &s.Created)
		case 11:
			return options(f, 2, &s.Path)
		case 13:
			return options(f, 2, &s.Topic)
		case 14:
			return options(f, 2, &s.Topic)
		case 20:
			return read(f, &s.Name)
		case 26:
			if depth == 0 {
				return readSource(f, &s.Batch, 1)
			}
		}
		return nil
	})
}

func (s *FeatureService) read(f *field) error {
	switch f.number {
	case 1:
		return read(f, &s.Name)
	case 2:
		return read(f, &s.Project)
	case 3:
		var p Projection
		err := each(f.bytes, func(f *field) error {
			switch f.number {
			case 1:
				return read(f, &p.View)
			case 2:
				var columns []ColumnSpec
				err := readColumn(f, &columns)
				p.Features = append(p.Features, columns[0].Name)
				return err
			case 3:
				return read(f, &p.Alias)
			case 4:
				p.Rejoined = true
			}
			return nil
		})
		s.Choices = append(s.Choices, p)
		return err
	}
	return nil
}
