package feedback

import (
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// labelled gives the labelled rows that are wanted, each as a line.
func (l *loop) labelled(w Wanted) (*Labels, []string) {
	l.t.Helper()
	if w.Model == "" {
		w.Model = "m"
	}
	labels, err := OpenLabels(l.t.Context(), l.blob, &w)
	if err != nil {
		l.t.Fatal(err)
	}
	var all []string
	for range 2 { // rows can be had again
		all = nil
		for r, err := range labels.Rows(l.t.Context()) {
			if err != nil {
				l.t.Fatal(err)
			}
			gate, _ := r.Input("gate")
			all = append(all, fmt.Sprintf("%s v%d gate %s %s: %t%s%g", r.ID, r.Version, gate, time.UnixMicro(r.At).UTC().Format("15:04"), r.Truth.Yes, r.Truth.Class, r.Truth.Number))
		}
	}
	return labels, all
}

func TestLabels(t *testing.T) {
	l := newLoop(t)
	l.predict(1, 0, .9, .2, .8, .4, .3)
	l.predict(2, 0, .1, .1, .1) // a shadow, of the same
	at := func(minutes int) string { return monday.Add(time.Duration(minutes) * time.Minute).Format(time.RFC3339) }
	l.send(`{"prediction":"0","value":true,"time":"`+at(10)+`"}`, `{"prediction":"1","value":false,"time":"`+at(30)+`"}`,
		`{"prediction":"2","value":true,"time":"`+at(10)+`"}`, `{"prediction":"7","value":true}`, `{"prediction":"0","row":3,"value":true}`)
	l.send(`{"prediction":"2","value":false,"time":"` + at(20) + `"}`)                                     // a correction
	l.send(`{"prediction":"2","value":"maybe","time":"` + at(20) + `"}`)                                   // can't be judged
	l.send(`{"model":"m","entity":{"gate":4},"at":"` + at(60) + `","value":true,"time":"` + at(60) + `"}`) // by what it is about

	labels, got := l.labelled(Wanted{})
	want := "[0 v1 gate 0 " + clock(0) + ": true0 1 v1 gate 1 " + clock(1) + ": false0 2 v1 gate 2 " + clock(2) + ": false0 4 v1 gate 4 " + clock(4) + ": true0]"
	if fmt.Sprint(got) != want {
		t.Errorf("got %v\nwant %s", got, want)
	}
	if labels.Spec.Task != quality.Binary || !labels.Newest.Equal(monday.Add(4*time.Minute)) || labels.Outcomes.Joined != 4 || labels.Outcomes.Corrected != 1 || labels.Outcomes.Unsuited != 1 {
		t.Errorf("got %+v", labels)
	}

	// What is later than a moment was not known by then. The predictions were "made" on monday and the outcomes taken in now, as in a live
	// system that is told late: then it is that which counts.
	for _, test := range []struct {
		until time.Time
		want  int
	}{{monday.Add(time.Hour), 0}, {time.Now().Add(time.Minute), 4}, {monday.Add(-time.Hour), 0}} {
		if _, got := l.labelled(Wanted{Known: test.until}); len(got) != test.want {
			t.Errorf("known by %s: got %v, want %d", test.until, got, test.want)
		}
	}
	if _, got := l.labelled(Wanted{From: monday.Add(time.Minute), Until: monday.Add(3 * time.Minute)}); len(got) != 2 {
		t.Errorf("got %v, want two rows", got)
	}
	if _, got := l.labelled(Wanted{Model: "other"}); len(got) != 0 {
		t.Errorf("got %v of a model that was never asked", got)
	}
}

func clock(minute int) string {
	return monday.Add(time.Duration(minute) * time.Minute).UTC().Format("15:04")
}

// A replay asks now, as of then, and is told as quickly.
func TestLabelsOfAReplay(t *testing.T) {
	l := newLoop(t)
	then := time.Date(2013, 5, 1, 12, 0, 0, 0, time.UTC)
	l.replay(then, 3)
	for i := range 3 {
		l.send(fmt.Sprintf(`{"prediction":"%d","value":true,"time":"%s"}`, i, then.Add(time.Duration(i)*time.Hour+30*time.Minute).Format(time.RFC3339)))
	}
	for _, test := range []struct {
		known time.Time
		want  int
	}{{then, 0}, {then.Add(time.Hour), 1}, {then.Add(2 * time.Hour), 2}, {then.Add(3 * time.Hour), 3}} {
		if _, got := l.labelled(Wanted{Known: test.known}); len(got) != test.want {
			t.Errorf("known by %s: got %v, want %d", test.known, got, test.want)
		}
	}
}

// replay logs predictions that are made now, an hour each from then on.
func (l *loop) replay(then time.Time, n int) {
	l.t.Helper()
	tel, err := telemetry.Start(l.t.Context(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		l.t.Fatal(err)
	}
	log, err := payload.Open(&payload.Config{On: "on", Memory: 8 << 20, Every: time.Hour}, l.blob, nil, tel)
	if err != nil {
		l.t.Fatal(err)
	}
	for i := range n {
		log.Add(&payload.Origin{Model: "m", Version: 1, Sample: 1}, &payload.Prediction{
			ID: fmt.Sprint(i), Asked: time.Now(), At: then.Add(time.Duration(i) * time.Hour), Rows: 1,
			Outputs: []tensor.Tensor{tensor.Of("probability", []int64{1, 1}, []float64{.5})},
		})
	}
	if err := log.Close(); err != nil {
		l.t.Fatal(err)
	}
}
