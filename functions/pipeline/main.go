// Command pipeline is the function that does what has to be done with data and models from time
// to time: it runs the steps of pipelines, by events, by time and by hand.
package main

import (
	"context"
	"io"
	"net/http"

	"github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"github.com/pilotlight-ml/pilotlight/internal/auth"
	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx"
	"github.com/pilotlight-ml/pilotlight/internal/etl"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/pipeline"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/span"
	"github.com/pilotlight-ml/pilotlight/internal/step"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/diskstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/redisstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/s3store"
)

// config is what this main itself reads.
type config struct {
	Blob   string `env:"BLOB_URL" default:"mem:" help:"The bucket: s3://bucket/prefix, file:///folder, or mem: for a process that forgets."`
	KV     string `env:"KV_URL" default:"mem:" help:"Leases of history that is brought online: redis://host:6379, file:///path, or mem: for a process that forgets."`
	Online string `env:"ONLINE_URL" default:"mem:" help:"The newest values of features: redis://host:6379, file:///path, or mem: for a process that forgets."`
}

var (
	blobs = store.Openers[store.Blob]{"mem": memstore.OpenBlob, "file": diskstore.OpenBlob, "s3": s3store.OpenBlob}
	kvs   = store.Openers[store.KV]{"mem": memstore.OpenKV, "file": diskstore.OpenKV, "redis": redisstore.OpenKV}
	rows  = store.Openers[store.Online]{"mem": memstore.OpenOnline, "file": diskstore.OpenOnline, "redis": redisstore.OpenOnline}
)

// extra are kinds of steps that tests add.
var extra []pipeline.Kind

func main() {
	function(functions.HTTP, pipeline.Asked()).Main()
}

// function wires
//
//	BLOB_URL, KV_URL, ONLINE_URL -> stores --> step.Open -> pipeline.Manager --> serve (PORT): /admin/v1/pipelines, /landing, /events, /readyz, /metrics
//	ORT_LIB -> onnx.Format ----------------'                              '----> event.Sink (K_SINK)
//
// or, where the process is asked for one step, that step in the manager's place.
func function(register serve.Register, once bool) *serve.Function {
	var own config
	var oc onnx.Config
	var lc pipeline.Config
	var sc step.Alone
	var ec event.Config
	var ac auth.Config
	var tc span.Config
	open := func(ctx context.Context, p *serve.Process) (s step.Stores, kinds []pipeline.Kind, err error) {
		format, err := onnx.New(oc)
		if err != nil {
			return s, nil, err
		}
		if s.Blob, err = opened(ctx, p, blobs, own.Blob); err != nil {
			return s, nil, err
		}
		if err := span.Open(p, &tc, s.Blob); err != nil {
			return s, nil, err
		}
		if s.KV, err = opened(ctx, p, kvs, own.KV); err != nil {
			return s, nil, err
		}
		if s.Online, err = opened(ctx, p, rows, own.Online); err != nil {
			return s, nil, err
		}
		if s.Sink, err = event.Open(&ec, p.Tel); err != nil {
			return s, nil, err
		}
		kinds, err = step.Open(ctx, p, &sc, s, format)
		return s, append(kinds, extra...), err
	}
	f := &serve.Function{Name: "pipeline", Configs: append(sc.Parts(), &own, &oc, &lc, &ec, &ac, &tc), Register: register}
	f.Wire = func(ctx context.Context, p *serve.Process) error {
		s, kinds, err := open(ctx, p)
		if err != nil {
			return err
		}
		if err := auth.Open(p, &ac, s.Blob, false); err != nil {
			return err
		}
		events, err := event.NewMux(p.Tel)
		if err != nil {
			return err
		}
		etl.NewLanding(s.Blob, s.Sink, p.Tel.Log).Register(p.Mux)
		p.Mux.HandleFunc("POST /events", func(w http.ResponseWriter, r *http.Request) {
			serve.Long(w, r) // runs go on while it is handled
			events.ServeHTTP(w, r)
		})
		_, err = pipeline.Open(p, &lc, pipeline.Parts{Blob: s.Blob, Sink: s.Sink, Events: events, Kinds: kinds})
		return err
	}
	if once {
		f.Do = func(ctx context.Context, p *serve.Process) error {
			s, kinds, err := open(ctx, p)
			if err != nil {
				return err
			}
			m, err := pipeline.New(&lc, pipeline.Deps{Blob: s.Blob, Sink: s.Sink, Kinds: kinds}, p.Tel)
			if err != nil {
				return err
			}
			return m.RunAsked(ctx)
		}
	}
	return f
}

// opened opens a store, which the process closes.
func opened[T io.Closer](ctx context.Context, p *serve.Process, by store.Openers[T], at string) (T, error) {
	s, err := by.Open(ctx, at)
	if err == nil {
		p.Defer(s.Close)
	}
	return s, err
}
