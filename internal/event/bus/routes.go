package bus

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/sql/v2/parser"
	"github.com/rickb777/date/period"
	"github.com/robfig/cron/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	eventingduck "knative.dev/eventing/pkg/apis/duck/v1"
	eventingv1 "knative.dev/eventing/pkg/apis/eventing/v1"
	sourcesv1 "knative.dev/eventing/pkg/apis/sources/v1"
	"knative.dev/eventing/pkg/eventfilter"
	"knative.dev/eventing/pkg/eventfilter/attributes"
	"knative.dev/eventing/pkg/eventfilter/subscriptionsapi"
	duckv1 "knative.dev/pkg/apis/duck/v1"
	"sigs.k8s.io/yaml"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// Routes are what a set of manifests says about where events go.
type Routes struct {
	broker   *eventingv1.Broker
	triggers []*trigger
	pings    []*ping
}

// trigger is a Trigger ready for use.
type trigger struct {
	name     string
	filter   eventfilter.Filter
	types    []string // that an exact filter names
	to       destination
	dead     *destination // nil: what fails is lost
	delivery delivery
}

// destination is where events are posted: a path of a service by its name, or a URL.
type destination struct {
	service string
	path    string
	url     string
}

// takesEvents reports whether a function takes events there for itself, or would if
// its uri had not been forgotten. Elsewhere, such as where it infers, it takes what
// the protocol of that path takes.
func (d destination) takesEvents() bool { return d.path == "/events" || d.path == "/" || d.path == "" }

// String gives the address as it stands in dead letters.
func (d destination) String() string {
	if d.url != "" {
		return d.url
	}
	return "http://" + d.service + d.path
}

// delivery is a DeliverySpec in figures.
type delivery struct {
	retries       int
	delay         time.Duration
	linear        bool
	timeout       time.Duration
	retryAfterMax time.Duration // 0: what Retry-After says does not matter
}

// pause is how long to wait before a retry, of which n is the number from 0 on:
// as Knative's dispatcher has it, which starts counting there for both policies.
func (d *delivery) pause(n int) time.Duration {
	if d.linear {
		return min(d.delay, math.MaxInt64/time.Duration(max(n, 1))) * time.Duration(n)
	}
	return min(d.delay, math.MaxInt64>>min(n, 62)) << min(n, 62) // where Knative's overflows, this stays as long as can be
}

// ping is a PingSource ready for use.
type ping struct {
	name       string
	broker     string
	schedule   cron.Schedule
	kind       string
	data       []byte
	extensions map[string]string
}

// Load reads all manifests (*.yaml) in the folders, as the cluster would: a field
// that a type does not have, an expression that does not parse, or a type of event
// of ours that nobody declares is an error that names the file and the object.
func Load(folders ...fs.FS) (*Routes, error) {
	r := &Routes{}
	type found struct {
		file    string
		trigger *eventingv1.Trigger
	}
	var triggers []found
	var errs []error
	for _, folder := range folders {
		if _, err := fs.Stat(folder, "."); err != nil { // of which Glob says nothing
			return nil, fault.New(fault.Invalid, "a folder of manifests can't be read: %s", err)
		}
		names, err := fs.Glob(folder, "*.yaml")
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			all, err := fs.ReadFile(folder, name)
			if err != nil {
				return nil, err
			}
			for i, doc := range documents.Split(string(all), -1) {
				t, err := r.read([]byte(doc))
				if err != nil {
					errs = append(errs, fault.New(fault.Invalid, "%s, object %d: %s", name, i+1, err))
				} else if t != nil {
					triggers = append(triggers, found{name, t})
				}
			}
		}
	}
	if len(errs) == 0 && r.broker == nil {
		errs = append(errs, fault.New(fault.Invalid, "the manifests hold no Broker"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	files := map[string]string{} // by the name of the trigger, by which the KV knows it
	for _, f := range triggers {
		ready, err := r.trigger(f.trigger)
		if other, taken := files[f.trigger.Name]; taken {
			err = errors.Join(err, fmt.Errorf("there is another one of this name, in %s", other))
		}
		files[f.trigger.Name] = f.file
		if err != nil {
			errs = append(errs, fault.New(fault.Invalid, "%s, Trigger %s: %s", f.file, f.trigger.Name, err))
			continue
		}
		r.triggers = append(r.triggers, ready)
	}
	for _, p := range r.pings {
		if p.broker != r.broker.Name {
			errs = append(errs, fault.New(fault.Invalid, "PingSource %s: there is no Broker %q, but %q", p.name, p.broker, r.broker.Name))
		}
	}
	return r, errors.Join(errs...)
}

// documents parts a file, also where a comment follows the dashes: what the
// decoder gets beyond the first document it would not look at.
var documents = regexp.MustCompile(`(?m)^---([ \t].*)?$`)

// read takes in one object, and gives it back if it is a trigger, which may stand before its broker.
func (r *Routes) read(doc []byte) (*eventingv1.Trigger, error) {
	var head metav1.TypeMeta
	if err := yaml.Unmarshal(doc, &head); err != nil {
		return nil, err
	}
	switch kind := head.APIVersion + " " + head.Kind; kind {
	case " ":
		return nil, nil // comments
	case "sources.knative.dev/v1 SinkBinding":
		return nil, nil // gives K_SINK to others; here the bus is handed over
	case "eventing.knative.dev/v1 Broker":
		b := &eventingv1.Broker{}
		if err := yaml.UnmarshalStrict(doc, b); err != nil {
			return nil, err
		}
		if r.broker != nil {
			return nil, fmt.Errorf("broker %s: there is another one, %s, and one is all that there can be", b.Name, r.broker.Name)
		}
		r.broker = b
		return nil, nil
	case "eventing.knative.dev/v1 Trigger":
		t := &eventingv1.Trigger{}
		return t, yaml.UnmarshalStrict(doc, t)
	case "sources.knative.dev/v1 PingSource":
		s := &sourcesv1.PingSource{}
		if err := yaml.UnmarshalStrict(doc, s); err != nil {
			return nil, err
		}
		p, err := readPing(s)
		if err != nil {
			return nil, fmt.Errorf("PingSource %s: %w", s.Name, err)
		}
		r.pings = append(r.pings, p)
		return nil, nil
	default:
		return nil, fmt.Errorf("%s is nothing that the broker in the process knows", kind)
	}
}

func readPing(s *sourcesv1.PingSource) (*ping, error) {
	schedule := s.Spec.Schedule
	if s.Spec.Timezone != "" {
		schedule = "CRON_TZ=" + s.Spec.Timezone + " " + schedule
	}
	// As Knative's: five fields, or six with seconds.
	parsed, err := cron.NewParser(cron.SecondOptional | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor).Parse(schedule)
	if err != nil {
		return nil, fmt.Errorf("schedule %q: %w", s.Spec.Schedule, err)
	}
	if ref := s.Spec.Sink.Ref; ref == nil || ref.Kind != "Broker" {
		return nil, errors.New("its sink must be the broker")
	}
	p := &ping{name: s.Name, broker: s.Spec.Sink.Ref.Name, schedule: parsed, kind: s.Spec.ContentType, data: []byte(s.Spec.Data)}
	if s.Spec.CloudEventOverrides != nil {
		p.extensions = s.Spec.CloudEventOverrides.Extensions
	}
	return p, nil
}

func (r *Routes) trigger(t *eventingv1.Trigger) (*trigger, error) {
	if t.Spec.Broker != r.broker.Name {
		return nil, fmt.Errorf("there is no Broker %q, but %q", t.Spec.Broker, r.broker.Name)
	}
	ready := &trigger{name: t.Name}
	var errs []error
	switch {
	case len(t.Spec.Filters) > 0: // and the older field does not count
		for i := range t.Spec.Filters {
			errs = append(errs, checkFilter(&t.Spec.Filters[i], &ready.types))
		}
		if err := errors.Join(errs...); err != nil {
			return nil, err
		}
		ready.filter = build(t.Spec.Filters, eventfilter.FailFilter)
	case t.Spec.Filter != nil:
		if name := t.Spec.Filter.Attributes["type"]; name != "" { // empty: any
			errs = append(errs, checkType("exact", name))
			ready.types = append(ready.types, name)
		}
		ready.filter = attributes.NewAttributesFilter(t.Spec.Filter.Attributes)
	default:
		ready.filter = subscriptionsapi.NewNoFilter()
	}
	to, err := readDestination(&t.Spec.Subscriber)
	if err != nil {
		errs = append(errs, fmt.Errorf("subscriber: %w", err))
	} else {
		ready.to = *to
	}
	spec := t.Spec.Delivery
	if spec == nil {
		spec = r.broker.Spec.Delivery
	}
	if ready.delivery, err = readDelivery(spec); err != nil {
		errs = append(errs, err)
	}
	// Each of the two stands for itself: a trigger with retries of its own keeps the broker's dead letters.
	dead := r.broker.Spec.Delivery
	if spec != nil && spec.DeadLetterSink != nil {
		dead = spec
	}
	if dead != nil && dead.DeadLetterSink != nil {
		if ready.dead, err = readDestination(dead.DeadLetterSink); err != nil {
			errs = append(errs, fmt.Errorf("deadLetterSink: %w", err))
		}
	}
	return ready, errors.Join(errs...)
}

// checkFilter refuses what the library would leave out silently, which would let other events through.
func checkFilter(f *eventingv1.SubscriptionsAPIFilter, types *[]string) error {
	var errs []error
	set := 0
	for how, values := range map[string]map[string]string{"exact": f.Exact, "prefix": f.Prefix, "suffix": f.Suffix} {
		if len(values) == 0 {
			continue
		}
		if set++; len(values) > 1 {
			errs = append(errs, fmt.Errorf("filter %s: expected one attribute, not %d", how, len(values)))
		}
		errs = append(errs, checkType(how, values["type"]))
		if values["type"] != "" && how == "exact" {
			*types = append(*types, values["type"])
		}
	}
	for _, inner := range slices.Concat(f.All, f.Any) {
		errs = append(errs, checkFilter(&inner, types))
	}
	if len(f.All) > 0 {
		set++
	}
	if len(f.Any) > 0 {
		set++
	}
	if f.Not != nil {
		set++
		errs = append(errs, checkFilter(f.Not, new([]string)))
	}
	if f.CESQL != "" {
		set++
		if err := parse(f.CESQL); err != nil {
			errs = append(errs, fmt.Errorf("filter cesql: %q does not parse: %w", f.CESQL, err))
		}
		for _, literal := range literals.FindAllStringSubmatch(f.CESQL, -1) {
			errs = append(errs, checkType("exact", literal[1]))
		}
	}
	if set != 1 {
		errs = append(errs, fmt.Errorf("a filter says one of exact, prefix, suffix, all, any, not and cesql, and this one %d of them", set))
	}
	return errors.Join(errs...)
}

// parse tells whether an expression can be used. The parser panics at some that can't.
func parse(expression string) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errors.New("the expression ends too early or holds what CESQL does not know")
		}
	}()
	_, err = parser.Parse(expression)
	return err
}

// literals are the types of events in an expression.
var literals = regexp.MustCompile(`['"](dev\.pilotlight\.[^'"%_]*)['"]`)

// checkType refuses a filter for events of ours that nobody declares.
func checkType(how, name string) error {
	if !strings.HasPrefix(name, "dev.pilotlight.") {
		return nil
	}
	var names []string
	for _, d := range event.Declared() {
		switch {
		case how == "exact" && d.Name == name, how == "prefix" && strings.HasPrefix(d.Name, name), how == "suffix" && strings.HasSuffix(d.Name, name):
			return nil
		}
		names = append(names, d.Name)
	}
	return fmt.Errorf("filter %s: no event is of type %q; there are %s", how, name, strings.Join(names, ", "))
}

func readDestination(d *duckv1.Destination) (*destination, error) {
	switch {
	case d.Ref == nil && d.URI != nil && (d.URI.Scheme == "http" || d.URI.Scheme == "https") && d.URI.Host != "":
		return &destination{url: d.URI.String()}, nil
	case d.Ref == nil:
		return nil, errors.New("expected a ref, or a uri with scheme and host")
	case d.Ref.Kind != "Service":
		return nil, fmt.Errorf("expected a Service, not a %s", d.Ref.Kind)
	}
	to := &destination{service: d.Ref.Name, path: "/"}
	if d.URI != nil {
		to.path = d.URI.URL().RequestURI()
	}
	return to, nil
}

// readDelivery puts a spec into figures; without one they are those of Knative's configuration.
func readDelivery(spec *eventingduck.DeliverySpec) (d delivery, err error) {
	d = delivery{retries: 10, delay: 200 * time.Millisecond, timeout: 30 * time.Second}
	if spec == nil {
		return d, nil
	}
	duration := func(name string, s *string, into *time.Duration) {
		if s == nil {
			return
		}
		p, e := period.Parse(*s)
		if e != nil {
			err = errors.Join(err, fmt.Errorf("delivery: %s is %q, expected a duration such as PT0.5S", name, *s))
			return
		}
		*into, _ = p.Duration()
	}
	d.retries, d.delay = 0, 0
	if spec.Retry != nil {
		d.retries = int(*spec.Retry)
	}
	duration("backoffDelay", spec.BackoffDelay, &d.delay)
	duration("timeout", spec.Timeout, &d.timeout)
	duration("retryAfterMax", spec.RetryAfterMax, &d.retryAfterMax)
	if p := spec.BackoffPolicy; p != nil && *p != eventingduck.BackoffPolicyLinear && *p != eventingduck.BackoffPolicyExponential {
		err = errors.Join(err, fmt.Errorf("delivery: backoffPolicy is %q, expected linear or exponential", *p))
	}
	d.linear = spec.BackoffPolicy != nil && *spec.BackoffPolicy == eventingduck.BackoffPolicyLinear
	if d.retries < 0 || d.delay < 0 || d.timeout <= 0 || d.retryAfterMax < 0 {
		err = errors.Join(err, errors.New("delivery: retry, backoffDelay, timeout and retryAfterMax must not be negative"))
	}
	return d, err
}
