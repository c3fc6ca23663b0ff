package feature

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

const mergeYAML = `
entities:
  - {name: carrier, keys: [{name: carrier, type: string}]}
  - {name: spare, keys: [{name: spare, type: int64}]}
sources:
  - name: arrivals
    fields:
      - {name: carrier, type: string}
      - {name: event_timestamp, type: timestamp}
      - {name: delay, type: float32}
      - {name: tail, type: string}
views:
  - {name: last, entities: [carrier], source: arrivals}
  - name: delays
    entities: [carrier]
    source: arrivals
    windows: [{name: n, aggregate: count, size: 1h}, {name: mean, aggregate: mean, of: delay, size: 1h}]
services:
  - {name: model, features: ["last:delay", "delays:*"]}
`

// merged applies texts one after the other.
func merged(t *testing.T, texts ...string) *Set {
	t.Helper()
	s := &Set{}
	for _, text := range texts {
		next, err := Merge(s, parsed(t, text))
		if err != nil {
			t.Fatal(err)
		}
		s = next
	}
	return s
}

func (s *Set) view(name string) *View {
	return &s.Views[slices.IndexFunc(s.Views, func(v View) bool { return v.Name == name })]
}

func checkIDs(t *testing.T, what string, got, want map[string]uint32) {
	t.Helper()
	if !maps.Equal(got, want) {
		t.Errorf("%s: got the numbers %v, want %v", what, got, want)
	}
}

const columns = "sources: [{name: arrivals, fields: [{name: carrier, type: string}, {name: event_timestamp, type: timestamp}, "

func TestMergeKeepsNumbers(t *testing.T) {
	first := merged(t, mergeYAML)
	checkIDs(t, "first", first.view("last").IDs, map[string]uint32{"delay": 1, "tail": 2})
	if v := first.view("last").Version; v != 1 {
		t.Errorf("version of the first: got %d, want 1", v)
	}

	more := merged(t, mergeYAML, columns+"{name: delay, type: float32}, {name: seats, type: int64}, {name: tail, type: string}]}]")
	checkIDs(t, "a column more", more.view("last").IDs, map[string]uint32{"delay": 1, "tail": 2, "seats": 3})
	if last, delays := more.view("last").Version, more.view("delays").Version; last != 2 || delays != 1 {
		t.Errorf("versions: got %d of the view with a column more and %d of the other, want 2 and 1", last, delays)
	}

	const fewer = "views: [{name: last, entities: [carrier], source: arrivals, features: [delay]}]"
	checkIDs(t, "a feature less", merged(t, mergeYAML, fewer).view("last").IDs, map[string]uint32{"delay": 1, "tail": 2})
	back := merged(t, mergeYAML, fewer, "views: [{name: last, entities: [carrier], source: arrivals, features: [tail, delay]}]")
	checkIDs(t, "back again", back.view("last").IDs, map[string]uint32{"delay": 1, "tail": 2})

	lost := merged(t, mergeYAML, columns+"{name: delay, type: float32}]}]", columns+"{name: delay, type: float32}, {name: tail, type: int64}]}]")
	checkIDs(t, "a column lost that comes back in another type", lost.view("last").IDs, map[string]uint32{"delay": 1, "tail@2": 2, "tail": 3})

	const other = "views: [{name: delays, entities: [carrier], source: arrivals, windows: [{name: n, aggregate: count, size: 2h}, {name: mean, aggregate: mean, of: delay, size: 1h}]}]"
	checkIDs(t, "another window", merged(t, mergeYAML, other).view("delays").IDs, map[string]uint32{"n@2": 1, "mean": 2, "n": 3})

	gone, err := Merge(merged(t, mergeYAML), &Set{}, Ref{KindService, "model"}, Ref{KindView, "last"})
	if err != nil {
		t.Fatal(err)
	}
	again, err := Merge(gone, parsed(t, "views: [{name: last, entities: [carrier], source: arrivals, features: [tail]}]"))
	if err != nil {
		t.Fatal(err)
	}
	checkIDs(t, "a view that was gone", again.view("last").IDs, map[string]uint32{"@3": 2, "tail": 3})
}

func TestMergeVersions(t *testing.T) {
	const expression = "expressions: [{name: e, inputs: [{name: x, type: int64}], features: [{name: y, type: int64, value: x + 1}]}]"
	same := merged(t, mergeYAML, expression, expression, mergeYAML)
	if got := []int{same.Version, same.view("last").Version, same.view("delays").Version, same.Expressions[0].Version}; !slices.Equal(got, []int{4, 1, 1, 2}) {
		t.Errorf("versions of the set, views and expression: got %v, want [4 1 1 2]", got)
	}
	if d := Diff(merged(t, mergeYAML, expression), same); len(d) != 0 {
		t.Errorf("what changed by applying the same again: got %v, want nothing", d)
	}
	other := merged(t, mergeYAML, expression, strings.Replace(expression, "x + 1", "x + 2", 1),
		strings.Replace(strings.Replace(mergeYAML, "source: arrivals}", "source: arrivals, ttl: 1d}", 1), "carrier, type: string}]}\n", "carrier, type: string, one_of: [AA]}]}\n", 1))
	if got := []int{other.Version, other.view("last").Version, other.view("delays").Version, other.Expressions[0].Version}; !slices.Equal(got, []int{4, 4, 1, 3}) {
		t.Errorf("versions of the set, views and expression: got %v, want [4 4 1 3]", got)
	}
}

func TestMergeRefuses(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"views: [{name: last, entities: [spare], source: arrivals}]", `view "last" is live: its entities are carrier and can't become spare; make a new view`},
		{"sources: [{name: s, fields: [{name: carrier, type: string}, {name: event_timestamp, type: timestamp}, {name: x, type: int64}]}]\nviews: [{name: last, entities: [carrier], source: s}]", `its source is arrivals and can't become s`},
		{"views: [{name: last, entities: [carrier], source: arrivals, windows: [{name: n, aggregate: count, size: 1h}]}]", `it is made of features and can't become windows`},
		{"views: [{name: delays, entities: [carrier], source: arrivals}]", `it is made of windows and can't become features`},
		{"entities: [{name: carrier, keys: [{name: carrier, type: int64}]}]", `the keys of entity carrier are carrier string and can't become carrier int64`},
		{"entities: [{name: carrier, keys: [{name: tail, type: string}]}]", `are carrier string and can't become tail string`},
		{columns + "{name: delay, type: float64}, {name: tail, type: string}]}]", `in its source arrivals the column delay is float32 and can't become float64`},
		{columns + "{name: tail, type: string}]}]", `no column "delay"`},
		{"views: [{name: a, entities: [carrier], source: arrivals}, {name: a, entities: [carrier], source: arrivals}]", `view "a" is defined twice`},
		{"services: [{name: s, features: [\"last:speed\"]}]", `"last" has no feature "speed"`},
	} {
		s, err := Merge(merged(t, mergeYAML), parsed(t, test.text))
		if !fault.Is(err, fault.Invalid) || !strings.Contains(fault.Message(err), test.want) {
			t.Errorf("got %+v, %v, want Invalid with %s", s, err, test.want)
		}
	}
	for _, test := range []struct {
		ref  string
		kind fault.Kind
		want string
	}{
		{"entity/carrier", fault.Conflict, "entity/carrier can't be removed, for it is used by view last, view delays"},
		{"source/arrivals", fault.Conflict, "used by view last, view delays"},
		{"view/last", fault.Conflict, "used by service model"},
		{"view/first", fault.NotFound, "view first does not exist"},
	} {
		ref, err := ParseRef(test.ref)
		if err != nil {
			t.Fatal(err)
		}
		if s, err := Merge(merged(t, mergeYAML), &Set{}, ref); !fault.Is(err, test.kind) || !strings.Contains(fault.Message(err), test.want) {
			t.Errorf("remove %s: got %+v, %v, want %s with %s", ref, s, err, test.kind, test.want)
		}
	}
	if _, err := ParseRef("views/last"); !fault.Is(err, fault.Invalid) {
		t.Errorf("a ref of no kind: got %v, want Invalid", err)
	}
}

// A set that others hold is not changed under their hands.
func TestMergeChangesNeither(t *testing.T) {
	old, what := merged(t, mergeYAML), parsed(t, "views: [{name: last, entities: [carrier], source: arrivals, features: [tail]}]")
	before, asked := string(encode(old)), string(encode(what))
	if _, err := Merge(old, what, Ref{KindService, "model"}, Ref{KindView, "delays"}); err != nil {
		t.Fatal(err)
	}
	if got := string(encode(old)); got != before {
		t.Errorf("the old set: got %s, want %s", got, before)
	}
	if got := string(encode(what)); got != asked {
		t.Errorf("the set that was asked for: got %s, want %s", got, asked)
	}
}

func TestDiff(t *testing.T) {
	old := merged(t, mergeYAML)
	next, err := Merge(old, parsed(t, `
sources:
  - name: arrivals
    fresh: 1d
    fields:
      - {name: carrier, type: string}
      - {name: event_timestamp, type: timestamp}
      - {name: tail, type: string, one_of: [a, b]}
      - {name: delay, type: float32, min: -5}
      - {name: seats, type: int64}
views:
  - {name: delays, entities: [carrier], source: arrivals, windows: [{name: mean, aggregate: mean, of: delay, size: 2h}]}
  - {name: fresh, entities: [carrier], source: arrivals, features: [tail]}
`), Ref{KindService, "model"}, Ref{KindEntity, "spare"})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, c := range Diff(old, next) {
		lines = append(lines, c.String())
	}
	const want = `- entity/spare
~ source/arrivals
    + fields.tail.one_of: ["a","b"]
    + fields.delay.min: -5
    + fields.seats: {"name":"seats","type":"int64"}
    fields in order: ["carrier","event_timestamp","delay","tail"] -> ["carrier","event_timestamp","tail","delay"]
    + fresh: "1d"
~ view/delays
    windows.mean.size: "1h" -> "2h"
    - windows.n: {"aggregate":"count","name":"n","size":"1h"}
+ view/fresh
- service/model`
	if got := strings.Join(lines, "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// Through any history a number means one column of one type, made in one way, and no column ever changes its number while it stays.
func TestNumbersMeanOneThing(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(of ...string) string { return of[random.IntN(len(of))] }
	some := func(each func(i int) string) string {
		var all []string
		for i := range 4 {
			if random.IntN(2) == 0 {
				all = append(all, each(i))
			}
		}
		return strings.Join(all, ", ")
	}
	const key = "{name: carrier, type: string}, {name: event_timestamp, type: timestamp}, {name: d, type: int64}, "
	current := &Set{}
	meaning := map[string]string{} // of view and number
	applied, removed := 0, 0
	for range 3000 {
		var text string
		var remove []Ref
		switch random.IntN(4) {
		case 0:
			text = "sources: [{name: s, fields: [" + key + some(func(i int) string { return fmt.Sprintf("{name: c%d, type: %s}", i, pick("int64", "string")) }) + "]}]"
		case 1:
			text = "views: [{name: v, entities: [carrier], source: s, features: [d, " + some(func(i int) string { return fmt.Sprintf("c%d", i) }) + "]}]"
		case 2:
			text = "views: [{name: w, entities: [carrier], source: s, windows: [" + some(func(i int) string {
				return fmt.Sprintf("{name: w%d, aggregate: %s, of: d, size: %s}", i, pick("sum", "count"), pick("1h", "2h"))
			}) + "]}]"
		default:
			remove = []Ref{{KindView, pick("v", "w")}}
			if random.IntN(5) > 0 {
				continue
			}
		}
		if current.Version == 0 {
			text = mergeYAML
		}
		next, err := Merge(current, parsed(t, text), remove...)
		if err != nil {
			continue
		}
		applied++
		removed += len(remove)
		c, err := Compile(next)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range c.views {
			for _, col := range v.Columns {
				of := fmt.Sprint(col.Name, col.Type, v.Source)
				if at := slices.IndexFunc(v.Windows, func(w Window) bool { return w.Name == col.Name }); at >= 0 {
					of = fmt.Sprint(v.Windows[at])
				}
				at := fmt.Sprint(v.Name, col.ID)
				if was, ok := meaning[at]; ok && was != of {
					t.Fatalf("view %s: number %d meant %s and means %s in version %d", v.Name, col.ID, was, of, next.Version)
				}
				meaning[at] = of
				if id, kept := current.idOf(v.Name, col.Name, of, meaning); kept && id != col.ID {
					t.Fatalf("view %s: %s had the number %d and has %d in version %d", v.Name, col.Name, id, col.ID, next.Version)
				}
			}
		}
		// As the bucket would give it back.
		current = &Set{}
		if err := json.Unmarshal(encode(next), current); err != nil {
			t.Fatal(err)
		}
	}
	if applied < 500 || removed < 20 {
		t.Errorf("only %d changes with %d removals went through: this tests too little", applied, removed)
	}
}

// idOf tells the number of a view's column that means something, if there is one.
func (s *Set) idOf(view, column, of string, meaning map[string]string) (uint32, bool) {
	for _, v := range s.Views {
		if v.Name == view {
			id := v.IDs[column]
			return id, id > 0 && meaning[fmt.Sprint(view, id)] == of
		}
	}
	return 0, false
}

// Whatever is put over whatever, what comes of it is good, and applying it again changes nothing.
func FuzzMerge(f *testing.F) {
	f.Add([]byte(mergeYAML), []byte("views: [{name: last, entities: [carrier], source: arrivals, features: [tail], ttl: 1d}]"), "service/model")
	f.Add([]byte(flightYAML), []byte(mergeYAML), "view/delays")
	f.Add([]byte("sources: [{name: s, fields: [{name: at, type: timestamp}], time: at}]"), []byte("sources: [{name: s, fields: [{name: at, type: timestamp, required: true}], time: at}]"), "source/s")
	f.Fuzz(func(t *testing.T, first, second []byte, remove string) {
		if len(first)+len(second) > 1<<14 {
			return
		}
		current := &Set{}
		for i, text := range [][]byte{first, second, nil} {
			what, err := Parse("f", text)
			if err != nil {
				return
			}
			var gone []Ref
			if ref, err := ParseRef(remove); err == nil && i == 2 {
				gone = []Ref{ref}
			}
			next, err := Merge(current, what, gone...)
			if err != nil {
				if k := fault.KindOf(err); k != fault.Invalid && k != fault.Conflict && k != fault.NotFound {
					t.Fatalf("got %v, want Invalid, Conflict or NotFound", err)
				}
				continue
			}
			if _, err := Compile(next); err != nil {
				t.Fatalf("what was merged does not compile: %v", err)
			}
			Diff(current, next)
			current = &Set{}
			if err := json.Unmarshal(encode(next), current); err != nil {
				t.Fatal(err)
			}
			if len(gone) > 0 {
				continue
			}
			if again, err := Merge(current, what); err != nil || len(Diff(current, again)) != 0 {
				t.Fatalf("the same again: got %v, %v, want no change", Diff(current, again), err)
			}
		}
	})
}
