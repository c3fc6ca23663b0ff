package row

import (
	"encoding/binary"
	"errors"
	"math"
)

// The encoding of a column is the one of Protocol Buffers: a tag of its number
// and of how long the rest is, then that. Integers are zigzag varints, floats
// fixed, texts and lists have their length in front. A list holds its elements
// without tags.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5
)

func wireOf(t Type) uint64 {
	switch t {
	case Float64:
		return wireFixed64
	case Float32:
		return wireFixed32
	case Bool, Int32, Int64, Timestamp:
		return wireVarint
	}
	return wireBytes
}

// Append writes a row: values[i] is that of fields[i] and has its type, or is null.
func Append(dst []byte, fields []Field, values []Value) []byte {
	for i, f := range fields {
		v := values[i]
		if v.Null() {
			continue
		}
		dst = binary.AppendUvarint(dst, uint64(f.ID)<<3|wireOf(f.Type))
		if !f.Type.IsList() {
			dst = appendScalar(dst, v)
			continue
		}
		// The length goes in front, and is known behind.
		start := len(dst)
		for _, e := range v.list {
			dst = appendScalar(dst, e)
		}
		var n [binary.MaxVarintLen64]byte
		length := n[:binary.PutUvarint(n[:], uint64(len(dst)-start))]
		dst = append(dst, length...)
		copy(dst[start+len(length):], dst[start:])
		copy(dst[start:], length)
	}
	return dst
}

func appendScalar(dst []byte, v Value) []byte {
	switch v.typ {
	case Float64:
		return binary.LittleEndian.AppendUint64(dst, v.bits)
	case Float32:
		return binary.LittleEndian.AppendUint32(dst, math.Float32bits(float32(v.Float())))
	case String, Bytes:
		dst = binary.AppendUvarint(dst, uint64(len(v.text)))
		return append(dst, v.text...)
	}
	return binary.AppendVarint(dst, int64(v.bits))
}

var errDamaged = errors.New("the encoded row is damaged")

// Decode reads a row: values[i] becomes that of fields[i], or null where the row
// has none or one of another type. Columns that are not among fields are skipped.
// The values do not share memory with data.
func Decode(data []byte, fields []Field, values []Value) error {
	clear(values)
	at := 0 // fields mostly come in their order
	for len(data) > 0 {
		tag, n := binary.Uvarint(data)
		if n <= 0 {
			return errDamaged
		}
		data = data[n:]
		id, wire := tag>>3, tag&7
		body, rest, err := cut(data, wire)
		if err != nil {
			return err
		}
		data = rest
		for range fields {
			if at >= len(fields) {
				at = 0
			}
			if uint64(fields[at].ID) == id {
				if wireOf(fields[at].Type) == wire {
					if values[at], err = decodeValue(body, fields[at].Type); err != nil {
						return err
					}
				}
				at++
				break
			}
			at++
		}
	}
	return nil
}

// cut takes one value's bytes off, without the length in front of them.
func cut(data []byte, wire uint64) (body, rest []byte, err error) {
	n := 0
	switch wire {
	case wireVarint:
		if _, n = binary.Varint(data); n <= 0 {
			return nil, nil, errDamaged
		}
	case wireFixed64:
		n = 8
	case wireFixed32:
		n = 4
	case wireBytes:
		length, m := binary.Uvarint(data)
		if m <= 0 || length > uint64(len(data)-m) {
			return nil, nil, errDamaged
		}
		data, n = data[m:], int(length)
	default:
		return nil, nil, errDamaged
	}
	if n > len(data) {
		return nil, nil, errDamaged
	}
	return data[:n], data[n:], nil
}

func decodeValue(body []byte, t Type) (Value, error) {
	if !t.IsList() {
		return scalar(body, t), nil
	}
	v := Value{typ: t, list: []Value{}}
	elem := t.Elem()
	for len(body) > 0 {
		one, rest, err := cut(body, wireOf(elem))
		if err != nil {
			return Value{}, err
		}
		v.list = append(v.list, scalar(one, elem))
		body = rest
	}
	return v, nil
}

func scalar(body []byte, t Type) Value {
	switch t {
	case Float64:
		return Value{typ: t, bits: binary.LittleEndian.Uint64(body)}
	case Float32:
		return OfFloat32(math.Float32frombits(binary.LittleEndian.Uint32(body)))
	case String, Bytes:
		return Value{typ: t, text: string(body)}
	}
	i, _ := binary.Varint(body) // cut has seen it
	switch t {
	case Bool:
		return OfBool(i != 0)
	case Int32:
		return OfInt32(int32(i))
	}
	return Value{typ: t, bits: uint64(i)}
}

// AppendKey writes values so that equal ones, and only those, have equal bytes: as
// part of a key. None may be a list or null.
func AppendKey(dst []byte, values ...Value) []byte {
	for _, v := range values {
		dst = append(dst, byte(v.typ))
		switch v.typ {
		case String, Bytes:
			dst = binary.AppendUvarint(dst, uint64(len(v.text)))
			dst = append(dst, v.text...)
		default:
			dst = binary.BigEndian.AppendUint64(dst, v.bits)
		}
	}
	return dst
}
