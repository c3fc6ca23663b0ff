package predict

import (
	"bytes"
	"net/http"
	"strings"
	"sync"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
	"github.com/pilotlight-ml/pilotlight/internal/tfserving"
)

// registerV1 adds the protocol that TensorFlow Serving has and KServe calls V1.
// Its labels are aliases.
func (h *Handler) registerV1(route func(pattern string, handle func(http.ResponseWriter, *http.Request) error)) {
	route("GET /{$}", h.alive)
	route("GET /v1/models", h.modelsV1)
	route("POST /v1/models/{model}", h.callV1("model"))
	for _, m := range []string{"/v1/models/{model}", "/v1/models/{model}/versions/{version}", "/v1/models/{model}/labels/{version}"} {
		route("GET "+m, h.status)
		route("GET "+m+"/metadata", h.metadataV1)
		if strings.HasSuffix(m, "{version}") {
			route("POST "+m, h.callV1("version"))
		}
	}
}

func (h *Handler) alive(w http.ResponseWriter, _ *http.Request) error {
	return serve.WriteJSON(w, http.StatusOK, tfserving.Alive{Status: "alive"})
}

func (h *Handler) modelsV1(w http.ResponseWriter, r *http.Request) error {
	names, err := h.flow.models(r.Context())
	if err != nil {
		return err
	}
	return serve.WriteJSON(w, http.StatusOK, tfserving.ModelList{Models: append([]string{}, names...)})
}

// status tells of the version that answers for a ref. It is ready, and available,
// as V2 has it.
func (h *Handler) status(w http.ResponseWriter, r *http.Request) error {
	m, err := h.flow.Pick(r.Context(), refOf(r))
	if err != nil {
		return err
	}
	entry, ready := h.flow.entry(m), h.flow.ready(m)
	v := tfserving.VersionStatus{Version: entry.Version, State: tfserving.StateAvailable, Status: tfserving.Status{Code: "OK"}}
	if !ready {
		v.State, v.Status = tfserving.StateEnd, tfserving.Status{Code: "UNAVAILABLE", Message: entry.Reason}
	}
	return serve.WriteJSON(w, readyStatus(ready), tfserving.ModelStatus{Name: m.Name, Ready: ready, Versions: []tfserving.VersionStatus{v}})
}

func (h *Handler) metadataV1(w http.ResponseWriter, r *http.Request) error {
	m, err := h.flow.Pick(r.Context(), refOf(r))
	if err != nil {
		return err
	}
	asks, err := h.flow.asks(r.Context(), m)
	if err != nil {
		return err
	}
	return serve.WriteJSON(w, http.StatusOK, tfserving.Describe(m.Name, h.flow.of(m).version, asks, m.Signature.Outputs))
}

// callV1 answers POST .../{segment}:{verb}, which a mux can't tell apart.
func (h *Handler) callV1(segment string) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		last := r.PathValue(segment)
		at := strings.LastIndexByte(last, ':')
		if at < 0 {
			return fault.New(fault.NotFound, "there is nothing to post to at %.200s, but there is at %.200s:predict", r.URL.Path, r.URL.Path)
		}
		if at == 0 {
			return fault.New(fault.NotFound, "the name of a %s is missing before %q", segment, tensor.Clip(last))
		}
		r.SetPathValue(segment, last[:at])
		switch verb := last[at+1:]; verb {
		case "predict":
			return h.call(w, r, newRows)
		case "classify", "regress", "explain":
			return fault.New(fault.Invalid, ":%s is not supported: a model here takes and gives tensors, by :predict", verb)
		default:
			return fault.New(fault.NotFound, "%q is not something that a model does, :predict is", ":"+tensor.Clip(verb))
		}
	}
}

// rowsCall is one V1 request over HTTP. Its memory is reused by later ones.
type rowsCall struct {
	body    []byte
	in      tfserving.Request
	request Request
	buf     []byte
}

var _ call = (*rowsCall)(nil)

var rowsCalls = sync.Pool{New: func() any { return new(rowsCall) }}

func newRows() call { return rowsCalls.Get().(*rowsCall) }

func (c *rowsCall) take(body []byte, _ int) { c.body = body }

func (c *rowsCall) answer() ([]byte, int) { return c.buf, -1 }

func (c *rowsCall) size() int { return len(c.body) }

func (c *rowsCall) protocol() protocol { return byRows }

func (c *rowsCall) copied() (edge, error) { return &rowsCall{body: bytes.Clone(c.body)}, nil }

func (c *rowsCall) free() {
	if cap(c.buf) > keepMost || len(c.body) > keepMost {
		return
	}
	c.body, c.request = nil, Request{}
	rowsCalls.Put(c)
}

func (c *rowsCall) decode(_ *model.Manifest, asks []tensor.Spec) (*Request, error) {
	if err := c.in.Decode(c.body, asks); err != nil {
		return nil, err
	}
	c.request = Request{Inputs: c.in.Inputs}
	return &c.request, nil
}

func (c *rowsCall) encode(a *Answer, _ string) (err error) {
	c.buf, err = tfserving.Append(c.buf[:0], c.in.Rows, a.Outputs)
	return err
}
