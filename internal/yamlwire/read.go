package yamlwire

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// Most is how many bytes are read. The parser of YAML takes half a second for them,
// much more for little more, and time in the square of the depth.
const Most = 1 << 20

const depthMost = 50

// Short is what a struct may be beside its fields: a single string.
type Short interface{ FromString(s string) }

// Read makes a T, which is a struct, of each document that is not empty. Fields are
// named by their tags "yaml", and one that T does not have is refused. Errors are
// Invalid, and begin with the name (of a file), line and column.
//
// Texts, booleans, numbers, lists, mappings to structs, of texts and of any are read, types that
// know themselves by encoding.TextUnmarshaler or Short, and any, in which numbers
// are json.Number.
func Read[T any](name string, b []byte) ([]T, error) {
	if len(b) > Most {
		return nil, fault.New(fault.Invalid, "%s has %d bytes of definitions, more than %d", name, len(b), Most)
	}
	p := &reader{name: name}
	tokens := lexer.Tokenize(string(b))
	if err := p.check(tokens); err != nil {
		return nil, err
	}
	var all []T
	for len(tokens) > 0 {
		// One at a time: behind a document that is empty the parser would stop.
		end := 1 + slices.IndexFunc(tokens[1:], func(t *token.Token) bool { return t.Type == token.DocumentHeaderType })
		if end == 0 {
			end = len(tokens)
		}
		file, err := parser.Parse(tokens[:end], 0)
		if err != nil {
			return nil, p.syntax(err)
		}
		tokens = tokens[end:]
		for _, doc := range file.Docs {
			if doc.Body == nil || doc.Body.Type() == ast.NullType {
				continue
			}
			var one T
			if err := p.read(doc.Body, reflect.ValueOf(&one).Elem(), "the document"); err != nil {
				return nil, err
			}
			all = append(all, one)
		}
	}
	return all, nil
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

// Node is a part of a document that is read later, when it is known as what. The zero value is one that is not there.
type Node struct {
	name string
	at   ast.Node
}

// Into reads the node into v, which a pointer to a struct is to; errors call it what. One that is not there leaves v as it is.
func (n Node) Into(v any, what string) error {
	if n.at == nil {
		return nil
	}
	p := &reader{name: n.name}
	return p.read(n.at, reflect.ValueOf(v).Elem(), what)
}

// Fail makes an error that says where the node stands.
func (n Node) Fail(format string, args ...any) error {
	p := &reader{name: n.name}
	if n.at == nil {
		return p.fail(nil, format, args...)
	}
	return p.fail(n.at.GetToken(), format, args...)
}

var (
	nodeType  = reflect.TypeFor[Node]()
	textType  = reflect.TypeFor[encoding.TextUnmarshaler]()
	shortType = reflect.TypeFor[Short]()
)

// read reads a node into v, which errors call what.
func (p *reader) read(n ast.Node, v reflect.Value, what string) error {
	if _, null := n.(*ast.NullNode); null {
		return nil // as if it were not there
	}
	if v.Type() == nodeType {
		v.Set(reflect.ValueOf(Node{name: p.name, at: n}))
		return nil
	}
	switch n := n.(type) {
	case *ast.StringNode:
		if v.Addr().Type().Implements(shortType) {
			v.Addr().Interface().(Short).FromString(n.Value)
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
	case reflect.Map:
		return p.readMap(n, v, what)
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
	case reflect.Int:
		if n, ok := n.(*ast.IntegerNode); ok {
			if i, ok := n.Value.(int64); ok {
				v.SetInt(i)
				return nil
			}
			if i, ok := n.Value.(uint64); ok && i <= math.MaxInt64 {
				v.SetInt(int64(i))
				return nil
			}
		}
		return p.fail(n.GetToken(), "%s is not a whole number", what)
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
		case *ast.StringNode: // to the parser 1e-06 is none, which the core schema of YAML 1.2 has, and its own encoder writes
			if n.Token.Type == token.StringType && strings.Trim(n.Value, "0123456789.eE+-") == "" {
				if f, err := strconv.ParseFloat(n.Value, 64); err == nil {
					v.SetFloat(f)
					return nil
				}
			}
		}
		return p.fail(n.GetToken(), "%s is not a number", what)
	}
	return p.readAny(n, v, what)
}

// mapping gives the entries of a mapping.
func (p *reader) mapping(n ast.Node, what string) ([]*ast.MappingValueNode, error) {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values, nil
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, nil
	}
	return nil, p.fail(n.GetToken(), "%s is not a mapping", what)
}

// readMap reads texts by their names; a number or a boolean is the text that stands there.
func (p *reader) readMap(n ast.Node, v reflect.Value, what string) error {
	entries, err := p.mapping(n, what)
	if err != nil {
		return err
	}
	v.Set(reflect.MakeMap(v.Type()))
	for _, e := range entries {
		key, ok := scalar(e.Key)
		if !ok {
			return p.fail(e.Key.GetToken(), "a name in %s is not a single value", what)
		}
		if elem := v.Type().Elem(); elem.Kind() == reflect.Interface {
			plain := reflect.New(elem).Elem()
			if err := p.readAny(e.Value, plain, fmt.Sprintf("%q in %s", key, what)); err != nil {
				return err
			}
			v.SetMapIndex(reflect.ValueOf(key), plain)
			continue
		}
		text, ok := scalar(e.Value)
		if !ok {
			return p.fail(e.Value.GetToken(), "%q in %s is not a single value", key, what)
		}
		v.SetMapIndex(reflect.ValueOf(key), reflect.ValueOf(text))
	}
	return nil
}

func (p *reader) readStruct(n ast.Node, v reflect.Value, what string) error {
	entries, err := p.mapping(n, what)
	if err != nil {
		return err
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

// readAny reads a value as JSON would have it.
func (p *reader) readAny(n ast.Node, v reflect.Value, what string) error {
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
			if err := p.readAny(e, reflect.ValueOf(&list[i]).Elem(), what); err != nil {
				return err
			}
		}
		plain = list
	default:
		return p.fail(n.GetToken(), "%s is not a value or a list of values", what)
	}
	b, err := json.Marshal(plain)
	if err == nil {
		plain, err = Plain(b)
	}
	if err != nil {
		return p.fail(n.GetToken(), "%s is not a value", what)
	}
	v.Set(reflect.ValueOf(plain))
	return nil
}

// Plain decodes JSON, and keeps numbers as they are written, so that none loses digits.
func Plain(b []byte) (v any, err error) {
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
