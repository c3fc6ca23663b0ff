package predict

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/pilotlight-ml/pilotlight/internal/auth"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/limit"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/oip"
	"github.com/pilotlight-ml/pilotlight/internal/rpc"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// service is the protocol's gRPC form.
func (h *Handler) service() rpc.Service {
	return rpc.Service{Name: oip.Service, File: oip.Descriptor, Methods: map[string]rpc.Method{
		"ServerLive":     fixed(func() message { return oip.Live{Live: true} }),
		"ServerReady":    fixed(func() message { return oip.Ready{Ready: h.ready() == nil} }),
		"ServerMetadata": fixed(func() message { return h.serverMetadata() }),
		"ModelReady": about((*oip.ModelAsk).DecodeProto, func(ctx context.Context, a *oip.ModelAsk) (message, error) {
			return h.isReady(ctx, askedOf(a))
		}),
		"ModelMetadata": about((*oip.ModelAsk).DecodeProto, func(ctx context.Context, a *oip.ModelAsk) (message, error) {
			return h.modelMetadata(ctx, askedOf(a))
		}),
		"ModelConfig": about((*oip.ModelAsk).DecodeProto, func(ctx context.Context, a *oip.ModelAsk) (message, error) {
			return h.modelConfig(ctx, askedOf(a))
		}),
		"ModelStatistics": about((*oip.ModelAsk).DecodeProto, func(ctx context.Context, a *oip.ModelAsk) (message, error) {
			if a.Name == "" {
				return oip.Statistics{Models: h.flow.allStatistics(ctx)}, nil
			}
			return h.statistics(ctx, askedOf(a))
		}),
		"RepositoryIndex": about((*oip.IndexRequest).DecodeProto, func(ctx context.Context, a *oip.IndexRequest) (message, error) {
			return h.flow.index(ctx, a.Ready)
		}),
		"RepositoryModelLoad": about((*oip.ModelAsk).DecodeRepository, func(ctx context.Context, a *oip.ModelAsk) (message, error) {
			return oip.Done{}, h.compat.word(h.load(ctx, askedOf(a), a.Parameters), a.Name, true)
		}),
		"RepositoryModelUnload": about((*oip.ModelAsk).DecodeRepository, func(ctx context.Context, a *oip.ModelAsk) (message, error) {
			return oip.Done{}, h.flow.unload(ctx, askedOf(a))
		}),
		"ModelInfer":       h.modelInfer,
		"ModelStreamInfer": h.modelStreamInfer,
	}}
}

// message is an answer that can be written.
type message interface{ AppendProto(dst []byte) []byte }

// about makes a method of one that reads its message into a T.
func about[T any](decode func(*T, []byte) error, f func(context.Context, *T) (message, error)) rpc.Method {
	return rpc.Unary(func(ctx context.Context, b, dst []byte) ([]byte, error) {
		var ask T
		if err := decode(&ask, b); err != nil {
			return nil, err
		}
		answer, err := f(ctx, &ask)
		if err != nil {
			return nil, err
		}
		return answer.AppendProto(dst), nil
	})
}

// fixed makes a method of one that is asked nothing.
func fixed(f func() message) rpc.Method {
	return rpc.Unary(func(_ context.Context, _, dst []byte) ([]byte, error) { return f().AppendProto(dst), nil })
}

func askedOf(a *oip.ModelAsk) model.Ref { return model.Ref{Name: a.Name, Version: a.Version} }

// grpcCall is one ModelInferRequest and its answer. Its memory is reused by later ones.
type grpcCall struct {
	message []byte
	in      oip.Request
	request Request
	names   []string
	out     oip.Response
	buf     []byte // the answer, behind room for the prefix
	large   bool   // the request was, and so is the memory that it took
}

var _ edge = (*grpcCall)(nil)

var grpcCalls = sync.Pool{New: func() any { return &grpcCall{buf: make([]byte, rpc.Prefix)} }}

// free gives the memory back. Nothing of the request may be used afterwards.
func (c *grpcCall) free() {
	if cap(c.buf) > keepMost || c.large {
		return
	}
	c.message, c.request, c.out = nil, Request{}, oip.Response{}
	grpcCalls.Put(c)
}

// read takes the message, which alone tells what model is asked.
func (c *grpcCall) read(b []byte) (model.Ref, error) {
	c.message, c.large = b, len(b) > keepMost
	if err := c.in.DecodeProto(b); err != nil {
		return model.Ref{}, err
	}
	return model.Ref{Name: c.in.Model, Version: c.in.Version}, nil
}

func (c *grpcCall) decode(m *model.Manifest, _ []tensor.Spec) (_ *Request, err error) {
	if c.names, err = wanted(c.names[:0], c.in.Outputs); err != nil {
		return nil, err
	}
	c.request = Request{ID: c.in.ID, Inputs: c.in.Inputs, Outputs: c.names}
	if m.Features != "" {
		c.request.FeatureTime, err = featureTime(c.in.Parameters)
	}
	return &c.request, err
}

func (c *grpcCall) encode(a *Answer, version string) error {
	c.out.ModelName, c.out.ModelVersion, c.out.ID, c.out.Outputs = a.Manifest.Name, version, c.in.ID, a.Outputs
	c.buf = c.out.AppendProto(c.buf[:rpc.Prefix], c.in.Raw)
	return nil
}

func (c *grpcCall) size() int { return len(c.message) }

func (c *grpcCall) protocol() protocol { return byGRPC }

func (c *grpcCall) copied() (edge, error) {
	o := &grpcCall{buf: make([]byte, rpc.Prefix)}
	_, err := o.read(bytes.Clone(c.message))
	return o, err
}

// inferCall answers one message; the answer is in c.buf.
func (h *Handler) inferCall(ctx context.Context, c *grpcCall, message []byte, ask asking) (told, error) {
	ask.begin = time.Now()
	ref, err := c.read(message)
	telemetry.LineFrom(ctx).SetModel(ref.Name, ref.Version)
	if err != nil {
		return told{}, err
	}
	if let := ask.from.Header[auth.ModelHeader]; len(let) == 1 && let[0] != ref.Name {
		return told{}, fault.New(fault.Invalid, "the message names the model %q, and another one before", tensor.Clip(ref.Name))
	}
	ask.ref = ref
	outcome, err := h.flow.pass(ctx, &ask, c)
	return outcome, h.compat.word(err, ref.Name, false)
}

func (h *Handler) modelInfer(r *rpc.Call) error {
	message, err := r.ReceiveOnly()
	if err != nil {
		return err
	}
	c := grpcCalls.Get().(*grpcCall)
	defer c.free()
	about, err := h.inferCall(r.Context(), c, message, asking{control: cacheControl(r.Request), from: r.Request})
	if err != nil {
		return err
	}
	about.tell(r.Header())
	return r.Send(c.buf)
}

// inferMessage is inferCall for one of the messages of a stream, each of which has its time and a span of its own.
func (h *Handler) inferMessage(r *rpc.Call, c *grpcCall, message []byte) (told, error) {
	stream := telemetry.LineFrom(r.Context())
	ctx, line := stream.Message(r.Context(), time.Now())
	ctx, cancel := context.WithTimeout(ctx, serve.Timeout(r.Request))
	defer cancel()
	about, err := h.inferCall(ctx, c, message, asking{from: r.Request})
	end := telemetry.Outcome{At: time.Now(), Name: "message", Kind: trace.SpanKindServer}
	if err != nil && fault.HTTPStatus(err) >= http.StatusInternalServerError {
		end.Failed = fault.Message(err)
	}
	stream.EndMessage(ctx, line, &end)
	return about, err
}

// streamPredictionID is the parameter of an answer in a stream, which has no header of its own, that is
// predictionID where the answer's id does not say it.
const streamPredictionID = "prediction_id"

// modelStreamInfer answers messages one after another. One that fails gets an
// answer that says so.
func (h *Handler) modelStreamInfer(r *rpc.Call) error {
	r.Stream()
	c := grpcCalls.Get().(*grpcCall)
	defer c.free()
	answer := make([]byte, rpc.Prefix)
	rows := int64(0)
	defer func() {
		if rows > 0 {
			r.Header()[http.TrailerPrefix+limit.RowsHeader] = rowsValue(rows)
		}
	}()
	for {
		message, err := r.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		about, err := h.inferMessage(r, c, message)
		rows += about.rows
		switch {
		case r.Context().Err() != nil: // nobody waits for an answer
			return context.Cause(r.Context())
		case err != nil:
			answer = oip.AppendStreamError(answer[:rpc.Prefix], &c.in, fault.Message(err))
		default:
			if about.id != "" && about.id != c.in.ID {
				c.buf = oip.AppendParameter(c.buf, streamPredictionID, about.id)
			}
			answer = oip.AppendStream(answer[:rpc.Prefix], c.buf[rpc.Prefix:])
		}
		if err := r.Send(answer); err != nil {
			return err
		}
	}
}
