package diskstore

import (
	bolt "go.etcd.io/bbolt"

	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Len counts the items in the file, expired ones too.
func Len(k store.KV) (n int) {
	_ = k.(*KV).db.View(func(tx *bolt.Tx) error {
		n = tx.Bucket(items).Stats().KeyN
		return nil
	})
	return n
}
