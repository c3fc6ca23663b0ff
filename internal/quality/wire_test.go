package quality

import (
	"bytes"
	"encoding/json"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

func TestAnswersAndTruthsAreSmall(t *testing.T) {
	for _, c := range []struct {
		a    Answer
		size int
	}{
		{Answer{}, 1},
		{Answer{Number: float64(float32(0.7))}, 5},
		{Answer{Number: 0.7, Decision: Yes}, 9},
		{Answer{Number: 12}, 5},
		{Answer{Class: "cat"}, 5},
		{Answer{Class: "cat", Number: 0.5}, 9},
		{Answer{Class: "cat", Probabilities: []Probability{{"cat", 0.5}, {"dog", 0.25}, {"eel", 0}}}, 29},
	} {
		data := c.a.Append([]byte("before"))
		if got := len(data) - len("before"); got != c.size {
			t.Errorf("%v: got %d bytes, want %d", c.a, got, c.size)
		}
		got, rest, err := DecodeAnswer(append(data, "after"...)[len("before"):])
		if err != nil || string(rest) != "after" || !reflect.DeepEqual(got, c.a) {
			t.Errorf("got %v, %q, %v, want %v", got, rest, err, c.a)
		}
	}
	for _, c := range []struct {
		t    Truth
		size int
	}{{Truth{}, 1}, {Truth{Yes: true}, 1}, {Truth{Class: "cat"}, 5}, {Truth{Number: -3}, 5}, {Truth{Number: 0.1}, 9}} {
		data := c.t.Append(nil)
		if got := len(data); got != c.size {
			t.Errorf("%v: got %d bytes, want %d", c.t, got, c.size)
		}
		got, rest, err := DecodeTruth(append(data, 7))
		if err != nil || len(rest) != 1 || got != c.t {
			t.Errorf("got %v, %q, %v, want %v", got, rest, err, c.t)
		}
	}
}

func TestStatesAreReadAgain(t *testing.T) {
	r := rand.New(rand.NewPCG(20, 20))
	for _, spec := range specs {
		for _, n := range []int{0, 1, 1000} {
			s := filled(t, spec, sample(r, spec, n))
			o := draw(r, spec)
			must(t, s.Remove(o.a, o.t, o.delay))
			data := s.Append(nil)
			got, err := Decode(data)
			must(t, err)
			if !bytes.Equal(got.Append(nil), data) || !reflect.DeepEqual(got.Report(), s.Report()) {
				t.Errorf("%s of %d: what was read is not what was written", spec, n)
			}
			for i := range data { // cut off, it is damaged
				if _, err := Decode(data[:i]); !fault.Is(err, fault.Invalid) {
					t.Fatalf("%s: %d of %d bytes: got %v, want that it is invalid", spec, i, len(data), err)
				}
			}
			if _, err := Decode(append(data, 0)); !fault.Is(err, fault.Invalid) {
				t.Errorf("%s: with a byte more: got %v, want that it is invalid", spec, err)
			}
		}
	}
	data := fresh(t, Spec{Task: Binary}).Append(nil)
	data[0] = 9
	_, err := Decode(data)
	if got, want := fault.Message(err), "the encoded quality is of version 9, expected 1"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func FuzzDecode(f *testing.F) {
	r := rand.New(rand.NewPCG(21, 21))
	for _, spec := range specs {
		for _, n := range []int{0, 1, 40} {
			f.Add(filled(f, spec, sample(r, spec, n)).Append(nil))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Decode(data)
		if err != nil {
			return
		}
		once := s.Append(nil)
		again, err := Decode(once)
		if err != nil || !bytes.Equal(again.Append(nil), once) {
			t.Fatalf("what was read changes when it is read again: %v", err)
		}
		check := func(s *State) {
			if _, err := json.Marshal(s.Report()); err != nil { // there are no NaNs
				t.Fatal(err)
			}
			if e, err := s.Estimate(s); err == nil {
				if _, err := json.Marshal(e); err != nil {
					t.Fatal(err)
				}
			}
		}
		check(s)
		o := draw(r, s.Spec())
		must(t, s.Predicted(o.a))
		must(t, s.Add(o.a, o.t, o.delay))
		must(t, s.Merge(again))
		check(s)
	})
}

func FuzzDecodeAnswer(f *testing.F) {
	f.Add(Answer{Number: 0.7, Decision: Yes}.Append(nil))
	f.Add(Answer{Class: "cat", Probabilities: []Probability{{"cat", 0.5}, {"dog", 0.25}}}.Append(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, rest, err := DecodeAnswer(data)
		if err != nil {
			return
		}
		if len(rest) >= len(data) {
			t.Fatal("nothing was read")
		}
		again, _, err := DecodeAnswer(a.Append(nil))
		if err != nil || !bytes.Equal(again.Append(nil), a.Append(nil)) {
			t.Fatalf("got %v, %v, want %v", again, err, a)
		}
		for _, spec := range specs {
			s := fresh(t, spec)
			if spec.Check(a) == nil {
				must(t, s.Predicted(a))
			}
		}
	})
}

func FuzzDecodeTruth(f *testing.F) {
	f.Add(Truth{Yes: true}.Append(nil))
	f.Add(Truth{Class: "cat", Number: 0.1}.Append(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		truth, _, err := DecodeTruth(data)
		if err != nil {
			return
		}
		again, _, err := DecodeTruth(truth.Append(nil))
		same := again.Number == truth.Number || math.IsNaN(again.Number) && math.IsNaN(truth.Number)
		if err != nil || !same || again.Class != truth.Class || again.Yes != truth.Yes {
			t.Fatalf("got %v, %v, want %v", again, err, truth)
		}
	})
}

func FuzzParseTruth(f *testing.F) {
	for _, s := range []string{"true", "1", `"maybe"`, "1e99", `{"a":[]}`, `"\ud800"`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, spec := range specs {
			truth, err := spec.ParseTruth(data)
			if err == nil {
				err = spec.checkTruth(truth)
			}
			if err != nil && (!fault.Is(err, fault.Invalid) || len(fault.Message(err)) > 600) {
				t.Fatalf("got %v, want a short sentence of kind invalid", err)
			}
		}
	})
}

// What comes again finds its place made.
func TestAddTakesNoMemory(t *testing.T) {
	r := rand.New(rand.NewPCG(22, 22))
	for _, spec := range specs {
		all := sample(r, spec, 1000)
		s := filled(t, spec, all)
		i := 0
		got := testing.AllocsPerRun(1000, func() {
			o := &all[i%len(all)]
			i++
			_ = s.Predicted(o.a)
			_ = s.Add(o.a, o.t, o.delay)
		})
		if got != 0 {
			t.Errorf("%s: got %v allocations, want none", spec, got)
		}
	}
}

func bench(b *testing.B, run func(b *testing.B, s *State, all []outcome)) {
	for _, spec := range []Spec{{Task: Binary}, {Task: Multiclass}, {Task: Regression}} {
		b.Run(string(spec.Task), func(b *testing.B) {
			r := rand.New(rand.NewPCG(23, 23))
			all := sample(r, spec, 10_000)
			s := filled(b, spec, all)
			b.ReportAllocs()
			run(b, s, all)
		})
	}
}

func BenchmarkPredicted(b *testing.B) {
	bench(b, func(b *testing.B, s *State, all []outcome) {
		for i := 0; b.Loop(); i++ {
			_ = s.Predicted(all[i%len(all)].a)
		}
	})
}

func BenchmarkAdd(b *testing.B) {
	bench(b, func(b *testing.B, s *State, all []outcome) {
		for i := 0; b.Loop(); i++ {
			o := &all[i%len(all)]
			_ = s.Add(o.a, o.t, o.delay)
		}
	})
}

func BenchmarkMerge(b *testing.B) {
	bench(b, func(b *testing.B, s *State, all []outcome) {
		o := filled(b, s.spec, all[:1000])
		for b.Loop() {
			must(b, s.Merge(o))
		}
	})
}

// BenchmarkAppend also tells how large states of 100 and of 10,000 outcomes are.
func BenchmarkAppend(b *testing.B) {
	bench(b, func(b *testing.B, s *State, all []outcome) {
		var data []byte
		for b.Loop() {
			data = s.Append(data[:0])
		}
		b.ReportMetric(float64(len(data)), "bytes-of-10000")
		b.ReportMetric(float64(len(filled(b, s.spec, all[:100]).Append(nil))), "bytes-of-100")
		b.ReportMetric(float64(len(fresh(b, s.spec).Append(nil))), "bytes-of-0")
	})
}

func BenchmarkDecode(b *testing.B) {
	bench(b, func(b *testing.B, s *State, _ []outcome) {
		data := s.Append(nil)
		for b.Loop() {
			if _, err := Decode(data); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkReport(b *testing.B) {
	bench(b, func(b *testing.B, s *State, _ []outcome) {
		for b.Loop() {
			s.Report()
		}
	})
}

func BenchmarkEstimate(b *testing.B) {
	s := filled(b, Spec{Task: Binary}, sample(rand.New(rand.NewPCG(24, 24)), Spec{Task: Binary}, 10_000))
	for b.Loop() {
		if _, err := s.Estimate(s); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseTruth(b *testing.B) {
	for b.Loop() {
		if _, err := (Spec{Task: Binary}).ParseTruth([]byte("true")); err != nil {
			b.Fatal(err)
		}
	}
}
