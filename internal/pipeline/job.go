package pipeline

import (
	"context"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/event"
)

// Jobs is a Place: each step is a job of a cluster, which something makes that is sent an event, such as Knative's JobSink: once for
// each event, however often it comes. The job's process finds the event in the file that StepVariable names, and must call RunAsked.
//
// Nobody waits for a job: its own event has the run gone on with. One that dies without a word is missed when its log falls silent.
type Jobs struct {
	sink     event.Sink
	patience time.Duration
}

var _ Place = (*Jobs)(nil)

// NewJobs makes a place of where events go. Patience is how long a job may take until it is heard of.
func NewJobs(sink event.Sink, patience time.Duration) *Jobs { return &Jobs{sink, patience} }

// Name implements Place.
func (j *Jobs) Name() string { return "job" }

// Patience implements Place.
func (j *Jobs) Patience() time.Duration { return j.patience }

// Start implements Place.
func (j *Jobs) Start(ctx context.Context, e event.Event) error { return j.sink.Send(ctx, e) }

// Wait implements Place: it can't tell.
func (j *Jobs) Wait(context.Context, *event.Try) bool { return false }
