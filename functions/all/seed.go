package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
)

// seed pushes the model of an example, unless the registry has one of its name,
// and tells how to ask it once the server listens.
func seed(ctx context.Context, registry *model.Registry, dir string, p *serve.Process, out io.Writer) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.onnx"))
	if err != nil || len(files) != 1 {
		return fault.Wrap(fault.Invalid, err, "SEED is %q, expected a folder with one .onnx file; it has %d", dir, len(files))
	}
	name := strings.TrimSuffix(filepath.Base(files[0]), ".onnx")
	request := filepath.Join(dir, "request.json")
	_, err = registry.Resolve(ctx, model.Ref{Name: name})
	if fault.Is(err, fault.NotFound) {
		err = push(ctx, registry, name, files[0], request)
	}
	if err != nil {
		return fmt.Errorf("seed model %q: %w", name, err)
	}
	if _, err := os.Stat(request); err != nil {
		return nil
	}
	p.Listening(func(s *serve.Server) {
		fmt.Fprintf(out, "\nPilotlight answers on http://%s. Ask it for a prediction:\n\n  curl -s http://%s/v2/models/%s/infer -d @%s\n\n",
			s.Addr(), s.Addr(), name, request)
	})
	return nil
}

func push(ctx context.Context, registry *model.Registry, name, path, request string) error {
	p := model.Push{Name: name, By: "seed"}
	sample, err := os.ReadFile(request)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	p.Settings.Warmup.Sample = sample
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = registry.Push(ctx, p, file)
	return err
}
