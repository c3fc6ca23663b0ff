// Command steps is the function pipeline with kinds of steps that tests on a cluster can see through.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/auth"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/pipeline"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/s3store"
	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

// config is what this main itself reads.
type config struct {
	Blob string `env:"BLOB_URL" help:"The bucket."`
}

var blobs = store.Openers[store.Blob]{"s3": s3store.OpenBlob}

// kinds are light and heavy steps that take as many seconds as they are told, and give what they were given and their own name.
var kinds = []pipeline.Kind{kind("light"), kind("heavy")}

func kind(name string) pipeline.Kind {
	return pipeline.Kind{
		Name: name, About: "counts seconds", Heavy: name == "heavy", Timeout: 10 * time.Minute,
		In:  []pipeline.Port{{Name: "value", Optional: true}, {Name: "file", Optional: true}},
		Out: []pipeline.Port{{Name: "value"}, {Name: "file"}},
		New: func(with yamlwire.Node) (pipeline.Step, error) {
			var s step
			return &s, with.Into(&s, "with")
		},
	}
}

type step struct {
	Seconds int `yaml:"seconds"`
	Dies    int `yaml:"dies"` // in this second of its first try, without a word; 0: it does not
}

// Run implements pipeline.Step.
func (s *step) Run(ctx context.Context, t *pipeline.Task) error {
	text := t.Step
	if t.Has("value") {
		var before string
		if err := t.Read("value", &before); err != nil {
			return err
		}
		text = before + ">" + text
	}
	if t.Has("file") {
		path, err := t.Fetch(ctx, "file")
		if err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		text += "(" + string(b) + ")"
	}
	for i := range s.Seconds {
		t.Log.InfoContext(ctx, fmt.Sprintf("second %d", i))
		t.Progress(int64(i), int64(s.Seconds), "seconds")
		if s.Dies > 0 && i == s.Dies && t.Attempt == 1 {
			os.Exit(137)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
	path := filepath.Join(t.Dir, "out.txt")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	if err := t.Keep(ctx, "file", path); err != nil {
		return err
	}
	return t.Tell("value", text)
}

func main() {
	var own config
	var pc pipeline.Config
	var ec event.Config
	var ac auth.Config
	open := func(ctx context.Context, p *serve.Process) (store.Blob, event.Sink, error) {
		blob, err := blobs.Open(ctx, own.Blob)
		if err != nil {
			return nil, nil, err
		}
		p.Defer(blob.Close)
		sink, err := event.Open(&ec, p.Tel)
		return blob, sink, err
	}
	f := &serve.Function{Name: "pipeline", Configs: []any{&own, &pc, &ec, &ac}}
	f.Wire = func(ctx context.Context, p *serve.Process) error {
		blob, sink, err := open(ctx, p)
		if err != nil {
			return err
		}
		if err := auth.Open(p, &ac, blob, false); err != nil {
			return err
		}
		events, err := event.NewMux(p.Tel)
		if err != nil {
			return err
		}
		events.Register(p.Mux)
		_, err = pipeline.Open(p, &pc, pipeline.Parts{Blob: blob, Sink: sink, Events: events, Kinds: kinds})
		return err
	}
	if pipeline.Asked() {
		f.Do = func(ctx context.Context, p *serve.Process) error {
			blob, sink, err := open(ctx, p)
			if err != nil {
				return err
			}
			m, err := pipeline.New(&pc, pipeline.Deps{Blob: blob, Sink: sink, Kinds: kinds}, p.Tel)
			if err != nil {
				return err
			}
			return m.RunAsked(ctx)
		}
	}
	f.Main()
}
