package rpc

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// Prefix is how many bytes before each message belong to the wire.
const Prefix = 5

// Call is one call of a method. Its memory is reused by later ones.
type Call struct {
	Request *http.Request

	w       http.ResponseWriter
	ctx     context.Context
	begin   time.Time
	timeout time.Duration // by the caller's wish; 0: it has none
	cancel  func()
	stream  *serve.Stream
	limit   int64  // of a message, with its prefix
	coding  string // of compressed messages; empty: there are none

	ahead    [readAhead]byte
	from, to int    // what was read of the body and not taken yet, in ahead
	message  []byte // memory of the last message
	plain    []byte // memory of the last message that was compressed
	sent     bool   // an answer
}

const (
	readAhead = 4 << 10 // most messages fit
	trustMost = 1 << 20 // how much memory a message gets on its word; beyond it, as its bytes come
	keepMost  = 4 << 20 // the largest buffer that is kept for reuse
)

var calls = sync.Pool{New: func() any { return new(Call) }}

// free gives the memory back.
func (c *Call) free() {
	message, plain := c.message, c.plain
	if cap(message) > keepMost {
		message = nil
	}
	if cap(plain) > keepMost {
		plain = nil
	}
	if c.cancel != nil {
		c.cancel()
	}
	c.Request, c.w, c.ctx, c.cancel, c.stream = nil, nil, nil, nil, nil
	c.coding, c.timeout, c.from, c.to, c.sent = "", 0, 0, 0, false
	c.message, c.plain = message, plain
	calls.Put(c)
}

// open begins a call by what its header says.
func (c *Call) open(w http.ResponseWriter, r *http.Request) (err error) {
	c.w, c.Request, c.begin, c.limit = w, r, time.Now(), serve.BodyLimit(r)
	w.Header()["Content-Type"] = contentType
	switch coding := r.Header.Get("Grpc-Encoding"); coding {
	case "", "identity":
	case "gzip", "deflate":
		c.coding = coding
		w.Header().Set("Grpc-Encoding", coding)
	default:
		w.Header().Set("Grpc-Accept-Encoding", "identity,deflate,gzip")
		return unimplemented("grpc-encoding %q is not one of gzip, deflate, identity", tensor.Clip(coding))
	}
	if c.timeout, err = Timeout(r.Header); err != nil {
		return err
	}
	c.follow(r.Context())
	return nil
}

// follow makes the call's context of the request's.
func (c *Call) follow(ctx context.Context) {
	if c.cancel != nil {
		c.cancel()
	}
	c.ctx, c.cancel = ctx, nil
	if c.timeout > 0 {
		c.ctx, c.cancel = context.WithDeadline(ctx, c.begin.Add(c.timeout))
	}
}

var units = map[byte]time.Duration{
	'H': time.Hour, 'M': time.Minute, 'S': time.Second, 'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond,
}

// Timeout is how long a caller waits for its call, by the grpc-timeout in its header: at most eight digits and a unit. 0: it does not say.
func Timeout(h http.Header) (time.Duration, error) {
	text := h.Get("Grpc-Timeout")
	if text == "" {
		return 0, nil
	}
	last := len(text) - 1
	n, err := strconv.ParseUint(text[:last], 10, 64)
	unit := units[text[last]]
	if err != nil || unit == 0 || last > 8 {
		return 0, fault.New(fault.Invalid, "grpc-timeout is %q, expected up to eight digits and one of H, M, S, m, u, n", tensor.Clip(text))
	}
	if n > uint64(math.MaxInt64/unit) {
		return math.MaxInt64, nil
	}
	return max(time.Duration(n)*unit, 1), nil // zero, for a call that is late already, is no wish for none
}

// Context gives the call's context, which ends with its deadline.
func (c *Call) Context() context.Context { return c.ctx }

// Header gives the metadata that goes before the first answer.
func (c *Call) Header() http.Header { return c.w.Header() }

// Stream lets the call go on for as long as messages come, or answers go. Each
// answer is sent at once. What is done for one message gets a deadline of its
// own, by serve.Timeout.
func (c *Call) Stream() {
	c.stream = serve.OpenStream(c.Request)
	c.follow(c.Request.Context())
}

// Receive gives the next message, or io.EOF when there are no more. It is valid
// until the next one is received. Its end lies at a multiple of eight in memory,
// unless it came compressed.
func (c *Call) Receive() ([]byte, error) {
	switch {
	case c.stream == nil:
	case c.from == c.to:
		c.stream.Await()
	default:
		c.stream.Resume()
	}
	if err := c.fill(Prefix); err != nil {
		return nil, err
	}
	packed, n := c.ahead[c.from], int64(binary.BigEndian.Uint32(c.ahead[c.from+1:]))
	c.from += Prefix
	switch {
	case packed > 1:
		return nil, fault.New(fault.Invalid, "the byte before a message's length is %d, expected 0 or 1", packed)
	case packed == 1 && c.coding == "":
		return nil, fault.New(fault.Invalid, "the message is compressed, but the call has no grpc-encoding that tells how")
	case n+Prefix > c.limit:
		return nil, &http.MaxBytesError{Limit: c.limit}
	}
	message, err := c.read(int(n))
	if err != nil {
		return nil, err
	}
	if c.stream != nil {
		c.stream.Complete()
	}
	if packed == 1 {
		c.plain, err = unpack(c.plain[:0], c.coding, message, c.limit)
		return c.plain, err
	}
	return message, nil
}

// ReceiveOnly gives the message of a call that has exactly one.
func (c *Call) ReceiveOnly() ([]byte, error) {
	message, err := c.Receive()
	switch {
	case errors.Is(err, io.EOF):
		return nil, fault.New(fault.Invalid, "the call has no message, this method takes one")
	case err != nil:
		return nil, err
	}
	if err := c.fill(1); err == nil {
		return nil, fault.New(fault.Invalid, "the call has more than one message, this method takes one")
	} else if !errors.Is(err, io.EOF) {
		return nil, err
	}
	return message, nil
}

// fill reads ahead until there are n bytes; io.EOF says that there is none.
func (c *Call) fill(n int) error {
	if c.from == c.to {
		c.from, c.to = 0, 0
	} else if c.from+n > len(c.ahead) {
		c.from, c.to = 0, copy(c.ahead[:], c.ahead[c.from:c.to])
	}
	for c.to-c.from < n {
		got, err := c.Request.Body.Read(c.ahead[c.to:])
		c.to += got
		switch have := c.to - c.from; {
		case err == nil || have >= n:
		case errors.Is(err, io.EOF) && have == 0:
			return io.EOF
		default:
			return c.unread(err)
		}
	}
	return nil
}

// read gives the next n bytes.
func (c *Call) read(n int) ([]byte, error) {
	pad := -n & 7
	if most := min(pad+n, max(trustMost, cap(c.message))); most > len(c.message) {
		c.message = make([]byte, max(most, readAhead))
	}
	got := copy(c.message[pad:pad+min(n, len(c.message)-pad)], c.ahead[c.from:c.to])
	c.from += got
	for got < n {
		if pad+got == len(c.message) {
			more := make([]byte, min(pad+n, 2*len(c.message)))
			copy(more, c.message)
			c.message = more
		}
		k, err := c.Request.Body.Read(c.message[pad+got : min(pad+n, len(c.message))])
		if got += k; err != nil && got < n {
			return nil, c.unread(err)
		}
	}
	return c.message[pad : pad+n : pad+n], nil
}

// unread says why a message could not be read to its end.
func (c *Call) unread(err error) error {
	if cause := context.Cause(c.Request.Context()); cause != nil { // the caller went away, or its time did
		return cause
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return serve.BodyError(err)
}

// Send sends an answer, whose first Prefix bytes it takes for itself.
func (c *Call) Send(answer []byte) error {
	if int64(len(answer))-Prefix > math.MaxUint32 {
		return fault.New(fault.Internal, "the answer is larger than the 4 GiB that a message may have")
	}
	answer[0] = 0
	if c.coding != "" && len(answer) >= packLeast {
		var err error
		if answer, err = pack(c.coding, answer[Prefix:]); err != nil {
			return err
		}
	}
	binary.BigEndian.PutUint32(answer[1:], uint32(len(answer)-Prefix))
	c.sent = true
	_, err := c.w.Write(answer)
	if err == nil && c.stream != nil {
		err = http.NewResponseController(c.w).Flush()
	}
	if err != nil && c.Request.Context().Err() != nil {
		return context.Cause(c.Request.Context())
	}
	return err
}
