package serve

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// lanes takes the connections that come in. It answers plain requests of HTTP/1.1 by
// itself, with a third of the work that net/http has with them (docs/adr/0014), and hands a
// connection over to net/http, for good, as soon as something else comes: another
// protocol, a larger body, a slow one, or anything that is in doubt. So no caller can tell
// them apart, and net/http alone decides what is refused. Connections of HTTP/2 are its own (h2conn).
// With TLS all connections are net/http's at once.
//
// To net/http it is the listener that those connections come from.
type lanes struct {
	net.Listener
	server  *Server
	strange chan net.Conn // handed over
	closed  chan struct{}
	close   func()
	failed  error // of accepting; before closed

	mu       sync.Mutex
	all      map[*lane]struct{}
	draining atomic.Bool
	running  sync.WaitGroup // lanes
}

func newLanes(l net.Listener, s *Server) *lanes {
	ls := &lanes{Listener: l, server: s, strange: make(chan net.Conn), closed: make(chan struct{}), all: map[*lane]struct{}{}}
	ls.close = sync.OnceFunc(func() { close(ls.closed) })
	return ls
}

// Accept waits for a connection that is net/http's to serve.
func (ls *lanes) Accept() (net.Conn, error) {
	select {
	case c := <-ls.strange:
		return c, nil
	case <-ls.closed:
		if ls.failed != nil {
			return nil, ls.failed
		}
		return nil, net.ErrClosed
	}
}

// Close ends listening. Connections go on.
func (ls *lanes) Close() error {
	ls.close()
	return ls.Listener.Close()
}

// run takes connections until the listener is closed.
func (ls *lanes) run(ctx context.Context) {
	ctx = context.WithValue(ctx, http.ServerContextKey, ls.server.http)
	for wait := time.Duration(0); ; {
		c, err := ls.Listener.Accept()
		switch {
		case err == nil:
			wait = 0
			ls.open(ctx, c)
		case !temporary(err):
			select {
			case <-ls.closed:
			default:
				ls.failed = err
				ls.close()
			}
			return
		default: // such as too many open files: as net/http does
			wait = min(max(5*time.Millisecond, 2*wait), time.Second)
			ls.server.tel.Log.WarnContext(ctx, "accept a connection", "error", err, "again_in", wait)
			time.Sleep(wait)
		}
	}
}

// temporary tells whether accepting may work another time.
func temporary(err error) bool {
	var t interface{ Temporary() bool }
	return errors.As(err, &t) && t.Temporary()
}

func (ls *lanes) open(ctx context.Context, c net.Conn) {
	if ls.server.tls != nil {
		ls.handOver(c)
		return
	}
	ctx, cancel := context.WithCancel(context.WithValue(ctx, http.LocalAddrContextKey, c.LocalAddr()))
	l := &lane{
		lanes: ls, conn: newConn(c, ls.server.config.Stall), ctx: ctx, cancel: cancel,
		from: c.RemoteAddr().String(), first: true, fresh: true, in: make([]byte, 0, readBuffer),
	}
	l.looker = time.AfterFunc(time.Hour, l.look)
	l.looker.Stop()
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.draining.Load() {
		cancel()
		_ = c.Close()
		return
	}
	ls.all[l] = struct{}{}
	ls.running.Add(1)
	go l.serve()
}

// shutdown closes connections that wait for a request, and the others when they have
// answered theirs. Those of net/http are not its business.
func (ls *lanes) shutdown(ctx context.Context) error {
	ls.draining.Store(true)
	ls.mu.Lock()
	for l := range ls.all {
		l.retire()
	}
	ls.mu.Unlock()
	done := make(chan struct{})
	go func() { ls.running.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// cut closes all connections.
func (ls *lanes) cut() {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for l := range ls.all {
		_ = l.conn.Close()
	}
}

// lane is a connection whose requests have been plain so far.
type lane struct {
	lanes  *lanes
	conn   *conn
	ctx    context.Context // ends with the connection
	cancel context.CancelFunc
	from   string                 // the caller's address
	idle   atomic.Bool            // it waits for a request, and may be closed
	h2     atomic.Pointer[h2conn] // if it has become one
	first  bool                   // there was no request yet
	fresh  bool                   // the first byte of a request says that there is one; else it takes four, as net/http has it
	posted bool                   // the last one was a POST, and nothing was read since

	in      []byte // what was read and belongs to no request that was answered
	request request
	head    []byte // buffers of the last reply
	body    []byte

	looker   *time.Timer
	mu       sync.Mutex
	handling bool          // a request is being answered
	looks    time.Duration // from one look at its caller to the next
}

const (
	// keptMost is how large a buffer may be that a connection keeps.
	keptMost = 16 << 10
	// soon is how long a request may take to come once it has begun: what is slower is
	// for net/http to wait for.
	soon = 100 * time.Millisecond
	// lookAfter is how long a request is answered before anybody looks whether its caller is still
	// there, and lookMost the longest time between two looks.
	lookAfter = 10 * time.Millisecond
	lookMost  = 80 * time.Millisecond
)

// serve answers requests until the connection ends, or is handed over.
func (l *lane) serve() {
	defer l.end()
	wait := l.lanes.server.config.HeaderTimeout
	for {
		switch l.next(wait) {
		case plain:
			if !l.answer() || !l.rest() {
				_ = l.conn.Close()
				return
			}
			wait = l.lanes.server.config.IdleTimeout
		case multiplexed:
			c := newH2conn(l)
			if l.h2.Store(c); l.lanes.draining.Load() {
				c.drain()
			}
			c.serve()
			return
		case strange:
			l.handOver()
			return
		default:
			_ = l.conn.Close()
			return
		}
	}
}

func (l *lane) end() {
	l.cancel()
	l.lanes.mu.Lock()
	defer l.lanes.mu.Unlock()
	delete(l.lanes.all, l)
	l.lanes.running.Done()
}

// handOver gives the connection to net/http, with what was read of it.
func (l *lane) handOver() {
	l.conn.begin(l.in)
	_ = l.conn.SetDeadline(time.Time{})
	l.lanes.handOver(l.conn)
}

func (ls *lanes) handOver(c net.Conn) {
	select {
	case ls.strange <- c:
	case <-ls.closed:
		_ = c.Close()
	}
}

// next reads the next request, whose first byte has so long to come; partial: there is none.
func (l *lane) next(wait time.Duration) verdict {
	for begun := false; ; {
		if len(l.in) > 0 {
			if v := l.read(); v != partial {
				return v
			}
			if !begun {
				begun = true
				l.idle.Store(false)
				_ = l.conn.SetReadDeadline(time.Now().Add(soon))
			}
		} else {
			_ = l.conn.SetReadDeadline(time.Now().Add(wait))
		}
		if len(l.in) == cap(l.in) {
			l.in = append(make([]byte, 0, min(max(2*cap(l.in), l.request.bytes), plainMost)), l.in...)
		}
		n, err := l.conn.read.meet(l.conn.Conn.Read, l.in[len(l.in):cap(l.in)])
		l.in = l.in[:len(l.in)+n]
		switch {
		case n > 0:
		case begun && (l.fresh || len(l.in) > 3 || !errors.Is(err, io.EOF)):
			return strange // it is slow, or breaks off: net/http says so
		default:
			return partial
		}
	}
}

// read reads the request that is there.
func (l *lane) read() verdict {
	r := &l.request
	if l.posted && len(l.in) > 3 { // some old clients end a body by a line that does not belong to it
		l.posted, l.fresh = false, true
		line := 4 - len(bytes.TrimLeft(l.in[:4], "\r\n"))
		l.in = append(l.in[:0], l.in[line:]...)
	}
	switch {
	case len(l.in) < 4 && !l.fresh: // net/http does not judge by so little
		return partial
	case r.bytes == 0 && l.first && strings.HasPrefix(h2Preface, string(l.in[:min(len(l.in), len(h2Preface))])):
		if len(l.in) < len(h2Preface) {
			return partial
		}
		return multiplexed
	case r.bytes == 0:
		return readPlain(l.in, r)
	case len(l.in) < r.bytes:
		return partial
	}
	r.body = l.in[r.bytes-int(r.ContentLength) : r.bytes]
	return plain
}

// rest ends a request. It is false if the connection is not to have another.
func (l *lane) rest() bool {
	l.in = append(l.in[:0], l.in[l.request.bytes:]...)
	if len(l.in) == 0 && cap(l.in) > keptMost {
		l.in = make([]byte, 0, readBuffer)
	}
	l.posted, l.fresh = l.request.Method == http.MethodPost, false
	l.first, l.request = false, request{}
	l.idle.Store(len(l.in) == 0)
	return !l.lanes.draining.Load() || len(l.in) > 0
}

// retire closes a lane that waits for a request, and has one of many streams take no more.
func (l *lane) retire() {
	if c := l.h2.Load(); c != nil {
		go c.drain() // which may have to wait for its peer
	}
	if l.idle.CompareAndSwap(true, false) {
		_ = l.conn.Close()
	}
}

// answer has the request handled and sends what came of it. It is false if that
// is the connection's end.
func (l *lane) answer() (more bool) {
	l.idle.Store(false)
	s := l.lanes.server
	begin := time.Now()
	_ = l.conn.SetWriteDeadline(begin.Add(s.http.WriteTimeout))
	r := &l.request.Request
	r.RemoteAddr = l.from
	body := &memory{rest: l.request.body}
	if len(body.rest) > 0 {
		r.Body = body
	}
	w := newReply(l, begin, r.Close)
	l.watch()
	defer func() {
		cause := recover()
		l.unwatch()
		body.end()
		switch {
		case cause == nil:
			more = w.end()
			if l.head, l.body = w.head, w.body; cap(l.head)+cap(l.body) > keptMost {
				l.head, l.body = nil, nil
			}
		case cause != http.ErrAbortHandler: //nolint:errorlint // a panic's value, compared as net/http does
			s.tel.Log.ErrorContext(l.ctx, "a handler panicked", "panic", cause, "stack", string(debug.Stack()))
		}
	}()
	s.serve(l.ctx, begin, w, r)
	return false // and the deferred function says more
}

// watch has the lane's context end if the caller goes away before the answer is there.
func (l *lane) watch() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.handling, l.looks = true, lookAfter
	l.looker.Reset(l.looks)
}

// look looks whether the caller is still there, and when to look again.
func (l *lane) look() {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case !l.handling: // it was late
	case l.conn.left():
		l.cancel()
	default:
		l.looks = min(2*l.looks, lookMost)
		l.looker.Reset(l.looks)
	}
}

// unwatch ends watch.
func (l *lane) unwatch() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.handling = false
	l.looker.Stop()
}

// memory is a request's body, all of which is here.
type memory struct {
	mu   sync.Mutex
	rest []byte
	over bool
}

// Read implements io.Reader.
func (m *memory) Read(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.over {
		return 0, http.ErrBodyReadAfterClose
	}
	n := copy(p, m.rest)
	if m.rest = m.rest[n:]; len(m.rest) == 0 {
		return n, io.EOF
	}
	return n, nil
}

// Close implements io.Closer.
func (m *memory) Close() error { m.end(); return nil }

// end has nobody read it any more.
func (m *memory) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rest, m.over = nil, true
}
