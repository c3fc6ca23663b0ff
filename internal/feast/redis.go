package feast

import (
	"encoding/binary"
	"math/bits"
	"slices"

	"github.com/pilotlight-ml/pilotlight/internal/row"
)

// Keys makes the names of the hashes that Feast keeps entities in: one hash for
// each combination of join keys and project, by version 3 of its encoding.
type Keys struct {
	prefix  []byte // how many keys, and their names
	order   []int  // where the values of the names in prefix lie
	project string
}

// NewKeys is for entities that are told apart by the given join keys. Types that
// Feast has no such keys of are Invalid: floats, bools and lists.
func NewKeys(project string, join []row.Field) (*Keys, error) {
	k := &Keys{project: project, order: make([]int, len(join))}
	for i, f := range join {
		k.order[i] = i
		if f.Type == row.Bool || f.Type.Float() || f.Type.IsList() {
			return nil, invalid("key %s is a %s, which Feast keeps no entities by", quote(f.Name), f.Type)
		}
	}
	slices.SortFunc(k.order, func(a, b int) int { return slices.Compare([]byte(join[a].Name), []byte(join[b].Name)) })
	k.prefix = binary.LittleEndian.AppendUint32(nil, uint32(len(join)))
	for _, i := range k.order {
		k.prefix = appendPart(k.prefix, typeString, join[i].Name)
	}
	return k, nil
}

func appendPart(dst []byte, number uint32, text string) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, number)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(text)))
	return append(dst, text...)
}

// Append writes the name of the hash of an entity: values are its join keys, in
// the order and of the types that NewKeys was told, and none is null.
func (k *Keys) Append(dst []byte, values []row.Value) []byte {
	dst = append(dst, k.prefix...)
	for _, i := range k.order {
		v := values[i]
		number := uint32(numbers[v.Type()])
		if v.Type() == row.String || v.Type() == row.Bytes {
			dst = appendPart(dst, number, v.Text())
			continue
		}
		dst = binary.LittleEndian.AppendUint32(dst, number)
		switch v.Type() {
		case row.Int32:
			dst = binary.LittleEndian.AppendUint32(dst, 4)
			dst = binary.LittleEndian.AppendUint32(dst, uint32(v.Int()))
		case row.Timestamp:
			dst = binary.LittleEndian.AppendUint32(dst, 8)
			dst = binary.LittleEndian.AppendUint64(dst, uint64(seconds(v)))
		default:
			dst = binary.LittleEndian.AppendUint32(dst, 8)
			dst = binary.LittleEndian.AppendUint64(dst, uint64(v.Int()))
		}
	}
	return append(dst, k.project...)
}

// FeatureField gives the name that a feature goes by in its entity's hash; its
// value is read by DecodeValue.
func FeatureField(view, feature string) string {
	return string(binary.LittleEndian.AppendUint32(nil, murmur3(view+":"+feature)))
}

// TimeField gives the name that the event time of a view goes by in its entity's
// hash; its value is read by DecodeTime.
func TimeField(view string) string { return "_ts:" + view }

// murmur3 is MurmurHash3 of 32 bits with seed 0.
func murmur3(text string) uint32 {
	const c1, c2 = 0xcc9e2d51, 0x1b873593
	mix := func(k uint32) uint32 { return bits.RotateLeft32(k*c1, 15) * c2 }
	var h uint32
	b := []byte(text)
	for ; len(b) >= 4; b = b[4:] {
		h = bits.RotateLeft32(h^mix(binary.LittleEndian.Uint32(b)), 13)*5 + 0xe6546b64
	}
	if len(b) > 0 {
		var tail [4]byte
		copy(tail[:], b)
		h ^= mix(binary.LittleEndian.Uint32(tail[:]))
	}
	h ^= uint32(len(text))
	h = (h ^ h>>16) * 0x85ebca6b
	h = (h ^ h>>13) * 0xc2b2ae35
	return h ^ h>>16
}
