package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/auth"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/diskstore"
)

func TestKeysByTheBucketAndByTheServer(t *testing.T) {
	bucket := "file://" + filepath.ToSlash(t.TempDir())
	blob, err := store.Openers[store.Blob]{"file": diskstore.OpenBlob}.Open(t.Context(), bucket)
	if err != nil {
		t.Fatal(err)
	}
	keys := auth.NewKeys(blob)
	mux := http.NewServeMux()
	keys.Register(mux)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	ring := auth.NewRing(keys, time.Minute)

	for _, where := range [][]string{{"--store", bucket}, {"--server", server.URL}} {
		key := func(args ...string) (out, said string, err error) {
			var stdout, stderr bytes.Buffer
			cmd := command()
			cmd.SetArgs(append(append([]string{"key"}, args...), where...))
			cmd.SetOut(&stdout)
			cmd.SetErr(&stderr)
			err = cmd.ExecuteContext(t.Context())
			return stdout.String(), stderr.String(), err
		}
		out, said, err := key("create", "shop", "--scope", "predict/flights", "--scope", "feedback", "--rate", "5", "--tenant", "acme", "--expires", "1h", "--daily-rows", "7")
		if err != nil {
			t.Fatal(err)
		}
		secret := strings.TrimSpace(out)
		p, err := ring.Check(t.Context(), secret)
		if err != nil || p.Name != "shop" || p.Tenant != "acme" || p.Limits.Rate != 5 || p.Limits.Daily.Rows != 7 || !p.May(auth.Predict, "flights") || p.May(auth.Predict, "other") {
			t.Fatalf("%q opens for %+v, %v", out, p, err)
		}
		id := strings.TrimPrefix(p.ID, "key:")
		if want := "key " + id + " of shop may predict/flights, feedback; it is shown this once\n"; said != want {
			t.Errorf("got %q, want %q", said, want)
		}
		out, _, err = key("rotate", id, "--overlap", "1h")
		if second := strings.TrimSpace(out); err != nil || second == secret || len(second) != len(secret) {
			t.Errorf("got %q %v", out, err)
		}
		if out, _, err = key("list"); err != nil || !strings.Contains(out, id+"  shop  acme    predict/flights feedback  until ") || strings.Contains(out, "pl_") {
			t.Errorf("got %q %v", out, err)
		}
		if out, _, err = key("revoke", id); err != nil || out != "key "+id+" of shop is revoked\n" {
			t.Errorf("got %q %v", out, err)
		}
		if out, _, err = key("list", "-o", "json"); err != nil || !strings.Contains(out, `"revoked":"`) {
			t.Errorf("got %q %v", out, err)
		}
		for want, args := range map[string][]string{
			`there is no key "aaaaaaaaaaaa"`:       {"revoke", "aaaaaaaaaaaa"},
			`scope "fly": expected one of predict`: {"create", "x", "--scope", "fly"},
			`required flag(s) "scope" not set`:     {"create", "x"},
		} {
			if _, _, err := key(args...); err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("%q: got %v, want %q", args, err, want)
			}
		}
	}
	if _, err := run(t, "", "key", "list", "--store", "ftp://x"); err == nil || !strings.Contains(err.Error(), "the scheme must be one of file: s3:") {
		t.Errorf("got %v", err)
	}
}
