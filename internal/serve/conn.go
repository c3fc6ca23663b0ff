package serve

import (
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// conn is a connection that spares HTTP/1 timers and the look at whether the caller is still there while an answer is being
// made at once.
type conn struct {
	net.Conn
	stall time.Duration // how long a peer may take to take anything
	read  deadline
	write deadline

	buffer []byte // what a lane has read
}

func newConn(c net.Conn, stall time.Duration) *conn {
	return &conn{Conn: c, stall: stall, read: deadline{set: c.SetReadDeadline}, write: deadline{set: c.SetWriteDeadline}}
}

// begin has b be what was read of the connection so far, before others read on.
func (c *conn) begin(b []byte) { c.buffer = b }

// readBuffer is how much is read at once.
const readBuffer = 4 << 10

// Read reads.
func (c *conn) Read(p []byte) (int, error) {
	if len(c.buffer) > 0 {
		n := copy(p, c.buffer)
		if c.buffer = c.buffer[n:]; len(c.buffer) == 0 {
			c.buffer = nil
		}
		return n, nil
	}
	if len(p) == 1 {
		// So net/http waits for the end of a connection while a request is answered.
		// Most are before the others who are ready to run have had their turns.
		runtime.Gosched()
	}
	return c.read.meet(c.Conn.Read, p)
}

// Write sends p.
func (c *conn) Write(p []byte) (int, error) { return c.writeAll(p) }

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

// writeAll sends p.
func (c *conn) writeAll(p []byte) (sent int, err error) {
	for {
		n, err := c.write.meet(c.Conn.Write, p[sent:])
		if sent += n; sent == len(p) || err != nil {
			return sent, err
		}
	}
}

// send sends p. The peer has c.stall to take some of it, again and again.
func (c *conn) send(p []byte) error {
	for len(p) > 0 {
		_ = c.write.want(time.Now().Add(c.stall))
		n, err := c.write.meet(c.Conn.Write, p)
		if p = p[n:]; err != nil && (n == 0 || !errors.Is(err, os.ErrDeadlineExceeded)) {
			return err
		}
	}
	return nil
}

// SetDeadline is SetReadDeadline and SetWriteDeadline.
func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline bounds reading.
func (c *conn) SetReadDeadline(t time.Time) error { return c.read.want(t) }

// SetWriteDeadline bounds writing.
func (c *conn) SetWriteDeadline(t time.Time) error { return c.write.want(t) }

// CloseWrite tells the peer that nothing more comes, as net/http does of a
// connection whose request it did not read to its end.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
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
