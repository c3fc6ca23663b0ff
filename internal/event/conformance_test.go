package event_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/client"
	result "github.com/cloudevents/sdk-go/v2/protocol"
	protocol "github.com/cloudevents/sdk-go/v2/protocol/http"

	"github.com/pilotlight-ml/pilotlight/internal/event"
)

// tool is the conformance tool of CloudEvents.
func tool(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../../.tools/cloudevents")
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		const how = "the conformance tool of CloudEvents is not there: run `make cloudevents`"
		if os.Getenv("CI") != "" {
			t.Fatal(how)
		}
		t.Skip(how)
	}
	return path
}

// given are events for the tool, in its own form.
const given = `Mode: binary
ContextAttributes:
  specversion: "1.0"
  type: com.example.full
  id: full-binary
  source: /full
  subject: some/thing
  time: 2018-04-05T03:56:24Z
  datacontenttype: application/json
  Extensions:
    comexampleint: "42"
Data: |
  {"world":"hello"}
---
Mode: structured
ContextAttributes:
  specversion: "1.0"
  type: com.example.full
  id: full-structured
  source: /full
  subject: Zürich 100%
  time: 2018-04-05T03:56:24Z
  datacontenttype: application/json
Data: |
  {"world":"hello"}
`

// TestTheToolIsUnderstood has the conformance tool send what it brings along, and our own.
func TestTheToolIsUnderstood(t *testing.T) {
	binary := tool(t)
	m, got := received(t, quiet(t))
	var refused []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := httptest.NewRecorder()
		m.ServeHTTP(rec, r)
		if rec.Code != http.StatusAccepted {
			refused = append(refused, r.Header.Get("Ce-Id")+": "+rec.Body.String())
		}
		w.WriteHeader(rec.Code)
	}))
	defer server.Close()
	ours := filepath.Join(t.TempDir(), "events.yaml")
	if err := os.WriteFile(ours, []byte(given), 0o600); err != nil {
		t.Fatal(err)
	}
	list := exec.CommandContext(t.Context(), "go", "list", "-modfile=../../tool.mod", "-m", "-f", "{{.Dir}}", "github.com/cloudevents/conformance")
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	brought := 0
	for _, files := range []string{filepath.Join(strings.TrimSpace(string(out)), "yaml/v1.0"), filepath.Join(strings.TrimSpace(string(out)), "yaml/v0.3"), ours} {
		if out, err := exec.CommandContext(t.Context(), binary, "invoke", server.URL, "-f", files).CombinedOutput(); err != nil {
			t.Errorf("invoke %s: %v\n%s", files, err, out)
		}
		if files != ours {
			brought = len(got())
		}
	}
	if len(refused) > 0 || brought < 10 {
		t.Errorf("understood %d events of the tool's, refused %q", brought, refused)
	}
	byID := map[string]event.Event{}
	for _, e := range got() {
		byID[e.ID()] = e
	}
	a, b := byID["full-binary"], byID["full-structured"]
	if a.Context == nil || b.Context == nil {
		t.Fatalf("got %d events, without ours", len(byID))
	}
	if a.Subject() != "some/thing" || a.Extensions()["comexampleint"] != "42" || !strings.Contains(string(a.Data()), `"hello"`) || a.Time().Year() != 2018 {
		t.Errorf("got %s", a)
	}
	if b.Subject() != "Zürich 100%" || !strings.Contains(string(b.Data()), `"hello"`) {
		t.Errorf("got %s", b)
	}
}

// TestTheToolUnderstands has the conformance tool listen to our sink, and compares by its own diff.
func TestTheToolUnderstands(t *testing.T) {
	binary := tool(t)
	free, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := free.Addr().(*net.TCPAddr).Port
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	listen := exec.CommandContext(ctx, binary, "listen", "-P", strconv.Itoa(port))
	dir := t.TempDir()
	heard, err := os.Create(filepath.Join(dir, "got.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	defer heard.Close()
	listen.Stdout = heard
	if err := listen.Start(); err != nil {
		t.Fatal(err)
	}
	e := event.ModelPublished.New(event.Published{Model: "m", Version: 1, Digest: "d", At: at})
	s := sink(t, event.Config{Sink: "http://127.0.0.1:" + strconv.Itoa(port) + "/"}, quiet(t))
	sending, stop := context.WithTimeout(ctx, 20*time.Second) // it takes a moment to listen
	defer stop()
	if err := s.Send(sending, e); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond) // it answers before it writes
	cancel()
	_ = listen.Wait() // killed
	want := filepath.Join(dir, "want.yaml")
	if err := os.WriteFile(want, []byte(`ContextAttributes:
  specversion: "1.0"
  type: dev.pilotlight.model.published.v1
  id: m:1
  source: /pilotlight/models
  subject: m:1
  time: 2026-11-24T09:30:00Z
  datacontenttype: application/json
Data: `+"'"+string(e.Data())+"'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), binary, "diff", want, heard.Name()).CombinedOutput(); err != nil {
		b, _ := os.ReadFile(heard.Name())
		t.Errorf("diff: %v\n%s\nheard:\n%s", err, out, b)
	}
}

// TestTheSDKsClient sends to our mux and hears our sink.
func TestTheSDKsClient(t *testing.T) {
	m, got := received(t, quiet(t))
	server := httptest.NewServer(m)
	defer server.Close()
	p, err := protocol.New(protocol.WithTarget(server.URL))
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(p)
	if err != nil {
		t.Fatal(err)
	}
	e := event.ModelPublished.New(event.Published{Model: "m", Version: 1, Digest: "d", At: at})
	if r := c.Send(t.Context(), e); !answered(r, http.StatusAccepted) {
		t.Errorf("got %v, want 202", r)
	}
	if all := got(); len(all) != 1 || all[0].ID() != "m:1" {
		t.Errorf("got %v", all)
	}
	bad := e.Clone()
	mux, err := event.NewMux(quiet(t))
	if err != nil {
		t.Fatal(err)
	}
	refusing := httptest.NewServer(mux)
	defer refusing.Close()
	if p, err = protocol.New(protocol.WithTarget(refusing.URL)); err != nil {
		t.Fatal(err)
	}
	if c, err = client.New(p); err != nil {
		t.Fatal(err)
	}
	if r := c.Send(t.Context(), bad); !answered(r, http.StatusUnprocessableEntity) {
		t.Errorf("got %v, want 422", r)
	}
}

func answered(r result.Result, status int) bool {
	var http *protocol.Result
	return result.ResultAs(r, &http) && http.StatusCode == status
}
