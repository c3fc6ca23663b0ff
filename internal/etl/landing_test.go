package etl

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// told is a sink that keeps what it hears, or is away.
type told struct {
	events []event.Event
	err    error
}

func (s *told) Send(_ context.Context, events ...event.Event) error {
	s.events = append(s.events, events...)
	return s.err
}

func TestLanding(t *testing.T) {
	blob := memBlob(t)
	sink := &told{}
	mux := http.NewServeMux()
	NewLanding(blob, sink, slog.New(slog.DiscardHandler)).Register(mux)
	put := func(path string, body io.Reader) (int, string) {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "PUT", path, body))
		return w.Code, w.Body.String()
	}
	const file = "at,shop\n1,x\n"
	for range 2 { // the same again is the same
		code, body := put("/landing/sales/a.csv", strings.NewReader(file))
		var got Landed
		if err := json.Unmarshal([]byte(body), &got); err != nil || code != 200 || got.Key != "landing/sales/a.csv" || got.Bytes != int64(len(file)) || !strings.HasPrefix(got.Digest, "sha256:") {
			t.Fatalf("got %d %s", code, body)
		}
	}
	if len(sink.events) != 2 || sink.events[0].ID() != sink.events[1].ID() || sink.events[0].Subject() != "sales" {
		t.Errorf("got events %v", sink.events)
	}
	if data, _, err := store.ReadAll(t.Context(), blob, "landing/sales/a.csv"); err != nil || string(data) != file {
		t.Errorf("kept %q, %v", data, err)
	}
	for _, c := range []struct {
		path string
		body io.Reader
		code int
		want string
	}{
		{"/landing/sales/a.csv", strings.NewReader("other\n"), 409, "another file landing/sales/a.csv already"},
		{"/landing/sales/b.csv", strings.NewReader(""), 400, "empty"},
		{"/landing/sales/b.csv", io.MultiReader(strings.NewReader(file), broken{}), 400, "could not be read to its end"},
		{"/landing/sales/b.exe", strings.NewReader(file), 400, "no format"},
		{"/landing/sales/..%2f..%2fkeys.csv", strings.NewReader(file), 400, "no name that a file can have"},
		{"/landing/..%2fmodels/b.csv", strings.NewReader(file), 400, "no name that a file can have"},
		{"/landing/sales/%00.csv", strings.NewReader(file), 400, "no name that a file can have"},
		{"/landing/sales/" + strings.Repeat("n", 300) + ".csv", strings.NewReader(file), 400, "no name that a file can have"},
	} {
		if code, body := put(c.path, c.body); code != c.code || !strings.Contains(body, c.want) {
			t.Errorf("PUT %.60s: got %d %s, want %d %s", c.path, code, body, c.code, c.want)
		}
	}
	for o, err := range blob.List(t.Context(), "", "") {
		if err != nil || o.Key != "landing/sales/a.csv" {
			t.Errorf("kept %s, %v", o.Key, err)
		}
	}
	sink.err = errors.New("the broker is away")
	if code, body := put("/landing/sales/c.csv", strings.NewReader(file)); code != 200 {
		t.Errorf("without a broker: got %d %s", code, body)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }
