package serve

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// exchange is one request and its answer. It is the response writer and the
// request body that the handler sees, and can be found through the request's
// context.
type exchange struct {
	http.ResponseWriter
	server  *Server
	r       *http.Request // as the handler has it
	context exchangeContext
	base    context.Context // the server's, which ends with the connection
	cancel  context.CancelFunc
	release func() // of a long one
	begin   time.Time
	line    *telemetry.Line
	id      [1]string

	status  int   // 0 until the answer begins
	sent    int64 // bytes of the answer's body
	long    bool
	swallow bool                                               // the body is the mux's own and was replaced
	broken  bool                                               // the answer can't be completed
	refuse  func(w http.ResponseWriter, begun bool, err error) // answers errors in the protocol's way; nil: as JSON

	body   io.ReadCloser // of the server
	pacer  io.Reader     // body with its limit, from the first read on
	limit  int64
	got    int64 // bytes of the request's body
	since  time.Time
	due    time.Duration // after since, when the read deadline is
	ended  bool          // the body is at its end
	stream *Stream       // of messages, if it is one
}

type exchangeKey struct{}

// exchangeContext leads from a request's context to its exchange, of which it is a part.
type exchangeContext struct {
	context.Context
	x *exchange
}

func (c *exchangeContext) Value(key any) any {
	if key == (exchangeKey{}) {
		return c.x
	}
	return c.Context.Value(key)
}

func exchangeOf(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	return x
}

// exchange has a request handled.
func (s *Server) exchange(ctx context.Context, begin time.Time, w http.ResponseWriter, r *http.Request) {
	x := &exchange{ResponseWriter: w, server: s, begin: begin, limit: int64(s.config.MaxBody), base: ctx}
	s.active.Add(1)
	var from trace.SpanContext
	if r.Header["Traceparent"] != nil || r.Header["Baggage"] != nil {
		ctx = s.tel.Context.Extract(ctx, propagation.HeaderCarrier(r.Header))
		from = trace.SpanContextFromContext(ctx)
	}
	id := newID()
	x.id[0] = requestID(r, id)
	w.Header()["X-Request-Id"] = x.id[:]
	ctx, x.line = s.tel.Begin(ctx, from, id, begin)
	if !from.IsValid() && r.Header["X-Request-Id"] != nil { // else the request's id says it, or the caller knows it
		w.Header()["Traceresponse"] = []string{telemetry.Traceparent(x.line.SpanContext())}
	}
	x.context = exchangeContext{ctx, x}
	ctx, x.cancel = context.WithDeadline(&x.context, x.begin.Add(s.config.Timeout))
	x.r = r.WithContext(ctx)
	if r.Body != nil && r.Body != http.NoBody {
		x.body, x.r.Body = r.Body, (*requestBody)(x)
	}

	defer func() { x.end(recover()) }()
	if len(s.config.Sites) > 0 && sites(s.config.Sites).answer(x, x.r) {
		return
	}
	if err := s.cross.Check(r); err != nil {
		Error(x, x.r, fault.Wrap(fault.Denied, err, "a page of another site may not ask this"))
		return
	}
	s.handler.ServeHTTP(x, x.r)
}

// stackTaken is about how deep a request's calls go.
const stackTaken = 4 << 10

// takeStack has the goroutine's stack grow at once to what a request needs: each
// of HTTP/2 begins with a small one, and the deeper the calls are by then, the
// dearer is moving them.
//
//go:noinline
func takeStack(i int) byte {
	var room [stackTaken]byte
	return room[i]
}

// newID makes an id for a request and, if it is the first of one, for its trace.
func newID() (id trace.TraceID) {
	binary.NativeEndian.PutUint64(id[:8], rand.Uint64())
	binary.NativeEndian.PutUint64(id[8:], rand.Uint64()|1)
	return id
}

// requestID gives the caller's own id of the request if it is fit for a log, else a new one as text.
func requestID(r *http.Request, fresh trace.TraceID) string {
	const most = 128
	if ids := r.Header["X-Request-Id"]; len(ids) == 1 && ids[0] != "" && len(ids[0]) <= most &&
		strings.IndexFunc(ids[0], func(c rune) bool { return c <= ' ' || c > '~' }) < 0 {
		return ids[0]
	}
	return hex.EncodeToString(fresh[:])
}

// end finishes the exchange after its handler, which gave panicked to recover.
func (x *exchange) end(panicked any) {
	aborted := panicked == http.ErrAbortHandler //nolint:errorlint // a panic's value, compared as net/http does
	switch {
	case aborted:
		Failed(x.r, http.ErrAbortHandler)
	case panicked != nil:
		x.line.Set(slog.String("stack", string(debug.Stack())))
		Error(x, x.r, fmt.Errorf("panic: %v", panicked))
	}
	if x.status == 0 {
		x.status = http.StatusOK
	}
	control := http.NewResponseController(x.ResponseWriter)
	if x.body != nil && !x.ended { // the server is going to skip the rest, for so long
		_ = control.SetReadDeadline(time.Now().Add(x.server.config.Stall))
	}
	if x.long { // and to send the last of the answer, once it has done that
		_ = control.SetWriteDeadline(time.Now().Add(2 * x.server.config.Stall))
	}
	x.tell()
	x.cancel()
	if x.release != nil {
		x.release()
	}
	x.server.active.Add(-1)
	if aborted || x.broken {
		panic(http.ErrAbortHandler) // this is how a handler has the connection or stream cut off
	}
}

// tell writes the log line and the metrics, and ends the span.
func (x *exchange) tell() {
	now := time.Now()
	took := now.Sub(x.begin)
	ctx, err := x.r.Context(), x.line.Err()
	series := x.server.metrics.of(x, err)
	// Not every protocol tells by its status.
	failed := x.status >= http.StatusInternalServerError || err != nil && fault.HTTPStatus(err) >= http.StatusInternalServerError
	end := telemetry.Outcome{At: now, Name: series.span, Kind: trace.SpanKindServer, Attributes: series.attributes, More: x.describe}
	if x.stream == nil { // which takes as long as its caller likes
		end.Pace = &series.pace
	}
	if failed {
		end.Failed = failure(x.status, err)
	}
	x.line.End(ctx, &end)
	x.server.metrics.record(ctx, x, series, took)
	if x.status < http.StatusBadRequest && err == nil && !x.server.tel.ColdStart.Over() {
		x.server.tel.ColdStart.Record(telemetry.StageFirstAnswer, x.begin, now)
	}
	level := slog.LevelInfo
	if failed {
		level = slog.LevelWarn
	}
	if x.status < http.StatusBadRequest && err == nil && !x.server.tel.Lines.Keeps(ctx, x.line, took, x.id[0]) {
		return
	}
	attrs := append(make([]slog.Attr, 0, 10),
		slog.String("method", x.r.Method[:min(len(x.r.Method), 20)]), slog.String("route", series.route), slog.Int("status", x.status),
		slog.Int64("duration_us", took.Microseconds()), slog.Int64("in", x.got), slog.Int64("out", x.sent),
		slog.String("protocol", x.r.Proto), slog.String("request_id", x.id[0]))
	if series.route == "" { // a path that no route took is bounded by nothing
		attrs = append(attrs, slog.String("path", x.r.URL.Path[:min(len(x.r.URL.Path), 200)]))
	}
	if err != nil {
		kind := fault.KindOf(err)
		if kind == fault.Internal {
			level = slog.LevelError
		}
		attrs = append(attrs, slog.String("kind", kind.String()))
	}
	x.line.Log(ctx, x.server.tel.Log, now, level, "request", attrs...)
}

// describe gives what the span tells of this request alone.
func (x *exchange) describe() []attribute.KeyValue {
	const most = 200
	return []attribute.KeyValue{
		semconv.URLPath(strings.ToValidUTF8(x.r.URL.Path[:min(len(x.r.URL.Path), most)], "")), attribute.String("request_id", x.id[0]),
		semconv.HTTPRequestBodySize(int(x.got)), semconv.HTTPResponseBodySize(int(x.sent)),
	}
}

// failure says what went wrong.
func failure(status int, err error) string {
	if err == nil {
		return cmp.Or(http.StatusText(status), "it failed")
	}
	return fault.Message(err)
}

// extend makes a request a long one.
func (x *exchange) extend(r *http.Request) {
	if x.long {
		return
	}
	x.long, x.limit = true, int64(x.server.config.MaxUpload)
	_ = http.NewResponseController(x.ResponseWriter).SetWriteDeadline(time.Time{})
	ctx, release := x.outlive(r.Context())
	ctx, cancel := context.WithTimeout(ctx, x.server.config.UploadTimeout)
	x.release = func() { cancel(); release() }
	*r = *r.WithContext(ctx)
}

// outlive gives a context with the values of the request's own, which can't be
// given more time. It ends when the connection does.
func (x *exchange) outlive(ctx context.Context) (_ context.Context, release func()) {
	ctx, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(x.base, func() { cut(context.Cause(x.base)) })
	return ctx, func() { stop(); cut(nil) }
}

// Unwrap lets http.ResponseController reach the server's own writer.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// WriteHeader begins the answer. What the mux answers by itself, to a path or a
// method that it doesn't know, becomes JSON.
func (x *exchange) WriteHeader(status int) {
	if x.r.Pattern == "" && strings.HasPrefix(x.Header().Get("Content-Type"), "text/plain") {
		switch status {
		case http.StatusNotFound:
			x.replace(status, notFound(x.r))
			return
		case http.StatusMethodNotAllowed:
			x.replace(status, notAllowed(x.r))
			return
		}
	}
	if x.status == 0 && (status >= http.StatusOK || status == http.StatusSwitchingProtocols) {
		x.status = status
	}
	x.ResponseWriter.WriteHeader(status)
}

// replace answers in place of the handler.
func (x *exchange) replace(status int, body errorBody) {
	answer(x, status, body)
	x.swallow = true
}

// bufferedMost is what net/http keeps in its buffers, and sends when the handler is done.
const bufferedMost = 2 << 10

// Write sends a part of the answer's body. A reader that is too slow for it gets no more.
func (x *exchange) Write(p []byte) (n int, err error) {
	if x.status == 0 {
		x.WriteHeader(http.StatusOK)
	}
	if x.swallow {
		return len(p), nil
	}
	if x.sent+int64(len(p)) <= bufferedMost {
		n, err = x.ResponseWriter.Write(p)
	} else {
		x.paced(int64(len(p)), func() { n, err = x.ResponseWriter.Write(p) })
	}
	x.sent += int64(n)
	return n, err
}

// paced sends n bytes or so in the time that they may take.
func (x *exchange) paced(n int64, send func()) {
	control := http.NewResponseController(x.ResponseWriter)
	_ = control.SetWriteDeadline(time.Now().Add(x.server.config.allowance(n)))
	send()
	_ = control.SetWriteDeadline(x.writeBy())
}

// writeBy is when the answer must be out if nothing else is said.
func (x *exchange) writeBy() time.Time {
	if x.long {
		return time.Time{}
	}
	return x.begin.Add(x.server.config.Timeout + x.server.config.Stall)
}

// Flush sends what is buffered.
func (x *exchange) Flush() {
	if x.status == 0 {
		x.WriteHeader(http.StatusOK)
	}
	x.paced(0, func() { _ = http.NewResponseController(x.ResponseWriter).Flush() })
}

// requestBody is the body of the exchange's request, which has a largest size and a least pace.
type requestBody exchange

// slowBody is the cause of a read that was given up.
type slowBody struct{ error }

func (b *requestBody) Read(p []byte) (int, error) {
	if b.stream != nil {
		return b.stream.read(p)
	}
	if b.pacer == nil {
		if b.r.ContentLength > b.limit { // no need to wait for it
			return 0, &http.MaxBytesError{Limit: b.limit}
		}
		b.pacer, b.since = http.MaxBytesReader(b.ResponseWriter, b.body, b.limit), time.Now()
	}
	c := &b.server.config
	if due := c.allowance(b.got); !b.ended && due-b.due >= c.Stall/4 { // now and then, not at each read
		b.due = due
		_ = http.NewResponseController(b.ResponseWriter).SetReadDeadline(b.since.Add(due))
	}
	n, err := b.pacer.Read(p)
	b.got += int64(n)
	b.ended = b.ended || errors.Is(err, io.EOF) // and with that, the server takes the deadline back
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = c.slow(err)
	}
	return n, err
}

func (c *Config) slow(err error) error {
	return fault.Wrap(fault.Deadline, slowBody{err}, "the body came too slowly: at least %s a second is expected", c.Pace)
}

func (b *requestBody) Close() error { return b.body.Close() }
