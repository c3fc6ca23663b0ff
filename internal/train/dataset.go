// Package train makes models of what came true: a training set of labelled rows, and of that a
// model as an ONNX file, by a trainer that is built in or by a command that the operator has named.
//
// It has two kinds of steps for pipelines, "training-set" and "train", which know each other only by a
// Dataset and two Parquet files, so that any trainer may stand behind any training set. Neither
// publishes anything: what they give is the pipeline's.
package train

import (
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/feedback"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/offline"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// The columns that each of a dataset's files has beside the model's inputs.
const (
	LabelColumn = offline.LabelColumn // "label": what came true: DOUBLE (1 and 0 of binary tasks), or VARCHAR of a class
	TimeColumn  = offline.Moment      // "event_timestamp": TIMESTAMP WITH TIME ZONE: as of when the row was asked, or would have been
)

// PredictionColumn is the only column of the file "predictions": the trainer's own answer to each row of the holdout, in their order. It is a
// DOUBLE (of binary tasks the probability of yes) or a VARCHAR, of a class.
const PredictionColumn = "prediction"

// Dataset says what the files "train" and "holdout" are: Parquet, in the order of time, and all of holdout is later than all
// of train. Each has a column for each of Inputs, named like it (BYTES is VARCHAR, BOOL is BOOLEAN, INT64 is BIGINT, FP32 is FLOAT
// and so on; null where nothing was known), LabelColumn, TimeColumn, and a column for each of Slices that is none of the inputs.
type Dataset struct {
	Model string `json:"model"`
	// Version is the one that Inputs, Outputs and Quality are taken of: the champion, or the newest; 0: the model has none yet.
	Version int          `json:"version,omitempty"`
	Task    quality.Task `json:"task"` // binary, multiclass or regression
	// Quality is how answers are to be judged: the version's own, with the task and the output that says the answer.
	Quality model.Quality `json:"quality"`
	Label   string        `json:"label"` // LabelColumn
	Time    string        `json:"time"`  // TimeColumn

	Inputs  []tensor.Spec `json:"inputs"`            // of the model, in its order; one value a row each
	Outputs []tensor.Spec `json:"outputs,omitempty"` // that a new version should have, so that callers need not notice
	Slices  []string      `json:"slices,omitempty"`  // columns by whose values answers are told apart
	Classes []string      `json:"classes,omitempty"` // of multiclass labels in the training part, in order

	Features *Features `json:"features,omitempty"` // nil: the inputs are as they were logged or given

	From  time.Time `json:"from"`  // the time of the first row
	Until time.Time `json:"until"` // all rows are from before it
	Cut   time.Time `json:"cut"`   // rows from it on are the holdout
	Rows  Counts    `json:"rows"`

	Source   string               `json:"source"`             // where labels are from: FromFeedback or FromExamples
	Outcomes *feedback.Settlement `json:"outcomes,omitempty"` // what became of those of feedback
}

// Where the labels of a Dataset are from.
const (
	FromFeedback = "feedback"
	FromExamples = "examples"
)

// Counts is of rows.
type Counts struct {
	Train   int64 `json:"train"`
	Holdout int64 `json:"holdout"`
}

// Features says by which definitions features were joined.
type Features struct {
	Service string         `json:"service"`
	Version int            `json:"version"` // of the definitions
	Views   map[string]int `json:"views"`   // versions of the views and expressions that features are of
}
