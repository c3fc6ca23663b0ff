package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// served starts an HTTP server for both versions, as a process of the bench.
func served(t *testing.T, h http.HandlerFunc) *process {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s := &http.Server{Handler: h, Protocols: protocols, ReadHeaderTimeout: time.Minute}
	go s.Serve(l) //nolint:errcheck // it ends with the test
	t.Cleanup(func() { s.Close() })
	other := exec.CommandContext(t.Context(), "sleep", "60") // whose processor time is asked for
	if err := other.Start(); err != nil {
		t.Skip("SKIPPED, because there is no process to be had: ", err)
	}
	t.Cleanup(func() { other.Wait() }) //nolint:errcheck // it is ended by the test's context
	return &process{addr: l.Addr().String(), cmd: other}
}

func TestDriveChecksAnswers(t *testing.T) {
	long := strings.Repeat("a long answer ", 100_000)
	grpc := func(w http.ResponseWriter, message string) {
		w.Header().Set("Trailer", "Grpc-Status")
		_, _ = w.Write(append([]byte{0, byte(len(message) >> 24), byte(len(message) >> 16), byte(len(message) >> 8), byte(len(message))}, message...))
		w.Header().Set("Grpc-Status", "0")
	}
	get := newRequest(http.MethodGet, "/", nil, nil)
	for _, tt := range []struct {
		name    string
		request request
		handle  http.HandlerFunc
		lossy   bool
		err     string
	}{
		{"its length told", get, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(long[:1000])) }, false, "differs"},
		{"the right one", get, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1400000")
			_, _ = w.Write([]byte(long))
		}, false, ""},
		{"in chunks", get, func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(long)) }, false, ""},
		{"refused", get, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "too much", http.StatusServiceUnavailable) }, false, "503"},
		{"all refused", get, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "too much", http.StatusServiceUnavailable) }, true, "nothing was answered"},
		{"gRPC", request{grpc: true, wire: []byte(long)}, func(w http.ResponseWriter, r *http.Request) {
			if body, err := io.ReadAll(r.Body); err == nil && string(body[5:]) == long {
				grpc(w, long)
			}
		}, false, ""},
		{"gRPC, another", request{grpc: true}, func(w http.ResponseWriter, r *http.Request) { grpc(w, "short") }, false, "differs"},
		{"gRPC, refused", request{grpc: true}, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Grpc-Status", "14")
			w.WriteHeader(http.StatusOK)
		}, false, "status 14"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := served(t, tt.handle)
			tt.request.want = []byte(long)
			l, err := p.drive(t.Context(), tt.request, pace{callers: 3, time: 50 * time.Millisecond, lossy: tt.lossy})
			if tt.err == "" && (err != nil || l.answers == 0) {
				t.Fatalf("got %d answers, %v; want some and no error", l.answers, err)
			}
			if tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Fatalf("got error %v, want one with %q", err, tt.err)
			}
		})
	}
}

func TestDriveCountsWaiting(t *testing.T) {
	// Two callers that are held for 20 ms each can't do 400 requests a second: those
	// that are due meanwhile wait, and their times tell.
	p := served(t, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-time.After(20 * time.Millisecond):
		}
		_, _ = w.Write([]byte("hello"))
	})
	r := newRequest(http.MethodGet, "/", nil, nil)
	r.want = []byte("hello")
	l, err := p.drive(context.WithoutCancel(t.Context()), r, pace{callers: 2, rate: 400, time: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if least := 100 * time.Millisecond; quantile(l.times, 1) < least {
		t.Errorf("the longest wait was %s, want at least %s", quantile(l.times, 1), least)
	}
	lost, err := p.drive(context.WithoutCancel(t.Context()), r, pace{callers: 2, rate: 400, time: 300 * time.Millisecond, lossy: true})
	if err != nil {
		t.Fatal(err)
	}
	if lost.lost == 0 {
		t.Errorf("no request was lost, want those that found no caller free")
	}
}
