package memstore

import "github.com/pilotlight-ml/pilotlight/internal/store"

// Len counts the items kept, expired ones too.
func Len(k store.KV) int { return len(k.(*KV).items) }

// Rows counts the rows kept, expired ones too.
func Rows(o store.Online) (n int) {
	for i := range o.(*Online).parts {
		n += len(o.(*Online).parts[i].rows)
	}
	return n
}
