package predict

import (
	"context"
	"strconv"

	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/oip"
)

// What the server tells of itself and its models, whatever protocol asks.

func (h *Handler) serverMetadata() oip.ServerMetadata {
	return oip.ServerMetadata{Name: h.compat.serverName(), Version: h.version, Extensions: extensions}
}

func (h *Handler) modelMetadata(ctx context.Context, ref model.Ref) (oip.ModelMetadata, error) {
	m, err := h.flow.Pick(ctx, ref)
	if err != nil {
		return oip.ModelMetadata{}, err
	}
	versions, err := h.flow.registry.Versions(ctx, m.Name)
	if err != nil {
		return oip.ModelMetadata{}, err
	}
	asks, err := h.flow.asks(ctx, m)
	if err != nil {
		return oip.ModelMetadata{}, err
	}
	names := make([]string, len(versions))
	for i, v := range versions {
		names[i] = strconv.Itoa(v)
	}
	return oip.ModelMetadata{
		Name: m.Name, Versions: names, Platform: h.flow.registry.Platform(m),
		Inputs: oip.Describe(asks), Outputs: oip.Describe(m.Signature.Outputs),
	}, nil
}

// isReady tells whether a request would be answered. A model that is not warm
// is ready: its first request loads it. One that was unloaded by hand, or that
// failed to load just now, is not.
func (h *Handler) isReady(ctx context.Context, ref model.Ref) (oip.ModelReady, error) {
	m, err := h.flow.Pick(ctx, ref)
	if err != nil {
		return oip.ModelReady{}, err
	}
	return oip.ModelReady{Name: m.Name, Ready: h.flow.ready(m)}, nil
}

func (h *Handler) modelConfig(ctx context.Context, ref model.Ref) (oip.ModelConfig, error) {
	m, err := h.flow.Pick(ctx, ref)
	if err != nil {
		return oip.ModelConfig{}, err
	}
	asks, err := h.flow.asks(ctx, m)
	if err != nil {
		return oip.ModelConfig{}, err
	}
	c := oip.ModelConfig{Name: m.Name, Platform: h.flow.registry.Platform(m), Backend: m.Runtime}
	c.Configure(h.flow.of(m).most.Load(), asks, m.Signature.Outputs)
	return c, nil
}

func (h *Handler) statistics(ctx context.Context, ref model.Ref) (oip.Statistics, error) {
	m, err := h.flow.Pick(ctx, ref)
	if err != nil {
		return oip.Statistics{}, err
	}
	return oip.Statistics{Models: []oip.ModelStatistics{h.flow.statistics(m)}}, nil
}
