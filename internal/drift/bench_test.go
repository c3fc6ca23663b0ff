package drift

import (
	"math/rand/v2"
	"testing"
)

// BenchmarkAdd is of one value.
func BenchmarkAdd(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	all := sources()
	p := reference(b, r, all, 20_000)
	for i, src := range all {
		values := make([]Value, 1<<16)
		for j := range values {
			values[j] = src.draw(r)
		}
		b.Run(src.name, func(b *testing.B) {
			s := NewState(p)
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				s.Add(i, values[n&(1<<16-1)])
			}
		})
	}
	b.Run("unseen", func(b *testing.B) {
		s := NewState(p)
		i, _ := p.Column("few")
		names := texts(1 << 16)
		b.ReportAllocs()
		for n := 0; b.Loop(); n++ {
			s.AddText(i, names[n&(1<<16-1)])
		}
	})
}

// BenchmarkState is of states of 14 columns that saw 2000 rows.
func BenchmarkState(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	all := sources()
	p := reference(b, r, all, 20_000)
	s, into := NewState(p), NewState(p)
	for range 2000 {
		for i := range all {
			s.Add(i, all[i].draw(r))
		}
	}
	data, _ := s.AppendBinary(nil)
	b.Run("merge", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := into.Merge(s); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			data, _ = s.AppendBinary(data[:0])
		}
		b.ReportMetric(float64(len(data)), "bytes")
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := into.Decode(data); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("compare", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Compare(s, Default); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkBuild is of a row of 14 columns.
func BenchmarkBuild(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	all := sources()
	rows := make([][]Value, 1000)
	for i := range rows {
		for _, s := range all {
			rows[i] = append(rows[i], s.draw(r))
		}
	}
	build := NewBuilder(fields(all))
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if err := build.Add(rows[n%len(rows)]); err != nil {
			b.Fatal(err)
		}
	}
}
