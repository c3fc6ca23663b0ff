package serve

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http2"
)

// h2stream is a request and its answer. It is the request's body.
type h2stream struct {
	conn    *h2conn
	id      uint32
	request http.Request
	ctx     context.Context // ends with the stream
	cancel  context.CancelFunc
	reply   h2reply

	declared int64 // length of the body; -1: it is not known

	// Under the connection's mu.
	changed sync.Cond
	window  int64    // bytes that may be sent
	allowed int64    // bytes that the peer may send
	taken   int64    // of what it sent, and was not told yet
	parts   [][]byte // of the body, which were not read yet
	got     int64    // of the body
	whole   bool     // all of the request has come
	expects bool     // the peer waits for a word before it sends the body
	closed  bool     // the handler has closed the body
	lost    error    // the stream is no more
	readBy  time.Time
	writeBy time.Time
}

func newH2stream(c *h2conn, id uint32) *h2stream {
	st := &h2stream{conn: c, id: id, window: c.initial, allowed: h2Window, declared: -1}
	st.changed.L = &c.mu
	st.ctx, st.cancel = context.WithCancel(c.lane.ctx)
	return st
}

// notInH2 are headers about a connection, which a request of HTTP/2 must not have.
var notInH2 = map[string]bool{"Connection": true, "Keep-Alive": true, "Proxy-Connection": true, "Transfer-Encoding": true, "Upgrade": true}

// open makes the request. It is false if that is malformed (RFC 9113, section 8.1.1).
func (st *h2stream) open(f *http2.MetaHeadersFrame) bool {
	var method, path, scheme, authority string
	for _, p := range f.PseudoFields() {
		switch p.Name {
		case ":method":
			method = p.Value
		case ":path":
			path = p.Value
		case ":scheme":
			scheme = p.Value
		case ":authority":
			authority = p.Value
		default: // of answers, or of protocols that were not offered
			return false
		}
	}
	r := &st.request
	*r = http.Request{Method: method, Proto: "HTTP/2.0", ProtoMajor: 2, Body: http.NoBody, RequestURI: path, RemoteAddr: st.conn.lane.from}
	switch {
	case method == http.MethodConnect:
		if path != "" || scheme != "" || authority == "" {
			return false
		}
		r.URL, r.RequestURI = &url.URL{Host: authority}, authority
	case method == "" || path == "" || scheme != "http" && scheme != "https":
		return false
	default:
		if r.URL = targetOf(path); r.URL == nil {
			var err error
			if r.URL, err = url.ParseRequestURI(path); err != nil {
				return false
			}
		}
	}
	if !st.readHeader(f) {
		return false
	}
	if authority != "" {
		r.Host = authority
	}
	st.whole = f.StreamEnded()
	if st.whole && st.declared > 0 {
		return false
	}
	if !st.whole {
		r.Body = (*h2body)(st)
	}
	r.ContentLength = st.declared
	if st.whole {
		r.ContentLength = 0
	}
	if f.Truncated {
		st.reply.instead = http.StatusRequestHeaderFieldsTooLarge
	}
	return true
}

func (st *h2stream) readHeader(f *http2.MetaHeadersFrame) bool {
	fields := f.RegularFields()
	r := &st.request
	r.Header = make(http.Header, len(fields))
	values := make([]string, len(fields))
	for i := range fields {
		name, value := textproto.CanonicalMIMEHeaderKey(fields[i].Name), fields[i].Value
		switch name {
		case "Host":
			if r.Host != "" && r.Host != value || !httpguts.ValidHostHeader(value) {
				return false
			}
			r.Host = value
			continue
		case "Content-Length":
			n, err := strconv.ParseUint(value, 10, 63)
			if err != nil || st.declared >= 0 && st.declared != int64(n) {
				return false
			}
			st.declared = int64(n)
		case "Te":
			if value != "trailers" {
				return false
			}
		case "Expect":
			st.expects = strings.EqualFold(value, "100-continue")
		case "Cookie": // which may come in pieces
			if had := r.Header[name]; had != nil {
				had[0] += "; " + value
				continue
			}
		default:
			if notInH2[name] {
				return false
			}
		}
		if had := r.Header[name]; had != nil {
			r.Header[name] = append(had, value)
			continue
		}
		values[0] = value
		r.Header[name], values = values[:1:1], values[1:]
	}
	return true
}

// handle has the request handled and sends what came of it.
func (st *h2stream) handle() {
	c, s := st.conn, st.conn.server
	begin := time.Now()
	st.writeBy = begin.Add(s.http.WriteTimeout)
	w := &st.reply
	w.draft, w.stream = newDraft(begin), st
	defer func() {
		cause := recover()
		if cause != nil && cause != http.ErrAbortHandler { //nolint:errorlint // a panic's value, compared as net/http does
			s.tel.Log.ErrorContext(st.ctx, "a handler panicked", slog.Any("panic", cause), slog.String("stack", string(debug.Stack())))
		}
		complete := cause == nil && w.end()
		c.mu.Lock()
		if !complete && st.lost == nil {
			c.lose(st, http.ErrAbortHandler)
			c.reset(st.id, http2.ErrCodeInternal)
			c.ended(st.id)
		}
		c.done(st)
		others := c.handlers > 0
		c.mu.Unlock()
		if others { // whose answers may go out with this one
			runtime.Gosched()
		}
		c.flush()
	}()
	if w.instead != 0 {
		w.WriteHeader(w.instead)
		return
	}
	s.serve(st.ctx, begin, w, &st.request)
}

// wait waits until something changes, or not beyond a time; false: that is over. The caller holds the connection's mu.
func (st *h2stream) wait(by time.Time) bool {
	if !by.IsZero() {
		left := time.Until(by)
		if left <= 0 {
			return false
		}
		timer := time.AfterFunc(left, func() {
			st.conn.mu.Lock()
			defer st.conn.mu.Unlock()
			st.changed.Broadcast()
		})
		defer timer.Stop()
	}
	st.changed.Wait()
	return true
}

// bound moves a deadline.
func (st *h2stream) bound(by *time.Time, t time.Time) error {
	st.conn.mu.Lock()
	defer st.conn.mu.Unlock()
	*by = t
	st.changed.Broadcast()
	return nil
}

// drop lets go of what was not read of the body; the caller holds the connection's mu.
func (st *h2stream) drop() {
	for _, part := range st.parts {
		st.conn.give(int64(len(part)))
	}
	st.parts = nil
}

// h2body is the body of a stream's request.
type h2body h2stream

// Read gives what has come of the body, and waits for some.
func (b *h2body) Read(p []byte) (n int, err error) {
	st := (*h2stream)(b)
	c := st.conn
	c.mu.Lock()
	for err == nil && len(st.parts) == 0 {
		switch {
		case st.closed:
			err = http.ErrBodyReadAfterClose
		case st.whole:
			err = io.EOF
		case st.lost != nil:
			err = io.ErrUnexpectedEOF
		case st.expects:
			st.expects = false
			c.say100(st)
			c.mu.Unlock()
			c.flush()
			c.mu.Lock()
		case !st.wait(st.readBy):
			err = os.ErrDeadlineExceeded
		}
	}
	for len(st.parts) > 0 && n < len(p) {
		k := copy(p[n:], st.parts[0])
		n += k
		if st.parts[0] = st.parts[0][k:]; len(st.parts[0]) == 0 {
			st.parts[0] = nil
			st.parts = st.parts[1:]
		}
	}
	if n > 0 && len(st.parts) == 0 && st.whole {
		err = io.EOF
	}
	c.give(int64(n))
	if st.taken += int64(n); st.taken >= h2Window/4 && !st.whole && st.lost == nil {
		c.update(st.id, st.taken)
		st.allowed += st.taken
		st.taken = 0
	}
	told := len(c.out) > 0
	c.mu.Unlock()
	if told {
		c.flush()
	}
	return n, err
}

// Close has nothing more be read.
func (b *h2body) Close() error {
	c := b.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	b.closed = true
	(*h2stream)(b).drop()
	b.changed.Broadcast()
	return nil
}
