package feature

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
)

// Limits of what is read. The parser of YAML takes half a second for its most, much
// more for little more, and time in the square of the depth.
const (
	jsonMost  = 4 << 20 // bytes
	yamlMost  = 1 << 20
	depthMost = 50
)

// Parse reads definitions from YAML of one or more documents, or from JSON. What
// it does not know is refused; errors are Invalid and say where: the name (of a
// file), line and column. The set is not compiled, and has no version.
func Parse(name string, b []byte) (*Set, error) {
	isJSON, most := json.Valid(b), yamlMost
	if isJSON {
		most = jsonMost
	}
	if len(b) > most {
		return nil, fault.New(fault.Invalid, "%s has %d bytes of definitions, more than %d", name, len(b), most)
	}
	if isJSON {
		return parseJSON(name, b)
	}
	p := &reader{name: name}
	tokens := lexer.Tokenize(string(b))
	if err := p.check(tokens); err != nil {
		return nil, err
	}
	file, err := parser.Parse(tokens, 0)
	if err != nil {
		return nil, p.syntax(err)
	}
	all := &Set{}
	for _, doc := range file.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.NullType {
			continue
		}
		one := Set{}
		if err := p.read(doc.Body, reflect.ValueOf(&one).Elem(), "the document"); err != nil {
			return nil, err
		}
		all.add(&one)
	}
	return all, nil
}

// parseJSON reads a set as the catalog gives it. What the catalog itself has put
// there, such as versions, is left to it again.
func parseJSON(name string, b []byte) (*Set, error) {
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

// reader makes Go values of YAML nodes. It is not the one of the YAML package,
// which knows no position of what a type refuses, and speaks of Go.
type reader struct{ name string }

func (p *reader) fail(t *token.Token, format string, args ...any) error {
	message := fmt.Sprintf(format, args...)
	if t == nil || t.Position == nil {
		return fault.New(fault.Invalid, "%s: %s", p.name, message)
	}
	return fault.New(fault.Invalid, "%s:%d:%d: %s", p.name, t.Position.Line, t.Position.Column, message)
}

func (p *reader) syntax(err error) error {
	var positioned yaml.Error
	if errors.As(err, &positioned) {
		return p.fail(positioned.GetToken(), "%s", positioned.GetMessage())
	}
	return p.fail(nil, "%s", err)
}

// check refuses what definitions have no use for: aliases, by which a few lines
// become gigabytes, types by tags, and depth.
func (p *reader) check(tokens token.Tokens) error {
	depth, line, entries := 0, 0, 0
	for _, t := range tokens {
		switch t.Type {
		case token.AnchorType, token.AliasType, token.MergeKeyType:
			return p.fail(t, "anchors and aliases are not read here")
		case token.TagType, token.DirectiveType:
			return p.fail(t, "tags and directives are not read here")
		case token.SequenceStartType, token.MappingStartType:
			depth++
		case token.SequenceEndType, token.MappingEndType:
			depth--
		case token.SequenceEntryType, token.MappingKeyType:
			if t.Position.Line != line {
				line, entries = t.Position.Line, 0
			}
			entries++
		}
		if depth > depthMost || entries > depthMost {
			return p.fail(t, "this is nested deeper than definitions are")
		}
	}
	return nil
}

var (
	textType   = reflect.TypeFor[encoding.TextUnmarshaler]()
	choiceType = reflect.TypeFor[Choice]()
)

// read reads a node into v, which errors call what.
func (p *reader) read(n ast.Node, v reflect.Value, what string) error {
	switch n := n.(type) {
	case *ast.NullNode:
		return nil // as if it were not there
	case *ast.StringNode:
		if v.Type() == choiceType {
			v.Addr().Interface().(*Choice).Feature = n.Value
			return nil
		}
	}
	if v.Addr().Type().Implements(textType) {
		text, ok := scalar(n)
		if !ok {
			return p.fail(n.GetToken(), "%s is not a single value", what)
		}
		if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(text)); err != nil {
			return p.fail(n.GetToken(), "%s: %s", what, fault.Message(err))
		}
		return nil
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		return p.read(n, v.Elem(), what)
	case reflect.Struct:
		return p.readStruct(n, v, what)
	case reflect.Slice:
		list, ok := n.(*ast.SequenceNode)
		if !ok {
			return p.fail(n.GetToken(), "%s is not a list", what)
		}
		v.Set(reflect.MakeSlice(v.Type(), len(list.Values), len(list.Values)))
		for i, e := range list.Values {
			if _, null := e.(*ast.NullNode); null {
				return p.fail(e.GetToken(), "an element of %s is missing", what)
			}
			if err := p.read(e, v.Index(i), "an element of "+what); err != nil {
				return err
			}
		}
		return nil
	case reflect.String:
		switch n := n.(type) {
		case *ast.StringNode:
			v.SetString(n.Value)
			return nil
		case *ast.LiteralNode:
			v.SetString(n.Value.Value)
			return nil
		}
		return p.fail(n.GetToken(), "%s is not a string", what)
	case reflect.Bool:
		b, ok := n.(*ast.BoolNode)
		if !ok {
			return p.fail(n.GetToken(), "%s is not true or false", what)
		}
		v.SetBool(b.Value)
		return nil
	case reflect.Float64:
		switch n := n.(type) {
		case *ast.IntegerNode:
			switch i := n.Value.(type) {
			case int64:
				v.SetFloat(float64(i))
				return nil
			case uint64:
				v.SetFloat(float64(i))
				return nil
			}
		case *ast.FloatNode:
			v.SetFloat(n.Value)
			return nil
		}
		return p.fail(n.GetToken(), "%s is not a number", what)
	}
	return p.readDefault(n, v, what)
}

func (p *reader) readStruct(n ast.Node, v reflect.Value, what string) error {
	var entries []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		entries = n.Values
	case *ast.MappingValueNode:
		entries = []*ast.MappingValueNode{n}
	default:
		return p.fail(n.GetToken(), "%s is not a mapping", what)
	}
	fields := map[string]reflect.Value{}
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		if name != "-" {
			fields[name] = v.Field(i)
		}
	}
	seen := map[string]bool{}
	for _, e := range entries {
		key, _ := scalar(e.Key)
		field, ok := fields[key]
		switch {
		case !ok:
			return p.fail(e.Key.GetToken(), "%s has no field %.100q", what, key)
		case seen[key]:
			return p.fail(e.Key.GetToken(), "%s has two fields %q", what, key)
		}
		seen[key] = true
		if err := p.read(e.Value, field, key); err != nil {
			return err
		}
	}
	return nil
}

// readDefault reads a value whose type its feature says: as JSON would have it.
func (p *reader) readDefault(n ast.Node, v reflect.Value, what string) error {
	var plain any
	switch n := n.(type) {
	case *ast.StringNode:
		plain = n.Value
	case *ast.LiteralNode:
		plain = n.Value.Value
	case *ast.BoolNode:
		plain = n.Value
	case *ast.IntegerNode:
		plain = n.Value
	case *ast.FloatNode:
		plain = n.Value
	case *ast.SequenceNode:
		list := make([]any, len(n.Values))
		for i, e := range n.Values {
			if err := p.readDefault(e, reflect.ValueOf(&list[i]).Elem(), what); err != nil {
				return err
			}
		}
		plain = list
	default:
		return p.fail(n.GetToken(), "%s is not a value or a list of values", what)
	}
	b, err := json.Marshal(plain)
	if err == nil {
		plain, err = decodeDefault(b)
	}
	if err != nil {
		return p.fail(n.GetToken(), "%s is not a value", what)
	}
	v.Set(reflect.ValueOf(plain))
	return nil
}

// decodeDefault keeps numbers as they are written, so that none loses digits.
func decodeDefault(b []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	err = d.Decode(&v)
	return v, err
}

// scalar is the text of a single value.
func scalar(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value, true
	}
	return "", false
}

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
	c.Default, err = decodeDefault(f.Default)
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
