package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/drift"
	"github.com/pilotlight-ml/pilotlight/internal/feedback"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
)

// answering serves an answer to whatever is asked, which asked has afterwards.
func answering(t *testing.T, answer any) (url string, asked *string) {
	t.Helper()
	asked = new(string)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*asked = r.URL.String()
		_ = json.NewEncoder(w).Encode(answer) // the test sees what comes
	}))
	t.Cleanup(server.Close)
	return server.URL, asked
}

// picture reads a picture that a command drew, and fails where it is not XML.
func picture(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(strings.NewReader(string(b))); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return string(b)
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, b)
		}
	}
}

func newYear(days int) time.Time { return time.Date(2013, time.January, 1+days, 0, 0, 0, 0, time.UTC) }

// judged makes a version that is right about a share of a hundred answers, of which some have outcomes.
func judged(t *testing.T, version int, slice string, task quality.Task, right, outcomes int) feedback.Judged {
	t.Helper()
	state, err := quality.NewState(quality.Spec{Task: task})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		a, truth := quality.Answer{Number: .2 + .6*float64(i%2)}, quality.Truth{Yes: (i%2 == 1) == (i < right)}
		switch task {
		case quality.Multiclass:
			a, truth = quality.Answer{Class: "cat", Number: .8}, quality.Truth{Class: map[bool]string{true: "cat", false: "dog"}[i < right]}
		case quality.Regression:
			a, truth = quality.Answer{Number: 10}, quality.Truth{Number: 10 + float64(100-right)*float64(i%3)/100}
		}
		if err := state.Predicted(a); err != nil {
			t.Fatal(err)
		}
		if i < outcomes {
			if err := state.Add(a, truth, time.Hour); err != nil {
				t.Fatal(err)
			}
		}
	}
	v := feedback.Judged{Version: version, Slice: slice, Report: state.Report()}
	if task == quality.Binary {
		if v.Estimate, err = state.Estimate(nil); err != nil {
			t.Fatal(err)
		}
	}
	return v
}

func TestQualityOverTime(t *testing.T) {
	const sliced = "carrier=B6"
	j := feedback.Judgement{Model: "flights", From: newYear(0), Until: newYear(28)}
	j.Versions = []feedback.Judged{
		judged(t, 1, "", quality.Binary, 80, 100), judged(t, 1, sliced, quality.Binary, 80, 100), judged(t, 2, "", quality.Binary, 80, 100),
		{Version: 3, Unjudged: 7, Why: "there is no output"},
	}
	for i, w := range []struct{ days, right, outcomes int }{{0, 90, 100}, {7, 70, 100}, {21, 80, 0}} {
		j.Windows = append(j.Windows, feedback.JudgedWindow{From: newYear(w.days), Until: newYear(w.days + 7), Versions: []feedback.Judged{
			judged(t, 1, "", quality.Binary, w.right, w.outcomes), judged(t, 1, sliced, quality.Binary, w.right, w.outcomes),
		}})
		if i == 1 {
			j.Windows[i].Versions = append(j.Windows[i].Versions, judged(t, 2, "", quality.Binary, 60, 100))
		}
	}
	url, asked := answering(t, j)
	file := filepath.Join(t.TempDir(), "quality.svg")
	out, err := run(t, "", "quality", "flights", "--server", url, "--every", "7d", "--svg", file, "--metric", "accuracy")
	if err != nil {
		t.Fatal(err)
	}
	if *asked != "/admin/v1/quality/flights?every=168h0m0s" {
		t.Errorf("asked %s", *asked)
	}
	plain := gaps.ReplaceAllString(out, "  ")
	for _, want := range []string{
		"FROM  PREDICTIONS  OUTCOMES  ACCURACY  AUC  LOG_LOSS  BASE_RATE  BIAS", "2013-01-01  100  100  0.9  ", "2013-01-08  100  100  0.7  ",
		"2013-01-22  100  0  ~0.8003  ", "flights:1  carrier=B6", "● accuracy, ─ its 95 % interval, ○ and ~ estimated",
		"flights:3  7 answers can't be judged: there is no output", "drawn: " + file,
	} {
		if !strings.Contains(plain, want) {
			t.Errorf("got\n%s, which lacks %q", out, want)
		}
	}
	// What is more stands further right.
	place := func(line string) (at int) {
		for _, l := range strings.Split(out, "\n") {
			if strings.HasPrefix(l, line) {
				return len([]rune(l[:strings.Index(l, "●")]))
			}
		}
		t.Fatalf("got\n%s, which lacks %q", out, line)
		return 0
	}
	if good, bad := place("2013-01-01"), place("2013-01-08"); good <= bad {
		t.Errorf("0.9 is at %d, and 0.7 at %d", good, bad)
	}
	svg := picture(t, file)
	for _, want := range []string{
		"flights: accuracy over time", "share of answers that came true", "version 1</text>", "version 1, estimated", "version 2</text>", "version 1, carrier=B6", "calibration of the whole", "stroke-dasharray",
		"flights:1: accuracy from 0.7 to 0.9 in 2 windows, 0.7 in the last.",
	} {
		if !strings.Contains(svg, want) {
			t.Errorf("the picture lacks %q", want)
		}
	}

	// JSON stays what the server said, with the picture beside it.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if out, err := run(t, "", "quality", "flights", "--server", url, "--svg", file, "-o", "json"); err != nil || !json.Valid([]byte(out)) || *asked != "/admin/v1/quality/flights?every=24h0m0s" {
		t.Errorf("asked %s, got %s %v", *asked, out, err)
	}
	if svg := picture(t, file); !strings.Contains(svg, "flights: auc over time") {
		t.Errorf("got %s", svg)
	}
	for _, test := range []struct {
		want string
		args []string
	}{
		{`--every is "week", expected a length such as 24h or 7d`, []string{"--every", "week"}},
		{`--metric is of windows; --every says of which`, []string{"--metric", "auc"}},
		{`--metric is "mae", expected one of accuracy, precision`, []string{"--every", "24h", "--metric", "mae"}},
		{`no such file or directory`, []string{"--svg", filepath.Join(t.TempDir(), "none", "x.svg")}},
	} {
		if _, err := run(t, "", append([]string{"quality", "flights", "--server", url}, test.args...)...); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: got %v, want %s", test.args, err, test.want)
		}
	}
}

func TestQualityOverTimeOfOtherTasks(t *testing.T) {
	for task, want := range map[quality.Task]string{
		quality.Multiclass: "OUTCOMES  ACCURACY  MACRO_F1  LOG_LOSS", quality.Regression: "OUTCOMES  MAE  RMSE  BIAS",
	} {
		j := feedback.Judgement{Model: "m", From: newYear(0), Until: newYear(2), Versions: []feedback.Judged{judged(t, 1, "", task, 70, 100)}}
		for i := range 2 {
			j.Windows = append(j.Windows, feedback.JudgedWindow{From: newYear(i), Until: newYear(i + 1), Versions: []feedback.Judged{judged(t, 1, "", task, 60+10*i, 100)}})
		}
		url, _ := answering(t, j)
		file := filepath.Join(t.TempDir(), "quality.svg")
		out, err := run(t, "", "quality", "m", "--server", url, "--every", "24h", "--svg", file)
		if err != nil || !strings.Contains(gaps.ReplaceAllString(out, "  "), want) || strings.Contains(out, "○") {
			t.Errorf("%s: got %s %v, want %s", task, out, err, want)
		}
		if svg := picture(t, file); strings.Contains(svg, "calibration") != (task == quality.Multiclass) {
			t.Errorf("%s: got %s", task, svg)
		}
	}
	url, _ := answering(t, feedback.Judgement{Model: "m", From: newYear(0), Until: newYear(2)})
	file := filepath.Join(t.TempDir(), "quality.svg")
	if out, err := run(t, "", "quality", "m", "--server", url, "--svg", file); err != nil || !strings.Contains(out, "m made no predictions") || !strings.Contains(picture(t, file), "There is nothing to judge.") {
		t.Errorf("got %s %v", out, err)
	}
}

// driftOf makes windows in which columns moved by that much.
func driftOf(columns []string, psi ...[]float64) *feedback.Drift {
	d := &feedback.Drift{Model: "flights", From: newYear(0), Until: newYear(len(psi)), Versions: []feedback.Drifted{
		{Version: 1, Report: &drift.Report{Verdict: drift.Drifted, Rows: 1000}}, {Version: 2, Missing: "there is no training reference"},
	}}
	for i, window := range psi {
		report := &drift.Report{Verdict: drift.Steady, Rows: 100}
		for at, p := range window {
			c := drift.ColumnReport{
				Name: columns[at], Kind: drift.Numeric, PSI: p, Verdict: drift.Steady, Tests: []drift.Test{{Name: drift.KS, Alarm: p >= .1, Effect: p}},
				Reference: &drift.Spread{P50: 41}, Current: &drift.Spread{P50: 41 + 10*p},
			}
			switch {
			case p < 0:
				c.PSI, c.Verdict = 0, drift.TooFew
			case p >= .1:
				c.Verdict, c.Cause, report.Verdict = drift.Drifted, drift.KS, drift.Drifted
			}
			report.Columns = append(report.Columns, c)
		}
		d.Windows = append(d.Windows, feedback.DriftedWindow{From: newYear(i), Until: newYear(i + 1), Versions: []feedback.Drifted{{Version: 1, Report: report}}})
	}
	return d
}

func TestDriftOverTime(t *testing.T) {
	d := driftOf([]string{"calm", "humid", "dewp", "wind"}, []float64{.01, .2, .05, -1}, []float64{.02, .05, 1.3, .3}, []float64{.03, .4, 2.2, .04})
	wind := &d.Windows[1].Versions[0].Report.Columns[3]
	wind.Cause, wind.Missing, wind.Current = drift.MissingShare, drift.Change{Reference: .01, Current: .25}, nil
	wind.Moves = []drift.Change{{Of: "(5, 7]", Reference: .1, Current: .4}}
	url, asked := answering(t, d)
	file := filepath.Join(t.TempDir(), "drift.svg")
	out, err := run(t, "", "drift", "flights", "--server", url, "--every", "30d", "--svg", file)
	if err != nil {
		t.Fatal(err)
	}
	if *asked != "/admin/v1/drift/flights?every=720h0m0s" {
		t.Errorf("asked %s", *asked)
	}
	const want = `flights:1  drifted, of 1000 rows

COLUMN  Jan 01  Jan 02  Jan 03
dewp  0.05  1.30*  2.20*
humid  0.20*  0.05  0.40*
wind  -  0.30*  0.04
calm  0.01  0.02  0.03
PSI by window; * has drifted, - too few rows to tell

dewp drifted in 2 of 3 windows, from 2013-01-02 until 2013-01-04; most in that from 2013-01-03 (PSI 2.20): its median went from 41 to 63.
humid drifted in 2 of 3 windows, first from 2013-01-01, last until 2013-01-04; most in that from 2013-01-03 (PSI 0.40): its median went from 41 to 45.
wind drifted in one of 3 windows, from 2013-01-02 until 2013-01-03 (PSI 0.30): 25 % were missing, instead of 1 %; the share of (5, 7] went from 10 % to 40 %.
flights:2  there is no training reference
`
	if got := gaps.ReplaceAllString(out, "  "); strings.ReplaceAll(got, "drawn: "+file+"\n", "") != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	svg := picture(t, file)
	for _, want := range []string{"flights: drift over time", "version 2 has no training reference", ">dewp</text>", "2.20", "underlined: has drifted", "too few rows to tell", "wind drifted in one of 3 windows"} {
		if !strings.Contains(svg, want) {
			t.Errorf("the picture lacks %q", want)
		}
	}
	if strings.Index(svg, ">dewp</text>") > strings.Index(svg, ">humid</text>") {
		t.Error("dewp moved more than humid, and is below it")
	}
}

// A year of days is told by strips, and many columns by those that moved.
func TestDriftOverManyWindows(t *testing.T) {
	var names []string
	for i := range 50 {
		names = append(names, fmt.Sprintf("column%d", i))
	}
	var psi [][]float64
	for i := range 100 {
		window := make([]float64, len(names))
		window[30] = float64(i) / 50
		psi = append(psi, window)
	}
	url, _ := answering(t, driftOf(names, psi...))
	out, err := run(t, "", "drift", "flights", "--server", url, "--every", "24h")
	if err != nil {
		t.Fatal(err)
	}
	plain := gaps.ReplaceAllString(out, "  ")
	for _, want := range []string{
		"column30  " + strings.Repeat("·", 5) + strings.Repeat("░", 8) + strings.Repeat("▒", 12) + strings.Repeat("▓", 25) + strings.Repeat("█", 10) + "  95 of 100  2013-04-10  1.98\n",
		"column30  " + strings.Repeat("█", 40) + "\n", "10 columns more have moved less",
		"column30 drifted in 95 of 100 windows, from 2013-01-06 until 2013-04-11; most in that from 2013-04-10 (PSI 1.98)",
	} {
		if !strings.Contains(plain, want) {
			t.Errorf("got\n%s\nwhich lacks %q", plain, want)
		}
	}
	if strings.Index(plain, "column30 ") > strings.Index(plain, "column0 ") {
		t.Error("what moved most is not above all")
	}
	url, _ = answering(t, &feedback.Drift{Model: "flights"})
	file := filepath.Join(t.TempDir(), "drift.svg")
	if out, err := run(t, "", "drift", "flights", "--server", url, "--svg", file); err != nil || !strings.Contains(out, "flights made no predictions") || !strings.Contains(picture(t, file), "There is nothing to compare.") {
		t.Errorf("got %s %v", out, err)
	}
}
