package storetest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Online checks a backend of store.Online. Open gives an empty store and
// registers whatever must be cleaned up.
func Online(t *testing.T, open func(t *testing.T) store.Online) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, o store.Online)
	}{
		{"missing", onlineMissing},
		{"round trip", onlineRoundTrip},
		{"the newest wins", onlineNewest},
		{"refused", onlineRefused},
		{"expiry", onlineExpiry},
		{"big batches", onlineBig},
		{"values are copies", onlineCopies},
		{"cancelled", onlineCancelled},
		{"races", func(t *testing.T, o store.Online) { onlineRaces(t, o, o) }},
		{"counters", func(t *testing.T, o store.Online) { onlineCounters(t, o, o) }},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
}

// SharedOnline checks that two handles on one backend are one store. Open gives
// both, opened separately.
func SharedOnline(t *testing.T, open func(t *testing.T) (a, b store.Online)) {
	t.Run("two handles", func(t *testing.T) {
		a, b := open(t)
		writeRow(t, a, true, store.OnlineRow{Key: "k", Stamp: store.Stamp{Event: 1}, Value: []byte("from a")})
		if got := readRows(t, b, "k")[0]; string(got.Value) != "from a" {
			t.Errorf("got %q through the other handle, want %q", got.Value, "from a")
		}
		onlineRaces(t, a, b)
		onlineCounters(t, a, b)
	})
}

func readRows(t testing.TB, o store.Online, keys ...string) []store.OnlineRow {
	t.Helper()
	rows, err := o.Read(t.Context(), keys, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != len(keys) {
		t.Fatalf("got %d rows for %d keys", len(rows), len(keys))
	}
	for i := range rows {
		if rows[i].Key != keys[i] {
			t.Fatalf("row %d is that of %q, want %q", i, rows[i].Key, keys[i])
		}
	}
	return rows
}

func writeRow(t testing.TB, o store.Online, want bool, row store.OnlineRow) {
	t.Helper()
	stored, err := o.Write(t.Context(), []store.OnlineRow{row})
	if err != nil {
		t.Fatal(err)
	}
	if len(stored) != 1 || stored[0] != want {
		t.Errorf("write of %q with stamp %v: got stored %v, want %t", row.Key, row.Stamp, stored, want)
	}
}

func onlineMissing(t *testing.T, o store.Online) {
	if got := readRows(t, o, "none")[0]; (got.Stamp != store.Stamp{}) || got.Value != nil {
		t.Errorf("got %v %q for a missing key, want nothing", got.Stamp, got.Value)
	}
	if err := o.Delete(t.Context(), []string{"none"}); err != nil {
		t.Error(err)
	}
	readRows(t, o)
	for _, f := range []func() error{
		func() error { _, err := o.Write(t.Context(), nil); return err },
		func() error { _, err := o.Replace(t.Context(), nil, nil); return err },
		func() error { return o.Delete(t.Context(), nil) },
	} {
		if err := f(); err != nil {
			t.Errorf("an empty batch: %v", err)
		}
	}
}

func onlineRoundTrip(t *testing.T, o store.Online) {
	binaryKey := "f/view\x00\x06\x03a\xff\xfe*[?\\\r\n"
	rows := []store.OnlineRow{
		{Key: "a", Stamp: store.Stamp{Event: 1<<53 - 1, Created: -(1<<53 - 1)}, Value: []byte("one")},
		{Key: binaryKey, Stamp: store.Stamp{Event: -5, Created: 7}, Value: []byte{0, 255, '\r', '\n'}},
		{Key: "empty", Stamp: store.Stamp{Created: 1}},
		{Key: "large", Stamp: store.Stamp{Event: 1}, Value: pattern(1 << 20)},
	}
	stored, err := o.Write(t.Context(), rows)
	if err != nil || slices.Contains(stored, false) {
		t.Fatalf("got %v, %v", stored, err)
	}
	got := readRows(t, o, "empty", "none", binaryKey, "a", "large", binaryKey)
	for i, want := range []store.OnlineRow{rows[2], {Key: "none"}, rows[1], rows[0], rows[3], rows[1]} {
		if got[i].Stamp != want.Stamp || string(got[i].Value) != string(want.Value) {
			t.Errorf("%q: got %v %.20q, want %v %.20q", want.Key, got[i].Stamp, got[i].Value, want.Stamp, want.Value)
		}
	}
	prefix := []store.OnlineRow{{Key: "kept"}}
	all, err := o.Read(t.Context(), []string{"a"}, prefix)
	if err != nil || len(all) != 2 || all[0].Key != "kept" || all[1].Key != "a" {
		t.Errorf("got %v, %v: rows go behind those of dst", all, err)
	}
	if err := o.Delete(t.Context(), []string{"a", "none", "empty"}); err != nil {
		t.Fatal(err)
	}
	if got := readRows(t, o, "a", binaryKey); (got[0].Stamp != store.Stamp{}) || got[1].Stamp != rows[1].Stamp {
		t.Errorf("after a delete got %v and %v", got[0].Stamp, got[1].Stamp)
	}
}

func onlineNewest(t *testing.T, o store.Online) {
	row := func(event, created int64, value string) store.OnlineRow {
		return store.OnlineRow{Key: "k", Stamp: store.Stamp{Event: event, Created: created}, Value: []byte(value)}
	}
	writeRow(t, o, true, row(10, 5, "first"))
	writeRow(t, o, false, row(9, 100, "older"))
	writeRow(t, o, false, row(10, 4, "made earlier"))
	writeRow(t, o, false, row(10, 5, "the same"))
	writeRow(t, o, true, row(10, 6, "made later"))
	writeRow(t, o, true, row(11, -1, "newer"))
	if got := readRows(t, o, "k")[0]; string(got.Value) != "newer" {
		t.Errorf("got %q, want newer", got.Value)
	}
	stored, err := o.Write(t.Context(), []store.OnlineRow{row(20, 0, "a"), row(30, 0, "b"), row(25, 0, "c"), {Key: "other", Stamp: store.Stamp{Event: 1}}})
	if want := []bool{true, true, false, true}; err != nil || !slices.Equal(stored, want) {
		t.Errorf("a key several times in a batch: got %v, %v, want %v", stored, err, want)
	}

	replace := func(want bool, r store.OnlineRow, was store.Stamp) {
		t.Helper()
		stored, err := o.Replace(t.Context(), []store.OnlineRow{r}, []store.Stamp{was})
		if err != nil {
			t.Fatal(err)
		}
		if stored[0] != want {
			t.Errorf("replace %v by %v %q: got %t, want %t", was, r.Stamp, r.Value, stored[0], want)
		}
	}
	replace(false, row(31, 0, "x"), store.Stamp{})
	replace(false, row(31, 0, "x"), store.Stamp{Event: 29})
	replace(true, row(30, 1, "x"), store.Stamp{Event: 30})
	replace(false, row(30, 1, "x"), store.Stamp{Event: 30}) // an equal rival comes too late all the same
	replace(true, row(31, 0, "y"), store.Stamp{Event: 30, Created: 1})
	if got := readRows(t, o, "k")[0]; string(got.Value) != "y" {
		t.Errorf("got %q, want y", got.Value)
	}
	fresh := store.OnlineRow{Key: "fresh", Stamp: store.Stamp{Event: 1}, Value: []byte("z")}
	replace(false, fresh, store.Stamp{Created: 1})
	replace(true, fresh, store.Stamp{})
}

func onlineRefused(t *testing.T, o store.Online) {
	good := store.OnlineRow{Key: "good", Stamp: store.Stamp{Event: 1}}
	for name, bad := range map[string]store.OnlineRow{
		"no key":            {Stamp: store.Stamp{Event: 1}},
		"a long key":        {Key: string(make([]byte, 1025)), Stamp: store.Stamp{Event: 1}},
		"no stamp":          {Key: "k"},
		"a stamp too large": {Key: "k", Stamp: store.Stamp{Event: 1 << 53}},
		"a stamp too small": {Key: "k", Stamp: store.Stamp{Event: 1, Created: -1 << 53}},
		"a negative ttl":    {Key: "k", Stamp: store.Stamp{Event: 1}, TTL: -1},
	} {
		if _, err := o.Write(t.Context(), []store.OnlineRow{good, bad}); !fault.Is(err, fault.Invalid) {
			t.Errorf("write with %s: got %v, want Invalid", name, err)
		}
		if _, err := o.Replace(t.Context(), []store.OnlineRow{good, bad}, make([]store.Stamp, 2)); !fault.Is(err, fault.Invalid) {
			t.Errorf("replace with %s: got %v, want Invalid", name, err)
		}
	}
	was := []store.Stamp{{}, {Event: 5}}
	for name, bad := range map[string][]store.OnlineRow{
		"an earlier stamp": {good, {Key: "k", Stamp: store.Stamp{Event: 4, Created: 9}}},
		"the same stamp":   {good, {Key: "k", Stamp: store.Stamp{Event: 5}}},
		"too few rows":     {good},
		"too many rows":    {good, {Key: "k", Stamp: store.Stamp{Event: 6}}, {Key: "l", Stamp: store.Stamp{Event: 6}}},
	} {
		if _, err := o.Replace(t.Context(), bad, was); !fault.Is(err, fault.Invalid) {
			t.Errorf("replace with %s: got %v, want Invalid", name, err)
		}
	}
	for _, key := range []string{"", string(make([]byte, 1025))} {
		if got, err := o.Read(t.Context(), []string{"good", key}, make([]store.OnlineRow, 1)); !fault.Is(err, fault.Invalid) || len(got) != 1 {
			t.Errorf("read of a key of %d bytes: got %d rows, %v, want dst and Invalid", len(key), len(got), err)
		}
		if err := o.Delete(t.Context(), []string{"good", key}); !fault.Is(err, fault.Invalid) {
			t.Errorf("delete of a key of %d bytes: got %v, want Invalid", len(key), err)
		}
	}
	if got := readRows(t, o, "good")[0]; (got.Stamp != store.Stamp{}) {
		t.Error("a batch with a bad row was stored in part")
	}
}

func onlineExpiry(t *testing.T, o store.Online) {
	const ttl = 50 * time.Millisecond
	writeRow(t, o, true, store.OnlineRow{Key: "long", Stamp: store.Stamp{Event: 10}, Value: []byte("v"), TTL: time.Hour})
	writeRow(t, o, true, store.OnlineRow{Key: "k", Stamp: store.Stamp{Event: 10}, Value: []byte("v"), TTL: ttl})
	writeRow(t, o, true, store.OnlineRow{Key: "stays", Stamp: store.Stamp{Event: 10}, TTL: ttl})
	writeRow(t, o, true, store.OnlineRow{Key: "stays", Stamp: store.Stamp{Event: 11}})
	time.Sleep(2 * ttl)
	got := readRows(t, o, "k", "stays")
	if (got[0].Stamp != store.Stamp{}) || got[0].Value != nil {
		t.Errorf("got %v after its time, want nothing", got[0].Stamp)
	}
	if got[1].Stamp.Event != 11 {
		t.Error("a row that was written anew for ever has expired")
	}
	if got := readRows(t, o, "long")[0]; string(got.Value) != "v" {
		t.Errorf("got %q, want a row kept for its hour", got.Value)
	}
	// An expired row holds back no older one, and is nothing to replace.
	old := store.OnlineRow{Key: "k", Stamp: store.Stamp{Event: 11}}
	if stored, err := o.Replace(t.Context(), []store.OnlineRow{old}, []store.Stamp{{Event: 10}}); err != nil || stored[0] {
		t.Errorf("replace of an expired row: got %v, %v, want it refused", stored, err)
	}
	writeRow(t, o, true, store.OnlineRow{Key: "k", Stamp: store.Stamp{Event: 1}, TTL: time.Nanosecond})
	time.Sleep(20 * time.Millisecond)
	short := store.OnlineRow{Key: "k", Stamp: store.Stamp{Event: 1}, TTL: time.Millisecond}
	if stored, err := o.Replace(t.Context(), []store.OnlineRow{short}, make([]store.Stamp, 1)); err != nil || !stored[0] {
		t.Errorf("replace of nothing after the shortest time: got %v, %v, want it put", stored, err)
	}
	time.Sleep(20 * time.Millisecond)
	if got := readRows(t, o, "k")[0]; (got.Stamp != store.Stamp{}) {
		t.Errorf("got %v after its time, want nothing", got.Stamp)
	}
}

func onlineBig(t *testing.T, o store.Online) {
	const n = 50_000
	rows, keys := make([]store.OnlineRow, n), make([]string, n)
	for i := range rows {
		keys[i] = "big/" + strconv.Itoa(i)
		rows[i] = store.OnlineRow{Key: keys[i], Stamp: store.Stamp{Event: int64(i + 1)}, Value: []byte(keys[i])}
	}
	stored, err := o.Write(t.Context(), rows)
	if err != nil || len(stored) != n || slices.Contains(stored, false) {
		t.Fatalf("got %d answers, %v", len(stored), err)
	}
	for i, r := range readRows(t, o, keys...) {
		if string(r.Value) != keys[i] || r.Stamp != rows[i].Stamp {
			t.Fatalf("row %d: got %v %q", i, r.Stamp, r.Value)
		}
	}
	was := make([]store.Stamp, n)
	for i := range rows {
		was[i], rows[i].Stamp = rows[i].Stamp, store.Stamp{Event: n + 1}
	}
	was[n/2].Event++
	stored, err = o.Replace(t.Context(), rows, was)
	if err != nil || slices.Index(stored, false) != n/2 {
		t.Errorf("got the first refusal at %d, %v, want at %d", slices.Index(stored, false), err, n/2)
	}
}

func onlineCopies(t *testing.T, o store.Online) {
	value := []byte("value")
	writeRow(t, o, true, store.OnlineRow{Key: "k", Stamp: store.Stamp{Event: 1}, Value: value})
	value[0] = 'X'
	got := readRows(t, o, "k")[0].Value
	got[1] = 'X'
	if again := readRows(t, o, "k")[0].Value; string(again) != "value" {
		t.Errorf("got %q, want it as it was written", again)
	}
	twice := readRows(t, o, "k", "k")
	_ = append(twice[0].Value, "over the end"...)
	if got := string(twice[1].Value); got != "value" {
		t.Errorf("got %q, want a value that does not change with its neighbour", got)
	}
}

func onlineCancelled(t *testing.T, o store.Online) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	row := store.OnlineRow{Key: "k", Stamp: store.Stamp{Event: 1}}
	for name, f := range map[string]func() error{
		"read":    func() error { _, err := o.Read(ctx, []string{"k"}, nil); return err },
		"write":   func() error { _, err := o.Write(ctx, []store.OnlineRow{row}); return err },
		"replace": func() error { _, err := o.Replace(ctx, []store.OnlineRow{row}, make([]store.Stamp, 1)); return err },
		"delete":  func() error { return o.Delete(ctx, []string{"k"}) },
	} {
		if err := f(); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v, want %v", name, err, context.Canceled)
		}
	}
}

// onlineRaces has many writers put the same rows in batches and orders of their
// own, while readers watch that no key ever goes back.
func onlineRaces(t *testing.T, handles ...store.Online) {
	const stamps, writers, batch = 60, 8, 7
	keys := []string{"race/0", "race/1", "race/2", "race/3", "race/4"}
	var put [stamps + 1][5]atomic.Int64 // how many were told that they put this one
	var writing, watching sync.WaitGroup
	done := make(chan struct{})
	for _, o := range handles {
		watching.Go(func() {
			last := make([]store.Stamp, len(keys))
			for {
				rows, err := o.Read(t.Context(), keys, nil)
				if err != nil {
					t.Error(err)
					return
				}
				for i, r := range rows {
					if last[i].After(r.Stamp) {
						t.Errorf("%s went back from %v to %v", r.Key, last[i], r.Stamp)
					}
					if (r.Stamp != store.Stamp{}) && string(r.Value) != strconv.FormatInt(r.Stamp.Created, 10) {
						t.Errorf("%s with stamp %v has the value %q of another", r.Key, r.Stamp, r.Value)
					}
					last[i] = r.Stamp
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for w := range writers {
		writing.Go(func() {
			o := handles[w%len(handles)]
			for order := range slices.Chunk(rand.Perm(len(keys)*stamps), batch) {
				rows := make([]store.OnlineRow, len(order))
				for n, i := range order {
					at := i/len(keys) + 1
					rows[n] = store.OnlineRow{Key: keys[i%len(keys)], Stamp: store.Stamp{Event: int64(at / 7), Created: int64(at)}, Value: []byte(strconv.Itoa(at))}
				}
				stored, err := o.Write(t.Context(), rows)
				if err != nil {
					t.Error(err)
					return
				}
				for n, i := range order {
					if stored[n] {
						put[i/len(keys)+1][i%len(keys)].Add(1)
					}
				}
			}
		})
	}
	writing.Wait()
	close(done)
	watching.Wait()
	for i, r := range readRows(t, handles[0], keys...) {
		if string(r.Value) != strconv.Itoa(stamps) {
			t.Errorf("%s: got %s, want %d, the newest", r.Key, r.Value, stamps)
		}
		for at := range put {
			if n := put[at][i].Load(); n > 1 || at == stamps && n == 0 {
				t.Errorf("%s: %d writers were told that they put stamp %d", r.Key, n, at)
			}
		}
	}
}

// onlineCounters has many writers count by reading, adding one and replacing.
func onlineCounters(t *testing.T, handles ...store.Online) {
	const writers, adds = 8, 40
	keys := []string{"counter/a", "counter/b"}
	var wait sync.WaitGroup
	for w := range writers {
		wait.Go(func() {
			o := handles[w%len(handles)]
			left := map[string]int{keys[0]: adds, keys[1]: adds}
			for left[keys[0]]+left[keys[1]] > 0 {
				rows, err := o.Read(t.Context(), keys, nil)
				if err != nil {
					t.Error(err)
					return
				}
				var next []store.OnlineRow
				var was []store.Stamp
				for _, r := range rows {
					if left[r.Key] == 0 {
						continue
					}
					n := uint64(0)
					if r.Value != nil {
						n = binary.BigEndian.Uint64(r.Value)
					}
					// Those who add one to the same make the same row, and only one may count as done.
					value := binary.BigEndian.AppendUint64(nil, n+1)
					was = append(was, r.Stamp)
					next = append(next, store.OnlineRow{Key: r.Key, Stamp: store.Stamp{Event: r.Stamp.Event + 1}, Value: value})
				}
				stored, err := o.Replace(t.Context(), next, was)
				if err != nil {
					t.Error(err)
					return
				}
				for i := range stored {
					if stored[i] {
						left[next[i].Key]--
					}
				}
			}
		})
	}
	wait.Wait()
	for _, r := range readRows(t, handles[0], keys...) {
		if got := binary.BigEndian.Uint64(r.Value); got != writers*adds {
			t.Errorf("%s: got %d, want %d", r.Key, got, writers*adds)
		}
	}
}

// BenchOnline measures a backend of store.Online.
func BenchOnline(b *testing.B, o store.Online) {
	const entities = 10_000
	rows, keys := make([]store.OnlineRow, 1000), make([]string, entities)
	for i := range keys {
		keys[i] = "bench/" + strconv.Itoa(i)
	}
	stamp := int64(0)
	next := func() []store.OnlineRow {
		stamp++
		for i := range rows {
			rows[i] = store.OnlineRow{Key: keys[(int(stamp)*len(rows)+i)%entities], Stamp: store.Stamp{Event: stamp}, Value: make([]byte, 90)}
		}
		return rows
	}
	for range entities / len(rows) {
		if _, err := o.Write(b.Context(), next()); err != nil {
			b.Fatal(err)
		}
	}
	for _, n := range []int{1, 50} {
		b.Run(fmt.Sprint("read ", n), func(b *testing.B) {
			b.ReportAllocs()
			var got []store.OnlineRow
			for i := 0; b.Loop(); i++ {
				at := i * n % (entities - n)
				var err error
				if got, err = o.Read(b.Context(), keys[at:at+n], got[:0]); err != nil || len(got[0].Value) != 90 {
					b.Fatal(len(got[0].Value), err)
				}
			}
		})
	}
	b.Run("write 1000", func(b *testing.B) {
		for b.Loop() {
			if _, err := o.Write(b.Context(), next()); err != nil {
				b.Fatal(err)
			}
		}
	})
}
