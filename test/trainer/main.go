// Command trainer is a trainer for tests on a cluster, in an image that has nothing else: it says what it sees, and makes a model
// that answers by the sum of what is a number.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/pilotlight-ml/pilotlight/internal/onnxwire"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

func main() {
	if err := train(os.Getenv("DATASET"), os.Getenv("OUTPUT")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func train(dataset, output string) error {
	b, err := os.ReadFile(filepath.Join(dataset, "dataset.json"))
	if err != nil {
		return err
	}
	var said struct {
		Inputs  []tensor.Spec `json:"inputs"`
		Quality struct {
			Output string `json:"output"`
		} `json:"quality"`
	}
	if err := json.Unmarshal(b, &said); err != nil {
		return err
	}
	rows, err := os.Stat(filepath.Join(dataset, "train.parquet"))
	if err != nil {
		return err
	}
	var g onnxwire.Graph
	var numbers []string
	for _, in := range said.Inputs {
		g.Inputs = append(g.Inputs, onnxwire.Tensor(in.Name, in.Type, in.Shape...))
		if in.Type != tensor.Bytes {
			number := in.Name + "_number"
			g.Nodes = append(g.Nodes, onnxwire.Node{Op: "Cast", In: []string{in.Name}, Out: []string{number}, Attributes: []onnxwire.Attribute{{Name: "to", Value: int64(onnxwire.ElemOf(tensor.FP32))}}})
			numbers = append(numbers, number)
		}
	}
	g.Nodes = append(g.Nodes, onnxwire.Node{Op: "Sum", In: numbers, Out: []string{"sum"}}, onnxwire.Node{Op: "Sigmoid", In: []string{"sum"}, Out: []string{said.Quality.Output}})
	g.Outputs = []onnxwire.Value{onnxwire.Tensor(said.Quality.Output, tensor.FP32, -1, 1)}
	var names []string
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		names = append(names, name)
	}
	fmt.Printf("learns in an image of its own from %d bytes, and sees %s\n", rows.Size(), strings.Join(names, " "))
	if err := os.WriteFile(filepath.Join(output, "metrics.json"), fmt.Appendf(nil, `{"inputs": %d}`, len(numbers)), 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(output, "model.onnx"), onnxwire.Model{Graph: g}.Bytes(), 0o600)
}
