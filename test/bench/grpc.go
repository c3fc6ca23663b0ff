package main

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// unary is a connection for unary calls of gRPC, one at a time, with as little
// work as HTTP/2 allows: the client of google.golang.org/grpc would be slower
// than some of the servers.
type unary struct {
	header  []byte // of every request, compressed
	message []byte // with its length before it
	stream  uint32
	unsent  []byte // of the message
	frame   int    // the largest that the server takes
	// Windows are what the server takes now: of all streams, of one at its begin,
	// of the one that is open.
	window, initial, open int64
	used                  int // of our own window
	decoder               *hpack.Decoder
	status                string // of gRPC
	text                  string
	last                  reply
}

const wide = 1 << 30 // our windows

func newUnary(message []byte) *unary {
	var header bytes.Buffer
	e := hpack.NewEncoder(&header)
	for _, f := range [][2]string{
		{":method", "POST"},
		{":scheme", "http"},
		{":path", "/inference.GRPCInferenceService/ModelInfer"},
		{":authority", "bench"},
		{"content-type", "application/grpc"},
		{"te", "trailers"},
	} {
		// What is sensitive stands in no table, so that every request is the same bytes.
		if err := e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1], Sensitive: true}); err != nil {
			panic(err) // a bytes.Buffer has no errors of its own
		}
	}
	c := &unary{header: header.Bytes(), frame: 16 << 10, window: 65535, initial: 65535}
	c.message = binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	c.message = append(c.message, message...)
	c.decoder = hpack.NewDecoder(4096, func(f hpack.HeaderField) {
		switch f.Name {
		case "grpc-status":
			c.status = f.Value
		case "grpc-message":
			c.text = f.Value
		case ":status":
			if f.Value != "200" {
				c.status, c.text = f.Value, "HTTP status "+f.Value
			}
		}
	})
	return c
}

func frame(b []byte, length int, kind http2.FrameType, flags http2.Flags, stream uint32) []byte {
	b = append(b, byte(length>>16), byte(length>>8), byte(length), byte(kind), byte(flags))
	return binary.BigEndian.AppendUint32(b, stream)
}

func (c *unary) begin() []byte {
	var out []byte
	if c.stream == 0 {
		out = append(out, http2.ClientPreface...)
		out = frame(out, 6, http2.FrameSettings, 0, 0)
		out = binary.BigEndian.AppendUint16(out, uint16(http2.SettingInitialWindowSize))
		out = binary.BigEndian.AppendUint32(out, wide)
		out = frame(out, 4, http2.FrameWindowUpdate, 0, 0)
		out = binary.BigEndian.AppendUint32(out, wide)
		c.stream = ^uint32(0)
	}
	c.stream += 2
	c.open, c.unsent = c.initial, c.message
	c.last, c.status, c.text = reply{body: c.last.body[:0]}, "", ""
	out = frame(out, len(c.header), http2.FrameHeaders, http2.FlagHeadersEndHeaders, c.stream)
	return c.send(append(out, c.header...))
}

// send adds as much of the message as the windows allow.
func (c *unary) send(out []byte) []byte {
	for len(c.unsent) > 0 {
		n := min(len(c.unsent), c.frame, int(c.window), int(c.open))
		if n <= 0 {
			break
		}
		var flags http2.Flags
		if n == len(c.unsent) {
			flags = http2.FlagDataEndStream
		}
		out = append(frame(out, n, http2.FrameData, flags, c.stream), c.unsent[:n]...)
		c.unsent = c.unsent[n:]
		c.window -= int64(n)
		c.open -= int64(n)
	}
	return out
}

func (c *unary) read(in []byte) (n int, out []byte, a *reply, err error) {
	if len(in) < 9 {
		return 0, nil, nil, nil
	}
	n = 9 + int(in[0])<<16 + int(in[1])<<8 + int(in[2])
	if len(in) < n {
		return 0, nil, nil, nil
	}
	kind, flags, stream, p := http2.FrameType(in[3]), http2.Flags(in[4]), binary.BigEndian.Uint32(in[5:]), in[9:n]
	ended := false
	switch kind {
	case http2.FrameData:
		c.last.body = append(c.last.body, p...)
		if c.used += len(p); c.used > wide/2 {
			out = frame(out, 4, http2.FrameWindowUpdate, 0, 0)
			out = binary.BigEndian.AppendUint32(out, uint32(c.used))
			c.used = 0
		}
		ended = flags.Has(http2.FlagDataEndStream)
	case http2.FrameHeaders:
		if flags != http2.FlagHeadersEndHeaders && flags != http2.FlagHeadersEndHeaders|http2.FlagHeadersEndStream {
			return 0, nil, nil, fmt.Errorf("the server sends headers in a way that is not read here: flags %x", flags)
		}
		if _, err := c.decoder.Write(p); err != nil {
			return 0, nil, nil, err
		}
		ended = flags.Has(http2.FlagHeadersEndStream)
	case http2.FrameSettings:
		if flags.Has(http2.FlagSettingsAck) {
			break
		}
		for ; len(p) >= 6; p = p[6:] {
			value := binary.BigEndian.Uint32(p[2:])
			switch http2.SettingID(binary.BigEndian.Uint16(p)) {
			case http2.SettingInitialWindowSize:
				c.open += int64(value) - c.initial
				c.initial = int64(value)
			case http2.SettingMaxFrameSize:
				c.frame = int(value)
			}
		}
		out = c.send(frame(out, 0, http2.FrameSettings, http2.FlagSettingsAck, 0))
	case http2.FramePing:
		if !flags.Has(http2.FlagPingAck) {
			out = append(frame(out, len(p), http2.FramePing, http2.FlagPingAck, 0), p...)
		}
	case http2.FrameWindowUpdate:
		if more := int64(binary.BigEndian.Uint32(p)); stream == 0 {
			c.window += more
		} else if stream == c.stream {
			c.open += more
		}
		out = c.send(out)
	case http2.FrameRSTStream:
		if len(p) != 4 || binary.BigEndian.Uint32(p) != uint32(http2.ErrCodeNo) { // no error: it has no use for the rest of the request
			return 0, nil, nil, fmt.Errorf("the server sent %s %q", kind, p)
		}
	case http2.FrameGoAway, http2.FrameContinuation:
		return 0, nil, nil, fmt.Errorf("the server sent %s %q", kind, p)
	}
	if !ended {
		return n, out, nil, nil
	}
	c.unsent = nil
	const unavailable, exhausted = "14", "8"
	switch {
	case c.status != "0":
		c.last.refused = c.status == unavailable || c.status == exhausted
		c.last.wrong = fmt.Sprintf("gRPC status %s: %.300q", c.status, c.text)
	case len(c.last.body) < 5:
		c.last.wrong = "the answer has no message"
	default:
		answer := c.last
		answer.body = answer.body[5:]
		return n, out, &answer, nil
	}
	return n, out, &c.last, nil
}
