// Command deadletter is the function that keeps the events that the broker
// could not deliver, and puts them back.
package main

import (
	"context"

	"github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"github.com/pilotlight-ml/pilotlight/internal/auth"
	"github.com/pilotlight-ml/pilotlight/internal/deadletter"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/span"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/diskstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/s3store"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
	"github.com/pilotlight-ml/pilotlight/triggers"
)

// config is what this main itself reads.
type config struct {
	Blob string `env:"BLOB_URL" default:"mem:" help:"The bucket: s3://bucket/prefix, file:///folder, or mem: for a process that forgets."`
}

var blobs = store.Openers[store.Blob]{"mem": memstore.OpenBlob, "file": diskstore.OpenBlob, "s3": s3store.OpenBlob}

func main() { function(functions.HTTP).Main() }

// function wires
//
//	BLOB_URL -> store.Blob --> deadletter.Store --> serve (PORT): /events, /admin/v1/deadletters, /admin/v1/events, /readyz, /metrics
//	                                  '--> event.Sink (K_SINK)
func function(register serve.Register) *serve.Function {
	var own config
	var dc deadletter.Config
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
		takers, err := triggers.Takers(triggers.Files)
		if err != nil {
			return err
		}
		event.Show(p.Mux, takers, nil) // the broker has the counts
		_, err = deadletter.Open(p, &dc, deadletter.Deps{Blob: blob, Sink: sink, Events: events})
		return err
	}
	return &serve.Function{Name: "deadletter", Configs: []any{&own, &dc, &ec, &ac, &tc}, Wire: wire, Register: register}
}
