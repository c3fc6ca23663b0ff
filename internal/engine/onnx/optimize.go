package onnx

import (
	"context"
	"runtime"
	"strings"

	ort "github.com/yalue/onnxruntime_go"
	"golang.org/x/sys/cpu"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

var _ engine.Optimizer = (*Format)(nil)

// Kind is the library's version and what of the CPU the library adapts graphs to.
func (f *Format) Kind() (string, error) {
	if err := f.Warm(); err != nil {
		return "", err
	}
	kind := []string{"ort" + ort.GetVersion(), runtime.GOARCH}
	for _, c := range []struct {
		has  bool
		name string
	}{
		{cpu.X86.HasAVX2, "avx2"},
		{cpu.X86.HasAVX512F, "avx512"},
		{cpu.X86.HasAVX512VNNI, "vnni"},
		{cpu.X86.HasAMXTile, "amx"},
		{cpu.ARM64.HasASIMDDP, "dotprod"},
		{cpu.ARM64.HasSVE, "sve"},
	} {
		if c.has {
			kind = append(kind, c.name)
		}
	}
	return strings.Join(kind, "-"), nil
}

// Optimize has ONNX Runtime write the graph as it would run it.
func (f *Format) Optimize(_ context.Context, artifact []byte, path string, o engine.Options) error {
	if err := f.Warm(); err != nil {
		return err
	}
	g, err := f.graph(artifact, o)
	if err != nil {
		return err
	}
	threads := f.threadsFor(artifact, o)
	options, err := sessionOptions(threads, ort.GraphOptimizationLevelEnableAll)
	if err != nil {
		return err
	}
	defer options.Destroy() //nolint:errcheck // never fails
	if err := options.SetOptimizedModelFilePath(path); err != nil {
		return fault.Wrap(fault.Internal, err, "ONNX Runtime refuses a path")
	}
	s, err := newSession(artifact, g, options, threads)
	if err != nil {
		return err
	}
	return s.Close()
}
