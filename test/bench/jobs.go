package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pilotlight-ml/pilotlight/internal/onnxwire"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// job is one kind of request that every server gets, each in its formats.
type job struct {
	sample string // of samples
	model  string // its name on servers, which its paths have
	title  string
	rows   int // that a server may join into one run
	path   string
	input  tensor.Tensor
	want   []float64
}

func allJobs() []*job {
	return []*job{
		{sample: "trees", model: "trees", title: "tree ensemble, batch 1", rows: 1024},
		{sample: "trees32", model: "trees", title: "tree ensemble, batch 32", rows: 1024},
		{sample: "vision", model: "vision", title: "MobileNet-like, 1×3×224×224", rows: 8},
		{sample: "encoder", model: "encoder", title: "MiniLM-like, 32 tokens", rows: 32},
	}
}

// largeJob is for starts alone: a model of 151 MB.
func largeJob() *job {
	return &job{sample: "large", model: "large", title: "150 MB of weights", rows: 32}
}

// made is a sample of a model of one input X, of which the first dimension is
// free, and one output Y of type FP32.
func made(file string, model func() onnxwire.Model, input func() tensor.Tensor) func(_, dir string) (sample, error) {
	return func(_, dir string) (sample, error) {
		path, err := write(dir, file, model)
		in := input()
		body, header := binaryBody(in)
		return sample{name: file, path: path, body: body, header: header}, err
	}
}

func trees(rows int64) func(_, dir string) (sample, error) {
	return made("trees", func() onnxwire.Model { return forest{trees: 100, depth: 6}.of(treeFeatures, tensor.FP32) },
		func() tensor.Tensor { return numbers(10, rows, treeFeatures) })
}

const treeFeatures = 30

// numbers makes an input of numbers from 0 to most, with as many digits as
// people's numbers have.
func numbers(most float64, shape ...int64) tensor.Tensor {
	n, _ := tensor.Elements(shape)
	values := make([]float32, n)
	for i := range values {
		values[i] = float32(math.Round(float64(i*7919%10007)/10007*most*1e4) / 1e4)
	}
	return tensor.Of("X", shape, values)
}

// open makes the model's file and finds what the engine itself answers.
func (j *job) open(ctx context.Context, b *bench) error {
	s, err := samples[j.sample](b.root, b.dir)
	if err != nil {
		return err
	}
	j.path = s.path
	session, err := open(ctx, s.path)
	if err != nil {
		return err
	}
	defer session.Close()
	in, err := s.inputs(session.Signature())
	if err != nil {
		return err
	}
	j.input = in[0]
	out, err := session.Run(ctx, in)
	if err != nil {
		return err
	}
	j.want = widen(out[0].Data)
	for i, v := range j.want {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Errorf("%s gives %v at %d", j.sample, v, i)
		}
	}
	return nil
}

// format is how a protocol writes numbers.
type format struct {
	name    string
	request func(j *job) request
	// read gives the numbers of an answer, which holds n.
	read func(body []byte, n int) ([]float64, error)
}

func post(path, kind string, body []byte) request {
	return newRequest(http.MethodPost, path, map[string]string{"Content-Type": kind}, body)
}

var (
	v2JSON = format{"V2 JSON", func(j *job) request {
		body := fmt.Appendf(nil, `{"inputs":[{"name":"X","datatype":%q,"shape":%s,"data":`, j.input.Type, shapeText(j.input.Shape))
		n, _ := tensor.Elements(j.input.Shape)
		body = append(nested(body, j.input, []int64{n}), "}]}"...)
		return post("/v2/models/"+j.model+"/infer", "application/json", body)
	}, readJSON}

	v2Binary = format{"V2 binary", func(j *job) request {
		body, header := binaryBody(j.input)
		s := sample{name: j.model, body: body, header: header}
		return s.request()
	}, readTail}

	v2GRPC = format{"V2 gRPC", func(j *job) request { return request{wire: grpcMessage(j), grpc: true} }, readGRPC}

	v1JSON = jsonAt("V1 JSON", func(j *job) string { return "/v1/models/" + j.model + ":predict" })

	// Those that have no protocol get the shape of V1.
	ownJSON = jsonAt("JSON", func(j *job) string { return "/v1/models/" + j.model + ":predict" })

	mosecJSON = jsonAt("JSON", func(*job) string { return "/json" })

	mosecMsgpack = format{"msgpack", func(j *job) request {
		body := append([]byte{0x82, 0xa5}, "shape"...) // a map of two
		body = append(body, 0x90|byte(len(j.input.Shape)))
		for _, d := range j.input.Shape {
			body = append(body, 0xcd, byte(d>>8), byte(d))
		}
		body = append(append(body, 0xa4), "data"...)
		n := len(j.input.Data)
		body = append(body, 0xc6, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
		return post("/msgpack", "application/msgpack", append(body, j.input.Data...))
	}, readTail}
)

func jsonAt(name string, path func(*job) string) format {
	return format{name, func(j *job) request {
		body := nested([]byte(`{"instances":`), j.input, j.input.Shape)
		return post(path(j), "application/json", append(body, '}'))
	}, readJSON}
}

// requestIn gives the job's request; its answers are judged by their numbers.
func (j *job) requestIn(f format) request {
	r := f.request(j)
	r.same = func(body []byte) error {
		got, err := f.read(body, len(j.want))
		if err != nil {
			return fmt.Errorf("%w in %.300q", err, body)
		}
		if len(got) != len(j.want) {
			return fmt.Errorf("got %d numbers, want %d: %.300q", len(got), len(j.want), body)
		}
		for i, v := range got {
			// Batches and other builds of the runtime add up in another order.
			if !(math.Abs(v-j.want[i]) <= 1e-4*max(1, math.Abs(j.want[i]))) {
				return fmt.Errorf("number %d is %v, want %v", i, v, j.want[i])
			}
		}
		return nil
	}
	return r
}

// nested writes numbers as JSON arrays of the given shape.
func nested(b []byte, t tensor.Tensor, shape []int64) []byte {
	values := tensor.View[float32](t.Data)
	integers := tensor.View[int64](t.Data)
	i := 0
	var part func(shape []int64)
	part = func(shape []int64) {
		if len(shape) == 0 {
			if t.Type == tensor.Int64 {
				b = strconv.AppendInt(b, integers[i], 10)
			} else {
				b = strconv.AppendFloat(b, float64(values[i]), 'g', -1, 32)
			}
			i++
			return
		}
		b = append(b, '[')
		for k := range shape[0] {
			if k > 0 {
				b = append(b, ',')
			}
			part(shape[1:])
		}
		b = append(b, ']')
	}
	part(shape)
	return b
}

func shapeText(shape []int64) []byte {
	b, err := json.Marshal(shape)
	if err != nil {
		panic(err) // whole numbers have a text
	}
	return b
}

// binaryBody is a V2 request with a binary tensor, and the length of its JSON part.
func binaryBody(in tensor.Tensor) (body []byte, header int) {
	body = fmt.Appendf(nil, `{"parameters":{"binary_data_output":true},"inputs":[{"name":"X","datatype":%q,"shape":%s,"parameters":{"binary_data_size":%d}}]}`,
		in.Type, shapeText(in.Shape), len(in.Data))
	return append(body, in.Data...), len(body)
}

func grpcMessage(j *job) []byte {
	text := func(b []byte, field protowire.Number, v []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
	}
	var shape []byte
	for _, d := range j.input.Shape {
		shape = protowire.AppendVarint(shape, uint64(d))
	}
	input := text(text(text(nil, 1, []byte("X")), 2, []byte(j.input.Type.String())), 3, shape)
	return text(text(text(nil, 1, []byte(j.model)), 5, input), 7, j.input.Data)
}

// readGRPC reads the first output, which stands in the raw contents or in the
// typed ones.
func readGRPC(body []byte, _ int) ([]float64, error) {
	if raw, ok := field(body, 6); ok {
		return widen(raw), nil
	}
	output, _ := field(body, 5)
	contents, _ := field(output, 5)
	values, ok := field(contents, 6)
	if !ok {
		return nil, errors.New("no contents")
	}
	return widen(values), nil
}

// field finds the first field of that number, of those that have a length.
func field(message []byte, number protowire.Number) ([]byte, bool) {
	for len(message) > 0 {
		at, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return nil, false
		}
		size := protowire.ConsumeFieldValue(at, kind, message[n:])
		if size < 0 {
			return nil, false
		}
		if at == number && kind == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(message[n:])
			return value, true
		}
		message = message[n+size:]
	}
	return nil, false
}

// readTail reads an answer that ends with its numbers.
func readTail(body []byte, n int) ([]float64, error) {
	if len(body) < 4*n {
		return nil, errors.New("too short")
	}
	return widen(body[len(body)-4*n:]), nil
}

func widen(data []byte) []float64 {
	data = append([]byte(nil), data...) // as View needs its start aligned
	values := make([]float64, len(data)/4)
	for i, v := range tensor.View[float32](data) {
		values[i] = float64(v)
	}
	return values
}

func readJSON(body []byte, n int) ([]float64, error) {
	var a struct {
		Predictions any
		Outputs     []struct{ Data any }
	}
	if err := json.Unmarshal(body, &a); err != nil {
		return nil, err
	}
	values := make([]float64, 0, n)
	var walk func(any) error
	walk = func(v any) error {
		switch v := v.(type) {
		case float64:
			values = append(values, v)
		case []any:
			for _, e := range v {
				if err := walk(e); err != nil {
					return err
				}
			}
		default:
			return fmt.Errorf("%T among numbers", v)
		}
		return nil
	}
	if a.Predictions != nil {
		err := walk(a.Predictions)
		return values, err
	}
	if len(a.Outputs) == 0 {
		return nil, errors.New("no numbers")
	}
	err := walk(a.Outputs[0].Data)
	return values, err
}
