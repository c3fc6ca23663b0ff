// Package onnx runs ONNX models with ONNX Runtime, the native library, on CPUs.
//
// It owns the one ONNX Runtime environment of the process and keeps what
// sessions, runs and values hold in native memory from leaking. Sessions may run
// concurrently; a run uses as many threads as the model gains from, within the
// CPU quota, and none of them spins.
//
// A model is one file: weights in other files are refused, because an artifact
// that names paths could read what belongs to another. Inputs are tensors of the
// 14 types of the protocols, in any shape. Outputs are tensors of the same
// types, or the sequence of maps that classifiers give their probabilities as
// (ZipMap), which becomes an FP32 tensor with the classes as labels.
//
// What the binding cannot pass is refused with a sentence: scalars of FP16, BF16
// and, as inputs, BYTES; strings with a zero byte; inputs and outputs of other
// kinds; inputs that do not tell how many dimensions they have; models without
// inputs or outputs. So are files of 2 GiB and more, which protobuf cannot hold.
// An output that does not tell its dimensions is listed as a scalar and comes out
// in the shape it has.
//
// An operation that is under way is not interrupted, so a run whose context ends
// goes on to the end of the one it is at. Integer division of the smallest
// number by -1 inside a model ends the process on amd64: ONNX Runtime leaves it
// to the CPU.
package onnx

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"sync"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/pilotlight-ml/pilotlight/internal/cgroup"
	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// Config says where ONNX Runtime is and how much of the machine it may use.
type Config struct {
	Library string `env:"ORT_LIB" help:"ONNX Runtime's shared library; empty: looked for in KO_DATA_PATH, beside the program in ../.ort, then by the system's loader"`
	Data    string `env:"KO_DATA_PATH" help:"folder of an image's data, where ko puts the library"`
	Threads int    `env:"ORT_THREADS" default:"0" help:"threads one run of a large model may use; 0: the CPU quota"`
}

// Validate checks the settings.
func (c Config) Validate() error {
	if c.Threads < 0 {
		return fault.New(fault.Invalid, "ORT_THREADS is %d, it cannot be negative", c.Threads)
	}
	return nil
}

// Format opens ONNX files.
type Format struct {
	library string
	threads int
}

var _ engine.Format = (*Format)(nil)

// New finds the library. Loading it takes 20 to 40 ms and 20 MB, and happens when the first
// model is opened, or when Warm is called.
func New(c Config) (*Format, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	library, err := find(c)
	if err != nil {
		return nil, err
	}
	f := &Format{library: library, threads: c.Threads}
	if f.threads == 0 {
		f.threads = cgroup.CPUs()
	}
	return f, nil
}

// find tells the path of the library, or its bare name if it is up to the
// system's loader. It never names a file in the working directory.
func find(c Config) (string, error) {
	if c.Library != "" {
		path, err := filepath.Abs(c.Library)
		if err == nil {
			err = readable(path)
		}
		if err != nil {
			return "", fault.Wrap(fault.Unavailable, err, "ORT_LIB names %q, which cannot be read", c.Library)
		}
		return path, nil
	}
	var candidates []string
	if c.Data != "" {
		candidates = append(candidates, filepath.Join(c.Data, fileName))
	}
	if program, err := os.Executable(); err == nil {
		candidates = append(candidates, filepath.Join(filepath.Dir(program), "..", ".ort", fileName))
	}
	for _, path := range candidates {
		if path, err := filepath.Abs(path); err == nil && readable(path) == nil {
			return path, nil
		}
	}
	return fileName, nil
}

func readable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}

// environment is ONNX Runtime's, of which a process has one.
var environment struct {
	sync.Mutex
	library string // the one it runs on; empty: not there yet
}

// Warm loads the library unless that was done already. Whoever starts a process
// can call it in the background, so that the first model need not wait.
func (f *Format) Warm() error {
	environment.Lock()
	defer environment.Unlock()
	switch environment.library {
	case f.library:
		return nil
	case "":
	default:
		return fault.New(fault.Internal, "ONNX Runtime runs on %s already, a process cannot have another one (%s) too", environment.library, f.library)
	}
	tune(max(2, cgroup.CPUs()))
	ort.SetSharedLibraryPath(f.library)
	// Every error comes back from the call that it is about, so what the library
	// would print on top of that is left out.
	if err := ort.InitializeEnvironment(ort.WithLogLevelFatal()); err != nil {
		return fault.Wrap(fault.Unavailable, err, "ONNX Runtime cannot be loaded from %s: run `make ort`, or set ORT_LIB to a %s 1.29 or newer", f.library, fileName)
	}
	environment.library = f.library
	ground.inUse.Store(mallocated())
	ground.resident.Store(native())
	return nil
}

// Name is "onnx".
func (*Format) Name() string { return "onnx" }

// Platform is the name that Triton gave to ONNX models.
func (*Format) Platform() string { return "onnxruntime_onnx" }

// Version tells the library's version; it loads the library.
func (f *Format) Version() string {
	if err := f.Warm(); err != nil {
		return "ONNX Runtime (not loaded)"
	}
	return "ONNX Runtime " + ort.GetVersion()
}

// Open makes a session of an ONNX file's bytes.
func (f *Format) Open(_ context.Context, artifact []byte, o engine.Options) (engine.Session, error) {
	if err := f.Warm(); err != nil {
		return nil, err
	}
	g, err := f.graph(artifact, o)
	if err != nil {
		return nil, err
	}
	level := ort.GraphOptimizationLevel(ort.GraphOptimizationLevelEnableAll)
	if o.Optimized {
		level = ort.GraphOptimizationLevelDisableAll
	}
	threads := f.threadsFor(artifact, o)
	options, err := sessionOptions(threads, level)
	if err != nil {
		return nil, err
	}
	defer options.Destroy() //nolint:errcheck // never fails
	return newSession(artifact, g, options, threads)
}

// graph reads what an artifact says of itself, and what was recorded of it.
func (*Format) graph(artifact []byte, o engine.Options) (graph, error) {
	switch n := len(artifact); {
	case n == 0:
		return graph{}, fault.New(fault.Invalid, "the model's file is empty")
	case n > math.MaxInt32:
		return graph{}, fault.New(fault.Invalid, "the model's file has %d bytes, an ONNX file ends at 2 GiB", n)
	}
	g, err := read(artifact)
	if err == nil && o.Signature != nil {
		err = g.adopt(*o.Signature)
	}
	return g, err
}

// threadsFor is how many threads a run may use.
func (f *Format) threadsFor(artifact []byte, o engine.Options) int {
	switch {
	case o.Threads > 0:
		return o.Threads
	case len(artifact) >= large:
		return f.threads
	}
	return 1
}

// large is the artifact size from which on a model is run with several threads.
// Below it a run takes well under a millisecond for most models, and what
// several threads save is lost again in waking them; one thread per run also
// lets concurrent runs share the CPUs best.
const large = 16 << 20
