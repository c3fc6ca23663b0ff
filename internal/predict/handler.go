package predict

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/oip"
	"github.com/pilotlight-ml/pilotlight/internal/rpc"
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

// Register adds the flow's routes to a mux: the protocols under /v2, under /v1 and
// by gRPC, and the registry under /admin/v1. Other services are served by gRPC beside them.
func (h *Handler) Register(mux *http.ServeMux, others ...rpc.Service) {
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
	route("POST /v2/repository/models/{model}/load", h.loadModel)
	route("POST /v2/repository/models/{model}/unload", h.unload)
	h.registerV1(route)
	h.registerAdmin(route)
	rpc.Register(mux, h.ready, append(others, h.service())...)
}

func refOf(r *http.Request) model.Ref {
	return model.Ref{Name: r.PathValue("model"), Version: r.PathValue("version")}
}

func (h *Handler) server(w http.ResponseWriter, _ *http.Request) error {
	return serve.WriteJSON(w, http.StatusOK, h.serverMetadata())
}

func (h *Handler) live(w http.ResponseWriter, _ *http.Request) error {
	return serve.WriteJSON(w, http.StatusOK, oip.Live{Live: true})
}

func (h *Handler) serverReady(w http.ResponseWriter, _ *http.Request) error {
	ready := h.ready() == nil
	return serve.WriteJSON(w, readyStatus(ready), oip.Ready{Ready: ready})
}

func readyStatus(ready bool) int {
	if ready {
		return http.StatusOK
	}
	return http.StatusServiceUnavailable
}

func (h *Handler) models(w http.ResponseWriter, r *http.Request) error {
	names, err := h.flow.models(r.Context())
	if err != nil {
		return err
	}
	return serve.WriteJSON(w, http.StatusOK, oip.ModelList{Models: append([]string{}, names...)})
}

func (h *Handler) metadata(w http.ResponseWriter, r *http.Request) error {
	m, err := h.modelMetadata(r.Context(), refOf(r))
	if err != nil {
		return err
	}
	return serve.WriteJSON(w, http.StatusOK, m)
}

func (h *Handler) modelReady(w http.ResponseWriter, r *http.Request) error {
	ready, err := h.isReady(r.Context(), refOf(r))
	if err != nil {
		return err
	}
	return serve.WriteJSON(w, readyStatus(ready.Ready), ready)
}

func (h *Handler) config(w http.ResponseWriter, r *http.Request) error {
	c, err := h.modelConfig(r.Context(), refOf(r))
	if err != nil {
		return err
	}
	return serve.WriteJSON(w, http.StatusOK, c)
}

func (h *Handler) modelStats(w http.ResponseWriter, r *http.Request) error {
	s, err := h.statistics(r.Context(), refOf(r))
	if err != nil {
		return err
	}
	return serve.WriteJSON(w, http.StatusOK, s)
}

func (h *Handler) allStats(w http.ResponseWriter, r *http.Request) error {
	return serve.WriteJSON(w, http.StatusOK, oip.Statistics{Models: h.flow.allStatistics(r.Context())})
}

func (h *Handler) infer(w http.ResponseWriter, r *http.Request) error {
	return h.call(w, r, newExchange)
}

func (h *Handler) index(w http.ResponseWriter, r *http.Request) error {
	var ask oip.IndexRequest
	if err := serve.ReadJSON(r, &ask, json.Unmarshal); err != nil {
		return err
	}
	entries, err := h.flow.index(r.Context(), ask.Ready)
	if err != nil {
		return err
	}
	return serve.WriteJSON(w, http.StatusOK, entries)
}

// parameters is the body of a load or an unload.
type parameters struct {
	Parameters oip.Parameters `json:"parameters"`
}

func (h *Handler) loadModel(w http.ResponseWriter, r *http.Request) error {
	var ask parameters
	if err := serve.ReadJSON(r, &ask, json.Unmarshal); err != nil {
		return err
	}
	if err := h.load(r.Context(), refOf(r), ask.Parameters); err != nil {
		return err
	}
	return serve.WriteJSON(w, http.StatusOK, oip.Done{})
}

func (h *Handler) unload(w http.ResponseWriter, r *http.Request) error {
	var ask parameters
	if err := serve.ReadJSON(r, &ask, json.Unmarshal); err != nil {
		return err
	}
	if err := h.flow.unload(r.Context(), refOf(r)); err != nil {
		return err
	}
	return serve.WriteJSON(w, http.StatusOK, oip.Done{})
}
