package gate

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/pilotlight-ml/pilotlight/internal/auth"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/limit"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// Door bounds what is let through: by limits, and by how much is under way. It stands behind the guard, which says who
// calls. It is safe for concurrent use.
type Door struct {
	limiter *limit.Limiter
	routes  bool // somebody behind it has to know which model is asked
	most    int64
	active  atomic.Int64
	took    atomic.Int64 // ns of a request, a moving average
	shed    metric.Int64Counter
}

// NewDoor makes a door. Routes says that what is behind it goes by the names of models.
func NewDoor(c *Config, limiter *limit.Limiter, routes bool, tel *telemetry.Telemetry) (*Door, error) {
	d := &Door{limiter: limiter, routes: routes, most: int64(c.Concurrency)}
	var err error
	if d.shed, err = tel.Meter.Int64Counter("pilotlight.gate.shed", metric.WithDescription("Requests that were refused because too many were under way, by priority.")); err != nil {
		return nil, err
	}
	_, err = tel.Meter.Int64ObservableGauge("pilotlight.gate.active", metric.WithDescription("Requests that are let through and not answered yet."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(d.active.Load())
			return nil
		}))
	return d, err
}

// Wrap puts the door before a handler.
func (d *Door) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del(auth.ModelHeader)
		need, err := auth.Needs(r)
		if err != nil {
			auth.Refuse(w, r, err)
			return
		}
		if need.Action == auth.Anonymous {
			next.ServeHTTP(w, r)
			return
		}
		if need.Model == "" && strings.HasPrefix(r.URL.Path, inferenceService) && (d.routes || d.limiter.OfModels(r.Context())) {
			if need.Model, err = peek(r); err != nil {
				auth.Refuse(w, r, err)
				return
			}
			if need.Model != "" {
				r.Header.Set(auth.ModelHeader, need.Model)
			}
		}
		p := auth.From(r.Context())
		release, err := d.enter(p)
		if err != nil {
			d.shed.Add(r.Context(), 1, metric.WithAttributeSet(attribute.NewSet(attribute.String("priority", string(priority(p))))))
			auth.Refuse(w, r, err)
			return
		}
		defer release()
		taken, err := d.limiter.Take(r.Context(), p, need.Model)
		taken.Tell(w.Header())
		if err != nil {
			auth.Refuse(w, r, err)
			return
		}
		next.ServeHTTP(w, r)
		taken.Rows(rows(w.Header()))
	})
}

// rows reads how many rows an answer was made for.
func rows(h http.Header) int64 {
	for _, name := range []string{limit.RowsHeader, http.TrailerPrefix + limit.RowsHeader} {
		if v := h[name]; len(v) == 1 {
			n, _ := strconv.ParseInt(v[0], 10, 64) // 0: it says nothing
			return n
		}
	}
	return 0
}

func priority(p *auth.Principal) auth.Priority {
	if p == nil {
		return auth.Normal
	}
	return p.Priority
}

// enter counts a request in, if somebody of its priority may still enter.
func (d *Door) enter(p *auth.Principal) (release func(), err error) {
	most := d.most
	switch priority(p) {
	case auth.Low:
		most = most * 60 / 100
	case auth.Normal:
		most = most * 85 / 100
	}
	if d.active.Add(1) > most {
		d.active.Add(-1)
		after := min(max(time.Second, time.Duration(d.took.Load())), 10*time.Second)
		return nil, fault.Again(fault.New(fault.Unavailable, "the gateway has too much to do for requests of priority %s", priority(p)), after)
	}
	begin := time.Now()
	return func() {
		d.active.Add(-1)
		before := d.took.Load()
		d.took.Store(before + (int64(time.Since(begin))-before)/16) // one that gets lost among many does not matter
	}, nil
}
