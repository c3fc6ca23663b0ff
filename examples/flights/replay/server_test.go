package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/feedback"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/s3store"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
)

// TestAskedAndAnswered replays two days, in two goes, through functions/all, which has a Redis and an S3 bucket. What it says at
// the end of predictions, features, outcomes and quality is compared with what went over the wire, and with the data.
func TestAskedAndAnswered(t *testing.T) {
	folder := part(t, "month = 12 AND day IN (22, 23)")
	bucket := storetest.S3URL(t)
	all := startAll(t, "BLOB_URL="+bucket, "ONLINE_URL="+storetest.RedisURL(t), "KV_URL="+storetest.RedisURL(t), "PAYLOAD_EVERY=500ms")
	ctx, breakOff := context.WithCancel(t.Context())
	w := &witness{t: t, to: all, minutes: map[string][]flight{}, outcomes: map[predicted]bool{}, requests: map[string]int{}, breakOff: breakOff}
	proxy := httptest.NewServer(w)
	defer proxy.Close()
	args := []string{"-data", folder, "-ask", proxy.URL, "-batch", "100"}
	var out bytes.Buffer
	if err := run(ctx, args, &out); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v from a replay that was broken off: %s", err, out.String())
	}
	half, requests := w.flights(), len(w.minutes)
	out.Reset()
	if err := run(t.Context(), args, &out); err != nil {
		t.Fatal(err)
	}

	y := openYear(t, folder)
	var flown int
	delays := map[string]*float64{} // by flight as the data has it
	found, err := y.db.QueryContext(t.Context(), `SELECT strftime(time_hour + to_minutes(minute) - INTERVAL 45 MINUTE, '%Y-%m-%dT%H:%M:%SZ'),
		carrier, origin, dest, coalesce(tailnum, ''), arr_delay FROM read_parquet(?)`, filepath.Join(folder, "flights.parquet"))
	if err != nil {
		t.Fatal(err)
	}
	defer found.Close()
	n := 0
	for ; found.Next(); n++ {
		var id string
		var f flight
		var delay *float64
		if err := found.Scan(&id, &f.carrier, &f.origin, &f.dest, &f.tailnum, &delay); err != nil {
			t.Fatal(err)
		}
		if delays[id+f.String()] = delay; delay != nil {
			flown++
		}
	}
	if err := found.Err(); err != nil || len(delays) != n || flown == n {
		t.Fatalf("%d of %d flights can be told apart, %d arrived: %v", len(delays), n, flown, err)
	}
	if want := fmt.Sprintf(" %d flights asked about in %d requests, %d outcomes sent\n%d flights not asked about again", n-half, len(w.minutes)-requests, flown, half); !strings.Contains(out.String(), want) {
		t.Errorf("got %q, want %q in it", out.String(), want)
	}

	// What came true was told of the rows that it is of.
	var said []judged
	for id, flights := range w.minutes {
		for i, f := range flights {
			delay, known := delays[id+f.String()]
			late, told := w.outcomes[predicted{id, i}]
			switch {
			case !known:
				t.Errorf("%s: nobody flies %v", id, f)
			case told != (delay != nil) || told && late != (*delay > 15):
				t.Errorf("%s, row %d (%v): told %t, late %t; the delay is %v", id, i, f, told, late, delay)
			case told:
				said = append(said, judged{f.probability, late})
			}
		}
	}
	if len(said) != flown || len(w.outcomes) != flown {
		t.Fatalf("%d outcomes are of what was asked, of %d; %d flights arrived", len(said), len(w.outcomes), flown)
	}

	first := quality(t, all, n)
	compareQuality(t, first, said, n)
	log := download(t, bucket)
	compareLog(t, y, log, w)
	compareFeatures(t, y, log, all, bucket, flown)
	compareTraining(t, y, log, all, bucket, flown)

	// Again: the server had it all.
	out.Reset()
	if err := run(t.Context(), args, &out); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf(" 0 flights asked about in 0 requests, %d outcomes sent\n", flown); !strings.Contains(out.String(), want) || !strings.Contains(out.String(), fmt.Sprintf("\n%d flights not asked about again", n)) {
		t.Errorf("again, got %q, want %q in it", out.String(), want)
	}
	again := quality(t, all, n)
	compareQuality(t, again, said, n)
	if want := int64(flown) + first.Outcomes.Repeated; again.Outcomes.Repeated != want || first.Outcomes.Repeated == 0 {
		t.Errorf("got %d outcomes that were repeated, want %d, some of them at first", again.Outcomes.Repeated, want)
	}
}

// judged is an answer and what came true.
type judged struct {
	probability float64
	late        bool
}

// compareQuality computes the metrics of what was said the plain way.
func compareQuality(t *testing.T, got *feedback.Judgement, said []judged, asked int) {
	t.Helper()
	if len(got.Versions) != 1 || got.Outcomes.Joined != int64(len(said)) || got.Waiting != 0 || got.Outcomes.Unsuited != 0 || got.Outcomes.Corrected != 0 {
		t.Fatalf("got %d versions, %+v", len(got.Versions), got.Outcomes)
	}
	r := got.Versions[0].Report
	if r.Predicted != int64(asked) || r.Outcomes != int64(len(said)) {
		t.Errorf("got %d predictions, %d outcomes, want %d, %d", r.Predicted, r.Outcomes, asked, len(said))
	}
	var right, brier, loss, late, above, pairs float64
	for _, a := range said {
		yes := 0.0
		if a.late {
			yes = 1
			for _, b := range said {
				if !b.late {
					pairs++
					switch {
					case a.probability > b.probability:
						above++
					case a.probability == b.probability:
						above += .5
					}
				}
			}
		}
		if a.late == (a.probability >= .5) {
			right++
		}
		late += yes
		brier += (yes - a.probability) * (yes - a.probability)
		loss -= math.Log(yes*a.probability + (1-yes)*(1-a.probability))
	}
	n := float64(len(said))
	for _, want := range []struct {
		name      string
		value     float64
		tolerance float64
	}{
		{"accuracy", right / n, 1e-9},
		{"base_rate", late / n, 1e-9},
		{"coverage", n / float64(asked), 1e-9},
		{"brier", brier / n, 1e-6},
		{"log_loss", loss / n, 1e-6},
		{"auc", above / pairs, 1e-3}, // of a histogram
	} {
		if got := r.Metrics[want.name].Value; math.Abs(got-want.value) > want.tolerance {
			t.Errorf("%s: got %v, want %v", want.name, got, want.value)
		}
	}
}

// compareLog looks for every answer in the log, once.
func compareLog(t *testing.T, y *year, log string, w *witness) {
	t.Helper()
	found, err := y.db.QueryContext(t.Context(), "SELECT id, row, CAST(outputs->>'probability' AS DOUBLE) FROM read_parquet(?)", log)
	if err != nil {
		t.Fatal(err)
	}
	defer found.Close()
	seen := map[predicted]bool{}
	for found.Next() {
		var p predicted
		var probability float64
		if err := found.Scan(&p.id, &p.row, &probability); err != nil {
			t.Fatal(err)
		}
		if seen[p] {
			t.Errorf("%v is in the log twice", p)
		}
		seen[p] = true
		if flights := w.minutes[p.id]; p.row >= len(flights) || flights[p.row].probability != probability {
			t.Errorf("%v is %v in the log, and %v was answered", p, probability, flights)
		}
	}
	if n := w.flights(); found.Err() != nil || len(seen) != n {
		t.Errorf("%d of %d answers are in the log, %v", len(seen), n, found.Err())
	}
}

// compareFeatures compares what the model was given with what a training set says of the same moments.
func compareFeatures(t *testing.T, y *year, log, server, bucket string, flown int) {
	t.Helper()
	dir := t.TempDir()
	if err := y.write(t.Context(), dir, time.Date(2013, 12, 22, 0, 0, 0, 0, time.UTC), time.Date(2013, 12, 26, 0, 0, 0, 0, time.UTC)); err != nil {
		t.Fatal(err)
	}
	weather, err := os.ReadFile(filepath.Join(dir, "weather.parquet"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openBucket(t, bucket).Put(t.Context(), "landing/weather/weather.parquet", bytes.NewReader(weather), int64(len(weather)), store.Condition{}); err != nil {
		t.Fatal(err)
	}
	rows, err := os.ReadFile(filepath.Join(dir, "asked.parquet"))
	if err != nil {
		t.Fatal(err)
	}
	set := filepath.Join(dir, "set.parquet")
	if err := os.WriteFile(set, call(t, http.MethodPost, server+"/admin/v1/features/training-set?service=flights&format=parquet", rows), 0o600); err != nil {
		t.Fatal(err)
	}
	columns := strings.Fields(`dewp humid wind_speed precip pressure visib dep_delay_mean_1h dep_delay_mean_3h departures_1h carrier_dep_delay_mean_3h
		carrier_arr_delay_mean_3h origin_arr_delay_mean_3h dest_arr_delay_mean_3h dest_arr_delay_mean_12h aircraft_arr_delay`)
	for _, c := range columns {
		var n, same, known int
		err := y.db.QueryRowContext(t.Context(), fmt.Sprintf(`SELECT count(*), count(*) FILTER (CAST(features->>'%[1]s' AS FLOAT) IS NOT DISTINCT FROM CAST(%[1]s AS FLOAT)), count(%[1]s)
			FROM read_parquet(?) l JOIN read_parquet(?) s ON _event = event_timestamp AND (inputs->>'carrier') = carrier AND (inputs->>'origin') = origin
			AND (inputs->>'dest') = dest AND (inputs->>'tailnum') = coalesce(tailnum, '')`, c), log, set).Scan(&n, &same, &known)
		if err != nil || n != flown || same != n || known < n/10 {
			t.Errorf("%s: %d of %d flights, of %d, were given what a training set has, which knows %d: %v", c, same, n, flown, known, err)
		}
	}
}

// predicted names a row of a prediction.
type predicted struct {
	id  string
	row int
}

// flight is one that was asked about, and what the model said.
type flight struct {
	carrier, origin, dest, tailnum string
	probability                    float64
}

func (f flight) String() string {
	return strings.Join([]string{f.carrier, f.origin, f.dest, f.tailnum}, " ")
}

// witness sits between a replay and its server and notes what it sees. The first request of each path is refused; the
// second is passed on and its answer lost, where it may be done twice. At the 200th ask the replay is broken off.
type witness struct {
	t  *testing.T
	to string

	mu       sync.Mutex
	minutes  map[string][]flight // by id
	outcomes map[predicted]bool  // late
	requests map[string]int      // by path
	newest   time.Time           // row
	asked    time.Time           // last
	breakOff func()
}

// flights is how many were asked about.
func (w *witness) flights() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, flights := range w.minutes {
		n += len(flights)
	}
	return n
}

func (w *witness) ServeHTTP(out http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		w.t.Error(err)
		return
	}
	w.mu.Lock()
	w.requests[r.URL.Path]++
	request := w.requests[r.URL.Path]
	w.mu.Unlock()
	if request == 1 {
		http.Error(out, "not yet", http.StatusServiceUnavailable)
		return
	}
	q, err := http.NewRequestWithContext(r.Context(), r.Method, w.to+r.URL.Path, bytes.NewReader(body))
	if err != nil {
		w.t.Error(err)
		return
	}
	q.Header = r.Header
	resp, err := http.DefaultClient.Do(q)
	if err != nil {
		w.t.Error(err)
		return
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode/100 != 2 {
		w.t.Errorf("%s: %s %s, %v", r.URL.Path, resp.Status, answer, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.note(r.URL.Path, body, answer); err != nil {
		w.t.Errorf("%s: %v", r.URL.Path, err)
	}
	if r.URL.Path == inferPath && request == 200 {
		w.breakOff()
	}
	if request == 2 && r.URL.Path != inferPath {
		http.Error(out, "lost", http.StatusServiceUnavailable)
		return
	}
	out.WriteHeader(resp.StatusCode)
	_, _ = out.Write(answer)
}

const inferPath = "/v2/models/flights/infer"

func (w *witness) note(path string, body, answer []byte) error {
	switch path {
	case "/push":
		var p struct {
			Source string           `json:"push_source_name"`
			Df     map[string][]any `json:"df"`
		}
		if err := json.Unmarshal(body, &p); err != nil {
			return err
		}
		for _, v := range p.Df[map[string]string{"departures": "departed_at", "arrivals": "arrived_at", "weather": "known_at"}[p.Source]] {
			at, err := time.Parse(time.RFC3339, v.(string))
			if err != nil {
				return err
			}
			if at.After(w.newest) {
				w.newest = at
			}
		}
	case inferPath:
		var q struct {
			ID         string
			Parameters map[string]string
			Inputs     []struct {
				Name string
				Data []any
			}
		}
		var a struct {
			Outputs []struct {
				Name string
				Data []float64
			}
		}
		if err := json.Unmarshal(body, &q); err != nil {
			return err
		}
		if err := json.Unmarshal(answer, &a); err != nil {
			return err
		}
		at, err := time.Parse(time.RFC3339, q.ID)
		if err != nil {
			return err
		}
		if q.Parameters["feature_time"] != q.ID || !at.After(w.asked) || w.minutes[q.ID] != nil {
			return fmt.Errorf("%s is asked as of %s, after %v", q.ID, q.Parameters["feature_time"], w.asked)
		}
		if w.newest.After(at) {
			return fmt.Errorf("when %s is asked about, the server knows rows of %v", q.ID, w.newest)
		}
		w.asked = at
		flights := make([]flight, len(a.Outputs[0].Data))
		for i := range flights {
			flights[i].probability = a.Outputs[0].Data[i]
		}
		for _, in := range q.Inputs {
			for i, v := range in.Data {
				s, _ := v.(string)
				switch in.Name {
				case "carrier":
					flights[i].carrier = s
				case "origin":
					flights[i].origin = s
				case "dest":
					flights[i].dest = s
				case "tailnum":
					flights[i].tailnum = s
				}
			}
		}
		w.minutes[q.ID] = flights
	case "/feedback":
		var all []struct {
			Prediction string
			Row        int
			Value      bool
		}
		if err := json.Unmarshal(body, &all); err != nil {
			return err
		}
		for _, o := range all {
			w.outcomes[predicted{o.Prediction, o.Row}] = o.Value
		}
	}
	return nil
}

// startAll builds functions/all and runs it until the test ends, with the model and the definitions but no rows.
func startAll(t *testing.T, environ ...string) (base string) {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "all")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../../../functions/all").CombinedOutput(); err != nil {
		t.Fatalf("build functions/all: %v %s", err, out)
	}
	seed := filepath.Join(dir, "seed")
	if err := os.Mkdir(seed, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"flights.onnx", "features.yaml"} {
		b, err := os.ReadFile(filepath.Join("..", name))
		if err == nil {
			err = os.WriteFile(filepath.Join(seed, name), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Env = append(append(os.Environ(), environ...), "PORT=0", "SEED="+seed, "TMPDIR="+t.TempDir(), "MODEL_CACHE_DIR="+filepath.Join(dir, "cache"), "ORT_LIB="+onnxtest.Library(t))
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // "killed" is what it should say
	})
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		var line struct{ Msg, Addr string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "listening" {
			go func() { _, _ = io.Copy(io.Discard, log) }() // so that its log never blocks it
			return "http://" + line.Addr
		}
		t.Log(lines.Text())
	}
	t.Fatal("the server ended before it listened")
	return ""
}

func call(t *testing.T, method, url string, body []byte) []byte {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode/100 != 2 {
		t.Fatalf("%s: %s %s, %v", url, resp.Status, b, err)
	}
	return b
}

// quality asks how right the model was, once the log has all predictions.
func quality(t *testing.T, server string, asked int) *feedback.Judgement {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		var j feedback.Judgement
		if err := json.Unmarshal(call(t, http.MethodGet, server+"/admin/v1/quality/flights?from=2013-12-22T00:00:00Z&until=2013-12-26T00:00:00Z", nil), &j); err != nil {
			t.Fatal(err)
		}
		if len(j.Versions) > 0 && j.Versions[0].Report.Predicted >= int64(asked) {
			return &j
		}
		if time.Now().After(deadline) {
			t.Fatalf("the log does not have all %d predictions: %+v", asked, j)
		}
	}
}

func openBucket(t *testing.T, bucket string) store.Blob {
	t.Helper()
	u, err := url.Parse(bucket)
	if err != nil {
		t.Fatal(err)
	}
	blob, err := s3store.OpenBlob(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = blob.Close() })
	return blob
}

// download copies the log of predictions, and gives the pattern of its files.
func download(t *testing.T, bucket string) string {
	t.Helper()
	blob, dir := openBucket(t, bucket), t.TempDir()
	for o, err := range blob.List(t.Context(), payload.Inbox, "") {
		if err != nil {
			t.Fatal(err)
		}
		b, _, err := store.ReadAll(t.Context(), blob, o.Key)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, filepath.Base(o.Key)), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "*.parquet")
}

// TestAskEndsWhereItIsRefused has a server that answers nothing about flights from 20:30 on.
func TestAskEndsWhereItIsRefused(t *testing.T) {
	var mu sync.Mutex
	outcomes := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		switch r.URL.Path {
		case "/feedback":
			var all []json.RawMessage
			if err := json.NewDecoder(r.Body).Decode(&all); err != nil {
				t.Error(err)
			}
			outcomes += len(all)
			fmt.Fprintf(w, `{"accepted":%d}`, len(all))
			return
		case inferPath:
			var q struct{ ID string }
			if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
				t.Error(err)
			}
			if q.ID >= "2013-12-23T20:30" {
				http.Error(w, "no", http.StatusBadRequest)
				return
			}
		}
		fmt.Fprint(w, "{}")
	}))
	defer s.Close()
	var out bytes.Buffer
	err := run(t.Context(), []string{"-data", christmas(t), "-ask", s.URL, "-from", "2013-12-23T20:00:00Z", "-until", "2013-12-23T22:00:00Z"}, &out)
	if err == nil || !strings.Contains(err.Error(), "ask about the flights of 2013-12-23T20:30:00Z") || !strings.Contains(err.Error(), "400 Bad Request: no") ||
		!strings.HasSuffix(err.Error(), "-from 2013-12-23T20:00:00Z goes on from there") {
		t.Errorf("got %v", err)
	}
	// What had come true by then is not lost.
	if want := fmt.Sprintf(" %d outcomes sent\n", outcomes); outcomes == 0 || !strings.HasSuffix(out.String(), want) {
		t.Errorf("%d outcomes came, and it says %q", outcomes, out.String())
	}
}
