package payload

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Wanted says which predictions are looked for.
type Wanted struct {
	Model   string // "": of any
	Version int    // 0: of any
	From    time.Time
	Until   time.Time // when they were answered: from From on and before Until; zero: no bound
	Failed  bool      // only those that ended with an error
	// Match tells whether a row is one of those, if that is not all; what it is given is valid until it returns.
	Match func(*Row) bool
}

// takes tells whether a row that a segment holds is wanted, as far as columns tell it that are small.
func (w *Wanted) takes(r *brief) bool {
	return (w.Model == "" || r.Model == w.Model) && (w.Version == 0 || int(r.Version) == w.Version) && (!w.Failed || r.Kind != "") &&
		(w.From.IsZero() || r.Answered >= w.From.UnixMicro()) && (w.Until.IsZero() || r.Answered < w.Until.UnixMicro())
}

// Listed is one prediction of a list, or one part of it if it was too large to be written at once.
type Listed struct {
	Row        // its first
	Rows int   // that it has
	at   place // where it lies
}

// Listing is one page of predictions.
type Listing struct {
	Predictions []Listed  // newest first
	Next        string    // where the next page begins; empty: there is none
	Back        time.Time // until when the log was looked through; zero: to its beginning
	Damaged     []string  // segments that can't be read, and are left out
}

// The bounds of what one Newest reads: behind them it gives what it has, and where to go on.
const (
	readMost     = 64 << 20 // bytes of segments
	segmentsMost = 2048
)

// place is where a prediction lies: a segment and the number of its first row there. Lists go on before it.
type place struct {
	segment string // the name, without Inbox
	row     int
}

func (p place) String() string { return p.segment + "." + strconv.Itoa(p.row) }

// parsePlace reads what String wrote; empty: behind everything.
func parsePlace(s string) (p place, err error) {
	if s == "" {
		return place{}, nil
	}
	at := strings.LastIndexByte(s, '.')
	name, number := s[:max(at, 0)], s[at+1:]
	n, err := strconv.Atoi(number)
	if _, ok := untilOf(Inbox + name); !ok || err != nil || n < 0 || store.CheckKey(Inbox+name) != nil {
		return place{}, fault.New(fault.Invalid, "after is %.80q, expected what an earlier answer said is next", s)
	}
	return place{name, n}, nil
}

// untilOf tells when the last prediction of a segment was answered, in microseconds since 1970.
func untilOf(key string) (us int64, ok bool) {
	digits, _, found := strings.Cut(strings.TrimPrefix(key, Inbox), "-")
	us, err := strconv.ParseInt(digits, 10, 64)
	return us, found && len(digits) == micros && err == nil && us >= 0
}

// micros is how many digits a segment's time has.
const micros = 16

// keyBefore is behind all segments whose last answer lies before a time, and before all others.
func keyBefore(us int64) string { return fmt.Sprintf("%s%0*d", Inbox, micros, max(us, 0)) }

// late is how long after a prediction was answered its segment may end: as long as predictions wait for others. Where the bucket was away for
// longer, lists until a time may lack some of those that waited then.
const late = time.Minute

// Newest gives the predictions that are wanted, newest first: at most limit of them, from the page on that an earlier Listing said is
// next. Those that several processes wrote at the same time are in order within about Config.Every. It reads the log backwards, and
// stops where it has enough or has read much: what is rare may take several pages, which then hold few.
func Newest(ctx context.Context, blob store.Blob, w *Wanted, next string, limit int) (*Listing, error) {
	from, err := parsePlace(next)
	if err != nil {
		return nil, err
	}
	until := int64(math.MaxInt64)
	if !w.Until.IsZero() {
		until = w.Until.Add(late).UnixMicro()
	}
	if from.segment != "" {
		us, _ := untilOf(Inbox + from.segment)
		until = min(until, us+1)
	}
	oldest := int64(0)
	if !w.From.IsZero() {
		oldest = w.From.UnixMicro()
	}
	l := &Listing{Predictions: []Listed{}}
	read, size := 0, int64(0)
	stop := errors.New("enough")
	err = eachBackwards(ctx, blob, oldest, until, nil, func(o *store.Object, data []byte) error {
		name := strings.TrimPrefix(o.Key, Inbox)
		last := math.MaxInt
		if from.segment != "" {
			if name > from.segment {
				return nil
			}
			if name == from.segment {
				last = from.row
			}
		}
		own, err := w.pick(o.Key, data, last)
		if fault.Is(err, fault.Invalid) {
			l.Damaged = append(l.Damaged, o.Key)
			own, err = nil, nil
		}
		if err != nil {
			return err
		}
		for i := range own {
			l.Predictions = append(l.Predictions, own[i])
			if len(l.Predictions) == limit {
				l.Next = own[i].at.String()
				return stop
			}
		}
		if read, size = read+1, size+o.Size; read >= segmentsMost || size >= readMost {
			l.Next = place{name, 0}.String()
			us, _ := untilOf(o.Key)
			l.Back = time.UnixMicro(us).UTC()
			return stop
		}
		return nil
	})
	if err != nil && !errors.Is(err, stop) {
		return nil, err
	}
	slices.SortStableFunc(l.Predictions, func(a, b Listed) int { return cmp.Compare(b.Answered, a.Answered) })
	return l, nil
}

// brief is what tells predictions apart, without what they hold.
type brief struct {
	Answered int64  `parquet:"_created,timestamp(microsecond)"`
	ID       string `parquet:"id,optional"`
	Model    string `parquet:"model,optional"`
	Version  int32  `parquet:"version,optional"`
	Kind     string `parquet:"kind,optional"`
}

// pick gives the predictions of a segment that are wanted, of those whose first row is before a number, the last one first.
func (w *Wanted) pick(key string, data []byte, last int) (own []Listed, err error) {
	if !segment.Intact(key, data) {
		return nil, fault.New(fault.Invalid, "the segment %q is damaged", key)
	}
	var firsts []Listed // where wanted ones begin, and how many rows they have
	var before brief
	n, taken := 0, false
	err = segment.Read(data, func(rows []brief) error {
		for i := range rows {
			r := &rows[i]
			switch same := n > 0 && *r == before; {
			case same && taken:
				firsts[len(firsts)-1].Rows++
			case !same:
				if taken = n < last && w.takes(r); taken {
					firsts = append(firsts, Listed{Rows: 1, at: place{strings.TrimPrefix(key, Inbox), n}})
				}
				before = *r
				before.ID, before.Model, before.Kind = strings.Clone(r.ID), strings.Clone(r.Model), strings.Clone(r.Kind)
			}
			n++
		}
		return nil
	})
	if err != nil || len(firsts) == 0 {
		return nil, err
	}
	n = 0
	err = segment.Read(data, func(rows []Row) error {
		for i := range rows {
			if len(firsts) > 0 && firsts[0].at.row == n {
				if w.Match == nil || w.Match(&rows[i]) {
					firsts[0].Row = rows[i].clone()
					own = append(own, firsts[0])
				}
				firsts = firsts[1:]
			}
			n++
		}
		return nil
	})
	slices.Reverse(own)
	return own, err
}

// clone makes a row that stays.
func (r *Row) clone() Row {
	c := *r
	for _, text := range [...]*string{&c.ID, &c.Model, &c.Digest, &c.Caller, &c.Cache, &c.Kind, &c.Error, &c.Trace, &c.Protocol, &c.Inputs, &c.Features, &c.FeatureTimes, &c.Outputs} {
		*text = strings.Clone(*text)
	}
	return c
}

// Find gives the rows of the predictions that have an id, from the segments whose last one was answered at a moment, in microseconds since 1970.
func Find(ctx context.Context, blob store.Blob, id string, until int64) (rows []Row, err error) {
	for o, err := range blob.List(ctx, keyBefore(until)+"-", "") {
		if err != nil {
			return nil, fmt.Errorf("list segments of predictions: %w", err)
		}
		data, _, err := store.ReadAll(ctx, blob, o.Key)
		if fault.Is(err, fault.NotFound) {
			continue // it was swept meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("read the segment %q: %w", o.Key, err)
		}
		own, err := rowsOfID(o.Key, data, id)
		if err != nil && !fault.Is(err, fault.Invalid) {
			return nil, err
		}
		rows = append(rows, own...)
	}
	return rows, nil
}

// Scan is Find in the segments between two moments, newest first, that skip does not say are others'. It reads until it has found one, or as
// much as one look may read; all tells that it has read all that there are.
func Scan(ctx context.Context, blob store.Blob, id string, from, until int64, skip func(key string) bool) (rows []Row, all bool, err error) {
	stop := errors.New("enough")
	read, size := 0, int64(0)
	err = eachBackwards(ctx, blob, from, until, skip, func(o *store.Object, data []byte) error {
		own, err := rowsOfID(o.Key, data, id)
		if err != nil && !fault.Is(err, fault.Invalid) {
			return err
		}
		if rows = append(rows, own...); len(rows) > 0 {
			return stop
		}
		if read, size = read+1, size+o.Size; read >= scanMost || size >= scanBytes {
			return stop
		}
		return nil
	})
	if errors.Is(err, stop) {
		return rows, len(rows) > 0, nil
	}
	return rows, err == nil, err
}

// The bounds of what one Scan reads.
const (
	scanMost  = 4096
	scanBytes = 512 << 20
)

// rowsOfID gives the rows of a segment that have an id.
func rowsOfID(key string, data []byte, id string) (own []Row, err error) {
	if !segment.Intact(key, data) {
		return nil, fault.New(fault.Invalid, "the segment %q is damaged", key)
	}
	found := false
	err = segment.Read(data, func(rows []struct {
		ID string `parquet:"id,optional"`
	},
	) error {
		for i := range rows {
			found = found || rows[i].ID == id
		}
		return nil
	})
	if err != nil || !found {
		return nil, err
	}
	err = segment.Read(data, func(rows []Row) error {
		for i := range rows {
			if rows[i].ID == id {
				own = append(own, rows[i].clone())
			}
		}
		return nil
	})
	return own, err
}

// ahead is how many segments are read at the same time.
const ahead = 8

// eachBackwards reads the segments whose last answer lies from one moment on and before another, newest first, and gives them with their
// bytes. Those that skip says yes to, which may be nil, are not read.
func eachBackwards(ctx context.Context, blob store.Blob, from, until int64, skip func(key string) bool, each func(o *store.Object, data []byte) error) error {
	var batch []store.Object
	atOnce := 1 // mostly the first ones are enough
	flush := func() error {
		read := make([][]byte, len(batch))
		group, own := errgroup.WithContext(ctx)
		for i := range batch {
			group.Go(fault.Guard(func() error {
				data, _, err := store.ReadAll(own, blob, batch[i].Key)
				if err != nil && !fault.Is(err, fault.NotFound) {
					return fmt.Errorf("read the segment %q: %w", batch[i].Key, err)
				}
				read[i] = data
				return nil
			}))
		}
		if err := group.Wait(); err != nil {
			return err
		}
		for i := range batch {
			if read[i] == nil {
				continue // it was swept meanwhile
			}
			if err := each(&batch[i], read[i]); err != nil {
				return err
			}
		}
		batch, atOnce = batch[:0], min(2*atOnce, ahead)
		return nil
	}
	for o, err := range backwards(ctx, blob, from, until) {
		if err != nil {
			return err
		}
		if skip != nil && skip(o.Key) {
			continue
		}
		if batch = append(batch, o); len(batch) >= atOnce {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// The first span of time that backwards lists, and how many keys it likes to get at once.
const (
	firstSpan = time.Minute
	fewKeys   = 100
	manyKeys  = 1000
)

// backwards lists segments newest first. A bucket lists forwards alone, so it lists spans of time, one before the other: longer
// ones where there are few.
func backwards(ctx context.Context, blob store.Blob, from, until int64) iter.Seq2[store.Object, error] {
	return func(yield func(store.Object, error) bool) {
		fail := func(err error) { yield(store.Object{}, fmt.Errorf("list segments of predictions: %w", err)) }
		oldest := int64(math.MaxInt64)
		for o, err := range blob.List(ctx, Inbox, "") {
			if err != nil {
				fail(err)
				return
			}
			if us, ok := untilOf(o.Key); ok {
				oldest = us
				break
			}
		}
		if oldest == math.MaxInt64 {
			return
		}
		from = max(from, oldest)
		span, longest := firstSpan.Microseconds(), int64(math.MaxInt64/8)
		end := min(until, latest) // so that it has as many digits as all
		for start := min(end, time.Now().UnixMicro()) - span; end > from; start = end - span {
			start = max(start, from)
			var keys []store.Object
			crowded := false
			for o, err := range blob.List(ctx, Inbox, keyBefore(start)) {
				if err != nil {
					fail(err)
					return
				}
				if o.Key >= keyBefore(end) {
					break
				}
				if _, ok := untilOf(o.Key); ok {
					keys = append(keys, o)
				}
				if crowded = len(keys) > 4*manyKeys && span > firstSpan.Microseconds(); crowded {
					break
				}
			}
			if crowded { // the span grew while there was nothing: a shorter one, that ends where this one does
				longest = max(span/16, firstSpan.Microseconds())
				span = longest
				continue
			}
			for _, o := range slices.Backward(keys) {
				if !yield(o, nil) {
					return
				}
			}
			switch {
			case len(keys) < fewKeys:
				span = min(4*span, longest)
			case len(keys) > manyKeys:
				span /= 2
			}
			end = start
		}
	}
}

// latest is the last time that has its place in the order of keys.
const latest = 1e16 - 1
