package feast

import (
	"math"
	"slices"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pilotlight-ml/pilotlight/internal/jsonwire"
	"github.com/pilotlight-ml/pilotlight/internal/row"
)

// Response answers a Request: for each name a column of cells. One that is used
// again takes little new memory.
type Response struct {
	Names []string // of columns: those of the entities come first
	Rows  int
	// At sets c, which is zero, to the cell of a column and a row.
	At    func(column, row int, c *Cell)
	Views []View // for those who ask for versions

	cell     Cell
	clock    clock
	statuses []byte // of one column, and its times: they stand behind its values
	times    []byte
	events   []int64 // that times is of
}

// Cell is one value, how it was come by, and the time that it is of, in microseconds since 1970.
type Cell struct {
	Value  row.Value
	Status Status
	Event  int64
}

// View tells the version of a view.
type View struct {
	Name    string
	Version int
}

// AppendJSON writes the response as JSON.
func (r *Response) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"metadata":{"feature_names":[`...)
	for i, name := range r.Names {
		dst = jsonwire.AppendString(comma(dst, i), name)
	}
	dst = append(dst, ']')
	if len(r.Views) > 0 {
		dst = append(dst, `,"feature_view_metadata":[`...)
		for i, v := range r.Views {
			dst = append(comma(dst, i), `{"name":`...)
			dst = append(jsonwire.AppendString(dst, v.Name), `,"version":`...)
			dst = append(strconv.AppendInt(dst, int64(v.Version), 10), '}')
		}
		dst = append(dst, ']')
	}
	dst = append(dst, `},"results":[`...)
	for column := range r.Names {
		dst = r.appendColumn(comma(dst, column), column)
	}
	return append(dst, `]}`...)
}

func comma(dst []byte, i int) []byte {
	if i > 0 {
		return append(dst, ',')
	}
	return dst
}

func (r *Response) appendColumn(dst []byte, column int) []byte {
	dst = append(dst, `{"values":[`...)
	r.statuses = r.statuses[:0]
	// Columns of one view have the same times.
	known := column > 0
	if !known {
		r.events = slices.Grow(r.events[:0], r.Rows)[:r.Rows]
	}
	for i := range r.Rows {
		c := &r.cell
		*c = Cell{}
		r.At(column, i, c)
		dst = appendValue(comma(dst, i), c.Value)
		r.statuses = append(append(append(comma(r.statuses, i), '"'), c.Status.String()...), '"')
		known = known && r.events[i] == c.Event
		r.events[i] = c.Event
	}
	if !known {
		r.times = r.times[:0]
		for i, us := range r.events {
			r.times = append(r.clock.append(append(comma(r.times, i), '"'), us), '"')
		}
	}
	dst = append(dst, `],"statuses":[`...)
	dst = append(dst, r.statuses...)
	dst = append(dst, `],"event_timestamps":[`...)
	dst = append(dst, r.times...)
	return append(dst, `]}`...)
}

// appendValue writes a value as Feast does: timestamps in seconds since 1970,
// floats of 32 bits with all digits of the same of 64 bits, and words for what
// JSON has no numbers for.
func appendValue(dst []byte, v row.Value) []byte {
	switch t := v.Type(); {
	case t.IsList():
		dst = append(dst, '[')
		for i, e := range v.List() {
			dst = appendValue(comma(dst, i), e)
		}
		return append(dst, ']')
	case t == row.Timestamp:
		return strconv.AppendInt(dst, seconds(v), 10)
	case t.Float():
		switch f := v.Float(); {
		case math.IsNaN(f):
			return append(dst, `"NaN"`...)
		case math.IsInf(f, 1):
			return append(dst, `"Infinity"`...)
		case math.IsInf(f, -1):
			return append(dst, `"-Infinity"`...)
		default:
			return appendFloat(dst, f)
		}
	}
	return v.AppendJSON(dst)
}

// appendFloat writes a float so that readers who tell integers from floats see
// that it is one.
func appendFloat(dst []byte, f float64) []byte {
	start := len(dst)
	dst = jsonwire.AppendFloat(dst, f, 64)
	for _, b := range dst[start:] {
		if b == '.' || b == 'e' || b == 'E' {
			return dst
		}
	}
	return append(dst, '.', '0')
}

// AppendProto writes the response as a GetOnlineFeaturesResponse.
func (r *Response) AppendProto(dst []byte) []byte {
	dst = message(dst, 1, func(dst []byte) []byte {
		dst = message(dst, 1, func(dst []byte) []byte {
			for _, name := range r.Names {
				dst = appendText(dst, 1, name)
			}
			return dst
		})
		for _, v := range r.Views {
			dst = message(dst, 2, func(dst []byte) []byte {
				dst = appendText(dst, 1, v.Name)
				return protowire.AppendVarint(protowire.AppendTag(dst, 2, protowire.VarintType), uint64(v.Version))
			})
		}
		return dst
	})
	for column := range r.Names {
		dst = message(dst, 2, func(dst []byte) []byte { return r.appendVector(dst, column) })
	}
	return protowire.AppendVarint(protowire.AppendTag(dst, 3, protowire.VarintType), 1)
}

func (r *Response) appendVector(dst []byte, column int) []byte {
	r.statuses, r.times = r.statuses[:0], r.times[:0]
	for i := range r.Rows {
		c := &r.cell
		*c = Cell{}
		r.At(column, i, c)
		dst = message(dst, 1, func(dst []byte) []byte { return AppendValue(dst, c.Value) })
		r.statuses = append(r.statuses, byte(c.Status))
		r.times = message(r.times, 3, func(dst []byte) []byte { return appendTime(dst, c.Event) })
	}
	if len(r.statuses) > 0 {
		dst = protowire.AppendBytes(protowire.AppendTag(dst, 2, protowire.BytesType), r.statuses)
	}
	return append(dst, r.times...)
}

// AppendInfo writes a GetFeastServingInfoResponse.
func AppendInfo(dst []byte, version string) []byte { return appendText(dst, 1, version) }
