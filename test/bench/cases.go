package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/oip"
	"github.com/pilotlight-ml/pilotlight/internal/onnxwire"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// sample is a model and one request to it.
type sample struct {
	name   string
	path   string // of the model's file
	body   []byte
	header int // length of the body's JSON part, or -1: all of it
}

// samples names every model that is asked: flights in JSON as in its example,
// the others with binary tensors of one picture's size.
var samples = map[string]func(root, dir string) (sample, error){
	"flights": func(root, _ string) (sample, error) {
		dir := filepath.Join(root, "examples", "flights")
		body, err := os.ReadFile(filepath.Join(dir, "complete.json"))
		return sample{name: "flights", path: filepath.Join(dir, "flights.onnx"), body: body, header: -1}, err
	},
	"identity": func(_, dir string) (sample, error) {
		return picture("identity", dir, "INPUT0", func() onnxwire.Model {
			return onnxtest.Identity(tensor.Spec{Type: tensor.FP32, Shape: pictureShape})
		})
	},
	"convolution": func(_, dir string) (sample, error) { return picture("convolution", dir, "X", onnxtest.Convolution) },

	"trees":   trees(1),
	"trees32": trees(32),
	"vision":  made("vision", mobileNet, func() tensor.Tensor { return numbers(1, pictureShape...) }),
	"encoder": made("encoder", encoder, func() tensor.Tensor {
		ids := make([]int64, 32)
		for i := range ids {
			ids[i] = int64(i * 29 % 1000)
		}
		return tensor.Of("X", []int64{1, 32}, ids)
	}),
	"large": made("large150", func() onnxwire.Model { return onnxtest.Dense(9, 2048) }, func() tensor.Tensor { return numbers(1, 1, 2048) }),
}

var pictureShape = []int64{1, 3, 224, 224}

// picture makes a model's file, unless it is there, and a request with one picture.
func picture(name, dir, input string, model func() onnxwire.Model) (sample, error) {
	path, err := write(dir, name, model)
	if err != nil {
		return sample{}, err
	}
	values := make([]float32, 3*224*224)
	for i := range values {
		values[i] = float32(i%251) / 251
	}
	data := tensor.Raw(values)
	body := fmt.Appendf(nil, `{"parameters":{"binary_data_output":true},"inputs":[{"name":%q,"shape":[1,3,224,224],"datatype":"FP32","parameters":{"binary_data_size":%d}}]}`, input, len(data))
	header := len(body)
	return sample{name: name, path: path, body: append(body, data...), header: header}, nil
}

// write puts a made-up model into a file, unless it is there.
func write(dir, name string, model func() onnxwire.Model) (path string, err error) {
	path = filepath.Join(dir, name+".onnx")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	_, err = model().WriteTo(f)
	return path, errors.Join(err, f.Close())
}

// request is the HTTP request of the sample.
func (s *sample) request() request {
	header := map[string]string{"Content-Type": "application/json"}
	if s.header >= 0 {
		header["Content-Type"] = "application/octet-stream"
		header[oip.HeaderLength] = strconv.Itoa(s.header)
	}
	return newRequest("POST", "/v2/models/"+s.name+"/infer", header, s.body)
}

// inputs are the sample's tensors in the order of the signature, for an engine.
func (s *sample) inputs(sig engine.Signature) ([]tensor.Tensor, error) {
	var r oip.Request
	if err := r.Decode(slices.Clone(s.body), s.header); err != nil {
		return nil, err
	}
	var in []tensor.Tensor
	for _, spec := range sig.Inputs {
		for _, t := range r.Inputs {
			if t.Name == spec.Name {
				in = append(in, t)
			}
		}
	}
	if len(in) != len(sig.Inputs) {
		return nil, errors.New("the sample lacks an input of the model")
	}
	return in, nil
}

// push publishes the sample's model and takes its first answer for the one to
// be had from then on, once it is found to be what the engine itself gives.
func (b *bench) push(ctx context.Context, p *process, s *sample) (request, error) {
	if err := p.publish(ctx, s.name, s.path); err != nil {
		return request{}, err
	}
	r := s.request()
	body, err := p.answer(ctx, r)
	if err != nil {
		return request{}, err
	}
	r.want = slices.Clone(body)
	session, err := open(ctx, s.path)
	if err != nil {
		return request{}, err
	}
	defer session.Close()
	in, err := s.inputs(session.Signature())
	if err != nil {
		return request{}, err
	}
	out, err := session.Run(ctx, in)
	if err != nil {
		return request{}, err
	}
	if s.header >= 0 {
		if !bytes.HasSuffix(body, out[0].Data) {
			return request{}, fmt.Errorf("the answer of %s is not what the engine gives", s.name)
		}
		return r, nil
	}
	return r, sameNumbers(body, out)
}

// sameNumbers compares an answer in JSON with what the engine gave.
func sameNumbers(body []byte, want []tensor.Tensor) error {
	var got struct {
		Outputs []struct {
			Name string            `json:"name"`
			Data []json.RawMessage `json:"data"`
		} `json:"outputs"`
	}
	if err := json.Unmarshal(body, &got); err != nil {
		return err
	}
	if len(got.Outputs) != len(want) {
		return fmt.Errorf("got %d outputs, want %d", len(got.Outputs), len(want))
	}
	for i, w := range want {
		var numbers []float64
		switch w.Type {
		case tensor.FP32:
			for _, v := range tensor.View[float32](w.Data) {
				numbers = append(numbers, float64(v))
			}
		case tensor.Int64:
			for _, v := range tensor.View[int64](w.Data) {
				numbers = append(numbers, float64(v))
			}
		default:
			return fmt.Errorf("output %s is of type %s, which is not compared here", w.Name, w.Type)
		}
		if len(numbers) != len(got.Outputs[i].Data) {
			return fmt.Errorf("output %s: got %d numbers, want %d", w.Name, len(got.Outputs[i].Data), len(numbers))
		}
		for j, text := range got.Outputs[i].Data {
			v, err := strconv.ParseFloat(string(text), 64)
			if w.Type == tensor.FP32 {
				v = float64(float32(v))
			}
			if err != nil || v != numbers[j] {
				return fmt.Errorf("output %s[%d]: got %s, want %v", w.Name, j, text, numbers[j])
			}
		}
	}
	return nil
}
