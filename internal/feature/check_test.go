package feature

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/row"
)

// now is the clock of tests.
var now = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func number64(f float64) *float64 { return &f }

// departures is a source with a demand of each kind.
func departures(t testing.TB, change func(*Set)) *CompiledSource {
	t.Helper()
	s := &Set{
		Entities: []Entity{{Name: "carrier", Keys: []Field{{Name: "carrier", Type: row.String}}}},
		Sources: []Source{{
			Name: "departures", Time: "at", Created: "made", Fresh: Duration(24 * time.Hour),
			Fields: []Field{
				{Name: "carrier", Type: row.String},
				{Name: "at", Type: row.Timestamp},
				{Name: "made", Type: row.Timestamp},
				{Name: "delay", Type: row.Float64, Min: number64(-60), Max: number64(1440)},
				{Name: "airport", Type: row.String, OneOf: []string{"EWR", "JFK", "LGA"}},
				{Name: "number", Type: row.Int64, Required: true},
			},
		}},
		Views: []View{{Name: "delays", Entities: []string{"carrier"}, Source: "departures", Features: []string{"delay"}}},
	}
	if change != nil {
		change(s)
	}
	c, err := Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	source, err := c.Source("departures")
	if err != nil {
		t.Fatal(err)
	}
	return source
}

func TestWhatIsDemandedOfARow(t *testing.T) {
	s := departures(t, nil)
	c := inspector{source: s, now: now.UnixMicro(), latest: now.Add(time.Hour).UnixMicro()}
	for _, test := range []struct {
		name   string
		column string
		value  row.Value
		reason Reason
		detail string
	}{
		{"good", "", row.Value{}, "", ""},
		{"null", "number", row.Value{}, BadNull, `column "number" is null and is required`},
		{"null that may be", "delay", row.Value{}, "", ""},
		{"other type", "number", row.OfFloat64(7), BadType, `column "number" is a float64, expected int64`},
		{"at the least", "delay", row.OfFloat64(-60), "", ""},
		{"less", "delay", row.OfFloat64(-60.5), OutOf, `column "delay" is -60.5, less than -60`},
		{"at the most", "delay", row.OfFloat64(1440), "", ""},
		{"more", "delay", row.OfFloat64(math.Inf(1)), OutOf, `column "delay" is`},
		{"NaN", "delay", row.OfFloat64(math.NaN()), OutOf, `column "delay" is not a number`},
		{"not in the set", "airport", row.OfString("SFO"), NotOne, `column "airport" is "SFO", which is not one of its 3 values`},
		{"null of a set", "airport", row.Value{}, "", ""},
		{"no time", "at", row.Value{}, BadNull, `column "at" is null, and is a time of the row`},
		{"not created", "made", row.Value{}, BadNull, `column "made" is null`},
		{"as far ahead as may be", "at", row.OfTime(now.Add(time.Hour)), "", ""},
		{"too far ahead", "at", row.OfTime(now.Add(time.Hour + 1e3)), Ahead, `which is more than 1h0m0s ahead of the clock here`},
		{"created too far ahead", "made", row.OfTime(now.Add(2 * time.Hour)), Ahead, `column "made" is "2026-11-25T14:00:00Z"`},
		{"no time of ours", "at", row.OfMicros(math.MinInt64), Ahead, `column "at" is before the year 1700`},
		{"just fresh", "at", row.OfTime(now.Add(-24 * time.Hour)), "", ""},
		{"stale", "at", row.OfTime(now.Add(-24*time.Hour - 1e3)), Stale, `column "at" is "2026-11-24T11:59:59.999999Z", which is more than`},
		{"a long key", "carrier", row.OfString(strings.Repeat("x", 1024)), BadSize, `the key of view "delays" has 1048 bytes, more than 1024`},
		{"a null key", "carrier", row.Value{}, "", ""},
	} {
		r := Row{Values: []row.Value{
			row.OfString("AA"), row.OfTime(now.Add(-time.Minute)), row.OfTime(now.Add(-time.Second)),
			row.OfFloat64(3), row.OfString("JFK"), row.OfInt64(1),
		}}
		if test.column != "" {
			r.Values[s.At[test.column]] = test.value
		}
		reason, detail := c.fill(&r)
		if reason != test.reason || !strings.Contains(detail, test.detail) || reason == "" && detail != "" {
			t.Errorf("%s: got %q %q, want %q %q", test.name, reason, detail, test.reason, test.detail)
		}
		if reason == "" && (r.Event != r.Values[1].Int() || r.Created != r.Values[2].Int() || r.ID == 0) {
			t.Errorf("%s: the row has the times %d and %d and the id %d", test.name, r.Event, r.Created, r.ID)
		}
	}
	if reason, detail := c.fill(&Row{Values: make([]row.Value, 2)}); reason != BadType || detail != `the row has 2 values and source "departures" has 6 columns` {
		t.Errorf("short row: got %q %q", reason, detail)
	}
}

func TestIDs(t *testing.T) {
	s := departures(t, func(s *Set) { s.Sources[0].Created = "" })
	fill := func(at time.Time, id uint64, delay float64) Row {
		c := inspector{source: s, now: at.UnixMicro(), latest: at.UnixMicro()}
		r := Row{ID: id, Values: []row.Value{row.OfString("AA"), row.OfTime(now), {}, row.OfFloat64(delay), {}, row.OfInt64(1)}}
		if reason, detail := c.fill(&r); reason != "" {
			t.Fatal(reason, detail)
		}
		return r
	}
	first, again, other := fill(now, 0, 1), fill(now.Add(time.Minute), 0, 1), fill(now, 0, 2)
	if first.ID != again.ID || first.Created == again.Created || first.Created != now.UnixMicro() {
		t.Errorf("the same row later: got %+v, first %+v", again, first)
	}
	if first.ID == other.ID {
		t.Error("another row has the same id")
	}
	if got := fill(now, 7, 1); got.ID != 7 {
		t.Errorf("the id of an event became %d", got.ID)
	}
	seen := map[uint64]bool{}
	for _, of := range []struct {
		source, id string
		index      int
	}{{"a", "bc", 0}, {"ab", "c", 0}, {"a", "bc", 1}, {"", "abc", 0}} {
		seen[hash(of.source, of.id, of.index)] = true
	}
	if len(seen) != 4 {
		t.Errorf("4 origins have %d ids", len(seen))
	}
}

// The time of a row may also be when it was made: then it was known as soon as it was.
func TestARowMayBeMadeWhenItIsOf(t *testing.T) {
	s := departures(t, nil)
	one := *s
	one.Made = one.TimeAt
	c := inspector{source: &one, now: now.UnixMicro(), latest: now.UnixMicro()}
	r := Row{Values: make([]row.Value, len(s.Fields))}
	at := now.Add(-24 * time.Hour)
	r.Values[s.TimeAt] = row.OfTime(at)
	if reason, detail := c.times(&r); reason != "" || r.Event != at.UnixMicro() || r.Created != r.Event {
		t.Errorf("got %s %s, event %d and created %d, want both to be %d", reason, detail, r.Event, r.Created, at.UnixMicro())
	}
}
