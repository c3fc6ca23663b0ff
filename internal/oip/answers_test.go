package oip

import (
	"encoding/json"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

func TestAnswers(t *testing.T) {
	specs := []tensor.Spec{
		{Name: "x", Type: tensor.FP32, Shape: []int64{-1, 3}, Labels: []string{"a", "b", "c"}},
		{Name: "s", Type: tensor.Bytes, Shape: []int64{-1}},
		{Name: "n", Type: tensor.Int64},
	}
	config := func(maxBatch int64) ModelConfig {
		c := ModelConfig{Name: "m", Platform: "onnxruntime_onnx", Backend: "onnxruntime"}
		c.Configure(maxBatch, specs, specs[:1])
		return c
	}
	for _, c := range []struct {
		answer any
		want   string
	}{
		{Live{true}, `{"live":true}`},
		{Ready{false}, `{"ready":false}`},
		{ServerMetadata{"pilotlight", "1", []string{"binary_tensor_data"}}, `{"name":"pilotlight","version":"1","extensions":["binary_tensor_data"]}`},
		{
			ModelMetadata{"m", []string{"1", "2"}, "onnxruntime_onnx", Describe(specs), Describe(nil)},
			`{"name":"m","versions":["1","2"],"platform":"onnxruntime_onnx","inputs":[{"name":"x","datatype":"FP32","shape":[-1,3]},{"name":"s","datatype":"BYTES","shape":[-1]},{"name":"n","datatype":"INT64","shape":[]}],"outputs":[]}`,
		},
		{ModelReady{"m", true}, `{"name":"m","ready":true}`},
		{ModelList{[]string{"m"}}, `{"models":["m"]}`},
		{[]IndexEntry{{"m", "1", StateReady, ""}, {"n", "", StateUnavailable, "unloaded"}}, `[{"name":"m","version":"1","state":"READY","reason":""},{"name":"n","state":"UNAVAILABLE","reason":"unloaded"}]`},
		{config(0), `{"name":"m","platform":"onnxruntime_onnx","backend":"onnxruntime","max_batch_size":0,"input":[{"name":"x","data_type":"TYPE_FP32","dims":[-1,3]},{"name":"s","data_type":"TYPE_STRING","dims":[-1]},{"name":"n","data_type":"TYPE_INT64","dims":[]}],"output":[{"name":"x","data_type":"TYPE_FP32","dims":[-1,3]}]}`},
		{config(8), `{"name":"m","platform":"onnxruntime_onnx","backend":"onnxruntime","max_batch_size":8,"input":[{"name":"x","data_type":"TYPE_FP32","dims":[3]},{"name":"s","data_type":"TYPE_STRING","dims":[]},{"name":"n","data_type":"TYPE_INT64","dims":[]}],"output":[{"name":"x","data_type":"TYPE_FP32","dims":[3]}]}`},
		{
			Statistics{[]ModelStatistics{NewModelStatistics("m", "1")}},
			`{"model_stats":[{"name":"m","version":"1","last_inference":0,"inference_count":0,"execution_count":0,"inference_stats":{"success":{"count":0,"ns":0},"fail":{"count":0,"ns":0},"queue":{"count":0,"ns":0},"compute_input":{"count":0,"ns":0},"compute_infer":{"count":0,"ns":0},"compute_output":{"count":0,"ns":0},"cache_hit":{"count":0,"ns":0},"cache_miss":{"count":0,"ns":0}},"response_stats":{},"batch_stats":[],"memory_usage":[]}]}`,
		},
		{BatchStatistics{Size: 2, ComputeInfer: Duration{3, 4}}, `{"batch_size":2,"compute_input":{"count":0,"ns":0},"compute_infer":{"count":3,"ns":4},"compute_output":{"count":0,"ns":0}}`},
		{MemoryUsage{"CPU", 0, 5}, `{"type":"CPU","id":0,"byte_size":5}`},
	} {
		got, err := json.Marshal(c.answer)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != c.want {
			t.Errorf("%T:\n got %s\nwant %s", c.answer, got, c.want)
		}
	}
}
