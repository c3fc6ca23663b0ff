package span

import (
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
)

const (
	limitUsual = 50
	limitMost  = 1000
)

// found is a trace as it is told.
type found struct {
	Trace string `json:"trace"`
	Spans []Span `json:"spans"`
}

// Register mounts
//
//	GET /admin/v1/traces           traces, the newest first: ?service=&model=&from=&to=&errors=true&slow=250ms&limit=&after=
//	GET /admin/v1/traces/{trace}   the spans of one: ?at= is about when one of them was, which is quicker
func (r *Reader) Register(mux *http.ServeMux) {
	mux.HandleFunc("GET /admin/v1/traces", func(w http.ResponseWriter, req *http.Request) {
		q, err := read(req.URL.Query())
		if err != nil {
			serve.Error(w, req, err)
			return
		}
		page, err := r.List(req.Context(), q)
		if err == nil {
			err = serve.WriteJSON(w, http.StatusOK, page)
		}
		if err != nil {
			serve.Error(w, req, err)
		}
	})
	mux.HandleFunc("GET /admin/v1/traces/{trace}", func(w http.ResponseWriter, req *http.Request) {
		id := req.PathValue("trace")
		at, err := timeOf(req.URL.Query(), "at")
		var spans []Span
		if err == nil {
			spans, err = r.Trace(req.Context(), id, at)
		}
		if err == nil {
			err = serve.WriteJSON(w, http.StatusOK, found{id, spans})
		}
		if err != nil {
			serve.Error(w, req, err)
		}
	})
}

// read reads a query.
func read(v url.Values) (q *Query, err error) {
	q = &Query{Service: v.Get("service"), Model: v.Get("model"), After: v.Get("after"), Limit: limitUsual}
	if q.From, err = timeOf(v, "from"); err != nil {
		return nil, err
	}
	if q.To, err = timeOf(v, "to"); err != nil {
		return nil, err
	}
	if s := v.Get("errors"); s != "" {
		if q.Errors, err = strconv.ParseBool(s); err != nil {
			return nil, fault.New(fault.Invalid, "errors is %.40q, expected true or false", s)
		}
	}
	if s := v.Get("slow"); s != "" {
		if q.Slow, err = time.ParseDuration(s); err != nil || q.Slow < 0 {
			return nil, fault.New(fault.Invalid, "slow is %.40q, expected a duration such as 250ms", s)
		}
	}
	if s := v.Get("limit"); s != "" {
		if q.Limit, err = strconv.Atoi(s); err != nil || q.Limit < 1 || q.Limit > limitMost {
			return nil, fault.New(fault.Invalid, "limit is %.40q, expected a number from 1 to %d", s, limitMost)
		}
	}
	return q, nil
}

func timeOf(v url.Values, name string) (time.Time, error) {
	s := v.Get(name)
	if s == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, fault.New(fault.Invalid, "%s is %.40q, expected a time such as 2026-11-26T09:30:00Z", name, s)
	}
	return t, nil
}
