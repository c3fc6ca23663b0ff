package feature

import "github.com/pilotlight-ml/pilotlight/internal/row"

// Key is where the state of an entity lies in a store.Online; keys has a value
// for each of the view's Keys, of its type and none of them null.
func (v *CompiledView) Key(keys ...row.Value) string {
	return string(row.AppendKey(v.keyPrefix(nil), keys...))
}

// keyRoot is what all keys begin with.
const keyRoot = "feature/"

// keyPrefix sets views apart, and features from what else may lie in the store.
func (v *CompiledView) keyPrefix(dst []byte) []byte {
	return append(append(append(dst, keyRoot...), v.Name...), '/')
}

// appendKeyOf is Key of the entity that a row of the view's source is about;
// false where a part of its key is null, so that it is about none.
func (v *CompiledView) appendKeyOf(dst []byte, values []row.Value) ([]byte, bool) {
	dst = v.keyPrefix(dst)
	for _, at := range v.KeyAt {
		if values[at].Null() {
			return dst, false
		}
		dst = row.AppendKey(dst, values[at])
	}
	return dst, true
}

// keySize is how long the key of appendKeyOf is, and a little more.
func (v *CompiledView) keySize(values []row.Value) int {
	n := len(keyRoot) + len(v.Name) + len("/")
	for _, at := range v.KeyAt {
		n += 1 + 8 + len(values[at].Text())
	}
	return n
}
