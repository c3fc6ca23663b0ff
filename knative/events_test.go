package knative

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	parser "github.com/cloudevents/sdk-go/sql/v2/parser"
	"go.uber.org/zap"
	duckv1eventing "knative.dev/eventing/pkg/apis/duck/v1"
	eventingv1 "knative.dev/eventing/pkg/apis/eventing/v1"
	"knative.dev/eventing/pkg/apis/feature"
	"knative.dev/eventing/pkg/eventfilter"
	"knative.dev/eventing/pkg/eventfilter/subscriptionsapi"
	"knative.dev/pkg/apis"
	duckv1 "knative.dev/pkg/apis/duck/v1"
	servingv1 "knative.dev/serving/pkg/apis/serving/v1"

	"github.com/pilotlight-ml/pilotlight/internal/event"
)

// samples are events as they come, one of each declared type.
func samples() []event.Event {
	now := time.Now()
	tick := func(name string) event.Event {
		e := event.Event{}
		e.SetSpecVersion("1.0")
		e.SetID("1")
		e.SetSource("/apis/v1/namespaces/pilotlight/pingsources/" + name)
		e.SetType(event.Tick.Name)
		e.SetExtension("tick", name)
		return e
	}
	return []event.Event{
		event.ModelPublished.New(event.Published{Model: "flights", Version: 2, At: now}),
		event.AliasMoved.New(event.Moved{Model: "flights", Alias: "champion", Seq: 2, From: 1, To: 2, At: now}),
		event.TrafficMoved.New(event.Divided{Service: "predict-flights", Model: "flights", Alias: "champion", At: now}),
		event.ModelLoaded.New(event.Loaded{Model: "flights", Version: 2, At: now}),
		event.ModelEvicted.New(event.Evicted{Model: "flights", Version: 2, At: now}),
		event.FeaturesApplied.New(event.Applied{Version: 2, At: now}),
		event.FeaturesObserved.New(event.Rows{Source: "flights"}),
		event.FeaturesServed.New(event.Served{Instance: "one", At: now}),
		event.FeaturesSkewed.New(event.Skewed{To: now}),
		event.FileLanded.New(event.Landed{Source: "weather", File: "landing/weather/1.csv", At: now}),
		event.OutcomeObserved.New(event.Outcomes{}), event.PredictionsLogged.New(event.Logged{Segment: "s", Until: now}),
		event.AlertRaised.New(event.Raised{ID: "1", Rule: "r", Model: "flights", At: now}),
		event.PipelineStarted.New(event.Begun{Pipeline: "flights", Run: "1", At: now}),
		event.StepFinished.New(event.Try{Pipeline: "flights", Run: "1", Step: "fit", Attempt: 1, At: now}),
		event.PipelineEnded.New(event.Ended{Pipeline: "flights", Run: "1", State: "succeeded", At: now}),
		tick("nightly"), tick("hourly"), tick("feedback"), tick("alerts"), tick("pipelines"),
	}
}

// checkEvents lists what is wrong with brokers, triggers, sources and bindings.
func (m *manifests) checkEvents(t *testing.T) (problems []string) {
	t.Helper()
	problem := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	for name, b := range m.brokers {
		b := b.DeepCopy()
		b.SetDefaults(t.Context())
		if b.Annotations == nil || b.Annotations[eventingv1.BrokerClassAnnotationKey] == "" { // the cluster gives it
			b.Annotations = map[string]string{eventingv1.BrokerClassAnnotationKey: "MTChannelBasedBroker"}
		}
		if err := b.Validate(t.Context()); err != nil {
			problem("broker %s: Knative would refuse it: %v", name, err)
		}
		if b.Spec.Delivery == nil || b.Spec.Delivery.DeadLetterSink == nil {
			problem("broker %s: what it can't deliver would be lost: it has no deadLetterSink", name)
		} else {
			problems = append(problems, m.checkDelivery("broker "+name, b.Spec.Delivery)...)
		}
	}
	took := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(m.triggers)) {
		trigger := m.triggers[name].DeepCopy()
		trigger.SetDefaults(t.Context())
		where := "trigger " + name
		if err := trigger.Validate(feature.ToContext(t.Context(), feature.FromContextOrDefaults(t.Context()))); err != nil { // with what is on in a cluster as it comes
			problem("%s: Knative would refuse it: %v", where, err)
			continue
		}
		if m.brokers[trigger.Spec.Broker] == nil {
			problem("%s: there is no Broker %s", where, trigger.Spec.Broker)
		}
		problems = append(problems, m.checkDestination(where, &trigger.Spec.Subscriber)...)
		if trigger.Spec.Delivery != nil {
			problems = append(problems, m.checkDelivery(where, trigger.Spec.Delivery)...)
		}
		for _, f := range trigger.Spec.Filters {
			if _, err := parser.Parse(f.CESQL); f.CESQL != "" && err != nil {
				problem("%s: %q: %v", where, f.CESQL, err)
			}
		}
		passes := func(e event.Event) bool {
			return !slices.ContainsFunc(trigger.Spec.Filters, func(f eventingv1.SubscriptionsAPIFilter) bool { // one by one: Knative's lists race with themselves
				return subscriptionsapi.MaterializeSubscriptionsAPIFilter(zap.NewNop(), f).Filter(t.Context(), e) != eventfilter.PassFilter
			})
		}
		any := false
		for _, e := range samples() {
			if passes(e) {
				any, took[e.Type()] = true, true
			}
		}
		if !any {
			problem("%s: none of the declared events passes its filters", where)
		}
	}
	for _, d := range event.Declared() {
		switch {
		case d.Outbound && took[d.Name]:
			problem("event %s: a trigger would wake a function that does nothing with it", d.Name)
		case !d.Outbound && !took[d.Name]:
			problem("event %s: no trigger takes it anywhere", d.Name)
		}
	}
	for _, p := range m.pings {
		p := p.DeepCopy()
		p.SetDefaults(t.Context())
		where := "PingSource " + p.Name
		if err := p.Validate(t.Context()); err != nil {
			problem("%s: Knative would refuse it: %v", where, err)
		}
		problems = append(problems, m.checkDestination(where, &p.Spec.Sink)...)
		data := event.Event{}
		data.SetSpecVersion("1.0")
		if err := data.SetData(p.Spec.ContentType, []byte(p.Spec.Data)); err != nil {
			problem("%s: %v", where, err)
		} else if _, err := event.Tick.Decode(&data); err != nil {
			problem("%s: %v", where, err)
		}
	}
	for _, b := range m.bindings {
		b := b.DeepCopy()
		b.SetDefaults(t.Context())
		where := "SinkBinding " + b.Name
		if err := b.Validate(apis.WithinParent(t.Context(), b.ObjectMeta)); err != nil {
			problem("%s: Knative would refuse it: %v", where, err)
		}
		problems = append(problems, m.checkDestination(where, &b.Spec.Sink)...)
	}
	return problems
}

func (m *manifests) checkDelivery(where string, d *duckv1eventing.DeliverySpec) []string {
	if d.DeadLetterSink == nil {
		return nil
	}
	return m.checkDestination(where+": deadLetterSink", d.DeadLetterSink)
}

// checkDestination says whether what an event goes to is there.
func (m *manifests) checkDestination(where string, d *duckv1.Destination) []string {
	ref := d.Ref
	if ref == nil {
		return []string{where + ": expected a ref, so that it works in every namespace"}
	}
	switch kind := ref.APIVersion + "/" + ref.Kind; kind {
	case "serving.knative.dev/v1/Service":
		if m.services[ref.Name] == nil {
			return []string{where + ": there is no service " + ref.Name}
		}
		if d.URI == nil || d.URI.Path != "/events" {
			return []string{where + ": functions take events at /events"}
		}
	case "eventing.knative.dev/v1/Broker":
		if m.brokers[ref.Name] == nil {
			return []string{where + ": there is no Broker " + ref.Name}
		}
	default:
		return []string{where + ": nobody here is a " + kind}
	}
	return nil
}

// bound says whether a SinkBinding tells the service where events go.
func (m *manifests) bound(s *servingv1.Service) bool {
	return m.binds("Service", "serving.knative.dev/", s.Labels)
}

// binds says whether a SinkBinding does so for objects of a kind with these labels.
func (m *manifests) binds(kind, group string, labels map[string]string) bool {
	for _, b := range m.bindings {
		subject := b.Spec.Subject
		if subject.Kind != kind || !strings.HasPrefix(subject.APIVersion, group) || subject.Selector == nil {
			continue
		}
		matches := len(subject.Selector.MatchLabels) > 0
		for k, v := range subject.Selector.MatchLabels {
			matches = matches && labels[k] == v
		}
		if matches {
			return true
		}
	}
	return false
}
