package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/event/eventtest"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
	"github.com/pilotlight-ml/pilotlight/test/e2e/eventsuite"
)

// triggersFor writes the suite's triggers for a receiver into a folder.
func triggersFor(t *testing.T, receiver string) string {
	t.Helper()
	dir := t.TempDir()
	manifests := strings.ReplaceAll(eventsuite.Triggers, "SUBSCRIBER", "{uri: "+receiver+"/events}")
	if err := os.WriteFile(filepath.Join(dir, "suite.yaml"), []byte(manifests), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestEvents runs the tests of the cluster's broker on the one in the process.
func TestEvents(t *testing.T) {
	receiver := &eventtest.Receiver{}
	server := httptest.NewServer(receiver)
	t.Cleanup(server.Close)
	url, _ := start(t, map[string]string{"TRIGGERS_DIR": triggersFor(t, server.URL), "LOG_LEVEL": "ERROR", "FEATURE_SAMPLE": "1", "PAYLOAD_LOG": "on", "PAYLOAD_EVERY": "1s"})
	receiver.Sink = url + "/events"
	eventsuite.Run(t, &eventsuite.System{
		Receiver: door(server.URL), DeadLetters: door(url), Predict: door(url), Features: door(url), Feedback: door(url), Model: onnxtest.Simple(-1).Bytes(),
		Echo: onnxtest.Identity(tensor.Spec{Type: tensor.FP64, Shape: []int64{-1}}).Bytes(),
	})
	_, metrics := call(t, "GET", url+"/metrics", nil)
	if want := `pilotlight_event_deliveries_total{outcome="junk",trigger="suite-exact"} 4`; !strings.Contains(metrics, want) {
		t.Errorf("the metrics lack %s", want)
	}
}

func door(url string) eventsuite.Door {
	return func(ctx context.Context, method, path string, header http.Header, body []byte) (int, []byte, error) {
		r, err := http.NewRequestWithContext(ctx, method, url+path, bytes.NewReader(body))
		if err != nil {
			return 0, nil, err
		}
		r.Header = header
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			return 0, nil, err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return resp.StatusCode, b, err
	}
}

// TestTriggersInfer has a trigger ask a model, whose answer goes back into the
// broker and on to who waits for it.
func TestTriggersInfer(t *testing.T) {
	answers := make(chan *http.Request, 1)
	bodies := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		answers <- r
		bodies <- string(b)
		w.WriteHeader(http.StatusAccepted)
	}))
	t.Cleanup(server.Close)
	dir := t.TempDir()
	const manifests = `{apiVersion: eventing.knative.dev/v1, kind: Trigger, metadata: {name: ask}, spec: {broker: pilotlight,
  filters: [{exact: {type: org.kubeflow.serving.inference.request}}], subscriber: {ref: {apiVersion: serving.knative.dev/v1, kind: Service, name: predict}, uri: /v1/models/simple:predict}}}
---
{apiVersion: eventing.knative.dev/v1, kind: Trigger, metadata: {name: hear}, spec: {broker: pilotlight,
  filters: [{exact: {type: dev.pilotlight.prediction.made.v1}}, {exact: {causationid: order-7}}], subscriber: {uri: %s}}}`
	if err := os.WriteFile(filepath.Join(dir, "infer.yaml"), fmt.Appendf(nil, manifests, server.URL+"/"), 0o600); err != nil {
		t.Fatal(err)
	}
	url, _ := start(t, map[string]string{"TRIGGERS_DIR": dir})
	upload(t, url, "simple", onnxtest.Simple(-1).Bytes())
	const ones = "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]"
	event := http.Header{
		"Ce-Specversion": {"1.0"}, "Ce-Id": {"order-7"}, "Ce-Source": {"/shop"}, "Ce-Type": {"org.kubeflow.serving.inference.request"},
		"Content-Type": {"application/json"},
	}
	status, said, err := door(url)(t.Context(), "POST", "/events", event, []byte(`{"instances":[{"INPUT0":`+ones+`,"INPUT1":`+ones+`}]}`))
	if err != nil || status != http.StatusAccepted {
		t.Fatalf("got %d %s %v", status, said, err)
	}
	select {
	case r := <-answers:
		want := `{"predictions":[{"OUTPUT0":` + strings.ReplaceAll(ones, "1", "2") + `,"OUTPUT1":` + strings.ReplaceAll(ones, "1", "0") + `}]}`
		if body := <-bodies; body != want || r.Header.Get("Ce-Subject") != "simple:1" || r.Header.Get("Ce-Source") != "/pilotlight/predictions" {
			t.Errorf("got %v %s", r.Header, body)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the answer did not come through the broker")
	}
}

// TestAcceptedEventsOutliveAKill kills the process while its subscriber is away.
func TestAcceptedEventsOutliveAKill(t *testing.T) {
	var mu sync.Mutex
	got, open := map[string]bool{}, false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if !open {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		got[r.Header.Get("Ce-Id")] = true
		w.WriteHeader(http.StatusAccepted)
	}))
	t.Cleanup(server.Close)
	dir := t.TempDir()
	const manifest = `{apiVersion: eventing.knative.dev/v1, kind: Trigger, metadata: {name: kept}, spec: {broker: pilotlight,
  filters: [{exact: {type: kept}}], subscriber: {uri: %s}, delivery: {retry: 1000, backoffPolicy: linear, backoffDelay: PT0.1S}}}` // of less Knative makes nothing
	if err := os.WriteFile(filepath.Join(dir, "kept.yaml"), fmt.Appendf(nil, manifest, server.URL+"/"), 0o600); err != nil {
		t.Fatal(err)
	}
	data := t.TempDir()
	url, kill := spawn(t, data, "TRIGGERS_DIR="+dir)
	const n = 50
	for i := range n {
		status, b, err := door(url)(t.Context(), "POST", "/events", http.Header{
			"Ce-Specversion": {"1.0"}, "Ce-Id": {fmt.Sprint(i)}, "Ce-Source": {"/test"}, "Ce-Type": {"kept"},
		}, nil)
		if err != nil || status != http.StatusAccepted {
			t.Fatalf("got %d %s %v", status, b, err)
		}
	}
	kill()
	mu.Lock()
	if len(got) > 0 {
		t.Fatal("an event was delivered before the kill")
	}
	open = true
	mu.Unlock()
	spawn(t, data, "TRIGGERS_DIR="+dir)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		mu.Lock()
		all := len(got)
		mu.Unlock()
		if all == n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d accepted events arrived after the kill", all, n)
		}
	}
}

func TestTriggersThatCantWork(t *testing.T) {
	for _, test := range []struct{ name, manifest, err string }{
		{"unknown event", `filters: [{exact: {type: dev.pilotlight.modell.published.v1}}], subscriber: {uri: "http://x"}`, `Trigger bad: filter exact: no event is of type "dev.pilotlight.modell.published.v1"; there are dev.knative.sources.ping, dev.pilotlight.alert.raised.v1`},
		{"unknown event in an expression", `filters: [{cesql: "type = 'dev.pilotlight.x.v1'"}], subscriber: {uri: "http://x"}`, `no event is of type "dev.pilotlight.x.v1"`},
		{"broken expression", `filters: [{cesql: "type ="}], subscriber: {uri: "http://x"}`, `filter cesql: "type =" does not parse`},
		{"unknown service", `subscriber: {ref: {kind: Service, name: nobody, apiVersion: serving.knative.dev/v1}}`, `Trigger bad: there is no service "nobody" in this process`},
		{"event that a service does not take", `filters: [{exact: {type: dev.knative.sources.ping}}], subscriber: {ref: {kind: Service, name: predict, apiVersion: serving.knative.dev/v1}}`, `the service "predict" does not take events of type "dev.knative.sources.ping"`},
		{"misspelt field", `subscribers: {uri: "http://x"}`, `bad.yaml, object 1: `},
		{"two filters in one", `filters: [{exact: {type: a}, prefix: {type: b}}], subscriber: {uri: "http://x"}`, `a filter says one of exact, prefix, suffix, all, any, not and cesql, and this one 2 of them`},
		{"not a duration", `subscriber: {uri: "http://x"}, delivery: {retry: 1, backoffDelay: 1s}`, `delivery: backoffDelay is "1s", expected a duration such as PT0.5S`},
		{"no subscriber", `filters: []`, `Trigger bad: subscriber: expected a ref, or a uri with scheme and host`},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			manifest := "{apiVersion: eventing.knative.dev/v1, kind: Trigger, metadata: {name: bad}, spec: {broker: pilotlight, " + test.manifest + "}}"
			if err := os.WriteFile(filepath.Join(dir, "bad.yaml"), []byte(manifest), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := function(nil).Start(t.Context(), map[string]string{"PORT": "0", "LOG_LEVEL": "ERROR", "ORT_LIB": onnxtest.Library(t), "MODEL_CACHE_DIR": t.TempDir(), "TRIGGERS_DIR": dir})
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("got %v, want %q", err, test.err)
			}
		})
	}
}
