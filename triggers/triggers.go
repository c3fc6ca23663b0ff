// Package triggers holds how events flow: the broker, the triggers with their
// filters, the ticks. The cluster applies these files, and the broker in the
// process of functions/all (internal/event/bus) reads the same.
package triggers

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/pilotlight-ml/pilotlight/internal/event"
)

// Files are the manifests.
//
//go:embed *.yaml
var Files embed.FS

// manifest is what is told of a Trigger.
type manifest struct {
	Kind     string `yaml:"kind"`
	Metadata struct {
		Name string `yaml:"name"`
	} `yaml:"metadata"`
	Spec struct {
		Filters    []map[string]any `yaml:"filters"`
		Subscriber struct {
			Ref struct {
				Name string `yaml:"name"`
			} `yaml:"ref"`
			URI string `yaml:"uri"`
		} `yaml:"subscriber"`
	} `yaml:"spec"`
}

// Takers tells who takes which types of events, by the Triggers in folders (*.yaml). It is for people: what a filter lets through decides the broker.
func Takers(folders ...fs.FS) ([]event.Taker, error) {
	var all []event.Taker
	for _, folder := range folders {
		names, err := fs.Glob(folder, "*.yaml")
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			b, err := fs.ReadFile(folder, name)
			if err != nil {
				return nil, err
			}
			for documents := yaml.NewDecoder(bytes.NewReader(b)); ; {
				var m manifest
				if err := documents.Decode(&m); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					return nil, fmt.Errorf("read %s: %w", name, err)
				}
				if m.Kind == "Trigger" {
					all = append(all, m.taker())
				}
			}
		}
	}
	return all, nil
}

func (m *manifest) taker() event.Taker {
	t := event.Taker{Trigger: m.Metadata.Name, Subscriber: m.Spec.Subscriber.Ref.Name + m.Spec.Subscriber.URI, Filter: "everything"}
	var filters []string
	for _, f := range m.Spec.Filters {
		for dialect, of := range f {
			text := fmt.Sprint(of)
			if _, plain := of.(string); !plain {
				if b, err := json.Marshal(of); err == nil {
					text = string(b)
				}
			}
			filters = append(filters, dialect+" "+text)
		}
	}
	if len(filters) > 0 {
		t.Filter = strings.Join(filters, ", and ")
	}
	for _, d := range event.Declared() {
		if !slices.ContainsFunc(m.Spec.Filters, func(f map[string]any) bool { return !lets(f, d.Name) }) {
			t.Types = append(t.Types, d.Name)
		}
	}
	return t
}

// lets tells whether a filter may let events of a type through.
func lets(filter map[string]any, name string) bool {
	for dialect, of := range filter {
		switch of := of.(type) {
		case string: // an expression
			if strings.Contains(of, "'dev.") && !strings.Contains(of, "'"+name+"'") {
				return false
			}
		case []any: // all or any of others
			some, every := false, true
			for _, f := range of {
				f, ok := f.(map[string]any)
				may := !ok || lets(f, name)
				some, every = some || may, every && may
			}
			if dialect == "all" && !every || dialect == "any" && !some {
				return false
			}
		case map[string]any:
			want, ok := of["type"].(string)
			if ok && (dialect == "exact" && name != want || dialect == "prefix" && !strings.HasPrefix(name, want) || dialect == "suffix" && !strings.HasSuffix(name, want)) {
				return false
			}
		}
	}
	return true
}
