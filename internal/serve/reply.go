package serve

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"
)

// reply is the answer to a plain request, as net/http would send it: with a Content-Length if the
// handler gives one or writes little, else in chunks. Interim answers (1xx) are not sent.
type reply struct {
	draft
	conn     *conn
	draining *atomic.Bool
	closing  bool // the connection ends with it
	headed   bool // the head is complete
	chunked  bool
	wrong    bool  // the handler has written more than it said
	failed   error // of sending

	head []byte // lines of the handler, then all of the head and what is to be sent with it
	body []byte // written while the head is not complete
}

// besideMost is up to how large a part of a body is copied, so as to be sent with what comes before it.
const besideMost = 32 << 10

func newReply(l *lane, now time.Time, closing bool) *reply {
	return &reply{draft: newDraft(now), conn: l.conn, draining: &l.lanes.draining, closing: closing, head: l.head[:0], body: l.body[:0]}
}

// WriteHeader begins the answer.
func (w *reply) WriteHeader(status int) {
	if !w.begin(status) {
		return
	}
	w.head = append(w.head, "HTTP/1.1 "...)
	w.head = strconv.AppendInt(w.head, int64(status), 10)
	text := http.StatusText(status)
	if text == "" {
		text = "status code " + strconv.Itoa(status)
	}
	w.head = append(append(append(w.head, ' '), text...), "\r\n"...)
	var room [16]string
	names := room[:0]
	for name := range w.header {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		values := w.header[name]
		switch name {
		case "Content-Length", "Transfer-Encoding", "Trailer": // it is for finish to say
			continue
		case "Connection":
			w.closing = w.closing || httpguts.HeaderValuesContainsToken(values, "close")
			continue
		}
		if !httpguts.ValidHeaderFieldName(name) {
			continue
		}
		for _, value := range values {
			w.line(name, plainValue.Replace(value))
		}
	}
	if !w.dated {
		w.line("Date", date(w.begun))
	}
}

// plainValue has no value begin a line of its own.
var plainValue = strings.NewReplacer("\r", " ", "\n", " ")

func (w *reply) line(name, value string) {
	w.head = append(append(append(append(w.head, name...), ": "...), value...), "\r\n"...)
}

// Write writes a part of the body.
func (w *reply) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if err := w.take(len(p)); err != nil || len(p) == 0 {
		w.wrong = w.wrong || errors.Is(err, http.ErrContentLength)
		return 0, err
	}
	if !w.headed {
		if w.length < 0 && len(w.body)+len(p) <= bufferedMost {
			w.body = append(w.body, p...)
			return len(p), nil
		}
		w.finish(p, false)
	}
	w.send(p)
	if w.failed != nil {
		return 0, w.failed
	}
	return len(p), nil
}

// finish completes the head before the first bytes of the body; whole says that no more come.
func (w *reply) finish(first []byte, whole bool) {
	w.headed = true
	if len(w.body) > 0 {
		first = w.body
	}
	if !w.typed && len(first) > 0 {
		w.line("Content-Type", http.DetectContentType(first))
	}
	if whole && w.length < 0 {
		w.length = int64(len(w.body))
	}
	switch {
	case w.bodyless():
	case w.length >= 0:
		w.head = strconv.AppendInt(append(w.head, "Content-Length: "...), w.length, 10)
		w.head = append(w.head, "\r\n"...)
	default:
		w.chunked = true
		w.line("Transfer-Encoding", "chunked")
	}
	if w.closing = w.closing || w.draining.Load(); w.closing {
		w.line("Connection", "close")
	}
	w.head = append(w.head, "\r\n"...)
	if len(w.body) > 0 {
		w.send(w.body)
		w.body = w.body[:0]
	}
}

// send sends a part of the body, or keeps it to be sent with what comes next.
func (w *reply) send(p []byte) {
	if w.chunked {
		w.head = append(strconv.AppendInt(w.head, int64(len(p)), 16), "\r\n"...)
	}
	if len(w.head)+len(p) <= besideMost {
		w.head = append(w.head, p...)
	} else {
		w.out(w.head)
		w.head = w.head[:0]
		w.out(p)
	}
	if w.chunked {
		w.head = append(w.head, "\r\n"...)
	}
}

func (w *reply) out(p []byte) {
	if w.failed == nil {
		_, w.failed = w.conn.writeAll(p)
	}
}

// FlushError sends what was written so far.
func (w *reply) FlushError() error {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if !w.headed {
		w.finish(nil, false)
	}
	w.out(w.head)
	w.head = w.head[:0]
	return w.failed
}

// Flush is FlushError.
func (w *reply) Flush() { _ = w.FlushError() }

// SetReadDeadline has nothing to bound: all of the request is here.
func (w *reply) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline bounds sending.
func (w *reply) SetWriteDeadline(t time.Time) error { return w.conn.SetWriteDeadline(t) }

// end sends the last of the answer. It is false if the connection ends with it.
func (w *reply) end() bool {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if !w.headed {
		w.finish(nil, true)
	}
	if w.chunked {
		w.head = append(w.head, "0\r\n\r\n"...)
	}
	w.out(w.head)
	failed := w.failed
	w.failed = http.ErrHandlerTimeout // whoever writes now is late
	// A caller that was promised more must not wait for it.
	return !w.closing && !w.wrong && failed == nil && (w.bodyless() || w.chunked || w.got == w.length)
}

// second is a moment and how it is written in a head.
type second struct {
	unix int64
	text string
}

var lastDate atomic.Pointer[second]

// date writes a time for a head.
func date(t time.Time) string {
	unix := t.Unix()
	if d := lastDate.Load(); d != nil && d.unix == unix {
		return d.text
	}
	d := &second{unix, t.UTC().Format(http.TimeFormat)}
	lastDate.Store(d)
	return d.text
}
