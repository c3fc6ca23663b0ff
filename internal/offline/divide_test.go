package offline

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/duck"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
)

// labelledRow is one that Divide wrote: its label is the number of the asked row.
type labelledRow struct {
	n      int
	values []row.Value
}

// divide gives what both files have.
func (w *world) divide(t *testing.T, s *Store, plan *feature.Plan, rows []byte, d *Division) (told *Divided, train, holdout []labelledRow) {
	t.Helper()
	var a, b bytes.Buffer
	told, err := s.Divide(t.Context(), plan, bytes.NewReader(rows), Parquet, d, &a, &b)
	if err != nil {
		t.Fatal(err)
	}
	read := func(file []byte) (all []labelledRow) {
		if len(file) == 0 {
			return nil
		}
		path := filepath.Join(t.TempDir(), "set")
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		from, err := duck.OpenScan(path, append([]row.Field{d.Label, {Name: Moment, Type: row.Timestamp}}, d.Columns...))
		if err != nil {
			t.Fatal(err)
		}
		defer from.Close()
		for {
			values := make([]row.Value, 2+len(d.Columns))
			if err := from.Next(values); errors.Is(err, io.EOF) {
				return all
			} else if err != nil {
				t.Fatal(err)
			}
			all = append(all, labelledRow{int(values[0].Float()), values[1:]})
		}
	}
	return told, read(a.Bytes()), read(b.Bytes())
}

// numbered writes asked rows whose labels are their numbers, but for every tenth, which has none.
func numbered(t *testing.T, rows []asked) []byte {
	t.Helper()
	shape, err := segment.NewShape([]row.Field{{Name: "shop", Type: row.String}, {Name: "label", Type: row.Int64}, {Name: Moment, Type: row.Timestamp}, {Name: "item", Type: row.Int64}, {Name: "bonus", Type: row.Float64}})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	f := shape.Writer(&b)
	for i, x := range rows {
		label := row.OfInt64(int64(i))
		if i%10 == 9 {
			label = row.Value{}
		}
		if err := f.Write([]segment.Row{{Values: []row.Value{x.shop, label, row.OfMicros(x.at), x.item, x.bonus}}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// What is divided is the rows that were asked for, each with what the oracle says, and the newest are held out.
func TestDivideOracle(t *testing.T) {
	for seed := range uint64(12) {
		w := newWorld(t, seed)
		s := open(t, w.blob)
		plan := w.plan(t)
		rows := w.ask(200 + w.r.IntN(300))
		d := &Division{Label: row.Field{Name: "label", Type: row.Float64}, Columns: []row.Field{{Name: "shop", Type: row.String}, {Name: "bonus", Type: row.Float64}}, ID: []string{"label"}}
		at := map[string]int{}
		for i, c := range plan.Columns {
			if c.Type.Numeric() || c.Type == row.String {
				at[c.Name] = i
				d.Columns = append(d.Columns, row.Field{Name: c.Name, Type: c.Type})
			}
		}
		times := make([]int64, len(rows))
		for i := range rows {
			times[i] = rows[i].at
		}
		slices.Sort(times)
		switch seed % 4 {
		case 1:
			d.Last, d.Holdout = 10*time.Hour, 3*time.Hour
		case 2:
			d.From, d.Until = time.UnixMicro(times[len(times)/4]), time.UnixMicro(times[len(times)/2])
		case 3:
			d.Sample = 50
		}
		told, train, holdout := w.divide(t, s, plan, numbered(t, rows), d)

		want := map[int]bool{}
		newest := int64(0)
		for i, x := range rows {
			if i%10 != 9 && (d.From.IsZero() || x.at >= d.From.UnixMicro()) && (d.Until.IsZero() || x.at < d.Until.UnixMicro()) {
				want[i] = true
				newest = max(newest, x.at)
			}
		}
		for i := range want {
			if d.Last > 0 && rows[i].at <= newest-d.Last.Microseconds() {
				delete(want, i)
			}
		}
		all := slices.Concat(train, holdout)
		if d.Sample > 0 {
			if len(all) != 50 {
				t.Errorf("seed %d: got %d rows, want 50", seed, len(all))
			}
			_, again, _ := w.divide(t, s, plan, numbered(t, rows), d)
			if fmt.Sprint(again) != fmt.Sprint(train) {
				t.Errorf("seed %d: another sample was drawn", seed)
			}
		} else if len(all) != len(want) {
			t.Errorf("seed %d: got %d rows, want %d", seed, len(all), len(want))
		}
		if told.Train != int64(len(train)) || told.Holdout != int64(len(holdout)) || told.Unlabelled != int64(len(rows)/10) || len(train) == 0 || len(holdout) == 0 {
			t.Errorf("seed %d: got %+v for %d and %d rows", seed, told, len(train), len(holdout))
		}
		if !slices.IsSortedFunc(all, func(a, b labelledRow) int { return cmp.Compare(a.values[0].Int(), b.values[0].Int()) }) || train[len(train)-1].values[0].Int() >= told.Cut.UnixMicro() || holdout[0].values[0].Int() < told.Cut.UnixMicro() {
			t.Errorf("seed %d: rows are not in the order of time, or on the wrong side of %v", seed, told.Cut)
		}
		if d.Holdout > 0 && !told.Until.Equal(told.Cut.Add(d.Holdout)) {
			t.Errorf("seed %d: got %+v", seed, told)
		}
		for _, got := range all {
			if !want[got.n] {
				t.Fatalf("seed %d: row %d is there", seed, got.n)
			}
			delete(want, got.n)
			x := rows[got.n]
			if got.values[0].Int() != x.at || !got.values[1].Equal(x.shop) || !got.values[2].Equal(x.bonus) {
				t.Fatalf("seed %d: row %d is %v, want %v", seed, got.n, got.values, x)
			}
			for i, c := range d.Columns[2:] {
				column := plan.Columns[at[c.Name]]
				told := w.oracle(t, column, x)
				if told.Null() {
					told = column.Default
				}
				if g := got.values[3+i]; !g.Equal(told) {
					t.Fatalf("seed %d: row %d %v: %s is %s, want %s", seed, got.n, x, c.Name, g, told)
				}
			}
		}
	}
}

func TestDivideRefuses(t *testing.T) {
	w := fullWorld(t)
	s := open(t, w.blob)
	plan := w.plan(t)
	rows := numbered(t, w.ask(100))
	label := row.Field{Name: "label", Type: row.Float64}
	for _, test := range []struct {
		d    Division
		want string
	}{
		{Division{Label: row.Field{Name: "truth", Type: row.Float64}}, `the rows have no column "truth", which is what came true`},
		{Division{Label: label, ID: []string{"id"}}, `the rows have no column "id", which tells them apart`},
		{Division{Label: label, Columns: []row.Field{{Name: "size", Type: row.Float64}}}, `there is no column "size", neither among the rows nor among the features`},
		{Division{Label: label, Columns: []row.Field{{Name: Moment, Type: row.Float64}}}, "the rows are not what they should be: "},
	} {
		_, err := s.Divide(t.Context(), plan, bytes.NewReader(rows), Parquet, &test.d, io.Discard, io.Discard)
		if !fault.Is(err, fault.Invalid) || len(fault.Message(err)) < len(test.want) || fault.Message(err)[:len(test.want)] != test.want {
			t.Errorf("%+v: got %v, want %s", test.d, err, test.want)
		}
	}
	told, err := s.Divide(t.Context(), plan, bytes.NewReader(rows), Parquet, &Division{Label: label, Until: time.Unix(1, 0)}, io.Discard, io.Discard)
	if err != nil || told.Train+told.Holdout != 0 {
		t.Errorf("got %+v, %v, want no rows", told, err)
	}
}
