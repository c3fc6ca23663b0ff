package offline

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/store"
)

func serveWorld(t *testing.T, w *world, s *Store) string {
	t.Helper()
	return serveOn(t, NewServer(s, w.catalog(t, w.defs.Set), nil, slog.New(slog.DiscardHandler)))
}

func serveOn(t *testing.T, server *Server) string {
	t.Helper()
	mux := http.NewServeMux()
	server.Register(mux)
	h := httptest.NewServer(mux)
	t.Cleanup(func() {
		h.Close()
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return h.URL
}

func call(t *testing.T, method, url, kind string, body []byte) (int, []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", kind)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, b
}

func TestTrainingSetOverHTTP(t *testing.T) {
	w := fullWorld(t)
	url := serveWorld(t, w, open(t, w.blob)) + "/admin/v1/features/training-set"
	rows := encodeAsked(t, w.ask(10), CSV)
	for _, c := range []struct {
		query, kind string
		status      int
		want        string
	}{
		{"?service=all", "text/csv; charset=utf-8", 200, "PAR1"},
		{"?feature=v0:count&format=csv", "", 200, "PAR1"},
		{"?service=all", "text/html", 400, "text/html"},
		{"?service=all&format=xml", "", 400, "xml"},
		{"?service=all&feature=v0:count", "text/csv", 400, "either"},
		{"", "text/csv", 400, "either"},
		{"?service=none", "text/csv", 404, "none"},
		{"?feature=v0:none", "text/csv", 404, "none"},
		{"?service=all", "application/vnd.apache.parquet", 400, "parquet"},
	} {
		status, b := call(t, "POST", url+c.query, c.kind, rows)
		if status != c.status || !strings.Contains(string(b), c.want) {
			t.Errorf("%s %s: got %d %.200q, want %d with %q", c.query, c.kind, status, b, c.status, c.want)
		}
	}
}

func TestMaterializeOverHTTP(t *testing.T) {
	w := fullWorld(t)
	s := open(t, w.blob)
	url := serveWorld(t, w, s)
	for _, c := range []struct {
		path, body string
		status     int
		want       string
	}{
		{"/materialize", `{"start_ts":"noon"}`, 400, "start_ts"},
		{"/admin/v1/features/skew", `{"from":"noon"}`, 400, "from: "},
		{"/admin/v1/features/skew", `{"from":"9999-12-31T23:00:00-02:00"}`, 400, "from: "},
		{"/admin/v1/features/skew", `{"from":"2013-07-04","to":"2013-07-03"}`, 400, "to is before from"},
		{"/materialize", `{"start_ts":"2013-07-04T00:00:00","end_ts":"2013-07-03T00:00:00"}`, 400, "before"},
		{"/materialize", `{"feature_views":["none"]}`, 404, "none"},
		{"/materialize", `{"start_ts":"noon","disable_event_timestamp":true}`, 400, "start_ts"},
		{"/materialize", `[]`, 400, ""},
		{"/materialize?async=perhaps", `{}`, 400, `async is \"perhaps\", expected true or false`},
		{"/admin/v1/features/training-set?format=csv&feature=a:b&full_feature_names=perhaps", "x", 400, `full_feature_names is \"perhaps\"`},
		{"/materialize", `{"start_ts":"2000-01-01T00:00:00","end_ts":"2040-01-01T00:00:00+01:00"}`, 200, `"done":true`},
		{"/materialize-incremental", `{"end_ts":"2040-01-01T00:00:00Z"}`, 200, `"done":true`},
	} {
		status, b := call(t, "POST", url+c.path, "application/json", []byte(c.body))
		if status != c.status || !strings.Contains(string(b), c.want) {
			t.Errorf("%s %s: got %d %s, want %d with %q", c.path, c.body, status, b, c.status, c.want)
		}
	}
	w.checkOnline(t, s)
}

// A run that goes on behind its answer is seen, and stands in the way of another.
func TestMaterializeAsync(t *testing.T) {
	w := fullWorld(t)
	s := open(t, w.blob)
	slow := &waiting{Online: s.online, free: make(chan struct{})}
	s.online = slow
	url := serveWorld(t, w, s)
	status, b := call(t, "POST", url+"/materialize?async=true", "application/json", nil)
	if status != http.StatusAccepted {
		t.Fatalf("got %d %s, want 202", status, b)
	}
	for _, async := range []string{"", "?async=true"} {
		if status, b := call(t, "POST", url+"/materialize"+async, "application/json", nil); status != http.StatusConflict {
			t.Errorf("a second one%s: got %d %s, want 409", async, status, b)
		}
	}
	close(slow.free)
	var runs Runs
	for {
		status, b = call(t, "GET", url+"/admin/v1/features/materialize", "", nil)
		if err := json.Unmarshal(b, &runs); err != nil || status != 200 {
			t.Fatalf("got %d %s, %v", status, b, err)
		}
		done := 0
		for _, r := range runs.Runs {
			if r.Error != "" {
				t.Fatalf("%s: %s", r.View, r.Error)
			}
			if r.Done && !r.Ended.IsZero() {
				done++
			}
		}
		if done == len(w.defs.Views) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	w.checkOnline(t, s)
}

// waiting is a store that stores nothing until it may.
type waiting struct {
	store.Online
	free chan struct{}
}

func (s *waiting) Write(ctx context.Context, rows []store.OnlineRow) ([]bool, error) {
	<-s.free
	return s.Online.Write(ctx, rows)
}

func (s *waiting) Replace(ctx context.Context, rows []store.OnlineRow, was []store.Stamp) ([]bool, error) {
	<-s.free
	return s.Online.Replace(ctx, rows, was)
}
