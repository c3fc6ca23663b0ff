package main

import (
	"context"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestItTakesOutcomesIn boots the function as main does: what it answers with 202 is in the bucket, and goes when it is old.
func TestItTakesOutcomesIn(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	p, err := function(nil).Start(ctx, map[string]string{"PORT": "0", "LOG_LEVEL": "ERROR", "BLOB_URL": "file://" + dir, "FEEDBACK_KEEP": "1ns"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	call := func(path string, header http.Header, body, want string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+p.Server().Addr().String()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header = header
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusAccepted || !strings.HasPrefix(string(b), want) {
			t.Fatalf("%s: got %d %s %v, want %s", path, resp.StatusCode, b, err, want)
		}
	}
	event := func(id, kind string) http.Header {
		return http.Header{"Ce-Specversion": {"1.0"}, "Ce-Id": {id}, "Ce-Source": {"/s"}, "Ce-Type": {kind}, "Content-Type": {"application/json"}}
	}
	objects := func() int {
		found, err := filepath.Glob(filepath.Join(dir, "outcomes", "inbox", "*.parquet"))
		if err != nil {
			t.Fatal(err)
		}
		return len(found)
	}
	call("/feedback", nil, `{"prediction":"a","value":true}`, `{"accepted":1,"rejected":0}`)
	call("/events", event("1", "dev.pilotlight.outcome.observed.v1"), `{"outcomes":[{"prediction":"b","value":1}]}`, "")
	if n := objects(); n != 2 {
		t.Errorf("the bucket has %d objects, want 2", n)
	}
	call("/events", event("2", "dev.knative.sources.ping"), `{"job":"sweep-feedback"}`, "")
	if n := objects(); n != 0 {
		t.Errorf("the bucket has %d objects after the sweep, want none", n)
	}
}

// TestItEndsWhileTheBucketIsAway: a pod that never became ready goes when it is told to.
func TestItEndsWhileTheBucketIsAway(t *testing.T) {
	p, err := function(nil).Start(context.Background(), map[string]string{"PORT": "0", "LOG_LEVEL": "ERROR", "BLOB_URL": "s3://bucket?endpoint=http://127.0.0.1:1&region=r", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"})
	if err != nil {
		t.Fatal(err)
	}
	told, end := context.WithCancel(context.Background()) // as by SIGTERM, which Start knows nothing of
	done := make(chan error, 1)
	go func() { done <- p.Run(told) }()
	end()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it goes on looking for the bucket")
	}
}
