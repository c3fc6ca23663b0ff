package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// request is one request, and what its answer must be.
type request struct {
	wire []byte
	grpc bool   // wire is the message of an unary call of ModelInfer
	want []byte // the body
	// same judges a body that is not want; nil: none may differ.
	same func(body []byte) error
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

func (r *request) check(body []byte) error {
	if bytes.Equal(body, r.want) {
		return nil
	}
	if r.same != nil {
		return r.same(body)
	}
	return fmt.Errorf("an answer differs: got %.300q, want %.300q", body, r.want)
}

// talk is what one connection says, in HTTP/1.1 or HTTP/2.
type talk interface {
	// begin gives what is to be sent for the next request.
	begin() []byte
	// read takes some of what has come, tells how much, and gives what is to be
	// sent in return. a is not nil once the answer is complete; it is valid until
	// the next call.
	read(in []byte) (n int, out []byte, a *reply, err error)
}

// reply is an answer: its body, or why there is none.
type reply struct {
	body    []byte
	refused bool   // the server said that it has too much to do
	wrong   string // what else it said but 200
}

func (r *request) talk() talk {
	if r.grpc {
		return newUnary(r.wire)
	}
	return &http1{wire: r.wire}
}

type http1 struct {
	wire []byte
	last reply
	body []byte // of an answer in chunks
}

func (h *http1) begin() []byte { return h.wire }

func (h *http1) read(in []byte) (n int, out []byte, a *reply, err error) {
	end := bytes.Index(in, []byte("\r\n\r\n"))
	if end < 0 {
		return 0, nil, nil, nil
	}
	status, fields, _ := bytes.Cut(in[:end], []byte("\r\n"))
	length, chunked := 0, false
	for len(fields) > 0 {
		var line []byte
		line, fields, _ = bytes.Cut(fields, []byte("\r\n"))
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(value)); err != nil {
				return 0, nil, nil, err
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			chunked = bytes.EqualFold(value, []byte("chunked"))
		}
	}
	n = end + 4
	if chunked {
		h.body, length, err = unchunk(h.body[:0], in[n:])
		if length == 0 || err != nil {
			return 0, nil, nil, err
		}
		h.last = reply{body: h.body}
	} else if len(in) >= n+length {
		h.last = reply{body: in[n : n+length]}
	} else {
		return 0, nil, nil, nil
	}
	if code, _, _ := bytes.Cut(bytes.TrimPrefix(status, []byte("HTTP/1.1 ")), []byte(" ")); string(code) != "200" {
		h.last.refused = string(code) == "503" || string(code) == "429"
		h.last.wrong = fmt.Sprintf("the answer is %q: %.300q", status, h.last.body)
	}
	return n + length, nil, &h.last, nil
}

// unchunk adds a body that comes in chunks, and tells how much of in it was; 0
// if it has not come whole.
func unchunk(body, in []byte) (_ []byte, n int, err error) {
	for {
		end := bytes.Index(in[n:], []byte("\r\n"))
		if end < 0 {
			return body, 0, nil
		}
		size, err := strconv.ParseUint(string(in[n:n+end]), 16, 32)
		if err != nil {
			return body, 0, err
		}
		n += end + 2
		if len(in) < n+int(size)+2 {
			return body, 0, nil
		}
		body = append(body, in[n:n+int(size)]...)
		if n += int(size) + 2; size == 0 {
			return body, n, nil
		}
	}
}

// pace says how requests follow each other.
type pace struct {
	callers int
	time    time.Duration
	// rate is how many requests a second are due, at random moments that nobody's
	// slowness moves. 0: each caller sends its next when the last was answered.
	rate float64
	// lossy drops a request that finds every caller busy, takes refusals for
	// answers, and gives up on those that don't come. Otherwise a request waits,
	// which counts as its own time.
	lossy bool
	// own has the CPU time taken that the server spends from a request to its answer, on it and on whatever
	// comes before it. For one caller, what else the machine does makes it no longer.
	own bool
}

// load is what callers saw.
type load struct {
	answers int
	took    time.Duration
	times   []time.Duration // of each, since it was due
	own     []time.Duration // of each, in CPU time of the server, if wanted
	cpu     time.Duration   // of the server
	refused int
	lost    int // not sent, or not answered
}

func (l load) perSecond() float64 { return float64(l.answers) / l.took.Seconds() }

// patience is how long a run goes on beyond its time for what was sent by then.
const (
	patience      = 60 * time.Second
	lossyPatience = 2 * time.Second
)

// run is drive with so many callers, one request after the other.
func (p *process) run(ctx context.Context, r request, callers int, d time.Duration) (load, error) {
	return p.drive(ctx, r, pace{callers: callers, time: d})
}

// drive sends requests to a server. Every answer is checked; one that is wrong
// ends the run.
//
// One thread serves all connections, without net/http or a goroutine each: they
// would take more of the machine than most servers here.
func (p *process) drive(ctx context.Context, r request, pc pace) (l load, err error) {
	before, err := p.cpu()
	if err != nil {
		return load{}, err
	}
	d := driver{request: &r, pace: pc, random: rand.New(rand.NewPCG(3, 4)), server: p}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err = d.open(r.addr(p))
	if err == nil {
		err = d.run(ctx)
	}
	if err := errors.Join(err, d.close()); err != nil {
		return load{}, err
	}
	after, err := p.cpu()
	if err != nil {
		return load{}, err
	}
	d.load.answers, d.load.cpu = len(d.load.times), after-before
	if d.load.answers == 0 {
		return load{}, errors.New("nothing was answered")
	}
	return d.load, nil
}

// addr is where the server takes this kind of request.
func (r *request) addr(p *process) string {
	if r.grpc && p.grpc != "" {
		return p.grpc
	}
	return p.addr
}

type driver struct {
	request *request
	server  *process
	pace    pace
	random  *rand.Rand
	load    load

	epoll   int
	callers []*caller
	idle    []*caller   // for requests with a rate
	waiting []time.Time // when requests that found nobody idle were due
	busy    int
	last    time.Time // when the last answer came
}

// caller is one connection.
type caller struct {
	fd   int
	talk talk
	in   []byte // what has come and was not taken
	out  []byte // what is still to be sent
	due  time.Time
	own  time.Duration // the server's CPU time when it was sent
}

func (d *driver) open(addr string) (err error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return err
	}
	if d.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	for i := range d.pace.callers {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		d.callers = append(d.callers, &caller{fd: fd, talk: d.request.talk(), in: make([]byte, 0, 16<<10)})
		err = errors.Join(
			unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}),
			unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
			unix.SetNonblock(fd, true),
			unix.EpollCtl(d.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLET, Fd: int32(i)}),
		)
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *driver) close() error {
	var errs []error
	for _, c := range d.callers {
		errs = append(errs, unix.Close(c.fd))
	}
	return errors.Join(append(errs, unix.Close(d.epoll))...)
}

func (d *driver) run(ctx context.Context) error {
	begin := time.Now()
	end, limit := begin.Add(d.pace.time), begin.Add(d.pace.time+patience)
	if d.pace.lossy {
		limit = end.Add(lossyPatience)
	}
	next := begin // when the next request is due
	d.idle = slices.Clone(d.callers)
	if d.pace.rate == 0 {
		for range d.callers {
			if err := d.send(begin); err != nil {
				return err
			}
		}
	}
	events := make([]unix.EpollEvent, max(d.pace.callers, 16))
	for now := begin; now.Before(end) || d.busy > 0; {
		wait := 100 // milliseconds
		if runtime.NumCPU() > 1 {
			// A thread that sleeps would have the server pay for waking it, 5 µs a
			// request, which no caller on another machine does.
			wait = 0
		}
		if d.pace.rate > 0 && now.Before(end) {
			wait = 0
			for ; !next.After(now); next = next.Add(time.Duration(d.random.ExpFloat64() / d.pace.rate * float64(time.Second))) {
				if len(d.idle) > 0 {
					if err := d.send(next); err != nil {
						return err
					}
				} else if d.pace.lossy {
					d.load.lost++
				} else {
					d.waiting = append(d.waiting, next)
				}
			}
		}
		n, err := unix.EpollWait(d.epoll, events, wait)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		for _, e := range events[:max(n, 0)] {
			if err := d.serve(d.callers[e.Fd], end); err != nil {
				return err
			}
		}
		now = time.Now()
		if now.After(limit) && d.pace.lossy {
			d.load.lost += d.busy
			break
		}
		if now.After(limit) {
			return fmt.Errorf("%d requests were not answered in %s", d.busy, d.pace.time+patience)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	d.load.took = max(d.pace.time, d.last.Sub(begin))
	return nil
}

// send has an idle caller send the request that was due then.
func (d *driver) send(due time.Time) error {
	c := d.idle[len(d.idle)-1]
	d.idle = d.idle[:len(d.idle)-1]
	c.due = due
	if d.pace.own {
		var err error
		if c.own, err = d.server.clock(); err != nil {
			return err
		}
	}
	d.busy++
	return c.say(c.talk.begin())
}

// say sends after what is still to be sent.
func (c *caller) say(out []byte) error {
	if len(c.out) > 0 {
		out = slices.Concat(c.out, out)
	}
	c.out = out
	return c.flush()
}

func (c *caller) flush() error {
	for len(c.out) > 0 {
		n, err := unix.Write(c.fd, c.out)
		if errors.Is(err, unix.EAGAIN) {
			return nil // the next event goes on
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		c.out = c.out[max(n, 0):]
	}
	return nil
}

// serve sends and takes what a connection is ready for.
func (d *driver) serve(c *caller, end time.Time) error {
	if err := c.flush(); err != nil {
		return err
	}
	for {
		if len(c.in) == cap(c.in) {
			c.in = slices.Grow(c.in, cap(c.in))
		}
		space := c.in[len(c.in):cap(c.in)]
		n, err := unix.Read(c.fd, space)
		if errors.Is(err, unix.EAGAIN) {
			return nil
		}
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && n == 0 {
			err = errors.New("the server closed the connection")
		}
		if err != nil {
			return err
		}
		c.in = c.in[:len(c.in)+n]
		if err := d.take(c, end); err != nil {
			return err
		}
		if n < len(space) { // there was no more
			return nil
		}
	}
}

// take looks for answers in what has come.
func (d *driver) take(c *caller, end time.Time) error {
	rest := c.in
	for {
		n, out, a, err := c.talk.read(rest)
		if err != nil {
			return err
		}
		rest = rest[n:]
		if len(out) > 0 {
			if err := c.say(out); err != nil {
				return err
			}
		}
		if a != nil {
			if err := d.answered(c, a, end); err != nil {
				return err
			}
		}
		if n == 0 || len(rest) == 0 {
			c.in = append(c.in[:0], rest...)
			return nil
		}
	}
}

func (d *driver) answered(c *caller, a *reply, end time.Time) error {
	now := time.Now()
	d.last = now
	switch {
	case a.refused && d.pace.lossy:
		d.load.refused++
	case a.wrong != "":
		return errors.New(a.wrong)
	default:
		if err := d.request.check(a.body); err != nil {
			return err
		}
		d.load.times = append(d.load.times, now.Sub(c.due))
		if d.pace.own {
			own, err := d.server.clock()
			if err != nil {
				return err
			}
			d.load.own = append(d.load.own, own-c.own)
		}
	}
	d.busy--
	d.idle = append(d.idle, c)
	switch {
	case d.pace.rate == 0 && now.Before(end):
		return d.send(now)
	case len(d.waiting) > 0:
		due := d.waiting[0]
		d.waiting = d.waiting[1:]
		return d.send(due)
	}
	return nil
}

// line is one connection for one request after the other, each waited for.
type line struct {
	net.Conn
	talk talk
	in   []byte
	used int // of in
}

func dial(ctx context.Context, addr string, r request) (*line, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	return &line{Conn: conn, talk: r.talk(), in: make([]byte, 0, 64<<10)}, nil
}

// ask sends the request and gives the body of its answer, which is valid until
// the next.
func (l *line) ask() ([]byte, error) {
	out := l.talk.begin()
	l.in, l.used = append(l.in[:0], l.in[l.used:]...), 0
	for {
		if len(out) > 0 {
			if _, err := l.Write(out); err != nil {
				return nil, err
			}
		}
		n, more, a, err := l.talk.read(l.in[l.used:])
		if err != nil {
			return nil, err
		}
		l.used, out = l.used+n, more
		if a != nil && a.wrong != "" {
			return nil, errors.New(a.wrong)
		}
		if a != nil {
			return a.body, nil
		}
		if n > 0 {
			continue
		}
		l.in = slices.Grow(l.in, 64<<10)
		n, err = l.Read(l.in[len(l.in):cap(l.in)])
		if err != nil {
			return nil, err
		}
		l.in = l.in[:len(l.in)+n]
	}
}

// answer asks once.
func (p *process) answer(ctx context.Context, r request) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	l, err := dial(ctx, r.addr(p), r)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	return l.ask()
}
