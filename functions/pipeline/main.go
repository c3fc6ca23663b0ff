// Command pipeline is the function that does what has to be done with data and models from time
// to time: it runs the steps of pipelines, by events, by time and by hand.
package main

import (
	"context"
	"net/http"

	"github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"github.com/pilotlight-ml/pilotlight/internal/auth"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/pipeline"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/diskstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/s3store"
)

// config is what this main itself reads.
type config struct {
	Blob string `env:"BLOB_URL" default:"mem:" help:"The bucket: s3://bucket/prefix, file:///folder, or mem: for a process that forgets."`
}

var blobs = store.Openers[store.Blob]{"mem": memstore.OpenBlob, "file": diskstore.OpenBlob, "s3": s3store.OpenBlob}

// kinds are what steps can do. Heavy ones work with the bucket alone: it is all that a process or a job of their own has.
var kinds = func(store.Blob) []pipeline.Kind { return nil }

func main() {
	function(functions.HTTP, pipeline.Asked()).Main()
}

// function wires
//
//	BLOB_URL -> store.Blob -> pipeline.Manager --> serve (PORT): /admin/v1/pipelines, /events, /readyz, /metrics
//	                                           '-> event.Sink (K_SINK)
//
// or, where the process is asked for one step,
//
//	BLOB_URL -> store.Blob -> pipeline.Manager --> the step
//	                                           '-> event.Sink (K_SINK)
func function(register serve.Register, step bool) *serve.Function {
	var own config
	var lc pipeline.Config
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
	f := &serve.Function{Name: "pipeline", Configs: []any{&own, &lc, &ec, &ac}, Register: register}
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
		p.Mux.HandleFunc("POST /events", func(w http.ResponseWriter, r *http.Request) {
			serve.Long(w, r) // runs go on while it is handled
			events.ServeHTTP(w, r)
		})
		_, err = pipeline.Open(p, &lc, pipeline.Parts{Blob: blob, Sink: sink, Events: events, Kinds: kinds(blob)})
		return err
	}
	if step {
		f.Do = func(ctx context.Context, p *serve.Process) error {
			blob, sink, err := open(ctx, p)
			if err != nil {
				return err
			}
			m, err := pipeline.New(&lc, pipeline.Deps{Blob: blob, Sink: sink, Kinds: kinds(blob)}, p.Tel)
			if err != nil {
				return err
			}
			return m.RunAsked(ctx)
		}
	}
	return f
}
