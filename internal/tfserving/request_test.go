package tfserving_test

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
	"github.com/pilotlight-ml/pilotlight/internal/tfserving"
)

func spec(name string, kind tensor.Type, shape ...int64) tensor.Spec {
	return tensor.Spec{Name: name, Type: kind, Shape: shape}
}

// models are the signatures that the tables name.
var models = map[string][]tensor.Spec{
	"x":      {spec("x", tensor.FP32, -1)},
	"rows":   {spec("x", tensor.FP32, -1, 3)},
	"free":   {spec("x", tensor.FP64, -1, -1)},
	"deep":   {spec("x", tensor.Int32, -1, -1, 2)},
	"scalar": {spec("x", tensor.Int64)},
	"text":   {spec("t", tensor.Bytes, -1)},
	"texts":  {spec("t", tensor.Bytes, -1, 2)},
	"word":   {spec("t", tensor.Bytes)},
	"small":  {spec("x", tensor.Int8, -1)},
	"flags":  {spec("x", tensor.Bool, -1)},
	"two":    {spec("amount", tensor.FP32, -1, -1), spec("n", tensor.Int64, -1)},
	"mixed":  {spec("t", tensor.Bytes, -1, 1), spec("k", tensor.Int64)},
	"half":   {spec("x", tensor.FP16, -1)},
	"none":   {},
}

// show writes a tensor as name:type[shape]=elements.
func show(t *tensor.Tensor) string {
	elements := fmt.Sprintf("%q", t.Strings)
	switch t.Type {
	case tensor.Bool:
		elements = fmt.Sprint(tensor.View[bool](t.Data))
	case tensor.Int8:
		elements = fmt.Sprint(tensor.View[int8](t.Data))
	case tensor.Int32:
		elements = fmt.Sprint(tensor.View[int32](t.Data))
	case tensor.Int64:
		elements = fmt.Sprint(tensor.View[int64](t.Data))
	case tensor.FP32:
		elements = fmt.Sprint(tensor.View[float32](t.Data))
	case tensor.FP64:
		elements = fmt.Sprint(tensor.View[float64](t.Data))
	}
	return t.Name + ":" + t.Type.String() + tensor.FormatShape(t.Shape) + "=" + elements
}

func TestDecode(t *testing.T) {
	for _, test := range []struct {
		model, body string
		rows        int
		want        string
	}{
		{"x", `{"instances":[1,2.5,-3e2]}`, 3, `x:FP32[3]=[1 2.5 -300]`},
		{"x", ` { "signature_name" : "serving_default" , "instances" : [ 1 , 2 ] } `, 2, `x:FP32[2]=[1 2]`},
		{"x", `{"instances":[{"x":1},{"x":2}],"signature_name":null,"more":{"a":[1]}}`, 2, `x:FP32[2]=[1 2]`},
		{"x", `{"inputs":[1,2]}`, 0, `x:FP32[2]=[1 2]`},
		{"x", `{"inputs":{"x":[1,2]}}`, 0, `x:FP32[2]=[1 2]`},
		{"x", `{"inputs":[]}`, 0, `x:FP32[0]=[]`},
		{"rows", `{"instances":[[1,2,3],[4,5,6]]}`, 2, `x:FP32[2,3]=[1 2 3 4 5 6]`},
		{"rows", `{"instances":[{"x":[1,2,3]},{"\u0078":[4,5,6]}]}`, 2, `x:FP32[2,3]=[1 2 3 4 5 6]`},
		{"rows", `{"inputs":[]}`, 0, `x:FP32[0,3]=[]`},
		{"free", `{"instances":[[],[],[]]}`, 3, `x:FP64[3,0]=[]`},
		{"free", `{"inputs":[]}`, 0, `x:FP64[0,0]=[]`},
		{"free", `{"instances":[[1,2],[3,4]]}`, 2, `x:FP64[2,2]=[1 2 3 4]`},
		{"deep", `{"instances":[[[1,2],[3,4],[5,6]]]}`, 1, `x:INT32[1,3,2]=[1 2 3 4 5 6]`},
		{"deep", `{"inputs":{"x":[[[1,2]],[[3,4]]]}}`, 0, `x:INT32[2,1,2]=[1 2 3 4]`},
		{"scalar", `{"inputs":-9223372036854775808}`, 0, `x:INT64[]=[-9223372036854775808]`},
		{"scalar", `{"inputs":{"x":7}}`, 0, `x:INT64[]=[7]`},
		{"small", `{"instances":[-128,127]}`, 2, `x:INT8[2]=[-128 127]`},
		{"flags", `{"instances":[true,false]}`, 2, `x:BOOL[2]=[true false]`},
		{"text", `{"instances":["a","",{"b64":"/w=="},"\u00e4"]}`, 4, `t:BYTES[4]=["a" "" "\xff" "ä"]`},
		{"text", `{"instances":[{"b64":"YQ=="},"b"]}`, 2, `t:BYTES[2]=["a" "b"]`},
		{"text", `{"instances":[{"t":{"b64":"YQ=="}},{"t":"b"}]}`, 2, `t:BYTES[2]=["a" "b"]`},
		{"texts", `{"instances":[["a",{"b64":"YQ=="}]]}`, 1, `t:BYTES[1,2]=["a" "a"]`},
		{"word", `{"inputs":{"b64":"YQ=="}}`, 0, `t:BYTES[]=["a"]`},
		{"word", `{"inputs":{"t":{"b64":"YQ=="}}}`, 0, `t:BYTES[]=["a"]`},
		{"word", `{"inputs":"a"}`, 0, `t:BYTES[]=["a"]`},
		{"two", `{"instances":[{"amount":[1,2],"n":1},{"n":2,"amount":[3,4]}]}`, 2, `amount:FP32[2,2]=[1 2 3 4] n:INT64[2]=[1 2]`},
		{"two", `{"inputs":{"n":[1],"amount":[[]]}}`, 0, `amount:FP32[1,0]=[] n:INT64[1]=[1]`},
		{"mixed", `{"inputs":{"t":[["a"],["b"]],"k":3}}`, 0, `t:BYTES[2,1]=["a" "b"] k:INT64[]=[3]`},
		{"none", `{"inputs":{}}`, 0, ``},
	} {
		var r tfserving.Request
		for range 2 { // with memory of its own, and with what was used before
			if err := r.Decode([]byte(test.body), models[test.model]); err != nil {
				t.Errorf("%s: %v", test.body, err)
				continue
			}
			var shown []string
			for i := range r.Inputs {
				shown = append(shown, show(&r.Inputs[i]))
			}
			if got := strings.Join(shown, " "); got != test.want || r.Rows != test.rows {
				t.Errorf("%s:\n got %d %s\nwant %d %s", test.body, r.Rows, got, test.rows, test.want)
			}
		}
	}
}

// A model with many inputs takes them in any order.
func TestManyInputs(t *testing.T) {
	const n = 200
	var specs []tensor.Spec
	var members []string
	for i := range n {
		specs = append(specs, spec(fmt.Sprint("f", i), tensor.Int64, -1))
		members = append(members, fmt.Sprintf(`"f%d":%d`, i, i))
	}
	slices.Reverse(members)
	row := strings.Join(members, ",")
	var r tfserving.Request
	for range 2 {
		if err := r.Decode([]byte(`{"instances":[{`+row+`},{`+row+`}]}`), specs); err != nil {
			t.Fatal(err)
		}
		for i := range n {
			if got, want := show(&r.Inputs[i]), fmt.Sprintf("f%d:INT64[2]=[%d %d]", i, i, i); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
	}
	if err := r.Decode([]byte(`{"instances":[{`+row+`,"g":1}]}`), specs); err == nil || !strings.HasPrefix(err.Error(), `instances[0] has "g", which is not an input of the model`) {
		t.Errorf("got %v", err)
	}
}

// refusals are bodies that must not be taken, with the sentence.
var refusals = []struct{ name, model, body, sentence string }{
	{"empty", "x", ``, `the body must be a JSON object`},
	{"array", "x", `[1]`, `the body must be a JSON object`},
	{"nothing in it", "x", `{}`, `the body has neither instances (one for each row) nor inputs (one for each input of the model)`},
	{"both", "x", `{"instances":[1],"inputs":[1]}`, `instances and inputs exclude each other: the one is the row form, the other the column form`},
	{"both, turned round", "x", `{"inputs":[1],"instances":[1]}`, `instances and inputs exclude each other: the one is the row form, the other the column form`},
	{"twice", "x", `{"instances":[1],"instances":[1]}`, `request: instances is given twice`},
	{"more behind it", "x", `{"instances":[1]}}`, `the body is not valid JSON at byte 17: '}' stands where the end of the request is expected`},
	{"cut off", "x", `{"instances":[1`, `the body is not valid JSON at byte 15: it ends where a comma or ] is expected`},
	{"cut off before a value", "x", `{"instances":[`, `the body is not valid JSON at byte 14: it ends where a value is expected`},
	{"a comma at the end", "x", `{"instances":[1,]}`, `the body is not valid JSON at byte 16: ']' stands where a value is expected`},
	{"a comma at the end of the room", "x", `{"instances":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,]}`, `the body is not valid JSON at byte 53: ']' stands where a value is expected`},
	{"the other bracket", "x", `{"instances":[1}`, `the body is not valid JSON at byte 15: '}' stands where a comma or ] is expected`},
	{"signature is a number", "x", `{"signature_name":1,"instances":[1]}`, `signature_name must be a string`},
	{"instances is a number", "x", `{"instances":1}`, `instances must be an array`},
	{"instances is an object", "x", `{"instances":{"x":[1]}}`, `instances must be an array`},
	{"no instances", "x", `{"instances":[]}`, `instances is empty, at least one is required`},
	{"null", "x", `{"instances":[1,null]}`, `instances[1] is null, but every element of a tensor must have a value`},
	{"a string", "x", `{"instances":[1,"2"]}`, `instances[1] is a string, but FP32 takes a number`},
	{"a boolean", "x", `{"instances":[true]}`, `instances[0] is a boolean, but FP32 takes a number`},
	{"NaN", "x", `{"instances":[1,NaN]}`, `instances[1] is NaN, which JSON can't carry: send the tensor as binary data, by the V2 protocol`},
	{"-Infinity", "x", `{"instances":[{"x":-Infinity}]}`, `instances[0].x is -Infinity, which JSON can't carry: send the tensor as binary data, by the V2 protocol`},
	{"does not fit", "x", `{"instances":[1e39]}`, `instances[0] is 1e39, which does not fit FP32`},
	{"too deep", "x", `{"instances":[1,[2]]}`, `instances[1] is an array, but FP32 takes a number`},
	{"too deep from the start", "x", `{"instances":[[1]]}`, `instances[0] is an array, but FP32 takes a number`},
	{"much too deep", "x", `{"instances":` + strings.Repeat("[", 100_000), `instances[0] is an array, but FP32 takes a number`},
	{"much too deep elsewhere", "x", `{"more":` + strings.Repeat("[", 100_000), `the body is not valid JSON at byte 72: values nest deeper than 64`},
	{"an object among values", "x", `{"instances":[1,{"x":2}]}`, `instances[1] is an object, but FP32 takes a number`},
	{"a value among objects", "x", `{"instances":[{"x":2},1]}`, `instances[1] must be an object, as the ones before it`},
	{"too flat", "rows", `{"instances":[1,2,3]}`, `instances[0] must be an array: input "x" has shape [-1,3]`},
	{"too flat further on", "rows", `{"instances":[[1,2,3],null]}`, `instances[1] must be an array: input "x" has shape [-1,3]`},
	{"too flat in an object", "rows", `{"instances":[{"x":1}]}`, `instances[0].x must be an array: input "x" has shape [-1,3]`},
	{"too flat inside", "deep", `{"instances":[[[1,2],3]]}`, `instances[0][1] must be an array: input "x" has shape [-1,-1,2]`},
	{"too flat column", "rows", `{"inputs":7}`, `inputs must be an array: input "x" has shape [-1,3]`},
	{"too few of a fixed size", "rows", `{"instances":[[1,2,3],[4,5]]}`, `instances[1] has 2 elements: input "x" has shape [-1,3]`},
	{"too many of a fixed size", "rows", `{"instances":[[1,2,3,4,5]]}`, `instances[0] has 5 elements: input "x" has shape [-1,3]`},
	{"none of a fixed size", "rows", `{"instances":[[]]}`, `instances[0] has 0 elements: input "x" has shape [-1,3]`},
	{"a fixed size inside", "deep", `{"inputs":{"x":[[[1,2]],[[3]]]}}`, `inputs.x[1][0] has 1 elements: input "x" has shape [-1,-1,2]`},
	{"ragged", "free", `{"instances":[[1,2],[3]]}`, `instances[1] has 1 elements where those before it have 2: arrays must not be ragged`},
	{"ragged, longer", "free", `{"instances":[[1],[2,3,4]]}`, `instances[1] has 3 elements where those before it have 1: arrays must not be ragged`},
	{"ragged behind an empty one", "free", `{"instances":[[],[1]]}`, `instances[1] has 1 elements where those before it have 0: arrays must not be ragged`},
	{"ragged inside", "deep", `{"instances":[[[1,2],[3,4]],[[5,6]]]}`, `instances[1] has 1 elements where those before it have 2: arrays must not be ragged`},
	{"ragged inside, longer", "deep", `{"instances":[[[1,2]],[[3,4],[5,6],[7,8]]]}`, `instances[1] has 3 elements where those before it have 1: arrays must not be ragged`},
	{"ragged objects", "two", `{"instances":[{"amount":[1],"n":1},{"amount":[1,2],"n":1}]}`, `instances[1].amount has 2 elements where those before it have 1: arrays must not be ragged`},
	{"wrong type deep down", "two", `{"instances":[{"amount":[1],"n":1},{"amount":["a"],"n":1}]}`, `instances[1].amount[0] is a string, but FP32 takes a number`},
	{"wrong type in the third", "two", `{"instances":[{"amount":[1,2,true],"n":1}]}`, `instances[0].amount[2] is a boolean, but FP32 takes a number`},
	{"wrong type of a lone value", "two", `{"instances":[{"n":1.5}]}`, `instances[0].n is 1.5, but INT64 takes an integer without fraction and exponent`},
	{"no value", "two", `{"instances":[{"n":]}]}`, `the body is not valid JSON at byte 19: ']' stands where a value is expected`},
	{"beyond INT8", "small", `{"instances":[127,128]}`, `instances[1] is 128, which does not fit INT8`},
	{"fraction", "small", `{"instances":[1.0]}`, `instances[0] is 1.0, but INT8 takes an integer without fraction and exponent`},
	{"number for a flag", "flags", `{"instances":[1]}`, `instances[0] is a number, but BOOL takes true or false`},
	{"number for text", "text", `{"instances":[1]}`, `instances[0] is a number, but BYTES takes a string`},
	{"base64 that is none", "text", `{"instances":["a",{"b64":"*"}]}`, `instances[1] is not valid base64`},
	{"base64 that is a number", "text", `{"instances":["a",{"b64":1}]}`, `instances[1] is an object that is not {"b64": "..."}, but BYTES takes that or a string`},
	{"base64 with company", "text", `{"instances":["a",{"b64":"YQ==","x":1}]}`, `instances[1] is an object that is not {"b64": "..."}, but BYTES takes that or a string`},
	{"base64 by another name", "text", `{"instances":["a",{"base64":"YQ=="}]}`, `instances[1] is an object that is not {"b64": "..."}, but BYTES takes that or a string`},
	{"base64 of a number", "x", `{"instances":[{"x":{"b64":"YQ=="}}]}`, `instances[0].x is an object, but FP32 takes a number`},
	{"empty object for text", "text", `{"instances":["a",{}]}`, `instances[1] is an object that is not {"b64": "..."}, but BYTES takes that or a string`},
	{"unknown input", "x", `{"instances":[{"y":1}]}`, `instances[0] has "y", which is not an input of the model: it expects "x"`},
	{"base64 for the row of a number", "x", `{"instances":[{"b64":"YQ=="}]}`, `instances[0] has "b64", which is not an input of the model: it expects "x"`},
	{"unknown column", "two", `{"inputs":{"amount":[[1]],"n":[1],"y":[1]}}`, `inputs has "y", which is not an input of the model: it expects "amount", "n"`},
	{"missing input", "two", `{"instances":[{"amount":[1],"n":1},{"amount":[1]}]}`, `instances[1].n is missing: the model expects "amount", "n"`},
	{"missing first input", "two", `{"instances":[{"n":1}]}`, `instances[0].amount is missing: the model expects "amount", "n"`},
	{"empty instance", "x", `{"instances":[{}]}`, `instances[0].x is missing: the model expects "x"`},
	{"missing column", "two", `{"inputs":{"amount":[[1]]}}`, `inputs.n is missing: the model expects "amount", "n"`},
	{"input twice", "two", `{"instances":[{"n":1,"n":2}]}`, `instances[0].n is given twice`},
	{"column twice", "two", `{"inputs":{"n":[1],"n":[2]}}`, `inputs.n is given twice`},
	{"values for two inputs", "two", `{"instances":[1]}`, `instances[0] must be an object with a value for each of "amount", "n": the model has 2 inputs`},
	{"columns without names", "two", `{"inputs":[1]}`, `inputs must be an object with a value for each of "amount", "n": the model has 2 inputs`},
	{"rows of a scalar", "scalar", `{"instances":[1]}`, `input "x" takes one value and no rows: send inputs in place of instances`},
	{"rows with a scalar", "mixed", `{"instances":[{"t":["a"],"k":1}]}`, `input "k" takes one value and no rows: send inputs in place of instances`},
	{"half floats", "half", `{"instances":[1]}`, `input "x": JSON can't carry FP16, send the tensor as binary data, by the V2 protocol`},
	{"no inputs to give", "none", `{"instances":[{"x":1}]}`, `instances[0] has "x", which is not an input of the model: it expects `},
	{"a long name", "x", `{"instances":[{"` + strings.Repeat("y", 1000) + `":1}]}`, `instances[0] has "` + strings.Repeat("y", 64) + `…", which is not an input of the model: it expects "x"`},
}

func TestRefusals(t *testing.T) {
	for _, test := range refusals {
		t.Run(test.name, func(t *testing.T) {
			var r tfserving.Request
			err := r.Decode([]byte(test.body), models[test.model])
			if err == nil || fault.KindOf(err) != fault.Invalid || fault.Message(err) != test.sentence {
				t.Fatalf("got  %v\nwant %s", err, test.sentence)
			}
			// What is left of a refused one is nothing to the next.
			if err := r.Decode([]byte(`{"instances":[{"amount":[1.5],"n":7}]}`), models["two"]); err != nil || show(&r.Inputs[0]) != "amount:FP32[1,1]=[1.5]" || show(&r.Inputs[1]) != "n:INT64[1]=[7]" {
				t.Errorf("got %v %v", r.Inputs, err)
			}
		})
	}
}

func TestDecodeTakesNoMemoryAnew(t *testing.T) {
	body := []byte(`{"instances":[` + strings.TrimSuffix(strings.Repeat(`{"amount":[1.5,2.5,3.5],"n":7},`, 100), ",") + `]}`)
	var r tfserving.Request
	if n := testing.AllocsPerRun(10, func() {
		if err := r.Decode(body, models["two"]); err != nil {
			t.Fatal(err)
		}
	}); n > 1 {
		t.Errorf("a request that is read again takes %v allocations", n)
	}
}

func TestAppend(t *testing.T) {
	y := tensor.Of("y", []int64{2, 3}, []float32{1, 2.5, float32(math.NaN()), 4, 5, float32(math.Inf(-1))})
	n := tensor.Of("n", []int64{2}, []int64{7, -8})
	one := tensor.Of("s", nil, []bool{true})
	text := tensor.OfStrings("t", []int64{2}, []string{"a\"b", "\xff"})
	binary := tensor.OfStrings("t_bytes", []int64{2, 1}, []string{"a", ""})
	deep := tensor.Of("d", []int64{2, 1, 2}, []uint8{1, 2, 3, 4})
	none := tensor.Of("e", []int64{0, 3}, []float32{})
	empty := tensor.Of("e", []int64{2, 0}, []float32{})
	for _, test := range []struct {
		rows    int
		outputs []tensor.Tensor
		want    string
	}{
		{2, []tensor.Tensor{y}, `{"predictions":[[1,2.5,null],[4,5,null]]}`},
		{0, []tensor.Tensor{y}, `{"outputs":[[1,2.5,null],[4,5,null]]}`},
		{2, []tensor.Tensor{y, n}, `{"predictions":[{"y":[1,2.5,null],"n":7},{"y":[4,5,null],"n":-8}]}`},
		{0, []tensor.Tensor{y, n, one}, `{"outputs":{"y":[[1,2.5,null],[4,5,null]],"n":[7,-8],"s":true}}`},
		{2, []tensor.Tensor{n}, `{"predictions":[7,-8]}`},
		{0, []tensor.Tensor{one}, `{"outputs":true}`},
		{2, []tensor.Tensor{text}, `{"predictions":["a\"b",{"b64":"/w=="}]}`},
		{2, []tensor.Tensor{binary}, `{"predictions":[[{"b64":"YQ=="}],[{"b64":""}]]}`},
		{2, []tensor.Tensor{deep}, `{"predictions":[[[1,2]],[[3,4]]]}`},
		{0, []tensor.Tensor{none}, `{"outputs":[]}`},
		{2, []tensor.Tensor{empty}, `{"predictions":[[],[]]}`},
		{0, nil, `{"outputs":{}}`},
	} {
		got, err := tfserving.Append([]byte("before"), test.rows, test.outputs)
		if err != nil || string(got) != "before"+test.want {
			t.Errorf("got  %s %v\nwant before%s", got, err, test.want)
		}
		if !json.Valid([]byte(test.want)) {
			t.Errorf("%s is not JSON", test.want)
		}
	}
}

func TestAppendRefuses(t *testing.T) {
	for _, test := range []struct {
		rows     int
		output   tensor.Tensor
		sentence string
	}{
		{0, tensor.Tensor{Name: "h", Type: tensor.FP16, Shape: []int64{1}, Data: make([]byte, 2)}, `output "h": JSON can't carry FP16, ask for it as binary data, by the V2 protocol`},
		{3, tensor.Of("y", []int64{1, 2}, []float32{1, 2}), `output "y" has shape [1,2] and not a row for each of the 3 instances: send inputs in place of instances`},
		{3, tensor.Of("y", nil, []float32{1}), `output "y" has shape [] and not a row for each of the 3 instances: send inputs in place of instances`},
		{0, tensor.Of("y", []int64{1 << 40, 1 << 40, 0}, []float32{}), `output "y" has shape [1099511627776,1099511627776,0], of which nested arrays would hold nothing: ask for it by the V2 protocol`},
	} {
		_, err := tfserving.Append(nil, test.rows, []tensor.Tensor{test.output})
		if fault.KindOf(err) != fault.Invalid || fault.Message(err) != test.sentence {
			t.Errorf("got  %v\nwant %s", err, test.sentence)
		}
	}
}

// The answer's memory is taken at once.
func TestAppendGrowsOnce(t *testing.T) {
	y := tensor.Of("y", []int64{500, 4, 2}, slices.Repeat([]float64{-math.MaxFloat64, -1.2345678901234567e-100}, 2000))
	n := tensor.Of("n", []int64{500, 1}, slices.Repeat([]int64{math.MinInt64}, 500))
	once := testing.AllocsPerRun(10, func() { _ = slices.Grow([]byte(nil), 1<<20) }) // more than one under the race detector
	if got := testing.AllocsPerRun(10, func() { _, _ = tfserving.Append(nil, 500, []tensor.Tensor{y, n}) }); got != once {
		t.Errorf("an answer takes %v allocations, one growth takes %v", got, once)
	}
}
