package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// request is one HTTP request, and what its answer must be.
type request struct {
	wire []byte
	want []byte // the body
}

func newRequest(method, path string, header map[string]string, body []byte) request {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: bench\r\n", method, path)
	for k, v := range header {
		fmt.Fprintf(&b, "%s: %s\r\n", k, v)
	}
	if method == "POST" {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(body))
	}
	b.WriteString("\r\n")
	b.Write(body)
	return request{wire: b.Bytes()}
}

// load is what a closed loop of callers saw: each sends the next request when
// the last one was answered.
type load struct {
	answers int
	took    time.Duration
	times   []time.Duration // of each
	cpu     time.Duration   // of the server
}

func (l load) perSecond() float64 { return float64(l.answers) / l.took.Seconds() }

// run sends requests to a server over so many connections for so long. Every
// answer is compared with the one that is wanted; one that differs ends the run.
//
// The client is made for this alone, as net/http's would take more of the
// machine than most servers here.
func (p *process) run(ctx context.Context, r request, callers int, d time.Duration) (load, error) {
	ctx, cancel := context.WithTimeout(ctx, d+10*time.Second)
	defer cancel()
	before, err := p.cpu()
	if err != nil {
		return load{}, err
	}
	begin := time.Now()
	times, errs := make([][]time.Duration, callers), make([]error, callers)
	var group sync.WaitGroup
	for i := range callers {
		group.Go(func() {
			times[i], errs[i] = calls(ctx, p.addr, r, begin.Add(d))
		})
	}
	group.Wait()
	l := load{took: time.Since(begin), times: slices.Concat(times...)}
	after, err := p.cpu()
	if err := errors.Join(append(errs, err)...); err != nil {
		return load{}, err
	}
	l.answers, l.cpu = len(l.times), after-before
	if l.answers == 0 {
		return load{}, errors.New("nothing was answered")
	}
	return l, nil
}

func calls(ctx context.Context, addr string, r request, until time.Time) ([]time.Duration, error) {
	c, err := dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	times := make([]time.Duration, 0, 1<<16)
	for begin := time.Now(); begin.Before(until); {
		body, err := c.ask(r.wire)
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(body, r.want) {
			return nil, fmt.Errorf("an answer differs: got %.300q, want %.300q", body, r.want)
		}
		now := time.Now()
		times = append(times, now.Sub(begin))
		begin = now
	}
	return times, nil
}

// client is one keep-alive connection.
type client struct {
	net.Conn
	in   *bufio.Reader
	body []byte
}

func dial(ctx context.Context, addr string) (*client, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	return &client{Conn: conn, in: bufio.NewReaderSize(conn, 64<<10)}, nil
}

// ask sends a request and gives the body of its answer, which is valid until
// the next.
func (c *client) ask(wire []byte) ([]byte, error) {
	if _, err := c.Write(wire); err != nil {
		return nil, err
	}
	status, err := c.in.ReadString('\n')
	if err != nil {
		return nil, err
	}
	length := -1
	for {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return nil, err
		}
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			break
		}
		if name, value, _ := bytes.Cut(line, []byte(":")); bytes.EqualFold(name, []byte("Content-Length")) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return nil, err
			}
		}
	}
	if length < 0 {
		return nil, errors.New("the answer does not tell its length")
	}
	c.body = slices.Grow(c.body[:0], length)[:length]
	if _, err := io.ReadFull(c.in, c.body); err != nil {
		return nil, err
	}
	if !strings.Contains(status, " 200 ") {
		return nil, fmt.Errorf("the answer is %q: %.300q", strings.TrimSpace(status), c.body)
	}
	return c.body, nil
}

// answer asks once.
func (p *process) answer(ctx context.Context, r request) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	c, err := dial(ctx, p.addr)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.ask(r.wire)
}
