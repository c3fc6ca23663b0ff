// Package ledger finds records by key among many that lie in the bucket, without a database.
//
// Records are written in runs: immutable objects that hold them in the order of their keys, as in a
// log-structured merge-tree (O'Neil and others, 1996). To find keys, the keys of each run are read, 8 bytes
// for each record, and then the blocks that may hold one that is looked for. Merge makes one run of many. Which
// runs there are its user remembers, who also deletes those that are not needed any more. Whatever
// has gone wrong with an object is found out by its checksums.
package ledger

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Key is what records are found by. Keys must be spread evenly, as those of KeyOf are.
type Key [16]byte

// KeyOf makes a key of words; the same words make the same key.
func KeyOf(words ...string) Key {
	h := sha256.New()
	for _, w := range words {
		_, _ = h.Write(binary.AppendUvarint(nil, uint64(len(w)))) // a hash takes all
		_, _ = io.WriteString(h, w)
	}
	return Key(h.Sum(nil)[:len(Key{})])
}

// Compare orders keys.
func (k Key) Compare(o Key) int { return bytes.Compare(k[:], o[:]) }

// Entry is a record. Records may have the same key.
type Entry struct {
	Key  Key
	Data []byte
}

// Run names what was written.
type Run struct {
	Object  string `json:"object"` // its key in the bucket
	Entries int    `json:"entries"`
	Size    int64  `json:"size"`  // of the object, in bytes
	Until   int64  `json:"until"` // the time of its newest entry, as its writer says
}

// The bounds of a run.
const (
	MaxEntries = 1 << 19
	MaxSize    = 128 << 20
)

const (
	magic      = "PLR1"
	block      = 64 // entries
	prefixSize = 8  // bytes of a key that stand in the head
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A run's object is a head and blocks. The head: magic, how many entries there are (4 bytes), the first half of each
// of their keys (8 bytes), where each block begins behind the head, and where the last one
// ends (4 bytes each), and the head's checksum (4 bytes). A block: of each of its entries the second half of its key (8 bytes),
// how long its data is (varint) and its data; and the block's checksum (4 bytes). Integers are big-endian, so that keys have
// the order of their bytes.

func blocks(entries int) int { return (entries + block - 1) / block }

func headSize(entries int) int64 {
	return int64(len(magic) + 4 + prefixSize*entries + 4*(blocks(entries)+1) + 4)
}

// Write makes a run of entries, which it brings into order, under a prefix, which is that of a folder. No entries are no
// run, whose Object is "". More than MaxEntries or MaxSize are Invalid.
func Write(ctx context.Context, blob store.Blob, prefix string, entries []Entry, until int64) (Run, error) {
	if len(entries) == 0 {
		return Run{}, nil
	}
	slices.SortFunc(entries, func(a, b Entry) int { return cmp.Or(a.Key.Compare(b.Key), bytes.Compare(a.Data, b.Data)) })
	size := headSize(len(entries)) + int64(4*blocks(len(entries)))
	for i := range entries {
		size += prefixSize + int64(len(binary.AppendUvarint(nil, uint64(len(entries[i].Data))))) + int64(len(entries[i].Data))
	}
	if len(entries) > MaxEntries || size > MaxSize {
		return Run{}, fault.New(fault.Invalid, "%d entries of %d bytes are too many for one run", len(entries), size)
	}
	b := make([]byte, 0, size)
	b = binary.BigEndian.AppendUint32(append(b, magic...), uint32(len(entries)))
	for i := range entries {
		b = append(b, entries[i].Key[:prefixSize]...)
	}
	offsets := len(b)
	head := int(headSize(len(entries)))
	b = b[:head] // filled in below
	for i := 0; i < len(entries); i += block {
		start := len(b)
		binary.BigEndian.PutUint32(b[offsets+4*(i/block):], uint32(start-head))
		for _, e := range entries[i:min(i+block, len(entries))] {
			b = append(b, e.Key[prefixSize:]...)
			b = append(binary.AppendUvarint(b, uint64(len(e.Data))), e.Data...)
		}
		b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
	}
	binary.BigEndian.PutUint32(b[head-8:], uint32(len(b)-head))
	binary.BigEndian.PutUint32(b[head-4:], crc32.Checksum(b[:head-4], castagnoli))
	sum := sha256.Sum256(b)
	r := Run{Object: prefix + hex.EncodeToString(sum[:16]), Entries: len(entries), Size: int64(len(b)), Until: until}
	if _, err := blob.Put(ctx, r.Object, bytes.NewReader(b), r.Size, store.Condition{}); err != nil {
		return Run{}, fmt.Errorf("write %q: %w", r.Object, err)
	}
	return r, nil
}

// Split cuts entries so that each part makes a run, and so do together of those.
func Split(entries []Entry) iter.Seq[[]Entry] {
	return func(yield func([]Entry) bool) {
		for len(entries) > 0 {
			n, size := 0, 0
			for n < len(entries) && n < MaxEntries/together && (n == 0 || size+len(entries[n].Data) <= MaxSize/together/2) {
				size += len(entries[n].Data) // what stands beside it is less than the other half
				n++
			}
			if !yield(entries[:n:n]) {
				return
			}
			entries = entries[n:]
		}
	}
}

// Found is told of a record whose key was looked for. Data is valid until it returns.
type Found func(key Key, data []byte) error

// readsAtOnce is how many runs are read at the same time.
const readsAtOnce = 4

// Find tells each of all records in the runs that have one of the keys, in no order, one at a time. A run whose
// bytes are not what they should be is Internal, and one that is not there NotFound.
func Find(ctx context.Context, blob store.Blob, runs []Run, keys []Key, each Found) error {
	if len(keys) == 0 {
		return nil
	}
	keys = slices.Clone(keys)
	slices.SortFunc(keys, Key.Compare)
	keys = slices.Compact(keys)
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readsAtOnce)
	for i := range runs {
		group.Go(fault.Guard(func() error {
			return runs[i].find(ctx, blob, keys, func(key Key, data []byte) error {
				mu.Lock()
				defer mu.Unlock()
				return each(key, data)
			})
		}))
	}
	return group.Wait()
}

// candidate is an entry that may be have a key that is looked for: the at-th, one of keys[from:until].
type candidate struct{ at, from, until int }

const (
	// gap is how many bytes between two blocks are read along: a request of its own takes a bucket as long as
	// half a megabyte does.
	gap = 512 << 10
	// readMost is how many bytes are read at once.
	readMost = 4 << 20
)

func (r *Run) find(ctx context.Context, blob store.Blob, keys []Key, each Found) error {
	b, err := r.bytes(ctx, blob, 0, headSize(r.Entries))
	if err != nil {
		return err
	}
	prefixes, offsets, err := r.head(b)
	if err != nil {
		return err
	}
	var wanted []candidate
	k := 0
	for i := 0; i < r.Entries && k < len(keys); i++ {
		prefix := prefixes[prefixSize*i:][:prefixSize]
		for k < len(keys) && bytes.Compare(keys[k][:prefixSize], prefix) < 0 {
			k++
		}
		until := k
		for until < len(keys) && bytes.Equal(keys[until][:prefixSize], prefix) {
			until++
		}
		if until > k {
			wanted = append(wanted, candidate{i, k, until})
		}
	}
	for len(wanted) > 0 {
		first := wanted[0].at / block
		last, n := first, 0
		for ; n < len(wanted); n++ {
			b := wanted[n].at / block
			if b > last && (offsets(b)-offsets(last+1) > gap || offsets(b+1)-offsets(first) > readMost) {
				break
			}
			last = b
		}
		if err := r.pick(ctx, blob, prefixes, offsets, first, last, keys, wanted[:n], each); err != nil {
			return err
		}
		wanted = wanted[n:]
	}
	return nil
}

// pick reads blocks and tells which of their entries have one of the keys.
func (r *Run) pick(ctx context.Context, blob store.Blob, prefixes []byte, offsets func(int) int64, first, last int, keys []Key, wanted []candidate, each Found) error {
	start := headSize(r.Entries) + offsets(first)
	b, err := r.bytes(ctx, blob, start, offsets(last+1)-offsets(first))
	if err != nil {
		return err
	}
	for n := first; n <= last; n++ {
		own := b[offsets(n)-offsets(first) : offsets(n+1)-offsets(first)]
		if len(wanted) == 0 || wanted[0].at/block > n {
			continue
		}
		err := r.entries(own, prefixes, n, func(at int, key Key, data []byte) error {
			if len(wanted) == 0 || wanted[0].at != at {
				return nil
			}
			c := wanted[0]
			wanted = wanted[1:]
			if _, ok := slices.BinarySearchFunc(keys[c.from:c.until], key, Key.Compare); !ok {
				return nil
			}
			return each(key, data)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// entries reads a block.
func (r *Run) entries(b, prefixes []byte, n int, each func(at int, key Key, data []byte) error) error {
	if len(b) < 4 || crc32.Checksum(b[:len(b)-4], castagnoli) != binary.BigEndian.Uint32(b[len(b)-4:]) {
		return r.damaged()
	}
	b = b[:len(b)-4]
	for at := n * block; at < min((n+1)*block, r.Entries); at++ {
		var key Key
		copy(key[:], prefixes[prefixSize*at:][:prefixSize])
		if len(b) < prefixSize {
			return r.damaged()
		}
		copy(key[prefixSize:], b)
		size, k := binary.Uvarint(b[prefixSize:])
		if k <= 0 || size > uint64(len(b)-prefixSize-k) {
			return r.damaged()
		}
		data := b[prefixSize+k:][:size:size]
		b = b[prefixSize+k+int(size):]
		if err := each(at, key, data); err != nil {
			return err
		}
	}
	if len(b) > 0 {
		return r.damaged()
	}
	return nil
}

// head reads the head of an object.
func (r *Run) head(b []byte) (prefixes []byte, offsets func(int) int64, err error) {
	if len(b) < len(magic)+8 || string(b[:len(magic)]) != magic || int64(binary.BigEndian.Uint32(b[len(magic):])) != int64(r.Entries) ||
		crc32.Checksum(b[:len(b)-4], castagnoli) != binary.BigEndian.Uint32(b[len(b)-4:]) {
		return nil, nil, r.damaged()
	}
	prefixes = b[len(magic)+4:][:prefixSize*r.Entries]
	table := b[len(magic)+4+prefixSize*r.Entries:]
	offsets = func(i int) int64 { return int64(binary.BigEndian.Uint32(table[4*i:])) }
	for i := range blocks(r.Entries) {
		if offsets(i) > offsets(i+1) {
			return nil, nil, r.damaged()
		}
	}
	if headSize(r.Entries)+offsets(blocks(r.Entries)) != r.Size {
		return nil, nil, r.damaged()
	}
	return prefixes, offsets, nil
}

// bytes reads some of the object.
func (r *Run) bytes(ctx context.Context, blob store.Blob, from, size int64) ([]byte, error) {
	if r.Entries < 1 || r.Entries > MaxEntries || r.Size > MaxSize || from+size > r.Size {
		return nil, r.damaged()
	}
	body, _, err := blob.Get(ctx, r.Object, from, size)
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", r.Object, err)
	}
	b := make([]byte, size)
	n, err := io.ReadFull(body, b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = r.damaged()
	}
	if err = errors.Join(err, body.Close()); err != nil {
		return nil, fmt.Errorf("read %q: %w", r.Object, err)
	}
	return b[:n], nil
}

func (r *Run) damaged() error {
	return fault.New(fault.Internal, "the object %q is damaged in the bucket", r.Object)
}

// Read tells each of all records of a run, in the order of their keys. Their data stays valid.
func (r *Run) Read(ctx context.Context, blob store.Blob, each func(Entry) error) error {
	b, err := r.bytes(ctx, blob, 0, r.Size)
	if err != nil {
		return err
	}
	if int64(len(b)) < headSize(r.Entries) {
		return r.damaged()
	}
	head := b[:headSize(r.Entries)]
	prefixes, offsets, err := r.head(head)
	if err != nil {
		return err
	}
	b = b[len(head):]
	for n := range blocks(r.Entries) {
		err := r.entries(b[offsets(n):offsets(n+1)], prefixes, n, func(_ int, key Key, data []byte) error { return each(Entry{key, data}) })
		if err != nil {
			return err
		}
	}
	return nil
}

// Merge makes one run of several, of those of their records that keep says yes to; without any the run has no Object. Together they
// must be within the bounds of one.
func Merge(ctx context.Context, blob store.Blob, prefix string, runs []Run, keep func(data []byte) bool) (Run, error) {
	var all []Entry
	until := int64(0)
	for i := range runs {
		err := runs[i].Read(ctx, blob, func(e Entry) error {
			if keep(e.Data) {
				all = append(all, e)
			}
			return nil
		})
		if err != nil {
			return Run{}, err
		}
		until = max(until, runs[i].Until)
	}
	return Write(ctx, blob, prefix, all, until)
}

// together is how many runs of about the same size make one.
const together = 8

// Mergeable gives runs that should be one: together of about the same size, so that there are never many and
// each record is written anew seldom. Nil: all is well.
func Mergeable(runs []Run) []Run {
	classes := map[int][]Run{}
	for _, r := range runs {
		class := 0
		for n := r.Entries; n >= together; n /= together {
			class++
		}
		of := append(classes[class], r)
		classes[class] = of
		if len(of) < together {
			continue
		}
		entries, size := 0, int64(0)
		for _, r := range of {
			entries += r.Entries
			size += r.Size
		}
		if entries <= MaxEntries && size <= MaxSize {
			return of
		}
		delete(classes, class) // they are as large as runs get
	}
	return nil
}
