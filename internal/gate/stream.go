package gate

import (
	"encoding/binary"
	"io"
	"net/http"
	"strings"

	"github.com/pilotlight-ml/pilotlight/internal/serve"
)

// streams tells whether a method takes messages for as long as its caller likes.
func streams(path string) bool {
	switch path[strings.LastIndexByte(path, '/')+1:] {
	case "ModelStreamInfer", "ServerReflectionInfo":
		return true
	}
	return false
}

// stream makes a call one without a deadline: its messages have to keep the pace that bodies have to, with pauses between them.
func stream(r *http.Request) {
	s := serve.OpenStream(r)
	if r.Body != nil {
		r.Body = &messages{ReadCloser: r.Body, stream: s}
	}
}

// messages are the body of a stream. It tells where one message ends, and that the next may take its time.
type messages struct {
	io.ReadCloser
	stream *serve.Stream
	prefix [5]byte
	have   int   // bytes of the prefix
	left   int64 // bytes of the message
}

func (m *messages) Read(p []byte) (int, error) {
	if m.have == 0 && m.left == 0 {
		m.stream.Await()
	}
	n, err := m.ReadCloser.Read(p)
	for b := p[:n]; len(b) > 0; {
		if m.left > 0 {
			k := min(m.left, int64(len(b)))
			m.left -= k
			b = b[k:]
			continue
		}
		k := copy(m.prefix[m.have:], b)
		b = b[k:]
		if m.have += k; m.have == len(m.prefix) {
			m.have, m.left = 0, int64(binary.BigEndian.Uint32(m.prefix[1:]))
		}
	}
	return n, err
}
