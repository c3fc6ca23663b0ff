package queue

import (
	"math"

	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// trust is whether a model answers a row alike in any company.
type trust struct {
	joined int // runs of joined requests
	lost   bool
}

const (
	// first joined runs are all checked, and later one in often.
	checkFirst = 3
	checkOften = 10_000
)

// checks counts a joined run and tells whether it is one to be checked.
func (l *Lane) checks() bool {
	l.queue.mu.Lock()
	defer l.queue.mu.Unlock()
	l.trust.joined++
	return l.trust.joined <= checkFirst || l.trust.joined%checkOften == 0
}

// distrust ends joining for the lane's model.
func (l *Lane) distrust(why string) {
	l.queue.mu.Lock()
	lost := l.trust.lost
	l.trust.lost = true
	l.queue.mu.Unlock()
	if !lost {
		l.queue.log.Warn("requests for a model are not joined any more", "model", l.name, "why", why)
	}
}

// Rounding may differ with the number of rows, since kernels add up in another order.
const (
	relative = 1e-3
	absolute = 1e-5
)

// alike reports whether two answers are the same but for rounding.
func alike(a, b []tensor.Tensor) bool {
	for i := range a {
		x, y := &a[i], &b[i]
		if len(x.Data) != len(y.Data) || len(x.Strings) != len(y.Strings) {
			return false
		}
		for j := range x.Strings {
			if x.Strings[j] != y.Strings[j] {
				return false
			}
		}
		var ok bool
		switch x.Type {
		case tensor.FP32:
			ok = near(tensor.View[float32](x.Data), tensor.View[float32](y.Data))
		case tensor.FP64:
			ok = near(tensor.View[float64](x.Data), tensor.View[float64](y.Data))
		default:
			ok = string(x.Data) == string(y.Data)
		}
		if !ok {
			return false
		}
	}
	return true
}

func near[T float32 | float64](a, b []T) bool {
	for i := range a {
		x, y := float64(a[i]), float64(b[i])
		if x != y && !(math.IsNaN(x) && math.IsNaN(y)) && !(math.Abs(x-y) <= absolute+relative*max(math.Abs(x), math.Abs(y))) {
			return false
		}
	}
	return true
}
