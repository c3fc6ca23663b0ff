package serve

import (
	"bytes"
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// conn is a connection that spares net/http's HTTP/2 server system calls:
// it reads the head and the payload of each frame by themselves, and sends
// what it has whenever it has nothing else to do, which for an answer with
// trailers is three times. That is half of what a small request costs
// (docs/adr/0007). HTTP/1 has buffers of its own; it is spared timers and the
// look at whether the caller is still there while an answer is being made at once.
type conn struct {
	net.Conn
	stall time.Duration // how long a peer may take to take anything
	read  deadline
	write deadline // of HTTP/1
	begun bool     // the first bytes were asked for, and told whether this is
	http2 atomic.Bool

	buffer     []byte // what a lane has read, then what HTTP/2 reads ahead: buffer[from:to] was not asked for yet
	from, to   int
	sending    sync.Mutex // held while sending
	waiting    []byte     // to be sent; under sending
	failed     error      // what sending ended with; under sending
	flushAsked bool       // a flush is on its way; under sending
}

func newConn(c net.Conn, stall time.Duration) *conn {
	return &conn{Conn: c, stall: stall, read: deadline{set: c.SetReadDeadline}, write: deadline{set: c.SetWriteDeadline}}
}

// begin has b be what was read of the connection so far, before others read on.
func (c *conn) begin(b []byte) { c.buffer, c.to = b[:cap(b)], len(b) }

const (
	preface     = "PRI * HTTP/2.0" // what net/http reads by itself to tell HTTP/2
	readBuffer  = 4 << 10
	waitingMost = 32 << 10
)

// Read reads; frames that come together are read together.
func (c *conn) Read(p []byte) (int, error) {
	if !c.begun && c.to > 0 {
		c.begun = true
		n := copy(p, c.buffer[:c.to])
		c.from = n
		c.http2.Store(bytes.Equal(p[:n], []byte(preface)))
		return n, nil
	}
	if c.from == c.to {
		if !c.http2.Load() {
			c.buffer, c.from, c.to = nil, 0, 0
			if len(p) == 1 {
				// So net/http waits for the end of a connection while a request is answered.
				// Most are before the others who are ready to run have had their turns.
				runtime.Gosched()
			}
			return c.read.meet(c.Conn.Read, p)
		}
		if len(p) >= len(c.buffer) {
			return c.read.meet(c.Conn.Read, p)
		}
		n, err := c.read.meet(c.Conn.Read, c.buffer)
		if n <= 0 {
			return n, err
		}
		c.from, c.to = 0, n
	}
	n := copy(p, c.buffer[c.from:c.to])
	c.from += n
	return n, nil
}

// Write has p sent once those who are ready to run have written theirs: the
// frames of one answer, and those of others, go out together. An error is that
// of an earlier write.
func (c *conn) Write(p []byte) (int, error) {
	if !c.http2.Load() {
		return c.writeAll(p)
	}
	c.sending.Lock()
	defer c.sending.Unlock()
	if len(c.waiting)+len(p) > waitingMost {
		c.send()
	}
	if c.failed != nil {
		return 0, c.failed
	}
	c.waiting = append(c.waiting, p...)
	if !c.flushAsked {
		c.flushAsked = true
		go c.flush()
	}
	return len(p), nil
}

// left tells whether the peer has closed its side of the connection. It says no as long as there is
// something to be read.
func (c *conn) left() (gone bool) {
	sys, ok := c.Conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sys.SyscallConn()
	if err != nil {
		return true // it is closed
	}
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		gone = n == 0 && err == nil || err != nil && !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EINTR)
	})
	return gone || err != nil
}

// writeAll sends p in HTTP/1.
func (c *conn) writeAll(p []byte) (sent int, err error) {
	for {
		n, err := c.write.meet(c.Conn.Write, p[sent:])
		if sent += n; sent == len(p) || err != nil {
			return sent, err
		}
	}
}

func (c *conn) flush() {
	runtime.Gosched()
	c.sending.Lock()
	defer c.sending.Unlock()
	c.flushAsked = false
	if c.send(); c.failed != nil {
		_ = c.Conn.Close() // whoever reads learns it by that
	}
}

// send sends what waits. A peer has c.stall to take some of it.
func (c *conn) send() {
	for p := c.waiting; len(p) > 0 && c.failed == nil; {
		_ = c.Conn.SetWriteDeadline(time.Now().Add(c.stall))
		n, err := c.Conn.Write(p)
		if p = p[n:]; err != nil && (n == 0 || !errors.Is(err, os.ErrDeadlineExceeded)) {
			c.failed = err
		}
	}
	c.waiting = c.waiting[:0]
}

// SetDeadline is SetReadDeadline and SetWriteDeadline.
func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline bounds reading.
func (c *conn) SetReadDeadline(t time.Time) error { return c.read.want(t) }

// SetWriteDeadline is for HTTP/1 alone: send sets its own.
func (c *conn) SetWriteDeadline(t time.Time) error {
	if c.http2.Load() {
		return nil
	}
	return c.write.want(t)
}

// CloseWrite tells the peer that nothing more comes, as net/http does of an HTTP/1
// connection whose request it did not read to its end.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// Close sends what waits and closes. What is being sent at that time, to a peer
// that takes nothing, is cut off.
func (c *conn) Close() error {
	if !c.http2.Load() {
		return c.Conn.Close()
	}
	if c.sending.TryLock() {
		defer c.sending.Unlock()
		if len(c.waiting) > 0 {
			_ = c.Conn.SetWriteDeadline(time.Now().Add(lastWord))
			_, _ = c.Conn.Write(c.waiting)
			c.waiting = c.waiting[:0]
		}
	}
	return c.Conn.Close()
}

// deadline is that of reading or of writing. net/http moves it five times a
// request, always ahead of what then takes no time, so that the connection's own,
// with its timer, stays where it is while that is earlier: should it pass, it is
// moved then.
type deadline struct {
	set func(time.Time) error // the connection's own

	mu     sync.Mutex
	busy   bool // something is being read or written
	wanted time.Time
	own    time.Time // what the connection has
}

// want moves the deadline.
func (d *deadline) want(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wanted = t
	if d.busy {
		return d.apply()
	}
	return nil
}

// apply sees to it that the connection's deadline is not after the wanted one;
// the caller holds mu.
func (d *deadline) apply() error {
	if d.wanted.IsZero() || !d.own.IsZero() && !d.own.After(d.wanted) {
		return nil
	}
	d.own = d.wanted
	return d.set(d.own)
}

// meet reads or writes some of p in time.
func (d *deadline) meet(do func([]byte) (int, error), p []byte) (n int, err error) {
	d.mu.Lock()
	if d.wanted.Before(d.own) && !d.wanted.IsZero() && time.Until(d.wanted) <= 0 { // so it is called off: no need to move anything
		d.mu.Unlock()
		return 0, os.ErrDeadlineExceeded
	}
	err = d.apply()
	for err == nil {
		d.busy = true
		d.mu.Unlock()
		n, err = do(p)
		d.mu.Lock()
		d.busy = false
		if !errors.Is(err, os.ErrDeadlineExceeded) || !d.wanted.IsZero() && time.Until(d.wanted) <= 0 {
			break
		}
		d.own = d.wanted
		if err = d.set(d.own); n > 0 {
			break
		}
	}
	d.mu.Unlock()
	return n, err
}
