// Command feedback is the function that takes in what came true of what was
// predicted, counts what the payload log tells, and raises alerts.
package main

import (
	"context"

	"github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"github.com/pilotlight-ml/pilotlight/internal/auth"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/feedback"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/span"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/diskstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/s3store"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// config is what this main itself reads.
type config struct {
	Blob string `env:"BLOB_URL" default:"mem:" help:"The bucket: s3://bucket/prefix, file:///folder, or mem: for a process that forgets."`
}

var blobs = store.Openers[store.Blob]{"mem": memstore.OpenBlob, "file": diskstore.OpenBlob, "s3": s3store.OpenBlob}

func main() { function(functions.HTTP).Main() }

// function wires
//
//	BLOB_URL -> store.Blob --> feedback.Intake  --> serve (PORT): /feedback, /events, /admin/v1/alerts, /readyz, /metrics
//	                      '--> feedback.Windows --> alert.Manager --> event.Sink (K_SINK), ALERT_WEBHOOK
func function(register serve.Register) *serve.Function {
	var own config
	var fc feedback.Config
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
		_, err = feedback.Open(p, &fc, feedback.Deps{Blob: blob, Events: events, Sink: sink})
		return err
	}
	return &serve.Function{Name: "feedback", Configs: append(fc.Parts(), &own, &ec, &ac, &tc), Wire: wire, Register: register}
}
