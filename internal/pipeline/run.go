package pipeline

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// State is how a run, or a step of it, stands.
type State string

// The states. Those from Succeeded on are ends.
const (
	Queued    State = "queued"  // nobody has begun it
	Running   State = "running" // or to be gone on with at once
	Waiting   State = "waiting" // for time, or what a step says
	Succeeded State = "succeeded"
	Failed    State = "failed"
	Canceled  State = "canceled"
	// TurnedDown is what Refused makes: a step found a good reason not to go on.
	TurnedDown State = "refused"
)

// Run is one run of a pipeline, as the bucket has it.
type Run struct {
	Pipeline string `json:"pipeline"`
	Beginning
	State  State       `json:"state"`
	Began  time.Time   `json:"began,omitzero"` // when the first step was
	Ended  time.Time   `json:"ended,omitzero"`
	Reason string      `json:"reason,omitempty"` // why it ended so, or what it waits for
	Until  time.Time   `json:"until,omitzero"`   // of a Waiting one: when somebody looks again
	Steps  []StepState `json:"steps"`
	Cancel *Entry      `json:"cancel,omitempty"` // that was asked for
	Audit  []Entry     `json:"audit"`
	Lease  *Lease      `json:"lease,omitempty"` // of who works on it
}

// StepState is how a step of a run stands.
type StepState struct {
	Name     string              `json:"name"`
	Use      string              `json:"use"`
	State    State               `json:"state"`
	Attempt  int                 `json:"attempt,omitempty"`  // the number of its last try
	Failures int                 `json:"failures,omitempty"` // tries that failed in a way that may pass
	Lost     int                 `json:"lost,omitempty"`     // tries whose process went away
	Place    string              `json:"place,omitempty"`    // where its last try runs, if that is not the function itself
	Began    time.Time           `json:"began,omitzero"`     // when the first try did
	Tried    time.Time           `json:"tried,omitzero"`     // when the last one did
	Ended    time.Time           `json:"ended,omitzero"`
	Until    time.Time           `json:"until,omitzero"` // of a Waiting one: when it is tried again
	Why      string              `json:"why,omitempty"`  // of what the last try came to, where it did not succeed
	Outputs  map[string]Artifact `json:"outputs,omitempty"`
}

// Entry says who did what with a run.
type Entry struct {
	At   time.Time `json:"at"`
	Who  string    `json:"who"`
	What string    `json:"what"`
}

// Lease says who works on a run, and until when nobody else may.
type Lease struct {
	Holder string    `json:"holder"`
	Until  time.Time `json:"until"`
}

const (
	runMost   = 16 << 20
	auditMost = 200 // entries of a run; of more the middle ones are left out
	whyKept   = 2000
)

var runForm = regexp.MustCompile(`^[0-9]{8}T[0-9]{6}\.[0-9]{3}-[0-9a-f]{8}$`)

func runKey(name, run string) string { return Prefix + name + "/runs/" + run }

// note adds to the audit trail, unless that was the last that was noted.
func (r *Run) note(at time.Time, who, format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	if n := len(r.Audit); n > 0 && r.Audit[n-1].Who == who && r.Audit[n-1].What == what {
		return
	}
	r.Audit = append(r.Audit, Entry{at.UTC(), who, what})
	if len(r.Audit) > auditMost {
		r.Audit = append(r.Audit[:auditMost/2], r.Audit[len(r.Audit)-auditMost/2+1:]...)
	}
}

// clip cuts a text that is kept in a record.
func clip(s string, most int) string {
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}

// record reads the record of a run that a head names, and writes it first where it is not there yet.
func (m *Manager) record(ctx context.Context, name string, b *Beginning) (*Run, error) {
	for {
		run, _, err := m.read(ctx, name, b.ID)
		if !fault.Is(err, fault.NotFound) {
			return run, err
		}
		run = &Run{Pipeline: name, Beginning: *b, State: Queued, Steps: []StepState{}, Audit: []Entry{}}
		who := cmp.Or(b.By, "somebody")
		if b.Cause != nil {
			who = b.Cause.Type + " " + b.Cause.ID
		}
		run.note(b.At, who, "started")
		_, err = store.WriteJSON(ctx, m.blob, runKey(name, b.ID), run, store.IfAbsent())
		if !fault.Is(err, fault.Conflict) {
			return run, err
		}
	}
}

func (m *Manager) read(ctx context.Context, name, id string) (*Run, string, error) {
	if err := checkName("pipeline's name", name); err != nil {
		return nil, "", err
	}
	if !runForm.MatchString(id) {
		return nil, "", fault.New(fault.Invalid, "%.100q is not the id of a run, such as 20261126T093000.000-0123abcd", id)
	}
	run := &Run{}
	version, err := store.ReadJSON(ctx, m.blob, runKey(name, id), runMost, run)
	switch {
	case fault.Is(err, fault.NotFound):
		return nil, "", fault.New(fault.NotFound, "the pipeline %s has no run %s", name, id)
	case err != nil && version == "":
		return nil, "", err
	case err != nil || run.Pipeline != name || run.ID != id: // trying again helps nobody
		return nil, "", fault.Wrap(fault.Invalid, err, "the bucket's %s is damaged", runKey(name, id))
	}
	return run, version, nil
}

// Get gives a run.
func (m *Manager) Get(ctx context.Context, name, id string) (*Run, error) {
	run, _, err := m.read(ctx, name, id)
	return run, err
}

// errLost is why somebody who worked on a run does not any more.
var errLost = errors.New("another process has taken the run over")

// hold is the right to work on a run. Each write of the record is one of compare-and-swap, so that a
// holder whose lease was taken over can't change it: it is not the one that it was then.
type hold struct {
	m      *Manager
	holder string

	mu      sync.Mutex
	run     *Run // never changed, but replaced
	version string
}

// take gives the right to work on a run, or nil and when to look again: somebody else works on it, or there is nothing to do yet.
func (m *Manager) take(ctx context.Context, name, id string) (*hold, time.Time, error) {
	for {
		run, version, err := m.read(ctx, name, id)
		if err != nil {
			return nil, time.Time{}, err
		}
		now := m.now()
		switch {
		case !run.Ended.IsZero():
			return nil, time.Time{}, nil
		case run.Lease != nil && run.Lease.Until.After(now) && run.Lease.Until.Sub(now) < m.lease+clocksDiffer:
			return nil, run.Lease.Until, nil
		case run.State == Waiting && run.Cancel == nil && run.Until.After(now):
			if done, err := m.answered(ctx, run); err != nil || !done {
				return nil, run.Until, err
			}
		}
		k := &hold{m: m, holder: m.holder(), version: version}
		k.run = run.clone()
		if run.Lease != nil {
			k.run.note(now, k.holder, "taken over from %s, which was last heard of %s ago", run.Lease.Holder, now.Sub(run.Lease.Until.Add(-m.lease)).Round(time.Second))
			k.run.lose(now)
		}
		if run.State == Queued {
			k.run.Began = now.UTC()
		}
		k.run.State, k.run.Reason, k.run.Until = Running, "", time.Time{}
		k.run.Lease = &Lease{k.holder, now.Add(m.lease).UTC()}
		k.version, err = store.WriteJSON(ctx, m.blob, runKey(name, id), k.run, store.IfStill(version))
		if fault.Is(err, fault.Conflict) {
			continue
		}
		if err != nil {
			return nil, time.Time{}, err
		}
		return k, time.Time{}, nil
	}
}

// clocksDiffer is how far ahead a holder's clock may be. A lease that ends later was taken by one that is wrong, and would keep all others
// from the run, a cancel too. That it is taken over harms nobody: its holder can't write any more.
const clocksDiffer = time.Hour

// lose says of the step that ran in the holder's own process that it went away with that.
func (r *Run) lose(now time.Time) {
	for i := range r.Steps {
		if s := &r.Steps[i]; s.State == Running && s.Place == "" {
			s.lose(now, "the process that ran it went away")
		}
	}
}

func (s *StepState) lose(now time.Time, why string) {
	s.Lost++
	s.State, s.Why, s.Place, s.Until = Queued, why, "", time.Time{}
	if s.Lost > lostMost {
		s.State, s.Ended = Failed, now.UTC()
		s.Why = fmt.Sprintf("%s, for the time number %d", why, s.Lost)
	}
}

// lostMost is how often the process of a step may go away: one that takes it along each time must not do so for ever.
const lostMost = 5

func (r *Run) clone() *Run {
	b, err := json.Marshal(r)
	next := &Run{}
	if err == nil {
		err = json.Unmarshal(b, next)
	}
	if err != nil {
		panic(fmt.Errorf("a run is plain data: %w", err))
	}
	return next
}

// seen gives the run as it was last seen. It must not be changed.
func (k *hold) seen() *Run {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.run
}

// update changes the record by f, which may be called again. errLost says that the run is somebody else's.
func (k *hold) update(ctx context.Context, f func(r *Run)) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.write(ctx, f)
}

func (k *hold) write(ctx context.Context, f func(r *Run)) error {
	for {
		next := k.run.clone()
		f(next)
		version, err := store.WriteJSON(ctx, k.m.blob, runKey(next.Pipeline, next.ID), next, store.IfStill(k.version))
		if err == nil {
			k.run, k.version = next, version
			return nil
		}
		if !fault.Is(err, fault.Conflict) {
			return err
		}
		if err := k.look(ctx); err != nil {
			return err
		}
	}
}

// look reads the record anew: somebody may have asked to cancel the run, which changes it, too.
func (k *hold) look(ctx context.Context) error {
	run, version, err := k.m.read(ctx, k.run.Pipeline, k.run.ID)
	if err != nil {
		return err
	}
	if run.Lease == nil || run.Lease.Holder != k.holder {
		return errLost
	}
	k.run, k.version = run, version
	return nil
}

// keep renews the lease until it is given back, or end is called. The context's
// cause is errLost once the lease is lost, or errCanceled once somebody asked for that.
func (k *hold) keep(ctx context.Context) (kept context.Context, end func()) {
	kept, cut := context.WithCancelCause(ctx)
	var working sync.WaitGroup
	working.Go(func() {
		for k.beat(kept, cut) {
		}
	})
	return kept, func() {
		cut(context.Canceled)
		working.Wait()
	}
}

// looks is how long nobody looks at most whether a run is to be canceled.
const looks = 2 * time.Second

// beat waits, and renews the lease. It gives false when there is none to renew any more.
func (k *hold) beat(ctx context.Context, cut context.CancelCauseFunc) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(min(k.m.lease/6, looks)):
	}
	err := k.renew(ctx)
	run := k.seen()
	switch {
	case ctx.Err() != nil || run.Lease == nil:
		return false
	case errors.Is(err, errLost), err != nil && !run.Lease.Until.After(k.m.now()):
		k.m.log.WarnContext(ctx, "a run is left to others", slog.String("pipeline", run.Pipeline), slog.String("run", run.ID), slog.String("error", err.Error()))
		cut(errLost)
		return false
	case err != nil:
		k.m.log.WarnContext(ctx, "lease not renewed yet", slog.String("pipeline", run.Pipeline), slog.String("run", run.ID), slog.String("error", err.Error()))
	case run.Cancel != nil:
		cut(errCanceled)
	}
	return true
}

// renew looks at the record and, where a third of the lease is over, makes it longer.
func (k *hold) renew(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.run.Lease == nil {
		return nil
	}
	if err := k.look(ctx); err != nil || k.run.Lease.Until.Sub(k.m.now()) > k.m.lease*2/3 {
		return err
	}
	return k.write(ctx, func(r *Run) { r.Lease.Until = k.m.now().Add(k.m.lease).UTC() })
}

// park leaves the run to whoever comes at that time.
func (k *hold) park(ctx context.Context, until time.Time, why string) error {
	return k.update(ctx, func(r *Run) {
		r.State, r.Until, r.Reason, r.Lease = Waiting, until.UTC(), why, nil
	})
}

// release leaves the run to whoever comes.
func (k *hold) release(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseMost)
	defer cancel()
	return k.update(ctx, func(r *Run) { r.Lease = nil })
}

// releaseMost is how long the end of a process waits for the bucket.
const releaseMost = 5 * time.Second

// Cancel asks for the end of a run, which is noticed within seconds by whoever works on it. Where nobody does it ends at once.
func (m *Manager) Cancel(ctx context.Context, name, id, by string) (*Run, error) {
	if by == "" {
		by = "somebody"
	}
	if len(by) > byMost {
		return nil, fault.New(fault.Invalid, "by is longer than %d bytes", byMost)
	}
	for {
		run, version, err := m.read(ctx, name, id)
		switch {
		case err != nil:
			return nil, err
		case !run.Ended.IsZero():
			return nil, fault.New(fault.Conflict, "the run %s of the pipeline %s has ended already: %s", id, name, run.State)
		case run.Cancel == nil:
			run.Cancel = &Entry{m.now().UTC(), by, "cancel"}
			run.note(m.now(), by, "asked to cancel it")
			_, err = store.WriteJSON(ctx, m.blob, runKey(name, id), run, store.IfStill(version))
			if fault.Is(err, fault.Conflict) {
				continue
			}
			if err != nil {
				return nil, err
			}
		}
		k, _, err := m.take(ctx, name, id)
		if err != nil {
			return nil, err
		}
		if k != nil {
			if _, _, err := k.work(ctx, m.now()); err != nil {
				return nil, err
			}
			if err := m.finish(ctx, k.seen()); err != nil {
				return nil, err
			}
			if _, _, err := m.due(ctx, name); err != nil { // the next, which whoever hears of it goes on with
				return nil, err
			}
		}
		return m.Get(ctx, name, id)
	}
}
