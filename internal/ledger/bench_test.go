package ledger

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/diskstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/s3store"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
)

// BenchmarkFind looks for keys among four million records of 50 bytes, in runs of the largest size and of smaller ones.
func BenchmarkFind(b *testing.B) {
	openers := store.Openers[store.Blob]{"file": diskstore.OpenBlob, "s3": s3store.OpenBlob}
	for _, raw := range []string{"file://" + b.TempDir(), storetest.S3URL(b)} {
		blob, err := openers.Open(b.Context(), raw)
		if err != nil {
			b.Fatal(err)
		}
		kind, _, _ := strings.Cut(raw, ":")
		var runs []Run
		all := 0
		for _, n := range []int{MaxEntries, MaxEntries, MaxEntries, MaxEntries, MaxEntries, MaxEntries, MaxEntries, 100_000, 20_000, 5000, 1000} {
			entries := make([]Entry, n)
			for i := range entries {
				entries[i] = Entry{KeyOf(fmt.Sprint(all)), make([]byte, 50)}
				binary.BigEndian.PutUint64(entries[i].Data, uint64(all))
				all++
			}
			r, err := Write(b.Context(), blob, "runs/", entries, 0)
			if err != nil {
				b.Fatal(err)
			}
			runs = append(runs, r)
		}
		for _, n := range []int{1, 1000, 20_000} {
			keys := make([]Key, n)
			for i := range keys {
				keys[i] = KeyOf(fmt.Sprint(i * (all / n)))
			}
			b.Run(fmt.Sprintf("%s/keys=%d", kind, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					found := 0
					err := Find(b.Context(), blob, runs, keys, func(Key, []byte) error {
						found++
						return nil
					})
					if found != n || err != nil {
						b.Fatalf("found %d, %v", found, err)
					}
				}
			})
		}
	}
}
