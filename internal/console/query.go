package console

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"go.opentelemetry.io/otel/propagation"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// Query is one look at a page, by somebody: it asks the API in their name.
type Query struct {
	*http.Request
	ctx     context.Context
	console *Console
	key     string
}

func (c *Console) query(r *http.Request) *Query {
	q := &Query{Request: r, ctx: r.Context(), console: c}
	if cookie, err := r.Cookie(keyCookie); err == nil {
		q.key = cookie.Value
	}
	return q
}

// answerMost is how large an answer may be that a page is made of.
const answerMost = 8 << 20

// get asks the API for what is at a path, whose parts are escaped: at("/admin/v1/models", name).
func (q *Query) get(path string, into any) error { return q.ask(http.MethodGet, path, nil, into) }

// ask sends a request, with a body in JSON if there is one, and reads the answer into a value. What the API refuses is a fault of the
// same kind, with its sentence.
func (q *Query) ask(method, path string, body, into any) error {
	var send io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		send = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(q.ctx, method, "http://self"+path, send)
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "%.200q is no path", path)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	answer, err := q.send(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(io.LimitReader(answer.Body, answerMost+1))
	switch {
	case err != nil:
		return fmt.Errorf("read %s: %w", path, err)
	case len(b) > answerMost:
		return fault.New(fault.Invalid, "this is more than %d MiB, too much for a page: the API gives it at %.300s", answerMost>>20, path)
	case answer.StatusCode >= http.StatusBadRequest:
		return refusal(answer.StatusCode, b)
	case into == nil:
		return nil
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// send sends a request in the reader's name.
func (q *Query) send(r *http.Request) (*http.Response, error) {
	if q.key != "" {
		r.Header.Set("Authorization", "Bearer "+q.key)
	}
	r.RemoteAddr = q.RemoteAddr // it is they who ask: logs and audit say from where
	q.console.tel.Context.Inject(q.ctx, propagation.HeaderCarrier(r.Header))
	answer, err := q.console.api.Do(r)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return nil, err
	}
	return answer, nil
}

// refusal is what the API said instead.
func refusal(status int, body []byte) error {
	var said struct {
		Error string `json:"error"`
	}
	if err := json.Unmarshal(body, &said); err != nil || said.Error == "" {
		said.Error = http.StatusText(status)
	}
	kind := fault.Internal
	for _, k := range []fault.Kind{fault.Invalid, fault.Unauthenticated, fault.Denied, fault.NotFound, fault.Conflict, fault.Overloaded, fault.Unavailable, fault.Deadline} {
		if fault.HTTPStatus(fault.New(k, "")) == status {
			kind = k
		}
	}
	return fault.New(kind, "%s", said.Error)
}

// unless gives an error that is not of those that don't matter.
func unless(matterless func(error) bool, err error) error {
	if matterless(err) {
		return nil
	}
	return err
}

// missing tells whether there is simply nothing there: a page shows the rest.
func missing(err error) bool { return fault.Is(err, fault.NotFound) }

// at makes a path of parts, each of which stands for itself.
func at(base string, parts ...string) string {
	for _, p := range parts {
		base += "/" + url.PathEscape(p)
	}
	return base
}
