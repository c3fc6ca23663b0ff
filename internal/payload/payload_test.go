package payload_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

var asked = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// bucket is a blob in memory that can be held back, and made to fail.
type bucket struct {
	store.Blob
	gate sync.RWMutex // held while it is away
	mu   sync.Mutex
	fail error
}

func newBucket(t testing.TB) *bucket {
	t.Helper()
	b, err := memstore.OpenBlob(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return &bucket{Blob: b}
}

func (b *bucket) Put(ctx context.Context, key string, body io.ReadSeeker, size int64, c store.Condition) (string, error) {
	b.gate.RLock()
	defer b.gate.RUnlock()
	b.mu.Lock()
	fail := b.fail
	b.mu.Unlock()
	if fail != nil {
		return "", fail
	}
	return b.Blob.Put(ctx, key, body, size, c)
}

func (b *bucket) breaks(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fail = err
}

// rows reads all segments.
func (b *bucket) rows(t testing.TB) (rows []payload.Row) {
	t.Helper()
	for o, err := range b.List(context.Background(), payload.Inbox, "") {
		if err != nil {
			t.Fatal(err)
		}
		err := payload.Load(context.Background(), b, o.Key, func(some []payload.Row) error {
			rows = append(rows, some...)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return rows
}

// sink remembers events.
type sink struct {
	mu     sync.Mutex
	events []event.Event
}

func (s *sink) Send(_ context.Context, events ...event.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, events...)
	return nil
}

func (s *sink) sent() []event.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.events)
}

func open(t testing.TB, b store.Blob, s event.Sink, c payload.Config) *payload.Log {
	t.Helper()
	tel, err := telemetry.Start(context.Background(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		t.Fatal(err)
	}
	outbox, err := event.NewOutbox(s, tel)
	if err != nil {
		t.Fatal(err)
	}
	c.On = "on"
	if c.Memory == 0 {
		c.Memory = 1 << 20
	}
	if c.Every == 0 {
		c.Every = time.Hour
	}
	l, err := payload.Open(&c, b, outbox, tel)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(l.Close(), outbox.Close()); err != nil {
			t.Error(err)
		}
	})
	return l
}

var fields = []row.Field{{Name: "trips", Type: row.Int64, ID: 1}, {Name: "city", Type: row.String, ID: 2}, {Name: "phone", Type: row.String, ID: 3}}

func TestWhatIsWritten(t *testing.T) {
	b, s := newBucket(t), &sink{}
	l := open(t, b, s, payload.Config{})
	o := &payload.Origin{Model: "m", Version: 3, Digest: "sha256:x", Sample: .5, Redact: map[string]bool{"secret": true, "phone": true, "caller": true}}
	features := payload.AppendFeatures(nil, fields, []row.Value{row.OfInt64(42), row.OfString(`W"ien`), row.OfString("555")}, []int64{7, 8, 9})
	features = payload.AppendFeatures(features, fields, []row.Value{{}, row.OfString("Graz"), {}}, []int64{0, 8, 0})
	l.Add(o, &payload.Prediction{
		ID: "a", Asked: asked, At: asked.Add(-time.Hour), Latency: 1500 * time.Microsecond, Caller: "10.0.0.1", Cache: "hit", Rows: 2, Trace: [16]byte{0xab, 15: 1}, Sampled: true, Protocol: "v1",
		Given: []tensor.Tensor{
			tensor.OfStrings("key", []int64{2}, []string{"d7", "ä\xff"}),
			tensor.Of("x", []int64{2, 3}, []float32{1, 2.5, float32(math.NaN()), 4, 5, 6}),
			tensor.Of("secret", []int64{2}, []int64{1, 2}),
			{Name: "half", Type: tensor.FP16, Shape: []int64{2, 1}, Data: []byte{0, 0x3e, 0, 0xc0}}, // 1.5, -2
		},
		Outputs: []tensor.Tensor{tensor.Of("p", []int64{2, 1}, []float64{.25, .75}), tensor.Of("all", []int64{3}, []bool{true, false, true})},
		Fields:  fields, Features: features,
	})
	l.Add(o, &payload.Prediction{ID: "b", Asked: asked, At: asked, Rows: 1, Err: fault.New(fault.Invalid, "input x is wrong")})
	empty := tensor.Of("x", []int64{0, 3}, []float32{})
	l.Add(o, &payload.Prediction{ID: "none", Asked: asked, At: asked, Rows: 0, Given: []tensor.Tensor{empty}, Outputs: []tensor.Tensor{empty}})
	large := tensor.Of("image", []int64{1, 3, 100, 100}, make([]float32, 30000))
	l.Add(o, &payload.Prediction{ID: "c", Asked: asked, At: asked, Rows: 1, Given: []tensor.Tensor{large}, Outputs: []tensor.Tensor{tensor.Of("p", []int64{}, []int32{7})}})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l.Add(o, &payload.Prediction{ID: "too late", Asked: asked, At: asked, Rows: 1})
	if made, written, dropped := l.Counts(); made != 5 || written != 4 || dropped != 1 {
		t.Errorf("got %d made, %d written, %d dropped", made, written, dropped)
	}
	micros := asked.UnixMicro()
	hour := time.Hour.Microseconds()
	want := []payload.Row{
		{
			At: micros - hour, Answered: micros + 1500, Hash: payload.Hash("a", 0), ID: "a", Trace: "ab000000000000000000000000000001", Sampled: true, Protocol: "v1", Model: "m", Version: 3, Digest: "sha256:x", Cache: "hit", Latency: 1500, Weight: 2,
			Inputs: `{"key":"d7","x":[1,2.5,null],"half":1.5}`, Features: `{"trips":42,"city":"W\"ien"}`, FeatureTimes: `{"trips":7,"city":8}`, Outputs: `{"p":0.25,"all":[true,false,true]}`,
		},
		{
			At: micros - hour, Answered: micros + 1500, Hash: payload.Hash("a", 1), ID: "a", Row: 1, Trace: "ab000000000000000000000000000001", Sampled: true, Protocol: "v1", Model: "m", Version: 3, Digest: "sha256:x", Cache: "hit", Latency: 1500, Weight: 2,
			Inputs: `{"key":"ä�","x":[4,5,6],"half":-2}`, Features: `{"trips":null,"city":"Graz"}`, FeatureTimes: `{"city":8}`, Outputs: `{"p":0.75,"all":[true,false,true]}`,
		},
		{At: micros, Answered: micros, Hash: payload.Hash("b", 0), ID: "b", Model: "m", Version: 3, Digest: "sha256:x", Kind: "invalid", Error: "input x is wrong", Weight: 1},
		{At: micros, Answered: micros, Hash: payload.Hash("none", 0), ID: "none", Model: "m", Version: 3, Digest: "sha256:x", Weight: 2, Inputs: `{"x":[]}`, Outputs: `{"x":[]}`},
		{
			At: micros, Answered: micros, Hash: payload.Hash("c", 0), ID: "c", Model: "m", Version: 3, Digest: "sha256:x", Weight: 2,
			Inputs: `{"image":{"datatype":"FP32","shape":[1,3,100,100]}}`, Outputs: `{"p":7}`,
		},
	}
	got := b.rows(t)
	if len(got) != len(want) {
		t.Fatalf("got %d rows, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("row %d: got\n%+v, want\n%+v", i, got[i], want[i])
		}
	}
	events := s.sent()
	for ; len(events) == 0; events = s.sent() { // the outbox sends it behind the log's back, or the test's own deadline comes
		time.Sleep(time.Millisecond)
	}
	if len(events) != 1 {
		t.Fatalf("got %d events, want one for the segment", len(events))
	}
	told, err := event.PredictionsLogged.Decode(&events[0])
	if err != nil || told.Rows != 5 || events[0].Extensions()["dataref"] != told.Segment || !strings.HasPrefix(told.Segment, payload.Inbox) || !told.From.Equal(asked) {
		t.Errorf("got %v %v", events[0], err)
	}
}

// A prediction larger than a chunk of the ring comes in parts, and none of its rows is lost.
func TestManyRows(t *testing.T) {
	b := newBucket(t)
	l := open(t, b, nil, payload.Config{Memory: 8 << 20})
	const n = 20_001
	x, features := make([]float64, 5*n), []byte(nil)
	for i := range x {
		x[i] = float64(i)
	}
	for i := range n {
		features = payload.AppendFeatures(features, fields, []row.Value{row.OfInt64(int64(i)), {}, {}}, []int64{int64(i), 0, 0})
	}
	o := &payload.Origin{Model: "m", Sample: 1}
	l.Add(o, &payload.Prediction{
		ID: "a", Asked: asked, At: asked, Rows: n, Fields: fields, Features: features,
		Given: []tensor.Tensor{tensor.Of("x", []int64{n, 5}, x)}, Outputs: []tensor.Tensor{tensor.Of("y", []int64{n}, x[:n])},
	})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if made, written, dropped := l.Counts(); made != 1 || written != 1 || dropped != 0 {
		t.Errorf("got %d made, %d written, %d dropped", made, written, dropped)
	}
	rows := b.rows(t)
	if len(rows) != n {
		t.Fatalf("got %d rows, want %d", len(rows), n)
	}
	for i, r := range rows {
		inputs := fmt.Sprintf(`{"x":[%d,%d,%d,%d,%d]}`, 5*i, 5*i+1, 5*i+2, 5*i+3, 5*i+4)
		features := fmt.Sprintf(`{"trips":%d,"city":null,"phone":null}`, i)
		if int(r.Row) != i || r.Inputs != inputs || r.Outputs != fmt.Sprintf(`{"y":%d}`, i) || r.Features != features {
			t.Fatalf("row %d: got %+v", i, r)
		}
	}
}

// While the bucket is away nobody waits and memory stays what it may be. What is dropped is counted.
func TestBucketThatIsAway(t *testing.T) {
	b := newBucket(t)
	l := open(t, b, nil, payload.Config{Every: time.Millisecond})
	b.gate.Lock()
	o := &payload.Origin{Model: "m", Sample: 1}
	const callers, each = 8, 5000
	var done sync.WaitGroup
	for c := range callers {
		done.Go(func() {
			for i := range each {
				l.Add(o, &payload.Prediction{ID: fmt.Sprint(c, "-", i), Asked: asked, At: asked, Rows: 1, Given: []tensor.Tensor{tensor.Of("x", []int64{1, 100}, make([]float32, 100))}})
			}
		})
	}
	done.Wait() // which would last for ever if one of them waited
	made, written, dropped := l.Counts()
	const most = (1<<20 + 4<<20) / 400 // the ring, and a segment that is being written
	if made != callers*each || written != 0 || dropped < made-most {
		t.Errorf("got %d made, %d written and %d dropped while the bucket is away: at most %d may wait", made, written, dropped, most)
	}
	b.gate.Unlock()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	made, written, dropped = l.Counts()
	if made != written+dropped || written == 0 {
		t.Errorf("got %d made, %d written and %d dropped", made, written, dropped)
	}
	if n := len(b.rows(t)); int64(n) != written {
		t.Errorf("the bucket has %d rows, and %d were written", n, written)
	}
}

// Small predictions take more beside their bytes than in them, and all of it counts.
func TestSmallPredictionsAreBounded(t *testing.T) {
	b := newBucket(t)
	l := open(t, b, nil, payload.Config{Every: time.Millisecond})
	b.gate.Lock()
	for range 50_000 {
		l.Add(&payload.Origin{Model: "m", Sample: 1}, &payload.Prediction{ID: "a", Asked: asked, At: asked, Rows: 1})
	}
	made, _, dropped := l.Counts()
	const most = 2 * 3 * 1024 // of three chunks, and of a segment of as many
	if waiting := made - dropped; waiting == 0 || waiting > most {
		t.Errorf("%d predictions wait, want at most %d", waiting, most)
	}
	b.gate.Unlock()
}

func TestBucketThatFails(t *testing.T) {
	b := newBucket(t)
	l := open(t, b, nil, payload.Config{Every: time.Millisecond})
	o := &payload.Origin{Model: "m", Sample: 1}
	b.breaks(fault.New(fault.Unavailable, "away"))
	l.Add(o, &payload.Prediction{ID: "a", Asked: asked, At: asked, Rows: 1})
	time.Sleep(20 * time.Millisecond)
	b.breaks(nil)
	for len(b.rows(t)) == 0 { // until the test's own deadline
		time.Sleep(5 * time.Millisecond)
	}
	b.breaks(fault.New(fault.Denied, "no"))
	l.Add(o, &payload.Prediction{ID: "b", Asked: asked, At: asked, Rows: 1})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if made, written, dropped := l.Counts(); made != 2 || written != 1 || dropped != 1 {
		t.Errorf("got %d made, %d written, %d dropped", made, written, dropped)
	}
}

func TestSample(t *testing.T) {
	l := open(t, newBucket(t), nil, payload.Config{})
	for _, share := range []float64{1, .25} {
		o, n := &payload.Origin{Sample: share}, 0
		for range 10_000 {
			if l.Wants(o) {
				n++
			}
		}
		if got := float64(n) / 10_000; math.Abs(got-share) > .03 {
			t.Errorf("a share of %g is wanted, got %g", share, got)
		}
	}
	if a, b := l.NewID(), l.NewID(); a == b {
		t.Errorf("two predictions have the id %s", a)
	}
}

func TestSweep(t *testing.T) {
	b := newBucket(t)
	for i := range 5 {
		if _, err := b.Put(t.Context(), fmt.Sprintf("%s%016d-x.parquet", payload.Inbox, asked.Add(time.Duration(i)*time.Hour).UnixMicro()), strings.NewReader(""), 0, store.IfAbsent()); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []int{2, 0} {
		if n, err := payload.Sweep(t.Context(), b, asked.Add(2*time.Hour)); n != want || err != nil {
			t.Errorf("got %d deleted, %v, want %d", n, err, want)
		}
	}
}

// A bucket in memory gets no log that nobody asked for.
func TestWhereItIsOff(t *testing.T) {
	memory, err := memstore.OpenBlob(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		on   string
		blob store.Blob
		want bool
	}{{"auto", memory, false}, {"on", memory, true}, {"off", newBucket(t), false}, {"auto", struct{ store.Blob }{memory}, true}} {
		tel, err := telemetry.Start(t.Context(), &telemetry.Config{Output: io.Discard}, "test")
		if err != nil {
			t.Fatal(err)
		}
		l, err := payload.Open(&payload.Config{On: c.on, Memory: 1 << 20, Every: time.Hour}, c.blob, nil, tel)
		if err != nil || (l != nil) != c.want {
			t.Errorf("%s: got %v, %v, want a log: %t", c.on, l, err, c.want)
		}
		l.Add(&payload.Origin{}, &payload.Prediction{})
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestDamagedSegment(t *testing.T) {
	b := newBucket(t)
	l := open(t, b, nil, payload.Config{})
	l.Add(&payload.Origin{Model: "m", Sample: 1}, &payload.Prediction{ID: "a", Asked: asked, At: asked, Rows: 1})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	none := func([]payload.Row) error { return nil }
	for o, err := range b.List(t.Context(), payload.Inbox, "") {
		if err != nil {
			t.Fatal(err)
		}
		data, _, err := store.ReadAll(t.Context(), b, o.Key)
		if err != nil {
			t.Fatal(err)
		}
		data[len(data)/2] ^= 1
		if _, err := b.Put(t.Context(), o.Key, bytes.NewReader(data), int64(len(data)), store.Condition{}); err != nil {
			t.Fatal(err)
		}
		if err := payload.Load(t.Context(), b, o.Key, none); !fault.Is(err, fault.Invalid) {
			t.Errorf("got %v, want an invalid fault", err)
		}
	}
	if err := payload.Load(t.Context(), b, payload.Inbox+"gone", none); !fault.Is(err, fault.NotFound) {
		t.Errorf("got %v, want that it is not found", err)
	}
	for _, junk := range []string{"", "PAR1", "PAR1....PAR1", strings.Repeat("x", 1000)} {
		if err := segment.Read([]byte(junk), none); !fault.Is(err, fault.Invalid) {
			t.Errorf("%.20q: got %v, want an invalid fault", junk, err)
		}
	}
}

// twenty are the fields of a service.
var twenty = func() (fields []row.Field) {
	for i := range 20 {
		fields = append(fields, row.Field{Name: fmt.Sprint("feature_", i), Type: row.Float64, ID: uint32(i + 1)})
	}
	return fields
}()

// one is a prediction of usual size: 20 features and a few keys.
func one(n int) (*payload.Origin, *payload.Prediction) {
	fields := twenty
	var values []row.Value
	var times []int64
	for i := range fields {
		values, times = append(values, row.OfFloat64(math.Round(1e6*math.Sin(float64(i*1000+n)))/1e4)), append(times, asked.UnixMicro())
	}
	return &payload.Origin{Model: "flights", Version: 1, Digest: "sha256:0123456789", Sample: 1}, &payload.Prediction{
		ID: fmt.Sprint("abcdefghijkl-", n), Asked: asked, At: asked, Latency: time.Millisecond, Caller: "10.0.0.1", Rows: 1,
		Given: []tensor.Tensor{
			tensor.OfStrings("carrier", []int64{1, 1}, []string{"B6"}), tensor.OfStrings("origin", []int64{1, 1}, []string{"JFK"}),
			tensor.OfStrings("dest", []int64{1, 1}, []string{"BOS"}), tensor.Of("sched_dep_time", []int64{1, 1}, []int64{2010}),
		},
		Outputs: []tensor.Tensor{tensor.Of("probability", []int64{1, 1}, []float32{float32(n%1000) / 1000}), tensor.Of("label", []int64{1, 1}, []int64{1})},
		Fields:  fields, Features: payload.AppendFeatures(nil, fields, values, times),
	}
}

func TestAddAllocatesNothing(t *testing.T) {
	l := open(t, newBucket(t), nil, payload.Config{Memory: 4 << 20})
	o, p := one(1)
	for range 1000 { // until chunks and their heads are there
		l.Add(o, p)
	}
	if n := testing.AllocsPerRun(100, func() { l.Add(o, p) }); n >= 1 {
		t.Errorf("adding a prediction allocates %g times", n)
	}
}

// BenchmarkAdd is what the log costs an answer; "all" is that with what is done behind it, on the same CPU.
func BenchmarkAdd(b *testing.B) {
	const different = 4096
	predictions := make([]*payload.Prediction, different)
	for i := range predictions {
		_, predictions[i] = one(i)
	}
	o, _ := one(0)
	b.Run("before the answer", func(b *testing.B) {
		l := open(b, newBucket(b), nil, payload.Config{Memory: 64 << 20, Every: time.Millisecond})
		b.ReportAllocs()
		for i := range b.N {
			if i%different == 0 { // what would be dropped is done in no time
				b.StopTimer()
				for made, written, _ := l.Counts(); made != written; made, written, _ = l.Counts() {
					time.Sleep(time.Millisecond)
				}
				b.StartTimer()
			}
			l.Add(o, predictions[i%different])
		}
		b.StopTimer()
		if _, _, dropped := l.Counts(); dropped > 0 {
			b.Fatalf("%d were dropped", dropped)
		}
	})
	b.Run("all", func(b *testing.B) {
		bucket := newBucket(b)
		l := open(b, bucket, nil, payload.Config{Memory: 1 << 30})
		b.ReportAllocs()
		for i := range b.N {
			l.Add(o, predictions[i%different])
		}
		if err := l.Close(); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if made, written, _ := l.Counts(); made != written {
			b.Fatalf("%d of %d were written", written, made)
		}
		size := int64(0)
		for o, err := range bucket.List(context.Background(), payload.Inbox, "") {
			if err != nil {
				b.Fatal(err)
			}
			size += o.Size
		}
		b.ReportMetric(float64(size)/float64(b.N), "B/prediction")
	})
}

// FuzzAdd: no prediction, whatever its shapes say, costs the one beside it.
func FuzzAdd(f *testing.F) {
	f.Add(1, int64(1), int64(3), 12, uint8(12), "id")
	f.Add(0, int64(0), int64(3), 0, uint8(12), "")
	f.Add(3, int64(3), int64(-1), 7, uint8(10), "\x00é")
	f.Fuzz(func(t *testing.T, rows int, first, second int64, size int, kind uint8, id string) {
		b := newBucket(t)
		l := open(t, b, nil, payload.Config{Memory: 8 << 20})
		o := &payload.Origin{Model: "m", Sample: 1}
		odd := tensor.Tensor{Name: id, Type: tensor.Type(1 + kind%uint8(tensor.Bytes)), Shape: []int64{first, second}}
		if odd.Type == tensor.Bytes {
			odd.Shape = []int64{1}
			odd.Strings = []string{id}
		} else {
			odd.Data = make([]byte, min(max(size, 0), 1<<16)/odd.Type.Size()*odd.Type.Size())
		}
		l.Add(o, &payload.Prediction{ID: id, Asked: asked, At: asked, Rows: min(max(rows, 0), 1000), Given: []tensor.Tensor{odd}})
		l.Add(o, &payload.Prediction{ID: "good", Asked: asked, At: asked, Rows: 1, Outputs: []tensor.Tensor{tensor.Of("p", []int64{1}, []float32{1})}})
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		made, written, dropped := l.Counts()
		all := b.rows(t)
		if made != 2 || made != written+dropped || len(all) == 0 || all[len(all)-1].ID != "good" || all[len(all)-1].Outputs != `{"p":1}` {
			t.Errorf("got %d made, %d written, %d dropped: %+v", made, written, dropped, all)
		}
	})
}
