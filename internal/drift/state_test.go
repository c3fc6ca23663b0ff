package drift

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

func encode(t testing.TB, s *State) []byte {
	t.Helper()
	data, err := s.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// strange draws what training did not have now and then: other names, numbers, sorts of values.
func strange(r *rand.Rand, v Value) Value {
	switch r.IntN(30) {
	case 0:
		return Number(math.Inf(1 - 2*r.IntN(2)))
	case 1:
		return Number(1e6 * r.NormFloat64())
	case 2:
		return Text(fmt.Sprint("new", int(50*r.ExpFloat64())))
	case 3:
		return Text(strings.Repeat("long", r.IntN(40)) + "\xff")
	case 4:
		return Value{}
	}
	return v
}

// TestMergeIsOneState splits rows among states in any way, merges these in any order, some
// of them by way of their encoding, and wants the bytes of the state that took all rows.
func TestMergeIsOneState(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	all := sources()
	p := reference(t, r, all, 1000)
	for range 30 {
		parts := make([]*State, 1+r.IntN(8))
		for i := range parts {
			parts[i] = NewState(p)
		}
		one := NewState(p)
		for range r.IntN(3000) {
			into := parts[r.IntN(len(parts))]
			for i := range all {
				v := strange(r, all[i].draw(r))
				into.Add(i, v)
				one.Add(i, v)
			}
		}
		rows := one.Rows()
		for len(parts) > 1 {
			r.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
			if r.IntN(2) == 0 {
				decoded := NewState(p)
				if err := decoded.Decode(encode(t, parts[1])); err != nil {
					t.Fatal(err)
				}
				parts[1] = decoded
			}
			before := encode(t, parts[1])
			if err := parts[0].Merge(parts[1]); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(encode(t, parts[1]), before) {
				t.Fatal("merging changed the state that was merged")
			}
			parts = append(parts[:1], parts[2:]...)
		}
		if got, want := encode(t, parts[0]), encode(t, one); !bytes.Equal(got, want) {
			t.Fatalf("%d rows: merged parts are %d bytes %.60x, want %d bytes %.60x", rows, len(got), got, len(want), want)
		}
		if got := parts[0].Rows(); got != rows {
			t.Fatalf("got %d rows, want %d", got, rows)
		}
	}
}

func TestStateCounts(t *testing.T) {
	b := NewBuilder([]Field{{"n", false}, {"d", false}, {"c", true}})
	for i := range 1000 {
		if err := b.Add([]Value{Number(float64(i)), Number(float64(i % 2)), Text(string(rune('a' + i%3)))}); err != nil {
			t.Fatal(err)
		}
	}
	p, err := b.Profile()
	if err != nil {
		t.Fatal(err)
	}
	s := NewState(p)
	for _, f := range []float64{-1, 0, math.Copysign(0, -1), 1, 999, 999.5, math.NaN(), math.Inf(1)} {
		s.AddNumber(0, f)
	}
	for _, f := range []float64{0, math.Copysign(0, -1), 1, 0.5, 7, 7} {
		s.AddNumber(1, f)
	}
	s.AddText(1, "1")
	long := strings.Repeat("x", 100)
	for _, name := range []string{"a", "b", "b", "z", "z", long, long, long, "\xff"} {
		s.AddText(2, name)
	}
	s.AddNumber(2, 2.5)
	n, d, c := &s.columns[0], &s.columns[1], &s.columns[2]
	if first, last := n.cells[0], n.cells[len(n.cells)-1]; first != 1 || last != 1 || n.missing != 2 || n.present() != 6 || n.min != -1 || n.max != 999.5 {
		t.Errorf("numbers: got %d below, %d above, %d missing of %d, from %v to %v", first, last, n.missing, n.present(), n.min, n.max)
	}
	if n.cells[1] != 3 || n.cells[len(n.cells)-2] != 1 {
		t.Errorf("got %d in the first bin and %d in the last, want 3 and 1", n.cells[1], n.cells[len(n.cells)-2])
	}
	if got, want := fmt.Sprint(d.cells, d.missing), "[2 1 3] 1"; got != want {
		t.Errorf("discrete: got %s, want %s", got, want)
	}
	if got, want := fmt.Sprint(c.cells), "[1 2 0 7]"; got != want {
		t.Errorf("categories: got %s, want %s", got, want)
	}
	var names []string
	for _, u := range c.frequent() {
		names = append(names, fmt.Sprintf("%.6s %d", u.name, u.rows))
	}
	if names[0] != "xxxxxx 3" || names[1] != "z 2" || len(names) != 4 {
		t.Errorf("unseen: got %q", names)
	}
	if got := string(d.frequent()[0].name); got != "7" {
		t.Errorf("the unseen number: got %q, want 7", got)
	}
	if allocs := testing.AllocsPerRun(100, func() {
		s.AddNumber(0, 12)
		s.AddNumber(1, 12)
		s.AddNumber(2, 12)
		s.AddText(2, long)
		s.AddText(2, "a")
	}); allocs != 0 {
		t.Errorf("adding allocates %v times", allocs)
	}
}

func TestStateOfAnotherProfile(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	a, b := reference(t, r, sources(), 100), reference(t, r, sources(), 100)
	s := NewState(a)
	s.AddNumber(0, 1)
	if err := s.Merge(NewState(b)); !fault.Is(err, fault.Conflict) {
		t.Errorf("merging: got %v, want a conflict", err)
	}
	if err := s.Decode(encode(t, NewState(b))); !fault.Is(err, fault.Conflict) || s.Rows() != 0 {
		t.Errorf("decoding: got %v and %d rows, want a conflict and none", err, s.Rows())
	}
	data := encode(t, NewState(a))
	for i := range data {
		if err := s.Decode(data[:i]); err == nil {
			t.Errorf("decoding %d of %d bytes: no error", i, len(data))
		}
	}
	if err := s.Decode(append(data, 0)); !fault.Is(err, fault.Invalid) {
		t.Errorf("decoding a byte too many: got %v, want invalid", err)
	}
}

func FuzzDecodeState(f *testing.F) {
	r := rand.New(rand.NewPCG(5, 5))
	all := sources()
	p := reference(f, r, all, 300)
	s := NewState(p)
	f.Add(encode(f, s))
	for range 100 {
		for i := range all {
			s.Add(i, strange(r, all[i].draw(r)))
		}
	}
	f.Add(encode(f, s))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := NewState(p)
		if len(data) > 9 {
			data[0] = stateFormat
			copy(data[1:], p.mark[:])
		}
		if err := s.Decode(data); err != nil {
			if s.Rows() != 0 {
				t.Error("a damaged state is not empty")
			}
			return
		}
		again := NewState(p)
		if err := again.Decode(encode(t, s)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(encode(t, again), encode(t, s)) {
			t.Error("what was decoded is encoded otherwise")
		}
		if err := again.Merge(s); err != nil {
			t.Fatal(err)
		}
		report, err := Compare(again, Default)
		if err != nil {
			t.Fatal(err)
		}
		sound(t, report)
	})
}
