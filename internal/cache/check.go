package cache

import (
	"slices"
	"strings"

	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// clone copies tensors out of memory that is somebody else's.
func clone(tensors []tensor.Tensor) []tensor.Tensor {
	own := make([]tensor.Tensor, len(tensors))
	for i, t := range tensors {
		own[i] = tensor.Tensor{
			Name: strings.Clone(t.Name), Type: t.Type, Shape: slices.Clone(t.Shape),
			Data: slices.Clone(t.Data), Strings: cloneStrings(t.Strings),
		}
	}
	return own
}

func cloneStrings(texts []string) []string {
	own := make([]string, len(texts))
	for i, s := range texts {
		own[i] = strings.Clone(s)
	}
	return own
}
