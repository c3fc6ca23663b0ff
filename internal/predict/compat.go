package predict

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/oip"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// Compat has the server go by the names and words of another, on which scripts
// written for that one insist.
type Compat struct {
	With string `env:"COMPAT" help:"'triton' has the server call itself triton, and errors say what scripts of Triton's look for: 'Request for unknown model', 'failed to load'; a load may change max_batch_size."`
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

// load has a model loaded. As Triton's, a load may bring a configuration, if it goes by
// Triton's words; of it, max_batch_size is taken.
func (h *Handler) load(ctx context.Context, ref model.Ref, given oip.Parameters) error {
	var most *int
	for name, value := range given {
		text, isText := value.(string)
		if h.compat.With == "" || name != "config" || !isText {
			return fault.New(fault.Invalid, "parameter %q can't be given to a load: models and their settings come from the registry (POST /admin/v1/models/{model}/versions)", tensor.Clip(name))
		}
		var err error
		if most, err = maxBatchSize(text); err != nil {
			return err
		}
	}
	return h.flow.load(ctx, ref, most)
}

// maxBatchSize reads the one setting of a configuration that a load can change. In JSON of
// Protocol Buffers a number may be text.
func maxBatchSize(config string) (*int, error) {
	var settings map[string]json.RawMessage
	if err := json.Unmarshal([]byte(config), &settings); err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "the parameter config is no JSON object: %s", err)
	}
	var most *int
	for name, value := range settings {
		if name != "max_batch_size" && name != "maxBatchSize" {
			return nil, fault.New(fault.Invalid, "the parameter config sets %q, and a load can change max_batch_size alone: other settings come from the registry (POST /admin/v1/models/{model}/versions)", tensor.Clip(name))
		}
		n, err := strconv.ParseInt(strings.Trim(string(value), `"`), 10, 32)
		if err != nil || n < 0 {
			return nil, fault.New(fault.Invalid, "max_batch_size is %s, expected a whole number of 0 or more", tensor.Clip(string(value)))
		}
		rows := int(n)
		most = &rows
	}
	return most, nil
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
