package feature

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

func mute(t testing.TB) *telemetry.Telemetry {
	t.Helper()
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		t.Fatal(err)
	}
	return tel
}

var ample = IngestConfig{Rows: 1000, Bytes: 1 << 20, Write: 10 * time.Second, Ahead: time.Hour}

// held is a bucket whose writes can be held up, or fail.
type held struct {
	store.Blob
	begun chan string // the keys of writes, unless it is nil
	free  chan error  // what a write waits for, and ends with
}

func (h *held) Put(ctx context.Context, key string, body io.ReadSeeker, size int64, c store.Condition) (string, error) {
	if h.begun != nil {
		h.begun <- key
		if err := <-h.free; err != nil {
			return "", err
		}
	}
	return h.Blob.Put(ctx, key, body, size, c)
}

func hold(t testing.TB) *held {
	return &held{Blob: bucket(t), begun: make(chan string), free: make(chan error)}
}

func bucket(t testing.TB) store.Blob {
	t.Helper()
	b, err := memstore.OpenBlob(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func ingest(t testing.TB, c IngestConfig, d IngestDeps) *Ingest {
	t.Helper()
	in, err := NewIngest(&c, d, mute(t))
	if err != nil {
		t.Fatal(err)
	}
	in.now = func() time.Time { return now }
	t.Cleanup(func() {
		if err := in.Close(); err != nil {
			t.Error(err)
		}
	})
	return in
}

// plain is a source that no view is made of.
func plain(t testing.TB) *CompiledSource {
	return departures(t, func(s *Set) { s.Views, s.Sources[0].Created, s.Sources[0].Fresh = nil, "", 0 })
}

func departure(i int) Row {
	return Row{Values: []row.Value{row.OfString("AA"), row.OfTime(now), {}, row.OfFloat64(3), {}, row.OfInt64(int64(i))}}
}

// logged counts the rows in each object of a source's log, oldest key first.
func logged(t testing.TB, blob store.Blob, source string) (objects []int64) {
	t.Helper()
	for o, err := range blob.List(t.Context(), segment.Prefix(source), "") {
		if err != nil {
			t.Fatal(err)
		}
		b := read(t, blob, o.Key)
		f, err := parquet.OpenFile(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		objects = append(objects, f.NumRows())
	}
	return objects
}

func read(t testing.TB, blob store.Blob, key string) []byte {
	t.Helper()
	r, _, err := blob.Get(t.Context(), key, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// waiting waits until so many rows wait behind what is being written.
func waiting(in *Ingest, source string, rows int) {
	for l := in.lane(source); l.Waiting() != rows; time.Sleep(time.Millisecond) {
	}
}

func TestRowsThatComeMeanwhileAreTheNextGroup(t *testing.T) {
	blob, s := hold(t), plain(t)
	in := ingest(t, ample, IngestDeps{Blob: blob})
	var callers sync.WaitGroup
	accept := func(i int) {
		callers.Go(func() {
			got, err := in.Accept(t.Context(), s, []Row{departure(i), departure(1000 + i)}, Everywhere)
			if err != nil || got.Accepted != 2 || got.Rejected != 0 {
				t.Errorf("got %+v %v, want 2 accepted", got, err)
			}
		})
	}
	accept(0)
	<-blob.begun
	for i := range 10 {
		accept(1 + i)
	}
	waiting(in, s.Name, 20)
	blob.free <- nil
	<-blob.begun
	blob.free <- nil
	callers.Wait()
	if got := fmt.Sprint(logged(t, blob, s.Name)); got != "[2 20]" && got != "[20 2]" { // their order is that of a hash
		t.Errorf("the log has objects of %s rows, want 2 and 20", got)
	}
}

func TestNoMoreThanTheBoundsWaits(t *testing.T) {
	for name, c := range map[string]IngestConfig{
		"rows":  {Rows: 10, Bytes: 1 << 20, Write: time.Minute},
		"bytes": {Rows: 100, Bytes: 10 * 450, Write: time.Minute},
	} {
		blob, s := hold(t), plain(t)
		in := ingest(t, c, IngestDeps{Blob: blob})
		var callers sync.WaitGroup
		accept := func(rows ...Row) {
			callers.Go(func() {
				if _, err := in.Accept(t.Context(), s, rows, Everywhere); err != nil {
					t.Error(name, err)
				}
			})
		}
		accept(departure(0))
		<-blob.begun
		accept(departure(1), departure(2), departure(3), departure(4))
		waiting(in, s.Name, 4)
		var more []Row
		for i := range 7 {
			more = append(more, departure(10+i))
		}
		_, err := in.Accept(t.Context(), s, more, Everywhere)
		if !fault.Is(err, fault.Overloaded) || fault.RetryAfter(err) < time.Second || !strings.HasPrefix(fault.Message(err), "4 rows of source departures wait to be written; try again in ") {
			t.Errorf("%s: got %v, try again in %s", name, err, fault.RetryAfter(err))
		}
		accept(more[:3]...) // there is room for these
		waiting(in, s.Name, 7)
		blob.free <- nil
		<-blob.begun
		blob.free <- nil
		callers.Wait()
		// What is too much for a group is taken when nothing waits.
		blob.begun = nil
		var large []Row
		for i := range 20 {
			large = append(large, departure(100+i))
		}
		accept(large...)
		callers.Wait()
	}
}

func TestACallerThatLeaves(t *testing.T) {
	blob, s := hold(t), plain(t)
	in := ingest(t, ample, IngestDeps{Blob: blob})
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 2)
	go func() { _, err := in.Accept(ctx, s, []Row{departure(1)}, Everywhere); left <- err }()
	<-blob.begun
	go func() { _, err := in.Accept(ctx, s, []Row{departure(2)}, Everywhere); left <- err }()
	waiting(in, s.Name, 1)
	leave()
	for range 2 {
		if err := <-left; !fault.Is(err, fault.Deadline) {
			t.Errorf("got %v, want the caller's own end", err)
		}
	}
	if _, err := in.Accept(ctx, s, []Row{departure(3)}, Everywhere); !fault.Is(err, fault.Deadline) {
		t.Errorf("gone before it came: got %v", err)
	}
	blob.free <- nil
	<-blob.begun
	blob.free <- nil
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(logged(t, blob, s.Name)); got != "[1 1]" {
		t.Errorf("the log has objects of %s rows, want those that were begun for callers who left", got)
	}
}

func TestALogThatCantBeWritten(t *testing.T) {
	blob, s := hold(t), plain(t)
	in := ingest(t, ample, IngestDeps{Blob: blob})
	answers := make(chan error)
	accept := func(i int) { _, err := in.Accept(t.Context(), s, []Row{departure(i)}, Everywhere); answers <- err }
	go accept(0)
	<-blob.begun
	go accept(1)
	go accept(2)
	waiting(in, s.Name, 2)
	blob.free <- nil
	if err := <-answers; err != nil {
		t.Error(err)
	}
	<-blob.begun
	blob.free <- fault.New(fault.Unavailable, "the bucket is away")
	for range 2 {
		if err := <-answers; !fault.Is(err, fault.Unavailable) || fault.Message(err) != "the bucket is away" {
			t.Errorf("got %v, want that the bucket is away", err)
		}
	}
	go accept(1)
	<-blob.begun
	blob.free <- context.DeadlineExceeded // of the write, which is no business of the caller's
	if err := <-answers; !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v, want Unavailable", err)
	}
	go accept(1)
	<-blob.begun
	blob.free <- nil
	if err := <-answers; err != nil {
		t.Errorf("again: %v", err)
	}
	if got := fmt.Sprint(logged(t, blob, s.Name)); got != "[1 1]" {
		t.Errorf("the log has objects of %s rows, want one of each row that was acknowledged", got)
	}
}

// fragileBlob and fragileOnline panic while they are broken.
type (
	fragileBlob struct {
		store.Blob
		broken *atomic.Bool
	}
	fragileOnline struct {
		store.Online
		broken *atomic.Bool
	}
)

func (f fragileBlob) Put(ctx context.Context, key string, body io.ReadSeeker, size int64, c store.Condition) (string, error) {
	if f.broken.Load() {
		panic("the bucket broke")
	}
	return f.Blob.Put(ctx, key, body, size, c)
}

func (f fragileOnline) Write(ctx context.Context, rows []store.OnlineRow) ([]bool, error) {
	if f.broken.Load() {
		panic("the online store broke")
	}
	return f.Online.Write(ctx, rows)
}

// A panic is an error of those who wait, and of nobody else.
func TestAPanicIsAnErrorOfWhoWaits(t *testing.T) {
	s := departures(t, func(s *Set) { s.Sources[0].Created, s.Sources[0].Fresh = "", 0 })
	online, err := memstore.OpenOnline(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var broken atomic.Bool
	for name, deps := range map[string]IngestDeps{
		"bucket": {Blob: fragileBlob{bucket(t), &broken}, Online: online},
		"online": {Blob: bucket(t), Online: fragileOnline{online, &broken}},
	} {
		in := ingest(t, ample, deps)
		bad := departure(1)
		bad.Values[s.At["delay"]] = row.OfFloat64(9999)
		for what, rows := range map[string][]Row{"good": {departure(1), departure(2)}, "rejected": {bad}} {
			broken.Store(true)
			var callers sync.WaitGroup
			for range 5 {
				callers.Go(func() {
					got, err := in.Accept(t.Context(), s, rows, Everywhere)
					if what == "rejected" && name == "online" { // it goes nowhere near
						if err != nil || got.Rejected != 1 {
							t.Errorf("%s, %s rows: got %+v, %v, want it kept", name, what, got, err)
						}
						return
					}
					if !fault.Is(err, fault.Internal) || !strings.Contains(fmt.Sprint(err), name) {
						t.Errorf("%s, %s rows: got %+v, %v, want the panic", name, what, got, err)
					}
				})
			}
			callers.Wait()
			broken.Store(false)
			if got, err := in.Accept(t.Context(), s, rows, Everywhere); err != nil || got.Accepted+got.Rejected != len(rows) {
				t.Errorf("%s, %s rows: afterwards got %+v, %v", name, what, got, err)
			}
		}
	}
}

func TestDefinitionsMayChangeWhileRowsWait(t *testing.T) {
	blob, before := hold(t), plain(t)
	after := departures(t, func(s *Set) {
		s.Views, s.Sources[0].Created, s.Sources[0].Fresh = nil, "", 0
		s.Sources[0].Fields = append(s.Sources[0].Fields, Field{Name: "gate", Type: row.String})
	})
	in := ingest(t, ample, IngestDeps{Blob: blob})
	var callers sync.WaitGroup
	accept := func(s *CompiledSource, rows int) {
		r := departure(rows)
		r.Values = append(r.Values, row.OfString("A1"))[:len(s.Fields)]
		callers.Go(func() {
			if _, err := in.Accept(t.Context(), s, []Row{r}, Everywhere); err != nil {
				t.Error(err)
			}
		})
	}
	accept(before, 0)
	<-blob.begun
	accept(before, 1)
	waiting(in, before.Name, 1)
	accept(after, 2)
	waiting(in, before.Name, 2)
	accept(before, 3)
	waiting(in, before.Name, 3)
	for range 3 {
		blob.free <- nil
		<-blob.begun
	}
	blob.free <- nil
	callers.Wait()
	if got := logged(t, blob, before.Name); len(got) != 4 {
		t.Errorf("the log has objects of %d rows, want 4 of one", got)
	}
}

func TestRejectedRowsAreKept(t *testing.T) {
	blob, s := bucket(t), plain(t)
	in := ingest(t, ample, IngestDeps{Blob: blob})
	bad, worse := departure(2), departure(3)
	bad.Values[s.At["delay"]] = row.OfFloat64(9999)
	worse.Values[s.At["at"]] = row.Value{}
	for range 2 { // what is pushed again is kept once
		got, err := in.Accept(t.Context(), s, []Row{departure(1), bad, worse}, Everywhere)
		if err != nil || got.Accepted != 1 || got.Rejected != 2 || len(got.Rejections) != 2 || got.Rejections[0].Index != 1 || got.Rejections[1].Reason != BadNull {
			t.Errorf("got %+v %v, want one accepted and two rejected", got, err)
		}
	}
	var kept []string
	for o, err := range blob.List(t.Context(), RejectedPrefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(o.Key, "features/rejected/departures/2026-11-25/") {
			t.Errorf("kept as %s", o.Key)
		}
		kept = append(kept, strings.Split(strings.TrimSpace(string(read(t, blob, o.Key))), "\n")...)
	}
	want := []string{
		`{"reason":"range","detail":"column \"delay\" is 9999, more than 1440","row":{"carrier":"AA","at":"2026-11-25T12:00:00Z","delay":9999,"number":2}}`,
		`{"reason":"null","detail":"column \"at\" is null, and is a time of the row","row":{"carrier":"AA","delay":3,"number":3}}`,
	}
	if strings.Join(kept, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(kept, "\n"), strings.Join(want, "\n"))
	}
	// Many are told as a few.
	var many []Row
	for i := range 100 {
		r := departure(i)
		r.Values[s.At["delay"]] = row.OfFloat64(9999)
		many = append(many, r)
	}
	got, err := in.Accept(t.Context(), s, many, Everywhere)
	if b, _ := json.Marshal(got); err != nil || got.Rejected != 100 || len(got.Rejections) != 10 {
		t.Errorf("got %s %v, want 100 rejected and 10 told", b, err)
	}
	// None is acknowledged that is not kept.
	broken := &held{Blob: blob, begun: make(chan string, 1), free: make(chan error, 1)}
	broken.free <- fault.New(fault.Unavailable, "the bucket is away")
	if _, err := ingest(t, ample, IngestDeps{Blob: broken}).Accept(t.Context(), s, many[:1], Everywhere); !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v, want that the bucket is away", err)
	}
}

func TestRowsOfFilesAreNotPushed(t *testing.T) {
	s := departures(t, func(s *Set) {
		s.Views, s.Sources[0].Created, s.Sources[0].Fresh, s.Sources[0].Path = nil, "", 0, "landing/departures/"
	})
	blob := bucket(t)
	in := ingest(t, ample, IngestDeps{Blob: blob})
	if _, err := in.Accept(t.Context(), s, []Row{departure(1)}, Everywhere); !fault.Is(err, fault.Invalid) {
		t.Errorf("got %v, want Invalid", err)
	}
	if got, err := in.Accept(t.Context(), s, []Row{departure(1)}, OnlineOnly); err != nil || got.Accepted != 1 || len(logged(t, blob, s.Name)) != 0 {
		t.Errorf("online alone: got %+v %v and a log of %d", got, err, len(logged(t, blob, s.Name)))
	}
}
