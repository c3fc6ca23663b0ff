package serve

import (
	"net/http"
	"strconv"
	"time"
)

// draft is what answers of HTTP/1.1 and HTTP/2 have in common: what the handler has said of one so far.
type draft struct {
	begun  time.Time
	header http.Header
	status int   // 0 until WriteHeader
	length int64 // of the body, as the handler says; -1: it does not
	got    int64 // bytes of the body that the handler has written
	typed  bool  // the handler says of which type the body is, or it is encoded
	dated  bool  // and when it was made
}

func newDraft(now time.Time) draft {
	return draft{begun: now, header: make(http.Header, 4), length: -1}
}

// Header gives the header of the answer. What is changed once it has begun has no effect, but for trailers of HTTP/2.
func (d *draft) Header() http.Header { return d.header }

// begin takes a status; false: there is one already, or it is that of an interim answer, and nothing begins.
func (d *draft) begin(status int) bool {
	if status < 100 || status > 999 {
		panic("serve: status " + strconv.Itoa(status)) // as net/http does
	}
	if d.status != 0 || status < http.StatusOK {
		return false
	}
	d.status = status
	if said := d.header["Content-Length"]; len(said) == 1 {
		if n, err := strconv.ParseInt(said[0], 10, 64); err == nil && n >= 0 {
			d.length = n
		}
	}
	_, typed := d.header["Content-Type"]
	_, encoded := d.header["Content-Encoding"]
	d.typed = typed || encoded
	_, d.dated = d.header["Date"]
	return true
}

// bodyless tells whether the answer can't have a body.
func (d *draft) bodyless() bool {
	return d.status == http.StatusNoContent || d.status == http.StatusNotModified
}

// take counts n bytes more of the body, or says why there must be none.
func (d *draft) take(n int) error {
	switch {
	case n == 0:
		return nil
	case d.bodyless():
		return http.ErrBodyNotAllowed
	case d.length >= 0 && d.got+int64(n) > d.length:
		return http.ErrContentLength
	}
	d.got += int64(n)
	return nil
}
