package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/oip"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

func predictCommand(c *client) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "predict MODEL[:VERSION|:ALIAS] [INPUT=VALUE,...]...",
		Short: "Ask a model for a prediction",
		Long: `Ask a model for a prediction.

Inputs are given by name, several values separated by commas or as a JSON array;
or --file names a complete V2 inference request ("-" reads it from the terminal).`,
		Example: `  pilotlight predict iris sepal_length=5.1 sepal_width=3.5 petal_length=1.4 petal_width=0.2
  pilotlight predict flights:2 --file request.json`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := model.ParseRef(args[0])
			if err != nil {
				return err
			}
			path := "/v2/models/" + url.PathEscape(ref.Name)
			if ref.Version != "" {
				path += "/versions/" + url.PathEscape(ref.Version)
			}
			body, err := requestBody(cmd, c, path, file, args[1:])
			if err != nil {
				return err
			}
			b, err := c.call(cmd.Context(), "POST", path+"/infer", "application/json", bytes.NewReader(body), int64(len(body)))
			if err != nil {
				return err
			}
			return c.showAnswer(b)
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "`file` that holds the whole request")
	return cmd
}

func requestBody(cmd *cobra.Command, c *client, path, file string, inputs []string) ([]byte, error) {
	switch {
	case file != "" && len(inputs) > 0:
		return nil, fmt.Errorf("give inputs or --file, not both")
	case file == "-":
		return io.ReadAll(cmd.InOrStdin())
	case file != "":
		return os.ReadFile(file)
	case len(inputs) == 0:
		return nil, fmt.Errorf("no inputs; give them as INPUT=VALUE, or a request with --file")
	}
	b, err := c.call(cmd.Context(), "GET", path, "", nil, 0)
	if err != nil {
		return nil, err
	}
	var meta oip.ModelMetadata
	if err := json.Unmarshal(b, &meta); err != nil {
		return nil, fmt.Errorf("read the model's metadata: %w", err)
	}
	return assemble(meta.Inputs, inputs)
}

// inputTensor is one input of a request as JSON.
type inputTensor struct {
	Name  string            `json:"name"`
	Shape []int64           `json:"shape"`
	Type  tensor.Type       `json:"datatype"`
	Data  []json.RawMessage `json:"data"`
}

// assemble makes a request of INPUT=VALUE arguments by the model's signature.
func assemble(specs []oip.TensorMetadata, args []string) ([]byte, error) {
	var request struct {
		Inputs []inputTensor `json:"inputs"`
	}
	for _, arg := range args {
		name, text, ok := strings.Cut(arg, "=")
		if !ok {
			return nil, fmt.Errorf("%q is not of the form INPUT=VALUE", arg)
		}
		spec, ok := find(specs, name)
		if !ok {
			names := make([]string, len(specs))
			for i, s := range specs {
				names[i] = s.Name
			}
			return nil, fmt.Errorf("the model has no input %q; it takes %s", name, strings.Join(names, ", "))
		}
		data, err := values(spec, text)
		if err != nil {
			return nil, err
		}
		shape, err := fit(spec, count(data))
		if err != nil {
			return nil, err
		}
		request.Inputs = append(request.Inputs, inputTensor{name, shape, spec.Type, data})
	}
	return json.Marshal(request)
}

func find(specs []oip.TensorMetadata, name string) (oip.TensorMetadata, bool) {
	for _, s := range specs {
		if s.Name == name {
			return s, true
		}
	}
	return oip.TensorMetadata{}, false
}

// values reads "1,2,3" or a JSON array.
func values(spec oip.TensorMetadata, text string) ([]json.RawMessage, error) {
	if strings.HasPrefix(text, "[") {
		var data []json.RawMessage
		if err := json.Unmarshal([]byte(text), &data); err != nil {
			return nil, fmt.Errorf("input %q: %q is not a JSON array: %w", spec.Name, text, err)
		}
		return data, nil
	}
	var data []json.RawMessage
	for word := range strings.SplitSeq(text, ",") {
		if spec.Type == tensor.Bytes {
			b, err := json.Marshal(word)
			if err != nil {
				return nil, err
			}
			data = append(data, b)
			continue
		}
		word = strings.TrimSpace(word)
		if !json.Valid([]byte(word)) || strings.ContainsAny(word, `"{[`) {
			return nil, fmt.Errorf("input %q: %q is not a %s", spec.Name, word, spec.Type)
		}
		data = append(data, json.RawMessage(word))
	}
	return data, nil
}

// count counts the values of an array, at any depth; whether they are nested to
// the shape is for the server to say.
func count(data []json.RawMessage) (n int64) {
	for _, v := range data {
		var inner []json.RawMessage
		if v[0] == '[' && json.Unmarshal(v, &inner) == nil {
			n += count(inner)
		} else {
			n++
		}
	}
	return n
}

// fit gives the shape of n values: the one free dimension takes what the fixed
// ones leave.
func fit(spec oip.TensorMetadata, n int64) ([]int64, error) {
	shape, free, fixed := append([]int64{}, spec.Shape...), -1, int64(1)
	for i, d := range spec.Shape {
		switch {
		case d >= 0:
			fixed *= d
		case free >= 0:
			// Of several free dimensions the first counts the rows; one row is meant.
			shape[free] = 1
			free = i
		default:
			free = i
		}
	}
	if free >= 0 && fixed > 0 {
		shape[free] = n / fixed
		fixed *= shape[free]
	}
	if fixed != n {
		return nil, fmt.Errorf("input %q: %d values do not fill the shape %s", spec.Name, n, tensor.FormatShape(spec.Shape))
	}
	return shape, nil
}

// shownMost is how much of an output a table shows.
const shownMost = 200

func (c *client) showAnswer(b []byte) error {
	var answer struct {
		Model   string `json:"model_name"`
		Version string `json:"model_version"`
		Outputs []struct {
			Name  string          `json:"name"`
			Shape []int64         `json:"shape"`
			Type  tensor.Type     `json:"datatype"`
			Data  json.RawMessage `json:"data"`
		} `json:"outputs"`
	}
	if printed, err := c.show(b, &answer); printed || err != nil {
		return err
	}
	fmt.Fprintf(c.out, "%s:%s\n", answer.Model, answer.Version)
	rows := [][]string{{"OUTPUT", "DATATYPE", "SHAPE", "DATA"}}
	for _, o := range answer.Outputs {
		data := string(o.Data)
		if len(data) > shownMost {
			data = strings.ToValidUTF8(data[:shownMost], "") + "… (-o json shows all)"
		}
		rows = append(rows, []string{o.Name, o.Type.String(), tensor.FormatShape(o.Shape), data})
	}
	return c.table(rows)
}
