package yamlwire

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

type thing struct {
	Name string            `yaml:"name"`
	Of   map[string]string `yaml:"of"`
	N    int               `yaml:"n"`
	Any  any               `yaml:"any"`
	For  Duration          `yaml:"for"`
	Size *float64          `yaml:"size"`
	By   brief             `yaml:"by"`
	All  map[string]any    `yaml:"all"`
}

type brief struct {
	Name string `yaml:"name"`
}

func (b *brief) FromString(s string) { b.Name = "short " + s }

func TestRead(t *testing.T) {
	got, err := Read[thing]("f.yaml", []byte("name: a\nof: {carrier: B6, hour: 7, late: true}\nn: -3\nany: [1.50, x]\nfor: 1d12h\nsize: 2\nby: me\nall: {n: 7, f: 0.25, t: x, l: [1, a]}\n---\n# nothing\n---\nby: {name: you}\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []thing{
		{Name: "a", Of: map[string]string{"carrier": "B6", "hour": "7", "late": "true"}, N: -3, Any: []any{json.Number("1.5"), "x"}, For: Duration(36 * time.Hour), Size: new(2.0), By: brief{"short me"}, All: map[string]any{"n": json.Number("7"), "f": json.Number("0.25"), "t": "x", "l": []any{json.Number("1"), "a"}}},
		{By: brief{"you"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// Numbers are read however they are written, also by the encoder.
func TestNumbers(t *testing.T) {
	for text, want := range map[string]float64{"7": 7, "-0.5": -.5, ".5": .5, "1e-06": 1e-6, "1E+3": 1000, "-2.5e-7": -2.5e-7, "1.5e300": 1.5e300} {
		if got, err := Read[thing]("f.yaml", []byte("size: "+text)); err != nil || *got[0].Size != want {
			t.Errorf("%s: got %+v, %v", text, got, err)
		}
	}
	for _, f := range []float64{1e-6, 1e-300, 123456789e12, 1. / 3, -5e-324} {
		b, err := yaml.Marshal(map[string]float64{"size": f})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Read[thing]("f.yaml", b); err != nil || *got[0].Size != f {
			t.Errorf("%s: got %+v, %v", b, got, err)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"n: 1.5":                    "f.yaml:1:4: n is not a whole number",
		"n: 9223372036854775808":    "n is not a whole number",
		"n: '7'":                    "n is not a whole number",
		"of: [a]":                   "f.yaml:1:5: of is not a mapping",
		"of: {a: [b]}":              `f.yaml:1:9: "a" in of is not a single value`,
		"of: {a: b, a: c}":          "already defined",
		"of: {[a]: b}":              "f.yaml:1:",
		"all: {a: {b: c}}":          `"a" in all is not a value or a list of values`,
		"size: .inf":                "size is not a number",
		"size: '1e-06'":             "size is not a number",
		"size: 1e":                  "size is not a number",
		"size: 1e999":               "size is not a number",
		"size: 0x1p-2":              "size is not a number",
		"size: e":                   "size is not a number",
		strings.Repeat("#", Most+1): "more than 1048576",
	} {
		if got, err := Read[thing]("f.yaml", []byte(text)); !fault.Is(err, fault.Invalid) || !strings.Contains(fault.Message(err), want) {
			t.Errorf("%.40q: got %+v, %v, want Invalid with %s", text, got, err, want)
		}
	}
}

func TestNodesAreReadLater(t *testing.T) {
	type step struct {
		Use  string `yaml:"use"`
		With Node   `yaml:"with"`
	}
	all, err := Read[struct {
		Steps []step `yaml:"steps"`
	}]("f.yaml", []byte("steps:\n- use: a\n  with: {n: 3}\n- use: b\n- use: c\n  with: {n: x}\n"))
	if err != nil || len(all) != 1 || len(all[0].Steps) != 3 {
		t.Fatalf("got %+v, %v", all, err)
	}
	for i, want := range []string{"", "", "f.yaml:6:13: n is not a whole number"} {
		got := struct {
			N int `yaml:"n"`
		}{N: 1}
		err := all[0].Steps[i].With.Into(&got, "with")
		if want == "" && (err != nil || got.N != []int{3, 1}[i]) || want != "" && (err == nil || fault.Message(err) != want) {
			t.Errorf("step %d: got %+v, %v, want %q", i, got, err, want)
		}
	}
	if err := all[0].Steps[2].With.Fail("nothing has the name %s", "c"); fault.Message(err) != "f.yaml:6:9: nothing has the name c" && fault.Message(err) != "f.yaml:6:10: nothing has the name c" {
		t.Errorf("got %v", err)
	}
}

func TestDuration(t *testing.T) {
	for in, want := range map[string]string{
		"90m": "1h30m", "36h": "1d12h", "7d": "7d", "1d12h": "1d12h", "0": "0s", "0d": "0s", "15s": "15s", "250ms": "250ms", "1d0.5s": "1d500ms",
		"106751d": "106751d", "24h": "1d", "-5m": "-5m0s",
	} {
		d, err := ParseDuration(in)
		if err != nil || d.String() != want {
			t.Errorf("%s: got %s, %v, want %s", in, d, err, want)
		}
		if again, err := ParseDuration(d.String()); again != d || err != nil {
			t.Errorf("%s: read back from %s: got %s, %v", in, d, again, err)
		}
	}
	for _, in := range []string{"", "d", "7", "7w", "-7d", "1d-2h", "1d+2h", "1d1d", "1.5d", "106752d", "106751d24h", "99999999999d", "h"} {
		if d, err := ParseDuration(in); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: got %s, %v, want Invalid", in, d, err)
		}
	}
}
