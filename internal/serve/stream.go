package serve

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// Stream is a request that goes on for as long as its caller likes: its body is
// a sequence of messages, each of which must keep the pace that a body must
// elsewhere, with pauses of at most IDLE_TIMEOUT between them. A pause ends when
// the process is told to end. How large a message may be is for the reader to check.
type Stream struct {
	x *exchange // nil on a host that isn't this server: nothing is bounded there

	mu      sync.Mutex
	pausing bool // between messages, with a reader that waits for the next
	got     int64
	since   time.Time
	due     time.Duration // after since, when the read deadline is
}

// OpenStream makes a request a stream. It is the first thing its handler does,
// since it gives the request another context: one without a deadline, that ends
// with the connection.
func OpenStream(r *http.Request) *Stream {
	x := exchangeOf(r.Context())
	if x == nil || x.body == nil {
		return &Stream{}
	}
	s := &Stream{x: x}
	x.stream, x.long = s, true
	_ = http.NewResponseController(x.ResponseWriter).SetWriteDeadline(time.Time{})
	ctx, release := x.outlive(r.Context())
	stop := context.AfterFunc(x.server.draining, s.interrupt)
	x.release = func() { stop(); s.end(); release() }
	*r = *r.WithContext(ctx)
	return s
}

// Await says that the reader is going to wait for the next message.
func (s *Stream) Await() {
	if s.x == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pausing = true
	wait := s.x.server.config.IdleTimeout
	if s.x.server.draining.Err() != nil {
		wait = 0
	}
	s.readBy(time.Now().Add(wait))
}

// Resume says that the reader goes on with a message whose beginning it has already:
// what it did meanwhile is not the caller's slowness.
func (s *Stream) Resume() {
	if s.x == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pausing, s.got, s.since, s.due = false, 0, time.Now(), 0
}

// Complete says that the message was read, and that the reader is busy with it.
func (s *Stream) Complete() {
	if s.x == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readBy(time.Time{})
}

// end waits for an interrupt under way: once the handler has returned, the response is nobody's.
func (s *Stream) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pausing = false
}

func (s *Stream) interrupt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pausing {
		s.readBy(time.Now())
	}
}

func (s *Stream) readBy(t time.Time) {
	_ = http.NewResponseController(s.x.ResponseWriter).SetReadDeadline(t)
}

// read is requestBody.Read.
func (s *Stream) read(p []byte) (int, error) {
	c := &s.x.server.config
	s.mu.Lock()
	if due := c.allowance(s.got); !s.pausing && due-s.due >= c.Stall/4 {
		s.due = due
		s.readBy(s.since.Add(due))
	}
	s.mu.Unlock()

	n, err := s.x.body.Read(p)

	s.mu.Lock()
	defer s.mu.Unlock()
	if n > 0 && s.pausing {
		s.pausing, s.got, s.since, s.due = false, 0, time.Now(), 0
	}
	s.got += int64(n)
	s.x.got += int64(n)
	switch {
	case errors.Is(err, io.EOF):
		s.x.ended = true
	case !errors.Is(err, os.ErrDeadlineExceeded):
	case !s.pausing:
		err = c.slow(err)
	case s.x.server.draining.Err() != nil:
		err = fault.Wrap(fault.Unavailable, err, "the server is shutting down")
	default:
		err = fault.Wrap(fault.Deadline, err, "no message came for %s", c.IdleTimeout)
	}
	return n, err
}
