package onnx

import (
	"context"
	"fmt"
	"runtime"
	"slices"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// Session is a model that ONNX Runtime holds ready.
type Session struct {
	ort     *ort.DynamicAdvancedSession
	inputs  []tensor.Spec
	outputs []output
	learnt  shapes
	idle    chan *ort.RunOptions // each cancellable run needs its own; these wait for one
	memory  engine.Memory
	threads int
}

var _ engine.Session = (*Session)(nil)

func newSession(artifact []byte, g graph, options *ort.SessionOptions, threads int) (_ *Session, err error) {
	s := &Session{idle: make(chan *ort.RunOptions, 16), memory: memory(int64(len(artifact)), g), threads: threads}
	defer release(s.memory.Loading - s.memory.Session)
	var inputs, outputs []string
	for _, v := range g.inputs {
		inputs = append(inputs, v.Name)
		s.inputs = append(s.inputs, v.Spec)
	}
	for _, v := range g.outputs {
		outputs = append(outputs, v.Name)
		s.outputs = append(s.outputs, newOutput(v))
	}
	s.ort, err = ort.NewDynamicAdvancedSessionWithONNXData(artifact, inputs, outputs, options)
	if err != nil {
		return nil, openError(err)
	}
	return s, nil
}

// memory estimates what a session takes, by what was measured (docs/bench): what
// is weights stays as large as it is in the file, and takes four and a half
// times that while the file is parsed and the weights are packed; an operation
// takes some kilobytes, however little the file says of it; all else, foremost
// the nodes of trees, becomes objects several times its size.
func memory(size int64, g graph) engine.Memory {
	rest := size - g.weights
	return engine.Memory{
		Session: g.weights + g.weights/32 + g.nodes*3300 + 6*rest + 64<<10,
		Loading: g.weights*9/2 + g.nodes*10_000 + 15*rest + 512<<10,
	}
}

func sessionOptions(threads int, level ort.GraphOptimizationLevel) (*ort.SessionOptions, error) {
	o, err := ort.NewSessionOptions()
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "ONNX Runtime refuses to make session options")
	}
	for _, err := range []error{
		o.SetIntraOpNumThreads(threads),
		o.SetInterOpNumThreads(1),
		o.SetExecutionMode(ort.ExecutionModeSequential),
		o.SetGraphOptimizationLevel(level),
		o.SetLogSeverityLevel(ort.LoggingLevelFatal),
		// An arena keeps for each session what its largest run took, and a pattern
		// what was allocated for each shape of inputs, for ever. Runs are no slower
		// without, and there may be thousands of sessions.
		o.SetCpuMemArena(false),
		o.SetMemPattern(false),
		// Threads that wait by spinning burn the CPU quota that others need.
		o.AddSessionConfigEntry("session.intra_op.allow_spinning", "0"),
		// Weights in other files are looked for where no file can be.
		o.AddSessionConfigEntry("session.model_external_initializers_file_folder_path", nowhere),
	} {
		if err != nil {
			o.Destroy() //nolint:errcheck // never fails
			return nil, fault.Wrap(fault.Internal, err, "ONNX Runtime refuses a session option")
		}
	}
	return o, nil
}

const nowhere = "/dev/null/nowhere"

// Signature of the model.
func (s *Session) Signature() engine.Signature {
	sig := engine.Signature{Inputs: slices.Clone(s.inputs)}
	for i := range s.outputs {
		sig.Outputs = append(sig.Outputs, s.outputs[i].spec())
	}
	return sig
}

// Memory that the session takes.
func (s *Session) Memory() engine.Memory { return s.memory }

// Threads that a run uses.
func (s *Session) Threads() int { return s.threads }

// Run computes all outputs. When ctx ends, the run ends after the operation that
// the model is at.
func (s *Session) Run(ctx context.Context, inputs []tensor.Tensor) ([]tensor.Tensor, error) {
	if s.ort == nil {
		panic("onnx: Run after Close")
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("run model: %w", err)
	}
	var pins runtime.Pinner
	defer pins.Unpin()
	values := make([]ort.Value, len(inputs)+len(s.outputs))
	defer func() { destroy(values...) }()
	in, out := values[:len(inputs)], values[len(inputs):]
	for i := range inputs {
		v, err := input(&inputs[i], &pins)
		if err != nil {
			return nil, err
		}
		in[i] = v
	}
	options, done, err := s.cancelled(ctx)
	if err != nil {
		return nil, err
	}
	defer done()

	results := make([]tensor.Tensor, len(s.outputs))
	known, learnt := s.learnt.find(inputs), false
	for attempt := 0; ; attempt++ {
		for i := range s.outputs {
			if out[i], err = s.outputs[i].allocate(&results[i], of(known, i), inputs, &pins); err != nil {
				return nil, err
			}
		}
		err := s.ort.RunWithOptions(in, out, options)
		if err == nil {
			break
		}
		dropNil(out)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("run model: %w", ctx.Err())
		}
		// Shapes that are known or guessed nearly always fit. If not, each attempt
		// teaches the shape of one output.
		if known, learnt = s.relearn(err, known, out); !learnt || attempt > len(out) {
			return nil, runError(err)
		}
		destroy(out...)
		clear(out)
	}
	if learnt {
		s.learnt.keep(inputs, known)
	}
	for i := range s.outputs {
		if err := s.outputs[i].read(&results[i], out[i]); err != nil {
			return nil, err
		}
	}
	return results, nil
}

// cancelled gives the options of a run that ends when ctx does, and what is to
// be called after the run.
func (s *Session) cancelled(ctx context.Context) (*ort.RunOptions, func(), error) {
	if ctx.Done() == nil {
		return nil, func() {}, nil
	}
	var o *ort.RunOptions
	select {
	case o = <-s.idle:
	default:
		var err error
		if o, err = ort.NewRunOptions(); err != nil {
			return nil, nil, fault.Wrap(fault.Internal, err, "ONNX Runtime refuses to make run options")
		}
	}
	terminated := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(terminated)
		o.Terminate() //nolint:errcheck // never fails
	})
	return o, func() {
		if !stop() {
			<-terminated
			o.UnsetTerminate() //nolint:errcheck // never fails
		}
		select {
		case s.idle <- o:
		default:
			o.Destroy() //nolint:errcheck // never fails
		}
	}, nil
}

// Close frees the session.
func (s *Session) Close() error {
	err := s.ort.Destroy()
	s.ort = nil
	close(s.idle)
	for o := range s.idle {
		o.Destroy() //nolint:errcheck // never fails
	}
	release(s.memory.Session)
	return err
}
