package serve

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"sync"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// Client gives a client of the process itself: requests to any host are answered by its own server without a connection, each as a
// caller's is, with guard, limits, deadline and a log line of its own. Those that have a RemoteAddr come from there. It is for work that begins once the server listens.
func (p *Process) Client() *http.Client {
	return &http.Client{Transport: inward{p}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// inward is a transport that ends in the process's own server.
type inward struct{ process *Process }

// RoundTrip has a request answered. The answer's body comes as it is written, and must be closed.
func (t inward) RoundTrip(r *http.Request) (*http.Response, error) {
	server := t.process.server
	if server == nil {
		return nil, fault.New(fault.Unavailable, "the server does not listen yet")
	}
	// Only the end of the caller's context counts: its values are of another request, which this one must not be taken for.
	ctx, cancel := context.WithCancel(t.process.ctx)
	stop := context.AfterFunc(r.Context(), cancel)
	from, to := io.Pipe()
	w := &inwardAnswer{header: http.Header{}, begun: make(chan struct{}), body: to}
	in := r.Clone(ctx)
	in.RequestURI, in.RemoteAddr = r.URL.RequestURI(), cmp.Or(r.RemoteAddr, "127.0.0.1:0")
	if in.Body == nil {
		in.Body = http.NoBody
	}
	go func() {
		defer func() {
			stop()
			cancel()
			if p := recover(); p != nil { // http.ErrAbortHandler: what was written is not the whole
				w.WriteHeader(http.StatusBadGateway)
				_ = to.CloseWithError(fmt.Errorf("the answer was broken off: %v", p))
				return
			}
			w.WriteHeader(http.StatusOK)
			_ = to.Close()
		}()
		server.ServeHTTP(w, in)
	}()
	select {
	case <-w.begun:
	case <-r.Context().Done():
		_ = from.CloseWithError(r.Context().Err())
		return nil, r.Context().Err()
	}
	return &http.Response{
		Status: http.StatusText(w.status), StatusCode: w.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.sent, Body: &inwardBody{from, cancel}, ContentLength: -1, Request: r,
	}, nil
}

// inwardAnswer is the writer that the server sees.
type inwardAnswer struct {
	header http.Header
	once   sync.Once
	begun  chan struct{}
	status int         // before begun
	sent   http.Header // before begun
	body   *io.PipeWriter
}

func (w *inwardAnswer) Header() http.Header { return w.header }

func (w *inwardAnswer) WriteHeader(status int) {
	if status < http.StatusOK {
		return
	}
	w.once.Do(func() {
		w.status, w.sent = status, maps.Clone(w.header)
		close(w.begun)
	})
}

func (w *inwardAnswer) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(p)
}

// Flush has nothing to do but to begin: what is written is read at once.
func (w *inwardAnswer) Flush() { w.WriteHeader(http.StatusOK) }

// inwardBody ends the request with its answer.
type inwardBody struct {
	*io.PipeReader
	cancel context.CancelFunc
}

func (b *inwardBody) Close() error {
	b.cancel()
	return b.PipeReader.Close()
}
