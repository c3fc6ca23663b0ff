package predict

import (
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// Compat has the server go by the names and words of another, on which scripts
// written for that one insist.
type Compat struct {
	With string `env:"COMPAT" help:"'triton' has the server call itself triton, and errors say what scripts of Triton's look for: 'Request for unknown model', 'failed to load'."`
}

// Validate refuses servers whose words nobody knows.
func (c *Compat) Validate() error {
	if c.With != "" && c.With != "triton" {
		return fault.New(fault.Invalid, "COMPAT is %q, expected 'triton' or nothing", c.With)
	}
	return nil
}

func (c *Compat) serverName() string {
	if c.With != "" {
		return c.With
	}
	return "pilotlight"
}

// word puts the words before an error about a model that scripts look for; load
// tells that it was to be loaded. The error's kind stays.
func (c *Compat) word(err error, name string, load bool) error {
	switch {
	case c.With == "" || name == "":
		return err
	case load:
		return fault.Wrap(fault.KindOf(err), err, "failed to load %q, %s", tensor.Clip(name), fault.Message(err))
	case fault.KindOf(err) == fault.NotFound:
		return fault.Wrap(fault.NotFound, err, "Request for unknown model: %q is not found: %s", tensor.Clip(name), fault.Message(err))
	}
	return err
}
