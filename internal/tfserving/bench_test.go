package tfserving_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/tensor"
	"github.com/pilotlight-ml/pilotlight/internal/tfserving"
)

// table is a request with rows of 30 numbers, as one input or as one input each.
func table(rows int, named bool) (specs []tensor.Spec, body []byte) {
	random := rand.New(rand.NewPCG(1, 2))
	var b strings.Builder
	b.WriteString(`{"instances":[`)
	for row := range rows {
		if row > 0 {
			b.WriteByte(',')
		}
		b.WriteString(map[bool]string{false: "[", true: "{"}[named])
		for column := range 30 {
			if column > 0 {
				b.WriteByte(',')
			}
			if named {
				fmt.Fprintf(&b, `"feature_%d":`, column)
			}
			fmt.Fprintf(&b, "%.6f", random.NormFloat64())
		}
		b.WriteString(map[bool]string{false: "]", true: "}"}[named])
	}
	b.WriteString(`]}`)
	if !named {
		return []tensor.Spec{spec("x", tensor.FP32, -1, 30)}, []byte(b.String())
	}
	for column := range 30 {
		specs = append(specs, spec(fmt.Sprintf("feature_%d", column), tensor.FP32, -1))
	}
	return specs, []byte(b.String())
}

func BenchmarkDecode(b *testing.B) {
	for _, rows := range []int{1, 32} {
		for _, named := range []bool{false, true} {
			specs, body := table(rows, named)
			b.Run(fmt.Sprintf("rows=%d/named=%t", rows, named), func(b *testing.B) {
				var r tfserving.Request
				b.SetBytes(int64(len(body)))
				b.ReportAllocs()
				for b.Loop() {
					if err := r.Decode(body, specs); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	specs, body := table(32, false)
	var r tfserving.Request
	if err := r.Decode(body, specs); err != nil {
		b.Fatal(err)
	}
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if dst, err = tfserving.Append(dst[:0], r.Rows, r.Inputs); err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(len(dst)))
	}
}
