// Command gen writes what is told of the declared events: a JSON schema of each
// type's data into internal/event/schema, and docs/events.md. It refuses to write
// a schema that what is released already would not fit.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/pilotlight-ml/pilotlight/internal/event"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: gen ROOT-OF-THE-REPOSITORY")
		os.Exit(2)
	}
	files, err := generate(os.Args[1])
	for path, content := range files {
		if err == nil {
			err = os.WriteFile(path, content, 0o644) //nolint:gosec // everybody may read documentation
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

// generate gives the files by their paths.
func generate(root string) (map[string][]byte, error) {
	text, err := page()
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{filepath.Join(root, "docs/events.md"): text}
	for _, d := range event.Declared() {
		if d.Foreign || d.Data == nil {
			continue
		}
		path := filepath.Join(root, "internal/event/schema", d.Name+".json")
		schema, err := schemaOf(d)
		if err != nil {
			return nil, err
		}
		schema.Schema = "https://json-schema.org/draft/2020-12/schema"
		schema.Title, schema.Description = d.Name, d.Summary
		b, err := json.MarshalIndent(schema, "", "  ")
		if err != nil {
			return nil, err
		}
		old, err := os.ReadFile(path)
		if err == nil {
			var before jsonschema.Schema
			if err = json.Unmarshal(old, &before); err == nil {
				err = compatible(&before, schema)
			}
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s: %w: declare a new type with the next version instead", d.Name, err)
		}
		files[path] = append(b, '\n')
	}
	return files, nil
}

// compatible refuses whatever a sender or a reader of the old schema would
// stumble over: all that may be done is to add optional properties.
func compatible(before, after *jsonschema.Schema) error {
	if before.Type != after.Type || before.Format != after.Format || !slices.Equal(before.Types, after.Types) {
		return fmt.Errorf("its data was of type %s%s and is %s%s now", before.Type, before.Types, after.Type, after.Types)
	}
	for _, name := range slices.Sorted(maps.Keys(before.Properties)) {
		now := after.Properties[name]
		if now == nil {
			return fmt.Errorf("property %q is gone", name)
		}
		if err := compatible(before.Properties[name], now); err != nil {
			return fmt.Errorf("property %q: %w", name, err)
		}
	}
	for _, name := range after.Required {
		if !slices.Contains(before.Required, name) {
			return fmt.Errorf("property %q is required now, and old senders leave it out", name)
		}
	}
	for _, name := range before.Required {
		if !slices.Contains(after.Required, name) {
			return fmt.Errorf("property %q is optional now, and old readers rely on it", name)
		}
	}
	if before.Items != nil && after.Items != nil {
		return compatible(before.Items, after.Items)
	}
	return nil
}

// schemaOf describes a type's data. Fields that it does not name are no error: they are those of a newer sender.
func schemaOf(d *event.Declaration) (*jsonschema.Schema, error) {
	schema, err := jsonschema.ForType(d.Data, &jsonschema.ForOptions{
		TypeSchemas: map[reflect.Type]*jsonschema.Schema{reflect.TypeFor[json.RawMessage](): {}}, // any value
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.Name, err)
	}
	schema.AdditionalProperties = nil
	return schema, nil
}

func page() ([]byte, error) {
	var b strings.Builder
	b.WriteString("# Events\n\nWritten by `make gen` from `internal/event/types.go`; the schemas are in `internal/event/schema`. " +
		"All of them are CloudEvents 1.0, with JSON as data where nothing else is said. They are hints: one may come twice, late, in another order, or never; " +
		"source and id together name it. Who gets which is said in `triggers/`.\n\n| type | when | source | subject | id |\n|---|---|---|---|---|\n")
	for _, d := range event.Declared() {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", d.Name, d.Summary, source(d), d.Subject, d.ID)
	}
	for _, d := range event.Declared() {
		if d.Data == nil {
			continue
		}
		schema, err := schemaOf(d)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "\n## %s\n\n| field | type | |\n|---|---|---|\n", d.Name)
		for _, name := range schema.PropertyOrder {
			p := schema.Properties[name]
			meaning := p.Description
			if !slices.Contains(schema.Required, name) {
				meaning += " (optional)"
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", name, kindOf(p), meaning)
		}
	}
	return []byte(b.String()), nil
}

// kindOf names a property's type; lists, which Go may have as null, say so in the schema.
func kindOf(p *jsonschema.Schema) string {
	if i := slices.IndexFunc(p.Types, func(t string) bool { return t != "null" }); i >= 0 {
		return p.Types[i]
	}
	return strings.TrimSpace(p.Type + " " + p.Format)
}

func source(d *event.Declaration) string {
	if d.Foreign {
		return d.Source
	}
	return "`" + d.Source + "`"
}
