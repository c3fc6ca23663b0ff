package memstore

import "github.com/pilotlight-ml/pilotlight/internal/store"

// Len counts the items kept, expired ones too.
func Len(k store.KV) int { return len(k.(*KV).items) }
