package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"
)

func TestGeneratedFilesAreThoseInTheRepository(t *testing.T) {
	files, err := generate("../../..")
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range files {
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is stale (%v): run `make gen`", path, err)
		}
	}
}

func TestReleasedSchemasOnlyGrow(t *testing.T) {
	const before = `{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"integer"}},"required":["a"]}`
	for _, test := range []struct{ name, after, err string }{
		{"as it was", before, ""},
		{"one more, optional", `{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"integer"},"c":{"type":"number"}},"required":["a"]}`, ""},
		{"gone", `{"type":"object","properties":{"a":{"type":"string"}},"required":["a"]}`, `property "b" is gone`},
		{"other type", `{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"string"}},"required":["a"]}`, `property "b": its data was of type integer`},
		{"one more, required", `{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"integer"},"c":{"type":"number"}},"required":["a","c"]}`, `property "c" is required now`},
		{"optional now", `{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"integer"}}}`, `property "a" is optional now`},
	} {
		var b, a jsonschema.Schema
		if err := json.Unmarshal([]byte(before), &b); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(test.after), &a); err != nil {
			t.Fatal(err)
		}
		err := compatible(&b, &a)
		if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
			t.Errorf("%s: got %v, want %q", test.name, err, test.err)
		}
	}
}
