package gate

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
)

const inferenceService = "/inference.GRPCInferenceService/"

// peekMost is how much of a message is looked at. Its fields come in the order of their numbers as a rule, and that of the name is the first.
const peekMost = 4 << 10

// peek reads the name of the model from the beginning of a call's first message; "": it is not there. What it read is read again
// by whoever reads the body. The function refuses a message that later names another model.
func peek(r *http.Request) (string, error) {
	if !strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") || r.Body == nil || r.Body == http.NoBody {
		return "", nil
	}
	field := protowire.Number(1)
	switch method := strings.TrimPrefix(r.URL.Path, inferenceService); {
	case strings.HasPrefix(method, "RepositoryModel"):
		field = 2
	case !strings.HasPrefix(method, "Model") || method == "ModelStreamInfer": // whose first message may come when it likes
		return "", nil
	}
	b := bufio.NewReaderSize(r.Body, peekMost)
	r.Body = readCloser{b, r.Body}
	head, err := b.Peek(5)
	if err != nil {
		return "", unread(err)
	}
	if head[0] != 0 {
		return "", nil // it is compressed
	}
	message, err := b.Peek(min(5+int(min(binary.BigEndian.Uint32(head[1:]), peekMost)), peekMost))
	if err != nil {
		return "", unread(err)
	}
	return nameIn(message[5:], field), nil
}

// unread says why a message could not be read; one that does not come is for the function to refuse.
func unread(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	if fault.KindOf(err) != fault.Internal {
		return err
	}
	return serve.BodyError(err)
}

// nameIn finds a text in the beginning of a message.
func nameIn(b []byte, field protowire.Number) string {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return ""
		}
		b = b[n:]
		if number == field && kind == protowire.BytesType {
			name, n := protowire.ConsumeBytes(b)
			if n < 0 || len(name) > 200 {
				return ""
			}
			return string(name)
		}
		if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
			return ""
		}
		b = b[n:]
	}
	return ""
}

type readCloser struct {
	io.Reader
	io.Closer
}
