// Package course is how right a model was and how far its data had moved, over time: what the API tells of both, put in order by version,
// slice and column, and drawn. Programs that ask the API show the same by it.
//
// It knows the answers of /admin/v1/quality and /admin/v1/drift, and nothing of how they are made.
package course

import "time"

// Elsewhere is of when there are predictions of a model.
type Elsewhere struct {
	From  time.Time `json:"from"`
	Until time.Time `json:"until"`
}

// Date writes the beginning or the end of a window.
func Date(t time.Time) string {
	if t = t.UTC(); t.Equal(t.Truncate(24 * time.Hour)) {
		return t.Format("2006-01-02")
	}
	return t.Format("2006-01-02 15:04")
}

// clipped shortens a stranger's text.
func clipped(s string, most int) string {
	if runes := []rune(s); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return s
}
