package offline

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// Server has a Store's work done for callers and at ticks. Close waits for what
// runs behind answers that were given.
type Server struct {
	store   *Store
	defined *feature.Catalog
	sink    event.Sink
	log     *slog.Logger
	base    context.Context
	stop    context.CancelFunc
	work    sync.WaitGroup

	mu   sync.Mutex
	runs map[string]*Run // the last of each view here
}

// Run is a run of materialize over a view.
type Run struct {
	Progress
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended,omitzero"`
	Error   string    `json:"error,omitempty"`
}

// Runs answers GET /admin/v1/features/materialize.
type Runs struct {
	Runs []Run `json:"runs"` // the last of each view that this process did, by name
}

// NewServer makes a Server, by the definitions of a catalog. Alarms go to a sink, unless it is nil.
func NewServer(s *Store, defined *feature.Catalog, sink event.Sink, log *slog.Logger) *Server {
	base, stop := context.WithCancel(context.Background())
	return &Server{store: s, defined: defined, sink: sink, log: log, base: base, stop: stop, runs: map[string]*Run{}}
}

// Close ends what runs and waits for it: it goes on where it was when it is asked for again.
func (s *Server) Close() error {
	s.stop()
	s.work.Wait()
	return nil
}

// tendJob is the tick's name of what is to be done now and then: join small files, bring new files of
// batch sources online, check what was served, and forget what is old.
const tendJob = "tend-features"

// Hear has done what it is time for.
func (s *Server) Hear(m *event.Mux) {
	event.On(m, event.Tick, func(ctx context.Context, _ *event.Event, tick event.Ticked) error {
		if tick.Job != tendJob {
			return fault.New(fault.Invalid, "nobody here does the job %.100q", tick.Job)
		}
		return s.tend(ctx)
	})
}

// tend does all of it. What somebody does already is done; what goes wrong with one does not
// keep the others.
func (s *Server) tend(ctx context.Context) error {
	var errs []error
	for _, do := range []func(context.Context) error{half(s.compact), s.bringOnline, s.checkSkew, half(s.forget)} {
		if err := do(ctx); err != nil && !fault.Is(err, fault.Conflict) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// half lets f have half of the time that there is: f does its work in steps, and what is left of it
// is done at the next tick, when there may be less of it than now.
func half(f func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		end, ok := ctx.Deadline()
		if !ok {
			return f(ctx)
		}
		some, cancel := context.WithTimeout(ctx, time.Until(end)/2)
		defer cancel()
		err := f(some)
		if fault.Is(err, fault.Deadline) && ctx.Err() == nil {
			return nil
		}
		return err
	}
}

// forget deletes what was kept for long enough.
func (s *Server) forget(ctx context.Context) error {
	served, err := s.store.ForgetServed(ctx)
	if err != nil {
		return err
	}
	rejected, err := s.store.ForgetRejected(ctx)
	telemetry.LineFrom(ctx).Set(slog.Int("forgotten", served+rejected))
	return err
}

// bringOnline materializes what is new in the files of batch sources.
func (s *Server) bringOnline(ctx context.Context) error {
	defs, err := s.defined.Current(ctx)
	if err != nil {
		return err
	}
	var views []*feature.CompiledView
	for _, v := range defs.Views {
		view, err := defs.View(v.Name)
		if err != nil {
			return err
		}
		if view.From.Path != "" {
			views = append(views, view)
		}
	}
	return s.run(ctx, views, Span{Incremental: true}, func() {})
}

// compact joins the small files in the logs of all sources.
func (s *Server) compact(ctx context.Context) error {
	defs, err := s.defined.Current(ctx)
	if err != nil {
		return err
	}
	sources := []*feature.CompiledSource{feature.ServedLog}
	for _, source := range defs.Sources {
		src, err := defs.Source(source.Name)
		if err != nil {
			return err
		}
		sources = append(sources, src)
	}
	var all Compacted
	for _, src := range sources {
		done, err := s.store.Compact(ctx, src)
		all.Days, all.Joined = all.Days+done.Days, all.Joined+done.Joined
		telemetry.LineFrom(ctx).Set(slog.Int("days", all.Days), slog.Int("joined", all.Joined))
		if err != nil && !fault.Is(err, fault.Conflict) { // somebody does it already
			return err
		}
	}
	return nil
}

// checkSkew compares what was served since the last time.
func (s *Server) checkSkew(ctx context.Context) error {
	report, err := s.skew(ctx, Span{})
	if err != nil {
		return err
	}
	telemetry.LineFrom(ctx).Set(slog.Int("vectors", report.Vectors), slog.Int("alarms", len(report.Alarm)))
	return nil
}

// skew checks a span, and raises the alarm.
func (s *Server) skew(ctx context.Context, span Span) (*Skew, error) {
	report, err := s.store.CheckSkew(ctx, s.defined, span)
	if err != nil || len(report.Alarm) == 0 {
		return report, err
	}
	s.log.WarnContext(ctx, "features were served that differ from their history", "features", report.Alarm, "from", report.From, "to", report.To)
	if s.sink == nil {
		return report, nil
	}
	return report, s.sink.Send(ctx, report.event())
}

// Register mounts training sets, freshness, the skew check, and materialize where Feast has it.
func (s *Server) Register(mux *http.ServeMux) {
	route := func(pattern string, handle func(http.ResponseWriter, *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := handle(w, r); err != nil {
				serve.Error(w, r, err)
			}
		})
	}
	route("POST /admin/v1/features/training-set", s.trainingSet)
	route("GET /admin/v1/features/materialize", s.progress)
	route("GET /admin/v1/features/freshness", s.freshness)
	route("GET /admin/v1/features/skew", func(w http.ResponseWriter, r *http.Request) error {
		report, err := s.store.LastSkew(r.Context())
		if err != nil {
			return err
		}
		return serve.WriteJSON(w, http.StatusOK, report)
	})
	route("POST /admin/v1/features/skew", func(w http.ResponseWriter, r *http.Request) error {
		serve.Long(w, r)
		var ask struct {
			From string `json:"from"`
			To   string `json:"to"`
		}
		if err := serve.ReadJSON(r, &ask, json.Unmarshal); err != nil {
			return err
		}
		span, err := spanOf("from", ask.From, "to", ask.To)
		if err != nil {
			return err
		}
		report, err := s.skew(r.Context(), span)
		if err != nil {
			return err
		}
		return serve.WriteJSON(w, http.StatusOK, report)
	})
	route("POST /materialize", func(w http.ResponseWriter, r *http.Request) error { return s.materialize(w, r, false) })
	route("POST /materialize-incremental", func(w http.ResponseWriter, r *http.Request) error { return s.materialize(w, r, true) })
}

var formats = map[string]Format{
	"application/vnd.apache.parquet": Parquet, "application/octet-stream": Parquet,
	"text/csv": CSV, "application/jsonl": JSON, "application/x-ndjson": JSON,
}

// trainingSet joins the body's rows with the features of ?service, or of each ?feature.
func (s *Server) trainingSet(w http.ResponseWriter, r *http.Request) error {
	serve.Long(w, r)
	q := r.URL.Query()
	format := Format(q.Get("format"))
	if format == "" {
		kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if format = formats[kind]; format == "" {
			return fault.New(fault.Invalid, "rows of the type %.100q can't be read; format says whether they are parquet, csv or json", kind)
		}
	}
	defs, err := s.defined.Current(r.Context())
	if err != nil {
		return err
	}
	var plan *feature.Plan
	switch service, features := q.Get("service"), q["feature"]; {
	case (service == "") == (len(features) == 0):
		return fault.New(fault.Invalid, "say either service=NAME or feature=view:feature, once or more")
	case service != "":
		plan, err = defs.Service(service)
	default:
		var full bool
		if full, err = flag(q, "full_feature_names"); err == nil {
			plan, err = defs.Features(features, full)
		}
	}
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/vnd.apache.parquet")
	return s.store.TrainingSet(r.Context(), plan, r.Body, format, w)
}

// spanOf reads the bounds of a span, each of which may be empty, under the names that the caller knows them by.
func spanOf(first, from, last, to string) (span Span, err error) {
	for _, t := range []struct {
		name, text string
		to         *time.Time
	}{{first, from, &span.From}, {last, to, &span.To}} {
		if t.text == "" {
			continue
		}
		if *t.to, err = row.ParseTime(t.text); err != nil {
			return span, fault.Wrap(fault.Invalid, err, "%s: %s", t.name, fault.Message(err))
		}
	}
	if span.To.Before(span.From) && !span.To.IsZero() {
		return span, fault.New(fault.Invalid, "%s is before %s", last, first)
	}
	return span, nil
}

// flag reads one of a query, false where it is not there.
func flag(q url.Values, name string) (bool, error) {
	text := q.Get(name)
	if text == "" {
		return false, nil
	}
	on, err := strconv.ParseBool(text)
	if err != nil {
		return false, fault.New(fault.Invalid, "%s is %.20q, expected true or false", name, text)
	}
	return on, nil
}

// materializeAsk is Feast's body.
type materializeAsk struct {
	Start   string   `json:"start_ts"`
	End     string   `json:"end_ts"`
	Views   []string `json:"feature_views"`
	Without bool     `json:"disable_event_timestamp"` // all rows, whatever their times
}

func (s *Server) materialize(w http.ResponseWriter, r *http.Request, incremental bool) error {
	serve.Long(w, r)
	var ask materializeAsk
	if err := serve.ReadJSON(r, &ask, json.Unmarshal); err != nil {
		return err
	}
	span, err := spanOf("start_ts", ask.Start, "end_ts", ask.End)
	if err != nil {
		return err
	}
	if ask.Without {
		span = Span{}
	}
	span.Incremental = incremental
	defs, err := s.defined.Current(r.Context())
	if err != nil {
		return err
	}
	if len(ask.Views) == 0 {
		for _, v := range defs.Views {
			ask.Views = append(ask.Views, v.Name)
		}
	}
	var views []*feature.CompiledView
	for _, name := range ask.Views {
		v, err := defs.View(name)
		if err != nil {
			return err
		}
		views = append(views, v)
	}
	async, err := flag(r.URL.Query(), "async")
	if err != nil {
		return err
	}
	if !async {
		if err := s.run(r.Context(), views, span, func() {}); err != nil {
			return err
		}
		return serve.WriteJSON(w, http.StatusOK, s.last(ask.Views))
	}
	// What can't begin is refused now and not behind the caller's back.
	begun, ended := make(chan struct{}), make(chan error, 1)
	s.work.Go(func() {
		err := fault.Guard(func() error {
			return s.run(s.base, views, span, sync.OnceFunc(func() { close(begun) }))
		})()
		if err != nil {
			s.log.ErrorContext(s.base, "materialize", "error", err)
		}
		ended <- err
	})
	select {
	case <-begun:
	case err := <-ended:
		if err != nil {
			return err
		}
	case <-r.Context().Done():
		return r.Context().Err()
	}
	return serve.WriteJSON(w, http.StatusAccepted, s.last(ask.Views))
}

// run materializes views one after another, and keeps what is to be told of it.
func (s *Server) run(ctx context.Context, views []*feature.CompiledView, span Span, begun func()) error {
	s.mu.Lock()
	for _, v := range views {
		if old := s.runs[v.Name]; old != nil && !old.Ended.IsZero() {
			delete(s.runs, v.Name) // so that who looks sees this run or none
		}
	}
	s.mu.Unlock()
	for _, v := range views {
		run := &Run{Progress: Progress{View: v.Name}, Started: time.Now().UTC()}
		err := s.store.Materialize(ctx, v, span, func(p Progress) {
			s.mu.Lock()
			run.Progress = p
			s.runs[v.Name] = run
			s.mu.Unlock()
			begun()
		})
		s.mu.Lock()
		run.Ended = time.Now().UTC()
		if err != nil {
			run.Error = fault.Message(err)
			if other := s.runs[v.Name]; other == nil || !other.Ended.IsZero() || !fault.Is(err, fault.Conflict) {
				s.runs[v.Name] = run // else the one that is in the way is to be told of
			}
		}
		s.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// last tells of the runs of views; none: of all.
func (s *Server) last(views []string) Runs {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := Runs{Runs: []Run{}}
	for name, run := range s.runs {
		if len(views) == 0 || slices.Contains(views, name) {
			all.Runs = append(all.Runs, *run)
		}
	}
	slices.SortFunc(all.Runs, func(a, b Run) int { return cmp.Compare(a.View, b.View) })
	return all
}

func (s *Server) progress(w http.ResponseWriter, r *http.Request) error {
	return serve.WriteJSON(w, http.StatusOK, s.last(r.URL.Query()["view"]))
}
