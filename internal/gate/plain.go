package gate

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/net/http/httpguts"

	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// Most requests are small, whole and without anything special. They are handed on past httputil.ReverseProxy and http.Transport, with half of
// the work and by one goroutine (docs/adr/0030). Whatever is in doubt takes the other way, so that no function can tell them apart.

// unsaid are headers of a request that say nothing about it to a function: how this connection is used, what only Knative's own parts tell each other, who
// the caller says it comes from, and what pages may do, which was decided here. What stands in their place is written beside them.
var unsaid = map[string]bool{
	"Connection": true, "Keep-Alive": true, "Proxy-Connection": true, "Proxy-Authenticate": true, "Proxy-Authorization": true, "Content-Length": true,
	"Forwarded": true, "X-Forwarded-For": true, "X-Forwarded-Host": true, "X-Forwarded-Proto": true, "X-Request-Id": true, "Origin": true, "Sec-Fetch-Site": true,
}

// unheard are headers of an answer that are not for the caller: how the function's connection is used, and what the gateway says itself.
var unheard = map[string]bool{
	"Connection": true, "Keep-Alive": true, "Proxy-Connection": true, "Proxy-Authenticate": true, "Proxy-Authorization": true, "Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
	"X-Request-Id": true, "Traceresponse": true, "Ratelimit": true, "Ratelimit-Policy": true, "Server": true,
}

// plainly tells whether a request may be handed on so.
func (x *passage) plainly(r *http.Request) bool {
	if x.grpc || x.to.Scheme != "http" || r.Body != nil && r.Body != http.NoBody && x.whole == nil || len(r.Trailer) > 0 || strings.ContainsAny(r.URL.RawQuery, ";%") {
		return false
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
	default:
		return false
	}
	for name, values := range r.Header {
		switch name {
		case "Transfer-Encoding", "Trailer", "Te", "Host": // by HTTP/2 a caller may send a second Host
			return false
		case "Connection":
			for _, v := range values {
				if !strings.EqualFold(v, "keep-alive") && !strings.EqualFold(v, "close") {
					return false
				}
			}
		}
		for _, v := range values {
			if !httpguts.ValidHeaderFieldValue(v) {
				return false
			}
		}
		if !httpguts.ValidHeaderFieldName(name) {
			return false
		}
	}
	return true
}

var heads = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// pass hands a plain request on, and its answer back.
func (p *Proxy) pass(w http.ResponseWriter, r *http.Request, x *passage) {
	room := heads.Get().(*[]byte)
	request := x.write((*room)[:0], r)
	resp, err := p.deliver(x, r, func() (*http.Response, error) { return p.wires.roundTrip(r, x.to.Host, request) })
	if cap(request) <= 2*replayMost {
		*room = request
		heads.Put(room)
	}
	if err != nil {
		p.failed(w, r, err)
		return
	}
	defer resp.Body.Close()
	header := w.Header()
	drop := resp.Header["Connection"]
	for name, values := range resp.Header {
		if !unheard[name] && !named(drop, name) {
			header[name] = append(header[name], values...)
		}
	}
	announced := len(resp.Trailer)
	for name := range resp.Trailer {
		header.Add("Trailer", name)
	}
	w.WriteHeader(resp.StatusCode)
	if err := copyAnswer(w, resp); err != nil {
		telemetry.LineFrom(r.Context()).Fail(err)
		panic(http.ErrAbortHandler) // what is out is not the whole
	}
	for name, values := range resp.Trailer {
		if len(resp.Trailer) != announced { // some came unannounced
			name = http.TrailerPrefix + name
		}
		header[name] = values
	}
}

// named tells whether the values of a header Connection name another one.
func named(connection []string, name string) bool {
	for _, v := range connection {
		for option := range strings.SplitSeq(v, ",") {
			if textproto.TrimString(option) != "" && http.CanonicalHeaderKey(textproto.TrimString(option)) == name {
				return true
			}
		}
	}
	return false
}

// copyAnswer hands the body of an answer on; one whose length nobody knows goes on as it comes.
func copyAnswer(w http.ResponseWriter, resp *http.Response) error {
	if resp.Body == http.NoBody {
		return nil
	}
	b := buffers.Get()
	defer buffers.Put(b)
	for {
		n, err := resp.Body.Read(b)
		if n > 0 {
			if _, err := w.Write(b[:n]); err != nil {
				return err
			}
			if resp.ContentLength < 0 {
				if err := http.NewResponseController(w).Flush(); err != nil {
					return err
				}
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// write makes the request to the function, as rewrite does for all others.
func (x *passage) write(b []byte, r *http.Request) []byte {
	trace(r.Context(), r.Header)
	b = append(append(append(b, r.Method...), ' '), r.URL.RequestURI()...)
	b = field(append(b, " HTTP/1.1\r\n"...), "Host", x.to.Host)
	for name, values := range r.Header {
		if unsaid[name] || strings.HasPrefix(name, "Knative-") || strings.HasPrefix(name, "K-") {
			continue
		}
		for _, v := range values {
			b = field(b, name, v)
		}
	}
	b = field(b, "X-Request-Id", x.id)
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		b = field(b, "X-Forwarded-For", host)
	}
	b = field(b, "X-Forwarded-Host", r.Host)
	proto := "http"
	if r.TLS != nil {
		proto = "https"
	}
	b = field(b, "X-Forwarded-Proto", proto)
	if len(x.whole) > 0 || r.Method == http.MethodPost || r.Method == http.MethodPut || r.Method == http.MethodPatch {
		b = append(strconv.AppendInt(append(b, "Content-Length: "...), int64(len(x.whole)), 10), "\r\n"...)
	}
	return append(append(b, "\r\n"...), x.whole...)
}

func field(b []byte, name, value string) []byte {
	return append(append(append(append(b, name...), ": "...), value...), "\r\n"...)
}
