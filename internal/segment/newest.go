package segment

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/parquet-go/parquet-go"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Newest tells how new a log is: by the rows of its last day.
type Newest struct {
	Event   int64     // the greatest event time, in microseconds since 1970
	Created int64     // the greatest created time, likewise
	Written time.Time // when the last object was written
}

const (
	newestMost = 32       // objects that are looked at, the last ones of the day
	footMost   = 64 << 10 // bytes of the end of an object that are read
)

// FindNewest looks for the newest rows of a source's log. It lists few keys where rows are of about now, and reads the ends of
// objects alone. Without any it is NotFound.
func FindNewest(ctx context.Context, blob store.Blob, source string, now time.Time) (*Newest, error) {
	last, err := lastDay(ctx, blob, source, now)
	if err != nil {
		return nil, fmt.Errorf("list the log of %q: %w", source, err)
	}
	if len(last) == 0 {
		return nil, fault.New(fault.NotFound, "the log of %q has no rows", source)
	}
	n := &Newest{}
	for _, o := range last {
		if o.Modified.After(n.Written) {
			n.Written = o.Modified
		}
	}
	for _, o := range last[max(0, len(last)-newestMost):] {
		err := n.look(ctx, blob, &o)
		if err != nil && !fault.Is(err, fault.NotFound) && !fault.Is(err, fault.Invalid) { // it was joined with others meanwhile, or is damaged
			return nil, err
		}
	}
	return n, nil
}

// lastDay gives the objects of the last day. It looks from about now on first, and then ever further back.
func lastDay(ctx context.Context, blob store.Blob, source string, now time.Time) (last []store.Object, err error) {
	prefix := Prefix(source) + "date="
	for back := 1; len(last) == 0; back *= 8 {
		after, all := prefix+Day(now.AddDate(0, 0, -back).UnixMicro()), back > 10_000
		if all {
			after = ""
		}
		day := ""
		for o, err := range blob.List(ctx, prefix, after) {
			if err != nil {
				return nil, err
			}
			if !strings.HasSuffix(o.Key, ".parquet") {
				continue
			}
			if own, _, _ := strings.Cut(o.Key[len(prefix):], "/"); own != day {
				day, last = own, last[:0]
			}
			last = append(last, o)
		}
		if all {
			break
		}
	}
	return last, nil
}

// look takes the greatest times of an object out of its statistics.
func (n *Newest) look(ctx context.Context, blob store.Blob, o *store.Object) error {
	size := min(o.Size, footMost)
	body, now, err := blob.Get(ctx, o.Key, o.Size-size, size)
	if err != nil {
		return fmt.Errorf("read %q: %w", o.Key, err)
	}
	tail, err := io.ReadAll(body)
	if err = errors.Join(err, body.Close()); err != nil {
		return fmt.Errorf("read %q: %w", o.Key, err)
	}
	if now.Size != o.Size {
		return fault.New(fault.NotFound, "%q was replaced", o.Key)
	}
	event, created, err := greatest(tail, o.Size)
	if err != nil {
		return fmt.Errorf("%q: %w", o.Key, err)
	}
	n.Event, n.Created = max(n.Event, event), max(n.Created, created)
	return nil
}

// greatest reads statistics out of the end of an object of a size. What is no such end is Invalid.
func greatest(tail []byte, size int64) (event, created int64, err error) {
	err = fault.Guard(func() error { // parquet-go panics at what it does not expect
		const end = 8 // how long the foot is, and PAR1
		if len(tail) < end || int64(binary.LittleEndian.Uint32(tail[len(tail)-end:])) > int64(len(tail)-end) {
			return fault.New(fault.Invalid, "the object has no end, or a longer one than %d bytes", footMost)
		}
		f, err := parquet.OpenFile(&tailReader{tail, size - int64(len(tail))}, size, parquet.SkipMagicBytes(true), parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
		if err != nil {
			return fault.Wrap(fault.Invalid, err, "the object is not Parquet")
		}
		for _, group := range f.Metadata().RowGroups {
			for _, c := range group.Columns {
				to := &event
				switch {
				case slices.Equal(c.MetaData.PathInSchema, []string{Created}):
					to = &created
				case !slices.Equal(c.MetaData.PathInSchema, []string{Event}):
					continue
				}
				if most := c.MetaData.Statistics.MaxValue; len(most) == 8 {
					*to = max(*to, int64(binary.LittleEndian.Uint64(most)))
				}
			}
		}
		return nil
	})()
	if err != nil && fault.KindOf(err) != fault.Invalid {
		err = fault.Wrap(fault.Invalid, err, "the object's statistics can't be read")
	}
	return event, created, err
}

// tailReader reads an object of which there is the end alone.
type tailReader struct {
	tail []byte
	from int64
}

func (t *tailReader) ReadAt(b []byte, at int64) (int, error) {
	if at < t.from {
		return 0, io.ErrUnexpectedEOF
	}
	return bytes.NewReader(t.tail).ReadAt(b, at-t.from)
}
