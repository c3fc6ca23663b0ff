package predict

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/oip"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// extensions are what the server tells of itself.
var extensions = []string{"binary_tensor_data", "model_repository", "model_configuration", "statistics"}

// Handler is the flow's HTTP edge.
type Handler struct {
	flow    *Flow
	events  *event.Responder
	compat  Compat
	version string
	ready   func() error
}

// NewHandler makes the edge of a flow. ready says what the server still
// waits for, or nil.
func NewHandler(flow *Flow, compat Compat, tel *telemetry.Telemetry, ready func() error) (*Handler, error) {
	events, err := event.NewResponder(tel)
	if err != nil {
		return nil, err
	}
	return &Handler{flow: flow, events: events, compat: compat, version: tel.Version(), ready: ready}, nil
}

// Register adds the flow's routes to a mux: the protocols under /v2 and /v1, and
// the registry under /admin/v1.
func (h *Handler) Register(mux *http.ServeMux) {
	route := func(pattern string, handle func(http.ResponseWriter, *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := handle(w, r); err != nil {
				serve.Error(w, r, h.compat.word(err, r.PathValue("model"), strings.HasSuffix(r.Pattern, "/load")))
			}
		})
	}
	route("GET /v2", h.server)
	route("GET /v2/{$}", h.server)
	route("GET /v2/health/live", h.live)
	route("GET /v2/health/ready", h.serverReady)
	route("GET /v2/models", h.models)
	route("GET /v2/models/stats", h.allStats)
	for _, m := range []string{"/v2/models/{model}", "/v2/models/{model}/versions/{version}"} {
		route("GET "+m, h.metadata)
		route("GET "+m+"/ready", h.modelReady)
		route("GET "+m+"/config", h.config)
		route("GET "+m+"/stats", h.modelStats)
		route("POST "+m+"/infer", h.infer)
	}
	route("POST /v2/repository/index", h.index)
	route("POST /v2/repository/models/{model}/load", h.load)
	route("POST /v2/repository/models/{model}/unload", h.unload)
	h.registerV1(route)
	h.registerAdmin(route)
}

func refOf(r *http.Request) model.Ref {
	return model.Ref{Name: r.PathValue("model"), Version: r.PathValue("version")}
}

func answer(w http.ResponseWriter, status int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, err = w.Write(append(b, '\n'))
	return err
}

func (h *Handler) server(w http.ResponseWriter, _ *http.Request) error {
	return answer(w, http.StatusOK, oip.ServerMetadata{Name: h.compat.serverName(), Version: h.version, Extensions: extensions})
}

func (h *Handler) live(w http.ResponseWriter, _ *http.Request) error {
	return answer(w, http.StatusOK, oip.Live{Live: true})
}

func (h *Handler) serverReady(w http.ResponseWriter, _ *http.Request) error {
	ready := h.ready() == nil
	return answer(w, readyStatus(ready), oip.Ready{Ready: ready})
}

func (h *Handler) models(w http.ResponseWriter, r *http.Request) error {
	names, err := h.flow.registry.Models(r.Context())
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, oip.ModelList{Models: append([]string{}, names...)})
}

func (h *Handler) metadata(w http.ResponseWriter, r *http.Request) error {
	m, err := h.flow.Pick(r.Context(), refOf(r))
	if err != nil {
		return err
	}
	versions, err := h.flow.registry.Versions(r.Context(), m.Name)
	if err != nil {
		return err
	}
	names := make([]string, len(versions))
	for i, v := range versions {
		names[i] = strconv.Itoa(v)
	}
	return answer(w, http.StatusOK, oip.ModelMetadata{
		Name: m.Name, Versions: names, Platform: h.flow.registry.Platform(m),
		Inputs: oip.Describe(m.Signature.Inputs), Outputs: oip.Describe(m.Signature.Outputs),
	})
}

func (h *Handler) modelReady(w http.ResponseWriter, r *http.Request) error {
	m, err := h.flow.Pick(r.Context(), refOf(r))
	if err != nil {
		return err
	}
	ready := h.flow.ready(m)
	return answer(w, readyStatus(ready), oip.ModelReady{Name: m.Name, Ready: ready})
}

func readyStatus(ready bool) int {
	if ready {
		return http.StatusOK
	}
	return http.StatusServiceUnavailable
}

func (h *Handler) config(w http.ResponseWriter, r *http.Request) error {
	m, err := h.flow.Pick(r.Context(), refOf(r))
	if err != nil {
		return err
	}
	c := oip.ModelConfig{Name: m.Name, Platform: h.flow.registry.Platform(m), Backend: m.Runtime}
	c.Configure(int64(m.Batching.MaxRows), m.Signature.Inputs, m.Signature.Outputs)
	return answer(w, http.StatusOK, c)
}

func (h *Handler) modelStats(w http.ResponseWriter, r *http.Request) error {
	m, err := h.flow.Pick(r.Context(), refOf(r))
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, oip.Statistics{Models: []oip.ModelStatistics{h.flow.statistics(m)}})
}

func (h *Handler) allStats(w http.ResponseWriter, _ *http.Request) error {
	return answer(w, http.StatusOK, oip.Statistics{Models: h.flow.allStatistics()})
}

func (h *Handler) infer(w http.ResponseWriter, r *http.Request) error {
	return h.call(w, r, newExchange)
}

func (h *Handler) index(w http.ResponseWriter, r *http.Request) error {
	var ask oip.IndexRequest
	if err := serve.ReadJSON(r, &ask, json.Unmarshal); err != nil {
		return err
	}
	entries, err := h.flow.index(r.Context())
	if err != nil {
		return err
	}
	if ask.Ready {
		ready := entries[:0]
		for _, e := range entries {
			if e.State == oip.StateReady {
				ready = append(ready, e)
			}
		}
		entries = ready
	}
	return answer(w, http.StatusOK, entries)
}

func (h *Handler) load(w http.ResponseWriter, r *http.Request) error {
	var ask struct {
		Parameters map[string]json.RawMessage `json:"parameters"`
	}
	if err := serve.ReadJSON(r, &ask, json.Unmarshal); err != nil {
		return err
	}
	for name := range ask.Parameters {
		return fault.New(fault.Invalid, "parameter %q can't be given to a load: models and their settings come from the registry (POST /admin/v1/models/{model}/versions)", name)
	}
	m, err := h.flow.registry.Resolve(r.Context(), refOf(r))
	if err != nil {
		return err
	}
	lease, err := h.flow.registry.Warm.Acquire(r.Context(), m)
	if err != nil {
		return err
	}
	lease.Release()
	h.flow.of(m).unloaded.Store(false)
	return answer(w, http.StatusOK, struct{}{})
}

func (h *Handler) unload(w http.ResponseWriter, r *http.Request) error {
	var ask struct {
		Parameters map[string]json.RawMessage `json:"parameters"`
	}
	if err := serve.ReadJSON(r, &ask, json.Unmarshal); err != nil {
		return err
	}
	m, err := h.flow.Pick(r.Context(), refOf(r))
	if err != nil {
		return err
	}
	h.flow.of(m).unloaded.Store(true)
	if _, err := h.flow.registry.Warm.Unload(r.Context(), m); err != nil {
		return err
	}
	return answer(w, http.StatusOK, struct{}{})
}
