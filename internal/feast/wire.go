package feast

import (
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

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

// text gives a string.
func (f *field) text(what string) (string, error) {
	if !utf8.Valid(f.bytes) {
		return "", invalid("%s is not valid UTF-8", what)
	}
	return string(f.bytes), nil
}

var errBroken = invalid("the message is not valid protobuf")

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

// each calls read for every field of a message.
func each(b []byte, read func(f *field) error) error {
	for len(b) > 0 {
		f, rest, err := nextField(b)
		if err == nil {
			err = read(&f)
		}
		if err != nil {
			return err
		}
		b = rest
	}
	return nil
}

// entry reads an entry of a map: its key, and its value's message.
func entry(b []byte, what string) (key string, value []byte, err error) {
	err = each(b, func(f *field) (err error) {
		switch {
		case f.is(1, protowire.BytesType):
			key, err = f.text("a key of " + what)
		case f.is(2, protowire.BytesType):
			value = f.bytes
		}
		return err
	})
	return key, value, err
}

func appendText(dst []byte, number protowire.Number, text string) []byte {
	return protowire.AppendString(protowire.AppendTag(dst, number, protowire.BytesType), text)
}

// message appends a message that write writes, behind its length.
func message(dst []byte, number protowire.Number, write func(dst []byte) []byte) []byte {
	dst = protowire.AppendTag(dst, number, protowire.BytesType)
	start := len(dst)
	dst = append(dst, 0) // the length goes in front and is known behind: mostly it is one byte
	dst = write(dst)
	return putLength(dst, start)
}

// putLength sets the length of what stands behind the byte at start.
func putLength(dst []byte, start int) []byte {
	n := len(dst) - start - 1
	if size := protowire.SizeVarint(uint64(n)); size > 1 {
		dst = append(dst, make([]byte, size-1)...)
		copy(dst[start+size:], dst[start+1:])
	}
	protowire.AppendVarint(dst[:start], uint64(n))
	return dst
}
