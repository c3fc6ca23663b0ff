package pipeline

import (
	"context"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/event"
)

// Place is where heavy steps run: somewhere else than in the function, by RunStep. All methods are safe for concurrent use.
type Place interface {
	// Name says in a few letters what it is, for people and records.
	Name() string
	// Start has the try run that an event StepRequested asks for, and returns. The same event again is the same try, and
	// runs once. After an error it does not run.
	Start(ctx context.Context, e event.Event) error
	// Wait returns once a try has ended that this very process started, or ctx has. It gives false, and at once, where
	// it can't tell of the try: others will, by an event.
	Wait(ctx context.Context, t *event.Try) bool
	// Patience is how long it may take from Start until the step is heard of.
	Patience() time.Duration
}
