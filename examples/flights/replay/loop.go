package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/alert"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
)

// frozen is the model that nobody tends.
const frozen = "flights-frozen"

// loop is a server whose clock the replay is (TICKS=off): at each tick everything that happened is made known, what it is time for is done, and
// time stands still until that is over, as training for minutes is nothing beside days. It tells what happens on out.
type loop struct {
	*server
	out    io.Writer
	every  time.Duration // from one tick to the next
	scores *scores
	// errands are in the order of their times.
	errands []errand

	next  time.Time // tick
	month time.Time // whose quality is told next
	// promoted says who answers everybody, and since when.
	promoted []string
	seen     seen
	still    time.Duration // for how long time stood still
}

// seen is what was told already.
type seen struct {
	alerts   map[string]bool // raised, by id
	resolved map[string]bool
	moves    int // the last move's number
	runs     map[string]string
}

func newLoop(base string, out io.Writer, every time.Duration, since time.Time) *loop {
	s := newServer(base, 1000, func(time.Time, int) {})
	l := &loop{server: s, out: out, every: every, scores: newScores(since), seen: seen{alerts: map[string]bool{}, resolved: map[string]bool{}, runs: map[string]string{}}}
	s.loop = l
	return l
}

// run has everything happen, and then tells what came of it.
func (l *loop) run(ctx context.Context, all iter.Seq2[happening, error], speed float64, until time.Time, svg string) error {
	began := time.Now()
	err := replay(ctx, all, speed, l)
	fmt.Fprintln(l.out)
	l.scores.table(l.out, until)
	fmt.Fprintln(l.out)
	l.report(l.out)
	fmt.Fprintf(l.out, "in %s, for %s of which time stood still; promoted: version %s\n", time.Since(began).Round(time.Second), l.still.Round(time.Second), strings.Join(l.promoted, ", "))
	if svg != "" && err == nil {
		err = os.WriteFile(svg, l.scores.svg(until, "Promoted: version "+strings.Join(l.promoted, ", ")), 0o666)
	}
	return err
}

func (l *loop) take(ctx context.Context, h happening) error {
	if l.next.IsZero() {
		l.next, l.month = h.at.Add(l.every), l.scores.since
	}
	for !h.at.Before(l.next) {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := l.tick(ctx, l.next); err != nil {
			return fmt.Errorf("the tick of %s: %w", l.next.Format(time.RFC3339), err)
		}
		l.next = l.next.Add(l.every)
	}
	return l.server.take(ctx, h)
}

// tick does what it is time for, and waits for its end.
func (l *loop) tick(ctx context.Context, at time.Time) error {
	defer func(began time.Time) { l.still += time.Since(began) }(time.Now())
	if err := l.flush(ctx); err != nil {
		return err
	}
	if err := l.until(ctx, "the payload log is written", l.logged); err != nil {
		return err
	}
	if err := l.say(ctx, "alerts", "evaluate-alerts", at); err != nil {
		return err
	}
	var status alert.Status
	if err := l.until(ctx, "the rules are evaluated", func(ctx context.Context) (bool, error) {
		err := l.get(ctx, "/admin/v1/alerts", &status)
		return !status.At.Before(at) && status.Unsent == 0, err
	}); err != nil {
		return err
	}
	l.tellAlerts(at, &status)
	for _, t := range [...]struct {
		name, job string
		due       bool
	}{{"pipelines", "tend-pipelines", true}, {"hourly", "tend-features", at.YearDay()%7 == 0}} {
		if !t.due {
			continue
		}
		if err := l.say(ctx, t.name, t.job, at); err != nil {
			return err
		}
	}
	if err := l.until(ctx, "everything is at rest", func(ctx context.Context) (bool, error) { return l.rests(ctx, at) }); err != nil {
		return err
	}
	if err := l.tellMoves(ctx, at); err != nil {
		return err
	}
	for len(l.errands) > 0 && !at.Before(l.errands[0].at) {
		e := l.errands[0]
		l.errands = l.errands[1:]
		l.line(at, "errand", "%s", e.command)
		command := exec.CommandContext(ctx, "sh", "-c", e.command)
		command.Stdout, command.Stderr = l.out, l.out
		if err := command.Run(); err != nil {
			return fmt.Errorf("%s: %w", e.command, err)
		}
	}
	return nil
}

// errand is something that somebody does beside the loop, while time stands still.
type errand struct {
	at      time.Time
	command string
}

// errandOf reads an errand as the flag has it: time=command.
func errandOf(text string) (e errand, err error) {
	at, command, _ := strings.Cut(text, "=")
	e.command = command
	e.at, err = time.Parse(time.RFC3339, at)
	return e, err
}

// say tells what time it is.
func (l *loop) say(ctx context.Context, tick, job string, at time.Time) error {
	body, err := json.Marshal(map[string]any{
		"specversion": "1.0", "id": job + " " + at.Format(time.RFC3339), "source": "/examples/flights/2013", "type": "dev.knative.sources.ping",
		"tick": tick, "datacontenttype": "application/json", "data": map[string]any{"job": job, "at": at},
	})
	if err != nil {
		return err
	}
	_, _, err = post(ctx, l.url+"/events", "application/cloudevents+json", body)
	return err
}

// get reads what there is at a path; nothing: v stays as it is.
func (l *loop) get(ctx context.Context, path string, v any) error {
	b, _, err := request(ctx, http.MethodGet, l.url+path, "", nil)
	switch text, ok := v.(*string); {
	case fault.Is(err, fault.NotFound):
		return nil
	case err != nil:
		return err
	case ok:
		*text = string(b)
		return nil
	}
	return json.Unmarshal(b, v)
}

// standstill is how long the loop waits for something: the steps of pipelines have shorter limits of their own, which is what is then told.
const standstill = 30 * time.Minute

// until asks again and again until something is so.
func (l *loop) until(ctx context.Context, what string, so func(context.Context) (bool, error)) error {
	for end := time.Now().Add(standstill); ; {
		done, err := so(ctx)
		switch {
		case done:
			return nil
		case time.Now().After(end) && err == nil:
			return fault.New(fault.Deadline, "waited for %s that %s", standstill, what)
		case time.Now().After(end):
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

var sample = regexp.MustCompile(`(?m)^(\w+)(?:\{(?:.*?result="(\w+)")?[^}]*\})? ([0-9.e+]+)$`)

// metrics reads those of the server that have a result, or nothing, as their label.
func (l *loop) metrics(ctx context.Context) (map[string]float64, error) {
	var text string
	err := l.get(ctx, "/metrics", &text)
	all := map[string]float64{}
	for _, m := range sample.FindAllStringSubmatch(text, -1) {
		v, _ := strconv.ParseFloat(m[3], 64) // what is none is not asked for
		all[strings.TrimSpace(m[1]+" "+m[2])] += v
	}
	return all, err
}

// logged tells whether all predictions are in the bucket.
func (l *loop) logged(ctx context.Context) (bool, error) {
	m, err := l.metrics(ctx)
	const of = "pilotlight_payload_predictions_total "
	if m[of+"dropped"] > 0 {
		return false, fault.New(fault.Overloaded, "%g predictions were dropped from the payload log", m[of+"dropped"])
	}
	return err == nil && m[of+"made"] == m[of+"written"], err
}

// lastRun is the newest run of a pipeline, as far as it is told.
type lastRun struct {
	ID     string `json:"id"`
	State  string `json:"state"`
	Reason string `json:"reason"`
	Steps  []struct {
		Name  string    `json:"name"`
		State string    `json:"state"`
		Began time.Time `json:"began"`
		Ended time.Time `json:"ended"`
	} `json:"steps"`
}

// rests tells whether no event is under way and no step of a pipeline is running. One may wait for traffic; then the event that its run
// began with is under way for as long.
func (l *loop) rests(ctx context.Context, at time.Time) (bool, error) {
	var list struct{ Pipelines []struct{ Name string } }
	if err := l.get(ctx, "/admin/v1/pipelines", &list); err != nil {
		return false, err
	}
	waits := false
	for _, p := range list.Pipelines {
		var r lastRun
		if err := l.get(ctx, "/admin/v1/pipelines/"+p.Name+"/runs/latest", &r); err != nil {
			return false, err
		}
		switch waiting := r.has("waiting"); {
		case r.has("running"), !waiting && (r.State == "queued" || r.State == "running"):
			return false, nil
		case waiting:
			waits, r.State = true, "waiting"
		}
		l.tellRun(at, p.Name, &r)
	}
	if waits {
		return true, nil
	}
	m, err := l.metrics(ctx)
	return m["pilotlight_events_pending"] == 0, err
}

// has tells whether a step stands somehow.
func (r *lastRun) has(state string) bool {
	for _, s := range r.Steps {
		if s.State == state {
			return true
		}
	}
	return false
}

// line tells something that happened.
func (l *loop) line(at time.Time, kind, format string, args ...any) {
	fmt.Fprintf(l.out, "%s  %-9s %s\n", at.Format(time.DateOnly), kind, fmt.Sprintf(format, args...))
}

func (l *loop) tellAlerts(at time.Time, s *alert.Status) {
	for _, a := range s.Active {
		if !l.seen.alerts[a.ID] {
			l.line(at, "alert", "%s: %s", a.Rule, a.Summary)
		}
		l.seen.alerts[a.ID] = true
	}
	for _, a := range s.Resolved {
		if l.seen.alerts[a.ID] && !l.seen.resolved[a.ID] {
			l.line(at, "resolved", "%s: %s", a.Rule, a.Summary)
		}
		l.seen.resolved[a.ID] = true
	}
}

func (l *loop) tellRun(at time.Time, name string, r *lastRun) {
	var steps []string
	for _, s := range r.Steps {
		text := s.Name + " " + s.State
		if s.State == "succeeded" {
			text = fmt.Sprintf("%s %.1f s", s.Name, s.Ended.Sub(s.Began).Seconds())
		}
		steps = append(steps, text)
	}
	if r.ID == "" || l.seen.runs[name] == r.ID+r.State {
		return
	}
	l.seen.runs[name] = r.ID + r.State
	l.line(at, "pipeline", "%s", strings.TrimSpace(fmt.Sprintf("%s %s: %s. %s", name, r.State, strings.Join(steps, ", "), r.Reason)))
}

// tellMoves tells how traffic was shifted and, when a month is over, how right everybody was.
func (l *loop) tellMoves(ctx context.Context, at time.Time) error {
	var m struct{ History []model.Move }
	if err := l.get(ctx, "/admin/v1/models/flights", &m); err != nil {
		return err
	}
	for _, move := range m.History {
		if move.Seq > l.seen.moves {
			l.seen.moves = move.Seq
			l.line(at, "traffic", "%s -> %s (%s)", shares(move.From, move.Before), shares(move.To, move.After), strings.TrimPrefix(move.Why, "rollout: "))
			if move.Alias == model.Champion && move.From != 0 && move.To != move.From {
				l.promoted = append(l.promoted, fmt.Sprintf("%d (%s)", move.To, at.Format("2 Jan")))
			}
		}
	}
	if end := l.month.AddDate(0, 1, 0); !at.Before(end) {
		if c := l.scores.compare(l.month, end); c.n > 0 {
			l.line(at, "quality", "%s: %d flights, %.1f%% late; log loss %.4f, without the loop %.4f", l.month.Format("January"), c.n, 100*c.late, c.with, c.without)
		}
		l.month = end
	}
	return nil
}

// shares writes who answers.
func shares(version int, s *model.Split) string {
	text := "version " + strconv.Itoa(version)
	if version == 0 {
		return "nobody"
	}
	if s == nil {
		return text
	}
	for _, c := range s.Canaries {
		text += fmt.Sprintf(" + %d at %g%%", c.Version, 100*c.Share)
	}
	if s.Shadow > 0 {
		text += fmt.Sprintf(" + %d as shadow", s.Shadow)
	}
	return text
}
