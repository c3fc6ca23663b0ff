package serve

import (
	"bytes"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
)

// verdict is what is known of the bytes that a connection begins with.
type verdict int

const (
	plain       verdict = iota // a plain request, all of it
	partial                    // it may become one
	strange                    // it is something else, which net/http shall judge
	multiplexed                // the preface of HTTP/2
)

const (
	headMost  = 8 << 10  // bytes of a plain request's head
	plainMost = 64 << 10 // and of all of it
)

var headEnd = []byte("\r\n\r\n")

// request is a plain request as it was read.
type request struct {
	http.Request
	body  []byte // within what was read
	bytes int    // of it, body included
}

// readPlain reads the request that b begins with into r, if it is a plain one: a GET or POST of
// HTTP/1.1 in whose head nothing stands that has two readings or changes how the
// connection goes on. It refuses nothing: of whatever it does not know
// for sure, it says that it is strange. What it takes, http.ReadRequest takes for the same
// (FuzzPlain).
func readPlain(b []byte, r *request) verdict {
	end := bytes.Index(b[:min(len(b), headMost)], headEnd)
	if end < 0 {
		if len(b) >= headMost || !begins(b) {
			return strange
		}
		return partial
	}
	if !begins(b) {
		return strange
	}
	head := string(b[:end]) // all strings of the request are parts of it
	line, rest, _ := strings.Cut(head, "\r\n")
	method, line, _ := strings.Cut(line, " ")
	target, proto, _ := strings.Cut(line, " ")
	if proto != "HTTP/1.1" {
		return strange
	}
	u := targetOf(target)
	if u == nil {
		return strange
	}
	r.Request = http.Request{Method: method, URL: u, RequestURI: target, Proto: proto, ProtoMajor: 1, ProtoMinor: 1, Body: http.NoBody}
	length, ok := r.readHeader(rest)
	if !ok || method == http.MethodGet && length > 0 {
		return strange
	}
	r.ContentLength = int64(length)
	r.bytes = end + len(headEnd) + length
	switch {
	case r.bytes > plainMost:
		return strange
	case r.bytes > len(b):
		return partial
	}
	r.body = b[r.bytes-length : r.bytes]
	return plain
}

// begins tells whether b may be the beginning of a plain request.
func begins(b []byte) bool {
	for _, method := range []string{"POST /", "GET /"} {
		if n := min(len(b), len(method)); string(b[:n]) == method[:n] {
			return true
		}
	}
	return false
}

// targetOf reads a path, with a query if it has one; nil: it is not a plain one.
func targetOf(target string) *url.URL {
	if !strings.HasPrefix(target, "/") || strings.HasPrefix(target, "//") {
		return nil
	}
	for i := range len(target) {
		switch class[target[i]] & (path | query) {
		case path:
		case query:
			u, err := url.ParseRequestURI(target)
			if err != nil {
				return nil
			}
			return u
		default:
			return nil
		}
	}
	return &url.URL{Path: target}
}

// readHeader reads the lines of a head, and the length of the body from them.
func (r *request) readHeader(lines string) (length int, ok bool) {
	n := strings.Count(lines, "\r\n") + 1
	r.Header = make(http.Header, n)
	values, closing, sized := make([]string, n), false, false
	for more := lines != ""; more; {
		var line string
		line, lines, more = strings.Cut(lines, "\r\n")
		name, value, ok := strings.Cut(line, ":")
		if !ok || name == "" || !all(name, token) || !all(value, text) {
			return 0, false
		}
		value = strings.Trim(value, " \t")
		switch name = textproto.CanonicalMIMEHeaderKey(name); name {
		case "Host":
			if r.Host != "" || !all(value, host) || value == "" {
				return 0, false
			}
			r.Host = value
			continue
		case "Content-Length":
			if sized || value == "" || len(value) > 6 || !all(value, digit) {
				return 0, false
			}
			for _, c := range []byte(value) {
				length = 10*length + int(c-'0')
			}
			sized = true
		case "Connection":
			if closing {
				return 0, false
			}
			switch strings.ToLower(value) {
			case "keep-alive":
			case "close":
				r.Close = true
			default:
				return 0, false
			}
			closing = true
		case "Transfer-Encoding", "Trailer", "Te", "Expect", "Upgrade", "Http2-Settings", "Pragma":
			return 0, false
		}
		if had := r.Header[name]; had != nil {
			r.Header[name] = append(had, value)
			continue
		}
		values[0] = value
		r.Header[name], values = values[:1:1], values[1:]
	}
	return length, r.Host != ""
}

// The classes of bytes.
const (
	path  = 1 << iota // of a path, standing for themselves
	query             // of a target that net/url shall read
	token             // of a header's name
	text              // of a header's value
	host              // of a host and port
	digit
)

var class = classes()

func classes() (c [256]uint8) {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	for bytes, is := range map[string]uint8{
		letters + "-._~/:@$&+,;=":   path,
		"?%!'()*":                   query,
		letters + "!#$%&'*+-.^_`|~": token,
		letters + ".-_:[]":          host,
		"0123456789":                digit,
		"\t":                        text,
	} {
		for _, b := range []byte(bytes) {
			c[b] |= is
		}
	}
	for b := ' '; b <= '~'; b++ {
		c[b] |= text
	}
	return c
}

// all tells whether s has bytes of a class alone.
func all(s string, is uint8) bool {
	for i := range len(s) {
		if class[s[i]]&is == 0 {
			return false
		}
	}
	return true
}
