package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

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

// instance is the function as main boots it.
type instance struct {
	t   *testing.T
	url string
}

func start(t *testing.T, environ map[string]string) instance {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	environ = maps.Clone(environ)
	maps.Copy(environ, map[string]string{"PORT": "0", "LOG_LEVEL": "ERROR", "OFFLINE_DIR": t.TempDir()})
	p, err := function(nil).Start(ctx, environ)
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
	return instance{t, "http://" + p.Server().Addr().String()}
}

func (i instance) call(path, kind, body string, want int) []byte {
	i.t.Helper()
	return i.ask(http.MethodPost, path, kind, body, want)
}

func (i instance) ask(method, path, kind, body string, want int) []byte {
	t := i.t
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, i.url+path, strings.NewReader(body))
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
		t.Fatalf("%s %s: got %d %s %v, want %d", method, path, resp.StatusCode, b, err, want)
	}
	return b
}

// Rows are read from the process's memory, and what one instance is told another one knows.
func TestInstancesHearOfEachOther(t *testing.T) {
	redis := storetest.RedisURL(t)
	environ := map[string]string{"BLOB_URL": "file://" + t.TempDir(), "ONLINE_URL": redis, "KV_URL": redis}
	a := start(t, environ)
	a.call("/admin/v1/features", "application/yaml", definitions, http.StatusOK)
	b := start(t, environ)
	push := func(to instance, minute, ms int) {
		t.Helper()
		to.call("/push", "application/json", fmt.Sprintf(`{"push_source_name":"clicks","df":{"user":["ann"],"event_timestamp":["2026-11-25T11:%02d:00Z"],"ms":[%d]},"to":"online"}`, minute, ms), http.StatusOK)
	}
	read := func(from instance) string {
		t.Helper()
		answer := from.call("/get-online-features", "application/json", `{"features":["last_click:ms"],"entities":{"user":["ann"]}}`, http.StatusOK)
		_, rest, _ := bytes.Cut(answer, []byte(`{"values":["ann"]`))
		_, rest, _ = bytes.Cut(rest, []byte(`"values":[`))
		value, _, _ := bytes.Cut(rest, []byte("]"))
		return string(value)
	}
	memory := func(of instance) int {
		t.Helper()
		_, rest, _ := bytes.Cut(of.ask(http.MethodGet, "/metrics", "", "", http.StatusOK), []byte(`pilotlight_features_lookups_total{from="memory"} `))
		line, _, _ := bytes.Cut(rest, []byte("\n"))
		n, err := strconv.Atoi(string(line))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for minute := range 20 {
		push(a, minute, 100+minute)
		want := strconv.Itoa(100 + minute)
		if got := read(a); got != want {
			t.Fatalf("got %s of who took %s in", got, want)
		}
		for end := time.Now().Add(5 * time.Second); read(b) != want; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("the other instance does not hear of %s", want)
			}
		}
	}
	for end := time.Now().Add(5 * time.Second); memory(a) == 0 || memory(b) == 0; time.Sleep(time.Millisecond) {
		read(a)
		read(b)
		if time.Now().After(end) {
			t.Fatalf("%d and %d rows came from memory, want some", memory(a), memory(b))
		}
	}
}

// TestFromDefinitionToTrainingSet boots the function as main does, on a real Redis and S3.
func TestFromDefinitionToTrainingSet(t *testing.T) {
	redis := storetest.RedisURL(t)
	call := start(t, map[string]string{"BLOB_URL": storetest.S3URL(t), "ONLINE_URL": redis, "KV_URL": redis}).call
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
