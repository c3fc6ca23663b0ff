package predict_test

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/oip"
	"github.com/pilotlight-ml/pilotlight/internal/predict/predicttest"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// le writes a fixed-size value, or a slice of them, as tensors have it on the wire.
func le(v any) string {
	b, err := binary.Append(nil, binary.LittleEndian, v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// lengths writes strings as tensors of BYTES have them on the wire.
func lengths(words ...string) string {
	var b strings.Builder
	for _, w := range words {
		b.WriteString(le(uint32(len(w))) + w)
	}
	return b.String()
}

// headerLength is the header for JSON of n bytes.
func headerLength(n int) string { return oip.HeaderLength + ": " + strconv.Itoa(n) }

// split cuts an answer into its JSON and the bytes behind it.
func split(t *testing.T, a predicttest.Answer) (head, raw string) {
	t.Helper()
	kind, text := a.Header.Get("Content-Type"), a.Header.Get(oip.HeaderLength)
	if text == "" {
		if kind != "application/json" {
			t.Errorf("Content-Type is %q, want application/json", kind)
		}
		return a.Body, ""
	}
	if kind != "application/octet-stream" {
		t.Errorf("Content-Type is %q, want application/octet-stream", kind)
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > len(a.Body) {
		t.Fatalf("%s is %q for a body of %d bytes", oip.HeaderLength, text, len(a.Body))
	}
	return a.Body[:n], a.Body[n:]
}

// refusal gives the sentence of an answer that is an error.
func refusal(t *testing.T, a predicttest.Answer) string {
	t.Helper()
	var body map[string]string
	if err := json.Unmarshal([]byte(a.Body), &body); err != nil || len(body) != 1 || body["error"] == "" {
		t.Errorf("got %d %q, want an error and nothing else", a.Status, a.Body)
	}
	if kind := a.Header.Get("Content-Type"); kind != "application/json" {
		t.Errorf("Content-Type is %q, want application/json", kind)
	}
	if strings.ContainsAny(body["error"], "\n\r") {
		t.Errorf("%q is more than a sentence", body["error"])
	}
	return body["error"]
}

// want checks status and body of an answer.
func want(t *testing.T, got predicttest.Answer, status int, body string) {
	t.Helper()
	if got.Status != status || strings.TrimSuffix(got.Body, "\n") != body {
		t.Errorf("got  %d %s\nwant %d %s", got.Status, got.Body, status, body)
	}
}

// wantError checks status and sentence of an error.
func wantError(t *testing.T, got predicttest.Answer, status int, sentence string) {
	t.Helper()
	if text := refusal(t, got); got.Status != status || text != sentence {
		t.Errorf("got  %d %s\nwant %d %s", got.Status, text, status, sentence)
	}
}

// pack compresses as Content-Encoding says.
func pack(t testing.TB, coding, body string) string {
	t.Helper()
	var b bytes.Buffer
	var z io.WriteCloser = gzip.NewWriter(&b)
	if coding == "deflate" {
		z = zlib.NewWriter(&b)
	}
	if _, err := io.WriteString(z, body); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// unpack is the inverse of pack.
func unpack(t testing.TB, coding, body string) string {
	t.Helper()
	var z io.Reader
	var err error
	if coding == "deflate" {
		z, err = zlib.NewReader(strings.NewReader(body))
	} else {
		z, err = gzip.NewReader(strings.NewReader(body))
	}
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// spec is an input for onnxtest.Identity.
func spec(d tensor.Type, shape ...int64) tensor.Spec { return tensor.Spec{Type: d, Shape: shape} }

// simple is a request for onnxtest.Simple: rows of sixteen ones and sixteen ones.
func simple(rows int) string {
	ones := strings.TrimSuffix(strings.Repeat("1,", rows*16), ",")
	in := `{"name":"INPUT%d","shape":[%d,16],"datatype":"INT32","data":[%s]}`
	return `{"inputs":[` + fmt.Sprintf(in, 0, rows, ones) + "," + fmt.Sprintf(in, 1, rows, ones) + `]}`
}

// floats is a request with one input X of FP32.
func floats(data string) string {
	n := strings.Count(data, ",") + 1
	return fmt.Sprintf(`{"inputs":[{"name":"X","shape":[%d],"datatype":"FP32","data":[%s]}]}`, n, data)
}
