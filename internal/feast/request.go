package feast

import (
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/jsonwire"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// Request asks for features of some entities. Its zero value is ready for
// Decode and DecodeProto, and one that is used again takes little or no new memory.
type Request struct {
	Service   string   // empty: Features says what is asked for
	Features  []string // "view:feature"
	FullNames bool     // features are called view__feature
	Versions  bool     // the answer is to tell the versions of views
	Table              // of entities, and of what else expressions need

	scan jsonwire.Scanner
}

// Table is columns of equal length, which a request brings.
type Table struct {
	Columns []Column
	Rows    int // that each column has

	cells [][]byte // of all columns that came as JSON
}

// Column is one column of a request. Of what types its values are, the request
// does not say.
type Column struct {
	Name string

	raw    [][]byte // as JSON, or else
	values []row.Value
}

// Column finds a column by its name.
func (t *Table) Column(name string) (*Column, bool) {
	for i := range t.Columns {
		if t.Columns[i].Name == name {
			return &t.Columns[i], true
		}
	}
	return nil, false
}

// Value reads the i-th value as one of type t, or null.
func (c *Column) Value(i int, t row.Type) (row.Value, error) {
	var v row.Value
	var err error
	if c.raw != nil {
		v, err = fromJSON(t, c.raw[i])
	} else if v = c.values[i]; v.Type() != t {
		v, err = convert(v, t)
	}
	if err != nil {
		return v, invalid("column %s, row %d: %s", quote(c.Name), i, fault.Message(err))
	}
	return v, nil
}

// convert is row.Convert which also takes whole numbers for seconds.
func convert(v row.Value, t row.Type) (row.Value, error) {
	if t == row.Timestamp && v.Type().Integer() {
		return ofSeconds(v.Int())
	}
	return row.Convert(v, t)
}

// Raw gives the i-th value for messages.
func (c *Column) Raw(i int) string {
	if c.raw != nil {
		return tensor.Clip(string(c.raw[i]))
	}
	return tensor.Clip(c.values[i].String())
}

// quote puts a foreign name into an error.
func quote(name string) string { return string(jsonwire.AppendString(nil, tensor.Clip(name))) }

func (t *Table) reset() { t.Columns, t.Rows, t.cells = t.Columns[:0], 0, t.cells[:0] }

// add makes a column, whose name is before the one that stood there last time.
func (t *Table) add(name []byte, s *jsonwire.Scanner) (*Column, error) {
	i := len(t.Columns)
	if i < cap(t.Columns) && t.Columns[:i+1][i].Name == string(name) {
		t.Columns = t.Columns[:i+1]
		t.Columns[i] = Column{Name: t.Columns[i].Name}
	} else {
		t.Columns = append(t.Columns, Column{Name: s.Keep(name)})
	}
	c := &t.Columns[i]
	for _, other := range t.Columns[:i] {
		if other.Name == c.Name {
			return nil, invalid("column %s is given twice", quote(c.Name))
		}
	}
	return c, nil
}

// columns reads an object of arrays, as a member called what.
func (t *Table) columns(s *jsonwire.Scanner, what string) error {
	if s.Word("null") {
		return nil
	}
	if !s.Take('{') {
		return invalid("%s must be an object of columns, each an array", what)
	}
	for i := 0; ; i++ {
		name, err := s.Member(i)
		if err != nil || name == nil {
			return err
		}
		c, err := t.add(name, s)
		if err != nil {
			return err
		}
		if !s.Take('[') {
			return invalid("%s: column %s must be an array", what, quote(c.Name))
		}
		from := len(t.cells)
		for j := 0; ; j++ {
			more, err := s.Element(j)
			if err != nil {
				return err
			}
			if !more {
				break
			}
			s.Peek()
			start := s.Pos
			if err := s.Skip(); err != nil {
				return err
			}
			t.cells = append(t.cells, s.Text[start:s.Pos])
		}
		c.raw = t.cells[from:len(t.cells):len(t.cells)]
		if c.raw == nil {
			c.raw = [][]byte{}
		}
	}
}

// even checks that all columns are of one length.
func (t *Table) even(what string) error {
	if len(t.Columns) == 0 {
		return invalid("%s has no columns", what)
	}
	for i := range t.Columns {
		c := &t.Columns[i]
		n := max(len(c.raw), len(c.values))
		if i == 0 {
			t.Rows = n
		} else if n != t.Rows {
			return invalid("column %s has %d values and column %s has %d: all columns must have the same number", quote(t.Columns[0].Name), t.Rows, quote(c.Name), n)
		}
	}
	return nil
}

// The members that are known, see jsonwire.Scanner.Object.
var requestMembers = []string{"features", "entities", "full_feature_names", "feature_service", "include_feature_view_version_metadata", "request_context"}

const (
	requestFeatures = iota
	requestEntities
	requestFullNames
	requestService
	requestVersions
)

func requestLabel() string { return "request" }

// Decode reads the body of /get-online-features, in place of what was there. The
// body must stay as it is while values are read. After an error r holds nothing of use.
func (r *Request) Decode(body []byte) error {
	r.reset()
	s := &r.scan
	s.Text, s.Pos = body, 0
	err := object(s, requestMembers, func(m int) (err error) {
		switch m {
		case requestFeatures:
			err = r.features(s)
		case requestEntities:
			err = r.columns(s, "entities")
		case requestFullNames:
			r.FullNames, err = boolean(s, requestMembers[m])
		case requestService:
			r.Service, err = text(s, requestMembers[m], r.Service)
		case requestVersions:
			r.Versions, err = boolean(s, requestMembers[m])
		default:
			err = r.columns(s, "request_context")
		}
		return err
	})
	s.Text = nil
	if err != nil {
		return err
	}
	return r.check()
}

func (r *Request) reset() {
	r.Service, r.Features, r.FullNames, r.Versions = "", r.Features[:0], false, false
	r.Table.reset()
}

func (r *Request) check() error {
	switch {
	case r.Service != "" && len(r.Features) > 0:
		return invalid("feature_service and features exclude each other")
	case r.Service == "" && len(r.Features) == 0:
		return invalid("neither features nor feature_service says what is asked for")
	}
	return r.even("entities")
}

// object reads a body that is one object.
func object(s *jsonwire.Scanner, members []string, read func(m int) error) error {
	if !s.Take('{') {
		return invalid("the body must be a JSON object")
	}
	if _, err := s.Object(members, requestLabel, func(m int, _ jsonwire.Members) error { return read(m) }); err != nil {
		return err
	}
	if s.Peek(); s.Pos < len(s.Text) {
		return s.Expected("the end of the request")
	}
	return nil
}

func (r *Request) features(s *jsonwire.Scanner) error {
	if s.Word("null") {
		return nil
	}
	if !s.Take('[') {
		return invalid(`features must be an array of strings such as "view:feature"`)
	}
	for i := 0; ; i++ {
		more, err := s.Element(i)
		if err != nil || !more {
			return err
		}
		if s.Peek() != '"' {
			return invalid(`features[%d] must be a string such as "view:feature"`, i)
		}
		name, err := s.Quoted()
		if err != nil {
			return err
		}
		r.addFeature(name)
	}
}

// addFeature keeps the name of a feature; mostly it is the one of the last request.
func (r *Request) addFeature(name []byte) {
	i := len(r.Features)
	if i < cap(r.Features) && r.Features[:i+1][i] == string(name) {
		r.Features = r.Features[:i+1]
		return
	}
	r.Features = append(r.Features, r.scan.Keep(name))
}

func boolean(s *jsonwire.Scanner, what string) (bool, error) {
	switch {
	case s.Word("true"):
		return true, nil
	case s.Word("false"), s.Word("null"):
		return false, nil
	}
	return false, invalid("%s must be true or false", what)
}

func text(s *jsonwire.Scanner, what, before string) (string, error) {
	if s.Word("null") {
		return "", nil
	}
	if s.Peek() != '"' {
		return "", invalid("%s must be a string", what)
	}
	b, err := s.Quoted()
	if err != nil || string(b) == before {
		return before, err
	}
	return s.Keep(b), nil
}

// DecodeProto reads a GetOnlineFeaturesRequest, in place of what was there.
func (r *Request) DecodeProto(b []byte) error {
	r.reset()
	err := each(b, func(f *field) (err error) {
		switch {
		case f.is(1, protowire.BytesType):
			r.Features = r.Features[:0]
			r.Service, err = f.text("feature_service")
		case f.is(2, protowire.BytesType):
			r.Service = ""
			err = each(f.bytes, func(f *field) error {
				if !f.is(1, protowire.BytesType) {
					return nil
				}
				if _, err := f.text("a feature"); err != nil {
					return err
				}
				r.addFeature(f.bytes)
				return nil
			})
		case f.is(3, protowire.BytesType):
			err = r.protoColumn(f.bytes, "entities")
		case f.is(4, protowire.VarintType):
			r.FullNames = f.word != 0
		case f.is(5, protowire.BytesType):
			err = r.protoColumn(f.bytes, "request_context")
		case f.is(6, protowire.VarintType):
			r.Versions = f.word != 0
		}
		return err
	})
	if err != nil {
		return err
	}
	// A map has no order of its own; one that is always the same is easier on readers.
	slices.SortFunc(r.Columns, func(a, b Column) int { return slices.Compare([]byte(a.Name), []byte(b.Name)) })
	return r.check()
}

func (r *Request) protoColumn(b []byte, what string) error {
	name, values, err := entry(b, what)
	if err != nil {
		return err
	}
	c, err := r.add([]byte(name), &r.scan)
	if err != nil {
		return err
	}
	return each(values, func(f *field) error {
		if !f.is(1, protowire.BytesType) {
			return nil
		}
		v, err := DecodeValue(f.bytes)
		if err != nil {
			return invalid("%s: column %s: %s", what, quote(name), fault.Message(err))
		}
		c.values = append(c.values, v)
		return nil
	})
}
