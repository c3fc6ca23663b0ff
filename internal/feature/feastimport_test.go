package feature

import (
	"flag"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

var update = flag.Bool("update", false, "write the golden files")

func TestImportFeast(t *testing.T) {
	registry, err := os.ReadFile("../feast/testdata/registry.db")
	if err != nil {
		t.Fatal(err)
	}
	set, notes, err := ImportFeast(registry, "")
	if err != nil {
		t.Fatal(err)
	}
	yaml, err := FeastYAML(set, notes, time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	const file = "testdata/feast.yaml"
	if *update {
		if err := os.WriteFile(file, yaml, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(yaml) != string(want) {
		t.Errorf("got %s\nwant %s\n(run with -update if that is right)", yaml, want)
	}
	again, err := Parse(file, yaml)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(again, set) {
		t.Errorf("got %+v, want %+v", again, set)
	}
	for _, part := range []string{`on-demand feature view "ratio"`, `feature view "everywhere" is left out`, `view "ratio" is left out`} {
		if !slices.ContainsFunc(notes, func(n string) bool { return strings.Contains(n, part) }) {
			t.Errorf("no note tells of %s: %q", part, notes)
		}
	}
	if _, _, err := ImportFeast(registry, "other"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("another project: got %v, want not found", err)
	}
	for _, bad := range [][]byte{nil, []byte("SQLite format 3\x00"), registry[:len(registry)-1]} {
		if _, _, err := ImportFeast(bad, ""); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%.20q: got %v, want invalid", bad, err)
		}
	}
}

// Whatever a registry says, what comes of it is a set that can be used, or a fault.
func FuzzImportFeast(f *testing.F) {
	registry, err := os.ReadFile("../feast/testdata/registry.db")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(registry)
	f.Fuzz(func(t *testing.T, b []byte) {
		set, _, err := ImportFeast(b, "")
		if err != nil {
			if fault.KindOf(err) != fault.Invalid {
				t.Fatal(err)
			}
			return
		}
		if _, err := Compile(set); err != nil {
			t.Fatal(err)
		}
	})
}
