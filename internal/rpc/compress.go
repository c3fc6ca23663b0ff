package rpc

import (
	"bytes"
	"errors"
	"io"
	"net/http"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// packLeast is the smallest answer worth compressing: what fits one packet gets
// no faster.
const packLeast = 1400

// unpack puts a decompressed message behind dst, up to limit bytes of it.
func unpack(dst []byte, coding string, message []byte, limit int64) ([]byte, error) {
	var z io.Reader
	var err error
	if coding == "gzip" {
		z, err = gzip.NewReader(bytes.NewReader(message))
	} else {
		z, err = zlib.NewReader(bytes.NewReader(message))
	}
	out := bytes.NewBuffer(dst)
	if err == nil {
		_, err = out.ReadFrom(http.MaxBytesReader(nil, io.NopCloser(z), limit))
	}
	if err != nil && !errors.As(err, new(*http.MaxBytesError)) {
		err = fault.Wrap(fault.Invalid, err, "the message is not valid %s, as its grpc-encoding says", coding)
	}
	return out.Bytes(), err
}

// pack makes a compressed message, behind its prefix.
func pack(coding string, message []byte) ([]byte, error) {
	var out bytes.Buffer
	out.Write([]byte{1, 0, 0, 0, 0})
	var z io.WriteCloser
	if coding == "gzip" {
		z = gzip.NewWriter(&out)
	} else { // deflate, which means the zlib format, as in HTTP
		z = zlib.NewWriter(&out)
	}
	if _, err := z.Write(message); err != nil {
		return nil, err
	}
	err := z.Close()
	return out.Bytes(), err
}
