// Package pipeline runs what has to be done with data and models from time to time, step by
// step and without hands: data in, a model trained, compared, published, rolled out.
//
// A Definition says which steps there are, what they give each other, and what
// starts them. What a step does is a Kind, which mains give; the package knows none of them.
// Where a run stands lies in the bucket and nowhere else, so any instance goes on with it.
package pipeline

import (
	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

// Definition is a pipeline, as people write it: a document of YAML.
type Definition struct {
	Name  string  `yaml:"pipeline"`
	About string  `yaml:"about"`
	On    []Start `yaml:"on"` // what starts it beside people; none: people alone
	// Pause is the least time between the beginnings of two runs that events start: a hundred alerts are one reason. 0: none.
	Pause yamlwire.Duration `yaml:"pause"`
	Steps []Spec            `yaml:"steps"`
	// Text is the document itself.
	Text string `yaml:"-"`
}

// Start is something that starts a run: an event or, with Every, time.
type Start struct {
	Event string            `yaml:"event"` // its type, such as dev.pilotlight.alert.raised.v1
	Where map[string]string `yaml:"where"` // fields of its data, or "subject", and what they have to be
	Every yamlwire.Duration `yaml:"every"`
}

// Spec is a step of a pipeline.
type Spec struct {
	Name string `yaml:"name"`
	Use  string `yaml:"use"` // the name of a Kind
	// In says what the step's inputs are: by their names, outputs of other steps as "step.output".
	In    map[string]string `yaml:"in"`
	After []string          `yaml:"after"` // steps that have to be done before, though nothing is read of them
	With  yamlwire.Node     `yaml:"with"`  // what the Kind reads
	// Retries is how many times it is tried again after an error that may pass; Timeout is the time of each. 0: that of the Kind.
	Retries *int              `yaml:"retries"`
	Timeout yamlwire.Duration `yaml:"timeout"`
}
