package serve

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2conn is a connection of HTTP/2 without TLS, which is how Knative's proxies send everything. It does with a goroutine for the
// connection and one for each request that is being answered what net/http does with four and their channels
// (docs/adr/0035). Frames are read by golang.org/x/net/http2's Framer, which refuses what is malformed.
//
// Whoever opens more streams than it was told it may, resets them as fast as it opens them, or takes nothing of what it is sent,
// costs a bounded amount of memory.
type h2conn struct {
	server *Server
	lane   *lane // that it was until now
	conn   *conn
	in     *bufio.Reader
	framer *http2.Framer

	// Of the goroutine that reads.
	greeted bool        // the first SETTINGS have come
	unbegun []*h2stream // nothing of whose body has come so far

	mu       sync.Mutex
	streams  map[uint32]*h2stream
	mine     []uint32         // the last that were ended from here: what still comes of them was on its way
	latest   uint32           // stream that was opened
	handlers int              // that run, also of streams that are gone
	spares   []chan *h2stream // goroutines that wait for a stream
	window   int64            // bytes that may be sent, of all streams
	initial  int64            // and of each at its beginning
	frame    int              // the largest that may be sent
	allowed  int64            // bytes that the peer may send, of all streams
	taken    int64            // of what it sent, and was not told yet
	encoder  *hpack.Encoder
	block    bytes.Buffer // what the encoder makes
	out      []byte       // to be sent
	spare    []byte
	writing  bool
	leaving  bool // GOAWAY was said: streams after last are not answered
	last     uint32
	failed   error     // nothing can be sent any more
	drained  sync.Cond // out is empty, or will never be
}

const (
	h2Preface = http2.ClientPreface
	// h2Streams is how many requests of a connection may be answered at once, h2Window how much of their bodies may wait to be read,
	// of each and of all, and h2Frame the largest part of one that comes at once.
	h2Streams = 250
	h2Window  = 1 << 20
	h2Frame   = 256 << 10
	// h2Out is how much may wait to be sent before nothing more is read or made.
	h2Out = 256 << 10
	// h2Spares is how many goroutines are kept for the next streams: the stack of a new one has to grow first.
	h2Spares = 8
	// h2Mine is of how many streams it is remembered that they were ended from here.
	h2Mine = 64
	h2Most = 1<<31 - 1 // of windows
)

func newH2conn(l *lane) *h2conn {
	c := &h2conn{
		server: l.lanes.server, lane: l, conn: l.conn, streams: map[uint32]*h2stream{},
		window: 65535, initial: 65535, frame: 16 << 10, allowed: h2Window,
	}
	c.drained.L = &c.mu
	c.in = bufio.NewReaderSize(io.MultiReader(bytes.NewReader(l.in[len(h2Preface):]), readerFunc(func(p []byte) (int, error) {
		return l.conn.read.meet(l.conn.Conn.Read, p)
	})), readBuffer)
	c.framer = http2.NewFramer(nil, c.in)
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.framer.MaxHeaderListSize = uint32(min(l.lanes.server.config.MaxHeader, h2Most))
	c.framer.SetMaxReadFrameSize(h2Frame)
	c.framer.SetReuseFrames()
	c.encoder = hpack.NewEncoder(&c.block)
	return c
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// serve answers requests until the connection ends.
func (c *h2conn) serve() {
	defer c.end()
	c.mu.Lock()
	settings := []http2.Setting{
		{ID: http2.SettingMaxConcurrentStreams, Val: h2Streams},
		{ID: http2.SettingInitialWindowSize, Val: h2Window},
		{ID: http2.SettingMaxFrameSize, Val: h2Frame},
		{ID: http2.SettingMaxHeaderListSize, Val: c.framer.MaxHeaderListSize},
	}
	c.out = appendFrame(c.out, 6*len(settings), http2.FrameSettings, 0, 0)
	for _, s := range settings {
		c.out = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(c.out, uint16(s.ID)), s.Val)
	}
	c.update(0, h2Window-65535)
	c.idle()
	c.mu.Unlock()
	for {
		if c.in.Buffered() == 0 {
			c.beginAll()
			c.flush()
		}
		if err := c.next(); err != nil {
			c.leave(err)
			return
		}
	}
}

// leave says why the connection ends, if it is for the peer to know.
func (c *h2conn) leave(err error) {
	code := http2.ErrCodeNo
	switch e := http2.ConnectionError(0); {
	case errors.As(err, &e):
		code = http2.ErrCode(e)
	case errors.Is(err, http2.ErrFrameTooLarge):
		code = http2.ErrCodeFrameSize
	case errors.Is(err, os.ErrDeadlineExceeded): // it was idle
	default:
		return // it has ended
	}
	c.mu.Lock()
	if !c.leaving || code != http2.ErrCodeNo {
		c.goAway(code)
	}
	c.mu.Unlock()
	c.flush()
	// What the peer has sent meanwhile must not have its system forget what it was told.
	_ = c.conn.CloseWrite()
	_ = c.conn.SetReadDeadline(time.Now().Add(lastWord))
	_, _ = io.CopyN(io.Discard, c.in, h2Window)
}

// goAway has no later streams answered; the caller holds mu.
func (c *h2conn) goAway(code http2.ErrCode) {
	if !c.leaving {
		c.leaving, c.last = true, c.latest
	}
	c.out = appendFrame(c.out, 8, http2.FrameGoAway, 0, 0)
	c.out = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(c.out, c.last), uint32(code))
}

// drain lets the streams that there are be the last.
func (c *h2conn) drain() {
	c.mu.Lock()
	if !c.leaving {
		c.goAway(http2.ErrCodeNo)
	}
	c.mu.Unlock()
	c.flush()
}

// idle has the connection wait for the next stream for as long as it may, if there is none; the caller holds mu.
func (c *h2conn) idle() {
	if len(c.streams) > 0 {
		return
	}
	wait := c.server.config.IdleTimeout
	if c.leaving {
		wait = lastWord
	}
	_ = c.conn.SetReadDeadline(time.Now().Add(wait))
}

// end has the streams that are left end as well.
func (c *h2conn) end() {
	c.mu.Lock()
	c.fail(net.ErrClosed)
	for _, st := range c.streams {
		c.lose(st, io.ErrUnexpectedEOF)
	}
	spares := c.spares
	c.spares = nil
	c.mu.Unlock()
	for _, s := range spares {
		close(s)
	}
	_ = c.conn.Close()
}

// fail has nothing be sent any more; the caller holds mu.
func (c *h2conn) fail(err error) {
	if c.failed == nil {
		c.failed = err
	}
	c.drained.Broadcast()
	for _, st := range c.streams {
		st.changed.Broadcast()
	}
}

// appendFrame adds the head of a frame.
func appendFrame(b []byte, length int, kind http2.FrameType, flags http2.Flags, stream uint32) []byte {
	b = append(b, byte(length>>16), byte(length>>8), byte(length), byte(kind), byte(flags))
	return binary.BigEndian.AppendUint32(b, stream)
}

// update lets the peer send so many bytes more, of a stream or, with 0, of all; the caller holds mu.
func (c *h2conn) update(stream uint32, n int64) {
	c.out = binary.BigEndian.AppendUint32(appendFrame(c.out, 4, http2.FrameWindowUpdate, 0, stream), uint32(n))
}

// reset ends a stream at once; the caller holds mu.
func (c *h2conn) reset(stream uint32, code http2.ErrCode) {
	c.out = binary.BigEndian.AppendUint32(appendFrame(c.out, 4, http2.FrameRSTStream, 0, stream), uint32(code))
}

// flush sends what is to be sent, unless somebody is about it already.
func (c *h2conn) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writing || len(c.out) == 0 {
		return
	}
	c.writing = true
	for len(c.out) > 0 && c.failed == nil {
		p := c.out
		c.out = c.spare[:0]
		c.mu.Unlock()
		err := c.conn.send(p)
		c.mu.Lock()
		if c.spare = p[:0]; cap(p) > keptMost {
			c.spare = nil
		}
		if err != nil {
			c.fail(err)
			_ = c.conn.Close() // whoever reads learns it by that
		}
		c.drained.Broadcast()
	}
	c.out, c.writing = c.out[:0], false
	if c.leaving && len(c.streams) == 0 { // that was all
		_ = c.conn.CloseWrite()
		_ = c.conn.SetReadDeadline(time.Now().Add(lastWord))
	}
}

// settle waits until there is room for more to be sent; the caller holds mu.
func (c *h2conn) settle() error {
	for len(c.out) > h2Out && c.failed == nil {
		if !c.writing {
			c.mu.Unlock()
			c.flush()
			c.mu.Lock()
			continue
		}
		c.drained.Wait()
	}
	return c.failed
}

// next reads a frame and does what it says. An error is the end of the connection.
func (c *h2conn) next() error {
	head, err := c.framer.ReadFrameHeader()
	if err != nil {
		return err
	}
	if !c.greeted && head.Type != http2.FrameSettings {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	if head.Type == http2.FrameData {
		err = c.data(&head)
	} else {
		var f http2.Frame
		if f, err = c.framer.ReadFrameForHeader(head); err == nil {
			err = c.take(f)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if wrong := (http2.StreamError{}); errors.As(err, &wrong) {
		if st := c.streams[wrong.StreamID]; st != nil {
			c.lose(st, err)
		} else if head.Type == http2.FrameHeaders && wrong.StreamID > c.latest { // it was going to be one
			c.latest = wrong.StreamID
		}
		c.reset(wrong.StreamID, wrong.Code)
		c.ended(wrong.StreamID)
		err = nil
	}
	if err != nil {
		return err
	}
	return c.settle()
}

// ended remembers that a stream was ended from here; the caller holds mu.
func (c *h2conn) ended(stream uint32) {
	if len(c.mine) == h2Mine {
		c.mine = slices.Delete(c.mine, 0, 1)
	}
	c.mine = append(c.mine, stream)
}

func (c *h2conn) take(f http2.Frame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch f := f.(type) {
	case *http2.MetaHeadersFrame:
		return c.headers(f)
	case *http2.SettingsFrame:
		return c.settings(f)
	case *http2.WindowUpdateFrame:
		return c.widen(f.StreamID, int64(f.Increment))
	case *http2.RSTStreamFrame:
		if f.StreamID > c.latest {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		if st := c.streams[f.StreamID]; st != nil {
			c.lose(st, context.Canceled)
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			c.out = append(appendFrame(c.out, 8, http2.FramePing, http2.FlagPingAck, 0), f.Data[:]...)
		}
	case *http2.PriorityFrame:
		if f.StreamDep == f.StreamID {
			return http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeProtocol}
		}
	case *http2.PushPromiseFrame:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	return nil
}

// settings does what the peer wishes; the caller holds mu.
func (c *h2conn) settings(f *http2.SettingsFrame) error {
	c.greeted = true
	if f.IsAck() {
		return nil
	}
	if f.NumSettings() > 100 { // each changes all streams
		return http2.ConnectionError(http2.ErrCodeEnhanceYourCalm)
	}
	err := f.ForeachSetting(func(s http2.Setting) error {
		if err := s.Valid(); err != nil {
			return err
		}
		switch s.ID {
		case http2.SettingHeaderTableSize:
			c.encoder.SetMaxDynamicTableSizeLimit(min(s.Val, 4096))
			c.encoder.SetMaxDynamicTableSize(min(s.Val, 4096))
		case http2.SettingMaxFrameSize:
			c.frame = min(int(s.Val), h2Frame)
		case http2.SettingInitialWindowSize:
			more := int64(s.Val) - c.initial
			c.initial = int64(s.Val)
			for _, st := range c.streams {
				if st.window += more; st.window > h2Most {
					return http2.ConnectionError(http2.ErrCodeFlowControl)
				}
				st.changed.Broadcast()
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.out = appendFrame(c.out, 0, http2.FrameSettings, http2.FlagSettingsAck, 0)
	return nil
}

// widen lets more be sent; the caller holds mu.
func (c *h2conn) widen(stream uint32, more int64) error {
	if stream == 0 {
		if c.window += more; c.window > h2Most {
			return http2.ConnectionError(http2.ErrCodeFlowControl)
		}
		for _, st := range c.streams {
			st.changed.Broadcast()
		}
		return nil
	}
	st := c.streams[stream]
	switch {
	case st == nil && stream > c.latest:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	case st == nil: // it was on its way
		return nil
	}
	if st.window += more; st.window > h2Most {
		return http2.StreamError{StreamID: stream, Code: http2.ErrCodeFlowControl}
	}
	st.changed.Broadcast()
	return nil
}

// headers begins a request, or ends one by its trailers, which nobody here reads; the caller holds mu.
func (c *h2conn) headers(f *http2.MetaHeadersFrame) error {
	id := f.StreamID
	wrong := http2.StreamError{StreamID: id, Code: http2.ErrCodeProtocol}
	if st := c.streams[id]; st != nil {
		switch {
		case st.whole:
			wrong.Code = http2.ErrCodeStreamClosed
			return wrong
		case !f.StreamEnded() || len(f.PseudoFields()) > 0 || st.declared >= 0 && st.got != st.declared:
			return wrong
		}
		c.complete(st)
		return nil
	}
	switch {
	case id%2 != 1:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	case id <= c.latest:
		if slices.Contains(c.mine, id) {
			return nil
		}
		return http2.ConnectionError(http2.ErrCodeStreamClosed)
	}
	c.latest = id
	if c.leaving { // of which the peer is going to know, and asks elsewhere
		c.ended(id)
		return nil
	}
	if f.HasPriority() && f.Priority.StreamDep == id {
		return wrong
	}
	if c.handlers >= h2Streams { // also those of streams that were reset, so that this bounds what who does nothing else can cost
		wrong.Code = http2.ErrCodeRefusedStream
		return wrong
	}
	st := newH2stream(c, id)
	if !st.open(f) {
		return wrong
	}
	if len(c.streams) == 0 {
		_ = c.conn.SetReadDeadline(time.Time{})
	}
	c.streams[id] = st
	c.handlers++
	if st.whole {
		c.begin(st)
	} else {
		c.unbegun = append(c.unbegun, st)
	}
	return nil
}

// data takes a part of a body.
func (c *h2conn) data(head *http2.FrameHeader) error {
	size := int64(head.Length)
	c.mu.Lock()
	if c.allowed -= size; c.allowed < 0 {
		c.mu.Unlock()
		return http2.ConnectionError(http2.ErrCodeFlowControl)
	}
	st := c.streams[head.StreamID]
	known := head.StreamID != 0 && head.StreamID <= c.latest
	c.mu.Unlock()
	if !known {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	pad, n := int64(0), size
	if head.Flags.Has(http2.FlagDataPadded) {
		if size == 0 {
			return http2.ConnectionError(http2.ErrCodeFrameSize)
		}
		b, err := c.in.ReadByte()
		if err != nil {
			return err
		}
		if pad = int64(b); pad >= size {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		n = size - 1 - pad
	}
	if st == nil || st.whole {
		_, err := c.in.Discard(int(n + pad))
		c.mu.Lock()
		defer c.mu.Unlock()
		c.give(size)
		if err == nil && !slices.Contains(c.mine, head.StreamID) {
			err = http2.StreamError{StreamID: head.StreamID, Code: http2.ErrCodeStreamClosed}
		}
		return err
	}
	part := make([]byte, n)
	if _, err := io.ReadFull(c.in, part); err != nil {
		return err
	}
	if _, err := c.in.Discard(int(pad)); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if st.lost != nil { // its handler has ended meanwhile
		c.give(size)
		return nil
	}
	wrong := http2.StreamError{StreamID: head.StreamID, Code: http2.ErrCodeProtocol}
	st.allowed -= size
	st.got += n
	ended := head.Flags.Has(http2.FlagDataEndStream)
	switch {
	case st.allowed < 0:
		wrong.Code = http2.ErrCodeFlowControl
		c.give(size)
		return wrong
	case st.declared >= 0 && (st.got > st.declared || ended && st.got != st.declared):
		c.give(size)
		return wrong
	}
	c.give(size - n)
	st.allowed += size - n // padding is of no use to anybody
	if n > 0 {
		st.parts = append(st.parts, part)
		st.changed.Broadcast()
	}
	if ended {
		c.complete(st)
	}
	return nil
}

// give lets the peer send so many bytes more, of all streams; the caller holds mu.
func (c *h2conn) give(n int64) {
	if c.taken += n; c.taken >= h2Window/4 {
		c.update(0, c.taken)
		c.allowed += c.taken
		c.taken = 0
	}
}

// complete says that all of a request is here; the caller holds mu.
func (c *h2conn) complete(st *h2stream) {
	st.whole = true
	st.changed.Broadcast()
	if i := slices.Index(c.unbegun, st); i >= 0 {
		c.unbegun = slices.Delete(c.unbegun, i, i+1)
		c.begin(st)
	}
}

// beginAll begins what waits for more of its body, before that is waited for.
func (c *h2conn) beginAll() {
	if len(c.unbegun) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, st := range c.unbegun {
		c.begin(st)
	}
	clear(c.unbegun)
	c.unbegun = c.unbegun[:0]
}

// begin has a stream handled; the caller holds mu.
func (c *h2conn) begin(st *h2stream) {
	if n := len(c.spares); n > 0 {
		spare := c.spares[n-1]
		c.spares = c.spares[:n-1]
		spare <- st
		return
	}
	go c.work(st)
}

// work handles streams, one after the other.
func (c *h2conn) work(st *h2stream) {
	takeStack(0)
	next := make(chan *h2stream, 1)
	for ok := true; ok; {
		st.handle()
		c.mu.Lock()
		if c.failed != nil || len(c.spares) == h2Spares {
			c.mu.Unlock()
			return
		}
		c.spares = append(c.spares, next)
		c.mu.Unlock()
		st, ok = <-next
	}
}

// lose ends a stream whose request, or whose answer, can't be completed; the caller holds mu.
func (c *h2conn) lose(st *h2stream, cause error) {
	delete(c.streams, st.id)
	st.lost = cause
	if i := slices.Index(c.unbegun, st); i >= 0 { // it was never begun
		c.unbegun = slices.Delete(c.unbegun, i, i+1)
		c.handlers--
	}
	if len(st.parts) > 0 { // who reads on must not take what there was for all of it
		st.whole = false
	}
	st.drop()
	st.cancel()
	st.changed.Broadcast()
	c.idle()
}

// done ends a stream whose handler has returned; the caller holds mu.
func (c *h2conn) done(st *h2stream) {
	c.handlers--
	if st.lost == nil {
		if !st.whole { // nobody reads the rest of the request
			c.reset(st.id, http2.ErrCodeNo)
			c.ended(st.id)
		}
		st.lost = http.ErrHandlerTimeout // whoever touches it now is late
		delete(c.streams, st.id)
		st.drop()
		c.idle()
	}
	st.cancel()
}
