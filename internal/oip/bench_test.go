package oip

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// smallBody is a tabular request as clients send it: a row of fifteen features,
// each an input of its own.
func smallBody() []byte {
	var b strings.Builder
	b.WriteString(`{"id":"4711","inputs":[`)
	for i := range 15 {
		if i > 0 {
			b.WriteString(",")
		}
		kind, value := "FP32", fmt.Sprint(float32(i)*1.37+0.01)
		switch i % 3 {
		case 1:
			kind, value = "INT64", fmt.Sprint(i*37)
		case 2:
			kind, value = "BYTES", fmt.Sprintf(`"group-%d"`, i)
		}
		fmt.Fprintf(&b, `{"name":"feature_%d","shape":[1,1],"datatype":"%s","data":[%s]}`, i, kind, value)
	}
	b.WriteString(`]}`)
	return []byte(b.String())
}

const imageSize = 3 * 224 * 224

func imageData() []float32 {
	random := rand.New(rand.NewPCG(1, 2))
	data := make([]float32, imageSize)
	for i := range data {
		data[i] = float32(random.NormFloat64())
	}
	return data
}

// imageBody is an image as JSON; marshal writes the elements.
func imageBody(b *testing.B, datatype string, data any) []byte {
	b.Helper()
	elements, err := json.Marshal(data)
	if err != nil {
		b.Fatal(err)
	}
	return fmt.Appendf(nil, `{"inputs":[{"name":"image","shape":[1,3,224,224],"datatype":%q,"data":%s}]}`, datatype, elements)
}

func binaryImageBody() (body []byte, header int) {
	data := tensor.Raw(imageData())
	body = fmt.Appendf(nil, `{"inputs":[{"name":"image","shape":[1,3,224,224],"datatype":"FP32","parameters":{"binary_data_size":%d}}]}`, len(data))
	return append(body, data...), len(body)
}

func BenchmarkDecode(b *testing.B) {
	image := imageData()
	wide, pixels, tokens := make([]float64, imageSize), make([]int, imageSize), make([]int, imageSize)
	random := rand.New(rand.NewPCG(3, 4))
	for i := range image {
		wide[i] = random.NormFloat64()
		pixels[i] = random.IntN(256)
		tokens[i] = random.IntN(50000)
	}
	binaryBody, header := binaryImageBody()
	for _, c := range []struct {
		name   string
		body   []byte
		header int
	}{
		{"small", smallBody(), -1},
		{"imageFP32", imageBody(b, "FP32", image), -1},
		{"imageFP32from17digits", imageBody(b, "FP32", wide), -1},
		{"imageFP64", imageBody(b, "FP64", wide), -1},
		{"imageUINT8", imageBody(b, "UINT8", pixels), -1},
		{"tokensINT64", imageBody(b, "INT64", tokens), -1},
		{"imageBinary", binaryBody, header},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(c.body)))
			var r Request
			for b.Loop() {
				if err := r.Decode(c.body, c.header); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(c.name+"Fresh", func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(c.body)))
			for b.Loop() {
				var r Request
				if err := r.Decode(c.body, c.header); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkDecodeStdlib is what BenchmarkDecode is to be compared with: the same
// bodies through encoding/json, as one would write it.
func BenchmarkDecodeStdlib(b *testing.B) {
	for _, c := range []struct {
		name string
		body []byte
	}{
		{"small", smallBody()},
		{"imageFP32", imageBody(b, "FP32", imageData())},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(c.body)))
			for b.Loop() {
				var r struct {
					ID     string `json:"id"`
					Inputs []struct {
						Name     string          `json:"name"`
						Shape    []int64         `json:"shape"`
						Datatype string          `json:"datatype"`
						Data     json.RawMessage `json:"data"`
					} `json:"inputs"`
				}
				if err := json.Unmarshal(c.body, &r); err != nil {
					b.Fatal(err)
				}
				for _, input := range r.Inputs {
					var err error
					switch input.Datatype {
					case "FP32":
						var v []float32
						err = json.Unmarshal(input.Data, &v)
					case "INT64":
						var v []int64
						err = json.Unmarshal(input.Data, &v)
					case "BYTES":
						var v []string
						err = json.Unmarshal(input.Data, &v)
					}
					if err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

func smallResponse() Response {
	return Response{ModelName: "churn", ModelVersion: "3", ID: "4711", Outputs: []tensor.Tensor{
		tensor.Of("score", []int64{1, 3}, []float32{0.12345678, 0.7, 0.17654322}),
		tensor.Of("class", []int64{1}, []int64{1}),
		tensor.OfStrings("label", []int64{1}, []string{"stays"}),
	}}
}

func BenchmarkAppend(b *testing.B) {
	image := Response{ModelName: "denoise", Outputs: []tensor.Tensor{tensor.Of("image", []int64{1, 3, 224, 224}, imageData())}}
	raw := image
	raw.Binary = []bool{true}
	for _, c := range []struct {
		name     string
		response Response
	}{
		{"small", smallResponse()}, {"imageFP32", image}, {"imageBinary", raw},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			var dst []byte
			for b.Loop() {
				var err error
				if dst, _, err = c.response.Append(dst[:0]); err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(int64(len(dst)))
		})
	}
}

// BenchmarkAppendStdlib writes the responses of BenchmarkAppend by encoding/json.
func BenchmarkAppendStdlib(b *testing.B) {
	type output struct {
		Name     string  `json:"name"`
		Datatype string  `json:"datatype"`
		Shape    []int64 `json:"shape"`
		Data     any     `json:"data"`
	}
	type response struct {
		ModelName    string   `json:"model_name"`
		ModelVersion string   `json:"model_version,omitempty"`
		ID           string   `json:"id,omitempty"`
		Outputs      []output `json:"outputs"`
	}
	for _, c := range []struct {
		name     string
		response response
	}{
		{"small", response{"churn", "3", "4711", []output{
			{"score", "FP32", []int64{1, 3}, []float32{0.12345678, 0.7, 0.17654322}},
			{"class", "INT64", []int64{1}, []int64{1}},
			{"label", "BYTES", []int64{1}, []string{"stays"}},
		}}},
		{"imageFP32", response{"denoise", "", "", []output{{"image", "FP32", []int64{1, 3, 224, 224}, imageData()}}}},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			var n int
			for b.Loop() {
				body, err := json.Marshal(c.response)
				if err != nil {
					b.Fatal(err)
				}
				n = len(body)
			}
			b.SetBytes(int64(n))
		})
	}
}

// protoRequest is a request of these tensors, as gRPC has it; at its end in
// memory as the server lays it.
func protoRequest(b *testing.B, raw bool, inputs ...tensor.Tensor) []byte {
	b.Helper()
	response := Response{ModelName: "model", Outputs: inputs}
	message := asProtoRequest(b, response.AppendProto(nil, raw))
	memory := tensor.Raw(make([]uint64, len(message)/8+1))
	at := len(memory) - len(message)
	copy(memory[at:], message)
	return memory[at:]
}

// smallInputs are those of smallBody.
func smallInputs() []tensor.Tensor {
	var inputs []tensor.Tensor
	for i := range 15 {
		name, shape := fmt.Sprint("feature_", i), []int64{1, 1}
		switch i % 3 {
		case 0:
			inputs = append(inputs, tensor.Of(name, shape, []float32{float32(i)*1.37 + 0.01}))
		case 1:
			inputs = append(inputs, tensor.Of(name, shape, []int64{int64(i * 37)}))
		case 2:
			inputs = append(inputs, tensor.OfStrings(name, shape, []string{fmt.Sprint("group-", i)}))
		}
	}
	return inputs
}

func BenchmarkDecodeProto(b *testing.B) {
	tokens := make([]int64, imageSize)
	random := rand.New(rand.NewPCG(3, 4))
	for i := range tokens {
		tokens[i] = random.Int64N(50000)
	}
	shape := []int64{1, 3, 224, 224}
	image := tensor.Of("image", shape, imageData())
	for _, c := range []struct {
		name    string
		message []byte
	}{
		{"small", protoRequest(b, false, smallInputs()...)},
		{"smallRaw", protoRequest(b, true, smallInputs()...)},
		{"imageFP32", protoRequest(b, false, image)},
		{"imageFP32Raw", protoRequest(b, true, image)},
		{"tokensINT64", protoRequest(b, false, tensor.Of("tokens", shape, tokens))},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(c.message)))
			var r Request
			for b.Loop() {
				if err := r.DecodeProto(c.message); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppendProto(b *testing.B) {
	image := Response{ModelName: "denoise", Outputs: []tensor.Tensor{tensor.Of("image", []int64{1, 3, 224, 224}, imageData())}}
	for _, c := range []struct {
		name     string
		response Response
		raw      bool
	}{
		{"small", smallResponse(), false}, {"smallRaw", smallResponse(), true}, {"imageFP32", image, false}, {"imageFP32Raw", image, true},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			var dst []byte
			for b.Loop() {
				dst = c.response.AppendProto(dst[:0], c.raw)
			}
			b.SetBytes(int64(len(dst)))
		})
	}
}
