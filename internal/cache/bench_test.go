package cache

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

func floats(name string, n int) []tensor.Tensor {
	values := make([]float32, n)
	for i := range values {
		values[i] = float32(i)
	}
	return []tensor.Tensor{tensor.Of(name, []int64{1, int64(n)}, values)}
}

func BenchmarkKey(b *testing.B) {
	k := newKeyer(newSecret())
	scope := make([]byte, 32)
	for _, size := range []int{200, 600_000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			inputs := floats("input", size/4)
			b.ReportAllocs()
			b.SetBytes(int64(size))
			for b.Loop() {
				k.key(scope, inputs, nil)
			}
		})
	}
}

// The whole of a hit in memory, of which BenchmarkKey/200 is a part.
func BenchmarkHit(b *testing.B) {
	c := open(b, &Config{Size: 1 << 26}, nil)
	s := c.Scope(spec(nil))
	inputs := floats("input", 50)
	run := func(context.Context) ([]tensor.Tensor, error) {
		time.Sleep(time.Millisecond)
		return floats("out", 3), nil
	}
	hit := func(b *testing.B) {
		_, o, err := s.Do(b.Context(), inputs, nil, Control{}, run)
		if err != nil || !o.Status.Cached() && o.Status != Miss {
			b.Fatal(o, err)
		}
	}
	b.Run("serial", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			hit(b)
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				hit(b)
			}
		})
	})
}

// A miss that is stored, without what the run takes.
func BenchmarkMiss(b *testing.B) {
	c := open(b, &Config{Size: 1 << 26}, nil)
	s := c.Scope(spec(nil))
	inputs, answer := floats("input", 50), floats("out", 3)
	ctx, cancel := context.WithTimeout(b.Context(), time.Hour)
	defer cancel()
	values := tensor.View[float32](inputs[0].Data)
	b.ReportAllocs()
	for b.Loop() {
		values[0]++
		s.trials.skip.Store(0)
		if _, o, err := s.Do(ctx, inputs, nil, Control{}, func(context.Context) ([]tensor.Tensor, error) { return answer, nil }); err != nil || o.Status != Miss && o.Status != Hit {
			b.Fatal(o, err)
		}
	}
}

// A hit in a real Redis, of a process whose memory does not hold it.
func BenchmarkHitShared(b *testing.B) {
	c := open(b, &Config{}, openRedis(b, storetest.RedisURL(b)))
	awaitUp(b, c)
	s := c.Scope(spec(nil))
	inputs := floats("input", 50)
	run := func(context.Context) ([]tensor.Tensor, error) {
		time.Sleep(time.Millisecond)
		return floats("out", 3), nil
	}
	await(b, func() bool {
		_, o, err := s.Do(b.Context(), inputs, nil, Control{}, run)
		return err == nil && o.Status == HitShared
	})
	b.ReportAllocs()
	for b.Loop() {
		if _, o, err := s.Do(b.Context(), inputs, nil, Control{}, run); err != nil || o.Status != HitShared && o.Status != Miss {
			b.Fatal(o, err)
		}
	}
}
