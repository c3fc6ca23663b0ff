package tfserving

import (
	"encoding/base64"
	"slices"
	"strconv"
	"strings"

	"github.com/pilotlight-ml/pilotlight/internal/jsonwire"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// Request is a predict request. Its zero value is ready for Decode, and one
// that is used again takes little or no new memory. It must not be copied after
// its first Decode.
type Request struct {
	Inputs []tensor.Tensor
	// Rows is how many instances there are, in row form. It is 0 in column form.
	Rows int

	scan    jsonwire.Scanner
	specs   []tensor.Spec
	columns []column
	dims    []int64
	index   map[string]int // where inputs stand in specs, when they are many and come in another order

	// Where the value being read stands, for errors.
	form   string // instances or inputs
	row    int    // the instance, where each is an object; else -1
	named  bool   // values stand in an object, by their input's name
	column int    // the input
	at     []int  // the index in each dimension that was entered
	from   int    // the element with which the innermost array begins; -1: it stands in none
	binary []byte // holds what base64 gave
}

// column is one input as it grows.
type column struct {
	tensor.Tensor
	rows  int // read of it, where each stands in an object of its own
	n     int // elements
	words []uint64
	texts []string
	// sizes are those of each dimension: fixed by the model, or as they were
	// found; -1: not yet known.
	sizes []int64
}

// mostKept is how much memory of one input outlives a request, in elements: one
// huge request should not cost its memory for ever.
const mostKept = 1 << 20

const (
	memberInstances = iota
	memberInputs
	memberSignature
)

var requestMembers = []string{"instances", "inputs", "signature_name"}

// Decode reads a request's body into r, in place of what was there, for a model
// with these inputs. The tensors lie in memory of r and are valid until the
// next Decode; they fit the model but for the first dimension. After an error r
// holds nothing of use.
//
// A model has one signature, so whatever name the body gives is a name of it.
func (r *Request) Decode(body []byte, inputs []tensor.Spec) error {
	r.reset(inputs)
	r.scan.Text, r.scan.Pos = body, 0
	for _, spec := range inputs {
		if spec.Type == tensor.FP16 || spec.Type == tensor.BF16 {
			return invalid("input %q: JSON can't carry %s, send the tensor as binary data, by the V2 protocol", tensor.Clip(spec.Name), spec.Type)
		}
	}
	err := r.request()
	r.scan.Text = nil
	return err
}

func (r *Request) reset(specs []tensor.Spec) {
	r.specs, r.Rows, r.Inputs = specs, 0, r.Inputs[:0]
	clear(r.index)
	r.form, r.row, r.named, r.column, r.at = "", -1, false, 0, r.at[:0]
	for len(r.columns) < len(specs) {
		r.columns = append(r.columns, column{})
	}
	for i := range specs {
		c := &r.columns[i]
		c.Tensor = tensor.Tensor{Name: specs[i].Name, Type: specs[i].Type}
		c.rows, c.n = 0, 0
		if len(c.words) > mostKept {
			c.words = nil
		}
		if len(c.texts) > mostKept {
			c.texts = nil
		}
		c.Data, c.Strings = tensor.Raw(c.words), c.texts
		c.sizes = append(c.sizes[:0], specs[i].Shape...)
		if len(c.sizes) > 0 {
			c.sizes[0] = -1 // how many rows there may be is the model's affair
		}
	}
}

func (r *Request) request() error {
	s := &r.scan
	if !s.Take('{') {
		return invalid("the body must be a JSON object")
	}
	seen, err := s.Object(requestMembers, func() string { return "request" }, func(m int, seen jsonwire.Members) error {
		switch m {
		case memberSignature:
			return r.signature()
		case memberInstances:
			if seen.Has(memberInputs) {
				return errBoth
			}
			return r.instances()
		default:
			if seen.Has(memberInstances) {
				return errBoth
			}
			return r.inputs()
		}
	})
	if err != nil {
		return err
	}
	if s.Peek(); s.Pos < len(s.Text) {
		return s.Expected("the end of the request")
	}
	if !seen.Has(memberInstances) && !seen.Has(memberInputs) {
		return invalid("the body has neither instances (one for each row) nor inputs (one for each input of the model)")
	}
	r.finish()
	return nil
}

var errBoth = invalid("instances and inputs exclude each other: the one is the row form, the other the column form")

func (r *Request) signature() error {
	s := &r.scan
	if s.Word("null") {
		return nil
	}
	if s.Peek() != '"' {
		return invalid("signature_name must be a string")
	}
	_, err := s.Quoted()
	return err
}

// finish makes the tensors of what was read.
func (r *Request) finish() {
	r.dims = r.dims[:0]
	for i := range r.specs {
		c := &r.columns[i]
		for d, size := range c.sizes {
			if d == 0 && r.row >= 0 {
				size = int64(c.rows)
			}
			r.dims = append(r.dims, max(size, 0)) // one that never came stands behind one of no elements
		}
	}
	from := 0
	for i := range r.specs {
		c := &r.columns[i]
		to := from + len(c.sizes)
		c.Shape = r.dims[from:to:to]
		from = to
		if c.Type == tensor.Bytes {
			c.Strings = c.texts[:c.n:c.n]
		} else {
			n := c.n * c.Type.Size()
			c.Data = c.Data[:n:n]
		}
		r.Inputs = append(r.Inputs, c.Tensor)
	}
}

// instances reads the row form. Instances that are plain values together are the
// one input's tensor; those that are objects bring a row of each input.
func (r *Request) instances() error {
	r.form = requestMembers[memberInstances]
	s := &r.scan
	s.Peek()
	start := s.Pos
	if !s.Take('[') {
		return invalid("instances must be an array")
	}
	switch s.Peek() {
	case ']':
		return invalid("instances is empty, at least one is required")
	case '{':
		if len(r.specs) != 1 || !r.encoded() {
			return r.objects()
		}
	}
	c, err := r.only()
	if err != nil {
		return err
	}
	if len(c.sizes) == 0 {
		return r.noRows()
	}
	s.Pos = start
	err = r.array(c, 0)
	r.Rows = int(c.sizes[0])
	return err
}

// only gives the model's one input.
func (r *Request) only() (*column, error) {
	if len(r.specs) != 1 {
		example := r.form
		if r.form == requestMembers[memberInstances] {
			example += "[0]"
		}
		return nil, invalid("%s must be an object with a value for each of %s: the model has %d inputs", example, r.known(), len(r.specs))
	}
	return &r.columns[0], nil
}

func (r *Request) noRows() error {
	return invalid("input %q takes one value and no rows: send inputs in place of instances", r.specs[r.column].Name)
}

// objects reads instances that are objects, the bracket being consumed.
func (r *Request) objects() error {
	s := &r.scan
	r.named = true
	for r.row = 0; ; r.row++ {
		more, err := s.Element(r.row)
		if err != nil {
			return err
		}
		if !more {
			r.Rows = r.row
			return nil
		}
		if !s.Take('{') {
			return invalid("%s must be an object, as the ones before it", r.around())
		}
		if err := r.object(1); err != nil {
			return err
		}
	}
}

// object reads an object that has a value of every input, its brace being
// consumed. The values begin with the given dimension.
func (r *Request) object(dimension int) error {
	s := &r.scan
	row := max(r.row, 0)
	guess, read := 0, 0 // clients write members in the usual order, mostly that of the signature
	for i := 0; ; i++ {
		if s.Take('}') {
			break
		}
		if i > 0 && !s.Take(',') {
			return s.Expected("a comma or }")
		}
		at := guess
		if guess >= len(r.specs) || !s.Key(r.specs[guess].Name) {
			key, err := s.AnyKey()
			if err != nil {
				return err
			}
			if at = r.find(key); at < 0 {
				return invalid("%s has %q, which is not an input of the model: it expects %s", r.around(), tensor.Clip(string(key)), r.known())
			}
		}
		guess, read = at+1, read+1
		r.column = at
		c := &r.columns[at]
		if c.rows > row {
			return invalid("%s is given twice", r.place())
		}
		c.rows++
		if dimension > len(c.sizes) {
			return r.noRows()
		}
		if err := r.value(c, dimension); err != nil {
			return err
		}
	}
	if read == len(r.specs) {
		return nil
	}
	r.column = slices.IndexFunc(r.columns, func(c column) bool { return c.rows <= row })
	return invalid("%s is missing: the model expects %s", r.place(), r.known())
}

// find gives the position of an input by its name, or -1.
func (r *Request) find(name []byte) int {
	const few = 32 // comparisons cost less than a map
	if len(r.specs) <= few {
		return slices.IndexFunc(r.specs, func(spec tensor.Spec) bool { return spec.Name == string(name) })
	}
	if len(r.index) == 0 {
		if r.index == nil {
			r.index = map[string]int{}
		}
		for i := range r.specs {
			r.index[r.specs[i].Name] = i
		}
	}
	if at, ok := r.index[string(name)]; ok {
		return at
	}
	return -1
}

// inputs reads the column form.
func (r *Request) inputs() error {
	r.form = requestMembers[memberInputs]
	s := &r.scan
	if s.Peek() == '{' && (len(r.specs) != 1 || !r.encoded()) {
		s.Take('{')
		r.named = true
		return r.object(0)
	}
	c, err := r.only()
	if err != nil {
		return err
	}
	return r.value(c, 0)
}

// value reads what c has from a dimension on: an array, or one element where
// there are no more dimensions.
func (r *Request) value(c *column, dimension int) error {
	s := &r.scan
	if dimension < len(c.sizes) {
		return r.array(c, dimension)
	}
	r.grow(c, 1)
	r.from = -1
	next, err := s.Run(&c.Tensor, c.n, c.n+1, r.element)
	if err == nil && next == c.n {
		err = s.Expected("a value")
	}
	c.n = next
	return err
}

// array reads the array of a dimension. It recurses once for each dimension,
// never deeper than the model's shape.
func (r *Request) array(c *column, dimension int) error {
	s := &r.scan
	if !s.Take('[') {
		place := r.place()
		if err := s.Skip(); err != nil {
			return err
		}
		return invalid("%s must be an array: input %q has shape %s", place, tensor.Clip(c.Name), tensor.FormatShape(r.specs[r.column].Shape))
	}
	r.at = append(r.at, 0)
	var count int
	var err error
	if dimension == len(c.sizes)-1 {
		count, err = r.run(c, c.sizes[dimension])
	} else {
		count, err = r.arrays(c, dimension)
	}
	if err != nil {
		return err
	}
	r.at = r.at[:len(r.at)-1]
	if c.sizes[dimension] < 0 {
		c.sizes[dimension] = int64(count)
	}
	return nil
}

// arrays reads the arrays within the array of a dimension, whose bracket is
// consumed, and counts them.
func (r *Request) arrays(c *column, dimension int) (int, error) {
	s := &r.scan
	last, size := len(r.at)-1, c.sizes[dimension]
	for i := 0; ; i++ {
		more, err := s.Element(i)
		if err != nil {
			return 0, err
		}
		if !more {
			if int64(i) < size {
				return 0, r.miscounted(c, dimension, i)
			}
			return i, nil
		}
		r.at[last] = i
		if int64(i) == size {
			if err := s.Skip(); err != nil {
				return 0, err
			}
			return 0, r.countOn(c, dimension, i+1)
		}
		if err := r.array(c, dimension+1); err != nil {
			return 0, err
		}
	}
}

// run reads the elements of an array, whose bracket is consumed, and counts
// them; size is how many there must be, or negative.
func (r *Request) run(c *column, size int64) (int, error) {
	s := &r.scan
	r.from = c.n
	for {
		// An element takes two bytes at least, with the comma or bracket behind it.
		left := (len(s.Text)-s.Pos)/2 + 1
		end := c.n
		if size >= 0 {
			end += int(min(size, int64(left)))
			r.grow(c, end-c.n)
		} else {
			r.grow(c, 1)
			end = c.room()
		}
		next, err := s.Run(&c.Tensor, c.n, end, r.element)
		if err != nil {
			return 0, err
		}
		c.n = next
		count := c.n - r.from
		switch {
		case size < 0 && s.Take(']'):
			return count, nil
		case size < 0: // there was no more room
			if !s.Take(',') {
				return 0, s.Expected("a comma or ]")
			}
			if s.Peek() == ']' {
				return 0, s.Expected("a value")
			}
		case int64(count) == size && s.Take(']'):
			return count, nil
		default:
			return 0, r.countOn(c, len(c.sizes)-1, count)
		}
	}
}

// countOn counts the rest of an array that has not as many elements as it must,
// of which some are consumed, and reports it.
func (r *Request) countOn(c *column, dimension, count int) error {
	for {
		more, err := r.scan.Element(count)
		if err != nil {
			return err
		}
		if !more {
			return r.miscounted(c, dimension, count)
		}
		if err := r.scan.Skip(); err != nil {
			return err
		}
		count++
	}
}

// miscounted reports an array of count elements.
func (r *Request) miscounted(c *column, dimension, count int) error {
	r.at = r.at[:len(r.at)-1]
	spec := &r.specs[r.column]
	if spec.Shape[dimension] >= 0 {
		return invalid("%s has %d elements: input %q has shape %s", r.place(), count, tensor.Clip(c.Name), tensor.FormatShape(spec.Shape))
	}
	return invalid("%s has %d elements where those before it have %d: arrays must not be ragged", r.place(), count, c.sizes[dimension])
}

// room is how many elements c has memory for.
func (c *column) room() int {
	if c.Type == tensor.Bytes {
		return len(c.Strings)
	}
	return len(c.Data) / c.Type.Size()
}

// grow gives c memory for n more elements, and for more where more may come.
func (r *Request) grow(c *column, n int) {
	need := c.n + n
	if need <= c.room() {
		return
	}
	left := (len(r.scan.Text)-r.scan.Pos)/2 + 1
	need = max(need, min(2*c.n, c.n+left), 16)
	if c.Type == tensor.Bytes {
		texts := make([]string, need)
		copy(texts, c.texts[:c.n])
		c.texts, c.Strings = texts, texts
		return
	}
	words := make([]uint64, (need*c.Type.Size()+7)/8)
	copy(words, c.words)
	c.words, c.Data = words, tensor.Raw(words)
}

// element reads one element, whatever it looks like, and tells what is wrong
// with one that does not fit.
func (r *Request) element(t *tensor.Tensor, i int) error {
	s := &r.scan
	misfit := ""
	var err error
	switch c := s.Peek(); {
	case c == '{' && t.Type == tensor.Bytes:
		t.Strings[i], misfit, err = r.base64()
	case t.Type == tensor.FP32 || t.Type == tensor.FP64:
		if word := s.NotANumber(); word != "" {
			misfit = "is " + word + ", which JSON can't carry: send the tensor as binary data, by the V2 protocol"
			break
		}
		fallthrough
	default:
		misfit, err = s.Value(t, i)
	}
	if misfit == "" {
		return err
	}
	if r.from >= 0 {
		r.at[len(r.at)-1] = i - r.from
	}
	return invalid("%s %s", r.place(), misfit)
}

// base64 reads the object that stands for any bytes: {"b64": "..."}.
func (r *Request) base64() (text, misfit string, err error) {
	const expected = `an object that is not {"b64": "..."}, but BYTES takes that or a string`
	s := &r.scan
	s.Take('{')
	key, err := s.Member(0)
	if err != nil {
		return "", "", err
	}
	if string(key) != base64Member || s.Peek() != '"' {
		return "", "is " + expected, nil
	}
	coded, err := s.Quoted()
	if err != nil {
		return "", "", err
	}
	if r.binary, err = base64.StdEncoding.AppendDecode(r.binary[:0], coded); err != nil {
		return "", "is not valid base64", nil
	}
	if !s.Take('}') {
		return "", "is " + expected, nil
	}
	return s.Keep(r.binary), "", nil
}

// base64Member is the key of an object that stands for bytes.
const base64Member = "b64"

// encoded tells whether the object that comes next stands for bytes, and is not
// one of inputs.
func (r *Request) encoded() bool {
	if r.specs[0].Type != tensor.Bytes {
		return false
	}
	s := &r.scan
	at := s.Pos
	s.Take('{')
	key, err := s.Member(0)
	s.Pos = at
	return err == nil && string(key) == base64Member
}

// place names the value being read, for errors.
func (r *Request) place() string {
	place := r.around()
	if r.named {
		place += "." + tensor.Clip(r.specs[r.column].Name)
	}
	for _, i := range r.at {
		place += "[" + strconv.Itoa(i) + "]"
	}
	return place
}

// around names the object or array that has the inputs.
func (r *Request) around() string {
	if r.row < 0 {
		return r.form
	}
	return r.form + "[" + strconv.Itoa(r.row) + "]"
}

// known lists the inputs of the model.
func (r *Request) known() string {
	names := make([]string, len(r.specs))
	for i, spec := range r.specs {
		names[i] = strconv.Quote(spec.Name)
	}
	return strings.Join(names, ", ")
}
