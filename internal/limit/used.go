package limit

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// usedMost is how many tenants, and how many models, metrics tell the use of quotas of: those nearest to their end. All
// others are told as one, and so are all callers, whose names come and go and may be those of people; and tenants, unless it is wanted.
const usedMost = 20

// use is what was used of quotas when it was last asked for.
type use struct {
	store.Used
	limit store.Limit
	at    time.Time
}

// share gives how much of a quota is used, of the one that is nearest to its end.
func (u *use) share(now time.Time) float64 {
	day, month, _, _ := store.Days(now)
	thatDay, thatMonth, _, _ := store.Days(u.at)
	share := 0.0
	for _, q := range [...]struct {
		of         bool
		used, most int64
	}{
		{day == thatDay, u.Day.Requests, u.limit.Day.Requests},
		{day == thatDay, u.Day.Rows, u.limit.Day.Rows},
		{month == thatMonth, u.Month.Requests, u.limit.Month.Requests},
		{month == thatMonth, u.Month.Rows, u.limit.Month.Rows},
	} {
		if q.of && q.most > 0 {
			share = max(share, float64(q.used)/float64(q.most))
		}
	}
	return share
}

// measureUse has the use of quotas told whenever somebody asks.
func (l *Limiter) measureUse(tel *telemetry.Telemetry) error {
	used, err1 := tel.Meter.Float64ObservableGauge("pilotlight.limit.used",
		metric.WithDescription("Share of quotas that is used, of day or month and requests or rows the highest, by scope (tenant, model, caller) and name: the 20 models, and with METRICS_TENANTS tenants, nearest to the end of theirs; the highest of all others is that of 'other'."))
	_, err2 := tel.Meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for _, s := range l.quotas() {
			o.ObserveFloat64(used, s.share, metric.WithAttributes(attribute.String("scope", s.scope), attribute.String("name", s.name)))
		}
		return nil
	}, used)
	return errors.Join(err1, err2)
}

// shareOf is how much is used of a quota.
type shareOf struct {
	scope, name string
	share       float64
}

func (l *Limiter) quotas() []shareOf {
	now := l.now()
	by := map[string][]shareOf{}
	for key, u := range l.seen.All() {
		scope, name, _ := strings.Cut(key, ":")
		by[scope] = append(by[scope], shareOf{scope, name, u.share(now)})
	}
	var told []shareOf
	for scope, all := range by {
		if scope == "caller" || scope == "tenant" && !l.names { // nobody is named: of 100,000 callers only the highest is looked for
			most := slices.MaxFunc(all, func(a, b shareOf) int { return cmp.Compare(a.share, b.share) })
			told = append(told, shareOf{scope, "other", most.share})
			continue
		}
		slices.SortFunc(all, func(a, b shareOf) int {
			return cmp.Or(cmp.Compare(b.share, a.share), strings.Compare(a.name, b.name))
		})
		told = append(told, all[:min(usedMost, len(all))]...)
		if len(all) > usedMost {
			told = append(told, shareOf{scope, "other", all[usedMost].share})
		}
	}
	return told
}
