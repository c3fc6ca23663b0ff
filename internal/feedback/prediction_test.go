package feedback

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/ledger"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// look gets what an admin path says.
func (l *loop) look(path string, into any) (status int, said string) {
	l.t.Helper()
	r, err := http.NewRequestWithContext(l.t.Context(), http.MethodGet, l.url+path, http.NoBody)
	if err != nil {
		l.t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		l.t.Fatal(err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		l.t.Fatal(err)
	}
	if answer.StatusCode == http.StatusOK {
		if err := json.Unmarshal(b, into); err != nil {
			l.t.Fatalf("%s: %v: %s", path, err, b)
		}
	}
	return answer.StatusCode, string(b)
}

func (l *loop) publish(name string, output tensor.Spec) {
	l.t.Helper()
	_, err := l.journal.catalog.Publish(l.t.Context(), model.Manifest{
		Name: name, Runtime: "onnx", Digest: model.Digest("sha256:" + strings.Repeat("0", 64)), Size: 1, Memory: engine.Memory{Session: 1, Loading: 1},
		Signature: engine.Signature{Outputs: []tensor.Spec{output}},
	})
	if err != nil {
		l.t.Fatal(err)
	}
}

func quietTelemetry(t testing.TB) *telemetry.Telemetry {
	t.Helper()
	tel, err := telemetry.Start(context.Background(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		t.Fatal(err)
	}
	return tel
}

// keep logs predictions as one segment.
func (l *loop) keep(name string, version int, all ...*payload.Prediction) {
	l.t.Helper()
	log, err := payload.Open(&payload.Config{On: "on", Memory: 8 << 20, Every: time.Hour}, l.blob, nil, quietTelemetry(l.t))
	if err != nil {
		l.t.Fatal(err)
	}
	for _, p := range all {
		log.Add(&payload.Origin{Model: name, Version: version, Sample: 1}, p)
	}
	if err := log.Close(); err != nil {
		l.t.Fatal(err)
	}
}

// A prediction is found by its id before and after a commit has taken it, with what was fetched for it, what came true, and how right it was.
func TestPrediction(t *testing.T) {
	l := newLoop(t)
	l.publish("m", tensor.Spec{Name: "probability", Type: tensor.FP64, Shape: []int64{-1, 1}})
	now := time.Now().UTC().Truncate(time.Microsecond)
	of := now.Add(-3 * time.Hour)
	fields := []row.Field{{Name: "wind", Type: row.Float64}, {Name: "visib", Type: row.Float32}}
	l.keep("m", 1, &payload.Prediction{
		ID: "order-7", Trace: [16]byte{1, 0xfe}, Asked: now.Add(-time.Second), At: now.Add(-time.Second), Latency: time.Millisecond, Caller: "10.0.0.1", Cache: "miss", Rows: 2,
		Given:  []tensor.Tensor{tensor.OfStrings("carrier", []int64{2}, []string{"UA", "<script>"})},
		Fields: fields, Features: payload.AppendFeatures(
			payload.AppendFeatures(nil, fields, []row.Value{row.OfFloat64(3.5), {}}, []int64{of.UnixMicro(), 0}),
			fields, []row.Value{row.OfFloat64(4), row.OfFloat32(1)}, []int64{of.UnixMicro(), of.UnixMicro()}),
		Outputs: []tensor.Tensor{tensor.Of("probability", []int64{2, 1}, []float64{0.8, 0.3})},
	}, &payload.Prediction{ID: "broken", Asked: now, At: now, Rows: 1, Err: fault.New(fault.Deadline, "it took too long")})
	l.keep("m", 2, &payload.Prediction{ID: "order-7", Asked: now.Add(5 * time.Millisecond), At: now, Rows: 2, Outputs: []tensor.Tensor{tensor.Of("probability", []int64{2, 1}, []float64{0.1, 0.2})}})
	l.send(`{"prediction":"order-7","value":true,"time":"`+now.Format(time.RFC3339)+`"}`, `{"prediction":"order-7","row":1,"value":"perhaps"}`)
	var p Prediction
	if status, said := l.look("/admin/v1/predictions/order-7", &p); status != http.StatusOK || len(p.Answers) != 1 || p.Answers[0].Version != 2 { // a look without the ledger ends with the newest
		t.Fatalf("before a commit: got %d %s", status, said)
	}
	if _, err := l.journal.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	p = Prediction{}
	if status, said := l.look("/admin/v1/predictions/order-7", &p); status != http.StatusOK || len(p.Answers) != 2 || p.Answers[0].Version != 1 || p.Answers[1].Version != 2 {
		t.Fatalf("got %d %s", status, said)
	}
	a := p.Answers[0]
	if a.Model != "m" || a.Caller != "10.0.0.1" || a.Cache != "miss" || a.Trace != "01fe"+strings.Repeat("0", 28) || a.Duration != 1000 || !a.Time.Equal(now.Add(-time.Second+time.Millisecond)) || len(a.Rows) != 2 {
		t.Fatalf("got %+v", a)
	}
	one, other := a.Rows[0], a.Rows[1]
	if string(one.Inputs) != `{"carrier":"UA"}` || string(one.Outputs) != `{"probability":0.8}` {
		t.Errorf("asked %s, said %s", one.Inputs, one.Outputs)
	}
	if f := one.Features; len(f) != 2 || f[0].Name != "wind" || string(f[0].Value) != "3.5" || !f[0].Time.Equal(of) || f[0].Age == nil || *f[0].Age != (3*time.Hour-time.Second).Seconds() ||
		string(f[1].Value) != "null" || f[1].Age != nil {
		t.Errorf("fetched %+v", f)
	}
	if o := one.Outcomes; len(o) != 1 || string(o[0].Value) != "true" || !o[0].Counts || !o[0].Joined {
		t.Errorf("came true %+v", o)
	}
	if v := one.Verdict; v == nil || v.Correct == nil || !*v.Correct || v.LogLoss == nil || *v.LogLoss < 0.22 || *v.LogLoss > 0.23 {
		t.Errorf("verdict %+v", v)
	}
	if o := other.Outcomes; len(o) != 1 || string(o[0].Value) != `"perhaps"` || o[0].Counts || other.Verdict != nil {
		t.Errorf("of the other row %+v, %+v", o, other.Verdict)
	}
	if v := p.Answers[1].Rows[0].Verdict; v != nil { // there is no such version, so nobody knows how it is judged
		t.Errorf("of the other version %+v", v)
	}
	// A correction is told of before a commit has it, and counts.
	for i, value := range []bool{false, true} {
		l.send(fmt.Sprintf(`{"prediction":"order-7","value":%t,"id":"x%d"}`, value, i))
		p = Prediction{}
		l.look("/admin/v1/predictions/order-7", &p)
		one := p.Answers[0].Rows[0]
		if n := len(one.Outcomes); n != 2+i || !one.Outcomes[n-1].Counts || one.Outcomes[n-1].Joined || one.Verdict == nil || *one.Verdict.Correct != value {
			t.Errorf("corrected to %t: got %+v, %+v", value, one.Outcomes, one.Verdict)
		}
		if _, err := l.journal.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// What failed is found as well, whether it was taken or not.
func TestFailedPrediction(t *testing.T) {
	l := newLoop(t)
	now := time.Now()
	l.keep("m", 1, &payload.Prediction{ID: "broken", Asked: now, At: now, Rows: 1, Err: fault.New(fault.Deadline, "it took too long")})
	for range 2 {
		var p Prediction
		if status, said := l.look("/admin/v1/predictions/broken", &p); status != http.StatusOK || len(p.Answers) != 1 || p.Answers[0].Kind != "deadline" || p.Answers[0].Error != "it took too long" {
			t.Errorf("got %d %s", status, said)
		}
		if _, err := l.journal.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if status, said := l.look("/admin/v1/predictions/none", nil); status != http.StatusNotFound || !strings.Contains(said, "none") {
		t.Errorf("got %d %s", status, said)
	}
}

// How far a number was off is told of regressions.
func TestPredictionOff(t *testing.T) {
	l := newLoop(t)
	l.publish("m", tensor.Spec{Name: "minutes", Type: tensor.FP64, Shape: []int64{-1}})
	now := time.Now()
	l.keep("m", 1, &payload.Prediction{ID: "a", Asked: now, At: now, Rows: 1, Outputs: []tensor.Tensor{tensor.Of("minutes", []int64{1}, []float64{12})}})
	l.send(`{"prediction":"a","value":15}`)
	var p Prediction
	l.look("/admin/v1/predictions/a", &p)
	if v := p.Answers[0].Rows[0].Verdict; v == nil || v.Task != quality.Regression || v.Error == nil || *v.Error != -3 || v.Correct != nil {
		t.Errorf("got %+v", v)
	}
}

// Ids may be anything that callers send.
func TestHostileIDs(t *testing.T) {
	l := newLoop(t)
	now := time.Now()
	ids := []string{"a/b", "100%", "..", "~x", "<script>alert(1)</script>", "\u202e\u0007", "a b", strings.Repeat("ü", 100), "\xff\xfe", "find"}
	var all []*payload.Prediction
	for _, id := range ids {
		all = append(all, &payload.Prediction{ID: id, Asked: now, At: now, Rows: 1, Given: []tensor.Tensor{tensor.OfStrings("x\u202e", []int64{1}, []string{"\x00\xff"})}})
	}
	l.keep("m", 1, all...)
	for range 2 {
		for _, id := range ids {
			var p Prediction
			if status, said := l.look("/admin/v1/predictions/~"+base64.RawURLEncoding.EncodeToString([]byte(id)), &p); status != http.StatusOK || len(p.Answers) != 1 {
				t.Errorf("%q: got %d %s", id, status, said)
			}
		}
		if _, err := l.journal.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{"~!": "base64url", "~": "1 to 256", strings.Repeat("a", 257): "1 to 256"} {
		if status, said := l.look("/admin/v1/predictions/"+url.PathEscape(path), nil); status != http.StatusBadRequest || !strings.Contains(said, want) {
			t.Errorf("%.20q: got %d %s", path, status, said)
		}
	}
}

// Lists are filtered by what is asked for, and what can't be asked for is refused with a sentence.
func TestPredictionList(t *testing.T) {
	l := newLoop(t)
	l.predict(1, 0, .1, .2, .3, .4, .5, .6)
	l.predict(2, 60, .7, .8)
	ids := func(query string) (all []string) {
		for after := ""; ; {
			var list PredictionList
			if status, said := l.look("/admin/v1/predictions?limit=2&"+query+"&after="+url.QueryEscape(after), &list); status != http.StatusOK {
				t.Fatalf("%s: got %d %s", query, status, said)
			}
			for _, p := range list.Predictions {
				all = append(all, p.ID)
			}
			if after = list.Next; after == "" {
				return all
			}
		}
	}
	for query, want := range map[string][]string{
		"":                                  {"61", "60", "5", "4", "3", "2", "1", "0"},
		"model=m&version=2":                 {"61", "60"},
		"model=n":                           nil,
		"failed=true":                       nil,
		"from=" + day(3) + "&to=" + day(61): {"60", "5", "4", "3"},
		"entity=" + url.QueryEscape(`{"carrier":"B6","gate":3}`): {"3"},
		"entity=" + url.QueryEscape(`{"gate":1.0}`):              {"61", "1"},
		"entity=" + url.QueryEscape(`{"none":1}`):                nil,
	} {
		if got := ids(query); !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", query, got, want)
		}
	}
	for query, want := range map[string]string{
		"version=x": "version", "version=0": "version", "model=a/b": "model", "from=yesterday": "from", "to=9999-01-01T00:00:00Z": "to",
		"from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z": "before", "failed=maybe": "failed", "limit=0": "limit", "limit=501": "limit",
		"entity=7": "entity", "entity={}": "entity", "after=x": "after", "carrier=UA": "carrier",
	} {
		if status, said := l.look("/admin/v1/predictions?"+query, nil); status != http.StatusBadRequest || !strings.Contains(said, want) {
			t.Errorf("%s: got %d %s", query, status, said)
		}
	}
}

// day is a minute of the loop's monday.
func day(minute int) string {
	return url.QueryEscape(monday.Add(time.Duration(minute) * time.Minute).Format(time.RFC3339))
}

// Ledgers of before there were places, or ids, are read, and what they know is found by looking through the log.
func TestOldLedger(t *testing.T) {
	for lacks, bytes := range map[string]int{"places": 4, "ids": 3} {
		t.Run(lacks, func(t *testing.T) { readOldLedger(t, bytes) })
	}
}

func readOldLedger(t *testing.T, lacks int) {
	l := newLoop(t)
	l.predict(1, 0, .1, .2)
	if _, err := l.journal.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, c, err := l.journal.newest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, run := range c.Runs {
		var old []ledger.Entry
		err := run.Read(t.Context(), l.blob, func(e ledger.Entry) error {
			p, err := readPrediction(e.Data)
			if err != nil {
				return err
			}
			p.place, p.id, p.row = 0, "", 0
			b := p.append(nil)
			old = append(old, ledger.Entry{Key: e.Key, Data: b[:len(b)-lacks]})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if c.Runs[i], err = ledger.Write(t.Context(), l.blob, LedgerPrefix, old, run.Until); err != nil {
			t.Fatal(err)
		}
	}
	h, _, err := l.journal.newest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.blob.Put(t.Context(), h.Commit, strings.NewReader(string(b)), int64(len(b)), store.Condition{}); err != nil {
		t.Fatal(err)
	}
	var p Prediction
	if status, said := l.look("/admin/v1/predictions/1", &p); status != http.StatusOK || len(p.Answers) != 1 {
		t.Errorf("got %d %s", status, said)
	}
}

// FuzzRecord reads what may stand in a damaged ledger.
func FuzzRecord(f *testing.F) {
	p := &prediction{commit: 5, model: "m", version: 1, at: 7, spec: quality.Spec{Task: quality.Binary}, slices: []string{"a=b"}, answer: quality.Answer{Number: .5}, place: 9, id: "order-7", row: 7, traced: true}
	f.Add(p.append(nil))
	f.Add((&prediction{model: "m", why: "no"}).append(nil))
	f.Add(failed(77))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 {
			return
		}
		if p, err := readPrediction(b); err == nil {
			if again, err := readPrediction(p.append(nil)); err != nil || again.place != p.place || again.model != p.model || again.id != p.id || again.row != p.row || again.traced != p.traced {
				t.Fatalf("%+v came back as %+v, %v", p, again, err)
			}
		}
		if place, err := readFailed(b); err == nil && place < 0 {
			t.Fatal(place)
		}
		if id, err := idOf(string(b)); err == nil && (id == "" || len(id) > idMost) {
			t.Fatalf("%q", id)
		}
		if match, err := aboutEntity(string(b)); err == nil && match == nil {
			t.Fatalf("%q matches nothing", b)
		}
	})
}
