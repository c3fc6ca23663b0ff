package feedback

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/drift"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// lookBack is how far back a model is judged if nothing else is said.
const lookBack = 7 * 24 * time.Hour

// registerAdmin mounts what people ask:
//
//	GET /admin/v1/quality/{model}                    a Judgement, by the query's version, from, until (RFC 3339), every (24h), slice and, of the log, task, output, threshold and quantile
//	GET /admin/v1/drift/{model}                      a Drift, by version, from, until and every
//	GET, PUT /admin/v1/drift/{model}/{version}/reference    a drift.Profile
//	GET /admin/v1/predictions...                     see registerPredictions
//
// One Judgement or Drift is worked on at a time, as either may read all that there is.
func registerAdmin(mux *http.ServeMux, j *Journal) {
	blob := j.blob
	route := func(pattern string, handle func(r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			v, err := handle(r)
			if err == nil {
				err = serve.WriteJSON(w, http.StatusOK, v)
			}
			if err != nil {
				serve.Error(w, r, err)
			}
		})
	}
	registerPredictions(route, j)
	turn := make(chan struct{}, 1)
	heavy := func(work func(ctx context.Context, q *Question) (any, error)) func(r *http.Request) (any, error) {
		return func(r *http.Request) (any, error) {
			q, err := questionOf(r)
			if err != nil {
				return nil, err
			}
			select {
			case turn <- struct{}{}:
				defer func() { <-turn }()
				if _, err := j.CatchUp(r.Context()); err != nil { // so that the answer is as of now
					return nil, err
				}
				return work(r.Context(), q)
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
		}
	}
	route("GET /admin/v1/quality/{model}", heavy(func(ctx context.Context, q *Question) (any, error) { return j.Judge(ctx, q) }))
	route("GET /admin/v1/drift/{model}", heavy(func(ctx context.Context, q *Question) (any, error) { return j.Moved(ctx, q, drift.Default) }))
	route("GET /admin/v1/drift/{model}/{version}/reference", func(r *http.Request) (any, error) {
		name, version, err := versionOf(r)
		if err != nil {
			return nil, err
		}
		return readReference(r.Context(), blob, name, version)
	})
	route("PUT /admin/v1/drift/{model}/{version}/reference", func(r *http.Request) (any, error) {
		name, version, err := versionOf(r)
		if err != nil {
			return nil, err
		}
		return putReference(r, blob, name, version)
	})
}

// madeReference is the answer to a reference that was put.
type madeReference struct {
	Digest  string `json:"digest"`
	Rows    uint64 `json:"rows"`
	Columns int    `json:"columns"`
}

func putReference(r *http.Request, blob store.Blob, name string, version int) (*madeReference, error) {
	body, err := serve.Unpacked(r)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(body)
	if err != nil {
		return nil, serve.BodyError(err)
	}
	p, err := drift.Parse(b)
	if err != nil {
		return nil, err
	}
	if err := PutReference(r.Context(), blob, name, version, p); err != nil {
		return nil, err
	}
	return &madeReference{p.Digest(), p.Rows(), len(p.Columns())}, nil
}

func versionOf(r *http.Request) (string, int, error) {
	name := r.PathValue("model")
	version, err := parseVersion(r.PathValue("version"))
	return name, version, errors.Join(model.CheckName(name), err)
}

func questionOf(r *http.Request) (*Question, error) {
	values := r.URL.Query()
	q := &Question{
		Model: r.PathValue("model"), Until: time.Now(), Output: values.Get("output"), Slice: values.Get("slice"),
		Spec: quality.Spec{Task: quality.Task(values.Get("task"))},
	}
	var err error
	if q.Version, err = parseVersion(values.Get("version")); err == nil {
		err = model.CheckName(q.Model)
	}
	if err != nil {
		return nil, err
	}
	moment := func(name string, to *time.Time) {
		if s := values.Get(name); s != "" && err == nil {
			if *to, err = row.ParseTime(s); err != nil || to.Year() > 9998 { // for it is rounded up
				err = fault.New(fault.Invalid, "%s is %.40q, expected a time such as 2026-11-25T09:30:00Z, before the year 9999", name, s)
			}
		}
	}
	number := func(name string, to *float64) {
		if s := values.Get(name); s != "" && err == nil {
			if *to, err = strconv.ParseFloat(s, 64); err != nil {
				err = fault.New(fault.Invalid, "%s is %.40q, expected a number", name, s)
			}
		}
	}
	moment("until", &q.Until)
	q.From = q.Until.Add(-lookBack).UTC().Truncate(24 * time.Hour)
	moment("from", &q.From)
	if s := values.Get("every"); s != "" && err == nil {
		if q.Every, err = time.ParseDuration(s); err != nil || q.Every <= 0 {
			err = fault.New(fault.Invalid, "every is %.40q, expected a time such as 24h", s)
		}
	}
	number("threshold", &q.Spec.Threshold)
	number("quantile", &q.Spec.Quantile)
	if err == nil && !q.From.Before(q.Until) {
		err = fault.New(fault.Invalid, "from must lie before until")
	}
	return q, err
}
