package oip

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/jsonwire"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// Request is an inference request. Its zero value is ready for Decode, and one
// that is used again takes little or no new memory. It must not be copied after
// its first Decode.
type Request struct {
	ID         string
	Parameters Parameters // without binary_data_output
	Inputs     []tensor.Tensor
	Outputs    []Output // what was asked for, in that order; empty: everything
	// BinaryOutput is how to send outputs that do not say so themselves: the
	// request's parameter binary_data_output.
	BinaryOutput bool

	// What DecodeProto finds beside: the model that is asked, which other forms of
	// the protocol name in the URL, and whether the tensors came as bytes.
	Model, Version string
	Raw            bool

	scan  jsonwire.Scanner
	names []string
	sizes []int64 // for each input: how many bytes it takes of the binary part, -1 when it is JSON
	said  []bool  // for each output: whether it says itself how to be sent

	contents [][]byte // of DecodeProto, for each input: its InferTensorContents
	raws     [][]byte // of DecodeProto: raw_input_contents

	words   arena[uint64]
	strings arena[string]
	dims    arena[int64]
}

// Output is one output that a request asks for.
type Output struct {
	Name       string
	Binary     bool       // to be sent as bytes, by its own parameter or else the request's
	Parameters Parameters // without binary_data; the caller refuses what it can't do, such as classification
}

// Decode reads a request's body into r, in place of what was there. header is
// the value of HeaderLength, or -1 where there is none: then the whole body is
// JSON. (For 0, the raw form, see RawInput.)
//
// Binary tensors share memory with body where they happen to be aligned to
// their elements, and are copied where they are not; a caller that reads the
// body so that body[header:] starts at a multiple of eight spares that copy.
// All else lies in memory of r. So inputs are valid, and body must stay as it
// is, until the next Decode; strings alone may be kept for longer. After an
// error r holds nothing of use.
func (r *Request) Decode(body []byte, header int) error {
	if header < -1 || header > len(body) {
		return invalid("%s is %d, which does not fit a body of %d bytes", HeaderLength, header, len(body))
	}
	r.reset()
	r.scan.Text, r.scan.Pos = body, 0
	var raw []byte
	if header >= 0 {
		r.scan.Text, raw = body[:header], body[header:]
	}
	err := r.request()
	r.scan.Text = nil
	if err != nil {
		return err
	}
	for i := range r.Outputs {
		r.Outputs[i].Binary = r.Outputs[i].Binary || r.BinaryOutput && !r.said[i]
	}
	if err := r.checkNames(); err != nil {
		return err
	}
	return r.takeBinary(raw, header >= 0)
}

// checkNames refuses names that stand twice in a list.
func (r *Request) checkNames() error {
	r.names = r.names[:0]
	for i := range r.Inputs {
		r.names = append(r.names, r.Inputs[i].Name)
	}
	if name, ok := repeated(r.names); ok {
		return invalid("input %s is given twice", quote(name))
	}
	r.names = r.names[:0]
	for i := range r.Outputs {
		r.names = append(r.names, r.Outputs[i].Name)
	}
	if name, ok := repeated(r.names); ok {
		return invalid("output %s is asked for twice", quote(name))
	}
	return nil
}

func (r *Request) reset() {
	r.Model, r.Version, r.ID, r.Parameters, r.BinaryOutput, r.Raw = "", "", "", nil, false, false
	r.Inputs, r.Outputs = r.Inputs[:0], r.Outputs[:0]
	r.sizes, r.said = r.sizes[:0], r.said[:0]
	r.words.reset()
	r.strings.reset()
	r.dims.reset()
}

// The members that are known; a constant is the position of its name. Any other
// member is checked to be JSON and passed over.
var (
	requestMembers = []string{"id", "inputs", "outputs", "parameters"}
	inputMembers   = []string{"name", "shape", "datatype", "data", "parameters"}
	outputMembers  = []string{"name", "parameters"}
)

const (
	requestID = iota
	requestInputs
	requestOutputs
)

const (
	inputName = iota
	inputShape
	inputDatatype
	inputData
	inputParameters
)

const outputName = 0

func (r *Request) request() error {
	s := &r.scan
	if !s.Take('{') {
		return invalid("the body must be a JSON object")
	}
	_, err := s.Object(requestMembers, requestLabel, func(m int, _ jsonwire.Members) error {
		switch m {
		case requestID:
			return r.readID()
		case requestInputs:
			return r.inputs()
		case requestOutputs:
			return r.outputs()
		default:
			return r.requestParameters()
		}
	})
	if err != nil {
		return err
	}
	if s.Peek(); s.Pos < len(s.Text) {
		return s.Expected("the end of the request")
	}
	if len(r.Inputs) == 0 {
		return invalid("inputs is missing or empty, at least one input is required")
	}
	return nil
}

func requestLabel() string { return "request" }

func (r *Request) readID() error {
	s := &r.scan
	if s.Word("null") {
		return nil
	}
	if s.Peek() != '"' {
		return invalid("id must be a string")
	}
	id, err := s.Quoted()
	r.ID = s.Keep(id)
	return err
}

func (r *Request) requestParameters() error {
	return r.readParameters(requestLabel, &r.Parameters, func(key []byte) (bool, error) {
		if string(key) != "binary_data_output" {
			return false, nil
		}
		var ok bool
		if r.BinaryOutput, ok = r.flag(); !ok {
			return true, invalid("request: binary_data_output must be true or false")
		}
		return true, nil
	})
}

func (r *Request) inputs() error {
	s := &r.scan
	if !s.Take('[') {
		return invalid("inputs must be an array of objects")
	}
	for i := 0; ; i++ {
		more, err := s.Element(i)
		if err != nil || !more {
			return err
		}
		if !s.Take('{') {
			return invalid("inputs[%d] must be an object", i)
		}
		r.sizes = append(r.sizes, -1)
		if err := r.input(r.addInput()); err != nil {
			return err
		}
	}
}

// addInput makes room for one more input. It has the name of the one that stood
// there last time, for the reader to compare: it is most often the same.
func (r *Request) addInput() *tensor.Tensor {
	i := len(r.Inputs)
	if i < cap(r.Inputs) {
		r.Inputs = r.Inputs[:i+1]
		r.Inputs[i] = tensor.Tensor{Name: r.Inputs[i].Name}
	} else {
		r.Inputs = append(r.Inputs, tensor.Tensor{})
	}
	return &r.Inputs[i]
}

func (r *Request) input(t *tensor.Tensor) error {
	s := &r.scan
	before := t.Name
	t.Name = ""
	early := -1 // where data lies that came before the shape or the datatype
	seen, err := s.Object(inputMembers, r.where, func(m int, seen jsonwire.Members) (err error) {
		switch m {
		case inputName:
			t.Name, err = r.readName("inputs", len(r.Inputs)-1, before)
		case inputShape:
			err = r.readShape(t)
		case inputDatatype:
			err = r.readType(t)
		case inputParameters:
			err = r.inputParameters()
		case inputData:
			if seen.Has(inputShape) && seen.Has(inputDatatype) {
				return r.readData(t)
			}
			s.Peek()
			early = s.Pos
			err = s.Skip()
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, m := range [...]int{inputName, inputDatatype, inputShape} {
		if !seen.Has(m) {
			return invalid("%s: %s is missing", r.where(), inputMembers[m])
		}
	}
	binary := r.sizes[len(r.sizes)-1] >= 0
	switch {
	case !seen.Has(inputData) && !binary:
		return invalid("%s: data is missing", r.where())
	case seen.Has(inputData) && binary:
		return invalid("%s: data and binary_data_size exclude each other", r.where())
	}
	if early >= 0 {
		after := s.Pos
		s.Pos = early
		if err := r.readData(t); err != nil {
			return err
		}
		s.Pos = after
	}
	return nil
}

// where names the input being read, for errors.
func (r *Request) where() string {
	i := len(r.Inputs) - 1
	if r.Inputs[i].Name == "" {
		return fmt.Sprintf("inputs[%d]", i)
	}
	return "input " + quote(r.Inputs[i].Name)
}

// quote puts a foreign name into an error.
func quote(name string) string { return strconv.Quote(tensor.Clip(name)) }

// readName reads the name of an input or output, the i-th of its list; before is
// what it was last time.
func (r *Request) readName(list string, i int, before string) (string, error) {
	s := &r.scan
	if s.Peek() == '"' {
		name, err := s.Quoted()
		if err != nil {
			return "", err
		}
		if string(name) == before && before != "" {
			return before, nil
		}
		if len(name) > 0 {
			return s.Keep(name), nil
		}
	}
	return "", invalid("%s[%d]: name must be a string that is not empty", list, i)
}

func (r *Request) readType(t *tensor.Tensor) error {
	s := &r.scan
	if s.Peek() != '"' {
		return invalid("%s: datatype must be a string such as FP32", r.where())
	}
	name, err := s.Quoted()
	if err != nil {
		return err
	}
	if t.Type, err = tensor.ParseType(string(name)); err != nil {
		return invalid("%s: %s", r.where(), fault.Message(err))
	}
	return nil
}

func (r *Request) readShape(t *tensor.Tensor) error {
	s := &r.scan
	if !s.Take('[') {
		return invalid("%s: shape must be an array of integers", r.where())
	}
	var dims [tensor.MaxRank]int64
	rank := 0
	for ; ; rank++ {
		more, err := s.Element(rank)
		if err != nil {
			return err
		}
		if !more {
			break
		}
		if rank == len(dims) {
			return invalid("%s: shape has more than %d dimensions", r.where(), tensor.MaxRank)
		}
		if dims[rank], err = s.Count(); err != nil {
			return invalid("%s: shape[%d] must be an integer from 0 to 2^63-1", r.where(), rank)
		}
	}
	t.Shape = r.dims.take(rank)
	copy(t.Shape, dims[:])
	return nil
}

// flag reads a boolean if one comes next.
func (r *Request) flag() (value, ok bool) {
	value = r.scan.Word("true")
	return value, value || r.scan.Word("false")
}

// sharedMemory are the settings of an input that lies elsewhere than in the request.
var sharedMemory = []string{"shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"}

// inputParameters reads what an input says about its bytes. Other settings have
// no meaning for a tensor: they are checked and forgotten.
func (r *Request) inputParameters() error {
	return r.readParameters(r.where, nil, func(key []byte) (bool, error) {
		switch string(key) {
		case "binary_data_size":
			size, err := r.scan.Count()
			if err != nil {
				return true, invalid("%s: binary_data_size must be an integer from 0 to 2^63-1", r.where())
			}
			r.sizes[len(r.sizes)-1] = size
			return true, nil
		}
		if slices.Contains(sharedMemory, string(key)) {
			return true, invalid("%s: %s is not supported, send the data with the request", r.where(), key)
		}
		return false, nil
	})
}

func (r *Request) outputs() error {
	s := &r.scan
	if s.Word("null") {
		return nil
	}
	if !s.Take('[') {
		return invalid("outputs must be an array of objects")
	}
	for i := 0; ; i++ {
		more, err := s.Element(i)
		if err != nil || !more {
			return err
		}
		if !s.Take('{') {
			return invalid("outputs[%d] must be an object", i)
		}
		before := ""
		if i < cap(r.Outputs) {
			before = r.Outputs[:i+1][i].Name
		}
		r.Outputs = append(r.Outputs, Output{})
		r.said = append(r.said, false)
		if err := r.output(i, before); err != nil {
			return err
		}
	}
}

func (r *Request) output(at int, before string) error {
	o := &r.Outputs[at]
	where := func() string {
		if o.Name == "" {
			return fmt.Sprintf("outputs[%d]", at)
		}
		return "output " + quote(o.Name)
	}
	seen, err := r.scan.Object(outputMembers, where, func(m int, _ jsonwire.Members) (err error) {
		if m == outputName {
			o.Name, err = r.readName("outputs", at, before)
			return err
		}
		return r.readParameters(where, &o.Parameters, func(key []byte) (bool, error) {
			if string(key) != "binary_data" {
				return false, nil
			}
			if o.Binary, r.said[at] = r.flag(); !r.said[at] {
				return true, invalid("%s: binary_data must be true or false", where())
			}
			return true, nil
		})
	})
	if err == nil && !seen.Has(outputName) {
		err = invalid("outputs[%d]: name is missing", at)
	}
	return err
}

// readParameters reads an object of settings. own is asked first whether it
// knows a key, of which there is one for each kind of object, and then reads its
// value; the others are put into rest, or forgotten when that is nil.
func (r *Request) readParameters(where func() string, rest *Parameters, own func(key []byte) (bool, error)) error {
	s := &r.scan
	if s.Word("null") {
		return nil
	}
	if !s.Take('{') {
		return invalid("%s: parameters must be an object", where())
	}
	owned := false
	for i := 0; ; i++ {
		key, err := s.Member(i)
		if err != nil || key == nil {
			return err
		}
		if known, err := own(key); err != nil {
			return err
		} else if known {
			if owned {
				return invalid("%s: parameter %s is given twice", where(), quote(string(key)))
			}
			owned = true
			continue
		}
		name := string(key)
		value, err := r.readParameter()
		if err != nil {
			return invalid("%s: parameter %s: %s", where(), quote(name), fault.Message(err))
		}
		if rest == nil || value == nil {
			continue
		}
		if *rest == nil {
			*rest = Parameters{}
		}
		if _, again := (*rest)[name]; again {
			return invalid("%s: parameter %s is given twice", where(), quote(name))
		}
		(*rest)[name] = value
	}
}

// readParameter reads one setting; null, which is as good as none, gives nil.
func (r *Request) readParameter() (any, error) {
	s := &r.scan
	switch c := s.Peek(); {
	case s.Word("null"):
		return nil, nil
	case s.Word("true"):
		return true, nil
	case s.Word("false"):
		return false, nil
	case c == '"':
		text, err := s.Quoted()
		return s.Keep(text), err
	case c == '{' || c == '[':
		return nil, invalid("it must be a string, a number or a boolean")
	}
	literal, integer, err := s.Number()
	if err != nil {
		return nil, err
	}
	text := string(literal)
	if !integer {
		f, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, invalid("%s does not fit 64 bits", tensor.Clip(text))
		}
		return f, nil
	}
	if i, err := strconv.ParseInt(text, 10, 64); err == nil {
		return i, nil
	}
	u, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return nil, invalid("%s does not fit 64 bits", tensor.Clip(text))
	}
	return u, nil
}

// repeated finds a name that stands twice in a list.
func repeated(names []string) (string, bool) {
	if len(names) > 64 {
		seen := make(map[string]struct{}, len(names))
		for i, name := range names {
			seen[name] = struct{}{}
			if len(seen) == i {
				return name, true
			}
		}
		return "", false
	}
	// Few names: a coarse hash, one bit of 64 each, spares most comparisons.
	var seen uint64
	for i, name := range names {
		bit := uint64(1) << ((len(name)*8 ^ int(name[len(name)-1])*5 ^ int(name[len(name)/2])) & 63)
		if seen&bit != 0 && slices.Contains(names[:i], name) {
			return name, true
		}
		seen |= bit
	}
	return "", false
}
