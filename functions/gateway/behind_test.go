package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
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
	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/store/diskstore"
)

// startPredict builds functions/predict, runs it as a process of its own, and gives its URL.
func startPredict(t *testing.T, environ ...string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "predict")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../predict").CombinedOutput(); err != nil {
		t.Fatalf("build functions/predict: %v\n%s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Env = append(append(os.Environ(), "PORT=0", "HOST=127.0.0.1", "ORT_LIB="+onnxtest.Library(t), "MODEL_CACHE_DIR="+t.TempDir()), environ...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait() // its end is not what is tested
	})
	for lines := bufio.NewScanner(log); lines.Scan(); {
		var line struct{ Msg, Addr string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "listening" {
			go func() { _, _ = io.Copy(io.Discard, log) }()
			return "http://" + line.Addr
		}
	}
	t.Fatal("functions/predict ended before it listened")
	return ""
}

// plain has messages sent as they are.
type plain struct{}

func (plain) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (plain) Unmarshal(data []byte, v any) error { *v.(*[]byte) = data; return nil }
func (plain) Name() string                       { return "proto" }

// TestBothAsk has the gateway before a function that asks callers itself: what the one lets through, the other sees once more.
func TestBothAsk(t *testing.T) {
	bucket := &url.URL{Scheme: "file", Path: filepath.ToSlash(t.TempDir())}
	blob, err := diskstore.OpenBlob(t.Context(), bucket)
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Close()
	keys := auth.NewKeys(blob)
	issue := func(scopes ...auth.Scope) (*auth.Key, string) {
		key, whole, err := keys.Create(t.Context(), auth.Grant{Name: "test", Scopes: scopes}, "")
		if err != nil {
			t.Fatal(err)
		}
		return key, whole
	}
	_, publisher := issue("models:write", "admin:read")
	shop, shopKey := issue("predict/simple")
	predict := startPredict(t, "AUTH=on", "BLOB_URL="+bucket.String())
	ctx, cancel := context.WithCancel(context.Background())
	p, err := function(nil).Start(ctx, map[string]string{"PORT": "0", "LOG_LEVEL": "ERROR", "AUTH": "on", "BLOB_URL": bucket.String(), "PREDICT_URL": predict})
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
	gateway := "http://" + p.Server().Addr().String()
	ask := func(at, method, path, key string, body []byte) (int, string, http.Header) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, at+path, bytes.NewReader(body))
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
		return resp.StatusCode, string(b), resp.Header
	}
	for _, name := range []string{"simple", "other"} {
		if status, body, _ := ask(gateway, "POST", "/admin/v1/models/"+name+"/versions", publisher, onnxtest.Simple(-1).Bytes()); status != http.StatusCreated {
			t.Fatalf("push %s: got %d %s", name, status, body)
		}
	}
	fives, threes := "5"+strings.Repeat(",5", 15), "3"+strings.Repeat(",3", 15)
	question := []byte(`{"inputs":[{"name":"INPUT0","datatype":"INT32","shape":[1,16],"data":[` + fives + `]},{"name":"INPUT1","datatype":"INT32","shape":[1,16],"data":[` + threes + `]}]}`)
	got, body, header := ask(gateway, "POST", "/v2/models/simple/infer", shopKey, question)
	if got != 200 || !strings.Contains(body, `"data":[8,8,8`) || header.Get("Prediction-Rows") != "1" {
		t.Fatalf("got %d %s %v", got, body, header)
	}
	for _, at := range []string{gateway, predict} {
		for _, test := range []struct {
			method, path, key string
			want              int
		}{
			{"POST", "/v2/models/simple/infer", "", 401},
			{"POST", "/v2/models/simple/infer", shopKey, 200},
			{"POST", "/v2/models/other/infer", shopKey, 403},
			{"POST", "/v2/models/simple/infer", publisher, 403},
			{"GET", "/admin/v1/models", publisher, 200},
			{"GET", "/admin/v1/models", shopKey, 403},
			{"GET", "/v2/health/ready", "", 200},
		} {
			if got, body, _ := ask(at, test.method, test.path, test.key, question); got != test.want {
				t.Errorf("%s: %s %s: got %d %s, want %d", at, test.method, test.path, got, body, test.want)
			}
		}
	}

	conn, err := grpc.NewClient(strings.TrimPrefix(gateway, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ready := func(name string) codes.Code {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+shopKey)
		message := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), name)
		var answer []byte
		return status.Code(conn.Invoke(ctx, "/inference.GRPCInferenceService/ModelReady", &message, &answer, grpc.ForceCodec(plain{})))
	}
	if got := ready("simple"); got != codes.OK {
		t.Errorf("simple: got %s", got)
	}
	if got := ready("other"); got != codes.PermissionDenied { // which the function finds out, as the message alone has the name
		t.Errorf("other: got %s", got)
	}

	if _, err := keys.Revoke(t.Context(), shop.ID); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	for _, at := range []string{gateway, predict} {
		if got, body, _ := ask(at, "POST", "/v2/models/simple/infer", shopKey, question); got != 401 {
			t.Errorf("%s: a second after it was revoked: got %d %s", at, got, body)
		}
	}
}
