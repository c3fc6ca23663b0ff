package model

import (
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
)

// shelf is a bucket that counts the keys that lists give.
type shelf struct {
	store.Blob
	listed int
}

func (s *shelf) List(ctx context.Context, prefix, after string) iter.Seq2[store.Object, error] {
	return func(yield func(store.Object, error) bool) {
		for o, err := range s.Blob.List(ctx, prefix, after) {
			s.listed++
			if !yield(o, err) {
				return
			}
		}
	}
}

func openShelf(t testing.TB) *shelf {
	t.Helper()
	b, err := memstore.OpenBlob(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return &shelf{Blob: b}
}

func (s *shelf) put(t testing.TB, key, value string) {
	t.Helper()
	if _, err := s.Put(t.Context(), key, strings.NewReader(value), int64(len(value)), store.Condition{}); err != nil {
		t.Fatal(err)
	}
}

// Pages of any size give the same as all at once: each name once, in the order of names, which is not that of keys.
func TestPagesOfModels(t *testing.T) {
	bucket := openShelf(t)
	var names []string
	random := rand.New(rand.NewPCG(1, 2))
	for len(names) < 150 {
		name := string("ab"[random.IntN(2)])
		for range random.IntN(6) {
			name += string("-.a0_-"[random.IntN(6)])
		}
		if slices.Contains(names, name) {
			continue
		}
		names = append(names, name)
		for v := range 1 + random.IntN(3) {
			bucket.put(t, versionKey(name, v+1), "{}")
		}
		if random.IntN(2) == 0 {
			bucket.put(t, aliasKey(name), `{"aliases":{"champion":1}}`)
		}
		bucket.put(t, cardKey(name, 1), "{}")
	}
	bucket.put(t, aliasKey("bb"), `{}`) // it has no version
	slices.Sort(names)
	c := NewCatalog(bucket, 0, nil)
	for _, prefix := range []string{"", "a", "a-", "b.a", "ba0", "bb", "c", "/", "../", "\u202e"} {
		var want []string
		for _, name := range names {
			if strings.HasPrefix(name, prefix) {
				want = append(want, name)
			}
		}
		for _, limit := range []int{0, 1, 2, 7, 1000} {
			var got []string
			for after, more := "", true; more; {
				var list []*Listed
				var err error
				if list, more, err = c.List(t.Context(), prefix, after, limit); err != nil {
					t.Fatal(err)
				}
				for _, l := range list {
					got = append(got, l.Name)
				}
				if more {
					after = got[len(got)-1]
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("%q by %d:\ngot  %q\nwant %q", prefix, limit, got, want)
			}
		}
	}
	for _, after := range []string{"a-zzz", "b0-", "zz", "/"} {
		list, _, err := c.List(t.Context(), "", after, 1)
		at, found := slices.BinarySearch(names, after)
		if found {
			at++
		}
		if err != nil || after == "/" && len(list) != 0 || after != "/" && (len(list) == 1) != (at < len(names)) || len(list) == 1 && list[0].Name != names[at] {
			t.Errorf("after %q: got %v %v", after, list, err)
		}
	}
}

// A page reads little more of the bucket than what it is about, however many models there are.
func TestPageOfManyModels(t *testing.T) {
	bucket := openShelf(t)
	for i := range 5000 {
		name := fmt.Sprintf("model-%05d", i)
		bucket.put(t, versionKey(name, 1), "{}")
		bucket.put(t, aliasKey(name), `{"aliases":{"champion":1}}`)
	}
	c := NewCatalog(bucket, 0, nil)
	list, more, err := c.List(t.Context(), "", "model-02500", 100)
	if err != nil || len(list) != 100 || !more || list[0].Name != "model-02501" || list[0].Aliases[Champion] != 1 || list[0].Versions != 1 || list[0].Newest != 1 {
		t.Fatalf("got %d, the first %+v, %v", len(list), list[0], err)
	}
	if bucket.listed > 300 {
		t.Errorf("%d keys were read for a page of 100 models with two each", bucket.listed)
	}
}

// BenchmarkPageOfModels lists a hundred of a hundred thousand models in memory.
func BenchmarkPageOfModels(b *testing.B) {
	bucket := openShelf(b)
	for i := range 100_000 {
		name := fmt.Sprintf("model-%06d", i)
		bucket.put(b, versionKey(name, 1), "{}")
		bucket.put(b, aliasKey(name), `{"aliases":{"champion":1}}`)
	}
	c := NewCatalog(bucket, 0, nil)
	for b.Loop() {
		if list, _, err := c.List(b.Context(), "", "model-050000", 100); err != nil || len(list) != 100 {
			b.Fatal(err)
		}
	}
}
