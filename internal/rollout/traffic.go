package rollout

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
)

// Config says which models have a Knative service of their own, and how Kubernetes is asked for it.
type Config struct {
	Services   []string `env:"PINNED_SERVICES" help:"Knative services of pinned models, whose traffic follows the model's champion and its canaries: model=service, separated by commas."`
	Kubernetes string   `env:"KUBERNETES_URL" default:"https://kubernetes.default.svc" help:"Where the Kubernetes API is, for PINNED_SERVICES."`
	Account    string   `env:"KUBERNETES_ACCOUNT" default:"/var/run/secrets/kubernetes.io/serviceaccount" help:"Folder with the token, ca.crt and namespace of the service account that may read and update PINNED_SERVICES."`
}

// Validate refuses what can't work.
func (c *Config) Validate() error {
	_, err := c.services()
	return err
}

func (c *Config) services() (map[string]string, error) {
	all := map[string]string{}
	for _, pair := range c.Services {
		name, service, ok := strings.Cut(pair, "=")
		if !ok || service == "" || model.CheckName(name) != nil || all[name] != "" {
			return nil, fault.New(fault.Invalid, "PINNED_SERVICES has %.100q, expected model=service, and each model once", pair)
		}
		all[name] = service
	}
	return all, nil
}

// Traffic has the Knative services of pinned models do what their champions say: pods of each version are
// a revision, and the share of a canary is a share of the service's traffic. What it follows is the alias, and what it has done so far stands in
// the service; so any number of processes may do it at once, and be killed anywhere.
//
// It is safe for concurrent use. A nil Traffic has no services.
type Traffic struct {
	cluster  *cluster
	services map[string]string // by model
	catalog  *model.Catalog
	outbox   *event.Outbox
	log      *slog.Logger
	now      func() time.Time
}

// OpenTraffic makes what moves the traffic of the services of a configuration; nil: there are none.
func OpenTraffic(c *Config, catalog *model.Catalog, outbox *event.Outbox, log *slog.Logger) (*Traffic, error) {
	services, err := c.services()
	if err != nil || len(services) == 0 {
		return nil, err
	}
	cluster, err := newCluster(c.Kubernetes, c.Account)
	if err != nil {
		return nil, err
	}
	return &Traffic{cluster: cluster, services: services, catalog: catalog, outbox: outbox, log: log, now: time.Now}, nil
}

// service is that of an alias's own; "": it has none.
func (t *Traffic) service(name, alias string) string {
	if t == nil || alias != model.Champion {
		return ""
	}
	return t.services[name]
}

// races is how often a change is tried that others were quicker than.
const races = 10

// follow makes the changes that can be made now of the service of a model's champion.
func (t *Traffic) follow(ctx context.Context, name string) (carried, error) {
	var err error
	moved := false
	for range races {
		var c carried
		var more bool
		c, more, err = t.once(ctx, name)
		moved = moved || more
		if err == nil && !more || err != nil && !fault.Is(err, fault.Conflict) {
			c.moved = moved
			return c, err
		}
	}
	if err == nil || fault.Is(err, fault.Conflict) {
		err = fault.Wrap(fault.Unavailable, err, "the service %s changes faster than it can be made to follow its alias", t.services[name])
	}
	return carried{}, err
}

// once makes one change at most, and tells whether there may be another.
func (t *Traffic) once(ctx context.Context, name string) (c carried, more bool, err error) {
	s, err := t.cluster.get(ctx, t.services[name])
	if err != nil {
		return c, false, err
	}
	// The alias behind the service: what it says is no older than what the service was made to do, or nobody's change would stay.
	a, err := t.catalog.Aliases(ctx, name)
	if err != nil {
		return c, false, err
	}
	w := &wish{version: a.Current[model.Champion], move: a.Last(model.Champion)}
	if split := a.Splits[model.Champion]; split != nil {
		w.canaries = split.Canaries
	}
	e, c := s.next(name, w)
	if e == nil {
		return c, false, nil
	}
	if err := s.change(e, w.move); err != nil {
		return c, false, err
	}
	written, err := t.cluster.put(ctx, s)
	if err != nil {
		return c, false, err
	}
	t.log.InfoContext(ctx, "changed a service", slog.String("service", s.Metadata.Name), slog.String("pinned", e.pin), slog.String("traffic", e.traffic.String()), slog.Int("move", w.move))
	if before := s.Spec.Traffic; before.String() != e.traffic.String() {
		t.outbox.Give(ctx, event.TrafficMoved.New(t.moved(name, written, e, w)))
	}
	return c, true, nil
}

// moved is a change as it is told to others.
func (t *Traffic) moved(name string, s *service, e *edit, w *wish) event.Divided {
	d := event.Divided{Service: s.Metadata.Name, Generation: s.Metadata.Generation, Model: name, Alias: model.Champion, Seq: w.move, At: t.now().UTC()}
	for _, to := range e.traffic {
		part := event.Part{Revision: to.RevisionName, Percent: int(to.Percent)}
		if _, err := fmt.Sscanf(to.Tag, "v%d", &part.Version); err != nil {
			part.Version = w.version
		}
		d.Parts = append(d.Parts, part)
	}
	return d
}

// awaits is how long Follow waits for a revision to start.
const (
	awaits = 20 * time.Second
	again  = 500 * time.Millisecond
)

// Follow has the service of a model's champion, if it has one, do what the alias says. It waits a while for
// a revision to start; what takes longer is done at the next tick.
func (t *Traffic) Follow(ctx context.Context, name, alias string) error {
	if t.service(name, alias) == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, awaits)
	defer cancel()
	for {
		c, err := t.follow(ctx, name)
		if err != nil || c.done || c.foreign {
			t.tell(ctx, name, c)
			return err
		}
		select {
		case <-ctx.Done():
			t.tell(ctx, name, c)
			return nil
		case <-time.After(again):
		}
	}
}

// Tick makes the changes that can be made now, of all services. What goes wrong with one costs no other.
func (t *Traffic) Tick(ctx context.Context) error {
	if t == nil {
		return nil
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(t.services)) {
		c, err := t.follow(ctx, name)
		if err != nil {
			errs = append(errs, fmt.Errorf("traffic of %s: %w", name, err))
		}
		t.tell(ctx, name, c)
	}
	return errors.Join(errs...)
}

func (t *Traffic) tell(ctx context.Context, name string, c carried) {
	if c.why != "" {
		t.log.WarnContext(ctx, "a service does not do yet what its model's alias says", slog.String("service", t.services[name]), slog.String("why", c.why), slog.Bool("failed", c.failed), slog.Bool("foreign", c.foreign))
	}
}
