package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTrainingSetCommand(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if r.URL.Query().Get("service") == "none" {
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"error":"Feature service none does not exist"}`)
			return
		}
		fmt.Fprintf(w, "%s %s %s", r.URL.Path, r.URL.Query().Encode(), b)
	}))
	defer server.Close()
	dir := t.TempDir()
	rows, set := filepath.Join(dir, "rows.csv"), filepath.Join(dir, "set.parquet")
	if err := os.WriteFile(rows, []byte("carrier\nUA\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := run(t, "", "--server", server.URL, "features", "training-set", "--service", "delays", "--entities", rows, "--to", set)
	if err != nil || !strings.Contains(out, "set.parquet") {
		t.Fatalf("got %q, %v", out, err)
	}
	got, err := os.ReadFile(set)
	if want := "/admin/v1/features/training-set format=csv&service=delays carrier\nUA\n"; err != nil || string(got) != want {
		t.Errorf("got the file %q, %v, want %q", got, err, want)
	}
	other := filepath.Join(dir, "other.parquet")
	if _, err := run(t, "", "--server", server.URL, "features", "training-set", "--service", "none", "--entities", rows, "--to", other); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("a service that is not defined: got %v", err)
	}
	if _, err := run(t, "", "--server", server.URL, "features", "training-set", "--service", "x", "--entities", "rows.txt", "--to", other); err == nil || !strings.Contains(err.Error(), "rows.txt") {
		t.Errorf("a file of another kind: got %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 2 {
		t.Errorf("%d files are there, want the rows and the set", len(left))
	}
}

func TestMaterializeCommand(t *testing.T) {
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		b, _ := io.ReadAll(r.Body)
		switch {
		case strings.Contains(string(b), "broken"):
			fmt.Fprint(w, `{"runs":[{"view":"broken","error":"the file x can't be read","ended":"2013-01-01T00:00:00Z"}]}`)
		case r.URL.Path == "/materialize-incremental" && r.URL.Query().Get("async") == "true" && strings.Contains(string(b), `"end_ts":"2014-01-01"`):
			fmt.Fprint(w, `{"runs":[{"view":"v","files":1,"of":3,"rows":100}]}`)
		case r.URL.Path == "/admin/v1/features/materialize" && asked < 4:
			fmt.Fprint(w, `{"runs":[{"view":"v","files":2,"of":3,"rows":200}]}`)
		case r.URL.Path == "/admin/v1/features/materialize":
			fmt.Fprint(w, `{"runs":[{"view":"v","files":3,"of":3,"rows":1300,"done":true,"ended":"2013-01-01T00:00:00Z"}]}`)
		default:
			w.WriteHeader(http.StatusConflict)
			fmt.Fprint(w, `{"error":"view \"w\" is being materialized already"}`)
		}
	}))
	defer server.Close()
	out, err := run(t, "", "--server", server.URL, "features", "materialize", "--incremental", "--view", "v", "--to", "2014-01-01")
	if err != nil || !strings.Contains(out, "v: 3 files, 1,300 rows") {
		t.Errorf("got %q, %v", out, err)
	}
	if _, err := run(t, "", "--server", server.URL, "features", "materialize", "--view", "w"); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("while another runs: got %v", err)
	}
	if _, err := run(t, "", "--server", server.URL, "features", "materialize", "--view", "broken"); err == nil || !strings.Contains(err.Error(), "view broken: the file x") {
		t.Errorf("a run that fails: got %v", err)
	}
}

func TestSkewCommand(t *testing.T) {
	const clean = `{"from":"2026-11-25T10:00:00Z","to":"2026-11-25T11:00:00Z","vectors":1200,"unread":0,"features":[{"feature":"delays:mean","compared":1200,"mismatched":2,"rate":0.00167,"kinds":{"late":2},"example":{"kind":"late","given":{"carrier":"UA"},"at":"2026-11-25T10:30:00Z","served":4,"past":7}}],"alarm":[]}`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		switch {
		case r.URL.Path != "/admin/v1/features/skew":
			w.WriteHeader(http.StatusNotFound)
		case r.Method == http.MethodGet:
			fmt.Fprint(w, clean)
		case string(b) == `{"from":"yesterday","to":"2026-11-25T11:00:00Z"}`:
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"error":"from is no time"}`)
		case string(b) == `{"to":"2026-11-25T11:00:00Z"}`:
			fmt.Fprint(w, strings.Replace(clean, `"alarm":[]`, `"alarm":["delays:mean"]`, 1))
		default:
			t.Errorf("asked for %s", b)
		}
	}))
	defer server.Close()
	skew := func(args ...string) (string, error) {
		return run(t, "", append([]string{"--server", server.URL, "features", "skew"}, args...)...)
	}
	out, err := skew()
	for _, want := range []string{"1,200 vectors served", "delays:mean", "0.17 %", "late 2", `{"carrier":"UA"} at 2026-11-25T10:30:00Z: served 4, history has 7`} {
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("got %q, %v, want %q", out, err, want)
		}
	}
	if out, err := skew("--check", "--to", "2026-11-25T11:00:00Z"); err == nil || !strings.Contains(err.Error(), "delays:mean") || !strings.Contains(out, "1,200") {
		t.Errorf("with an alarm: got %q, %v", out, err)
	}
	if _, err := skew("--check", "--from", "yesterday", "--to", "2026-11-25T11:00:00Z"); err == nil || !strings.Contains(err.Error(), "no time") {
		t.Errorf("no time: got %v", err)
	}
	if _, err := skew("--from", "2026-11-25T11:00:00Z"); err == nil || !strings.Contains(err.Error(), "--check") {
		t.Errorf("a span without a check: got %v", err)
	}
}
