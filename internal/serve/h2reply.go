package serve

import (
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2reply is the answer of a stream, as net/http would send it. Interim answers of the handler (1xx) are not sent.
type h2reply struct {
	draft
	stream  *h2stream
	instead int // status that is answered without asking anybody

	fields []hpack.HeaderField
	body   []byte // written while the header is not out
	headed bool   // the header is out
	over   bool   // the handler has returned
	failed error
}

// h2Buffered is how much of a body is kept until there is more, or the handler is done.
const h2Buffered = 4 << 10

// lower are the names of headers as HTTP/2 has them.
var lower = func() map[string]string {
	names := map[string]string{}
	for _, name := range []string{
		"Accept-Ranges", "Access-Control-Allow-Origin", "Access-Control-Expose-Headers", "Age", "Allow", "Cache-Control", "Cache-Status", "Content-Disposition", "Content-Encoding", "Content-Length",
		"Content-Type", "Date", "Etag", "Grpc-Message", "Grpc-Status", "Inference-Header-Content-Length", "Last-Modified", "Link", "Location", "Prediction-Id", "Retry-After", "Traceparent", "Traceresponse",
		"Vary", "Www-Authenticate", "X-Content-Type-Options", "X-Request-Id",
	} {
		names[name] = strings.ToLower(name)
	}
	return names
}()

// lowered gives a header's name as HTTP/2 has it; false: it has none such.
func lowered(name string) (string, bool) {
	if l, ok := lower[name]; ok {
		return l, true
	}
	return strings.ToLower(name), httpguts.ValidHeaderFieldName(name) && !notInH2[name]
}

// repeated are the headers whose values are often the same, so that the peer is to remember them.
func repeated(name string) bool {
	switch name {
	case "content-type", "date", "vary", "grpc-status", "cache-control", "content-encoding", "server":
		return true
	}
	return false
}

func field(name, value string) hpack.HeaderField {
	return hpack.HeaderField{Name: name, Value: value, Sensitive: !repeated(name)}
}

// appendFields adds a header of the handler's, as far as HTTP/2 can have it.
func appendFields(fields []hpack.HeaderField, name string, values []string) []hpack.HeaderField {
	l, ok := lowered(name)
	for _, value := range values {
		if ok && httpguts.ValidHeaderFieldValue(value) {
			fields = append(fields, field(l, value))
		}
	}
	return fields
}

// WriteHeader begins the answer.
func (w *h2reply) WriteHeader(status int) {
	if !w.begin(status) {
		return
	}
	w.fields = append(make([]hpack.HeaderField, 0, 12), hpack.HeaderField{Name: ":status", Value: statusText(status)})
	for name, values := range w.header {
		if name != "Content-Length" || w.length >= 0 {
			w.fields = appendFields(w.fields, name, values)
		}
	}
	if !w.dated {
		w.fields = append(w.fields, field("date", date(w.begun)))
	}
}

func statusText(status int) string {
	if status == http.StatusOK {
		return "200"
	}
	return strconv.Itoa(status)
}

// Write writes a part of the body.
func (w *h2reply) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.over {
		return 0, http.ErrHandlerTimeout // it is late
	}
	if err := w.take(len(p)); err != nil || len(p) == 0 {
		return 0, err
	}
	if !w.headed && len(w.body)+len(p) <= h2Buffered {
		w.body = append(w.body, p...)
		return len(p), nil
	}
	w.send(p, false, false)
	if w.failed != nil {
		return 0, w.failed
	}
	return len(p), nil
}

// send sends the header, if that is to be done, what waits of the body, and p; whole says that no more of the body comes, and last
// that nothing else does.
func (w *h2reply) send(p []byte, whole, last bool) {
	c, st := w.stream.conn, w.stream
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.failed = w.broken(); w.failed != nil {
		return
	}
	head := st.request.Method == http.MethodHead
	if !w.headed {
		w.headed = true
		first := w.body
		if len(first) == 0 {
			first = p
		}
		if !w.typed && len(first) > 0 && !w.bodyless() {
			w.fields = append(w.fields, field("content-type", http.DetectContentType(first)))
		}
		if whole && w.length < 0 && !w.bodyless() && (w.got > 0 || !head) {
			w.fields = append(w.fields, field("content-length", strconv.FormatInt(w.got, 10)))
		}
		ended := last && (head || len(w.body)+len(p) == 0)
		if c.sayHeader(st.id, w.fields, ended); ended {
			return
		}
	}
	if head {
		if last {
			w.part(nil, true)
		}
		return
	}
	if len(w.body) > 0 {
		w.part(w.body, last && len(p) == 0)
		w.body = w.body[:0]
		last = last && len(p) > 0
	}
	if len(p) > 0 || last {
		w.part(p, last)
	}
}

// broken says why nothing can be sent; the caller holds the connection's mu.
func (w *h2reply) broken() error {
	switch {
	case w.failed != nil:
		return w.failed
	case w.stream.conn.failed != nil:
		return w.stream.conn.failed
	case w.stream.lost != nil:
		return io.ErrClosedPipe
	}
	return nil
}

// part sends a part of the body as the windows allow; the caller holds the connection's mu.
func (w *h2reply) part(p []byte, last bool) {
	c, st := w.stream.conn, w.stream
	for w.failed == nil && (len(p) > 0 || last) {
		n := int64(min(len(p), c.frame))
		n = min(n, c.window, st.window)
		switch {
		case n <= 0 && len(p) > 0:
			c.mu.Unlock()
			c.flush() // before it is waited for
			c.mu.Lock()
			if n = min(c.window, st.window); n <= 0 && w.broken() == nil && !st.wait(st.writeBy) {
				w.failed = os.ErrDeadlineExceeded
			}
		default:
			flags := http2.Flags(0)
			ended := last && int(n) == len(p)
			if ended {
				flags = http2.FlagDataEndStream
			}
			c.out = append(appendFrame(c.out, int(n), http2.FrameData, flags, st.id), p[:n]...)
			c.window -= n
			st.window -= n
			if p = p[n:]; ended {
				return
			}
			if len(c.out) > h2Out {
				_ = c.settle()
			}
		}
		if w.failed == nil {
			w.failed = w.broken()
		}
	}
}

// sayHeader adds a header; the caller holds mu.
func (c *h2conn) sayHeader(stream uint32, fields []hpack.HeaderField, last bool) {
	c.block.Reset()
	for i := range fields {
		_ = c.encoder.WriteField(fields[i]) // to memory
	}
	flags, kind := http2.Flags(0), http2.FrameHeaders
	if last {
		flags = http2.FlagHeadersEndStream
	}
	for block, first := c.block.Bytes(), true; first || len(block) > 0; first = false {
		n := min(len(block), c.frame)
		if n == len(block) {
			flags |= http2.FlagHeadersEndHeaders // the same bit in CONTINUATION
		}
		c.out = append(appendFrame(c.out, n, kind, flags, stream), block[:n]...)
		block, kind, flags = block[n:], http2.FrameContinuation, 0
	}
}

// say100 has the peer send the body; the caller holds mu.
func (c *h2conn) say100(st *h2stream) {
	if st.lost == nil && !st.reply.headed {
		c.sayHeader(st.id, []hpack.HeaderField{{Name: ":status", Value: "100"}}, false)
	}
}

// trailers are those that the handler has set: announced by Trailer, or with http.TrailerPrefix.
func (w *h2reply) trailers() (fields []hpack.HeaderField) {
	add := func(name string, values []string) {
		if httpguts.ValidTrailerHeader(name) {
			fields = appendFields(fields, name, values)
		}
	}
	for name, values := range w.header {
		if after, ok := strings.CutPrefix(name, http.TrailerPrefix); ok {
			add(after, values)
		}
	}
	for _, list := range w.header["Trailer"] {
		for name := range strings.SplitSeq(list, ",") {
			name = http.CanonicalHeaderKey(strings.TrimSpace(name))
			add(name, w.header[name])
		}
	}
	return fields
}

// end sends the last of the answer. It is false if the stream has to be cut off.
func (w *h2reply) end() bool {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	c, st := w.stream.conn, w.stream
	trailers := w.trailers()
	head := st.request.Method == http.MethodHead
	short := !head && w.length >= 0 && w.got < w.length && !w.bodyless()
	switch {
	case short:
		if w.send(nil, false, false); w.failed == nil {
			w.failed = io.ErrShortWrite
		}
	case len(trailers) == 0:
		w.send(nil, true, true)
	default:
		w.send(nil, true, false)
		c.mu.Lock()
		if w.failed == nil {
			if w.failed = w.broken(); w.failed == nil {
				c.sayHeader(st.id, trailers, true)
			}
		}
		c.mu.Unlock()
	}
	w.over = true
	return w.failed == nil
}

// FlushError sends what was written so far.
func (w *h2reply) FlushError() error {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	w.send(nil, false, false)
	w.stream.conn.flush()
	return w.failed
}

// Flush is FlushError.
func (w *h2reply) Flush() { _ = w.FlushError() }

// SetReadDeadline bounds reading of the body.
func (w *h2reply) SetReadDeadline(t time.Time) error { return w.stream.bound(&w.stream.readBy, t) }

// SetWriteDeadline bounds sending.
func (w *h2reply) SetWriteDeadline(t time.Time) error { return w.stream.bound(&w.stream.writeBy, t) }

// EnableFullDuplex is how it is anyway.
func (w *h2reply) EnableFullDuplex() error { return nil }
