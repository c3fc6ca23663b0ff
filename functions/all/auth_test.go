package main

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pilotlight-ml/pilotlight/internal/auth"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store/diskstore"
)

// TestAuthIsOnEverywhere tries keys on all that the process serves, whatever protocol names a model.
func TestAuthIsOnEverywhere(t *testing.T) {
	data := t.TempDir()
	blob, err := diskstore.OpenBlob(t.Context(), &url.URL{Scheme: "file", Path: filepath.Join(data, "blob")})
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Close()
	keys := auth.NewKeys(blob)
	issue := func(scopes ...auth.Scope) (id, secret string) {
		key, secret, err := keys.Create(t.Context(), auth.Grant{Name: "test", Scopes: scopes}, "")
		if err != nil {
			t.Fatal(err)
		}
		return key.ID, secret
	}
	_, ops := issue("admin")
	id, shop := issue("predict/flights")
	_, other := issue("predict/other-*", "models:write/other-*")
	base, _ := start(t, map[string]string{"DATA_DIR": data, "AUTH": "on", "SEED": filepath.Join(root, "examples/flights"), "LOG_LEVEL": "ERROR"})
	request, err := os.ReadFile(filepath.Join(root, "examples/flights/complete.json"))
	if err != nil {
		t.Fatal(err)
	}
	ask := func(method, path, key, body string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, base+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if key != "" {
			r.Header.Set("Authorization", "Bearer "+key)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	for _, test := range []struct {
		method, path, key string
		want              int
	}{
		{"POST", "/v2/models/flights/infer", "", 401},
		{"POST", "/v2/models/flights/infer", shop, 200},
		{"POST", "/v2/models/flights/infer", ops, 200},
		{"POST", "/v2/models/flights/infer", other, 403},
		{"GET", "/v2/models/flights", shop, 200},
		{"GET", "/v2/models/flights", other, 403},
		{"POST", "/v2/repository/models/flights/unload", other, 403},
		{"POST", "/v2/repository/models/flights/load", shop, 403},
		{"GET", "/v2/health/ready", "", 200},
		{"GET", "/admin/v1/models", shop, 403},
		{"GET", "/admin/v1/models", ops, 200},
		{"GET", "/admin/v1/keys", ops, 200},
		{"POST", "/get-online-features", shop, 403},
		{"POST", "/feedback", shop, 403},
		{"POST", "/events", ops, 403},
		{"POST", "/push", "", 401},
		{"GET", "/admin/v1/alerts", "", 401},
		{"GET", "/admin/v1/deadletters", "", 401},
	} {
		if got, body := ask(test.method, test.path, test.key, string(request)); got != test.want {
			t.Errorf("%s %s: got %d %.200s, want %d", test.method, test.path, got, body, test.want)
		}
	}
	for _, test := range []struct{ method, path string }{
		{"GET", "/v1/models"}, {"GET", "/v2/models"}, {"GET", "/v2/models/stats"}, {"POST", "/v2/repository/index"},
	} {
		for key, want := range map[string]bool{shop: true, ops: true, other: false} {
			if status, body := ask(test.method, test.path, key, ""); status != 200 || strings.Contains(body, "flights") != want {
				t.Errorf("%s %s: got %d %s, want flights in it: %t", test.method, test.path, status, body, want)
			}
		}
	}

	conn, err := grpc.NewClient(strings.TrimPrefix(base, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	byName := func(method, name, key string) codes.Code { // the name is in the message, where no guard looks
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+key)
		var answer []byte
		message := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), name)
		switch {
		case strings.HasPrefix(method, "Repository"):
			message = protowire.AppendString(protowire.AppendTag(nil, 2, protowire.BytesType), name)
		case method == "ModelInfer":
			input := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "x")
			input = protowire.AppendString(protowire.AppendTag(input, 2, protowire.BytesType), "FP32")
			input = protowire.AppendVarint(protowire.AppendTag(input, 3, protowire.VarintType), 1)
			message = protowire.AppendBytes(protowire.AppendTag(message, 5, protowire.BytesType), input)
			message = protowire.AppendBytes(protowire.AppendTag(message, 7, protowire.BytesType), make([]byte, 4))
		}
		return status.Code(conn.Invoke(ctx, "/inference.GRPCInferenceService/"+method, &message, &answer, grpc.ForceCodec(plain{})))
	}
	for _, test := range []struct {
		method, key string
		want        codes.Code
	}{
		{"ModelReady", shop, codes.OK},
		{"ModelReady", other, codes.PermissionDenied},
		{"ModelMetadata", other, codes.PermissionDenied},
		{"ModelInfer", other, codes.PermissionDenied},
		{"ModelInfer", shop, codes.InvalidArgument}, // it brings what the model does not take
		{"RepositoryModelUnload", other, codes.PermissionDenied},
		{"RepositoryModelUnload", shop, codes.PermissionDenied},
		{"RepositoryModelLoad", other, codes.PermissionDenied},
		{"RepositoryModelLoad", ops, codes.OK},
	} {
		if got := byName(test.method, "flights", test.key); got != test.want {
			t.Errorf("%s: got %s, want %s", test.method, got, test.want)
		}
	}

	// Revoked in the bucket, behind the process's back.
	if _, err := keys.Revoke(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	if got, body := ask("POST", "/v2/models/flights/infer", shop, string(request)); got != 401 {
		t.Errorf("a second after it was revoked: got %d %s", got, body)
	}
}

func TestAuthWithoutABucketThatLasts(t *testing.T) {
	_, err := function(nil).Start(context.Background(), map[string]string{"PORT": "0", "AUTH": "on", "LOG_LEVEL": "ERROR", "ORT_LIB": os.Getenv("ORT_LIB")})
	if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "AUTH=on with a bucket in memory") {
		t.Errorf("got %v", err)
	}
}

// plain has messages sent as they are.
type plain struct{}

func (plain) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (plain) Unmarshal(data []byte, v any) error { *v.(*[]byte) = data; return nil }
func (plain) Name() string                       { return "proto" }
