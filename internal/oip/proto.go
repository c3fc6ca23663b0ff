package oip

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// The messages of gRPC are read and written by hand, field by field: tensors go
// straight between the wire and their memory, which generated messages would
// copy into lists and maps on the way. inference.proto declares them.

// field is one field of a message: its number, and its value as its kind has it.
type field struct {
	number protowire.Number
	kind   protowire.Type
	word   uint64 // of a number
	bytes  []byte // of text, bytes, a message or packed numbers
}

func (f *field) is(number protowire.Number, kind protowire.Type) bool {
	return f.number == number && f.kind == kind
}

// nextField reads the field that a message starts with and gives the rest of it.
// Callers pass over what they don't know, as readers of protobuf must.
func nextField(b []byte) (f field, rest []byte, err error) {
	number, kind, n := protowire.ConsumeTag(b)
	if n < 0 || number > protowire.MaxValidNumber {
		return f, nil, errBroken
	}
	b = b[n:]
	f.number, f.kind = number, kind
	switch kind {
	case protowire.VarintType:
		f.word, n = protowire.ConsumeVarint(b)
	case protowire.BytesType:
		f.bytes, n = protowire.ConsumeBytes(b)
	case protowire.Fixed32Type:
		var word uint32
		word, n = protowire.ConsumeFixed32(b)
		f.word = uint64(word)
	case protowire.Fixed64Type:
		f.word, n = protowire.ConsumeFixed64(b)
	default:
		n = protowire.ConsumeFieldValue(number, kind, b)
	}
	if n < 0 {
		return f, nil, errBroken
	}
	return f, b[n:], nil
}

var errBroken = invalid("the message is not valid protobuf")

// The fields of ModelInferRequest and of the messages in it.
const (
	protoModelName    = 1
	protoModelVersion = 2
	protoID           = 3
	protoParameters   = 4
	protoInputs       = 5
	protoOutputs      = 6
	protoRawInputs    = 7

	protoTensorName       = 1
	protoTensorType       = 2
	protoTensorShape      = 3
	protoTensorParameters = 4
	protoTensorContents   = 5

	protoOutputName       = 1
	protoOutputParameters = 2
)

// DecodeProto reads a ModelInferRequest into r, in place of what was there, and
// Model and Version with it. Raw tells which of the two forms of tensors it has.
//
// Tensors that are fixed in size on the wire share memory with message where
// they happen to be aligned to their elements, and are copied where they are
// not. A message whose end lies at a multiple of eight spares the copy of the
// last raw tensor, as that ends there too. What Decode says of lifetimes holds
// here as well.
func (r *Request) DecodeProto(message []byte) error {
	model, version := r.Model, r.Version
	r.reset()
	r.contents, r.raws = r.contents[:0], r.raws[:0]
	if err := r.readProto(message, model, version); err != nil {
		return err
	}
	if err := r.checkNames(); err != nil {
		return err
	}
	r.Raw = len(r.raws) > 0
	if r.Raw && len(r.raws) != len(r.Inputs) {
		return invalid("raw_input_contents has %d entries for %d inputs, one each is required", len(r.raws), len(r.Inputs))
	}
	for i := range r.Inputs {
		t := &r.Inputs[i]
		var err error
		if !r.Raw {
			err = r.takeContents(t, r.contents[i])
		} else if len(r.contents[i]) > 0 {
			err = invalid("contents and raw_input_contents exclude each other")
		} else {
			err = r.takeBytes(t, r.raws[i], "the size of raw_input_contents")
		}
		if err != nil {
			return invalid("input %s: %s", quote(t.Name), fault.Message(err))
		}
	}
	return nil
}

// readProto reads the message but for the elements of its tensors; model and
// version are those of the last one.
func (r *Request) readProto(b []byte, model, version string) error {
	for len(b) > 0 {
		var f field
		var err error
		if f, b, err = nextField(b); err != nil {
			return err
		}
		if f.kind != protowire.BytesType {
			continue
		}
		switch f.number {
		case protoModelName:
			r.Model, err = r.text(f.bytes, model, "model_name")
		case protoModelVersion:
			r.Version, err = r.text(f.bytes, version, "model_version")
		case protoID:
			r.ID, err = r.text(f.bytes, "", "id")
		case protoParameters:
			err = r.protoParameter(f.bytes, requestLabel, &r.Parameters)
		case protoInputs:
			err = r.protoInput(f.bytes)
		case protoOutputs:
			err = r.protoOutput(f.bytes)
		case protoRawInputs:
			r.raws = append(r.raws, slices.Clip(f.bytes))
		}
		if err != nil {
			return err
		}
	}
	if len(r.Inputs) == 0 {
		return invalid("inputs is missing or empty, at least one input is required")
	}
	return nil
}

// text reads a string; before is what stood there in the last request, which is
// most often the same.
func (r *Request) text(b []byte, before, name string) (string, error) {
	switch {
	case string(b) == before:
		return before, nil
	case !utf8.Valid(b):
		return "", invalid("%s is not valid UTF-8", name)
	}
	return r.scan.Keep(b), nil
}

func (r *Request) protoInput(b []byte) error {
	t := r.addInput()
	before := t.Name
	t.Name = ""
	r.contents = append(r.contents, nil)
	var dims [tensor.MaxRank]int64
	rank := 0
	dim := func(word uint64) error {
		if rank == len(dims) {
			return invalid("%s: shape has more than %d dimensions", r.where(), tensor.MaxRank)
		}
		if dims[rank] = int64(word); dims[rank] < 0 {
			return invalid("%s: shape[%d] must be an integer from 0 to 2^63-1", r.where(), rank)
		}
		rank++
		return nil
	}
	for len(b) > 0 {
		var f field
		var err error
		if f, b, err = nextField(b); err != nil {
			return err
		}
		switch {
		case f.is(protoTensorName, protowire.BytesType):
			t.Name, err = r.text(f.bytes, before, "the name of an input")
		case f.is(protoTensorType, protowire.BytesType):
			if t.Type, err = tensor.ParseType(string(f.bytes)); err != nil {
				err = invalid("%s: %s", r.where(), fault.Message(err))
			}
		case f.is(protoTensorShape, protowire.VarintType):
			err = dim(f.word)
		case f.is(protoTensorShape, protowire.BytesType):
			for packed := f.bytes; len(packed) > 0 && err == nil; {
				word, n := protowire.ConsumeVarint(packed)
				if n < 0 {
					return errBroken
				}
				packed = packed[n:]
				err = dim(word)
			}
		case f.is(protoTensorParameters, protowire.BytesType):
			err = r.protoParameter(f.bytes, r.where, nil)
		case f.is(protoTensorContents, protowire.BytesType):
			if at := &r.contents[len(r.contents)-1]; *at == nil {
				*at = f.bytes
			} else {
				err = invalid("%s: contents is given twice", r.where())
			}
		}
		if err != nil {
			return err
		}
	}
	switch {
	case t.Name == "":
		return invalid("%s: name is missing", r.where())
	case t.Type == tensor.Invalid:
		return invalid("%s: datatype is missing", r.where())
	}
	t.Shape = r.dims.take(rank)
	copy(t.Shape, dims[:])
	return nil
}

func (r *Request) protoOutput(b []byte) error {
	i := len(r.Outputs)
	before := ""
	if i < cap(r.Outputs) {
		before = r.Outputs[:i+1][i].Name
	}
	r.Outputs = append(r.Outputs, Output{})
	o := &r.Outputs[i]
	where := func() string { return fmt.Sprintf("outputs[%d]", i) }
	for len(b) > 0 {
		var f field
		var err error
		if f, b, err = nextField(b); err != nil {
			return err
		}
		switch {
		case f.is(protoOutputName, protowire.BytesType):
			o.Name, err = r.text(f.bytes, before, "the name of an output")
		case f.is(protoOutputParameters, protowire.BytesType):
			err = r.protoParameter(f.bytes, where, &o.Parameters)
		}
		if err != nil {
			return err
		}
	}
	if o.Name == "" {
		return invalid("%s: name is missing", where())
	}
	return nil
}

// protoParameter reads one entry of a map of settings into rest; where that is
// nil they are an input's, which have no meaning for a tensor.
func (r *Request) protoParameter(b []byte, where func() string, rest *Parameters) error {
	name, value, err := readEntry(b)
	if err != nil {
		return err
	}
	if text, _ := value.(string); !utf8.ValidString(name) || !utf8.ValidString(text) {
		return invalid("%s: a parameter is not valid UTF-8", where())
	}
	if rest == nil {
		if slices.Contains(sharedMemory, name) {
			return invalid("%s: %s is not supported, send the data with the request", where(), name)
		}
		return nil
	}
	if _, again := (*rest)[name]; again {
		return invalid("%s: parameter %s is given twice", where(), quote(name))
	}
	if value == nil {
		return nil
	}
	if *rest == nil {
		*rest = Parameters{}
	}
	(*rest)[name] = value
	return nil
}

// readEntry reads an entry of a map to InferParameter; a value that says nothing is nil.
func readEntry(b []byte) (name string, value any, err error) {
	for len(b) > 0 {
		var f field
		if f, b, err = nextField(b); err != nil {
			return "", nil, err
		}
		if f.is(1, protowire.BytesType) {
			name = string(f.bytes)
		}
		if !f.is(2, protowire.BytesType) {
			continue
		}
		for v := f.bytes; len(v) > 0; {
			var f field
			if f, v, err = nextField(v); err != nil {
				return "", nil, err
			}
			switch {
			case f.is(1, protowire.VarintType):
				value = f.word != 0
			case f.is(2, protowire.VarintType):
				value = int64(f.word)
			case f.is(3, protowire.BytesType):
				value = string(f.bytes)
			case f.is(4, protowire.Fixed64Type):
				value = math.Float64frombits(f.word)
			case f.is(5, protowire.VarintType):
				value = f.word
			}
		}
	}
	return name, value, nil
}

// typed tells in which field of InferTensorContents the elements of a type lie.
var typed = [...]struct {
	number protowire.Number
	name   string
}{
	tensor.Bool: {1, "bool_contents"},
	tensor.Int8: {2, "int_contents"}, tensor.Int16: {2, "int_contents"}, tensor.Int32: {2, "int_contents"},
	tensor.Int64: {3, "int64_contents"},
	tensor.Uint8: {4, "uint_contents"}, tensor.Uint16: {4, "uint_contents"}, tensor.Uint32: {4, "uint_contents"},
	tensor.Uint64: {5, "uint64_contents"},
	tensor.FP32:   {6, "fp32_contents"}, tensor.FP64: {7, "fp64_contents"},
	tensor.FP16: {}, tensor.BF16: {}, // have none
	tensor.Bytes: {8, "bytes_contents"},
}

// takeContents gives t its elements of an InferTensorContents.
func (r *Request) takeContents(t *tensor.Tensor, contents []byte) error {
	own := typed[t.Type]
	if own.number == 0 {
		return invalid("contents can't carry %s, send the tensor as raw_input_contents", t.Type)
	}
	want, err := tensor.Elements(t.Shape)
	if err != nil {
		return err
	}
	// First the elements are counted, so that memory is taken only for what is there.
	var have int64
	for b := contents; len(b) > 0; {
		var f field
		if f, b, err = nextField(b); err != nil {
			return err
		}
		n, err := countElements(&f)
		switch {
		case err != nil:
			return err
		case f.number == own.number:
			have += n
		case n > 0 && f.number <= typed[tensor.Bytes].number:
			return invalid("the elements of %s must be in %s and nowhere else", t.Type, own.name)
		}
	}
	if have != want {
		return invalid("contents has %d elements, shape %s takes %d", have, tensor.FormatShape(t.Shape), want)
	}
	if only, rest, err := nextField(contents); err == nil && len(rest) == 0 && only.kind == protowire.BytesType &&
		(t.Type == tensor.FP32 || t.Type == tensor.FP64) && tensor.Aligned(only.bytes, t.Type) {
		t.Data = slices.Clip(only.bytes)
		return nil
	}
	r.makeRoom(t, int(want))
	i := 0
	for b := contents; len(b) > 0; {
		var f field
		f, b, _ = nextField(b) // read before without an error
		if n, _ := countElements(&f); n > 0 && f.number == own.number {
			if err := r.takeElements(t, i, &f); err != nil {
				return err
			}
			i += int(n)
		}
	}
	return nil
}

// elementOf tells how an element of a field of InferTensorContents lies on the
// wire; size is 0 where that varies.
func elementOf(number protowire.Number) (kind protowire.Type, size int) {
	switch number {
	case typed[tensor.FP32].number:
		return protowire.Fixed32Type, 4
	case typed[tensor.FP64].number:
		return protowire.Fixed64Type, 8
	case typed[tensor.Bytes].number:
		return protowire.BytesType, 0
	}
	return protowire.VarintType, 0
}

// countElements counts the elements of one field of InferTensorContents, which
// is one element or many of them packed.
func countElements(f *field) (int64, error) {
	kind, size := elementOf(f.number)
	switch {
	case f.kind == kind:
		return 1, nil
	case f.kind != protowire.BytesType:
		return 0, nil // no field of this message
	case size > 0:
		if len(f.bytes)%size != 0 {
			return 0, errBroken
		}
		return int64(len(f.bytes) / size), nil
	}
	n := int64(0)
	for _, c := range f.bytes {
		if c < 0x80 { // the last byte of a varint
			n++
		}
	}
	return n, nil
}

// takeElements puts the elements of one field into t, from element i on.
func (r *Request) takeElements(t *tensor.Tensor, i int, f *field) error {
	size := t.Type.Size()
	switch {
	case t.Type == tensor.Bytes:
		t.Strings[i] = r.scan.Keep(f.bytes)
	case f.kind == protowire.Fixed32Type:
		binary.LittleEndian.PutUint32(t.Data[size*i:], uint32(f.word))
	case f.kind == protowire.Fixed64Type:
		binary.LittleEndian.PutUint64(t.Data[size*i:], f.word)
	case f.kind == protowire.VarintType:
		return putWord(t, i, f.word)
	case t.Type == tensor.FP32 || t.Type == tensor.FP64:
		copy(t.Data[size*i:], f.bytes)
	default:
		for b := f.bytes; len(b) > 0; i++ {
			word, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return errBroken
			}
			b = b[n:]
			if err := putWord(t, i, word); err != nil {
				return err
			}
		}
	}
	return nil
}

// putWord makes a number element i of t. The types of less than 32 bits travel
// as 32, so theirs may not fit.
func putWord(t *tensor.Tensor, i int, word uint64) error {
	size := t.Type.Size()
	switch t.Type {
	case tensor.Bool:
		t.Data[i] = 0
		if word != 0 {
			t.Data[i] = 1
		}
		return nil
	case tensor.Int8, tensor.Int16:
		shift := 32 - 8*size
		if v := int32(word); v<<shift>>shift != v {
			return invalid("contents[%d] is %d, which does not fit %s", i, v, t.Type)
		}
	case tensor.Uint8, tensor.Uint16:
		if v := uint32(word); bits.Len32(v) > 8*size {
			return invalid("contents[%d] is %d, which does not fit %s", i, v, t.Type)
		}
	}
	var all [8]byte
	binary.LittleEndian.PutUint64(all[:], word)
	copy(t.Data[i*size:], all[:size])
	return nil
}

// The fields of ModelInferResponse that are other than the request's.
const (
	protoResponseOutputs = 5
	protoRawOutputs      = 6
)

// AppendProto adds the response as a ModelInferResponse to dst. Its tensors are
// raw_output_contents where raw is true or one of them has no other form, as
// FP16 and BF16 have not; else contents. dst is grown at most once.
func (r *Response) AppendProto(dst []byte, raw bool) []byte {
	for i := range r.Outputs {
		raw = raw || typed[r.Outputs[i].Type].number == 0
	}
	dst = slices.Grow(dst, r.protoRoom(raw))
	dst = appendText(dst, protoModelName, r.ModelName)
	dst = appendText(dst, protoModelVersion, r.ModelVersion)
	dst = appendText(dst, protoID, r.ID)
	for i := range r.Outputs {
		t := &r.Outputs[i]
		contents := 0
		if !raw {
			contents = contentsSize(t)
		}
		shape := 0
		for _, d := range t.Shape {
			shape += protowire.SizeVarint(uint64(d))
		}
		size := textSize(t.Name) + textSize(t.Type.String())
		if shape > 0 {
			size += 1 + protowire.SizeBytes(shape)
		}
		if contents > 0 {
			size += 1 + protowire.SizeBytes(contents)
		}
		dst = appendSized(dst, protoResponseOutputs, size)
		dst = appendText(dst, protoTensorName, t.Name)
		dst = appendText(dst, protoTensorType, t.Type.String())
		if shape > 0 {
			dst = appendSized(dst, protoTensorShape, shape)
			for _, d := range t.Shape {
				dst = protowire.AppendVarint(dst, uint64(d))
			}
		}
		if contents > 0 {
			dst = appendSized(dst, protoTensorContents, contents)
			dst = appendContents(dst, t)
		}
	}
	for i := range r.Outputs {
		if raw {
			t := &r.Outputs[i]
			dst = appendSized(dst, protoRawOutputs, binarySize(t))
			dst = appendBinary(dst, t)
		}
	}
	return dst
}

// protoRoom is how many bytes the response takes at most.
func (r *Response) protoRoom(raw bool) int {
	const punctuation, dimension = 64, 10
	n := punctuation + len(r.ModelName) + len(r.ModelVersion) + len(r.ID)
	for i := range r.Outputs {
		t := &r.Outputs[i]
		n += punctuation + len(t.Name) + dimension*len(t.Shape)
		if raw {
			n += binarySize(t)
		} else {
			n += contentsSize(t)
		}
	}
	return n
}

// packedSize is how many bytes the elements of a type that is packed take.
func packedSize(t *tensor.Tensor) int {
	switch t.Type {
	case tensor.Int8:
		return wordsSize(tensor.View[int8](t.Data))
	case tensor.Int16:
		return wordsSize(tensor.View[int16](t.Data))
	case tensor.Int32:
		return wordsSize(tensor.View[int32](t.Data))
	case tensor.Int64:
		return wordsSize(tensor.View[int64](t.Data))
	case tensor.Uint8:
		return wordsSize(t.Data)
	case tensor.Uint16:
		return wordsSize(tensor.View[uint16](t.Data))
	case tensor.Uint32:
		return wordsSize(tensor.View[uint32](t.Data))
	case tensor.Uint64:
		return wordsSize(tensor.View[uint64](t.Data))
	}
	return len(t.Data) // BOOL, FP32 and FP64 travel as they lie in memory
}

type integer interface {
	int8 | int16 | int32 | int64 | uint8 | uint16 | uint32 | uint64
}

func wordsSize[T integer](elements []T) int {
	n := 0
	for _, v := range elements {
		n += protowire.SizeVarint(uint64(v))
	}
	return n
}

func appendWords[T integer](dst []byte, elements []T) []byte {
	for _, v := range elements {
		dst = protowire.AppendVarint(dst, uint64(v))
	}
	return dst
}

// contentsSize is how many bytes a tensor takes as InferTensorContents.
func contentsSize(t *tensor.Tensor) int {
	if t.Type == tensor.Bytes {
		n := 0
		for _, text := range t.Strings {
			n += 1 + protowire.SizeBytes(len(text))
		}
		return n
	}
	if len(t.Data) == 0 {
		return 0
	}
	return 1 + protowire.SizeBytes(packedSize(t))
}

// appendContents writes a tensor that has elements as InferTensorContents.
func appendContents(dst []byte, t *tensor.Tensor) []byte {
	number := typed[t.Type].number
	if t.Type == tensor.Bytes {
		for _, text := range t.Strings {
			dst = appendSized(dst, number, len(text))
			dst = append(dst, text...)
		}
		return dst
	}
	dst = appendSized(dst, number, packedSize(t))
	switch t.Type {
	case tensor.Int8:
		return appendWords(dst, tensor.View[int8](t.Data))
	case tensor.Int16:
		return appendWords(dst, tensor.View[int16](t.Data))
	case tensor.Int32:
		return appendWords(dst, tensor.View[int32](t.Data))
	case tensor.Int64:
		return appendWords(dst, tensor.View[int64](t.Data))
	case tensor.Uint8:
		return appendWords(dst, t.Data)
	case tensor.Uint16:
		return appendWords(dst, tensor.View[uint16](t.Data))
	case tensor.Uint32:
		return appendWords(dst, tensor.View[uint32](t.Data))
	case tensor.Uint64:
		return appendWords(dst, tensor.View[uint64](t.Data))
	}
	return append(dst, t.Data...)
}

// appendSized begins a field of n bytes, which are to follow.
func appendSized(dst []byte, number protowire.Number, n int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(dst, number, protowire.BytesType), uint64(n))
}

// appendText writes a string, unless it is the empty one, which is the same as none.
func appendText(dst []byte, number protowire.Number, text string) []byte {
	if text == "" {
		return dst
	}
	return append(appendSized(dst, number, len(text)), text...)
}

func textSize(text string) int {
	if text == "" {
		return 0
	}
	return 1 + protowire.SizeBytes(len(text))
}

// appendWord writes a number, unless it is zero, which is the same as none.
func appendWord(dst []byte, number protowire.Number, v uint64) []byte {
	if v == 0 {
		return dst
	}
	return protowire.AppendVarint(protowire.AppendTag(dst, number, protowire.VarintType), v)
}
