package feature

import (
	"encoding/json"

	"github.com/goccy/go-yaml"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

// jsonMost is how many bytes of JSON are read; YAML is parsed more slowly, and has a limit of its own.
const jsonMost = 4 << 20

// Parse reads definitions from YAML of one or more documents, or from JSON. What
// it does not know is refused; errors are Invalid and say where: the name (of a
// file), line and column. The set is not compiled, and has no version.
func Parse(name string, b []byte) (*Set, error) {
	if json.Valid(b) {
		return parseJSON(name, b)
	}
	sets, err := yamlwire.Read[*Set](name, b)
	if err != nil {
		return nil, err
	}
	return Join(sets...), nil
}

// parseJSON reads a set as the catalog gives it. What the catalog itself has put
// there, such as versions, is left to it again.
func parseJSON(name string, b []byte) (*Set, error) {
	if len(b) > jsonMost {
		return nil, fault.New(fault.Invalid, "%s has %d bytes of definitions, more than %d", name, len(b), jsonMost)
	}
	s := &Set{}
	if err := serve.Strict(b, s); err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "%s: %s", name, serve.Misread(err))
	}
	for i := range s.Views {
		s.Views[i].Version, s.Views[i].IDs = 0, nil
	}
	for i := range s.Expressions {
		s.Expressions[i].Version = 0
	}
	return Join(s), nil
}

// add appends what another set defines.
func (s *Set) add(o *Set) {
	s.Entities = append(s.Entities, o.Entities...)
	s.Sources = append(s.Sources, o.Sources...)
	s.Views = append(s.Views, o.Views...)
	s.Expressions = append(s.Expressions, o.Expressions...)
	s.Services = append(s.Services, o.Services...)
}

// Join puts what was read from several files into one set.
func Join(sets ...*Set) *Set {
	all := &Set{}
	for _, s := range sets {
		all.add(s)
	}
	return all
}

// FromString makes the Choice one of a feature.
func (c *Choice) FromString(feature string) { c.Feature = feature }

// UnmarshalJSON reads a Choice from an object, or a string that is its feature.
func (c *Choice) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		*c = Choice{}
		return json.Unmarshal(b, &c.Feature)
	}
	type fields Choice // without the method
	var f struct {
		fields
		Default json.RawMessage `json:"default"`
	}
	if err := serve.Strict(b, &f); err != nil {
		return err
	}
	*c = Choice(f.fields)
	if f.Default == nil {
		return nil
	}
	var err error
	c.Default, err = yamlwire.Plain(f.Default)
	return err
}

// MarshalYAML writes a Choice as Parse reads it: a string where that is all of it.
func (c Choice) MarshalYAML() (any, error) {
	if c.As == "" && c.Default == nil {
		return c.Feature, nil
	}
	type fields Choice // without the method
	f := fields(c)
	f.Default = yamlNumbers(c.Default)
	return f, nil
}

// yamlNumbers makes numbers of those that are kept as they were written.
func yamlNumbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		return yamlNumber(v)
	case []any:
		list := make([]any, len(v))
		for i, e := range v {
			list[i] = yamlNumbers(e)
		}
		return list
	}
	return v
}

type yamlNumber json.Number

// MarshalYAML writes the number without quotes.
func (n yamlNumber) MarshalYAML() ([]byte, error) { return []byte(n), nil }

// YAML writes the set as Parse reads it.
func (s *Set) YAML() ([]byte, error) {
	return yaml.MarshalWithOptions(s, yaml.IndentSequence(true), yaml.UseLiteralStyleIfMultiline(true))
}
