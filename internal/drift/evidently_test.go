package drift

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/parquet-go/parquet-go"
)

// evidentlyPython finds the Python that has Evidently; without it the test is skipped, in CI it fails.
func evidentlyPython(t testing.TB) string {
	t.Helper()
	python, err := filepath.Abs("../../.venv-evidently/bin/python")
	if err == nil {
		_, err = os.Stat(python)
	}
	if err != nil {
		const how = "no Python environment with Evidently: run `make evidently`"
		if os.Getenv("CI") != "" {
			t.Fatal(how)
		}
		t.Skip(how)
	}
	return python
}

// said is what Evidently says of a column: a score, which is nil where there is none, and a verdict.
type said map[string][2]any

func (s said) score(test string) (float64, bool) {
	f, ok := s[test][0].(float64)
	return f, ok
}

func (s said) drifted(test string) bool { return s[test][1] == true }

func writeParquet[T any](t testing.TB, rows []T) []byte {
	t.Helper()
	var data bytes.Buffer
	w := parquet.NewGenericWriter[T](&data)
	if _, err := w.Write(rows); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return data.Bytes()
}

// counted is a state of what a file has.
func counted(t testing.TB, p *Profile, data []byte) *State {
	t.Helper()
	r := parquet.NewReader(bytes.NewReader(data))
	defer r.Close()
	var at []int // where the file's columns lie in the profile
	for _, path := range r.Schema().Columns() {
		i, ok := p.Column(path[0])
		if !ok {
			t.Fatalf("the profile has no column %s", path)
		}
		at = append(at, i)
	}
	s := NewState(p)
	rows := make([]parquet.Row, 64)
	for {
		n, err := r.ReadRows(rows)
		for _, row := range rows[:n] {
			for _, v := range row {
				switch i := at[v.Column()]; {
				case v.IsNull():
					s.AddMissing(i)
				case v.Kind() == parquet.ByteArray:
					s.AddText(i, v.String())
				case v.Kind() == parquet.Double:
					s.AddNumber(i, v.Double())
				default:
					s.AddNumber(i, float64(v.Int64()))
				}
			}
		}
		if err == io.EOF { //nolint:errorlint // as a reader says it
			return s
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// agreement compares our reports with Evidently's, for files of one reference of at most SampleRows rows.
//
// Evidently's numbers have to come out where its definition is ours: of categories, and of numbers
// that lie in deciles; p-values of KS have to be its own or a little more. Verdicts have to be
// the same at its thresholds, but for a band around these, and where Evidently does what is known
// to go wrong:
//   - its chi-square test does not join cells with an expectation below 5;
//   - its bins of equal width say nothing when one value is far off (except names these columns).
func agreement(t *testing.T, reference []byte, names []string, currents [][]byte, except string) {
	python := evidentlyPython(t)
	p, err := FromParquet(bytes.NewReader(reference), int64(len(reference)), nil)
	if err != nil {
		t.Fatal(err)
	}
	if p.Rows() > SampleRows {
		t.Fatalf("the reference has %d rows, more than are kept", p.Rows())
	}
	dir := t.TempDir()
	args := []string{"-W", "ignore", "../../test/conformance/evidently_verdicts.py"}
	for i, data := range append([][]byte{reference}, currents...) {
		file := filepath.Join(dir, fmt.Sprint(i, ".parquet"))
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, file)
	}
	cmd := exec.CommandContext(t.Context(), python, args...)
	cmd.Env = append(os.Environ(), "DO_NOT_TRACK=1", "HOME="+dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.Bytes())
	}
	lines := json.NewDecoder(bytes.NewReader(out))
	var same, near, excepted int
	for i, data := range currents {
		var all map[string]said
		if err := lines.Decode(&all); err != nil {
			t.Fatal(err)
		}
		s := counted(t, p, data)
		report, err := Compare(s, Default)
		if err != nil {
			t.Fatal(err)
		}
		for j := range report.Columns {
			c := &report.Columns[j]
			theirs := all[c.Name]
			what := fmt.Sprintf("%s, %s", names[i], c.Name)
			if c.Kind == Numeric {
				compareNumbers(t, what, c, theirs)
			} else {
				compareCategories(t, what, c, theirs, s, j)
			}
			significant := theirs.drifted("ks") || theirs.drifted("chisquare")
			drifted := significant && (theirs.drifted("psi") || theirs.drifted("jensenshannon"))
			index, _ := theirs.score("psi")
			distance, _ := theirs.score("jensenshannon")
			switch {
			// What it finds we find, by whichever test; it has none for missing values and the range.
			case drifted && c.Verdict == Drifted || !drifted && !c.Tests[0].Alarm:
				same++
			case c.Name == except:
				excepted++
			case within(max(c.PSI, c.JS), 0.1, 1.5) || within(max(index, distance), 0.1, 1.5):
				t.Logf("near: %s: got %s, Evidently says %v", what, c, theirs)
				near++
			default:
				t.Errorf("%s: got %s, Evidently says %v", what, c, theirs)
			}
		}
	}
	t.Logf("%d verdicts on columns are Evidently's, %d are not and near the threshold, %d are not and are of the column that is excepted", same, near, excepted)
	if near*10 > same {
		t.Error("less than nine of ten verdicts are Evidently's")
	}
}

// within tells whether f is a threshold give or take a factor.
func within(f, threshold, factor float64) bool {
	return f >= threshold/factor && f <= threshold*factor
}

func compareNumbers(t *testing.T, what string, c *ColumnReport, theirs said) {
	for test, got := range map[string]float64{"psi_deciles": c.PSI, "jensenshannon_deciles": c.JS} {
		want, ok := theirs.score(test)
		if !ok || math.Abs(got-want) > 0.003+0.1*want { // deciles end where bins do
			t.Errorf("%s: got %s of %v, Evidently has %v", what, test, got, want)
		}
		if (got >= 0.1) != theirs.drifted(test) && !within(want, 0.1, 1.1) {
			t.Errorf("%s: got %s of %v and another verdict than Evidently, which has %v", what, test, got, want)
		}
	}
	want, ok := theirs.score("ks")
	got := c.Tests[0].P
	if !ok || got < want*0.8 && want > 1e-300 { // Evidently's is exact for small samples, and from all rows
		t.Errorf("%s: got a p-value of KS of %v, Evidently has %v", what, got, want)
	}
	if (got <= 0.05) != theirs.drifted("ks") && !within(want, 0.05, 1.3) {
		t.Errorf("%s: got %v by KS and another verdict than Evidently, which has %v", what, got, want)
	}
}

func compareCategories(t *testing.T, what string, c *ColumnReport, theirs said, s *State, column int) {
	// The least share of the reference or window, and the least expectation.
	of, tally := &s.p.columns[column], &s.columns[column]
	leastShare, leastExpected := 1.0, math.Inf(1)
	for i, n := range of.Counts {
		leastShare = min(leastShare, share(n, of.Sampled()), share(tally.cells[i], c.Values))
		leastExpected = min(leastExpected, share(n, of.Sampled())*float64(c.Values))
	}
	if c.Unseen.Current > 0 {
		leastShare, leastExpected = 0, 0
	}
	want, ok := theirs.score("jensenshannon")
	if !ok || math.Abs(c.JS-want) > 1e-7 {
		t.Errorf("%s: got a Jensen–Shannon distance of %v, Evidently has %v", what, c.JS, want)
	}
	// A share of 0 is 0.0001 for Evidently too, unless there are smaller ones.
	want, ok = theirs.score("psi")
	if !ok || leastShare > 1e-4 && math.Abs(c.PSI-want) > 1e-9 {
		t.Errorf("%s: got a PSI of %v, Evidently has %v", what, c.PSI, want)
	}
	want, ok = theirs.score("chisquare")
	if got := c.Tests[0].P; ok && (got < 0.05) != theirs.drifted("chisquare") && leastExpected >= 5 && !within(want, 0.05, 1.3) {
		t.Errorf("%s: got %v by chi-square and another verdict than Evidently, which has %v", what, got, want)
	}
}

type synthetic struct {
	Normal    float64  `parquet:"normal"`
	Lognormal float64  `parquet:"lognormal"`
	Uniform   float64  `parquet:"uniform"`
	Zeros     *float64 `parquet:"zeros,optional"`
	Integers  int64    `parquet:"integers"`
	Discrete  int64    `parquet:"discrete"`
	Text      string   `parquet:"text"`
}

func TestEvidentlySynthetic(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 6))
	draw := func(rows int, shift float64) []byte {
		out := make([]synthetic, rows)
		pick := cumulative([]float64{.5, .25 + shift/2, .15, .1})
		for i := range out {
			out[i] = synthetic{
				Normal: r.NormFloat64() + shift, Lognormal: math.Exp(0.5*r.NormFloat64() + shift/2), Uniform: r.Float64() * (1 + shift/2),
				Integers: int64(math.Round(30 * (r.NormFloat64() + shift))), Discrete: int64(pick(r)), Text: string(rune('a' + pick(r))),
			}
			if f := max(0, r.NormFloat64()+shift); r.IntN(20) > 0 {
				out[i].Zeros = &f
			}
		}
		return writeParquet(t, out)
	}
	var names []string
	var currents [][]byte
	for _, shift := range []float64{0, 0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1} {
		names, currents = append(names, fmt.Sprintf("shift %v", shift)), append(currents, draw(1000, shift))
	}
	agreement(t, draw(20_000, 0), names, currents, "")
}

type weather struct {
	Month     int64    `parquet:"month"`
	Origin    *string  `parquet:"origin,optional"`
	Hour      *int64   `parquet:"hour,optional"`
	Temp      *float64 `parquet:"temp,optional"`
	Dewp      *float64 `parquet:"dewp,optional"`
	Humid     *float64 `parquet:"humid,optional"`
	WindDir   *int64   `parquet:"wind_dir,optional"`
	WindSpeed *float64 `parquet:"wind_speed,optional"`
	WindGust  *float64 `parquet:"wind_gust,optional"`
	Precip    *float64 `parquet:"precip,optional"`
	Pressure  *float64 `parquet:"pressure,optional"`
	Visib     *float64 `parquet:"visib,optional"`
}

type flight struct {
	Month    int64   `parquet:"month"`
	Carrier  *string `parquet:"carrier,optional"`
	Origin   *string `parquet:"origin,optional"`
	Dest     *string `parquet:"dest,optional"`
	DepDelay *int64  `parquet:"dep_delay,optional"`
	ArrDelay *int64  `parquet:"arr_delay,optional"`
	AirTime  *int64  `parquet:"air_time,optional"`
	Distance *int64  `parquet:"distance,optional"`
	Hour     *int64  `parquet:"hour,optional"`
	Minute   *int64  `parquet:"minute,optional"`
}

// seasons compares each month from May on with January to April, of which it takes one row of so many.
func seasons[T any](t *testing.T, file string, month func(*T) int64, every, current int, except string) {
	all, err := parquet.ReadFile[T](filepath.Join("../../examples/flights/data", file))
	if err != nil {
		t.Fatal(err)
	}
	var reference []T
	months := make([][]T, 13)
	for i := range all {
		switch m := month(&all[i]); {
		case m <= 4 && i%every == 0:
			reference = append(reference, all[i])
		case m > 4 && i%current == 0:
			months[m] = append(months[m], all[i])
		}
	}
	var names []string
	var currents [][]byte
	for m := 5; m <= 12; m++ {
		names, currents = append(names, fmt.Sprintf("month %d", m)), append(currents, writeParquet(t, months[m]))
	}
	agreement(t, writeParquet(t, reference), names, currents, except)
}

func TestEvidentlyWeather(t *testing.T) {
	seasons(t, "weather.parquet", func(w *weather) int64 { return w.Month }, 1, 1,
		"wind_speed") // in February somebody measured 1048 mph: all other winds are in Evidently's first bin
}

func TestEvidentlyFlights(t *testing.T) {
	seasons(t, "flights.parquet", func(f *flight) int64 { return f.Month }, 2, 10, "")
}
