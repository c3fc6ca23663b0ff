package feedback

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
)

// elements cuts a body into the texts of outcomes: one object, the elements of an array, or
// lines. It looks at quotes and brackets alone, so that one that is no JSON, or not
// UTF-8, does not take those beside it with it. No more than one is in memory.
type elements struct {
	in    *bufio.Reader
	lines bool // it is NDJSON

	shape byte // '[' or '{', once the body has begun
	ended bool
	count int    // elements that were given
	text  []byte // of the element: no more than outcomeMost+1 bytes of it

	// Where the next byte is:
	depth   int // of brackets in the element
	quoted  bool
	escaped bool
}

// space is what JSON has between values.
const space = " \n\t\r"

func newElements(body io.Reader, lines bool) *elements {
	return &elements{in: bufio.NewReaderSize(body, 32<<10), lines: lines}
}

// next gives the next element without the white space around it, or io.EOF. It is
// valid until the next call; one that is longer than outcomeMost is cut.
func (e *elements) next() ([]byte, error) {
	if e.ended {
		return nil, io.EOF
	}
	e.text = e.text[:0]
	text, err := e.array, error(nil)
	if e.lines {
		text = e.line
	} else if e.shape == 0 {
		if err = e.begin(); err != nil {
			return nil, err
		}
	}
	found, err := text()
	if err != nil {
		return nil, err
	}
	if !found {
		e.ended = true
		return nil, io.EOF
	}
	e.count++
	return bytes.Trim(e.text, space), nil
}

// begin finds out what the body is.
func (e *elements) begin() error {
	c, err := e.skipSpace()
	if err != nil { // also io.EOF: there is none
		return err
	}
	switch c {
	case '[':
		_, err = e.in.Discard(1)
	case '{':
	default:
		return fault.New(fault.Invalid, "the body begins with %q, expected an outcome, an array of them, or one a line as application/x-ndjson", c)
	}
	e.shape = c
	return err
}

// skipSpace gives the next byte that is not white space, and leaves it there.
func (e *elements) skipSpace() (byte, error) {
	for {
		c, err := e.in.ReadByte()
		if err != nil {
			return 0, bodyError(err)
		}
		if c != ' ' && c != '\n' && c != '\t' && c != '\r' {
			return c, e.in.UnreadByte()
		}
	}
}

// array reads an element, or all of a body that is one, and tells whether there is one.
func (e *elements) array() (bool, error) {
	for {
		chunk, err := e.chunk()
		if errors.Is(err, io.EOF) {
			return false, fault.New(fault.Invalid, "the body ends within outcome %d", e.count)
		}
		if err != nil {
			return false, err
		}
		n, end := e.cut(chunk)
		e.keep(chunk[:n])
		if end == 0 {
			_, _ = e.in.Discard(n) // it is buffered
			continue
		}
		_, _ = e.in.Discard(n + 1)
		if end == ',' {
			return true, nil
		}
		if e.shape == '{' {
			e.text = append(e.text, end) // the element's own
		}
		e.ended = true
		switch c, err := e.skipSpace(); {
		case err == nil:
			return false, fault.New(fault.Invalid, "%q stands behind the end of the %s", c, map[byte]string{'[': "array", '{': "outcome; several are sent as an array, or one a line as application/x-ndjson"}[e.shape])
		case !errors.Is(err, io.EOF):
			return false, err
		}
		return e.count > 0 || len(bytes.Trim(e.text, space)) > 0, nil
	}
}

// cut tells how many bytes of the chunk belong to the element, and what ends it: a comma or
// bracket of the array, the brace of an outcome that is alone, 0: nothing here.
func (e *elements) cut(chunk []byte) (n int, end byte) {
	for i, c := range chunk {
		switch {
		case e.escaped:
			e.escaped = false
		case c == '\\':
			e.escaped = e.quoted
		case c == '"':
			e.quoted = !e.quoted
		case e.quoted:
		case c == '{' || c == '[':
			e.depth++
		case c == '}' || c == ']':
			switch {
			case e.depth == 0 && e.shape == '[' && c == ']', e.depth == 1 && e.shape == '{':
				return i, c
			case e.depth > 0:
				e.depth--
			}
		case c == ',' && e.depth == 0 && e.shape == '[':
			return i, c
		}
	}
	return len(chunk), 0
}

// line reads a line that is not blank, and tells whether there is one.
func (e *elements) line() (bool, error) {
	for {
		chunk, err := e.chunk()
		if errors.Is(err, io.EOF) {
			e.ended = true
			return len(bytes.Trim(e.text, space)) > 0, nil
		}
		if err != nil {
			return false, err
		}
		n := bytes.IndexByte(chunk, '\n')
		if n < 0 {
			e.keep(chunk)
			_, _ = e.in.Discard(len(chunk)) // it is buffered
			continue
		}
		e.keep(chunk[:n])
		_, _ = e.in.Discard(n + 1)
		if len(bytes.Trim(e.text, space)) > 0 {
			return true, nil
		}
		e.text = e.text[:0]
	}
}

// chunk gives the bytes that came, at least one.
func (e *elements) chunk() ([]byte, error) {
	if _, err := e.in.Peek(1); err != nil {
		return nil, bodyError(err)
	}
	return e.in.Peek(e.in.Buffered())
}

// keep adds to the element; white space before it does not count.
func (e *elements) keep(b []byte) {
	if len(e.text) == 0 {
		b = bytes.TrimLeft(b, space)
	}
	e.text = append(e.text, b[:min(len(b), outcomeMost+1-len(e.text))]...)
}

func bodyError(err error) error {
	if errors.Is(err, io.EOF) {
		return err
	}
	return serve.BodyError(err)
}
