package cache

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"sync"

	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// Key names an answer: a keyed hash over everything that the answer depends on.
type Key [16]byte

// keyer hashes under a secret, with what every server CPU does in hardware:
// GMAC, a universal hash, whose tag one AES block then turns into a
// pseudorandom value. Two inputs collide with a probability of at most
// their length / 2^128, whoever chose them, for as long as the secret is one;
// and as the AES block hides the tags, neither keys nor the signatures of
// entries tell anything of it, though GMAC alone would with its fixed nonce.
// docs/adr/0008 has the numbers.
type keyer struct {
	whole, part cipher.AEAD
	finish      cipher.Block
}

func newKeyer(secret []byte) *keyer {
	// None of these fails with lengths that are right.
	keys, err := hkdf.Key(sha256.New, secret, nil, "pilotlight prediction cache 1", 48)
	if err != nil {
		panic(err)
	}
	block := func(key []byte) cipher.Block {
		b, err := aes.NewCipher(key)
		if err != nil {
			panic(err)
		}
		return b
	}
	gmac := func(key []byte) cipher.AEAD {
		a, err := cipher.NewGCM(block(key))
		if err != nil {
			panic(err)
		}
		return a
	}
	return &keyer{whole: gmac(keys[:16]), part: gmac(keys[16:32]), finish: block(keys[32:])}
}

// What is hashed begins with one of these, so that a key is never a signature.
const (
	domainKey byte = iota + 1
	domainEntry
)

// directMost is the longest data that is copied into what is hashed; of longer
// data its tag is.
const directMost = 1024

// scratch is the memory of one hashing.
type scratch struct {
	image []byte
	tag   [16]byte
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// scratchMost is the largest image whose memory is kept.
const scratchMost = 64 << 10

func (s *scratch) free() {
	if cap(s.image) <= scratchMost {
		scratches.Put(s)
	}
}

// nonce is the same for all: the tags never leave.
var nonce [12]byte

func (k *keyer) sum(s *scratch) (sum Key) {
	k.whole.Seal(s.tag[:0], nonce[:], nil, s.image)
	k.finish.Encrypt(s.tag[:], s.tag[:])
	return s.tag
}

// key hashes a request to a version: its scope, the inputs in signature order,
// and the wanted outputs in the order wanted.
func (k *keyer) key(scope []byte, inputs []tensor.Tensor, outputs []string) Key {
	s := scratches.Get().(*scratch)
	defer s.free()
	s.image = append(s.image[:0], domainKey)
	s.image = append(s.image, scope...)
	s.appendLength(len(inputs))
	for i := range inputs {
		s.appendTensor(&inputs[i], k)
	}
	s.appendLength(len(outputs))
	for _, name := range outputs {
		s.appendString(name)
	}
	return k.sum(s)
}

// sign makes what proves that whoever knows the secret stored data under key.
func (k *keyer) sign(key Key, data []byte) Key {
	s := scratches.Get().(*scratch)
	defer s.free()
	s.image = append(s.image[:0], domainEntry)
	s.image = append(s.image, key[:]...)
	s.appendData(data, k)
	return k.sum(s)
}

// The image of a request can be read back, so that no two requests share one:
// lists and strings follow their length, and a tensor's rank stands before its
// dimensions. Elements are taken bit by bit: a model may tell -0 from 0 and one
// NaN from another, and two keys for equal answers cost a run, while one key for
// different answers would give a wrong one.

func (s *scratch) appendTensor(t *tensor.Tensor, k *keyer) {
	s.appendString(t.Name)
	s.image = append(s.image, byte(t.Type), byte(len(t.Shape)))
	for _, d := range t.Shape {
		s.image = binary.LittleEndian.AppendUint64(s.image, uint64(d))
	}
	if t.Type != tensor.Bytes {
		s.appendData(t.Data, k)
		return
	}
	s.appendLength(len(t.Strings))
	for _, element := range t.Strings {
		s.appendString(element)
	}
}

func (s *scratch) appendData(data []byte, k *keyer) {
	s.appendLength(len(data))
	if len(data) <= directMost {
		s.image = append(s.image, data...)
		return
	}
	k.part.Seal(s.tag[:0], nonce[:], nil, data)
	s.image = append(s.image, s.tag[:]...)
}

func (s *scratch) appendString(text string) {
	s.appendLength(len(text))
	s.image = append(s.image, text...)
}

func (s *scratch) appendLength(n int) {
	s.image = binary.LittleEndian.AppendUint64(s.image, uint64(n))
}
