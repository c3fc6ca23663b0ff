package serve

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
)

func TestReadPlain(t *testing.T) {
	const post = "POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"
	large := "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 90000\r\n\r\n"
	for name, c := range map[string]struct {
		in   string
		want verdict
	}{
		"nothing":                {"", partial},
		"a letter":               {"P", partial},
		"half a head":            {post[:40], partial},
		"half a body":            {post[:len(post)-1], partial},
		"all":                    {post, plain},
		"more than all":          {post + "GET", plain},
		"a GET":                  {"GET /readyz HTTP/1.1\r\nHost: a:8080\r\n\r\n", plain},
		"a query":                {"GET /a?b=c&d HTTP/1.1\r\nHost: a\r\n\r\n", plain},
		"an escape":              {"GET /a%20b HTTP/1.1\r\nHost: a\r\n\r\n", plain},
		"values twice":           {"GET /a HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nx-a: 2\r\n\r\n", plain},
		"close":                  {"GET /a HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n", plain},
		"HTTP/2":                 {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", strange},
		"HTTP/1.0":               {"GET / HTTP/1.0\r\nHost: a\r\n\r\n", strange},
		"TLS":                    {"\x16\x03\x01", strange},
		"another method":         {"PUT /", strange},
		"a broken escape":        {"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", strange},
		"a whole URL":            {"GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", strange},
		"two slashes":            {"GET //a HTTP/1.1\r\nHost: b\r\n\r\n", strange},
		"a fragment":             {"GET /a#b HTTP/1.1\r\nHost: b\r\n\r\n", strange},
		"spaces in a target":     {"GET /a b HTTP/1.1\r\nHost: b\r\n\r\n", strange},
		"no host":                {"GET / HTTP/1.1\r\n\r\n", strange},
		"no host but more":       {"GET / HTTP/1.1\r\nX: y\r\n\r\n", strange},
		"two hosts":              {"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", strange},
		"a strange host":         {"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", strange},
		"two lengths":            {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}", strange},
		"a list of lengths":      {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2, 2\r\n\r\n{}", strange},
		"a signed length":        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +2\r\n\r\n{}", strange},
		"chunks":                 {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", strange},
		"chunks and a length":    {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", strange},
		"chunks, spelt":          {"POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: xchunked\r\n\r\n", strange},
		"a GET with a body":      {"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}", strange},
		"a body that is awaited": {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n{}", strange},
		"another protocol":       {"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", strange},
		"a folded line":          {"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", strange},
		"a space before a colon": {"GET / HTTP/1.1\r\nHost: a\r\nContent-Length : 2\r\n\r\n{}", strange},
		"a line without a colon": {"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", strange},
		"a line without a name":  {"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", strange},
		"a bare line feed":       {"GET / HTTP/1.1\nHost: a\r\nX: a\nY: b\r\n\r\n", strange},
		"a zero byte":            {"GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n", strange},
		"a large body":           {large, strange},
		"a large head":           {"GET / HTTP/1.1\r\nX: " + strings.Repeat("a", headMost), strange},
		"a blank line first":     {"\r\n" + post, strange},
	} {
		var r request
		if got := readPlain([]byte(c.in), &r); got != c.want {
			t.Errorf("%s: got %d, want %d", name, got, c.want)
		}
	}
}

// FuzzPlain holds what is taken for a plain request against net/http's reading of the same bytes.
func FuzzPlain(f *testing.F) {
	for _, s := range []string{
		"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nx-a: 1\r\nX-A:\t2 \r\n\r\n{}GET / HTTP/1.1\r\n\r\n",
		"GET /a%2Fb?x=%41&y HTTP/1.1\r\nHost: [::1]:80\r\nConnection: close\r\n\r\n",
		"POST /a:b@c,d;e HTTP/1.1\r\nHost: a\r\nContent-Length: 000000\r\nAccept: */*\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var got request
		if readPlain(b, &got) != plain {
			return
		}
		in := bytes.NewReader(b)
		buffered := bufio.NewReader(in)
		want, err := http.ReadRequest(buffered)
		if err != nil {
			t.Fatalf("took %q, which net/http refuses: %v", b, err)
		}
		body, err := io.ReadAll(want.Body)
		if err != nil || !bytes.Equal(body, got.body) {
			t.Errorf("%q: got the body %q, want %q, %v", b, got.body, body, err)
		}
		if left := in.Len() + buffered.Buffered(); left != len(b)-got.bytes {
			t.Errorf("%q: %d bytes are left, want %d", b, len(b)-got.bytes, left)
		}
		delete(want.Header, "Host") // as its server does
		if got.Method != want.Method || got.RequestURI != want.RequestURI || got.Proto != want.Proto || got.ProtoMajor != want.ProtoMajor || got.ProtoMinor != want.ProtoMinor ||
			got.Host != want.Host || got.ContentLength != want.ContentLength || got.Close != want.Close || want.TransferEncoding != nil || want.Trailer != nil {
			t.Errorf("%q: got %+v, want %+v", b, &got.Request, want)
		}
		if !reflect.DeepEqual(got.URL, want.URL) || !reflect.DeepEqual(got.Header, want.Header) {
			t.Errorf("%q: got %#v %v, want %#v %v", b, got.URL, got.Header, want.URL, want.Header)
		}
	})
}
