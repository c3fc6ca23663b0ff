package diskstore

import (
	bolt "go.etcd.io/bbolt"

	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Len counts the items in the file, expired ones too.
func Len(k store.KV) int { return count(k.(*KV).db) }

// Rows counts the rows in the file, expired ones too.
func Rows(o store.Online) int { return count(o.(*Online).db) }

func count(db *bolt.DB) (n int) {
	_ = db.View(func(tx *bolt.Tx) error {
		n = tx.Bucket(items).Stats().KeyN
		return nil
	})
	return n
}
