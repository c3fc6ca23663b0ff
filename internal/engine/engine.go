// Package engine is the port behind which models run. A runtime is a package
// below this one; enginetest holds the contract that each of them passes.
package engine

import (
	"context"

	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// Signature is what a model takes and gives, in the model's own order.
type Signature struct {
	Inputs  []tensor.Spec `json:"inputs"`
	Outputs []tensor.Spec `json:"outputs"`
}

// Options shape a session.
type Options struct {
	// Signature of the model as recorded when it was pushed. With it Open need not
	// look into the artifact; without it (nil) Open finds out, which may take
	// twice as long.
	Signature *Signature
	// Threads that one run may use; 1 runs on the calling thread, 0 lets the
	// runtime choose by the model's size and the CPU quota.
	Threads int
	// Optimized tells that the artifact is what Optimizer.Optimize wrote, on the
	// same kind.
	Optimized bool
}

// Memory is what a session takes by estimate, in bytes.
type Memory struct {
	Session int64 `json:"session"` // for as long as it is open
	Loading int64 `json:"loading"` // at most, while it is made, its artifact included
}

// Format opens artifacts of one kind. It is safe for concurrent use.
type Format interface {
	// Name is the runtime's name in manifests, such as "onnx".
	Name() string
	// Platform is the name that protocols tell for it, such as "onnxruntime_onnx".
	Platform() string
	// Version tells which runtime it is, for people.
	Version() string
	// Open makes a session of an artifact's bytes, which it neither changes nor
	// needs afterwards. Bytes that are no model, or one that the runtime can't
	// run, are Invalid; the message tells why.
	Open(ctx context.Context, artifact []byte, o Options) (Session, error)
}

// Heap is a Format that can tell what its sessions really take, all of those in the
// process together. Where it can't, both numbers are 0.
type Heap interface {
	// InUse is what sessions and runs hold at this moment, to the byte.
	InUse() int64
	// Resident is what they keep from others: beside InUse what was freed and not
	// given back yet, what lies lost between, and files on their way into a session.
	Resident() int64
	// Trim gives back to the system what was freed.
	Trim()
}

// Optimizer is a Format that can write down what it makes of a model before it
// runs it, so that it need not do so again.
type Optimizer interface {
	// Kind names where the result may be used: the runtime's version and the kind
	// of CPU, in letters, digits, '-' and '.', at most 60 of them.
	Kind() (string, error)
	// Optimize writes the result into a file. A session of it has the same
	// signature and gives the same answers, to the bit.
	Optimize(ctx context.Context, artifact []byte, path string, o Options) error
}

// Session is a model that is ready to run. Run is safe for concurrent use.
type Session interface {
	// Signature of the model. What a run alone can tell (labels of classes) may
	// be missing until the first Run.
	Signature() Signature
	// Memory that the session takes.
	Memory() Memory
	// Run computes all outputs, in signature order. Inputs stand in signature
	// order and fit their specs; they are read until Run returns, and outputs
	// never share memory with them. When ctx ends, Run ends soon with its error.
	Run(ctx context.Context, inputs []tensor.Tensor) ([]tensor.Tensor, error)
	// Close frees the session. No Run may be under way or follow.
	Close() error
}
