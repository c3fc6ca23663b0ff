package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/feedback"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

func TestFeedbackSend(t *testing.T) {
	blob, err := memstore.OpenBlob(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		t.Fatal(err)
	}
	in, err := feedback.NewIntake(&feedback.IntakeConfig{Rows: 1000, Bytes: 1 << 20, Write: time.Minute, Request: 100_000}, blob, tel)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	mux := http.NewServeMux()
	in.Register(mux)
	server := httptest.NewServer(mux)
	defer server.Close()

	file := filepath.Join(t.TempDir(), "outcomes.jsonl")
	lines := strings.Repeat(`{"prediction":"a","value":true}`+"\n", sendRows) + `{"prediction":"b"}` + "\n\n" + `{"prediction":"c","value":2}`
	if err := os.WriteFile(file, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args []string
		want string // of what is printed, or of the error
	}{
		{[]string{"order-7", "true"}, "1 outcomes accepted, 0 rejected"},
		{[]string{"order-7", "cat", "--row", "2", "--id", "x", "--time", "2026-11-25T12:00:00Z"}, "1 outcomes accepted"},
		{[]string{"order-7", `{"a":1}`}, "1 outcomes accepted"},
		{[]string{"--model", "flights", "--entity", "carrier=B6,tailnum=N1", "--at", "2013-12-23T19:25:00-05:00", "1"}, "1 outcomes accepted"},
		{[]string{"-f", file}, "outcome 10001: "},
		{[]string{"-f", file}, "10001 outcomes accepted, 1 rejected"},
		{[]string{"-f", file + "x"}, "no such file"},
		{[]string{"-f", file, "x"}, "not from both"},
		{nil, "the outcome is missing"},
		{[]string{"true"}, "what prediction is meant?"},
		{[]string{"order-7", "true", "--time", "yesterday"}, "time"},
	} {
		out, err := run(t, "", append([]string{"feedback", "send", "--server", server.URL}, test.args...)...)
		if err != nil {
			out += err.Error()
		}
		if !strings.Contains(out, test.want) {
			t.Errorf("%q: got %s, want %s", test.args, out, test.want)
		}
	}
}
