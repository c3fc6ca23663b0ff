// Command gateway is the function that all others are behind: it alone is public, asks who calls, keeps callers within their limits,
// and hands their requests on.
package main

import (
	"cmp"
	"context"

	"github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"github.com/pilotlight-ml/pilotlight/internal/console"
	"github.com/pilotlight-ml/pilotlight/internal/gate"
	"github.com/pilotlight-ml/pilotlight/internal/pulse"
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
	Blob string `env:"BLOB_URL" default:"mem:" help:"The bucket: s3://bucket/prefix, file:///folder, or mem: for a process that forgets."`
	KV   string `env:"KV_URL" help:"Small state that instances share: redis://host:6379, file:///path, or mem: for a process that forgets; empty: mem:."`
}

var (
	blobs  = store.Openers[store.Blob]{"mem": memstore.OpenBlob, "file": diskstore.OpenBlob, "s3": s3store.OpenBlob}
	kvs    = store.Openers[store.KV]{"mem": memstore.OpenKV, "file": memstore.OpenKV, "redis": redisstore.OpenKV}
	meters = store.Openers[store.Meter]{"mem": memstore.OpenMeter, "file": memstore.OpenMeter, "redis": redisstore.OpenMeter}
)

func main() { function(functions.HTTP).Main() }

// function wires
//
//	BLOB_URL -> store.Blob  -> auth.Guard: keys, tokens --.
//	KV_URL   -> store.Meter -> gate.Door: limits ----------+
//	         -> store.KV    -> pulse.View: models now -----+--> serve (PORT): /admin/v1/keys, /limits, /routes, /readyz, /metrics
//	PREDICT_URL, FEATURES_URL, ... -> gate.Proxy ---------'     and all that functions answer; /console
func function(register serve.Register) *serve.Function {
	var own config
	var gc gate.Options
	var rc gate.RouteConfig
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
		meter, err := meters.Open(ctx, cmp.Or(own.KV, "mem:"))
		if err != nil {
			return err
		}
		p.Defer(meter.Close)
		kv, err := kvs.Open(ctx, cmp.Or(own.KV, "mem:"))
		if err != nil {
			return err
		}
		p.Defer(kv.Close)
		opened()
		if s, ok := kv.(store.Shared); ok && s.Shared() { // else it is not there that predict tells what it does
			live := pulse.NewView(kv, nil)
			p.Defer(live.Close)
			live.Register(p.Mux)
		}
		console.Open(p)
		return gate.Open(p, &gc, gate.Deps{Blob: blob, Meter: meter, Own: func() store.Meter { return memstore.NewMeter() }, Routes: &rc})
	}
	return &serve.Function{Name: "gateway", Configs: append(gc.Parts(), &own, &rc, &tc), Wire: wire, Register: register}
}
