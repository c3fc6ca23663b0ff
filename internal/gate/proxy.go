// Package gate is the public door of a deployment: it turns strangers and those who ask too often away before
// anything behind it wakes, and hands the others' requests to the function that answers them.
//
// Guard (of internal/auth) and Door are also what stands before functions that run in one process; Proxy is what
// makes a gateway of them. It speaks HTTP/1.1 to functions and HTTP/2 for gRPC, keeps connections, hands on the request's
// id, its trace and the caller's credential, and ends a call when its caller goes or its time is over. It waits
// for functions that start, leaves those alone that do not work, and tries again only what can do no harm.
package gate

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/pilotlight-ml/pilotlight/internal/auth"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/rpc"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// Proxy hands requests to functions. It is safe for concurrent use.
type Proxy struct {
	router  *Router
	wires   wires           // for plain requests
	plain   *http.Transport // for others
	calls   *http.Transport // of gRPC
	reverse httputil.ReverseProxy
	budget  budget
	retries metric.Int64Counter
	now     func() time.Time

	mu       sync.Mutex
	backends map[string]*backend // by URL
}

const (
	idlePerHost = 256
	idleFor     = 90 * time.Second
	replayMost  = 64 << 10 // bytes of a body that are kept so as to be sent again
	backendMost = 10_000   // URLs that something is known of
)

// NewProxy makes a proxy. It makes no connection.
func NewProxy(c *RouteConfig, router *Router, tel *telemetry.Telemetry) (*Proxy, error) {
	p := &Proxy{router: router, now: time.Now, backends: map[string]*backend{}, budget: budget{share: c.Retries, left: min(budgetMost, 100*c.Retries)}}
	var err error
	if p.retries, err = tel.Meter.Int64Counter("pilotlight.gate.retries", metric.WithDescription("Requests that were sent to a function once more, by function.")); err != nil {
		return nil, err
	}
	dial := (&net.Dialer{Timeout: c.Dial, KeepAlive: 30 * time.Second}).DialContext
	p.wires = wires{dial: dial, idle: map[string][]*wire{}}
	p.plain = &http.Transport{
		DialContext: dial, MaxIdleConnsPerHost: idlePerHost, IdleConnTimeout: idleFor, DisableCompression: true,
		TLSHandshakeTimeout: c.Dial, ExpectContinueTimeout: time.Second, MaxResponseHeaderBytes: 256 << 10,
		ReadBufferSize: 8 << 10, WriteBufferSize: 8 << 10,
	}
	both := new(http.Protocols)
	both.SetHTTP2(true)
	both.SetUnencryptedHTTP2(true)
	p.calls = &http.Transport{
		DialContext: dial, Protocols: both, IdleConnTimeout: idleFor, DisableCompression: true, TLSHandshakeTimeout: c.Dial, MaxResponseHeaderBytes: 256 << 10,
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 5 * time.Second},
	}
	p.reverse = httputil.ReverseProxy{
		Rewrite: rewrite, Transport: (*transport)(p), ModifyResponse: modify, ErrorHandler: p.failed, BufferPool: &buffers,
		ErrorLog: slog.NewLogLogger(tel.Log.Handler(), slog.LevelWarn),
	}
	return p, nil
}

// Close lets go of connections.
func (p *Proxy) Close() error {
	p.wires.close()
	p.plain.CloseIdleConnections()
	p.calls.CloseIdleConnections()
	return nil
}

// passage is one request on its way.
type passage struct {
	proxy   *Proxy
	backend *backend
	to      *url.URL
	need    auth.Need
	grpc    bool
	id      string
	began   time.Time
	body    *body
	whole   []byte      // all of the body, if it is small
	settled atomic.Bool // the backend knows how it ended
}

type passageKey struct{}

func passageOf(ctx context.Context) *passage {
	p, _ := ctx.Value(passageKey{}).(*passage)
	return p
}

// body is a request's, whose errors are the caller's and not the function's.
type body struct {
	io.ReadCloser
	failed atomic.Pointer[error]
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.failed.CompareAndSwap(nil, &err)
	}
	return n, err
}

// ServeHTTP hands a request to its function.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	need, err := auth.Needs(r)
	if err != nil {
		auth.Refuse(w, r, err)
		return
	}
	if need.Model == "" {
		need.Model = r.Header.Get(auth.ModelHeader)
	}
	to := p.router.Find(r, need)
	if to == nil || need.Action == auth.Anonymous { // what anybody may ask is answered here, or not at all
		auth.Refuse(w, r, fault.New(fault.NotFound, "there is nothing at %.200s", r.URL.Path))
		return
	}
	x := &passage{
		proxy: p, backend: p.backend(to), to: to, need: need, id: serve.RequestID(r), began: p.now(),
		grpc: strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc"),
	}
	line := telemetry.LineFrom(r.Context())
	line.Set(slog.String("function", x.backend.name), slog.String("path", r.URL.Path[:min(len(r.URL.Path), 200)]))
	r.Header.Del("Upgrade") // no function speaks anything else
	r.Header.Del("Expect")  // which is between the caller and this server
	if err := x.backend.allow(); err != nil {
		auth.Refuse(w, r, err)
		return
	}
	defer x.settle(x.backend.gaveUp) // unless something is known by then
	switch {
	case x.grpc && r.ProtoMajor < 2:
		auth.Refuse(w, r, fault.New(fault.Invalid, "gRPC needs HTTP/2"))
		return
	case x.grpc && streams(r.URL.Path):
		stream(r)
	case strings.HasPrefix(r.URL.Path, "/admin/v1/"), strings.HasPrefix(r.URL.Path, "/materialize"):
		serve.Long(w, r)
	}
	r = r.WithContext(context.WithValue(r.Context(), passageKey{}, x))
	if r.Body != nil && r.Body != http.NoBody {
		x.body = &body{ReadCloser: r.Body}
		r.Body = x.body
		if err := x.keep(r); err != nil {
			auth.Refuse(w, r, err)
			return
		}
	}
	p.budget.request()
	asked := time.Now()
	defer func() { line.Step(telemetry.StepCall, asked, time.Since(asked)) }() // it panics if the answer breaks off
	if x.plainly(r) {
		p.pass(w, r, x)
		return
	}
	p.reverse.ServeHTTP(w, r)
}

// settle has the backend told once how a request ended.
func (x *passage) settle(how func()) {
	if x.settled.CompareAndSwap(false, true) {
		how()
	}
}

// keep reads a small body, so that it can be sent more than once, and so that no slow caller keeps a function waiting.
func (x *passage) keep(r *http.Request) error {
	if r.ContentLength < 0 || r.ContentLength > replayMost {
		return nil
	}
	b := make([]byte, r.ContentLength)
	if _, err := io.ReadFull(r.Body, b); err != nil {
		if e := x.body.failed.Load(); e != nil {
			err = *e
		}
		return serve.BodyError(err)
	}
	_ = r.Body.Close()
	x.whole = b
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
	r.Body, _ = r.GetBody()
	return nil
}

// backend gives what is known of a function.
func (p *Proxy) backend(to *url.URL) *backend {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := to.Scheme + "://" + to.Host
	b := p.backends[key]
	if b == nil {
		if len(p.backends) >= backendMost {
			clear(p.backends)
		}
		name, _, _ := strings.Cut(to.Hostname(), ".")
		b = &backend{name: name, now: p.now}
		p.backends[key] = b
	}
	return b
}

// rewrite makes the request to the function.
func rewrite(r *httputil.ProxyRequest) {
	x := passageOf(r.In.Context())
	out := r.Out
	out.URL.Scheme, out.URL.Host, out.Host = x.to.Scheme, x.to.Host, x.to.Host
	r.SetXForwarded()
	for name := range out.Header { // by which Knative's own parts tell each other where a request goes, and that it is a probe
		if strings.HasPrefix(name, "Knative-") || strings.HasPrefix(name, "K-") {
			delete(out.Header, name)
		}
	}
	out.Header["X-Request-Id"] = []string{x.id}
	for _, name := range []string{"Origin", "Sec-Fetch-Site"} { // whether a page may ask was decided here, where it knows the host by its name
		delete(out.Header, name)
	}
	trace(out.Context(), out.Header)
	if x.grpc {
		passTimeout(out)
	}
}

// trace tells the function in which span it is asked. What its caller said of the trace, and in baggage, goes on as it is.
func trace(ctx context.Context, header http.Header) {
	span := telemetry.LineFrom(ctx).StepContext(telemetry.StepCall)
	if !span.IsValid() { // on a host that isn't our server
		return
	}
	header["Traceparent"] = []string{telemetry.Traceparent(span)}
	if span.TraceState().Len() == 0 {
		delete(header, "Tracestate")
	}
}

// passTimeout tells a gRPC method how long its caller is still waited for, if that is less than the caller said itself. What
// it said amiss is for the function to refuse.
func passTimeout(out *http.Request) {
	deadline, ok := out.Context().Deadline()
	if !ok {
		return
	}
	left := max(time.Until(deadline), time.Millisecond)
	if said, err := rpc.Timeout(out.Header); err == nil && (said == 0 || left < said) {
		out.Header["Grpc-Timeout"] = []string{strconv.FormatInt(left.Milliseconds(), 10) + "m"}
	}
}

// modify takes from an answer what the gateway says itself.
func modify(resp *http.Response) error {
	for _, name := range []string{"X-Request-Id", "Traceresponse", "Ratelimit", "Ratelimit-Policy", "Server"} {
		delete(resp.Header, name)
	}
	return nil
}

// transport sends requests to functions. It is the proxy.
type transport Proxy

// RoundTrip sends a request, in tries as deliver has them.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	x := passageOf(r.Context())
	var by http.RoundTripper = t.plain
	if x.grpc {
		by = t.calls
	}
	try := r
	return (*Proxy)(t).deliver(x, r, func() (*http.Response, error) {
		resp, err := by.RoundTrip(try)
		if err != nil && r.GetBody != nil { // for another try
			body, err := r.GetBody()
			if err != nil {
				return nil, err
			}
			try = r.Clone(r.Context())
			try.Body = body
		}
		return resp, err
	})
}

// deliver sends a request, and once more where that can do no harm: when no connection came about, or when none of an answer did and asking twice is
// as good as asking once. The request's body must be at hand, and the budget must allow it.
func (p *Proxy) deliver(x *passage, r *http.Request, send func() (*http.Response, error)) (*http.Response, error) {
	for try := 0; ; try++ {
		resp, err := send()
		if err == nil {
			works := resp.StatusCode != http.StatusBadGateway && resp.StatusCode != http.StatusGatewayTimeout
			x.settle(func() { x.backend.outcome(x.began, works, true) })
			return resp, nil
		}
		if try > 0 || !x.again(r, err) || !p.budget.retry() {
			return nil, err
		}
		p.retries.Add(r.Context(), 1, metric.WithAttributeSet(attribute.NewSet(attribute.String("function", x.backend.name))))
	}
}

// again tells whether a request that failed may be sent once more.
func (x *passage) again(r *http.Request, err error) bool {
	if r.Context().Err() != nil || r.Body != nil && r.Body != http.NoBody && r.GetBody == nil {
		return false
	}
	if op := new(net.OpError); errors.As(err, &op) && op.Op == "dial" {
		return true
	}
	return r.Method == http.MethodGet || r.Method == http.MethodHead || x.need.Action == auth.Predict || x.need.Action == auth.FeaturesRead
}

// failed answers a request that its function did not answer.
func (p *Proxy) failed(w http.ResponseWriter, r *http.Request, err error) {
	x := passageOf(r.Context())
	cause := context.Cause(r.Context())
	var caller *error
	if x.body != nil {
		caller = x.body.failed.Load()
	}
	switch {
	case caller != nil:
		err = serve.BodyError(*caller)
	case errors.Is(cause, context.DeadlineExceeded):
		if left, starting := x.backend.starting(x.began); starting {
			err = fault.Again(fault.Wrap(fault.Unavailable, err, "the function %s is still starting", x.backend.name), left)
		} else {
			err = fault.Wrap(fault.Deadline, err, "the function %s did not answer in time", x.backend.name)
		}
	case cause != nil:
		err = cause
	default:
		x.settle(func() { x.backend.outcome(x.began, false, false) })
		err = fault.Wrap(fault.Unavailable, err, "the function %s can't be reached", x.backend.name)
	}
	auth.Refuse(w, r, err)
}

var buffers bufferPool

// bufferPool is memory to copy answers with.
type bufferPool struct{ pool sync.Pool }

func (b *bufferPool) Get() []byte {
	if v, ok := b.pool.Get().(*[]byte); ok {
		return *v
	}
	return make([]byte, 32<<10)
}

func (b *bufferPool) Put(v []byte) { b.pool.Put(&v) }
