package feedback

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strconv"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// Register mounts POST /feedback. It takes an outcome, an array of them or, as
// application/x-ndjson, one a line, and answers with 202 and a Result once they are durable. When
// none of them is good it answers with 400 and what is wrong with the first. A body that
// can't be taken apart, or that holds too many, is refused as a whole.
func (in *Intake) Register(mux *http.ServeMux) { mux.HandleFunc("POST /feedback", in.post) }

func (in *Intake) post(w http.ResponseWriter, r *http.Request) {
	result, err := in.receive(r)
	if err != nil {
		serve.Error(w, r, err)
		return
	}
	telemetry.LineFrom(r.Context()).Set(slog.Int("outcomes", result.Accepted), slog.Int("rejected", result.Rejected))
	text, _ := json.Marshal(result) // numbers and strings always do
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	if _, err := w.Write(append(text, '\n')); err != nil {
		serve.Failed(r, err)
	}
}

func (in *Intake) receive(r *http.Request) (Result, error) {
	body, err := serve.Unpacked(r)
	if err != nil {
		return Result{}, err
	}
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")) // whatever else it is, it is tried as JSON
	b, all := in.batch(), newElements(body, kind == "application/x-ndjson")
	for {
		raw, err := all.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = b.add(b.size(), raw, "", 0)
		}
		if err != nil {
			return Result{}, err
		}
	}
	if b.size() == 0 {
		return Result{}, fault.New(fault.Invalid, "the body holds no outcome")
	}
	result, err := in.take(r.Context(), b)
	if err != nil || result.Accepted > 0 {
		return result, err
	}
	if first := result.Rejections[0]; result.Rejected > 1 {
		err = fault.New(fault.Invalid, "none of %d outcomes can be taken; the first: %s", result.Rejected, first.Detail)
	} else {
		err = fault.New(fault.Invalid, "%s", first.Detail)
	}
	return Result{}, err
}

// Hear has the mux bring outcomes in as events. An event is done once its outcomes are
// durable or kept as rejected.
func (in *Intake) Hear(m *event.Mux) { event.OnBatch(m, event.OutcomeObserved, in.observed) }

// observed takes the outcomes of all events in one go.
func (in *Intake) observed(ctx context.Context, events []event.Received[event.Outcomes]) []error {
	errs := make([]error, len(events))
	b := in.batch()
	for i, e := range events {
		if n := len(e.Source()); n > sourceMost {
			errs[i] = fault.New(fault.Invalid, "the event's source has %d bytes, more than %d", n, sourceMost)
			continue
		}
		if n := len(e.Data.Outcomes); n > b.most { // before any of them is taken
			errs[i] = b.add(n, nil, "", 0)
			continue
		}
		for j, raw := range e.Data.Outcomes {
			if err := b.add(j, raw, e.Source(), identify("event", e.Source(), e.ID(), strconv.Itoa(j))); err != nil {
				errs[i] = err
			}
		}
	}
	if b.size() > 0 {
		result, err := in.take(ctx, b)
		for i := range errs {
			if errs[i] == nil {
				errs[i] = err
			}
		}
		telemetry.LineFrom(ctx).Set(slog.Int("outcomes", result.Accepted), slog.Int("rejected", result.Rejected))
	}
	return errs
}
