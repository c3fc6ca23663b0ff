package ledger

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
)

func memory(t testing.TB) store.Blob {
	t.Helper()
	b, err := memstore.OpenBlob(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// entries makes some: the i-th is found by i/2, so that two have the same key.
func entries(from, n int) []Entry {
	var all []Entry
	for i := from; i < from+n; i++ {
		all = append(all, Entry{KeyOf("test", strconv.Itoa(i/2)), []byte(strings.Repeat(fmt.Sprintf("%d;", i), i%5))})
	}
	return all
}

func found(t testing.TB, b store.Blob, runs []Run, keys []Key) []string {
	t.Helper()
	var got []string
	if err := Find(t.Context(), b, runs, keys, func(k Key, data []byte) error {
		got = append(got, fmt.Sprintf("%x %s", k[:4], data))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	return got
}

// What was written is found again by its keys, in whichever runs, before and after they are merged; and nothing else is.
func TestFind(t *testing.T) {
	b := memory(t)
	var runs []Run
	var all []Entry
	for i, n := range []int{1, 63, 64, 65, 1000, 20_000} {
		own := entries(len(all), n)
		all = append(all, own...)
		r, err := Write(t.Context(), b, "runs/", slices.Clone(own), int64(i))
		if err != nil {
			t.Fatal(err)
		}
		runs = append(runs, r)
	}
	merged, err := Merge(t.Context(), b, "runs/", runs, func([]byte) bool { return true })
	if err != nil || merged.Entries != len(all) || merged.Until != 5 {
		t.Fatalf("got %+v, %v", merged, err)
	}
	random := rand.New(rand.NewPCG(3, 4))
	for _, n := range []int{0, 1, 2, 30, 3000} {
		wanted := map[Key]bool{KeyOf("nobody"): true}
		for range n {
			wanted[all[random.IntN(len(all))].Key] = true
		}
		var keys []Key
		for k := range wanted {
			keys = append(keys, k, k)
		}
		var want []string
		for _, e := range all {
			if wanted[e.Key] {
				want = append(want, fmt.Sprintf("%x %s", e.Key[:4], e.Data))
			}
		}
		slices.Sort(want)
		if got := found(t, b, runs, keys); !slices.Equal(got, want) {
			t.Errorf("%d keys: got %d records, want %d", n, len(got), len(want))
		}
		if got := found(t, b, []Run{merged}, keys); !slices.Equal(got, want) {
			t.Errorf("%d keys, merged: got %d records, want %d", n, len(got), len(want))
		}
	}

	short, err := Merge(t.Context(), b, "runs/", runs[:4], func(data []byte) bool { return bytes.HasPrefix(data, []byte("7;")) })
	if err != nil || short.Entries != 1 {
		t.Errorf("got %+v, %v, want the only one that begins with 7;", short, err)
	}
	if none, err := Merge(t.Context(), b, "runs/", runs, func([]byte) bool { return false }); err != nil || none.Object != "" {
		t.Errorf("got %+v, %v", none, err)
	}
	if _, err := Write(t.Context(), b, "runs/", make([]Entry, MaxEntries+1), 0); !fault.Is(err, fault.Invalid) {
		t.Errorf("got %v", err)
	}
}

// Keys whose first halves are equal are told apart by their second halves.
func TestKeysThatBeginAlike(t *testing.T) {
	b := memory(t)
	var all []Entry
	var keys []Key
	for i := range 200 {
		k := Key{7: byte(i / 100), 15: byte(i)}
		all = append(all, Entry{k, []byte{byte(i)}})
		if i%3 == 0 {
			keys = append(keys, k)
		}
	}
	r, err := Write(t.Context(), b, "runs/", all, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := found(t, b, []Run{r}, keys); len(got) != len(keys) {
		t.Errorf("got %d records, want %d", len(got), len(keys))
	}
}

// However many are written, there are few runs, and each record is written anew few times.
func TestMergeable(t *testing.T) {
	var runs []Run
	written, all := 0, 0
	for i := range 5000 {
		n := 50 + i%100
		runs, all = append(runs, Run{Object: strconv.Itoa(i), Entries: n, Size: int64(60 * n)}), all+n
		for few := Mergeable(runs); few != nil; few = Mergeable(runs) {
			one := Run{Object: few[0].Object + "+"}
			for _, r := range few {
				one.Entries += r.Entries
				one.Size += r.Size
				runs = slices.DeleteFunc(runs, func(o Run) bool { return o.Object == r.Object })
			}
			runs, written = append(runs, one), written+one.Entries
		}
		if len(runs) > 60 {
			t.Fatalf("there are %d runs", len(runs))
		}
	}
	if written > 5*all {
		t.Errorf("%d records were written anew %d times", all, written)
	}
}

// Bytes that are not what was written are found out: they are an error, and never other records.
func TestDamage(t *testing.T) {
	b := memory(t)
	own := entries(0, 200)
	r, err := Write(t.Context(), b, "runs/", own, 0)
	if err != nil {
		t.Fatal(err)
	}
	var keys []Key
	for _, e := range own {
		keys = append(keys, e.Key)
	}
	data, _, err := store.ReadAll(t.Context(), b, r.Object)
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(5, 6))
	for range 300 {
		broken := slices.Clone(data)
		if at := random.IntN(len(broken)); random.IntN(4) == 0 {
			broken = broken[:at]
		} else {
			broken[at] ^= byte(1 + random.IntN(255))
		}
		if _, err := b.Put(t.Context(), r.Object, bytes.NewReader(broken), int64(len(broken)), store.Condition{}); err != nil {
			t.Fatal(err)
		}
		err := Find(t.Context(), b, []Run{r}, keys, func(Key, []byte) error { return nil })
		if !fault.Is(err, fault.Internal) {
			t.Fatalf("found in broken bytes: %v", err)
		}
		if err := r.Read(t.Context(), b, func(Entry) error { return nil }); !fault.Is(err, fault.Internal) {
			t.Fatalf("read of broken bytes: %v", err)
		}
	}
	if err := b.Delete(t.Context(), r.Object); err != nil {
		t.Fatal(err)
	}
	if err := Find(t.Context(), b, []Run{r}, keys, nil); !fault.Is(err, fault.NotFound) {
		t.Errorf("got %v", err)
	}
}

// FuzzRun reads any bytes, with checksums that hold.
func FuzzRun(f *testing.F) {
	b := memory(f)
	r, err := Write(context.Background(), b, "runs/", entries(0, 70), 0)
	if err != nil {
		f.Fatal(err)
	}
	data, _, err := store.ReadAll(context.Background(), b, r.Object)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data, 70)
	f.Add([]byte(magic), 1)
	f.Fuzz(func(t *testing.T, data []byte, n int) {
		if n < 1 || n > 1000 {
			return
		}
		data = slices.Clone(data)
		if h := int(headSize(n)); len(data) >= h {
			binary.BigEndian.PutUint32(data[h-4:], crc32.Checksum(data[:h-4], castagnoli))
			if len(data) >= h+4 {
				binary.BigEndian.PutUint32(data[len(data)-4:], crc32.Checksum(data[h:len(data)-4], castagnoli))
			}
		}
		b := memory(t)
		if _, err := b.Put(t.Context(), "runs/x", bytes.NewReader(data), int64(len(data)), store.Condition{}); err != nil {
			t.Fatal(err)
		}
		r := Run{Object: "runs/x", Entries: n, Size: int64(len(data))}
		var keys []Key
		if err := r.Read(t.Context(), b, func(e Entry) error {
			keys = append(keys, e.Key)
			return nil
		}); err == nil && len(keys) != n {
			t.Errorf("read %d entries of %d", len(keys), n)
		}
		_ = Find(t.Context(), b, []Run{r}, keys, func(Key, []byte) error { return nil })
	})
}

// However large entries are, what Split cuts is a run, and eight of those are.
func TestSplit(t *testing.T) {
	large := make([]byte, 60<<10)
	for _, c := range []struct{ small, large int }{{0, 0}, {1, 0}, {3 * MaxEntries, 0}, {0, 5000}, {MaxEntries / 4, 1000}} {
		entries := make([]Entry, c.small+c.large)
		for i := range c.large {
			entries[i].Data = large
		}
		n := 0
		for some := range Split(entries) {
			size := 0
			for i := range some {
				size += 32 + len(some[i].Data)
			}
			if len(some) == 0 || 8*len(some) > MaxEntries || 8*size > MaxSize {
				t.Errorf("%+v: got a part of %d entries, %d bytes", c, len(some), size)
			}
			n += len(some)
		}
		if n != len(entries) {
			t.Errorf("%+v: got %d entries", c, n)
		}
	}
}
