package offline

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/duck"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// manyFiles is a world whose log has several files a day.
func manyFiles(t *testing.T) *world {
	w := fullWorld(t)
	for range 4 {
		w.fillAgain(t)
	}
	return w
}

// Compaction may be stopped between any two writes: a training set is the same before, and
// after each stop.
func TestCompactStopped(t *testing.T) {
	w := manyFiles(t)
	src, err := w.defs.Source("pushed")
	if err != nil {
		t.Fatal(err)
	}
	plan, rows := w.plan(t), encodeAsked(t, w.ask(200), CSV)
	want := w.train(t, open(t, w.blob), plan, rows, CSV)
	before, err := open(t, w.blob).list(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	stops := 0
	for n := 0; ; n++ {
		s := open(t, stopAfter(w.blob, 2+5*n))
		s.files.from = 1 + n%2*joinFrom
		_, err := s.Compact(t.Context(), src)
		if got := w.train(t, open(t, w.blob), plan, rows, CSV); !reflect.DeepEqual(got, want) {
			t.Fatalf("after %d stops the training set is another", stops)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, errBroken) {
			t.Fatal(err)
		}
		stops++
	}
	s := open(t, w.blob)
	after, err := s.list(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	days := map[string]int{}
	for _, o := range after {
		days[dayOf(o.Key)]++
	}
	for day, n := range days {
		if n >= compactFrom {
			t.Errorf("%s has %d files, want less than %d", day, n, compactFrom)
		}
	}
	if stops < 3 || len(after) >= len(before) {
		t.Errorf("stopped %d times, and of %d files %d are left, which shows little", stops, len(before), len(after))
	}
	if again, err := s.Compact(t.Context(), src); err != nil || again != (Compacted{}) {
		t.Errorf("compacting again: %+v, %v, want nothing done", again, err)
	}
}

// stopping is a bucket that fails after some changes, for good.
type stopping struct {
	store.Blob
	left atomic.Int64
}

func stopAfter(blob store.Blob, changes int) *stopping {
	b := &stopping{Blob: blob}
	b.left.Store(int64(changes))
	return b
}

func (b *stopping) Put(ctx context.Context, key string, body io.ReadSeeker, size int64, c store.Condition) (string, error) {
	if b.left.Add(-1) < 0 {
		return "", errBroken
	}
	return b.Blob.Put(ctx, key, body, size, c)
}

func (b *stopping) Delete(ctx context.Context, key string) error {
	if b.left.Add(-1) < 0 {
		return errBroken
	}
	return b.Blob.Delete(ctx, key)
}

// Who reads while files are joined sees every row, once.
func TestCompactWhileRead(t *testing.T) {
	w := manyFiles(t)
	src, err := w.defs.Source("pushed")
	if err != nil {
		t.Fatal(err)
	}
	plan, rows := w.plan(t), encodeAsked(t, w.ask(50), CSV)
	reader, compactor := open(t, w.blob), open(t, w.blob)
	reader.files.from = 1
	want := w.train(t, reader, plan, rows, CSV)
	log, err := segment.NewLog(w.blob, src.Name, src.Columns)
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var running sync.WaitGroup
	joined := 0
	running.Go(func() {
		r := rand.New(rand.NewPCG(1, 1))
		for {
			// The same rows are written again, in other files, and joined again.
			for range 8 {
				x := w.rows["pushed"][r.IntN(len(w.rows["pushed"]))]
				if _, err := log.Append(t.Context(), func(yield func(segment.Row) bool) { yield(segment.Row(x)) }); err != nil {
					t.Error(err)
				}
			}
			c, err := compactor.Compact(t.Context(), src)
			if err != nil {
				t.Error(err)
			}
			joined += c.Joined
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	for range 15 {
		if got := w.train(t, reader, plan, rows, CSV); !reflect.DeepEqual(got, want) {
			t.Error("a training set is another while files are joined")
		}
	}
	close(stop)
	running.Wait()
	if joined == 0 {
		t.Error("nothing was joined")
	}
}

// Columns that a source has no more stay in its log.
func TestCompactKeepsColumns(t *testing.T) {
	w := fullWorld(t)
	src, err := w.defs.Source("pushed")
	if err != nil {
		t.Fatal(err)
	}
	w.blob = memBlob(t)
	s := open(t, w.blob)
	log, err := segment.NewLog(w.blob, src.Name, []row.Field{{Name: "shop", Type: row.String}, {Name: "former", Type: row.ListOf(row.Int32)}})
	if err != nil {
		t.Fatal(err)
	}
	former := row.OfList(row.Int32, row.OfInt32(7))
	for i := range 5 {
		if _, err := log.Append(t.Context(), func(yield func(segment.Row) bool) {
			yield(segment.Row{Values: []row.Value{row.OfString("a"), former}, Event: epoch, Created: epoch + int64(i), ID: uint64(i % 4)})
		}); err != nil {
			t.Fatal(err)
		}
	}
	if c, err := s.Compact(t.Context(), src); err != nil || c.Joined != 5 {
		t.Fatalf("joined %+v, %v, want 5 files", c, err)
	}
	objects, err := s.list(t.Context(), src)
	if err != nil || len(objects) != 1 {
		t.Fatalf("got %d files, %v, want 1", len(objects), err)
	}
	s.files.begin()
	files, err := s.files.get(t.Context(), objects, true)
	if err != nil {
		t.Fatal(err)
	}
	from, err := duck.OpenScan(files[0].paths[0], []row.Field{{Name: segment.Created, Type: row.Timestamp}, {Name: "former", Type: former.Type()}})
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	values := make([]row.Value, 2)
	for i := range int64(4) {
		if err := from.Next(values); err != nil || !values[1].Equal(former) || values[0].Int() != epoch+i {
			t.Errorf("row %d is %v, %v", i, values, err)
		}
	}
	if err := from.Next(values); !errors.Is(err, io.EOF) {
		t.Errorf("after the last row: %v, %v, want the end", values, err)
	}
}

func TestCompactOnce(t *testing.T) {
	w := manyFiles(t)
	src, err := w.defs.Source("pushed")
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, w.blob)
	_, release, err := s.lease(t.Context(), "features/compact/pushed", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Compact(t.Context(), src); !fault.Is(err, fault.Conflict) {
		t.Errorf("a second compaction: got %v, want a conflict", err)
	}
	release()
	hurt, err := s.list(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	put(t, w.blob, hurt[0].Key, []byte("no parquet"))
	before := len(hurt)
	_, err = s.Compact(t.Context(), src)
	after, _ := s.list(t.Context(), src)
	if !fault.Is(err, fault.Internal) || !bytes.Contains([]byte(fault.Message(err)), []byte(hurt[0].Key)) || len(after) != before {
		t.Errorf("with a damaged file: got %v and %d files, want a fault that names %s, and all %d files", err, len(after), hurt[0].Key, before)
	}
}
