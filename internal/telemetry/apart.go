package telemetry

import "sync"

// other is what all names are in metrics that are too many to be told apart.
const other = "other"

// Apart says which models and versions metrics tell apart: the first so many of each that were asked about, as
// each has dozens of series. All others together are the model, or the version, "other". It is safe for concurrent use;
// a nil Apart tells all apart.
type Apart struct {
	most     int
	mu       sync.RWMutex
	models   map[string]struct{}
	versions map[[2]string]struct{}
}

// NewApart makes one that tells so many models, and so many versions, apart.
func NewApart(most int) *Apart {
	return &Apart{most: most, models: map[string]struct{}{}, versions: map[[2]string]struct{}{}}
}

// Model gives the label of a model.
func (a *Apart) Model(name string) string {
	if a == nil || seen(a, a.models, name) {
		return name
	}
	return other
}

// Version gives the labels of a version of a model.
func (a *Apart) Version(name, version string) (string, string) {
	switch {
	case a == nil:
		return name, version
	case !seen(a, a.models, name):
		return other, other
	case !seen(a, a.versions, [2]string{name, version}):
		return name, other
	}
	return name, version
}

// seen tells whether a name is among the first.
func seen[N comparable](a *Apart, names map[N]struct{}, name N) bool {
	a.mu.RLock()
	_, known := names[name]
	full := len(names) >= a.most
	a.mu.RUnlock()
	if known || full {
		return known
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, known = names[name]; !known && len(names) < a.most {
		names[name] = struct{}{}
		known = true
	}
	return known
}
