// Command predict is the function that answers inference requests and keeps
// the registry of models.
package main

import (
	"cmp"
	"context"

	"github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"github.com/pilotlight-ml/pilotlight/internal/auth"
	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/predict"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/span"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/diskstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/redisstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/s3store"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// config is what this main itself reads.
type config struct {
	Blob   string `env:"BLOB_URL" default:"mem:" help:"The bucket: s3://bucket/prefix, file:///folder, or mem: for a process that forgets."`
	KV     string `env:"KV_URL" help:"Small state that instances share: redis://host:6379, file:///path, or mem: for a process that forgets; empty: mem:."`
	Online string `env:"ONLINE_URL" help:"The newest values of features: redis://host:6379, file:///path, or mem: for a process that forgets; empty: mem:."`
}

var (
	blobs = store.Openers[store.Blob]{"mem": memstore.OpenBlob, "file": diskstore.OpenBlob, "s3": s3store.OpenBlob}
	kvs   = store.Openers[store.KV]{"mem": memstore.OpenKV, "file": diskstore.OpenKV, "redis": redisstore.OpenKV}
	rows  = store.Openers[store.Online]{"mem": memstore.OpenOnline, "file": diskstore.OpenOnline, "redis": redisstore.OpenOnline}
	feast = store.Openers[store.Hashes]{"redis": redisstore.OpenHashes}
)

func main() { function(functions.HTTP).Main() }

// function wires
//
//	BLOB_URL   -> store.Blob -> model.Registry --> predict.Flow --> serve (PORT): /v1/..., /v2/..., gRPC, /admin/v1/..., /events, /readyz, /metrics
//	KV_URL     -> store.KV ----------+   '-------> event.Sink (K_SINK)
//	ONLINE_URL -> feature.Table -----+
//	ORT_LIB    -> onnx.Format -------'
func function(register serve.Register) *serve.Function {
	var own config
	var oc onnx.Config
	var pc predict.Config
	var fc feature.Config
	var lc feature.LayoutConfig
	var nc feature.NearConfig
	var ec event.Config
	var ac auth.Config
	var tc span.Config
	wire := func(ctx context.Context, p *serve.Process) error {
		pc.Model.LimitHeap()
		format, err := onnx.New(oc)
		if err != nil {
			return err
		}
		p.Go(func(ctx context.Context) {
			// Beside the rest of the start, so that the first model need not wait for the library.
			if err := format.Warm(); err != nil {
				p.Tel.Log.ErrorContext(ctx, "load ONNX Runtime", "error", err)
			}
		})
		opened := p.Tel.ColdStart.Begin(telemetry.StageStore)
		blob, err := blobs.Open(ctx, own.Blob)
		if err != nil {
			return err
		}
		p.Defer(blob.Close)
		if err := span.Open(p, &tc, blob); err != nil {
			return err
		}
		if err := auth.Open(p, &ac, blob, false); err != nil {
			return err
		}
		kv, err := kvs.Open(ctx, cmp.Or(own.KV, "mem:"))
		if err != nil {
			return err
		}
		p.Defer(kv.Close)
		defined := feature.NewCatalog(&fc, blob, nil, p.Tel.Log)
		online, err := lc.Open(ctx, cmp.Or(own.Online, "mem:"), rows, feast, defined.Current)
		if err != nil {
			return err
		}
		p.Defer(online.Close)
		online = nc.Open(p, online)
		opened()
		sink, err := event.Open(&ec, p.Tel)
		if err != nil {
			return err
		}
		events, err := event.NewMux(p.Tel)
		if err != nil {
			return err
		}
		events.Register(p.Mux)
		table := feature.NewTable(online, defined.Current)
		if err := table.Measure(p.Tel); err != nil {
			return err
		}
		_, err = predict.Open(ctx, p, &pc, predict.Deps{
			Blob: blob, KV: kv, Features: table, Formats: []engine.Format{format}, Sink: sink, Events: events,
		})
		return err
	}
	return &serve.Function{Name: "predict", Configs: append(pc.Parts(), &fc, &lc, &nc, &own, &oc, &ec, &ac, &tc), Wire: wire, Register: register}
}
