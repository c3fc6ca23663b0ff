package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
)

const definitions = `
entities: [{name: user, keys: [{name: user, type: string}]}]
sources:
  - name: clicks
    fields: [{name: user, type: string}, {name: event_timestamp, type: timestamp}, {name: ms, type: int64}]
views:
  - {name: last_click, entities: [user], source: clicks}
`

// TestFromDefinitionToTrainingSet boots the function as main does, on a real Redis and S3.
func TestFromDefinitionToTrainingSet(t *testing.T) {
	redis := storetest.RedisURL(t)
	ctx, cancel := context.WithCancel(context.Background())
	p, err := function(nil).Start(ctx, map[string]string{
		"PORT": "0", "LOG_LEVEL": "ERROR", "BLOB_URL": storetest.S3URL(t), "ONLINE_URL": redis, "KV_URL": redis, "OFFLINE_DIR": t.TempDir(),
	})
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
	call := func(path, kind, body string, want int) []byte {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+p.Server().Addr().String()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", kind)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != want {
			t.Fatalf("POST %s: got %d %s %v, want %d", path, resp.StatusCode, b, err, want)
		}
		return b
	}
	call("/admin/v1/features", "application/yaml", definitions, http.StatusOK)
	call("/events", "application/cloudevents+json", `{"specversion":"1.0","type":"dev.pilotlight.features.observed.v1","source":"/test","id":"1",
		"data":{"source":"clicks","rows":[{"user":"ann","event_timestamp":"2026-11-25T12:00:00Z","ms":40}]}}`, http.StatusAccepted)
	call("/push", "application/json", `{"push_source_name":"clicks","df":{"user":["ann","bob"],"event_timestamp":["2026-11-25T11:00:00Z","2026-11-25T11:00:00Z"],"ms":[7,8]},"to":"online_and_offline"}`, http.StatusOK)
	got := call("/get-online-features", "application/json", `{"features":["last_click:ms"],"entities":{"user":["ann","bob","eve"]}}`, http.StatusOK)
	if want := `"values":[40,8,null],"statuses":["PRESENT","PRESENT","NOT_FOUND"]`; !bytes.Contains(got, []byte(want)) {
		t.Errorf("got %s, want it with %s", got, want)
	}
	call("/materialize-incremental", "application/json", `{"end_ts":"2026-11-25T13:00:00Z"}`, http.StatusOK)
	set := call("/admin/v1/features/training-set?feature=last_click:ms", "text/csv", "user,event_timestamp\nann,2027-01-01T00:00:00Z\n", http.StatusOK)
	if !bytes.HasPrefix(set, []byte("PAR1")) {
		t.Errorf("got %.40q, want a Parquet file", set)
	}
}
