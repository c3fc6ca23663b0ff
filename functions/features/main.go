// Command features is the function that takes in the rows that features are made
// of, answers what features are now, and computes what they were.
package main

import (
	"cmp"
	"context"

	"github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"github.com/pilotlight-ml/pilotlight/internal/auth"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/offline"
	"github.com/pilotlight-ml/pilotlight/internal/rpc"
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
//	BLOB_URL   -> store.Blob ---> feature.Flow --> serve (PORT): Feast's paths and gRPC, /admin/v1/features, /events, /readyz, /metrics
//	ONLINE_URL -> store.Online -'-> offline.Server --'     '-----> event.Sink (K_SINK)
//	KV_URL     -> store.KV ------'
func function(register serve.Register) *serve.Function {
	var own config
	var fc feature.Options
	var lc feature.LayoutConfig
	var oc offline.Config
	var ec event.Config
	var ac auth.Config
	var tc span.Config
	wire := func(ctx context.Context, p *serve.Process) error {
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
		var flow *feature.Flow
		online, err := lc.Open(ctx, cmp.Or(own.Online, "mem:"), rows, feast, func(ctx context.Context) (*feature.Compiled, error) { return flow.Catalog.Current(ctx) })
		if err != nil {
			return err
		}
		p.Defer(online.Close)
		online = fc.Near.Open(p, online)
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
		flow, err = feature.Open(p, &fc, feature.Deps{Blob: blob, Online: online, Sink: sink, Events: events})
		if err != nil {
			return err
		}
		rpc.Register(p.Mux, flow.Ready, flow.Service())
		_, err = offline.Mount(ctx, p, &oc, offline.Deps{Blob: blob, KV: kv, Online: online}, flow.Catalog, events, sink)
		return err
	}
	return &serve.Function{Name: "features", Configs: append(fc.Parts(), &lc, &own, &oc, &ec, &ac, &tc), Wire: wire, Register: register}
}
