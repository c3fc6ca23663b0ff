package payload

import (
	"bytes"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
)

// Segments that were written before there was a trace in them are read as ever.
func TestOlderSegmentsAreRead(t *testing.T) {
	of := columns[:15]
	older, err := segment.NewShape(of)
	if err != nil {
		t.Fatal(err)
	}
	values := make([]row.Value, len(of))
	values[0], values[2], values[10], values[14] = row.OfString("order-1"), row.OfString("m"), row.OfFloat64(2), row.OfString(`{"y":1}`)
	var file bytes.Buffer
	w := older.Writer(&file)
	if err := w.Write([]segment.Row{{Values: values, Event: 5, Created: 6, ID: 7}}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	read := 0
	err = segment.Read(file.Bytes(), func(rows []Row) error {
		for _, r := range rows {
			if want := (Row{At: 5, Answered: 6, Hash: 7, ID: "order-1", Model: "m", Weight: 2, Outputs: `{"y":1}`}); r != want {
				t.Errorf("got %+v, want %+v", r, want)
			}
			read++
		}
		return nil
	})
	if err != nil || read != 1 {
		t.Errorf("got %d rows, %v", read, err)
	}
}
