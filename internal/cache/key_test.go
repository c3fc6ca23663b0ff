package cache

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// Whatever could change an answer changes the key.
func TestKeysDiffer(t *testing.T) {
	f32 := func(values ...float32) tensor.Tensor { return tensor.Of("x", []int64{int64(len(values))}, values) }
	nan := func(bits uint32) tensor.Tensor { return f32(math.Float32frombits(bits)) }
	raw := func(kind tensor.Type, data ...byte) tensor.Tensor {
		return tensor.Tensor{Name: "x", Type: kind, Shape: []int64{int64(len(data) / kind.Size())}, Data: data}
	}
	texts := func(texts ...string) tensor.Tensor {
		return tensor.OfStrings("x", []int64{int64(len(texts))}, texts)
	}
	named := f32(1)
	named.Name = "y"
	square, scalar := f32(1, 2, 3, 4), f32(1)
	square.Shape, scalar.Shape = []int64{2, 2}, nil
	long := func(at int) tensor.Tensor {
		data := make([]byte, 3*directMost)
		if at >= 0 {
			data[at] = 1
		}
		return raw(tensor.Uint8, data...)
	}
	requests := []struct {
		scope   string
		inputs  []tensor.Tensor
		outputs []string
	}{
		{"", nil, nil},
		{"s", nil, nil},
		{"", []tensor.Tensor{f32(0)}, nil},
		{"", []tensor.Tensor{f32(float32(math.Copysign(0, -1)))}, nil},
		{"", []tensor.Tensor{nan(0x7fc00000)}, nil},
		{"", []tensor.Tensor{nan(0x7fc00001)}, nil},
		{"", []tensor.Tensor{f32(1)}, nil},
		{"", []tensor.Tensor{named}, nil},
		{"", []tensor.Tensor{scalar}, nil},
		{"", []tensor.Tensor{f32(1, 2, 3, 4)}, nil},
		{"", []tensor.Tensor{square}, nil},
		{"", []tensor.Tensor{f32(1), f32(1)}, nil},
		{"", []tensor.Tensor{raw(tensor.FP16, 1, 2)}, nil},
		{"", []tensor.Tensor{raw(tensor.BF16, 1, 2)}, nil},
		{"", []tensor.Tensor{raw(tensor.Int16, 1, 2)}, nil},
		{"", []tensor.Tensor{texts("ab", "c")}, nil},
		{"", []tensor.Tensor{texts("a", "bc")}, nil},
		{"", []tensor.Tensor{texts("abc")}, nil},
		{"", []tensor.Tensor{f32(1)}, []string{"a"}},
		{"", []tensor.Tensor{f32(1)}, []string{"a", "b"}},
		{"", []tensor.Tensor{f32(1)}, []string{"b", "a"}},
		{"", []tensor.Tensor{f32(1)}, []string{"ab"}},
		{"", []tensor.Tensor{long(-1)}, nil},
		{"", []tensor.Tensor{long(0)}, nil},
		{"", []tensor.Tensor{long(3*directMost - 1)}, nil},
	}
	k, other := newKeyer([]byte("a secret")), newKeyer([]byte("another"))
	seen := map[Key]int{}
	for i, r := range requests {
		key := k.key([]byte(r.scope), r.inputs, r.outputs)
		if j, taken := seen[key]; taken {
			t.Errorf("requests %d and %d have the same key", i, j)
		}
		seen[key] = i
		if again := k.key([]byte(r.scope), r.inputs, r.outputs); again != key {
			t.Errorf("request %d: got another key the second time", i)
		}
		if other.key([]byte(r.scope), r.inputs, r.outputs) == key {
			t.Errorf("request %d: got the same key under another secret", i)
		}
	}
}

// The key is the same in every release, or revisions would not share answers.
func TestKeyIsStable(t *testing.T) {
	k := newKeyer(bytes.Repeat([]byte{7}, secretSize))
	inputs := []tensor.Tensor{tensor.Of("x", []int64{2}, []float32{1, 2}), tensor.OfStrings("s", []int64{1}, []string{"é"})}
	if got, want := fmt.Sprintf("%x", k.key([]byte("scope"), inputs, []string{"y"})), "d8686bbb9f618d7b212506bd63a8c4fa"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// What is hashed of two requests differs if they do: it can be read back.
func FuzzImage(f *testing.F) {
	f.Add([]byte{0, 3, 'a', 'b', 'c', 12, 2, 1, 4, 1, 2, 3, 4, 5, 6, 7, 8, 2, 1, 'o'})
	f.Add([]byte{2, 1, 'n', 14, 1, 3, 4, 's', 't', 'r', 's'})
	f.Fuzz(func(t *testing.T, b []byte) {
		inputs, outputs := requestOf(b)
		k := newKeyer(make([]byte, secretSize))
		var s scratch
		for i := range inputs {
			s.appendTensor(&inputs[i], k)
		}
		s.appendLength(len(outputs))
		for _, name := range outputs {
			s.appendString(name)
		}
		r := imageReader{s.image}
		for i := range inputs {
			if got := r.tensor(); !tensor.Near([]tensor.Tensor{got}, inputs[i:i+1]) || !bytes.Equal(got.Data, inputs[i].Data) {
				t.Fatalf("got %v, want %v", got, inputs[i])
			}
		}
		for n, i := r.number(), 0; i < n; i++ {
			if got := string(r.take(r.number())); got != outputs[i] {
				t.Fatalf("got output %q, want %q", got, outputs[i])
			}
		}
		if len(r.b) > 0 {
			t.Fatalf("%d bytes tell nothing", len(r.b))
		}
	})
}

// requestOf makes a request of what the fuzzer says; data stays below directMost.
func requestOf(b []byte) (inputs []tensor.Tensor, outputs []string) {
	next := func() int {
		if len(b) == 0 {
			return 0
		}
		n := int(b[0])
		b = b[1:]
		return n
	}
	take := func(n int) []byte {
		n = min(n, len(b))
		part := b[:n]
		b = b[n:]
		return part
	}
	for range next() % 4 {
		t := tensor.Tensor{Name: string(take(next())), Type: tensor.Type(1 + next()%int(tensor.Bytes))}
		for range next() % (tensor.MaxRank + 1) {
			t.Shape = append(t.Shape, int64(next()))
		}
		if t.Type == tensor.Bytes {
			for range next() {
				t.Strings = append(t.Strings, string(take(next())))
			}
		} else {
			t.Data = take(next())
			t.Data = t.Data[:len(t.Data)/t.Type.Size()*t.Type.Size()]
		}
		inputs = append(inputs, t)
	}
	for range next() {
		outputs = append(outputs, string(take(next())))
	}
	return inputs, outputs
}

// imageReader reads what scratch writes.
type imageReader struct{ b []byte }

func (r *imageReader) take(n int) []byte {
	part := r.b[:n]
	r.b = r.b[n:]
	return part
}

func (r *imageReader) number() int { return int(binary.LittleEndian.Uint64(r.take(8))) }

func (r *imageReader) tensor() (t tensor.Tensor) {
	t.Name = string(r.take(r.number()))
	t.Type = tensor.Type(r.take(1)[0])
	for range r.take(1)[0] {
		t.Shape = append(t.Shape, int64(r.number()))
	}
	if t.Type != tensor.Bytes {
		t.Data = r.take(r.number())
		return t
	}
	for range r.number() {
		t.Strings = append(t.Strings, string(r.take(r.number())))
	}
	return t
}

func TestEntryRoundTrip(t *testing.T) {
	outputs := []tensor.Tensor{
		tensor.Of("float", []int64{2, 2}, []float32{1, -0.5, float32(math.NaN()), float32(math.Inf(1))}),
		tensor.Of("int", []int64{3}, []int64{1, -2, math.MaxInt64}),
		tensor.OfStrings("text", []int64{1, 3}, []string{"", "é", strings.Repeat("x", 100)}),
		tensor.Of("none", []int64{0, 7}, []float64{}),
		tensor.Of("scalar", nil, []bool{true}),
		{Name: "half", Type: tensor.FP16, Shape: []int64{1}, Data: []byte{1, 2}},
	}
	raw := encode(outputs, 42, 1<<20)
	for _, shift := range []int{0, 1} { // however a backend's memory lies
		moved := append(make([]byte, shift, shift+len(raw)), raw...)[shift:]
		e := decode(moved)
		if e == nil {
			t.Fatal("what was encoded is not decoded")
		}
		if e.made != 42 || !tensor.Near(e.outputs, outputs) {
			t.Errorf("got %d, %v, want 42, %v", e.made, e.outputs, outputs)
		}
		for i := range e.outputs {
			if o := &e.outputs[i]; !tensor.Aligned(o.Data, o.Type) {
				t.Errorf("output %q is not aligned", o.Name)
			}
		}
	}
	if got := encode(outputs, 42, len(raw)-1); got != nil {
		t.Errorf("got %d bytes, want none above the limit", len(got))
	}
	for cut := range raw {
		if decode(raw[:cut]) != nil {
			t.Errorf("the first %d bytes of %d are taken for an entry", cut, len(raw))
		}
	}
}

// Numbers that do not fit each other are no entry, and never a panic.
func TestEntryRefusesWhatDoesNotFit(t *testing.T) {
	const kind, rank, name, size, dimension = headerSize, headerSize + 8, headerSize + 16, headerSize + 24, headerSize + 32
	texts := []tensor.Tensor{tensor.OfStrings("t", []int64{2}, []string{"a", "b"})}
	for what, c := range map[string]struct {
		of    []tensor.Tensor
		at    int
		value int64
	}{
		"another format":       {floats("y", 2), entryStart, format + 1},
		"fewer outputs":        {floats("y", 2), entryStart + 16, 0},
		"more outputs":         {floats("y", 2), entryStart + 16, 2},
		"outputs without end":  {floats("y", 2), entryStart + 16, math.MaxInt64},
		"no type":              {floats("y", 2), kind, 0},
		"an unknown type":      {floats("y", 2), kind, int64(tensor.Bytes) + 1},
		"a wider type":         {floats("y", 2), kind, int64(tensor.FP64)},
		"a negative rank":      {floats("y", 2), rank, -1},
		"a huge rank":          {floats("y", 2), rank, math.MaxInt64},
		"a huge name":          {floats("y", 2), name, math.MaxInt64},
		"a negative size":      {floats("y", 2), size, -8},
		"less data":            {floats("y", 2), size, 4},
		"a negative dimension": {floats("y", 2), dimension, -2},
		"a huge dimension":     {texts, dimension, 1 << 40},
		"fewer texts":          {texts, dimension, 1},
	} {
		raw := encode(c.of, 42, 1<<20)
		binary.LittleEndian.PutUint64(raw[c.at:], uint64(c.value))
		if e := decode(raw); e != nil {
			t.Errorf("%s: got %v", what, e.outputs)
		}
	}
	if e := decode(append(encode(texts, 42, 1<<20), make([]byte, 8)...)); e != nil {
		t.Error("what follows an entry is passed over")
	}
}

func FuzzEntry(f *testing.F) {
	f.Add(encode(floats("out", 3), 42, 1<<20))
	f.Add(encode([]tensor.Tensor{tensor.OfStrings("text", []int64{2}, []string{"a", "b"})}, 42, 1<<20))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		e := decode(raw)
		if e == nil {
			return
		}
		for i := range e.outputs {
			o := &e.outputs[i]
			n, err := tensor.Elements(o.Shape)
			if err != nil || o.Type == tensor.Bytes && int64(len(o.Strings)) != n || o.Type != tensor.Bytes && int64(len(o.Data)) != n*int64(o.Type.Size()) {
				t.Fatalf("output %v is no tensor", o)
			}
		}
		again := decode(encode(e.outputs, e.made, 1<<30))
		if again == nil || again.made != e.made || !slices.EqualFunc(again.outputs, e.outputs, func(a, b tensor.Tensor) bool {
			return a.Name == b.Name && bytes.Equal(a.Data, b.Data) && slices.Equal(a.Strings, b.Strings) && slices.Equal(a.Shape, b.Shape)
		}) {
			t.Fatalf("got %v, then %v", e, again)
		}
	})
}
