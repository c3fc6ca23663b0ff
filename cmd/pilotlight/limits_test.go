package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/gate"
	"github.com/pilotlight-ml/pilotlight/internal/limit"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
)

func TestLimitsAndRoutes(t *testing.T) {
	blob, err := memstore.OpenBlob(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	const function = "http://predict.pilotlight.svc.cluster.local"
	router, err := gate.NewRouter(&gate.RouteConfig{Predict: function, Features: function, Feedback: function, Deadletter: function, Pipeline: function, Hosts: []string{".svc.cluster.local"}}, blob)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	limit.NewPolicies(blob).Register(mux)
	router.Register(mux)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	for _, test := range []struct{ what, empty, text, bad, refusal string }{
		{
			"limits", "{}", "callers:\n  rate: 100\ntenants:\n  acme:\n    monthly:\n      rows: 5000000\nmodels:\n  big-*:\n    rate: 5\n    burst: 20\n",
			"callers: {rate: -1}", "callers: rate is -1",
		},
		{
			"routes", "{}", "models:\n  flights: http://predict-flights.pilotlight.svc.cluster.local\n",
			"models: {m: \"http://evil.example\"}", "is not a host that the gateway may route to",
		},
	} {
		do := func(in string, args ...string) (string, error) {
			return run(t, in, append([]string{test.what, "--server", server.URL}, args...)...)
		}
		if out, err := do(""); err != nil || strings.TrimSpace(out) != test.empty {
			t.Errorf("%s before: got %q %v", test.what, out, err)
		}
		file := filepath.Join(t.TempDir(), "file.yaml")
		if err := os.WriteFile(file, []byte(test.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := do("", "apply", "-f", file); err != nil || strings.ReplaceAll(out, `"`, "") != test.text {
			t.Errorf("%s: got %q %v, want %q", test.what, out, err, test.text)
		}
		if out, err := do(""); err != nil || strings.ReplaceAll(out, `"`, "") != test.text {
			t.Errorf("%s afterwards: got %q %v, want %q", test.what, out, err, test.text)
		}
		if out, err := do("", "-o", "json"); err != nil || !strings.HasPrefix(out, "{\"") {
			t.Errorf("%s as JSON: got %q %v", test.what, out, err)
		}
		for in, want := range map[string]string{test.bad: test.refusal, "a: [": "- is no YAML: ", "unheard: {}": "unknown field"} {
			if _, err := do(in, "apply", "-f", "-"); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q: got %v, want %q", test.what, in, err, want)
			}
		}
	}
}
