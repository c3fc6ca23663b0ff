package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/deadletter"
)

// TestItKeepsListsAndPutsBack boots the function as main does, between a broker and an operator.
func TestItKeepsListsAndPutsBack(t *testing.T) {
	back := make(chan string, 1)
	broker := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		back <- r.Header.Get("Ce-Id")
		w.WriteHeader(http.StatusAccepted)
	}))
	t.Cleanup(broker.Close)
	ctx, cancel := context.WithCancel(context.Background())
	p, err := function(nil).Start(ctx, map[string]string{"PORT": "0", "LOG_LEVEL": "ERROR", "BLOB_URL": "mem:", "K_SINK": broker.URL})
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
	call := func(method, path string, header http.Header, body string, want int) []byte {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, "http://"+p.Server().Addr().String()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range header {
			r.Header[k] = v
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != want {
			t.Fatalf("%s %s: got %d %s %v, want %d", method, path, resp.StatusCode, b, err, want)
		}
		return b
	}
	call("POST", "/events", http.Header{
		"Ce-Specversion": {"1.0"}, "Ce-Id": {"7"}, "Ce-Source": {"/s"}, "Ce-Type": {"t"}, "Ce-Knativeerrorcode": {"503"}, "Ce-Knativeerrordest": {"http://x/"},
	}, "", http.StatusAccepted)
	var l deadletter.List
	if err := json.Unmarshal(call("GET", "/admin/v1/deadletters", nil, "", http.StatusOK), &l); err != nil || len(l.Letters) != 1 || l.Letters[0].Code != 503 {
		t.Fatalf("got %+v %v", l, err)
	}
	call("POST", "/admin/v1/deadletters/"+l.Letters[0].ID+"/replay", nil, "", http.StatusOK)
	if id := <-back; id != "7" {
		t.Errorf("the broker got %q", id)
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
