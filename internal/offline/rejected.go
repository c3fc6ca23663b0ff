package offline

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// ForgetRejected deletes rows that sources rejected longer ago than REJECTED_KEEP, whole days of
// them, also of sources that are defined no more. When it is stopped it goes on there the next time.
func (s *Store) ForgetRejected(ctx context.Context) (deleted int, err error) {
	first := time.Now().Add(-s.conf.Rejected).UTC().Format(time.DateOnly) // that stays
	for after := ""; ; {
		var old []store.Object
		next := ""
		for o, err := range s.blob.List(ctx, feature.RejectedPrefix, after) {
			if err != nil {
				return deleted, fmt.Errorf("list what was rejected: %w", err)
			}
			source, rest, _ := strings.Cut(strings.TrimPrefix(o.Key, feature.RejectedPrefix), "/")
			if day, _, _ := strings.Cut(rest, "/"); day >= first {
				next = feature.RejectedPrefix + source + "/z" // behind all of its days, which are younger
				break
			}
			if old = append(old, o); len(old) == forgetMost {
				next = o.Key
				break
			}
		}
		if err := s.remove(ctx, old); err != nil {
			return deleted, err
		}
		deleted += len(old)
		if next == "" {
			return deleted, nil
		}
		after = next
	}
}

// forgetMost is how many objects are listed before they are deleted.
const forgetMost = 1000
