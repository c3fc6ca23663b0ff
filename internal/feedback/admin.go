package feedback

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// lookBack is how far back a model is judged if nothing else is said.
const lookBack = 7 * 24 * time.Hour

// registerQuality mounts GET /admin/v1/quality/{model}: a Judgement, by the query's version, from, until (RFC 3339), task, output,
// threshold, quantile and slice. One is worked on at a time, as it reads all that there is of the time.
func registerQuality(mux *http.ServeMux, blob store.Blob) {
	turn := make(chan struct{}, 1)
	mux.HandleFunc("GET /admin/v1/quality/{model}", func(w http.ResponseWriter, r *http.Request) {
		q, err := questionOf(r)
		if err != nil {
			serve.Error(w, r, err)
			return
		}
		select {
		case turn <- struct{}{}:
			defer func() { <-turn }()
		case <-r.Context().Done():
			serve.Error(w, r, r.Context().Err())
			return
		}
		j, err := Judge(r.Context(), blob, q)
		if err != nil {
			serve.Error(w, r, err)
			return
		}
		b, err := json.Marshal(j)
		if err != nil {
			serve.Error(w, r, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if _, err := w.Write(append(b, '\n')); err != nil {
			serve.Failed(r, err)
		}
	})
}

func questionOf(r *http.Request) (*Question, error) {
	values := r.URL.Query()
	q := &Question{
		Model: r.PathValue("model"), Until: time.Now(), Output: values.Get("output"), Slice: values.Get("slice"),
		Spec: quality.Spec{Task: quality.Task(values.Get("task"))},
	}
	var err error
	if q.Version, err = parseVersion(values.Get("version")); err != nil {
		return nil, err
	}
	moment := func(name string, to *time.Time) {
		if s := values.Get(name); s != "" && err == nil {
			if *to, err = time.Parse(time.RFC3339, s); err != nil {
				err = fault.New(fault.Invalid, "%s is %.40q, expected a time such as 2026-11-25T09:30:00Z", name, s)
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
	q.From = q.Until.Add(-lookBack)
	moment("from", &q.From)
	number("threshold", &q.Spec.Threshold)
	number("quantile", &q.Spec.Quantile)
	if err == nil && !q.From.Before(q.Until) {
		err = fault.New(fault.Invalid, "from must lie before until")
	}
	return q, err
}
