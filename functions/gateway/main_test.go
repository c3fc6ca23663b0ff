package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/auth"
	"github.com/pilotlight-ml/pilotlight/internal/store/diskstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
)

// TestItLetsThroughWhoMay boots the function as main does, before a function, with limits in Redis.
func TestItLetsThroughWhoMay(t *testing.T) {
	predict := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	t.Cleanup(predict.Close)
	bucket := &url.URL{Scheme: "file", Path: filepath.ToSlash(t.TempDir())}
	blob, err := diskstore.OpenBlob(t.Context(), bucket)
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Close()
	_, key, err := auth.NewKeys(blob).Create(t.Context(), auth.Grant{Name: "shop", Scopes: []auth.Scope{"predict"}, Limits: auth.Limits{Rate: 0.01, Burst: 1}}, "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p, err := function(nil).Start(ctx, map[string]string{
		"PORT": "0", "HOST": "127.0.0.1", "LOG_LEVEL": "ERROR", "AUTH": "on", "BLOB_URL": bucket.String(), "KV_URL": storetest.RedisURL(t), "PREDICT_URL": predict.URL,
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
	for i, want := range []int{401, 200, 429} {
		r, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+p.Server().Addr().String()+"/v2/models/m/infer", strings.NewReader("question"))
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			r.Header.Set("Authorization", "Bearer "+key)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != want || want == 200 && string(b) != "question" || resp.Header.Get("Pilotlight-Limits") != "" {
			t.Errorf("request %d: got %d %s %v, want %d", i, resp.StatusCode, b, resp.Header, want)
		}
	}
}
