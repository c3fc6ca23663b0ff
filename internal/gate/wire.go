package gate

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"sync"
	"time"
)

// wires are connections for plain requests: of HTTP/1.1, one request at a time on each, by the goroutine of whoever asks. They are safe for
// concurrent use.
type wires struct {
	dial func(ctx context.Context, network, address string) (net.Conn, error)

	mu     sync.Mutex
	idle   map[string][]*wire // by host, the last used at the end
	sweeps *time.Timer        // while any are idle
	closed bool
}

// wire is one connection.
type wire struct {
	net.Conn
	read  *bufio.Reader // of the wire itself
	left  int64         // bytes that may still be read before somebody looks
	since time.Time     // when it became idle
}

// headMost is how large the head of an answer may be.
const headMost = 256 << 10

var errHead = fmt.Errorf("the head of the answer is larger than %d bytes", headMost)

func (c *wire) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, errHead
	}
	n, err := c.Conn.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}

// get gives a connection to a host: one that is idle and that the other side has not closed, or a new one.
func (ws *wires) get(ctx context.Context, host string) (*wire, error) {
	for {
		ws.mu.Lock()
		idle := ws.idle[host]
		if len(idle) == 0 {
			ws.mu.Unlock()
			break
		}
		c := idle[len(idle)-1]
		ws.idle[host] = idle[:len(idle)-1]
		ws.mu.Unlock()
		if time.Since(c.since) < idleFor && quiet(c.Conn) {
			return c, nil
		}
		_ = c.Close()
	}
	address := host
	if _, _, err := net.SplitHostPort(host); err != nil {
		address = net.JoinHostPort(host, "80")
	}
	conn, err := ws.dial(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	c := &wire{Conn: conn}
	c.read = bufio.NewReaderSize(c, 8<<10)
	return c, nil
}

// put takes a connection back that is at the end of an answer.
func (ws *wires) put(host string, c *wire) {
	c.since = time.Now()
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if idle := ws.idle[host]; !ws.closed && c.read.Buffered() == 0 && len(idle) < idlePerHost && (len(idle) > 0 || len(ws.idle) < backendMost) {
		ws.idle[host] = append(idle, c)
		if ws.sweeps == nil {
			ws.sweeps = time.AfterFunc(idleFor, ws.sweep)
		}
		return
	}
	_ = c.Close()
}

// sweep closes connections that nobody has used for a while.
func (ws *wires) sweep() {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for host, idle := range ws.idle {
		old := 0
		for old < len(idle) && time.Since(idle[old].since) >= idleFor {
			_ = idle[old].Close()
			old++
		}
		if ws.idle[host] = append(idle[:0], idle[old:]...); len(ws.idle[host]) == 0 {
			delete(ws.idle, host)
		}
	}
	if ws.sweeps = nil; len(ws.idle) > 0 && !ws.closed {
		ws.sweeps = time.AfterFunc(idleFor/2, ws.sweep)
	}
}

// close closes what is idle, and from then on what becomes so.
func (ws *wires) close() {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.closed = true
	if ws.sweeps != nil {
		ws.sweeps.Stop()
	}
	for _, idle := range ws.idle {
		for _, c := range idle {
			_ = c.Close()
		}
	}
	clear(ws.idle)
}

// roundTrip sends a request that is whole, and reads the head of its answer. When the request's context ends, so does the connection.
func (ws *wires) roundTrip(r *http.Request, host string, request []byte) (*http.Response, error) {
	ctx := r.Context()
	c, err := ws.get(ctx, host)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	fail := func(err error) (*http.Response, error) {
		stop()
		_ = c.Close()
		if cause := ctx.Err(); cause != nil {
			err = cause
		}
		return nil, err
	}
	c.left = headMost
	if _, err := c.Write(request); err != nil {
		return fail(err)
	}
	for {
		resp, err := http.ReadResponse(c.read, r)
		if err != nil {
			return fail(err)
		}
		if resp.StatusCode == http.StatusSwitchingProtocols {
			return fail(errors.New("the function speaks another protocol, which nobody asked for"))
		}
		if resp.StatusCode < http.StatusOK { // what comes before an answer; the caller needs none of it
			continue
		}
		c.left = math.MaxInt64
		b := &wireBody{body: resp.Body, wires: ws, wire: c, host: host, stop: stop, keep: !resp.Close}
		if resp.Body == http.NoBody {
			_ = b.end(true)
			return resp, nil
		}
		resp.Body = b
		return resp, nil
	}
}

// wireBody is the body of an answer, at whose end the connection is free.
type wireBody struct {
	body  io.ReadCloser
	wires *wires
	wire  *wire
	host  string
	stop  func() bool
	keep  bool
	ended bool
}

func (b *wireBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if err != nil {
		_ = b.end(errors.Is(err, io.EOF))
	}
	return n, err
}

// Close gives the connection up if its answer was not read to the end.
func (b *wireBody) Close() error { return b.end(false) }

func (b *wireBody) end(whole bool) error {
	if b.ended {
		return nil
	}
	b.ended = true
	if b.stop() && whole && b.keep {
		b.wires.put(b.host, b.wire)
		return nil
	}
	return b.wire.Close()
}
