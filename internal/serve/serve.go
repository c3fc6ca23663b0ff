// Package serve owns the one HTTP server that every function runs behind.
//
// It speaks HTTP/1.1 and HTTP/2 on one port, all of it by TLS or none, and promises to what
// it serves: each request has a deadline, an id, a log line, metrics and a
// part in a trace; a body is neither too large nor too slow; a panic
// costs its request alone; and when the process is told to end, requests under
// way are finished first. It answers /healthz, /readyz and /metrics by itself,
// and unknown paths and methods as well, with errors as JSON: {"error": "..."}.
//
// Handlers tell it of errors by Error and Failed, and of work that takes
// longer than usual by Long. It knows no routes but its own: a handler's mux
// leaves the route in http.Request.Pattern, and a handler around the mux that
// passes on a copy of the request copies that field back.
package serve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// Server is an HTTP server that listens already.
type Server struct {
	config   Config
	tel      *telemetry.Telemetry
	metrics  *instruments
	handler  http.Handler
	own      map[string]http.HandlerFunc // the paths it answers by itself, unobserved: probes are many and tell nothing
	ready    []func() error
	cross    *http.CrossOriginProtection
	draining context.Context // ends when no new requests are meant to come
	drain    context.CancelFunc
	active   atomic.Int64
	lanes    *lanes
	tls      *identities // nil: without TLS
	http     *http.Server
}

// Open listens for requests to handler, which Run then serves. The process is
// ready while none of ready gives an error; their messages are for strangers.
func Open(ctx context.Context, c *Config, tel *telemetry.Telemetry, handler http.Handler, ready ...func() error) (*Server, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	s := &Server{config: *c, tel: tel, handler: handler, ready: ready, cross: http.NewCrossOriginProtection()}
	s.draining, s.drain = context.WithCancel(context.WithoutCancel(ctx))
	s.own = map[string]http.HandlerFunc{"/healthz": healthz, "/readyz": s.readyz, "/metrics": tel.Metrics().ServeHTTP}
	err := sites(c.Sites).trust(s.cross)
	if err != nil {
		return nil, err
	}
	if c.Cert != "" {
		if s.tls, err = openIdentities(&s.config, tel.Log); err != nil {
			return nil, err
		}
	}
	if s.metrics, err = newInstruments(tel, s.active.Load, s.tls); err != nil {
		return nil, err
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(s.tls != nil)
	protocols.SetUnencryptedHTTP2(s.tls == nil)
	s.http = &http.Server{
		Handler: s, Protocols: protocols,
		ReadHeaderTimeout: c.HeaderTimeout, IdleTimeout: c.IdleTimeout, MaxHeaderBytes: int(c.MaxHeader),
		WriteTimeout: c.Timeout + c.Stall, // what an exchange doesn't set otherwise
		HTTP2:        &http.HTTP2Config{WriteByteTimeout: c.Stall},
		ErrorLog:     slog.NewLogLogger(errorLog{tel.Log.Handler(), s.metrics}, slog.LevelWarn),
	}
	if s.tls != nil {
		s.http.TLSConfig = s.tls.tls()
	}
	end := tel.ColdStart.Begin(telemetry.StageListener)
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))))
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	s.lanes = newLanes(l, s)
	end()
	return s, nil
}

// Addr gives the address that the server listens on.
func (s *Server) Addr() net.Addr { return s.lanes.Addr() }

// URL gives the address with its scheme.
func (s *Server) URL() string { return s.metrics.scheme + "://" + s.Addr().String() }

// lastWord is how long requests that were told to stop may take to say so.
const lastWord = time.Second

// Run serves until ctx ends or the process gets SIGTERM or SIGINT. Then it
// stops listening and lets the requests under way end: Knative sends no new
// ones by then, as its queue-proxy drains first. Those that take longer than
// DRAIN_TIMEOUT are cut off, which is an error. A second signal ends the process at once.
func (s *Server) Run(ctx context.Context) error {
	base, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(nil)
	s.http.BaseContext = func(net.Listener) context.Context { return base }
	var watching sync.WaitGroup
	defer watching.Wait()
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()

	served := make(chan error, 1)
	go s.lanes.run(base)
	if s.tls == nil {
		go func() { served <- s.http.Serve(s.lanes) }()
	} else {
		go func() { served <- s.http.ServeTLS(s.lanes, "", "") }()
		watching.Go(func() { s.tls.watch(ctx) })
	}
	s.tel.Log.InfoContext(ctx, "listening", "addr", s.Addr().String(), "tls", s.tls != nil, "version", s.tel.Version(),
		"after_us", s.tel.ColdStart.Age().Microseconds(), "running_us", s.tel.ColdStart.Running().Microseconds())
	select {
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	stop() // from here on, a signal does what it does to any process
	s.drain()
	s.tel.Log.InfoContext(ctx, "draining", "requests", s.active.Load())

	err := s.shutdown(base, s.config.Drain)
	if err != nil {
		left := s.active.Load()
		cut(fault.New(fault.Unavailable, "the server is shutting down"))
		err = fmt.Errorf("drain: %d requests took longer than %s and were cut off", left, s.config.Drain)
		if s.shutdown(context.WithoutCancel(base), lastWord) != nil {
			err = errors.Join(err, s.http.Close())
			s.lanes.cut()
		}
	}
	if end := <-served; !errors.Is(end, http.ErrServerClosed) {
		err = errors.Join(err, end)
	}
	return err
}

func (s *Server) shutdown(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	left := make(chan error, 1)
	go func() { left <- s.lanes.shutdown(ctx) }()
	return errors.Join(s.http.Shutdown(ctx), <-left)
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 2 {
		takeStack(0)
	}
	s.serve(r.Context(), time.Now(), w, r)
}

// serve answers a request that has begun at a time, in a context that is to be its own.
func (s *Server) serve(ctx context.Context, begin time.Time, w http.ResponseWriter, r *http.Request) {
	own := s.own[r.URL.Path]
	switch {
	case own == nil:
		s.exchange(ctx, begin, w, r)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		answer(w, http.StatusMethodNotAllowed, notAllowed(r))
	default:
		own(w, r.WithContext(ctx))
	}
}

func healthz(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, map[string]bool{"alive": true})
}

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	reasons := []string{}
	if s.draining.Err() != nil {
		reasons = append(reasons, "the server is shutting down")
	}
	for _, ready := range s.ready {
		if err := ready(); err != nil {
			reasons = append(reasons, fault.Message(err))
		}
	}
	status := http.StatusOK
	if len(reasons) > 0 {
		status = http.StatusServiceUnavailable
	}
	answer(w, status, struct {
		Ready   bool     `json:"ready"`
		Reasons []string `json:"reasons,omitempty"`
	}{len(reasons) == 0, reasons})
}

type errorBody struct {
	Error string `json:"error"`
}

func notFound(r *http.Request) errorBody {
	return errorBody{fmt.Sprintf("there is nothing at %.200s", r.URL.Path)}
}

func notAllowed(r *http.Request) errorBody {
	return errorBody{fmt.Sprintf("%.20s is not a method of %.200s", r.Method, r.URL.Path)}
}

// answer writes a small answer of the server's own.
func answer(w http.ResponseWriter, status int, body any) {
	b, err := json.Marshal(body)
	if err != nil {
		panic(err) // all of them are flags and strings
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	_, _ = w.Write(b) // a caller that is gone needs no answer
}

// Error answers a request with an error: its status and its message for the
// caller, while the log line gets all of it. If the answer has begun already,
// the connection or stream is cut off, for the caller must not take what it
// got for the whole.
func Error(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, context.Canceled) {
		err = canceled(r.Context(), err)
	}
	Failed(r, err)
	x := exchangeOf(r.Context())
	if x != nil && x.refuse != nil {
		x.refuse(x, x.status != 0, err)
		return
	}
	if x != nil && x.status != 0 {
		x.broken = true
		return
	}
	status := fault.HTTPStatus(err)
	if errors.As(err, new(slowBody)) {
		status = http.StatusRequestTimeout
	}
	h := w.Header()
	h.Del("Content-Encoding") // of the answer that didn't come about
	if status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", "Bearer")
	}
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		h.Set("Retry-After", fault.RetryHeader(err))
	}
	answer(w, status, errorBody{fault.Message(err)})
}

// canceled finds out why: only a caller that went away gets the status of one.
func canceled(ctx context.Context, err error) error {
	if ctx.Err() == nil { // the caller is there, so this is about another context, which the answer must not show
		return fault.Wrap(fault.Unavailable, errors.New(err.Error()), "the work was called off on the way")
	}
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// Failed notes on the request's log line and in its metrics that it failed,
// for those who answer in their own way or can't answer any more.
func Failed(r *http.Request, err error) { telemetry.LineFrom(r.Context()).Fail(err) }

// Long lets a request take UPLOAD_TIMEOUT and MAX_UPLOAD instead of
// REQUEST_TIMEOUT and MAX_BODY. It is the first thing its handler does, since
// it gives the request another context.
func Long(_ http.ResponseWriter, r *http.Request) {
	if x := exchangeOf(r.Context()); x != nil {
		x.extend(r)
	}
}

// ErrorsBy has the request's errors answered by refuse, for a protocol that has
// another form for them; begun tells it whether a part of the answer is out
// already. Error tells the log first.
func ErrorsBy(r *http.Request, refuse func(w http.ResponseWriter, begun bool, err error)) {
	if x := exchangeOf(r.Context()); x != nil {
		x.refuse = refuse
	}
}

// Status gives the status that a request was answered with; 0: it was not yet.
func Status(r *http.Request) int {
	if x := exchangeOf(r.Context()); x != nil {
		return x.status
	}
	return 0 // on a host that isn't this server
}

// RequestID gives the request's id, which its log line has.
func RequestID(r *http.Request) string {
	if x := exchangeOf(r.Context()); x != nil {
		return x.id[0]
	}
	return "" // on a host that isn't this server
}

// Timeout gives how long one request may take, for those who take many on one stream.
func Timeout(r *http.Request) time.Duration {
	if x := exchangeOf(r.Context()); x != nil {
		return x.server.config.Timeout
	}
	return 30 * time.Second // on a host that isn't this server
}

// Draining gives what ends when the process is told to end, for those whose
// requests don't end by themselves.
func Draining(r *http.Request) context.Context {
	if x := exchangeOf(r.Context()); x != nil {
		return x.server.draining
	}
	return context.WithoutCancel(r.Context())
}

// BodyLimit gives how large the request's body may be, for those who unpack it.
func BodyLimit(r *http.Request) int64 {
	if x := exchangeOf(r.Context()); x != nil {
		return x.limit
	}
	return 64 << 20 // on a host that isn't this server
}
