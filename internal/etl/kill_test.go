package etl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/s3store"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
)

// unsteady is SQL that gives other rows whenever it runs: what was decided must not be computed again.
const unsteady = `
  from: [{name: landed, files: landing/sales/}]
  sql: SELECT "at", shop, n, random() AS price FROM landed WHERE n >= 0 OR n IS NULL UNION ALL SELECT "at", shop, n, -1 FROM landed
  most: 60%%
  into: %s
`

// A load that is killed at any of its writes, and repeated by the same run or by the next one, ends with each row once, in a log or in files.
func TestKilled(t *testing.T) {
	for _, source := range []string{"sales", "prices"} {
		for _, again := range []string{"1", "2"} { // the run that goes on
			t.Run(source+" "+again, func(t *testing.T) {
				kills := 0
				for write := 0; ; write++ {
					w := newWorld(t, memBlob(t))
					var b strings.Builder
					b.WriteString("at,shop,n,price\n")
					for i := range 40 {
						fmt.Fprintf(&b, "2026-01-%02dT10:00:00Z,x,%d,1\n", 1+i/8, i)
					}
					w.put("landing/sales/a.csv", b.String())
					with := fmt.Sprintf(unsteady, source)
					_, err := w.run(t.Context(), "1", "load", with, storetest.NewMortal(w.blob, write))
					if err != nil {
						if !errors.Is(err, storetest.ErrKilled) {
							t.Fatal(err)
						}
						kills++
					}
					r, failed := w.run(t.Context(), again, "load", with, nil)
					if failed != nil {
						t.Fatalf("killed at write %d, then: %v", write, failed)
					}
					if again == "1" && (r.Rows != 40 || r.SetAside != 40 || r.Files != 1) {
						t.Errorf("killed at write %d: the run tells %+v", write, r)
					}
					if _, err := w.run(t.Context(), "3", "load", with, nil); err != nil {
						t.Fatal(err)
					}
					var got []string
					for _, row := range w.rows(source) {
						got = append(got, strings.Join(strings.Fields(row)[:3], " ")) // without the random price
					}
					var want []string
					for i := range 40 {
						want = append(want, fmt.Sprintf("01-%02dT10:00 x %d", 1+i/8, i))
					}
					slices.Sort(want)
					if !slices.Equal(got, want) {
						t.Errorf("killed at write %d: got %d rows: %q", write, len(got), got)
					}
					if left := w.objects("pipelines/shop/staged/"); len(left) > 1 {
						t.Errorf("killed at write %d: left behind: %q", write, left)
					}
					if err == nil {
						break
					}
				}
				if kills < 5 {
					t.Errorf("it was killed %d times, so that little was tried", kills)
				}
			})
		}
	}
}

// Files that come in any order, between runs that are killed anywhere, are taken once each.
func TestFilesInAnyOrder(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { inAnyOrder(t, newWorld(t, memBlob(t)), seed) })
	}
}

func TestOnS3(t *testing.T) {
	u, err := url.Parse(storetest.S3URL(t))
	if err != nil {
		t.Fatal(err)
	}
	blob, err := s3store.OpenBlob(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = blob.Close() }()
	inAnyOrder(t, newWorld(t, blob), 42)
}

func inAnyOrder(t *testing.T, w *world, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 8))
	source := []string{"sales", "prices"}[r.IntN(2)]
	with := fmt.Sprintf("  from: [{name: landed, files: landing/sales/, columns: {at: TIMESTAMPTZ, shop: VARCHAR, n: BIGINT}}]\n  sql: FROM landed\n  into: %s\n  bad_files: quarantine\n", source)
	var want []string
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	n := 0
	taken, runs := 0, 0
	run := func(blob store.Blob) error {
		_, err := w.run(t.Context(), fmt.Sprint(runs), "load", with, blob)
		if err == nil {
			taken++
		}
		return err
	}
	for range 10 {
		runs++
		for range r.IntN(4) { // files
			name := fmt.Sprintf("landing/sales/%d", r.Uint32())
			var csv, json strings.Builder
			csv.WriteString("at,shop,n\n")
			for range 1 + r.IntN(20) {
				n++
				of := at.Add(time.Duration(r.IntN(100)) * time.Hour)
				want = append(want, fmt.Sprintf("%s s%d %d", of.Format("01-02T15:04"), n%3, n))
				fmt.Fprintf(&csv, "%s,s%d,%d\n", of.Format(time.RFC3339), n%3, n)
				fmt.Fprintf(&json, `{"at": %q, "shop": "s%d", "n": %d}`+"\n", of.Format(time.RFC3339), n%3, n)
			}
			switch r.IntN(4) {
			case 0:
				w.put(name+".csv", csv.String())
			case 1:
				w.put(name+".csv.gz", zipped(csv.String()))
			case 2:
				w.put(name+".jsonl", json.String())
			default:
				w.put(name+".csv", csv.String())
				w.put(name+".csv", csv.String()) // the same again
				w.put(name+".parquet", "no Parquet")
			}
		}
		if r.IntN(3) > 0 {
			if err := run(storetest.NewMortal(w.blob, r.IntN(8))); err != nil && !errors.Is(err, storetest.ErrKilled) {
				t.Fatal(err)
			}
		}
		if r.IntN(2) == 0 {
			if err := run(w.blob); err != nil {
				t.Fatal(err)
			}
		}
	}
	runs++
	if err := run(w.blob); err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	if got := w.rows(source); !slices.Equal(got, want) {
		t.Errorf("%d rows of %s, want %d: got %q, want %q", len(got), source, len(want), got, want)
	}
}

// Whoever was believed dead and goes on changes nothing: the state is no more what it read.
func TestTwoAtOnce(t *testing.T) {
	w := newWorld(t, memBlob(t))
	w.put("landing/sales/a.csv", "at,shop,n,price\n2026-01-01T10:00:00Z,x,1,2.5\n")
	slow := &meddling{Blob: w.blob, prefix: "pipelines/shop/staged/"}
	slow.then = func() { w.load("1", simple) }
	_, err := w.run(t.Context(), "1", "load", simple, slow)
	wantError(t, err, fault.Unavailable, "the same step is under way elsewhere")
	equal(t, "rows", w.rows("sales"), "[01-01T10:00 x 1 2.5]")
	if r := w.load("1", simple); r.Rows != 1 {
		t.Errorf("got %+v", r)
	}
}

// Rows that are decided are lost before they are published: their files are taken anew, and the others are not.
func TestDecidedRowsAreLost(t *testing.T) {
	for _, content := range []string{"", "junk"} {
		for write := 1; ; write++ {
			w := newWorld(t, memBlob(t))
			w.put("landing/sales/a.csv", "at,shop,n,price\n2026-01-01T10:00:00Z,x,1,2.5\n")
			w.load("1", simple)
			w.put("landing/sales/b.csv", "at,shop,n,price\n2026-01-02T10:00:00Z,x,2,2.5\n")
			_, err := w.run(t.Context(), "2", "load", simple, storetest.NewMortal(w.blob, write))
			if err == nil {
				break
			}
			for _, key := range w.objects("pipelines/shop/staged/") {
				if content != "" {
					w.put(key, content)
				} else if err := w.blob.Delete(t.Context(), key); err != nil {
					t.Fatal(err)
				}
			}
			r := w.load("3", simple)
			equal(t, "rows", w.rows("sales"), "[01-01T10:00 x 1 2.5 01-02T10:00 x 2 2.5]")
			if r.Files > 1 {
				t.Errorf("killed at write %d: got %+v", write, r)
			}
			if left := w.objects("pipelines/shop/staged/"); r.Files == 1 && len(left) > 0 {
				t.Errorf("killed at write %d: left behind: %q", write, left)
			}
		}
	}
}

// meddling does something behind the first write below a prefix.
type meddling struct {
	store.Blob
	prefix string
	then   func()
}

func (m *meddling) Put(ctx context.Context, key string, body io.ReadSeeker, size int64, c store.Condition) (string, error) {
	version, err := m.Blob.Put(ctx, key, body, size, c)
	if then := m.then; then != nil && strings.HasPrefix(key, m.prefix) {
		m.then = nil
		then()
	}
	return version, err
}

// Names of files that mean something to a shell, to SQL or to a file system are names.
func TestHostileNames(t *testing.T) {
	w := newWorld(t, memBlob(t))
	for i, name := range []string{"a=b/date=2026-01-01/c.csv", "-rf.csv", "@x:+.csv", "..csv", "UPPER.CSV", strings.Repeat("n", 190) + ".csv"} {
		if err := store.CheckKey("landing/sales/" + name); err != nil {
			t.Fatal(err)
		}
		w.put("landing/sales/"+name, fmt.Sprintf("at,shop,n\n2026-01-01T10:00:00Z,%s,%d\n", path.Base(name)[:3], i))
	}
	if r := w.load("1", strings.Replace(simple, "sales/}", "sales/, columns: {at: TIMESTAMPTZ, shop: VARCHAR, n: BIGINT}}", 1)); r.Rows != 6 {
		t.Errorf("got %+v", r)
	}
}
