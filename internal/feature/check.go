package feature

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/jsonwire"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Rejection is a row that was not taken, and why.
type Rejection struct {
	Index  int    `json:"index"`  // of the row among those that came with it
	Reason Reason `json:"reason"` // for counting
	Detail string `json:"detail"` // for people

	row []byte // as JSON
}

// Reason says what sort of demand a rejected row did not meet.
type Reason string

// The reasons.
const (
	BadType Reason = "type"  // a value is not of its column's type, or the row is no row at all
	BadNull Reason = "null"  // a required value, or the time, is null
	BadSize Reason = "size"  // a key is too long
	OutOf   Reason = "range" // a number is less than min or more than max
	NotOne  Reason = "set"   // a string is not among one_of
	Ahead   Reason = "ahead" // a time is too far in the future, or no time of ours
	Stale   Reason = "stale" // the row is older than the source's fresh
)

// inspector holds rows against their source's definition at one moment.
type inspector struct {
	source *CompiledSource
	now    int64 // microseconds since 1970
	latest int64 // that a time may be
}

// earliest bounds times, as a store.Stamp does.
var earliest = time.Date(1700, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()

// Check completes a row that has nothing but its values, as Accept does with one that comes at a moment: its times, which are before latest,
// and its ID. What the row lacks is told as a reason and a sentence for people.
func (s *CompiledSource) Check(r *Row, now, latest time.Time) (Reason, string) {
	c := inspector{source: s, now: now.UnixMicro(), latest: latest.UnixMicro()}
	return c.fill(r)
}

// fill completes a row whose values are there: its times, and its id if it has
// none. What the row lacks is told as a reason and a sentence.
func (c *inspector) fill(r *Row) (Reason, string) {
	s := c.source
	if len(r.Values) != len(s.Fields) {
		return BadType, fmt.Sprintf("the row has %d values and source %q has %d columns", len(r.Values), s.Name, len(s.Fields))
	}
	for i := range s.Fields {
		if reason, detail := checkValue("column", &s.Fields[i], r.Values[i]); reason != "" {
			return reason, detail
		}
	}
	if reason, detail := c.times(r); reason != "" {
		return reason, detail
	}
	for _, v := range s.Views {
		if size := v.keySize(r.Values); size > store.OnlineKeyMost {
			return BadSize, fmt.Sprintf("the key of view %q has %d bytes, more than %d", v.Name, size, store.OnlineKeyMost)
		}
	}
	if r.ID == 0 {
		r.ID = hash(s.Name, string(row.Append(nil, s.Columns, r.Values)), 0)
	}
	return "", ""
}

// checkValue holds a value against its field, which people are told is what.
func checkValue(what string, f *Field, v row.Value) (Reason, string) {
	switch {
	case v.Null():
		if f.Required {
			return BadNull, fmt.Sprintf("%s %q is null and is required", what, f.Name)
		}
		return "", ""
	case v.Type() != f.Type:
		return BadType, fmt.Sprintf("%s %q is a %s, expected %s", what, f.Name, v.Type(), f.Type)
	}
	if f.Min != nil || f.Max != nil {
		x := v.Float()
		switch {
		case math.IsNaN(x): // is neither more nor less
			return OutOf, fmt.Sprintf("%s %q is not a number, and has limits", what, f.Name)
		case f.Min != nil && x < *f.Min:
			return OutOf, fmt.Sprintf("%s %q is %s, less than %v", what, f.Name, v, *f.Min)
		case f.Max != nil && x > *f.Max:
			return OutOf, fmt.Sprintf("%s %q is %s, more than %v", what, f.Name, v, *f.Max)
		}
	}
	if f.OneOf != nil && !slices.Contains(f.OneOf, v.Text()) {
		return NotOne, fmt.Sprintf("%s %q is %.100q, which is not one of its %d values", what, f.Name, v.Text(), len(f.OneOf))
	}
	return "", ""
}

// times sets the times of a row.
func (c *inspector) times(r *Row) (Reason, string) {
	s := c.source
	columns := []int{s.TimeAt, s.Made}
	r.Created = c.now
	for i, at := range columns { // which may be one
		if at < 0 {
			continue
		}
		v, name := r.Values[at], s.Fields[at].Name
		us := v.Int()
		switch {
		case v.Null():
			return BadNull, fmt.Sprintf("column %q is null, and is a time of the row", name)
		case us < earliest:
			return Ahead, fmt.Sprintf("column %q is before the year 1700", name)
		case us > c.latest:
			return Ahead, fmt.Sprintf("column %q is %s, which is more than %s ahead of the clock here", name, v, time.Duration(c.latest-c.now)*time.Microsecond)
		case i == 0:
			r.Event = us
		default:
			r.Created = us
		}
	}
	if r.Event == 0 && r.Created == 0 {
		r.Created = 1 // a store.Stamp of zeros would stand for no row
	}
	if fresh := time.Duration(s.Fresh).Microseconds(); fresh > 0 && r.Event < c.now-fresh {
		return Stale, fmt.Sprintf("column %q is %s, which is more than %s ago", s.Fields[s.TimeAt].Name, r.Values[s.TimeAt], s.Fresh)
	}
	return "", ""
}

// hash gives the number that duplicates of a row go by.
func hash(source, id string, index int) uint64 {
	b := make([]byte, 0, 256)
	b = binary.AppendUvarint(b, uint64(len(source)))
	b = append(append(b, source...), id...)
	b = binary.BigEndian.AppendUint64(b, uint64(index))
	sum := sha256.Sum256(b)
	return max(1, binary.BigEndian.Uint64(sum[:]))
}

// appendRow writes a row as a JSON object of what is not null.
func appendRow(dst []byte, s *CompiledSource, values []row.Value) []byte {
	dst = append(dst, '{')
	n := len(dst)
	for i, v := range values[:min(len(values), len(s.Fields))] {
		if v.Null() {
			continue
		}
		if len(dst) > n {
			dst = append(dst, ',')
		}
		dst = append(jsonwire.AppendString(dst, s.Fields[i].Name), ':')
		dst = v.AppendJSON(dst)
	}
	return append(dst, '}')
}

// RejectedPrefix is where rows that were not taken are kept: below the source's
// name and the day (in UTC, by the clock), one object with a JSON object a line for those
// that came together, named by what it holds.
const RejectedPrefix = "features/rejected/"

// keepRejected writes what was rejected to the bucket. The same again on the same day is kept once.
func keepRejected(ctx context.Context, blob store.Blob, source string, now time.Time, rejected []Rejection) error {
	var lines bytes.Buffer
	for _, r := range rejected {
		b, err := json.Marshal(struct {
			Reason Reason          `json:"reason"`
			Detail string          `json:"detail"`
			Row    json.RawMessage `json:"row"`
		}{r.Reason, r.Detail, r.row})
		if err != nil {
			return fmt.Errorf("write a rejected row of source %s: %w", source, err)
		}
		lines.Write(append(b, '\n'))
	}
	sum := sha256.Sum256(lines.Bytes())
	key := RejectedPrefix + source + "/" + now.UTC().Format(time.DateOnly) + "/" + hex.EncodeToString(sum[:16])
	if err := segment.Keep(ctx, blob, key, lines.Bytes()); err != nil {
		return fmt.Errorf("keep rejected rows of source %s: %w", source, err)
	}
	return nil
}
