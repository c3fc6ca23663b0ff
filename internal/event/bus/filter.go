package bus

import (
	"context"

	"go.uber.org/zap"
	eventingv1 "knative.dev/eventing/pkg/apis/eventing/v1"
	"knative.dev/eventing/pkg/eventfilter"
	"knative.dev/eventing/pkg/eventfilter/subscriptionsapi"

	"github.com/pilotlight-ml/pilotlight/internal/event"
)

// list is all or any of some filters. Knative's own lists reorder themselves in
// goroutines, which race with each other and outlive the bus; what they hold is Knative's.
type list struct {
	filters []eventfilter.Filter
	ends    eventfilter.FilterResult // what decides at once: Fail for all, Pass for any
}

func (l *list) Filter(ctx context.Context, e event.Event) eventfilter.FilterResult {
	r := eventfilter.NoFilter
	for _, f := range l.filters {
		if r = f.Filter(ctx, e); r == l.ends {
			break
		}
	}
	return r
}

func (l *list) Cleanup() {}

// build makes the filter of a list that checkFilter has accepted.
func build(filters []eventingv1.SubscriptionsAPIFilter, ends eventfilter.FilterResult) eventfilter.Filter {
	l := &list{ends: ends}
	for _, f := range filters {
		switch {
		case len(f.All) > 0:
			l.filters = append(l.filters, build(f.All, eventfilter.FailFilter))
		case len(f.Any) > 0:
			l.filters = append(l.filters, build(f.Any, eventfilter.PassFilter))
		case f.Not != nil:
			l.filters = append(l.filters, subscriptionsapi.NewNotFilter(build([]eventingv1.SubscriptionsAPIFilter{*f.Not}, eventfilter.FailFilter)))
		default:
			l.filters = append(l.filters, subscriptionsapi.MaterializeSubscriptionsAPIFilter(zap.NewNop(), f))
		}
	}
	return l
}
