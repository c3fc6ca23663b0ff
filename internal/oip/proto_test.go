package oip

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

var update = flag.Bool("update", false, "write the compiled .proto files")

func TestDescriptorIsThatOfTheProto(t *testing.T) {
	compiler := protocompile.Compiler{Resolver: &protocompile.SourceResolver{}}
	files, err := compiler.Compile(t.Context(), "inference.proto")
	if err != nil {
		t.Fatal(err)
	}
	want := protodesc.ToFileDescriptorProto(files[0])
	if *update {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile("inference.binpb", b, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	var got descriptorpb.FileDescriptorProto
	if err := proto.Unmarshal(Descriptor, &got); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(&got, want) {
		t.Error("inference.binpb is not inference.proto compiled: run the test with -update")
	}
}

// declared finds a message of inference.proto.
func declared(t testing.TB, name string) protoreflect.MessageDescriptor {
	t.Helper()
	var file descriptorpb.FileDescriptorProto
	if err := proto.Unmarshal(Descriptor, &file); err != nil {
		t.Fatal(err)
	}
	built, err := protodesc.NewFile(&file, nil)
	if err != nil {
		t.Fatal(err)
	}
	found := built.Messages().ByName(protoreflect.Name(name))
	if found == nil {
		t.Fatalf("there is no message %s", name)
	}
	return found
}

// official writes a message, given as JSON, as the protobuf library does.
func official(t testing.TB, name, text string) []byte {
	t.Helper()
	m := dynamicpb.NewMessage(declared(t, name))
	if err := protojson.Unmarshal([]byte(text), m); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// asJSON reads a message as the protobuf library does; its fields are sorted.
func asJSON(t testing.TB, name string, b []byte) string {
	t.Helper()
	m := dynamicpb.NewMessage(declared(t, name))
	if err := proto.Unmarshal(b, m); err != nil {
		t.Fatalf("%x: %v", b, err)
	}
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	text, err = json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// everyType is one tensor of each datatype, with the limits of its values.
func everyType() []tensor.Tensor {
	return []tensor.Tensor{
		tensor.Of("BOOL", []int64{2}, []bool{true, false}),
		tensor.Of("UINT8", []int64{3}, []uint8{0, 127, 255}),
		tensor.Of("UINT16", []int64{3}, []uint16{0, 128, 65535}),
		tensor.Of("UINT32", []int64{2}, []uint32{0, 1<<32 - 1}),
		tensor.Of("UINT64", []int64{2}, []uint64{0, 1<<64 - 1}),
		tensor.Of("INT8", []int64{3}, []int8{-128, 0, 127}),
		tensor.Of("INT16", []int64{3}, []int16{-32768, -1, 32767}),
		tensor.Of("INT32", []int64{3}, []int32{-1 << 31, 0, 1<<31 - 1}),
		tensor.Of("INT64", []int64{3}, []int64{-1 << 63, 0, 1<<63 - 1}),
		tensor.Of("FP32", []int64{2, 1}, []float32{1.5, -0}),
		tensor.Of("FP64", []int64{2}, []float64{1e300, -2.25}),
		tensor.OfStrings("BYTES", []int64{3}, []string{"", "Zürich", "\xff\x00"}),
		tensor.Of("scalar", []int64{}, []int64{7}),
		tensor.Of("nothing", []int64{0, 3}, []int32{}),
	}
}

// asProtoRequest makes a request of an answer: they differ in the number of the
// inputs, which are the answer's outputs, and of the raw contents.
func asProtoRequest(t testing.TB, response []byte) []byte {
	t.Helper()
	var out []byte
	for b := response; len(b) > 0; {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			t.Fatalf("%x is not protobuf", response)
		}
		b = b[n:]
		n = protowire.ConsumeFieldValue(number, kind, b)
		if number == protoRawOutputs {
			number = protoRawInputs
		}
		out = append(protowire.AppendTag(out, number, kind), b[:n]...)
		b = b[n:]
	}
	return out
}

func TestProtoRoundTrip(t *testing.T) {
	half := []tensor.Tensor{
		{Name: "FP16", Type: tensor.FP16, Shape: []int64{2}, Data: []byte{0, 60, 1, 60}},
		{Name: "BF16", Type: tensor.BF16, Shape: []int64{1}, Data: []byte{128, 63}},
	}
	for _, test := range []struct {
		name    string
		outputs []tensor.Tensor
		raw     bool // asked for
		is      bool
	}{
		{"contents", everyType(), false, false},
		{"raw", append(everyType(), half...), true, true},
		{"raw, as contents can't carry half floats", append(everyType(), half...), false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			response := Response{ModelName: "m", ModelVersion: "3", ID: "größer", Outputs: test.outputs}
			b := response.AppendProto(nil, test.raw)
			if room := response.protoRoom(test.is); len(b) > room {
				t.Errorf("took %d bytes and foretold %d", len(b), room)
			}
			var r Request
			for range 2 { // the second time in memory that was used
				if err := r.DecodeProto(asProtoRequest(t, b)); err != nil {
					t.Fatal(err)
				}
				if r.Model != "m" || r.Version != "3" || r.ID != "größer" || r.Raw != test.is {
					t.Errorf("got model %q, version %q, id %q, raw %v", r.Model, r.Version, r.ID, r.Raw)
				}
				if len(r.Inputs) != len(test.outputs) {
					t.Fatalf("got %d inputs, want %d", len(r.Inputs), len(test.outputs))
				}
				for i, want := range test.outputs {
					got := r.Inputs[i]
					if !equal(got, want) {
						t.Errorf("got %v, want %v", got, want)
					}
					if !tensor.Aligned(got.Data, got.Type) {
						t.Errorf("%s is not aligned", got.Name)
					}
				}
			}
		})
	}
}

// What the library writes is read, whatever form its fields have.
func TestDecodeProto(t *testing.T) {
	b := official(t, "ModelInferRequest", `{
		"model_name":"m","model_version":"champion","id":"7",
		"parameters":{"a":{"bool_param":true},"b":{"int64_param":"-1"},"c":{"string_param":"x"},"d":{"double_param":0.5},"e":{"uint64_param":"18446744073709551615"},"f":{}},
		"inputs":[
			{"name":"x","datatype":"FP32","shape":["1","2"],"contents":{"fp32_contents":[1.5,2.5]},"parameters":{"binary_data_size":{"int64_param":"8"}}},
			{"name":"s","datatype":"BYTES","shape":["2"],"contents":{"bytes_contents":["YQ==",""]}}],
		"outputs":[{"name":"y","parameters":{"classification":{"int64_param":"2"}}},{"name":"z"}]}`)
	b = append(b, 0xfa, 0x7f, 3, 1, 2, 3) // a field that nobody knows
	var r Request
	if err := r.DecodeProto(b); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(r.Parameters), "map[a:true b:-1 c:x d:0.5 e:18446744073709551615]"; got != want {
		t.Errorf("got parameters %s, want %s", got, want)
	}
	if r.Version != "champion" || r.ID != "7" || len(r.Outputs) != 2 || r.Outputs[0].Name != "y" || r.Outputs[0].Parameters["classification"] != int64(2) || r.Outputs[1].Name != "z" {
		t.Errorf("got %+v", r)
	}
	if !equal(r.Inputs[0], tensor.Of("x", []int64{1, 2}, []float32{1.5, 2.5})) || !equal(r.Inputs[1], tensor.OfStrings("s", []int64{2}, []string{"a", ""})) {
		t.Errorf("got %v", r.Inputs)
	}
	// Numbers one by one, which old writers send, and in several runs.
	unpacked := protoInput("x", "INT32", nil, varint(3, 2), varint(3, 2), chunk(5, varint(2, 1), chunk(2, []byte{2, 3}), varint(2, 1<<64-1)))
	if err := r.DecodeProto(unpacked); err != nil || !equal(r.Inputs[0], tensor.Of("x", []int64{2, 2}, []int32{1, 2, 3, -1})) {
		t.Errorf("got %v, %v", r.Inputs, err)
	}
	fixed := protoInput("x", "FP32", nil, varint(3, 2), chunk(5, append(protowire.AppendTag(nil, 6, protowire.Fixed32Type), 0, 0, 128, 63), chunk(6, []byte{0, 0, 0, 64})))
	if err := r.DecodeProto(fixed); err != nil || !equal(r.Inputs[0], tensor.Of("x", []int64{2}, []float32{1, 2})) {
		t.Errorf("got %v, %v", r.Inputs, err)
	}
}

// Raw tensors lie where the message lies, if that suits them.
func TestRawTensorsShareMemory(t *testing.T) {
	response := Response{ModelName: "m", Outputs: []tensor.Tensor{tensor.Of("x", []int64{2}, []float64{1, 2})}}
	message := asProtoRequest(t, response.AppendProto(nil, true))
	memory := tensor.Raw(make([]uint64, len(message)/8+1))
	at := len(memory) - len(message)
	copy(memory[at:], message)
	var r Request
	if err := r.DecodeProto(memory[at:]); err != nil {
		t.Fatal(err)
	}
	memory[len(memory)-1] ^= 0x80 // the sign of the last number
	if got := tensor.View[float64](r.Inputs[0].Data); !slices.Equal(got, []float64{1, -2}) {
		t.Errorf("got %v of memory of its own", got)
	}
	copy(memory, message)
	if err := r.DecodeProto(memory[:len(message)]); err != nil || !tensor.Aligned(r.Inputs[0].Data, tensor.FP64) {
		t.Errorf("got %v at an address that does not suit", err)
	}
}

// chunk is a field of bytes: the parts, one behind the other.
func chunk(number protowire.Number, parts ...[]byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), bytes.Join(parts, nil))
}

func varint(number protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, number, protowire.VarintType), v)
}

// protoInput is a request with one input, of what fields says, and raw contents
// unless that is nil.
func protoInput(name, datatype string, raw []byte, fields ...[]byte) []byte {
	b := chunk(5, append([][]byte{chunk(1, []byte(name)), chunk(2, []byte(datatype))}, fields...)...)
	if raw != nil {
		b = append(b, chunk(7, raw)...)
	}
	return b
}

func TestRefusedProto(t *testing.T) {
	const broken = "the message is not valid protobuf"
	dim := func(n uint64) []byte { return varint(3, n) }
	ints := func(v ...uint64) []byte {
		var b []byte
		for _, n := range v {
			b = protowire.AppendVarint(b, n)
		}
		return chunk(5, chunk(2, b))
	}
	good := protoInput("x", "UINT8", []byte{1}, dim(1))
	for _, test := range []struct {
		name    string
		message []byte
		err     string
	}{
		{"empty", nil, "inputs is missing or empty, at least one input is required"},
		{"cut off", good[:len(good)-1], broken},
		{"cut off in an input", chunk(5, chunk(1, []byte("x"))[:2]), broken},
		{"no protobuf", []byte(`{"inputs":[]}`), broken},
		{"endless varint", bytes.Repeat([]byte{0xff}, 20), broken},
		{"open group", []byte{0x0b, 0x08, 0x01}, broken},
		{"field 0", []byte{0x02, 0x00}, broken},
		{"model not UTF-8", chunk(1, []byte{0xff}), "model_name is not valid UTF-8"},
		{"id not UTF-8", chunk(3, []byte{0xff}), "id is not valid UTF-8"},
		{"no name", chunk(5, chunk(2, []byte("UINT8"))), "inputs[0]: name is missing"},
		{"no datatype", chunk(5, chunk(1, []byte("x"))), `input "x": datatype is missing`},
		{"unknown datatype", protoInput("x", "FLOAT", nil), `input "x": datatype "FLOAT" is not one of BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, BF16, FP32, FP64, BYTES`},
		{"negative dimension", protoInput("x", "UINT8", []byte{1}, dim(1<<64-1)), `input "x": shape[0] must be an integer from 0 to 2^63-1`},
		{"negative dimension, packed", protoInput("x", "UINT8", []byte{1}, chunk(3, []byte{1}, protowire.AppendVarint(nil, 1<<63))), `input "x": shape[1] must be an integer from 0 to 2^63-1`},
		{"rank", protoInput("x", "UINT8", []byte{1}, chunk(3, bytes.Repeat([]byte{1}, 33))), `input "x": shape has more than 32 dimensions`},
		{"product", protoInput("x", "UINT8", []byte{1}, dim(1<<32), dim(1<<32)), `input "x": shape [4294967296,4294967296] has more elements than 64 bits can count`},
		{"product of contents", protoInput("x", "UINT8", nil, dim(1<<32), dim(1<<32)), `input "x": shape [4294967296,4294967296] has more elements than 64 bits can count`},
		{"same name", slices.Concat(protoInput("x", "UINT8", nil, dim(0)), protoInput("x", "UINT8", nil, dim(0))), `input "x" is given twice`},
		{"same output", slices.Concat(good, chunk(6, chunk(1, []byte("y"))), chunk(6, chunk(1, []byte("y")))), `output "y" is asked for twice`},
		{"output without name", slices.Concat(good, chunk(6)), "outputs[0]: name is missing"},
		{"parameter twice", slices.Concat(good, chunk(4, chunk(1, []byte("a")), chunk(2, varint(1, 1))), chunk(4, chunk(1, []byte("a")), chunk(2, varint(1, 1)))), `request: parameter "a" is given twice`},
		{"parameter not UTF-8", slices.Concat(good, chunk(4, chunk(1, []byte("a")), chunk(2, chunk(3, []byte{0xff})))), "request: a parameter is not valid UTF-8"},
		{"name of a parameter not UTF-8", slices.Concat(good, chunk(4, chunk(1, []byte{0xff}))), "request: a parameter is not valid UTF-8"},
		{"shared memory", protoInput("x", "UINT8", nil, chunk(4, chunk(1, []byte("shared_memory_region")), chunk(2, chunk(3, []byte("r"))))), `input "x": shared_memory_region is not supported, send the data with the request`},

		{"raw and typed", protoInput("x", "UINT8", []byte{1}, dim(1), chunk(5, chunk(4, []byte{1}))), `input "x": contents and raw_input_contents exclude each other`},
		{"raw of one of two", slices.Concat(protoInput("x", "UINT8", nil, dim(1)), protoInput("y", "UINT8", []byte{1}, dim(1))), "raw_input_contents has 1 entries for 2 inputs, one each is required"},
		{"raw of two for one", slices.Concat(good, chunk(7, []byte{1})), "raw_input_contents has 2 entries for 1 inputs, one each is required"},
		{"raw too short", protoInput("x", "FP32", make([]byte, 4), dim(2)), `input "x": the size of raw_input_contents is 4, but shape [2] of FP32 takes 2 elements of 4 bytes`},
		{"raw too long", protoInput("x", "FP32", make([]byte, 12), dim(2)), `input "x": the size of raw_input_contents is 12, but shape [2] of FP32 takes 2 elements of 4 bytes`},
		{"raw of half an element", protoInput("x", "FP32", make([]byte, 7), dim(2)), `input "x": the size of raw_input_contents is 7, but shape [2] of FP32 takes 2 elements of 4 bytes`},
		{"raw boolean", protoInput("x", "BOOL", []byte{1, 2}, dim(2)), `input "x": element 1 is byte 2, but BOOL takes 0 or 1`},
		{"raw string that lies", protoInput("x", "BYTES", []byte{9, 0, 0, 0, 'a'}, dim(1)), `input "x": element 0 has a length of 9, but only 1 bytes are left of its binary data`},
		{"raw strings that are too few", protoInput("x", "BYTES", []byte{0, 0, 0, 0}, dim(1<<40)), `input "x": the size of raw_input_contents is 4, too few for the 1099511627776 strings of shape [1099511627776] and their lengths of 4 bytes`},
		{"raw strings and more", protoInput("x", "BYTES", []byte{0, 0, 0, 0, 1}, dim(1)), `input "x": binary data has 1 bytes more than the 1 strings of shape [1]`},

		{"contents twice", protoInput("x", "INT32", nil, dim(2), ints(1), ints(1)), `input "x": contents is given twice`},
		{"no contents", protoInput("x", "INT32", nil, dim(2)), `input "x": contents has 0 elements, shape [2] takes 2`},
		{"no contents of very many", protoInput("x", "INT32", nil, dim(1<<40)), `input "x": contents has 0 elements, shape [1099511627776] takes 1099511627776`},
		{"contents too few", protoInput("x", "INT32", nil, dim(2), ints(1)), `input "x": contents has 1 elements, shape [2] takes 2`},
		{"contents too many", protoInput("x", "INT32", nil, dim(2), ints(1, 2, 3)), `input "x": contents has 3 elements, shape [2] takes 2`},
		{"contents of another type", protoInput("x", "INT64", nil, dim(1), ints(1)), `input "x": the elements of INT64 must be in int64_contents and nowhere else`},
		{"contents of two types", protoInput("x", "INT32", nil, dim(1), chunk(5, chunk(2, []byte{1}), chunk(4, []byte{1}))), `input "x": the elements of INT32 must be in int_contents and nowhere else`},
		{"half floats", protoInput("x", "FP16", nil, dim(1), ints(1)), `input "x": contents can't carry FP16, send the tensor as raw_input_contents`},
		{"too large for INT8", protoInput("x", "INT8", nil, dim(2), ints(127, 128)), `input "x": contents[1] is 128, which does not fit INT8`},
		{"too small for INT16", protoInput("x", "INT16", nil, dim(1), ints(1<<64-32769)), `input "x": contents[0] is -32769, which does not fit INT16`},
		{"too large for UINT8", protoInput("x", "UINT8", nil, dim(1), chunk(5, chunk(4, []byte{0x80, 2}))), `input "x": contents[0] is 256, which does not fit UINT8`},
		{"broken contents", protoInput("x", "INT32", nil, dim(1), chunk(5, []byte{0x12, 0x05, 1})), `input "x": ` + broken},
		{"broken packed number", protoInput("x", "INT32", nil, dim(1), chunk(5, chunk(2, append(bytes.Repeat([]byte{0xff}, 10), 1)))), `input "x": ` + broken},
		{"broken packed floats", protoInput("x", "FP32", nil, dim(1), chunk(5, chunk(6, []byte{1, 2, 3}))), `input "x": ` + broken},
		{"long name", protoInput(strings.Repeat("n", 99), "", nil), `input "` + strings.Repeat("n", 64) + `…": datatype "" is not one of BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, BF16, FP32, FP64, BYTES`},
	} {
		t.Run(test.name, func(t *testing.T) {
			var r Request
			err := r.DecodeProto(test.message)
			if !fault.Is(err, fault.Invalid) || fault.Message(err) != test.err {
				t.Errorf("got  %v\nwant %s", err, test.err)
			}
			if err := r.DecodeProto(good); err != nil {
				t.Errorf("after it: %v", err)
			}
		})
	}
}

// The small messages say to the library what their JSON says.
func TestAppendProto(t *testing.T) {
	type message interface{ AppendProto([]byte) []byte }
	specs := []tensor.Spec{{Name: "x", Type: tensor.FP32, Shape: []int64{-1, 3}}, {Name: "s", Type: tensor.Bytes, Shape: []int64{-1}}}
	config := ModelConfig{Name: "m", Platform: "onnxruntime_onnx", Backend: "onnx"}
	config.Configure(8, specs, specs[:1])
	d := func(n uint64) Duration { return Duration{n, 10 * n} }
	for _, test := range []struct {
		name    string
		message message
		want    string
	}{
		{"ServerLiveResponse", Live{true}, `{"live":true}`},
		{"ServerReadyResponse", Ready{false}, `{}`},
		{"ModelReadyResponse", ModelReady{"m", true}, `{"ready":true}`},
		{"ServerMetadataResponse", ServerMetadata{"pilotlight", "v1", []string{"a", "b"}}, `{"extensions":["a","b"],"name":"pilotlight","version":"v1"}`},
		{
			"ModelMetadataResponse",
			ModelMetadata{"m", []string{"1", "2"}, "onnxruntime_onnx", Describe(specs), Describe(specs[1:])},
			`{"inputs":[{"datatype":"FP32","name":"x","shape":["-1","3"]},{"datatype":"BYTES","name":"s","shape":["-1"]}],"name":"m","outputs":[{"datatype":"BYTES","name":"s","shape":["-1"]}],"platform":"onnxruntime_onnx","versions":["1","2"]}`,
		},
		{
			"ModelConfigResponse", config,
			`{"config":{"backend":"onnx","input":[{"data_type":"TYPE_FP32","dims":["3"],"name":"x"},{"data_type":"TYPE_STRING","name":"s"}],"max_batch_size":8,"name":"m","output":[{"data_type":"TYPE_FP32","dims":["3"],"name":"x"}],"platform":"onnxruntime_onnx"}}`,
		},
		{
			"ModelStatisticsResponse",
			Statistics{[]ModelStatistics{{
				Name: "m", Version: "1", LastInference: 5, InferenceCount: 6, ExecutionCount: 7,
				Inference: InferenceStatistics{d(1), d(2), d(3), d(4), d(5), d(6), d(7), d(8)},
				Batches:   []BatchStatistics{{2, d(1), d(2), d(3)}},
			}}},
			`{"model_stats":[{"batch_stats":[{"batch_size":"2","compute_infer":{"count":"2","ns":"20"},"compute_input":{"count":"1","ns":"10"},"compute_output":{"count":"3","ns":"30"}}],"execution_count":"7","inference_count":"6","inference_stats":{"cache_hit":{"count":"7","ns":"70"},"cache_miss":{"count":"8","ns":"80"},"compute_infer":{"count":"5","ns":"50"},"compute_input":{"count":"4","ns":"40"},"compute_output":{"count":"6","ns":"60"},"fail":{"count":"2","ns":"20"},"queue":{"count":"3","ns":"30"},"success":{"count":"1","ns":"10"}},"last_inference":"5","name":"m","version":"1"}]}`,
		},
		{"RepositoryIndexResponse", Index{{"m", "1", StateReady, ""}, {"n", "", StateUnavailable, "gone"}}, `{"models":[{"name":"m","state":"READY","version":"1"},{"name":"n","reason":"gone","state":"UNAVAILABLE"}]}`},
		{"RepositoryModelLoadResponse", Done{}, `{}`},
	} {
		if got := asJSON(t, test.name, test.message.AppendProto(nil)); got != test.want {
			t.Errorf("%s\ngot  %s\nwant %s", test.name, got, test.want)
		}
	}
	r := Request{Model: "m", Version: "2", ID: "7"}
	if got, want := asJSON(t, "ModelStreamInferResponse", AppendStreamError(nil, &r, "no")), `{"error_message":"no","infer_response":{"id":"7","model_name":"m","model_version":"2"}}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	response := Response{ModelName: "m", Outputs: []tensor.Tensor{tensor.Of("x", []int64{1}, []int32{-1})}}
	if got, want := asJSON(t, "ModelStreamInferResponse", AppendStream(nil, response.AppendProto(nil, false))), `{"infer_response":{"model_name":"m","outputs":[{"contents":{"int_contents":[-1]},"datatype":"INT32","name":"x","shape":["1"]}]}}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestModelAsk(t *testing.T) {
	var a ModelAsk
	if err := a.DecodeProto(official(t, "ModelReadyRequest", `{"name":"m","version":"2"}`)); err != nil || a.Name != "m" || a.Version != "2" {
		t.Errorf("got %+v, %v", a, err)
	}
	a = ModelAsk{}
	b := official(t, "RepositoryModelLoadRequest", `{"repository_name":"r","model_name":"m","parameters":{"config":{"string_param":"{}"}}}`)
	if err := a.DecodeRepository(b); err != nil || a.Name != "m" || a.Version != "" || !maps.Equal(a.Parameters, Parameters{"config": "{}"}) {
		t.Errorf("got %+v, %v", a, err)
	}
	var index IndexRequest
	if err := index.DecodeProto(official(t, "RepositoryIndexRequest", `{"repository_name":"r","ready":true}`)); err != nil || !index.Ready {
		t.Errorf("got %+v, %v", index, err)
	}
	for _, decode := range []func([]byte) error{a.DecodeProto, a.DecodeRepository, index.DecodeProto} {
		if err := decode([]byte{0xff}); !fault.Is(err, fault.Invalid) {
			t.Errorf("got %v", err)
		}
	}
	if err := a.DecodeProto(chunk(1, []byte{0xff})); !fault.Is(err, fault.Invalid) {
		t.Errorf("got %v", err)
	}
}

// FuzzDecodeProto feeds any bytes: DecodeProto must not panic, must not take
// memory out of proportion, must refuse with a fault of kind Invalid; and what it
// accepts the protobuf library reads in the same way, and comes back the same
// after being written and read again, in both forms.
func FuzzDecodeProto(f *testing.F) {
	response := Response{ModelName: "m", ModelVersion: "1", ID: "7", Outputs: everyType()}
	for _, raw := range []bool{true, false} {
		message := asProtoRequest(f, response.AppendProto(nil, raw))
		f.Add(message)
		f.Add(message[:len(message)-3])
	}
	f.Add(official(f, "ModelInferRequest", `{"parameters":{"a":{"double_param":1},"b":{"uint64_param":"1"}},"inputs":[{"name":"x","datatype":"INT8","shape":[2],"contents":{"int_contents":[-1,1]},"parameters":{"p":{"bool_param":true}}}],"outputs":[{"name":"y"}]}`))
	f.Add(protoInput("x", "FP32", nil, varint(3, 2), chunk(5, append(protowire.AppendTag(nil, 6, protowire.Fixed32Type), 0, 0, 128, 63), chunk(6, []byte{0, 0, 0, 64}))))
	request := declared(f, "ModelInferRequest")
	f.Fuzz(func(t *testing.T, message []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		var r Request
		err := r.DecodeProto(message)
		runtime.ReadMemStats(&after)
		if got, most := after.TotalAlloc-before.TotalAlloc, uint64(100*len(message)+256<<10); got > most {
			t.Errorf("%d bytes of memory for a message of %d", got, len(message))
		}
		if err != nil {
			if fault.KindOf(err) != fault.Invalid || !utf8.ValidString(fault.Message(err)) || len(fault.Message(err)) > 2000 {
				t.Errorf("got %v: %q", fault.KindOf(err), err)
			}
			return
		}
		std := dynamicpb.NewMessage(request)
		if err := proto.Unmarshal(message, std); err != nil {
			t.Fatalf("accepted what is no ModelInferRequest: %v", err)
		}
		agree(t, &r, std)

		for _, raw := range []bool{true, false} {
			response := Response{ModelName: r.Model, ModelVersion: r.Version, ID: r.ID, Outputs: r.Inputs}
			var second Request
			if err := second.DecodeProto(asProtoRequest(t, response.AppendProto(nil, raw))); err != nil {
				t.Fatalf("again: %v", err)
			}
			if second.Model != r.Model || second.Version != r.Version || second.ID != r.ID || len(second.Inputs) != len(r.Inputs) {
				t.Fatalf("got %+v, want %+v", second, r)
			}
			for i := range r.Inputs {
				if !equal(second.Inputs[i], r.Inputs[i]) {
					t.Errorf("got %v, want %v", second.Inputs[i], r.Inputs[i])
				}
			}
		}
	})
}

// agree compares what was read with what the protobuf library read.
func agree(t *testing.T, r *Request, std protoreflect.Message) {
	t.Helper()
	get := func(m protoreflect.Message, name string) protoreflect.Value {
		return m.Get(m.Descriptor().Fields().ByName(protoreflect.Name(name)))
	}
	if got, want := []string{r.Model, r.Version, r.ID}, []string{get(std, "model_name").String(), get(std, "model_version").String(), get(std, "id").String()}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	settings := func(got Parameters, m protoreflect.Message) {
		want := Parameters{}
		get(m, "parameters").Map().Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
			choice := value.Message()
			if set := choice.WhichOneof(choice.Descriptor().Oneofs().Get(0)); set != nil {
				want[key.String()] = choice.Get(set).Interface()
			}
			return true
		})
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got parameters %v, want %v", got, want)
		}
	}
	settings(r.Parameters, std)
	outputs := get(std, "outputs").List()
	if outputs.Len() != len(r.Outputs) {
		t.Fatalf("got %d outputs, want %d", len(r.Outputs), outputs.Len())
	}
	for i, o := range r.Outputs {
		if want := get(outputs.Get(i).Message(), "name").String(); o.Name != want {
			t.Errorf("got output %q, want %q", o.Name, want)
		}
		settings(o.Parameters, outputs.Get(i).Message())
	}
	inputs, raw := get(std, "inputs").List(), get(std, "raw_input_contents").List()
	if inputs.Len() != len(r.Inputs) || r.Raw != (raw.Len() > 0) {
		t.Fatalf("got %d inputs, raw %v, want %d and %d raw", len(r.Inputs), r.Raw, inputs.Len(), raw.Len())
	}
	for i := range r.Inputs {
		got, want := &r.Inputs[i], inputs.Get(i).Message()
		var shape []int64
		for j, dims := 0, get(want, "shape").List(); j < dims.Len(); j++ {
			shape = append(shape, dims.Get(j).Int())
		}
		if got.Name != get(want, "name").String() || got.Type.String() != get(want, "datatype").String() || !slices.Equal(got.Shape, shape) {
			t.Errorf("got %v, want %v", got, want)
		}
		if !tensor.Aligned(got.Data, got.Type) {
			t.Errorf("input %q is not aligned", got.Name)
		}
		if r.Raw {
			if b := appendBinary(nil, got); !bytes.Equal(b, raw.Get(i).Bytes()) {
				t.Errorf("got %x, want %x", b, raw.Get(i).Bytes())
			}
			continue
		}
		elements := get(get(want, "contents").Message(), typed[got.Type].name).List()
		var b []byte // as the library has the elements
		var texts []string
		for j := range elements.Len() {
			switch v := elements.Get(j).Interface().(type) {
			case bool:
				b = append(b, byte(protowire.EncodeBool(v)))
			case int32:
				b = append(b, tensor.Raw([]int32{v})[:got.Type.Size()]...)
			case uint32:
				b = append(b, tensor.Raw([]uint32{v})[:got.Type.Size()]...)
			case []byte:
				texts = append(texts, string(v))
			default:
				b, _ = binary.Append(b, binary.LittleEndian, v)
			}
		}
		if !bytes.Equal(b, got.Data) || !slices.Equal(texts, got.Strings) {
			t.Errorf("input %q: got %x %q, want %x %q", got.Name, got.Data, got.Strings, b, texts)
		}
	}
}
