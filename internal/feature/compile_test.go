package feature

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/row"
)

// flightSet defines one of everything.
func flightSet() *Set {
	return &Set{
		Entities: []Entity{
			{Name: "carrier", Keys: []Field{{Name: "carrier", Type: row.String}}},
			{Name: "route", Keys: []Field{{Name: "origin", Type: row.String}, {Name: "dest", Type: row.String}}},
		},
		Sources: []Source{
			{Name: "arrivals", Created: "created", Fields: []Field{
				{Name: "carrier", Type: row.String},
				{Name: "origin", Type: row.String},
				{Name: "dest", Type: row.String},
				{Name: "event_timestamp", Type: row.Timestamp},
				{Name: "created", Type: row.Timestamp},
				{Name: "delay", Type: row.Float32},
				{Name: "flight", Type: row.Int32},
				{Name: "tail", Type: row.String},
				{Name: "codes", Type: row.ListOf(row.Int64)},
			}},
			{Name: "plans", Path: "landing/plans/", Time: "at", Fields: []Field{
				{Name: "carrier", Type: row.String}, {Name: "at", Type: row.Timestamp}, {Name: "planes", Type: row.Int64},
			}},
		},
		Views: []View{
			{Name: "last_arrival", Entities: []string{"route", "carrier"}, Source: "arrivals"},
			{Name: "fleet", Entities: []string{"carrier"}, Source: "plans", Features: []string{"planes"}, TTL: Duration(48 * time.Hour)},
			{Name: "delays", Entities: []string{"carrier"}, Source: "arrivals", Lateness: Duration(time.Hour), Windows: []Window{
				{Name: "n", Aggregate: "count", Size: Duration(time.Hour), Slide: Duration(time.Minute)},
				{Name: "mean", Aggregate: "mean", Of: "delay", Size: Duration(24 * time.Hour), Slide: Duration(time.Hour)},
				{Name: "sum", Aggregate: "sum", Of: "delay", Size: Duration(time.Hour)},
				{Name: "flights", Aggregate: "sum", Of: "flight", Size: Duration(time.Hour)},
				{Name: "worst", Aggregate: "max", Of: "delay", Size: Duration(time.Hour)},
				{Name: "tails", Aggregate: "distinct", Of: "tail", Size: Duration(time.Hour)},
				{Name: "codes", Aggregate: "last", Of: "codes", Size: Duration(time.Hour)},
			}},
		},
		Expressions: []Expression{{
			Name: "ratio", Inputs: []Field{{Name: "distance", Type: row.Float64}},
			Features: []Expressed{{Name: "per_plane", Type: row.Float64, Value: "distance / double(fleet.planes)"}},
		}},
		Services: []Service{{Name: "delay_model", Features: []Choice{
			{Feature: "delays:*"}, {Feature: "fleet:planes", As: "size", Default: json.Number("1")}, {Feature: "ratio:per_plane"},
		}}},
	}
}

func TestCompileLooksUp(t *testing.T) {
	set := flightSet()
	c, err := Compile(set)
	if err != nil {
		t.Fatal(err)
	}
	v, err := c.View("last_arrival")
	if err != nil {
		t.Fatal(err)
	}
	var keys, columns []string
	for i, k := range v.Keys {
		if got := v.From.Fields[v.KeyAt[i]].Name; got != k.Name {
			t.Errorf("key %s is looked for in column %s", k.Name, got)
		}
		keys = append(keys, k.Name)
	}
	for i, f := range v.Columns {
		if got := v.From.Fields[v.FromAt[i]].Name; got != f.Name || v.At[f.Name] != i || f.ID != uint32(i+1) {
			t.Errorf("column %+v: made of %s, said to be at %d", f, got, v.At[f.Name])
		}
		columns = append(columns, f.Name)
	}
	if want := []string{"origin", "dest", "carrier"}; !slices.Equal(keys, want) {
		t.Errorf("keys: got %v, want %v", keys, want)
	}
	if want := []string{"delay", "flight", "tail", "codes"}; !slices.Equal(columns, want) {
		t.Errorf("columns: got %v, want %v: all but keys and times", columns, want)
	}
	s, err := c.Source("arrivals")
	if err != nil || s.TimeAt != 3 || s.Made != 4 || len(s.Views) != 2 || len(s.Columns) != len(s.Fields) {
		t.Errorf("source arrivals: got %+v, %v", s, err)
	}
	if s, err := c.Source("plans"); err != nil || s.TimeAt != 1 || s.Made != -1 {
		t.Errorf("source plans: got %+v, %v", s, err)
	}
	d, err := c.View("delays")
	if err != nil {
		t.Fatal(err)
	}
	want := []row.Field{
		{Name: "n", Type: row.Int64, ID: 1},
		{Name: "mean", Type: row.Float64, ID: 2},
		{Name: "sum", Type: row.Float64, ID: 3},
		{Name: "flights", Type: row.Int64, ID: 4},
		{Name: "worst", Type: row.Float32, ID: 5},
		{Name: "tails", Type: row.Int64, ID: 6},
		{Name: "codes", Type: row.ListOf(row.Int64), ID: 7},
	}
	if !slices.Equal(d.Columns, want) || d.FromAt[0] != -1 {
		t.Errorf("windows: got %v from %v, want %v", d.Columns, d.FromAt, want)
	}
	service := c.services["delay_model"]
	names := make([]string, 0, 9)
	for _, col := range service.Columns {
		names = append(names, col.Name)
	}
	if want := []string{"n", "mean", "sum", "flights", "worst", "tails", "codes", "size", "per_plane"}; !slices.Equal(names, want) {
		t.Errorf("service: got %v, want %v", names, want)
	}
	if got := service.Columns[7].Default; !got.Equal(row.OfInt64(1)) {
		t.Errorf("default: got %s, want 1", got)
	}
	if _, err := c.View("ratio"); !fault.Is(err, fault.NotFound) {
		t.Errorf("view ratio, which is an expression: got %v, want NotFound", err)
	}
}

func TestCompileKeepsNumbers(t *testing.T) {
	set := flightSet()
	set.Views[1].IDs = map[string]uint32{"gone": 7, "planes@3": 2}
	c, err := Compile(set)
	if err != nil {
		t.Fatal(err)
	}
	v, err := c.View("fleet")
	if err != nil || v.Columns[0].ID != 8 {
		t.Errorf("a new column: got %+v, %v, want number 8, behind all that were given", v.Columns, err)
	}
	if len(set.Views[1].IDs) != 2 {
		t.Errorf("the set was changed: %v", set.Views[1].IDs)
	}
}

func TestCompileRefuses(t *testing.T) {
	nan, two, one := math.NaN(), 2.0, 1.0
	for _, test := range []struct {
		do   func(s *Set)
		want string // in the error
	}{
		{func(s *Set) { s.Entities[0].Name = "9lives" }, `entity "9lives"`},
		{func(s *Set) { s.Entities[0].Name = "" }, `entity ""`},
		{func(s *Set) { s.Entities[0].Name = strings.Repeat("x", 101) }, "1 to 100"},
		{func(s *Set) { s.Entities[1].Name = "carrier" }, `entity "carrier" is defined twice`},
		{func(s *Set) { s.Entities[0].Keys = nil }, `entity "carrier" has no keys`},
		{func(s *Set) { s.Entities[0].Keys[0].Type = row.Float64 }, `key "carrier" is a float64`},
		{func(s *Set) { s.Entities[0].Keys[0].Type = row.ListOf(row.Int64) }, `key "carrier" is a list(int64)`},
		{func(s *Set) { s.Entities[0].Keys[0].Type = 0 }, `key "carrier" has no type`},
		{func(s *Set) { s.Entities[0].Keys[0].Type = row.Int64 }, `column "carrier" is a string in source "arrivals", and a int64 as key`},
		{func(s *Set) { s.Entities[0].Keys[0].Name = "airline" }, `no column "airline", which is a key of entity "carrier"`},
		{func(s *Set) { s.Entities[1].Keys[1].Name = "origin" }, `two keys "origin"`},
		{func(s *Set) { s.Entities[1].Keys[1].Name = "carrier" }, `have the key "carrier"`},
		{func(s *Set) { s.Sources[1].Name = "arrivals" }, `source "arrivals" is defined twice`},
		{func(s *Set) { s.Sources[0].Name = "arr ivals" }, `source "arr ivals"`},
		{func(s *Set) { s.Sources[0].Fields[6].Name = "delay" }, `two columns "delay"`},
		{func(s *Set) { s.Sources[0].Fields[6].Name = "Delay" }, `nothing but case`},
		{func(s *Set) { s.Sources[0].Fields[6].Name = "de-lay" }, `column "de-lay"`},
		{func(s *Set) { s.Sources[0].Fields[6].Type = 77 }, `column "flight" has no type`},
		{func(s *Set) { s.Sources[0].Time = "delay" }, `time names column "delay", which is a float32`},
		{func(s *Set) { s.Sources[0].Time = "nowhere" }, `time names column "nowhere"`},
		{func(s *Set) { s.Sources[1].Time = "" }, `no column "event_timestamp"`},
		{func(s *Set) { s.Sources[0].Created = "tail" }, `created names column "tail"`},
		{func(s *Set) { s.Sources[0].Fresh = -1 }, `fresh is -1ns`},
		{func(s *Set) { s.Sources[1].Fresh = Duration(time.Hour) }, `both a path and fresh`},
		{func(s *Set) { s.Sources[1].Path = "landing/plans" }, `path "landing/plans"`},
		{func(s *Set) { s.Sources[1].Path = "../x/" }, `path "../x/"`},
		{func(s *Set) { s.Sources[1].Path = "/" }, `path "/"`},
		{func(s *Set) { s.Sources[0].Fields[7].Min = &one }, `column "tail" has a min`},
		{func(s *Set) { s.Sources[0].Fields[5].Max = &nan }, `column "delay" has a max that is no number`},
		{func(s *Set) { s.Sources[0].Fields[5].Min, s.Sources[0].Fields[5].Max = &two, &one }, `min of 2 above its max of 1`},
		{func(s *Set) { s.Sources[0].Fields[5].OneOf = []string{"a"} }, `column "delay" has one_of`},
		{func(s *Set) { s.Views[1].Name = "delays" }, `view "delays" is defined twice`},
		{func(s *Set) { s.Views[1].Name = "ratio" }, `both a view and an expression`},
		{func(s *Set) { s.Views[0].Source = "departures" }, `source "departures" is not defined`},
		{func(s *Set) { s.Views[0].Entities = nil }, `view "last_arrival" has no entities`},
		{func(s *Set) { s.Views[0].Entities = []string{"pilot"} }, `entity "pilot" is not defined`},
		{func(s *Set) { s.Views[0].Entities = []string{"route", "route"} }, `entity "route" twice`},
		{func(s *Set) { s.Views[0].TTL = -1 }, `ttl is -1ns`},
		{func(s *Set) { s.Views[0].TTL = 1500 }, `ttl is 1.5µs`},
		{func(s *Set) { s.Views[0].Lateness = Duration(time.Hour) }, `lateness`},
		{func(s *Set) { s.Views[1].Features = []string{"seats"} }, `no column "seats"`},
		{func(s *Set) { s.Views[1].Features = []string{"planes", "planes"} }, `two features "planes"`},
		{func(s *Set) { s.Views[1].Features = []string{"carrier"} }, `feature "carrier" has the name of a key`},
		{func(s *Set) { s.Views[1].Features, s.Sources[1].Fields = nil, s.Sources[1].Fields[:2] }, `view "fleet" has no features`},
		{func(s *Set) { s.Views[1].IDs = map[string]uint32{"a": 1, "b": 1} }, `the number 1`},
		{func(s *Set) { s.Views[2].Features = []string{"tail"} }, `both features and windows`},
		{func(s *Set) { s.Views[2].TTL = Duration(time.Hour) }, `both a ttl and windows`},
		{func(s *Set) { s.Views[2].Windows[1].Name = "n" }, `two features "n"`},
		{func(s *Set) { s.Views[2].Windows[1].Name = "carrier" }, `"carrier" has the name of a key`},
		{func(s *Set) { s.Views[2].Windows[1].Name = "" }, `view delays: the name of window ""`},
		{func(s *Set) { s.Views[2].Windows[1].Aggregate = "median" }, `window "mean": aggregate "median"`},
		{func(s *Set) { s.Views[2].Windows[1].Of = "" }, `a mean is of a column`},
		{func(s *Set) { s.Views[2].Windows[1].Of = "speed" }, `no column "speed"`},
		{func(s *Set) { s.Views[2].Windows[0].Of = "speed" }, `no column "speed"`},
		{func(s *Set) { s.Views[2].Windows[1].Of = "tail" }, `column "tail" is a string, and a mean is of numbers`},
		{func(s *Set) { s.Views[2].Windows[4].Of = "created" }, `column "created" is a timestamp, and a max is of numbers`},
		{func(s *Set) { s.Views[2].Windows[5].Of = "codes" }, `lists are not told apart`},
		{func(s *Set) { s.Views[2].Windows[1].Size = 0 }, `it has no size`},
		{func(s *Set) { s.Views[2].Windows[1].Size = -Duration(time.Hour) }, `size is -1h0m0s`},
		{func(s *Set) { s.Views[2].Windows[1].Slide = Duration(7 * time.Hour) }, `slide of 7h does not divide its size of 1d`},
		{func(s *Set) { s.Views[2].Windows[1].Slide = Duration(time.Second) }, `86400 slides of 1s, more than 4096`},
		{func(s *Set) { s.Views[2].Lateness = 1<<63 - 1 - (1<<63-1)%1000 }, `more than 4096 steps`},
		{func(s *Set) { s.Expressions = append(s.Expressions, s.Expressions[0]) }, `expression "ratio" is defined twice`},
		{func(s *Set) { s.Expressions[0].Name = "r.x" }, `expression "r.x"`},
		{func(s *Set) { s.Expressions[0].Inputs[0].Type = 0 }, `input "distance" has no type`},
		{func(s *Set) { s.Expressions[0].Features = nil }, `expression "ratio" has 0 features`},
		{func(s *Set) { s.Expressions[0].Features[0].Type = 0 }, `feature "per_plane" has no type`},
		{func(s *Set) { s.Expressions[0].Features[0].Value = " " }, `no value to compute`},
		{func(s *Set) { s.Expressions[0].Features[0].Name = "" }, `expression ratio: the name of feature ""`},
		{func(s *Set) { s.Services[0].Name = "" }, `service ""`},
		{func(s *Set) { s.Services = append(s.Services, s.Services[0]) }, `service "delay_model" is defined twice`},
		{func(s *Set) { s.Services[0].Features = nil }, `service "delay_model" has 0 features`},
		{func(s *Set) { s.Services[0].Features[0].Feature = "delays" }, `"delays" is not "view:feature"`},
		{func(s *Set) { s.Services[0].Features[0].Feature = "weather:*" }, `service "delay_model": there is no view or expression "weather"`},
		{func(s *Set) { s.Services[0].Features[1].Feature = "fleet:seats" }, `"fleet" has no feature "seats"`},
		{func(s *Set) { s.Services[0].Features[2].Feature = "ratio:x" }, `"ratio" has no feature "x"`},
		{func(s *Set) { s.Services[0].Features[1].As = "n" }, `delays:n and fleet:planes are both called "n"`},
		{func(s *Set) { s.Services[0].Features[1].As = strings.Repeat("x", 201) }, `longer than`},
		{func(s *Set) { s.Services[0].Features[0].As = "all" }, `stands for many`},
		{func(s *Set) { s.Services[0].Features[1].Default = "many" }, `fleet:planes: its default: "many" is not a value of type int64`},
		{func(s *Set) { s.Services[0].Features[1].Default = 1.5 }, `1.5 is not a value of type int64`},
		{func(s *Set) { s.Services[0].Features[1].Default = nan }, `its default is no value`},
	} {
		s := flightSet()
		test.do(s)
		_, err := Compile(s)
		if !fault.Is(err, fault.Invalid) || !strings.Contains(fault.Message(err), test.want) {
			t.Errorf("got %v, want Invalid with %s", err, test.want)
		}
	}
}

// Few words that stand for much are refused before they take the memory.
func TestCompileBounds(t *testing.T) {
	wide := Source{Name: "wide", Fields: []Field{{Name: "carrier", Type: row.String}, {Name: "event_timestamp", Type: row.Timestamp}}}
	for i := range 5000 {
		wide.Fields = append(wide.Fields, Field{Name: fmt.Sprintf("c%d", i), Type: row.Int64})
	}
	s := &Set{Entities: flightSet().Entities[:1], Sources: []Source{wide}}
	for i := range 100 {
		s.Views = append(s.Views, View{Name: fmt.Sprintf("v%d", i), Entities: []string{"carrier"}, Source: "wide"})
	}
	if _, err := Compile(s); !fault.Is(err, fault.Invalid) || !strings.Contains(fault.Message(err), "more than 200000 features") {
		t.Errorf("views: got %v, want Invalid", err)
	}
	s.Views = s.Views[:1]
	for i := range 100 {
		s.Services = append(s.Services, Service{Name: fmt.Sprintf("s%d", i), Features: []Choice{{Feature: "v0:*"}}})
	}
	if _, err := Compile(s); !fault.Is(err, fault.Invalid) || !strings.Contains(fault.Message(err), "more than 200000 features") {
		t.Errorf("services: got %v, want Invalid", err)
	}
	s.Services = s.Services[:30]
	if _, err := Compile(s); err != nil {
		t.Errorf("what is within: %v", err)
	}
}
