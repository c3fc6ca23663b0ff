package train

import (
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/offline"
	"github.com/pilotlight-ml/pilotlight/internal/pipeline"
)

// Deps are what the steps are made of.
type Deps struct {
	Models   *model.Catalog   // whose versions say what a model takes
	Features *feature.Catalog // which features are served
	Offline  *offline.Store   // what they were at any moment
	Format   engine.Format    // opens what trainers made
	Config   Config
}

// Kinds gives what pipelines can do by this package.
func Kinds(d Deps) []pipeline.Kind {
	return []pipeline.Kind{
		{
			Name: "training-set", About: "joins what was asked of a model, or examples, with what came true and with the features of then",
			In: []pipeline.Port{{Name: "examples", About: "Parquet: join keys, what a caller gives, event_timestamp and label; in place of feedback", Optional: true}},
			Out: []pipeline.Port{
				{Name: "dataset", About: "value: what the files are"},
				{Name: "train", About: "Parquet: the older rows"},
				{Name: "holdout", About: "Parquet: the newer rows, which a trainer may not learn from"},
			},
			Heavy: true, Timeout: time.Hour, New: d.newSet,
		},
		{
			Name: "train", About: "makes a model of a training set",
			In: []pipeline.Port{{Name: "data", About: "a training set's dataset"}, {Name: "rows", About: "its train"}, {Name: "holdout", About: "its holdout"}},
			Out: []pipeline.Port{
				{Name: "model", About: "an ONNX file"},
				{Name: "metrics", About: "value: numbers by name, as the trainer measured them"},
				{Name: "predictions", About: "Parquet: the trainer's own answer to each row of the holdout", Optional: true},
				{Name: "settings", About: "value: settings of the version that the trainer asks for", Optional: true},
			},
			Heavy: true, Timeout: time.Hour, New: d.newTrain,
		},
	}
}
