// Command all is every function in one process, without a cluster or a service
// beside it: the same parts, made by the same constructors.
package main

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	"github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"github.com/pilotlight-ml/pilotlight/internal/console"
	"github.com/pilotlight-ml/pilotlight/internal/deadletter"
	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx"
	"github.com/pilotlight-ml/pilotlight/internal/etl"
	"github.com/pilotlight-ml/pilotlight/internal/event/bus"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/feedback"
	"github.com/pilotlight-ml/pilotlight/internal/gate"
	"github.com/pilotlight-ml/pilotlight/internal/limit"
	"github.com/pilotlight-ml/pilotlight/internal/offline"
	"github.com/pilotlight-ml/pilotlight/internal/pipeline"
	"github.com/pilotlight-ml/pilotlight/internal/predict"
	"github.com/pilotlight-ml/pilotlight/internal/rpc"
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
	Data   string `env:"DATA_DIR" help:"Folder for everything that lasts where no URL says otherwise; empty: nothing lasts."`
	Blob   string `env:"BLOB_URL" help:"The bucket: s3://bucket/prefix, file:///folder, or mem: for a process that forgets; empty: a folder in DATA_DIR or, without one, mem:."`
	KV     string `env:"KV_URL" help:"Small state: redis://host:6379, file:///path, or mem: for a process that forgets; empty: a file in DATA_DIR or, without one, mem:."`
	Online string `env:"ONLINE_URL" help:"The newest values of features: redis://host:6379, file:///path, or mem: for a process that forgets; empty: a file in DATA_DIR or, without one, mem:."`
	Seed   string `env:"SEED" help:"Folder of an example that is there from the first start: a model NAME.onnx, its settings.json, a request.json to try it with; what its features are (features.yaml), and rows of their sources (rows/SOURCE.jsonl, or .parquet for those that are files)."`
}

// in gives a store's URL: that which was set, or else a place in DATA_DIR or, without one, memory.
func (c *config) in(set, place string) (string, error) {
	switch {
	case set != "":
		return set, nil
	case c.Data == "":
		return "mem:", nil
	}
	dir, err := filepath.Abs(c.Data)
	return (&url.URL{Scheme: "file", Path: filepath.Join(dir, place)}).String(), err
}

var (
	blobs  = store.Openers[store.Blob]{"mem": memstore.OpenBlob, "file": diskstore.OpenBlob, "s3": s3store.OpenBlob}
	kvs    = store.Openers[store.KV]{"mem": memstore.OpenKV, "file": diskstore.OpenKV, "redis": redisstore.OpenKV}
	meters = store.Openers[store.Meter]{"mem": memstore.OpenMeter, "file": memstore.OpenMeter, "redis": redisstore.OpenMeter}
	rows   = store.Openers[store.Online]{"mem": memstore.OpenOnline, "file": diskstore.OpenOnline, "redis": redisstore.OpenOnline}
)

func main() {
	if pipeline.Asked() {
		alone().Main()
		return
	}
	function(functions.HTTP).Main()
}

// function wires
//
//	DATA_DIR, BLOB_URL   -> store.Blob -> model.Registry --> predict.Flow ----.
//	ORT_LIB              -> onnx.Format -------'    '--------------.           |
//	DATA_DIR, ONLINE_URL -> store.Online, store.Blob -> feature.Flow ----------+--> serve (PORT): /v1/..., /v2/..., Feast's paths, gRPC, /admin/v1/..., /readyz, /metrics
//	                                                 -> offline.Server --------+
//	                        store.Blob -> etl.Landing -------------------------+
//	                        store.Blob -> feedback.Intake, alert.Manager ------+
//	                        store.Blob -> pipeline.Manager --------------------+
//	                        store.Blob -> deadletter.Store --------------------+
//	DATA_DIR, KV_URL     -> store.KV --> bus.Bus, between them by triggers/ ---'--> /events
//	                        store.Blob, store.Meter -> auth.Guard, gate.Door: before all of it
func function(register serve.Register) *serve.Function {
	var own config
	var oc onnx.Config
	var pc predict.Config
	var fc feature.Options
	var hc offline.Config
	var dc deadletter.Config
	var bf feedback.Config
	var lc pipeline.Config
	var sc step.Config
	var bc bus.Config
	var gc gate.Options
	var tc span.Config
	wire := func(ctx context.Context, p *serve.Process) error {
		pc.Model.LimitHeap()
		format, err := onnx.New(oc)
		if err != nil {
			return err
		}
		blob, kv, online, meter, err := own.stores(ctx, p)
		if err != nil {
			return err
		}
		online = fc.Near.Open(p, online)
		if err := span.Open(p, &tc, blob); err != nil {
			return err
		}
		if err := limit.Keep(ctx, p, kv, meter); err != nil {
			return err
		}
		if err := gate.Open(p, &gc, gate.Deps{Blob: blob, Meter: meter, Own: func() store.Meter { return memstore.NewMeter() }}); err != nil {
			return err
		}
		events, hear, err := broker(&bc, kv, p)
		if err != nil {
			return err
		}
		features, err := feature.Open(p, &fc, feature.Deps{Blob: blob, Online: online, Sink: events, Events: hear.features})
		if err != nil {
			return err
		}
		history, err := offline.Mount(ctx, p, &hc, offline.Deps{Blob: blob, KV: kv, Online: online}, features.Catalog, hear.features, events)
		if err != nil {
			return err
		}
		etl.NewLanding(blob, events, p.Tel.Log).Register(p.Mux)
		registry, err := predict.Open(ctx, p, &pc, predict.Deps{
			Blob: blob, KV: kv, Features: features.Table, Services: []rpc.Service{features.Service()},
			Formats: []engine.Format{format}, Sink: events, Events: hear.predict,
		})
		if err != nil {
			return err
		}
		if _, err := feedback.Open(p, &bf, feedback.Deps{Blob: blob, Events: hear.feedback, Sink: events}); err != nil {
			return err
		}
		if _, err := deadletter.Open(p, &dc, deadletter.Deps{Blob: blob, Sink: events, Events: hear.deadletter}); err != nil {
			return err
		}
		environ, err := own.environ()
		if err != nil {
			return err
		}
		kinds := step.Kinds(&sc, step.Deps{Registry: registry, Features: features.Catalog, Offline: history, Format: format, Blob: blob}, p.Tel)
		if _, err := pipeline.Open(p, &lc, pipeline.Parts{Blob: blob, Sink: events, Events: hear.pipeline, Kinds: append(kinds, extra...), Environ: environ}); err != nil {
			return err
		}
		console.Open(p)
		p.Defer(events.Close)
		if err := events.Start(ctx); err != nil || own.Seed == "" {
			return err
		}
		s := seed{dir: own.Seed, registry: registry, features: features, history: history, blob: blob, events: hear.features}
		return s.plant(ctx, p, os.Stderr)
	}
	return &serve.Function{Name: "all", Configs: slices.Concat(pc.Parts(), fc.Parts(), bf.Parts(), gc.Parts(), sc.Parts(), []any{&own, &oc, &hc, &dc, &lc, &bc, &tc}), Wire: wire, Register: register}
}
