package main

import (
	"fmt"
	"math/rand/v2"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/onnxwire"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// forest is a made-up model of full trees, as gradient boosting makes them: all
// of it is attributes of one operation, and no weights.
type forest struct {
	name         string
	trees, depth int
}

const features = 10 // of the trees whose memory is measured

func (f forest) sample(dir string) (sample, error) {
	path, err := write(dir, f.name, f.model)
	if err != nil {
		return sample{}, err
	}
	body := fmt.Appendf(nil, `{"inputs":[{"name":"X","shape":[1,%d],"datatype":"FP64","data":[0,1,2,3,4,5,6,7,8,9]}]}`, features)
	return sample{name: f.name, path: path, body: body, header: -1}, nil
}

func (f forest) model() onnxwire.Model {
	return f.of(features, tensor.FP64)
}

// of makes the model for so many features of type FP32 or FP64.
func (f forest) of(features int64, of tensor.Type) onnxwire.Model {
	var trees, ids, feature, yes, no, leafTrees, leafIDs, leafTargets []int64
	var modes []string
	var values, weights []float64
	random := rand.New(rand.NewPCG(1, 1))
	for t := range f.trees {
		inner := 1<<f.depth - 1
		for i := range 2*inner + 1 {
			trees, ids = append(trees, int64(t)), append(ids, int64(i))
			if i < inner {
				modes, feature = append(modes, "BRANCH_LEQ"), append(feature, random.Int64N(features))
				yes, no = append(yes, int64(2*i+1)), append(no, int64(2*i+2))
				values = append(values, 10*random.Float64())
				continue
			}
			modes, feature = append(modes, "LEAF"), append(feature, 0)
			yes, no, values = append(yes, 0), append(no, 0), append(values, 0)
			leafTrees, leafIDs, leafTargets = append(leafTrees, int64(t)), append(leafIDs, int64(i)), append(leafTargets, 0)
			weights = append(weights, random.Float64())
		}
	}
	// The runtime takes doubles as a tensor, singles as a list.
	numbers := func(name string, v []float64) onnxwire.Attribute {
		if of == tensor.FP64 {
			return onnxwire.Attribute{Name: name + "_as_tensor", Value: tensor.Of("", []int64{int64(len(v))}, v)}
		}
		singles := make([]float32, len(v))
		for i := range v {
			singles[i] = float32(v[i])
		}
		return onnxwire.Attribute{Name: name, Value: singles}
	}
	m := onnxtest.Apply("TreeEnsembleRegressor",
		[]onnxwire.Value{onnxwire.Tensor("X", of, -1, features)}, []onnxwire.Value{onnxwire.Tensor("Y", tensor.FP32, -1, 1)},
		onnxwire.Attribute{Name: "n_targets", Value: int64(1)},
		onnxwire.Attribute{Name: "nodes_treeids", Value: trees}, onnxwire.Attribute{Name: "nodes_nodeids", Value: ids},
		onnxwire.Attribute{Name: "nodes_featureids", Value: feature}, onnxwire.Attribute{Name: "nodes_modes", Value: modes},
		numbers("nodes_values", values),
		onnxwire.Attribute{Name: "nodes_truenodeids", Value: yes}, onnxwire.Attribute{Name: "nodes_falsenodeids", Value: no},
		onnxwire.Attribute{Name: "target_treeids", Value: leafTrees}, onnxwire.Attribute{Name: "target_nodeids", Value: leafIDs},
		onnxwire.Attribute{Name: "target_ids", Value: leafTargets}, numbers("target_weights", weights),
	)
	m.Nodes[0].Domain = "ai.onnx.ml"
	return m
}
