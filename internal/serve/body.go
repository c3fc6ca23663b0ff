package serve

import (
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// Unpacked gives a request's body as it was before its Content-Encoding: gzip,
// deflate or identity. What it grows to has the limit of the body itself, and what is
// wrong with it is Invalid. There is nothing to close: unpacking holds on to memory alone.
func Unpacked(r *http.Request) (io.Reader, error) {
	var z io.Reader
	var err error
	coding := strings.ToLower(r.Header.Get("Content-Encoding"))
	switch coding {
	case "", "identity":
		return r.Body, nil
	case "gzip":
		z, err = gzip.NewReader(r.Body)
	case "deflate":
		z, err = zlib.NewReader(r.Body)
	default:
		return nil, fault.New(fault.Invalid, "Content-Encoding %q is not one of gzip, deflate, identity", tensor.Clip(coding))
	}
	if err != nil {
		return nil, packedError(coding, err)
	}
	limit := BodyLimit(r)
	return &unpacked{r: z, coding: coding, left: limit, limit: limit}, nil
}

// unpacked bounds what a compressed body may grow to.
type unpacked struct {
	r           io.Reader
	coding      string
	left, limit int64
}

func (u *unpacked) Read(p []byte) (int, error) {
	if u.left < 0 {
		return 0, &http.MaxBytesError{Limit: u.limit}
	}
	if int64(len(p)) > u.left+1 {
		p = p[:u.left+1]
	}
	n, err := u.r.Read(p)
	u.left -= int64(n)
	if u.left < 0 {
		return n, &http.MaxBytesError{Limit: u.limit}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = packedError(u.coding, err)
	}
	return n, err
}

func packedError(coding string, err error) error {
	if fault.KindOf(err) != fault.Internal {
		return err // the body itself failed: too large, too slow
	}
	return fault.Wrap(fault.Invalid, err, "the body is not valid %s, as its Content-Encoding says", coding)
}
