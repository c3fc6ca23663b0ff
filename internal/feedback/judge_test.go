package feedback

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// loop is what a judge needs: a place where predictions are logged and outcomes are taken in.
type loop struct {
	t       *testing.T
	blob    store.Blob
	journal *Journal
	url     string
}

// journalOf makes a journal of a bucket.
func journalOf(t testing.TB, b store.Blob) *Journal {
	t.Helper()
	tel, err := telemetry.Start(context.Background(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		t.Fatal(err)
	}
	j, err := NewJournal(&JournalConfig{Join: 720 * time.Hour, Wait: time.Hour}, b, model.NewCatalog(b, time.Minute, nil), tel)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func newLoop(t *testing.T) *loop {
	t.Helper()
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		t.Fatal(err)
	}
	b := memory(t)
	in, err := NewIntake(&IntakeConfig{Rows: 100_000, Bytes: 64 * env.Size(1<<20), Write: time.Minute, Ahead: time.Hour, Request: 100_000}, b, tel)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	in.Register(mux)
	j := journalOf(t, b)
	registerAdmin(mux, j)
	server := httptest.NewServer(mux)
	t.Cleanup(func() {
		server.Close()
		if err := in.Close(); err != nil {
			t.Error(err)
		}
	})
	return &loop{t, b, j, server.URL}
}

// predict logs predictions of probabilities, at a minute each from monday on; their ids are their numbers.
func (l *loop) predict(version, first int, p ...float64) {
	l.t.Helper()
	tel, err := telemetry.Start(l.t.Context(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		l.t.Fatal(err)
	}
	log, err := payload.Open(&payload.Config{On: "on", Memory: 8 << 20, Every: time.Hour}, l.blob, nil, tel)
	if err != nil {
		l.t.Fatal(err)
	}
	for i, p := range p {
		n := first + i
		at := monday.Add(time.Duration(n) * time.Minute)
		log.Add(&payload.Origin{Model: "m", Version: version, Sample: 1}, &payload.Prediction{
			ID: fmt.Sprint(n), Asked: at, At: at, Rows: 1,
			Given:   []tensor.Tensor{tensor.OfStrings("carrier", []int64{1}, []string{[]string{"AA", "B6"}[n%2]}), tensor.Of("gate", []int64{1}, []int64{int64(n % 5)})},
			Outputs: []tensor.Tensor{tensor.Of("probability", []int64{1, 1}, []float64{p}), tensor.Of("label", []int64{1}, []int64{1})},
		})
	}
	if err := log.Close(); err != nil {
		l.t.Fatal(err)
	}
}

func (l *loop) send(outcomes ...string) {
	l.t.Helper()
	r, err := http.NewRequestWithContext(l.t.Context(), "POST", l.url+"/feedback", strings.NewReader(strings.Join(outcomes, "\n")))
	if err != nil {
		l.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-ndjson")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		l.t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusAccepted || !bytes.Contains(b, []byte(`"rejected":0`)) {
		l.t.Fatalf("got %d %s", resp.StatusCode, b)
	}
	time.Sleep(time.Millisecond) // so that what is sent next was taken in later
}

// ask gives the answer of the admin path, or its status and sentence.
func (l *loop) ask(query string) (*Judgement, string) {
	l.t.Helper()
	if !strings.Contains(query, "from=") {
		query += "&from=2026-11-23T00:00:00Z&until=2026-11-30T00:00:00Z"
	}
	r, err := http.NewRequestWithContext(l.t.Context(), "GET", l.url+"/admin/v1/quality/m?"+query, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		l.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		l.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Sprint(resp.StatusCode, " ", string(b))
	}
	var j Judgement
	if err := json.Unmarshal(b, &j); err != nil {
		l.t.Fatal(err)
	}
	return &j, ""
}

func (l *loop) judge(query string) *Judgement {
	l.t.Helper()
	j, refused := l.ask(query)
	if j == nil {
		l.t.Fatal(refused)
	}
	return j
}

func outcomeOf(n int, value string) string {
	return fmt.Sprintf(`{"prediction":"%d","value":%s}`, n, value)
}

// Outcomes that come early, late, again, corrected and contradictory are joined as they should be.
func TestOutcomesAreJoined(t *testing.T) {
	l := newLoop(t)
	l.send(outcomeOf(0, "true"), outcomeOf(1, "false")) // early
	if j := l.judge(""); len(j.Versions) != 0 || j.Waiting != 2 {
		t.Errorf("before the log: got %+v", j)
	}
	l.predict(1, 0, .9, .2, .8, .4, .7, .1)
	l.predict(2, 6, .6, .3)
	l.send(outcomeOf(0, "true"))                                              // again
	l.send(`{"prediction":"2","value":true,"id":"x"}`)                        // to be
	l.send(`{"prediction":"2","value":false,"id":"x"}`)                       // corrected
	l.send(outcomeOf(3, "true"), outcomeOf(3, "false"))                       // contradictory: at once, so either may count
	l.send(`{"prediction":"4","value":1,"time":"2026-11-25T10:04:00Z"}`)      // two days late
	l.send(`{"prediction":"5","value":0,"model":"m"}`, outcomeOf(6, "false")) // named, of the other version
	l.send(`{"prediction":"5","value":1,"model":"other"}`)                    // of another model
	l.send(outcomeOf(7, `"maybe"`), outcomeOf(99, "true"))                    // unsuited, unknown
	j := l.judge("task=binary")
	if len(j.Versions) != 2 || j.Outcomes.Joined != 7 || j.Outcomes.Repeated != 1 || j.Outcomes.Corrected != 2 || j.Outcomes.Unsuited != 1 || j.Waiting != 1 || !strings.Contains(j.Outcomes.Reason, "maybe") {
		t.Fatalf("got %+v", j)
	}
	one, two := j.Versions[0].Report, j.Versions[1].Report
	// Version 1: .9 true, .2 false, .8 false (corrected), .4 either, .7 true, .1 false.
	if one.Predicted != 6 || one.Outcomes != 6 || two.Predicted != 2 || two.Outcomes != 1 {
		t.Fatalf("got %+v and %+v", one, two)
	}
	if a := one.Metrics["accuracy"].Value; math.Abs(a-5./6) > 1e-9 && math.Abs(a-4./6) > 1e-9 {
		t.Errorf("got accuracy %g", a)
	}
	if a := two.Metrics["accuracy"].Value; a != 0 {
		t.Errorf("version 2: got accuracy %g", a)
	}
	if d := one.Metrics["label_delay_max"].Value; math.Abs(d-2*24*3600) > .1*2*24*3600 && d < 2*24*3600 {
		t.Errorf("got a label delay of %g s", d)
	}

	sliced := l.judge("task=binary&version=1&slice=carrier")
	if len(sliced.Versions) != 3 || sliced.Versions[0].Report.Outcomes != 6 || sliced.Versions[1].Slice != "carrier=AA" || sliced.Versions[1].Report.Outcomes != 3 || sliced.Versions[2].Slice != "carrier=B6" {
		t.Errorf("got %+v", sliced)
	}
	if j := l.judge("task=binary&version=3"); len(j.Versions) != 0 {
		t.Errorf("a version that there is not: got %+v", j)
	}
	if j := l.judge("task=regression&version=2"); j.Versions[0].Report.Task != quality.Regression {
		t.Errorf("got %+v", j)
	}
}

// A strange outcome, or those of other models, are no reason to take the others for something else.
func TestTaskIsToldByMostOutcomes(t *testing.T) {
	for name, c := range map[string]struct {
		outcomes []string // of predictions 0 to 5, and of one that there is not
		want     quality.Task
	}{
		"words":               {[]string{"true", "false", `"x"`, "true", "7", "false", `"a class"`}, quality.Binary},
		"bits":                {[]string{"1", "0", "1", "0", "1", "0", "12.5"}, quality.Binary},
		"numbers":             {[]string{"1", "0", "2.5", `"x"`, "-3", "12", "true"}, quality.Regression},
		"classes":             {[]string{`"a"`, `"b"`, "true", `"a"`, `"b"`, "3", "1"}, quality.Multiclass},
		"nothing that counts": {nil, quality.Binary},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLoop(t)
			l.predict(1, 0, .9, .2, .8, .4, .6, .1)
			for i, v := range c.outcomes {
				if i == 6 {
					i = 99
				}
				l.send(outcomeOf(i, v))
			}
			j := l.judge("")
			if r := j.Versions[0].Report; r.Task != c.want {
				t.Errorf("got %s: %+v, want %s", r.Task, j.Outcomes, c.want)
			}
		})
	}
}

// A correction that can't be judged takes nothing away, whenever it comes.
func TestUnsuitedCorrections(t *testing.T) {
	l := newLoop(t)
	l.predict(1, 0, .9, .2, .3)
	l.send(outcomeOf(0, "true"))
	l.send(outcomeOf(0, `"maybe"`))
	l.send(outcomeOf(1, `"maybe"`))
	l.send(outcomeOf(1, "true"))
	l.send(outcomeOf(1, "false"))
	l.send(outcomeOf(1, "7"))
	j := l.judge("task=binary")
	if o := j.Outcomes; o.Joined != 2 || o.Unsuited != 3 || o.Corrected != 1 || j.Versions[0].Report.Metrics["accuracy"].Value != 1 {
		t.Errorf("got %+v, accuracy %g; want .9 to be true and .2 to be false", o, j.Versions[0].Report.Metrics["accuracy"].Value)
	}
}

// An outcome about an entity means its last prediction at or before the time.
func TestOutcomesOfEntities(t *testing.T) {
	l := newLoop(t)
	l.predict(1, 0, .9, .2, .8, .4) // carrier AA at minutes 0 and 2, B6 at 1 and 3
	of := func(carrier string, minute int, value string) string {
		return fmt.Sprintf(`{"model":"m","entity":{"carrier":%q},"at":%q,"value":%s}`, carrier, monday.Add(time.Duration(minute)*time.Minute).Format(time.RFC3339), value)
	}
	l.send(of("AA", 1, "true"), of("AA", 500, "false"), of("B6", 1, "false"), of("B6", 0, "true"), of("UA", 3, "true"))
	l.send(`{"model":"m","entity":{"gate":3,"carrier":"B6"},"at":"2026-11-23T12:00:00Z","value":true}`) // minute 3
	j := l.judge("")
	r := j.Versions[0].Report
	if r.Task != quality.Binary || j.Outcomes.Joined != 4 || j.Waiting != 2 || r.Outcomes != 4 {
		t.Fatalf("got %+v %+v", j.Outcomes, r)
	}
	// .9 true, .2 false, .8 false, .4 true.
	if a := r.Metrics["accuracy"].Value; a != .5 {
		t.Errorf("got accuracy %g", a)
	}
}

// A poisoned object costs nobody else, and what can't be judged is said in one sentence.
func TestJudgeRefuses(t *testing.T) {
	l := newLoop(t)
	l.predict(1, 0, .9, 12)
	l.send(outcomeOf(0, "true"))
	for _, c := range []struct{ query, want string }{
		{"version=x", `400 {"error":"version is \"x\", expected the number of a version"}`},
		{"from=now", `400 {"error":"from is \"now\", expected a time such as 2026-11-25T09:30:00Z"}`},
		{"until=2020-01-01T00:00:00Z&from=2021-01-01T00:00:00Z", `400 {"error":"from must lie before until"}`},
		{"threshold=high", `400 {"error":"threshold is \"high\", expected a number"}`},
		{"task=guess", "400 "},
		{"output=nothing", `400 {"error":"which output is the answer? expected one of label, probability, not \"nothing\""}`},
		{"task=binary", "400 "}, // a probability of 12
	} {
		if _, refused := l.ask(c.query); !strings.HasPrefix(refused, c.want) {
			t.Errorf("%s: got %s, want %s", c.query, refused, c.want)
		}
	}
	for _, key := range []string{InboxPrefix + "0000000000000001-00.parquet", payload.Inbox + "0000000000000001-00.parquet"} {
		if _, err := l.blob.Put(t.Context(), key, strings.NewReader("junk"), 4, store.IfAbsent()); err != nil {
			t.Fatal(err)
		}
	}
	j, err := Judge(t.Context(), l.blob, &Question{Model: "m", From: monday, Until: monday.Add(30 * time.Second)})
	if err != nil || len(j.Damaged) != 2 || j.Outcomes.Joined != 1 {
		t.Errorf("got %+v, %v", j, err)
	}
	if _, err := Judge(t.Context(), l.blob, &Question{Model: "m", Until: monday.AddDate(1, 0, 0), Slice: "x", Spec: quality.Spec{Task: "binary"}}); !fault.Is(err, fault.Invalid) {
		t.Errorf("got %v", err)
	}
}
