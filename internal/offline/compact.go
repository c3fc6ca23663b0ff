package offline

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Files of a day are joined while they are small, and while there are several.
const (
	compactBelow = 32 << 20
	compactFrom  = 4
	compactMost  = 1000 // at once
)

// Compacted is what a compaction did.
type Compacted struct {
	Days   int `json:"days"`
	Joined int `json:"joined"` // files that are no more
}

// Compact joins the small files of each day of a source's log: without rows that were
// written again later, and sorted by event time. The whole is written before its parts
// are deleted, and whoever sees both sees rows twice that are known by their ids. So it
// may be stopped anywhere, and runs again from the start. A source with a path has no
// log; it is left alone.
func (s *Store) Compact(ctx context.Context, src *feature.CompiledSource) (done Compacted, err error) {
	if src.Path != "" {
		return done, nil
	}
	ctx, release, err := s.lease(ctx, "features/compact/"+src.Name, fmt.Sprintf("the log of source %q is being compacted already", src.Name))
	if err != nil {
		return done, err
	}
	defer release()
	objects, err := s.list(ctx, src)
	if err != nil {
		return done, err
	}
	for len(objects) > 0 {
		day := dayOf(objects[0].Key)
		n := 0
		for n < len(objects) && dayOf(objects[n].Key) == day {
			n++
		}
		var small []store.Object
		for _, o := range objects[:n] {
			if o.Size < compactBelow && len(small) < compactMost {
				small = append(small, o)
			}
		}
		objects = objects[n:]
		if len(small) < compactFrom || day == "" {
			continue
		}
		switch err := s.compactDay(ctx, src, day, small); {
		case errors.Is(err, errGone):
			continue // somebody removed a file; there is a next time
		case err != nil:
			return done, err
		}
		done.Days++
		done.Joined += len(small)
	}
	return done, nil
}

// dayOf gives the partition that a file of a log is in.
func dayOf(key string) string {
	_, rest, _ := strings.Cut(key, "/date=")
	day, _, _ := strings.Cut(rest, "/")
	return day
}

// createdOf gives the time in a file's name; 0: it has none.
func createdOf(key string) int64 {
	text, _, _ := strings.Cut(path.Base(key), "-")
	n, _ := strconv.ParseInt(text, 10, 64)
	return n
}

func (s *Store) compactDay(ctx context.Context, src *feature.CompiledSource, day string, small []store.Object) error {
	j, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer j.end()
	in, err := j.input(ctx, src, small)
	if err != nil {
		return err
	}
	// All columns are kept as they are, also those that the source has no more. Of the same
	// row, written again later, the first stays.
	joined := filepath.Join(j.dir, "joined")
	if err := j.exec(ctx, `COPY (SELECT * FROM (SELECT DISTINCT ON ("_id") * FROM `, in.from, ` ORDER BY "_id", "_created") ORDER BY "_event", "_created", "_id") TO `, quote(joined), " (FORMAT parquet, COMPRESSION zstd)"); err != nil {
		return j.explain(ctx, in, err)
	}
	whole, err := os.Open(joined)
	if err != nil {
		return err
	}
	defer func() { _ = whole.Close() }()
	hash := sha256.New()
	size, err := io.Copy(hash, whole)
	if err != nil {
		return err
	}
	// By its key it is listed behind its parts: whoever lists meanwhile and misses
	// parts that are deleted finds the whole. And it is none of its parts.
	after := int64(0)
	for _, o := range small {
		after = max(after, createdOf(o.Key)+1)
	}
	key := segment.Key(src.Name, day, after, hash.Sum(nil))
	if _, err := s.blob.Put(ctx, key, whole, size, store.IfAbsent()); err != nil && !fault.Is(err, fault.Conflict) {
		return fmt.Errorf("write %q: %w", key, err)
	}
	for _, o := range small {
		if err := s.blob.Delete(ctx, o.Key); err != nil {
			return fmt.Errorf("delete %q: %w", o.Key, err)
		}
	}
	return nil
}
