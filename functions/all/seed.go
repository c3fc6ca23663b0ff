package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/offline"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// seed is a folder with an example.
type seed struct {
	dir      string
	registry *model.Registry
	features *feature.Flow
	history  *offline.Store
	blob     store.Blob
	events   *event.Mux // of the function that takes rows
}

// plant puts the example into the stores, unless the registry has a model of its
// name, and tells how to ask it once the server listens.
func (s *seed) plant(ctx context.Context, p *serve.Process, out io.Writer) error {
	files, err := filepath.Glob(filepath.Join(s.dir, "*.onnx"))
	if err != nil || len(files) != 1 {
		return fault.Wrap(fault.Invalid, err, "SEED is %q, expected a folder with one .onnx file; it has %d", s.dir, len(files))
	}
	name := strings.TrimSuffix(filepath.Base(files[0]), ".onnx")
	request := filepath.Join(s.dir, "request.json")
	_, err = s.registry.Resolve(ctx, model.Ref{Name: name})
	if fault.Is(err, fault.NotFound) {
		// The model comes last: where it is, all that it needs is.
		if err = s.define(ctx); err == nil {
			err = s.push(ctx, name, files[0], request)
		}
	}
	if err != nil {
		return fmt.Errorf("seed model %q: %w", name, err)
	}
	if _, err := os.Stat(request); err != nil {
		return nil
	}
	p.Listening(func(srv *serve.Server) {
		fmt.Fprintf(out, "\nPilotlight answers on %s. Ask it for a prediction:\n\n  curl -s %s/v2/models/%s/infer -d @%s\n\nLook at what it does: %[1]s/console\n\n",
			srv.URL(), srv.URL(), name, request)
	})
	return nil
}

// define applies the example's definitions of features, and takes its rows in.
func (s *seed) define(ctx context.Context) error {
	path := filepath.Join(s.dir, "features.yaml")
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	set, err := feature.Parse(path, b)
	if err != nil {
		return err
	}
	if _, _, err := s.features.Catalog.Apply(ctx, set, nil, "seed", false); err != nil {
		return err
	}
	defined, err := s.features.Catalog.Current(ctx)
	if err != nil {
		return err
	}
	for i := range set.Sources {
		source, err := defined.Source(set.Sources[i].Name)
		if err != nil {
			return err
		}
		take, kind := s.observe, ".jsonl"
		if source.Path != "" {
			take, kind = s.materialize, ".parquet"
		}
		file, err := os.Open(filepath.Join(s.dir, "rows", source.Name+kind))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := errors.Join(take(ctx, source, file), file.Close()); err != nil {
			return fmt.Errorf("rows of %q: %w", source.Name, err)
		}
	}
	return nil
}

// observe takes rows in as the event that could have brought them.
func (s *seed) observe(ctx context.Context, source *feature.CompiledSource, file *os.File) error {
	rows := event.Rows{Source: source.Name}
	for lines := bufio.NewScanner(file); ; {
		if !lines.Scan() {
			if err := lines.Err(); err != nil {
				return err
			}
			break
		}
		var r map[string]json.RawMessage
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return fault.Wrap(fault.Invalid, err, "line %d is not an object in JSON", len(rows.Rows)+1)
		}
		rows.Rows = append(rows.Rows, r)
	}
	e := event.FeaturesObserved.New(rows)
	return s.events.Handle(ctx, &e)
}

// materialize puts a file where the source has its own, and brings it online.
func (s *seed) materialize(ctx context.Context, source *feature.CompiledSource, file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if _, err := s.blob.Put(ctx, source.Path+filepath.Base(file.Name()), file, info.Size(), store.Condition{}); err != nil {
		return err
	}
	for _, v := range source.Views {
		if err := s.history.Materialize(ctx, v, offline.Span{}, func(offline.Progress) {}); err != nil {
			return err
		}
	}
	return nil
}

// push publishes the model, which takes the features of the service of its name.
func (s *seed) push(ctx context.Context, name, path, request string) error {
	p := model.Push{Name: name, By: "seed"}
	if err := s.settings(&p.Settings); err != nil {
		return err
	}
	defined, err := s.features.Catalog.Current(ctx)
	if err != nil {
		return err
	}
	if _, err := defined.Service(name); err == nil {
		p.Settings.Features = name
	} else if p.Settings.Warmup.Sample, err = os.ReadFile(request); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = s.registry.Push(ctx, p, file)
	return err
}

// settings reads those of the example's model, if it has any.
func (s *seed) settings(to *model.Settings) error {
	path := filepath.Join(s.dir, "settings.json")
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := serve.Strict(b, to); err != nil {
		return fault.Wrap(fault.Invalid, err, "%s does not hold the settings of a model", path)
	}
	return nil
}
