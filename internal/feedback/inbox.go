package feedback

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
)

// InboxPrefix is where accepted outcomes lie: in Parquet objects named by when the first of
// their outcomes was taken in and by what they hold. An object appears up to
// FEEDBACK_WRITE_TIMEOUT, and as long as groups before it took, after the time in its name.
const InboxPrefix = "outcomes/inbox/"

// shape is how outcomes lie in an object.
var shape = func() *segment.Shape {
	s, err := segment.NewShape([]row.Field{
		{Name: "prediction", Type: row.String},
		{Name: "row", Type: row.Int32},
		{Name: "model", Type: row.String},
		{Name: "entity", Type: row.String},
		{Name: "at", Type: row.Timestamp},
		{Name: "value", Type: row.String},
		{Name: "source", Type: row.String},
	})
	if err != nil {
		panic(err) // the names are ours
	}
	return s
}()

// fields is how many values a row of the shape has.
const fields = 7

// encode makes an object of the accepted outcomes of a group; without any, data is nil.
func encode(group []*batch) (key string, data []byte, err error) {
	var out bytes.Buffer
	w := shape.Writer(&out)
	const most = 1024 // rows at once
	rows := make([]segment.Row, 0, most)
	values := make([]row.Value, most*fields)
	created := int64(0)
	for _, b := range group {
		for i := range b.good {
			o := &b.good[i]
			if created == 0 || o.Created < created {
				created = o.Created
			}
			v := values[len(rows)*fields:][:fields:fields]
			v[0], v[1], v[2], v[3] = text(o.Prediction), row.OfInt32(o.Row), text(o.Model), text(o.Entity)
			v[4], v[5], v[6] = row.Value{}, text(o.Value), text(o.Source)
			if o.At != 0 {
				v[4] = row.OfMicros(o.At)
			}
			if rows = append(rows, segment.Row{Values: v, Event: o.Time, Created: o.Created, ID: o.ID}); len(rows) == most {
				if err := w.Write(rows); err != nil {
					return "", nil, err
				}
				rows = rows[:0]
			}
		}
	}
	if created == 0 {
		return "", nil, nil
	}
	if err := errors.Join(w.Write(rows), w.Close()); err != nil {
		return "", nil, fmt.Errorf("write outcomes as Parquet: %w", err)
	}
	sum := sha256.Sum256(out.Bytes())
	return InboxPrefix + segment.Name(created, sum[:]), out.Bytes(), nil
}

// text gives a string that is null where it is empty.
func text(s string) row.Value {
	if s == "" {
		return row.Value{}
	}
	return row.OfString(s)
}

// errDamaged is of an object of the inbox that does not hold what was written.
var errDamaged = errors.New("it is damaged")

// record is an Outcome as it lies in an object.
type record struct {
	Prediction string `parquet:"prediction,optional"`
	Row        int32  `parquet:"row,optional"`
	Model      string `parquet:"model,optional"`
	Entity     string `parquet:"entity,optional"`
	At         int64  `parquet:"at,optional,timestamp(microsecond)"`
	Value      string `parquet:"value,optional"`
	Source     string `parquet:"source,optional"`
	Event      int64  `parquet:"_event,timestamp(microsecond)"`
	Created    int64  `parquet:"_created,timestamp(microsecond)"`
	ID         uint64 `parquet:"_id"`
}

// readOutcomes reads an object of the inbox. It is errDamaged when its bytes are not those that its
// key tells of, or can't be read.
func readOutcomes(key string, data []byte) ([]Outcome, error) {
	if !segment.Intact(key, data) { // at anything parquet-go may take any memory
		return nil, fmt.Errorf("%q: %w: its bytes have another hash", key, errDamaged)
	}
	var all []Outcome
	err := segment.Read(data, func(rows []record) error {
		for i := range rows {
			p := &rows[i]
			all = append(all, Outcome{
				Prediction: strings.Clone(p.Prediction), Row: p.Row, Model: strings.Clone(p.Model), Entity: strings.Clone(p.Entity), At: p.At,
				Value: strings.Clone(p.Value), Source: strings.Clone(p.Source), Time: p.Event, Created: p.Created, ID: p.ID,
			})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%q: %w: %w", key, errDamaged, err)
	}
	return all, nil
}
