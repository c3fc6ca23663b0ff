package serve

import (
	"bytes"
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// listener gives connections that spare net/http's HTTP/2 server system calls:
// it reads the head and the payload of each frame by themselves, and sends
// what it has whenever it has nothing else to do, which for an answer with
// trailers is three times. That is half of what a small request costs
// (docs/adr/0007). HTTP/1 has buffers of its own and is left alone.
type listener struct {
	net.Listener
	stall time.Duration // how long a peer may take to take anything
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, stall: l.stall}, nil
}

type conn struct {
	net.Conn
	stall time.Duration
	begun bool // the first bytes were read, and told whether this is
	http2 atomic.Bool

	buffer     []byte // read and not asked for yet: buffer[from:to]
	from, to   int
	sending    sync.Mutex // held while sending
	waiting    []byte     // to be sent; under sending
	failed     error      // what sending ended with; under sending
	flushAsked bool       // a flush is on its way; under sending
}

const (
	preface     = "PRI * HTTP/2.0" // what net/http reads by itself to tell HTTP/2
	readBuffer  = 4 << 10
	waitingMost = 32 << 10
)

// Read reads; frames that come together are read together.
func (c *conn) Read(p []byte) (int, error) {
	if !c.http2.Load() {
		n, err := c.Conn.Read(p)
		if !c.begun {
			c.begun = true
			if bytes.Equal(p[:n], []byte(preface)) {
				c.buffer = make([]byte, readBuffer)
				c.http2.Store(true)
			}
		}
		return n, err
	}
	if c.from == c.to {
		if len(p) >= len(c.buffer) {
			return c.Conn.Read(p)
		}
		n, err := c.Conn.Read(c.buffer)
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
		return c.Conn.Write(p)
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

// SetWriteDeadline is for HTTP/1 alone: send sets its own.
func (c *conn) SetWriteDeadline(t time.Time) error {
	if c.http2.Load() {
		return nil
	}
	return c.Conn.SetWriteDeadline(t)
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
