package train

import (
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/pipeline"
	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

// Config says what trainers there are.
type Config struct{}

func (d *Deps) newSet(with yamlwire.Node) (pipeline.Step, error) {
	return nil, fault.New(fault.Internal, "not yet")
}

func (d *Deps) newTrain(with yamlwire.Node) (pipeline.Step, error) {
	return nil, fault.New(fault.Internal, "not yet")
}
