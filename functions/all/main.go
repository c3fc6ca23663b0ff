// Command all is every function in one process, without a cluster or a service
// beside it: the same parts, made by the same constructors.
package main

import (
	"context"
	"net/url"
	"os"
	"path/filepath"

	"github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/predict"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/diskstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/s3store"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// config is what this main itself reads.
type config struct {
	Data string `env:"DATA_DIR" help:"Folder for everything that lasts where no URL says otherwise; empty: nothing lasts."`
	Blob string `env:"BLOB_URL" help:"The bucket: s3://bucket/prefix, file:///folder, or mem: for a process that forgets; empty: a folder in DATA_DIR or, without one, mem:."`
	Seed string `env:"SEED" help:"Folder of an example whose model is pushed on the first start: one NAME.onnx, and a request.json to try it with."`
}

// blobURL is where the bucket is.
func (c *config) blobURL() (string, error) {
	switch {
	case c.Blob != "":
		return c.Blob, nil
	case c.Data == "":
		return "mem:", nil
	}
	dir, err := filepath.Abs(c.Data)
	return (&url.URL{Scheme: "file", Path: filepath.Join(dir, "blob")}).String(), err
}

var blobs = store.Openers[store.Blob]{"mem": memstore.OpenBlob, "file": diskstore.OpenBlob, "s3": s3store.OpenBlob}

func main() { function(functions.HTTP).Main() }

// function wires
//
//	DATA_DIR, BLOB_URL -> store.Blob -> model.Registry --> predict.Flow --> serve (PORT): /v2/..., /admin/v1/..., /readyz, /metrics
//	ORT_LIB            -> onnx.Format -------'
func function(register serve.Register) *serve.Function {
	var own config
	var oc onnx.Config
	var mc model.Config
	wire := func(ctx context.Context, p *serve.Process) error {
		format, err := onnx.New(oc)
		if err != nil {
			return err
		}
		opened := p.Tel.ColdStart.Begin(telemetry.StageStore)
		blobURL, err := own.blobURL()
		if err != nil {
			return err
		}
		blob, err := blobs.Open(ctx, blobURL)
		if err != nil {
			return err
		}
		p.Defer(blob.Close)
		opened()
		registry, err := predict.Open(ctx, p, &mc, predict.Deps{Blob: blob, Formats: []engine.Format{format}})
		if err != nil || own.Seed == "" {
			return err
		}
		return seed(ctx, registry, own.Seed, p, os.Stderr)
	}
	return &serve.Function{Name: "all", Configs: []any{&own, &oc, &mc}, Wire: wire, Register: register}
}
