package predict

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"

	"github.com/pilotlight-ml/pilotlight/internal/cache"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/oip"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// exchange is one V2 request over HTTP. Its memory is reused by later ones.
type exchange struct {
	body    []byte
	header  int // length of the JSON part of body, -1: all of it is
	in      oip.Request
	request Request
	names   []string

	out       oip.Response
	buf       []byte
	outHeader int  // as header, of buf
	large     bool // the request was, and so is the memory that it took
}

var _ call = (*exchange)(nil)

var exchanges = sync.Pool{New: func() any { return new(exchange) }}

func newExchange() call { return exchanges.Get().(*exchange) }

func (e *exchange) take(body []byte, header int) { e.body, e.header = body, header }

func (e *exchange) answer() ([]byte, int) { return e.buf, e.outHeader }

func (e *exchange) size() int { return len(e.body) }

func (e *exchange) protocol() protocol {
	if e.header >= 0 {
		return byBinary
	}
	return byJSON
}

func (e *exchange) copied() (edge, error) {
	pad := -max(e.header, 0) & 7 // as readBody has it
	b := append(make([]byte, pad, pad+len(e.body)), e.body...)
	return &exchange{body: b[pad:], header: e.header}, nil
}

// keepMost is the largest buffer that is kept for reuse: an odd giant must not
// stay in memory for ever.
const keepMost = 4 << 20

// free gives the memory back. Nothing of the request may be used afterwards.
func (e *exchange) free() {
	if cap(e.buf) > keepMost || e.large {
		return
	}
	e.body, e.request = nil, Request{}
	e.out = oip.Response{Binary: e.out.Binary[:0]}
	exchanges.Put(e)
}

func (e *exchange) decode(m *model.Manifest, asks []tensor.Spec) (*Request, error) {
	e.large = len(e.body) > keepMost
	if e.header == 0 {
		return e.decodeRaw(m, asks)
	}
	if err := e.in.Decode(e.body, e.header); err != nil {
		return nil, err
	}
	var err error
	if e.names, err = wanted(e.names[:0], e.in.Outputs); err != nil {
		return nil, err
	}
	e.request = Request{ID: e.in.ID, Inputs: e.in.Inputs, Outputs: e.names}
	if m.Features != "" {
		e.request.FeatureTime, err = featureTime(e.in.Parameters)
	}
	return &e.request, err
}

// wanted adds the names of the outputs that a request asks for to dst.
func wanted(dst []string, outputs []oip.Output) ([]string, error) {
	for _, o := range outputs {
		if o.Parameters["classification"] != nil {
			return nil, fault.New(fault.Invalid, "output %q: the parameter classification is not supported", tensor.Clip(o.Name))
		}
		dst = append(dst, o.Name)
	}
	return dst, nil
}

// decodeRaw takes a body that is one tensor and nothing else.
func (e *exchange) decodeRaw(m *model.Manifest, asks []tensor.Spec) (*Request, error) {
	if len(asks) != 1 {
		return nil, fault.New(fault.Invalid, "a raw request (%s: 0) needs a model with one input; model %q has %d", oip.HeaderLength, m.Name, len(asks))
	}
	t, err := oip.RawInput(asks[0], e.body)
	if err != nil {
		return nil, err
	}
	e.in.ID, e.in.Parameters, e.in.Outputs = "", nil, e.in.Outputs[:0]
	e.in.Inputs = append(e.in.Inputs[:0], t)
	e.in.BinaryOutput = true
	e.request = Request{Inputs: e.in.Inputs}
	return &e.request, nil
}

// encode writes the answer into the exchange's buffer.
func (e *exchange) encode(a *Answer, version string) error {
	e.out.ModelName, e.out.ModelVersion, e.out.ID = a.Manifest.Name, version, e.in.ID
	e.out.Outputs = a.Outputs
	e.out.Binary = e.out.Binary[:0]
	for i := range a.Outputs {
		binary := e.in.BinaryOutput
		if len(e.in.Outputs) > 0 {
			binary = e.in.Outputs[i].Binary
		}
		e.out.Binary = append(e.out.Binary, binary)
	}
	var err error
	e.buf, e.outHeader, err = e.out.Append(e.buf[:0])
	return err
}

// compressLeast is the smallest answer worth compressing: what fits one packet
// gets no faster.
const compressLeast = 1400

// write sends an answer, of which header bytes are JSON; -1: all of it is.
func write(w http.ResponseWriter, r *http.Request, body []byte, header int) error {
	head := w.Header()
	if header >= 0 {
		head["Content-Type"] = octetStreamValue
		head.Set(oip.HeaderLength, strconv.Itoa(header))
	} else {
		head["Content-Type"] = jsonValue
	}
	if len(body) >= compressLeast {
		head["Vary"] = varyValue
		if coding := acceptedCoding(r.Header.Get("Accept-Encoding")); coding != "" {
			return writeCompressed(w, coding, body)
		}
	}
	head.Set("Content-Length", strconv.Itoa(len(body)))
	_, err := w.Write(body)
	return writeError(r, err)
}

// cacheControl reads what the caller says of remembered answers.
func cacheControl(r *http.Request) cache.Control {
	if values := r.Header["Cache-Control"]; values != nil {
		return cache.ParseControl(strings.Join(values, ","))
	}
	return cache.Control{}
}

// tellCache says in the header where an answer came from (RFC 9211, and RFC 9111 of its age).
func tellCache(head http.Header, o cache.Outcome) {
	if o.Status == cache.Off {
		return
	}
	head["Cache-Status"] = []string{string(o.AppendHeader(nil))}
	if o.Status.Cached() {
		head["Age"] = []string{strconv.FormatInt(int64(o.Age/time.Second), 10)}
	}
}

// Header values that never change are shared, not made anew for each answer.
var (
	jsonValue        = []string{"application/json"}
	octetStreamValue = []string{"application/octet-stream"}
	varyValue        = []string{"Accept-Encoding"}
)

// writeError notes a failed write for the log: the status has gone out already.
func writeError(r *http.Request, err error) error {
	if err != nil {
		serve.Failed(r, err)
	}
	return nil
}

// acceptedCoding chooses between the codings that a caller accepts.
func acceptedCoding(accept string) string {
	best := ""
	for item := range strings.SplitSeq(accept, ",") {
		name, params, _ := strings.Cut(strings.ToLower(item), ";")
		if q := strings.ReplaceAll(params, " ", ""); strings.HasPrefix(q, "q=0") && strings.Trim(q, "q=0.") == "" {
			continue
		}
		switch name = strings.TrimSpace(name); name {
		case "gzip":
			return name
		case "deflate":
			best = name
		}
	}
	return best
}

var (
	gzipWriters = sync.Pool{New: func() any {
		w, _ := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed) // the level is a valid one
		return w
	}}
	zlibWriters = sync.Pool{New: func() any {
		w, _ := zlib.NewWriterLevel(io.Discard, zlib.BestSpeed)
		return w
	}}
)

func writeCompressed(w http.ResponseWriter, coding string, body []byte) error {
	type writer interface {
		io.WriteCloser
		Reset(io.Writer)
	}
	pool := &gzipWriters
	if coding == "deflate" { // which in HTTP means the zlib format (RFC 9110, 8.4.1.2)
		pool = &zlibWriters
	}
	z := pool.Get().(writer)
	defer pool.Put(z)
	var out bytes.Buffer
	z.Reset(&out)
	if _, err := z.Write(body); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	w.Header().Set("Content-Encoding", coding)
	w.Header().Set("Content-Length", strconv.Itoa(out.Len()))
	_, err := w.Write(out.Bytes())
	return err
}

// trustMost is how much memory a body gets on its word; beyond it, as its bytes come.
const trustMost = 1 << 20

var bodies = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// readBody reads a request's whole body, decompressed, into memory where the byte
// at header lies as tensors want it. done gives the memory back; nothing that was
// decoded from the body may be used afterwards.
func readBody(r *http.Request, header int) (body []byte, done func(), err error) {
	in, err := serve.Unpacked(r)
	if err != nil {
		return nil, nil, err
	}
	buf := bodies.Get().(*bytes.Buffer)
	buf.Reset()
	pad := -max(header, 0) & 7
	buf.Write(zeroes[:pad])
	if n := min(r.ContentLength, trustMost); n > 0 {
		buf.Grow(int(n) + bytes.MinRead) // with room to see the end without growing again
	}
	done = func() {
		if buf.Cap() <= keepMost {
			bodies.Put(buf)
		}
	}
	if _, err := buf.ReadFrom(in); err != nil {
		done()
		return nil, nil, serve.BodyError(err)
	}
	return buf.Bytes()[pad:], done, nil
}

var zeroes [8]byte
