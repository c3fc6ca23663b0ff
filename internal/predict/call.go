package predict

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/oip"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// call is an edge over HTTP. Its memory is reused by later ones.
type call interface {
	edge
	// take gives it the request's body, of which header bytes are JSON; -1: all of it is.
	take(body []byte, header int)
	// answer is what encode wrote, in the same way.
	answer() (body []byte, header int)
	// free gives the memory back. Nothing of the call may be used afterwards.
	free()
}

// call answers a request for inference: an event by an event, anything else as
// its protocol does.
func (h *Handler) call(w http.ResponseWriter, r *http.Request, open func() call) error {
	begin := time.Now()
	ref := refOf(r)
	telemetry.LineFrom(r.Context()).SetModel(ref.Name, ref.Version)

	header := -1
	if text := r.Header.Get(oip.HeaderLength); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return fault.New(fault.Invalid, "header %s is %q, expected the length of the JSON part in bytes", oip.HeaderLength, tensor.Clip(text))
		}
		header = n
	}
	body, done, err := readBody(r, header)
	if err != nil {
		return err
	}
	defer done()
	if event.Carries(r.Header) {
		h.respond(w, r, ref, body, header, open)
		return nil
	}
	c := open()
	defer c.free()
	c.take(body, header)
	about, err := h.flow.pass(r.Context(), &asking{ref: ref, begin: begin, control: cacheControl(r), from: r}, c)
	if err != nil {
		return err
	}
	about.tell(w.Header())
	body, header = c.answer()
	return write(w, r, body, header)
}

// respond answers events whose data are requests for inference by events whose
// data are the answers. header is for one in binary mode, whose data is the body
// as it is.
func (h *Handler) respond(w http.ResponseWriter, r *http.Request, ref model.Ref, body []byte, header int, open func() call) {
	asked := ref.String()
	answer := func(ctx context.Context, e *event.Event) (event.Event, error) {
		begin := time.Now()
		c := &named{call: open()}
		defer c.free()
		c.take(e.Data(), header)
		ask := &asking{ref: ref, begin: begin, from: r, id: event.PredictionMade.ID(e, asked), key: event.PartitionKey(e)}
		if _, err := h.flow.pass(ctx, ask, c); err != nil {
			return event.Event{}, err
		}
		body, header := c.answer()
		kind := jsonValue[0]
		if header >= 0 {
			kind = octetStreamValue[0]
			w.Header().Set(oip.HeaderLength, strconv.Itoa(header))
		}
		return event.PredictionMade.To(e, asked, c.name, kind, bytes.Clone(body)), nil
	}
	failed := func(e *event.Event, err error) event.Event {
		b, _ := json.Marshal(event.Failed{Error: fault.Message(err), Status: event.Status(err)}) // plain data always does
		return event.PredictionFailed.To(e, asked, asked, jsonValue[0], b)
	}
	h.events.Respond(w, r, body, answer, failed)
}

// named is a call that keeps the name of the version that answered it, as model:version.
type named struct {
	call
	name string
}

func (n *named) protocol() protocol { return byEvent }

func (n *named) encode(a *Answer, version string) error {
	n.name = a.Manifest.Name + ":" + version
	return n.call.encode(a, version)
}
