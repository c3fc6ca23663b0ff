package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/drift"
	"github.com/pilotlight-ml/pilotlight/internal/feedback"
)

func TestDrift(t *testing.T) {
	var profile *drift.Profile
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			b, _ := io.ReadAll(r.Body)
			var err error
			if profile, err = drift.Parse(b); err != nil || r.URL.Path != "/admin/v1/drift/flights/1/reference" {
				t.Errorf("%s: %v", r.URL.Path, err)
			}
			_, _ = io.WriteString(w, `{"digest":"x","rows":7,"columns":3}`)
			return
		}
		d := feedback.Drift{Model: "flights", Versions: []feedback.Drifted{{Version: 2, Missing: "there is none"}}, Damaged: []string{"predictions/inbox/x"}}
		s := drift.NewState(profile)
		for range 1000 {
			for at := range profile.Columns() {
				s.AddMissing(at)
			}
		}
		report, err := drift.Compare(s, drift.Default)
		if err != nil {
			t.Error(err)
		}
		d.Versions = append(d.Versions, feedback.Drifted{Version: 1, Report: report})
		_ = json.NewEncoder(w).Encode(d) // the test sees what comes
	}))
	defer server.Close()
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"drift", "reference", "flights", "1", filepath.Join("..", "..", "examples", "flights", "data", "weather.parquet"), "--columns", "dewp,humid,origin"}, "flights:1 is compared with 3 columns of 7 rows"},
		{[]string{"drift", "flights"}, "flights:1  drifted, of 1000 rows"},
		{[]string{"drift", "flights"}, "flights:2  there is none"},
		{[]string{"drift", "flights"}, "  dewp: drifted"},
		{[]string{"drift", "flights"}, "damaged, and left out: predictions/inbox/x"},
		{[]string{"drift", "reference", "flights", "1", "drift_test.go"}, "drift_test.go: "},
		{[]string{"drift", "reference", "flights", "1", "nothing.parquet"}, "no such file"},
	} {
		out, err := run(t, "", append(test.args, "--server", server.URL)...)
		if err != nil {
			out += err.Error()
		}
		if !strings.Contains(out, test.want) {
			t.Errorf("%q: got %s, want %s", test.args, out, test.want)
		}
	}
}
