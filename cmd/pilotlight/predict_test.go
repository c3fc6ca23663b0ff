package main

import (
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/oip"
	"github.com/pilotlight-ml/pilotlight/internal/predict/predicttest"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

func TestPredict(t *testing.T) {
	c := cli{t, predicttest.Start(t, nil, nil)}
	c.s.Push(t, "m", same, model.Settings{})
	c.s.Push(t, "m", neg, model.Settings{})
	c.s.Push(t, "simple", onnxtest.Simple(-1).Bytes(), model.Settings{})
	mixed := onnxtest.Identity(
		tensor.Spec{Type: tensor.Bytes, Shape: []int64{-1, 1}}, tensor.Spec{Type: tensor.Bool, Shape: []int64{1}}, tensor.Spec{Type: tensor.FP64},
		tensor.Spec{Type: tensor.Int8, Shape: []int64{2, 2}}, tensor.Spec{Type: tensor.Uint64, Shape: []int64{-1, -1}})
	c.s.Push(t, "mixed", mixed.Bytes(), model.Settings{})
	c.s.Push(t, "half", onnxtest.Identity(tensor.Spec{Type: tensor.FP16, Shape: []int64{-1}}).Bytes(), model.Settings{})
	request := write(t, []byte(`{"inputs":[{"name":"X","shape":[3],"datatype":"FP32","data":[1,2,3]}]}`))

	head := "OUTPUT  DATATYPE  SHAPE  DATA\n"
	c.prints("m:1\n"+head+"Y  FP32  [2]  [1.5,-2]\n", "predict", "m", "X=1.5,-2")
	c.prints("m:1\n"+head+"Y  FP32  [2]  [1.5,-2]\n", "predict", "m", "X=[1.5, -2]")
	c.prints("m:1\n"+head+"Y  FP32  [0]  []\n", "predict", "m", "X=[]")
	c.prints("m:2\n"+head+"Y  FP32  [1]  [-7]\n", "predict", "m:2", "X=7")
	c.prints("m:1\n"+head+"Y  FP32  [1]  [7]\n", "predict", "m:champion", "X=7")
	c.prints("m:1\n"+head+"Y  FP32  [3]  [1,2,3]\n", "predict", "m", "--file", request)
	c.prints("m:2\n"+head+"Y  FP32  [3]  [-1,-2,-3]\n", "predict", "m:2", "-f", request)
	ones := strings.TrimSuffix(strings.Repeat("1,", 32), ",")
	c.prints("simple:1\n"+head+"OUTPUT0  INT32  [2,16]  ["+strings.ReplaceAll(ones, "1", "2")+"]\nOUTPUT1  INT32  [2,16]  ["+strings.ReplaceAll(ones, "1", "0")+"]\n",
		"predict", "simple", "INPUT1="+ones, "INPUT0="+ones)
	c.prints("mixed:1\n"+head+`OUTPUT0  BYTES  [2,1]  ["a b","ü=\""]`+"\nOUTPUT1  BOOL  [1]  [true]\nOUTPUT2  FP64  []  [0.25]\n"+
		"OUTPUT3  INT8  [2,2]  [1,-2,3,-4]\nOUTPUT4  UINT64  [1,3]  [1,2,18446744073709551615]\n",
		"predict", "mixed", `INPUT0=a b,ü="`, "INPUT1=true", "INPUT2=0.25", "INPUT3=1, -2, 3, -4", "INPUT4=1,2,18446744073709551615")

	// Of a long output only the beginning is shown, and no half of a character.
	many := strings.Repeat("1000,", 99) + "1000"
	c.prints("m:1\n"+head+"Y  FP32  [100]  ["+many[:199]+"… (-o json shows all)\n", "predict", "m", "X="+many)
	long := strings.Repeat("ü", 150)
	c.prints("mixed:1\n"+head+`OUTPUT0  BYTES  [1,1]  ["`+long[:198]+"… (-o json shows all)\nOUTPUT1  BOOL  [1]  [true]\nOUTPUT2  FP64  []  [1]\n"+
		"OUTPUT3  INT8  [2,2]  [1,2,3,4]\nOUTPUT4  UINT64  [1,1]  [1]\n",
		"predict", "mixed", `INPUT0=`+long, "INPUT1=true", "INPUT2=1", "INPUT3=[[1,2],[3,4]]", "INPUT4=1")
	long = "x" + long
	c.prints("mixed:1\n"+head+`OUTPUT0  BYTES  [1,1]  ["`+long[:197]+"… (-o json shows all)\nOUTPUT1  BOOL  [1]  [true]\nOUTPUT2  FP64  []  [1]\n"+
		"OUTPUT3  INT8  [2,2]  [1,2,3,4]\nOUTPUT4  UINT64  [1,1]  [1]\n",
		"predict", "mixed", `INPUT0=`+long, "INPUT1=true", "INPUT2=1", "INPUT3=1,2,3,4", "INPUT4=1")

	// From the terminal.
	out, err := run(t, `{"inputs":[{"name":"X","shape":[1],"datatype":"FP32","data":[9]}]}`, "predict", "m", "-f", "-", "--server", c.s.URL)
	if want := "m:1\nOUTPUT  DATATYPE  SHAPE  DATA\nY       FP32      [1]    [9]\n"; err != nil || out != want {
		t.Errorf("got %q %v, want %q", out, err, want)
	}

	for _, test := range []struct {
		want string
		args []string
	}{
		{`requires at least 1 arg(s), only received 0`, []string{"predict"}},
		{`no inputs; give them as INPUT=VALUE, or a request with --file`, []string{"predict", "m"}},
		{`give inputs or --file, not both`, []string{"predict", "m", "X=1", "-f", request}},
		{`open /nowhere/file: no such file or directory`, []string{"predict", "m", "-f", "/nowhere/file"}},
		{`model "none" does not exist`, []string{"predict", "none", "X=1"}},
		{`model "none" does not exist`, []string{"predict", "none", "-f", request}},
		{`model "m" has no version 3`, []string{"predict", "m:3", "X=1"}},
		{`model name "a/b": expected 1 to 100 letters, digits, '-', '_' and '.', the first of them a letter or digit`, []string{"predict", "a/b", "X=1"}},
		{`"X" is not of the form INPUT=VALUE`, []string{"predict", "m", "X"}},
		{`the model has no input "Z"; it takes X`, []string{"predict", "m", "Z=1"}},
		{`input "X" is given twice`, []string{"predict", "m", "X=1", "X=2"}},
		{`input "INPUT1" is missing; model "simple" expects "INPUT0", "INPUT1"`, []string{"predict", "simple", "INPUT0=" + ones}},
		{`input "INPUT0": 3 values do not fill the shape [-1,16]`, []string{"predict", "simple", "INPUT0=1,2,3"}},
		{`input "INPUT3": data is nested otherwise than shape [2,2]: there is a row of 3 elements in place of 2`, []string{"predict", "mixed", "INPUT3=[[1,2,3],[4]]"}},
		{`input "X": "one" is not a FP32`, []string{"predict", "m", "X=one"}},
		{`input "INPUT0": JSON can't carry FP16, send the tensor as binary data`, []string{"predict", "half", "INPUT0=1"}},
	} {
		c.fails(test.want, test.args...)
	}
}

func TestAssemble(t *testing.T) {
	spec := func(name string, d tensor.Type, shape ...int64) oip.TensorMetadata {
		return oip.TensorMetadata{Name: name, Type: d, Shape: shape}
	}
	specs := []oip.TensorMetadata{
		spec("vector", tensor.FP32, -1), spec("fixed", tensor.Int64, 3), spec("matrix", tensor.FP64, -1, 2), spec("columns", tensor.FP32, 2, -1),
		spec("scalar", tensor.Int32), spec("free", tensor.FP32, -1, -1, -1), spec("batch", tensor.FP32, -1, 2, -1), spec("none", tensor.FP32, 0),
		spec("text", tensor.Bytes, -1), spec("word", tensor.Bytes), spec("flag", tensor.Bool, 1), spec("a=b", tensor.Uint8, -1),
	}
	for _, test := range []struct{ arg, want string }{
		{"vector=1,2.5,-3e2", `{"name":"vector","shape":[3],"datatype":"FP32","data":[1,2.5,-3e2]}`},
		{"vector= 1 , 2 ", `{"name":"vector","shape":[2],"datatype":"FP32","data":[1,2]}`},
		{"vector=[1,2]", `{"name":"vector","shape":[2],"datatype":"FP32","data":[1,2]}`},
		{"vector=[]", `{"name":"vector","shape":[0],"datatype":"FP32","data":[]}`},
		{"fixed=1,2,3", `{"name":"fixed","shape":[3],"datatype":"INT64","data":[1,2,3]}`},
		{"matrix=1,2,3,4", `{"name":"matrix","shape":[2,2],"datatype":"FP64","data":[1,2,3,4]}`},
		{"matrix=[[1,2],[3,4],[5,6]]", `{"name":"matrix","shape":[3,2],"datatype":"FP64","data":[[1,2],[3,4],[5,6]]}`},
		{"batch=[[[1,2],[3,4]]]", `{"name":"batch","shape":[1,2,2],"datatype":"FP32","data":[[[1,2],[3,4]]]}`},
		{"matrix=[]", `{"name":"matrix","shape":[0,2],"datatype":"FP64","data":[]}`},
		{"columns=1,2,3,4,5,6", `{"name":"columns","shape":[2,3],"datatype":"FP32","data":[1,2,3,4,5,6]}`},
		{"scalar=7", `{"name":"scalar","shape":[],"datatype":"INT32","data":[7]}`},
		{"free=1,2", `{"name":"free","shape":[1,1,2],"datatype":"FP32","data":[1,2]}`},
		{"batch=1,2,3,4", `{"name":"batch","shape":[1,2,2],"datatype":"FP32","data":[1,2,3,4]}`},
		{"none=[]", `{"name":"none","shape":[0],"datatype":"FP32","data":[]}`},
		{"text=a,b c,", `{"name":"text","shape":[3],"datatype":"BYTES","data":["a","b c",""]}`},
		{"text=", `{"name":"text","shape":[1],"datatype":"BYTES","data":[""]}`},
		{`text=["a,b","c"]`, `{"name":"text","shape":[2],"datatype":"BYTES","data":["a,b","c"]}`},
		{"text=1,null", `{"name":"text","shape":[2],"datatype":"BYTES","data":["1","null"]}`},
		{"word=x=y", `{"name":"word","shape":[],"datatype":"BYTES","data":["x=y"]}`},
		{"flag=true", `{"name":"flag","shape":[1],"datatype":"BOOL","data":[true]}`},
	} {
		b, err := assemble(specs, []string{test.arg})
		if want := `{"inputs":[` + test.want + `]}`; err != nil || string(b) != want {
			t.Errorf("%s: got  %s %v\nwant %s", test.arg, b, err, want)
		}
		var r oip.Request
		if err := r.Decode(b, -1); err != nil {
			t.Errorf("%s: the server could not read it: %v", test.arg, err)
		}
	}
	for _, test := range []struct{ arg, want string }{
		{"vector", `"vector" is not of the form INPUT=VALUE`},
		{"=1", `the model has no input ""; it takes vector, fixed, matrix, columns, scalar, free, batch, none, text, word, flag, a=b`},
		{"a=b=1", `the model has no input "a"; it takes vector, fixed, matrix, columns, scalar, free, batch, none, text, word, flag, a=b`},
		{"vector=", `input "vector": "" is not a FP32`},
		{"vector=1,,2", `input "vector": "" is not a FP32`},
		{"vector=1,NaN", `input "vector": "NaN" is not a FP32`},
		{`vector="1"`, `input "vector": "\"1\"" is not a FP32`},
		{"vector={}", `input "vector": "{}" is not a FP32`},
		{"vector=1,[2]", `input "vector": "[2]" is not a FP32`},
		{"vector=[1,", `input "vector": "[1," is not a JSON array: unexpected end of JSON input`},
		{"fixed=1,2", `input "fixed": 2 values do not fill the shape [3]`},
		{"fixed=1,2,3,4", `input "fixed": 4 values do not fill the shape [3]`},
		{"matrix=1,2,3", `input "matrix": 3 values do not fill the shape [-1,2]`},
		{"scalar=1,2", `input "scalar": 2 values do not fill the shape []`},
		{"matrix=[[1,2],[3]]", `input "matrix": 3 values do not fill the shape [-1,2]`},
		{"none=1", `input "none": 1 values do not fill the shape [0]`},
	} {
		if b, err := assemble(specs, []string{test.arg}); err == nil || err.Error() != test.want {
			t.Errorf("%s: got %s %v, want %s", test.arg, b, err, test.want)
		}
	}
}
