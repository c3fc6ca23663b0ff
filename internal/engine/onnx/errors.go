package onnx

import (
	"regexp"
	"strings"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

func openError(err error) error {
	return fault.Wrap(fault.Invalid, err, "ONNX Runtime cannot open the model: %s", sentence(err))
}

func runError(err error) error {
	return fault.Wrap(fault.Invalid, err, "the model cannot be run with these inputs: %s", sentence(err))
}

var noise = regexp.MustCompile(`x^`)

func sentence(err error) string { return strings.TrimSpace(noise.ReplaceAllString(err.Error(), "")) }
