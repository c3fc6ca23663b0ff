package oip

import (
	"bytes"
	"encoding/json"
	"math"
	"runtime"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// FuzzDecode feeds any bytes: Decode must not panic, must not take memory out of
// proportion, must refuse with a fault of kind Invalid, and what it accepts must
// come back the same after being written and read again, by bytes and by JSON.
func FuzzDecode(f *testing.F) {
	f.Fuzz(func(t *testing.T, body []byte, header int) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		var r Request
		err := r.Decode(body, header)
		runtime.ReadMemStats(&after)
		// A list of inputs is the worst: {}, takes three bytes and a tensor, twice
		// over while the list grows. The rest is for what runs beside this.
		if got, most := after.TotalAlloc-before.TotalAlloc, uint64(100*len(body)+256<<10); got > most {
			t.Errorf("%d bytes of memory for a body of %d", got, len(body))
		}
		if err != nil {
			if fault.KindOf(err) != fault.Invalid || !utf8.ValidString(fault.Message(err)) || len(fault.Message(err)) > 2000 {
				t.Errorf("got %v: %q", fault.KindOf(err), err)
			}
			return
		}
		for i := range r.Inputs {
			in := &r.Inputs[i]
			n, err := tensor.Elements(in.Shape)
			if err != nil || in.Type == tensor.Bytes && len(in.Strings) != int(n) || in.Type != tensor.Bytes && len(in.Data) != int(n)*in.Type.Size() {
				t.Fatalf("input %q has %d bytes and %d strings for shape %v: %v", in.Name, len(in.Data), len(in.Strings), in.Shape, err)
			}
			if !tensor.Aligned(in.Data, in.Type) {
				t.Errorf("input %q is not aligned", in.Name)
			}
		}
		again := func(binary func(*tensor.Tensor) bool) {
			response := Response{ID: r.ID, Outputs: r.Inputs, Binary: make([]bool, len(r.Inputs))}
			for i := range r.Inputs {
				response.Binary[i] = binary(&r.Inputs[i])
			}
			body, header, err := response.Append(nil)
			if err != nil {
				t.Fatalf("Append: %v", err)
			}
			var second Request
			if err := second.Decode(asRequest(body), header); err != nil {
				t.Fatalf("Decode(%q, %d): %v", body, header, err)
			}
			if second.ID != r.ID || len(second.Inputs) != len(r.Inputs) {
				t.Fatalf("got %+v, want %+v", second, r)
			}
			for i := range r.Inputs {
				if !equal(second.Inputs[i], r.Inputs[i]) {
					t.Errorf("got %v, want %v", second.Inputs[i], r.Inputs[i])
				}
			}
		}
		again(func(*tensor.Tensor) bool { return true })
		again(needsBinary)
	})
}

// needsBinary tells whether JSON can't carry x.
func needsBinary(x *tensor.Tensor) bool {
	switch x.Type {
	case tensor.FP16, tensor.BF16:
		return true
	case tensor.FP32:
		for _, v := range tensor.View[float32](x.Data) {
			if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
				return true
			}
		}
	case tensor.FP64:
		for _, v := range tensor.View[float64](x.Data) {
			if math.IsNaN(v) || math.IsInf(v, 0) {
				return true
			}
		}
	case tensor.Bytes:
		return !utf8.ValidString(strings.Join(x.Strings, " "))
	}
	return false
}

// FuzzAgainstStdlib compares with encoding/json: what Decode accepts is JSON and
// has the values that encoding/json finds in it; what is JSON is not refused for
// being none.
func FuzzAgainstStdlib(f *testing.F) {
	f.Fuzz(func(t *testing.T, body []byte) {
		var r Request
		err := r.Decode(body, -1)
		if err == nil && !json.Valid(body) {
			t.Fatalf("accepted %q, which is not JSON", body)
		}
		if err != nil {
			// Stricter on purpose: encoding/json lets strings pass that are no text.
			text := bytes.ContainsAny(body, `\`) || !utf8.Valid(body)
			if json.Valid(body) && !text && strings.Contains(fault.Message(err), "not valid JSON") && !strings.Contains(fault.Message(err), "nest deeper") {
				t.Fatalf("refused %q: %s", body, fault.Message(err))
			}
			return
		}
		var std struct {
			ID     string
			Inputs []struct {
				Name     string
				Shape    []int64
				Datatype string
				Data     json.RawMessage
			}
		}
		if err := json.Unmarshal(exactKeys(t, body), &std); err != nil {
			t.Fatalf("accepted %q: %v", body, err)
		}
		if r.ID != std.ID || len(r.Inputs) != len(std.Inputs) {
			t.Fatalf("got %+v, want %+v", r, std)
		}
		for i, want := range std.Inputs {
			in := &r.Inputs[i]
			if in.Name != want.Name || in.Type.String() != want.Datatype || tensor.FormatShape(in.Shape) != tensor.FormatShape(want.Shape) {
				t.Errorf("got %v, want %v", in, want)
			}
			elements := decodeStdlib(t, in.Type, want.Data)
			if got := (tensor.Tensor{Data: in.Data, Strings: in.Strings}); !equal(got, elements) {
				t.Errorf("input %q: got %v, want %v of %s", in.Name, got, elements, want.Data)
			}
		}
	})
}

// exactKeys leaves out members whose names only look like known ones to
// encoding/json, which does not mind their case.
func exactKeys(t *testing.T, body []byte) []byte {
	t.Helper()
	pick := func(object json.RawMessage, names ...string) map[string]json.RawMessage {
		var all map[string]json.RawMessage
		if err := json.Unmarshal(object, &all); err != nil {
			t.Fatal(err)
		}
		some := map[string]json.RawMessage{}
		for _, name := range names {
			if value, ok := all[name]; ok {
				some[name] = value
			}
		}
		return some
	}
	request := pick(body, "id", "inputs")
	var inputs []json.RawMessage
	if err := json.Unmarshal(request["inputs"], &inputs); err != nil {
		t.Fatal(err)
	}
	for i, input := range inputs {
		inputs[i], _ = json.Marshal(pick(input, "name", "shape", "datatype", "data"))
	}
	request["inputs"], _ = json.Marshal(inputs)
	out, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// decodeStdlib reads the elements of a tensor, however nested, by encoding/json.
func decodeStdlib(t *testing.T, kind tensor.Type, data json.RawMessage) tensor.Tensor {
	t.Helper()
	var rows []json.RawMessage
	if json.Unmarshal(data, &rows) == nil {
		var all tensor.Tensor
		for _, row := range rows {
			x := decodeStdlib(t, kind, row)
			all.Data = append(all.Data, x.Data...)
			all.Strings = append(all.Strings, x.Strings...)
		}
		return all
	}
	switch kind {
	case tensor.Bool:
		return element[bool](t, data)
	case tensor.Uint8:
		return element[uint8](t, data)
	case tensor.Uint16:
		return element[uint16](t, data)
	case tensor.Uint32:
		return element[uint32](t, data)
	case tensor.Uint64:
		return element[uint64](t, data)
	case tensor.Int8:
		return element[int8](t, data)
	case tensor.Int16:
		return element[int16](t, data)
	case tensor.Int32:
		return element[int32](t, data)
	case tensor.Int64:
		return element[int64](t, data)
	case tensor.FP32:
		return element[float32](t, data)
	case tensor.FP64:
		return element[float64](t, data)
	}
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		t.Fatalf("%s as %s: %v", data, kind, err)
	}
	return tensor.Tensor{Strings: []string{text}}
}

func element[T tensor.Number](t *testing.T, data json.RawMessage) tensor.Tensor {
	t.Helper()
	var v T
	switch any(v).(type) {
	case uint8, uint16, uint32, uint64:
		// A negative zero is an integer too; encoding/json does not think so.
		data = json.RawMessage(strings.TrimPrefix(string(data), "-"))
	}
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatalf("%s: %v", data, err)
	}
	return tensor.Tensor{Data: tensor.Raw([]T{v})}
}
