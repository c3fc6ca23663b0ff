package offline

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/pilotlight-ml/pilotlight/internal/duck"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Files of a day are joined while they are small, and while there are several.
const (
	compactBelow = 32 << 20
	compactFrom  = 4
	compactMost  = 2000             // at once,
	compactBytes = 8 * compactBelow // or so much
)

// Compacted is what a compaction did.
type Compacted struct {
	Days   int `json:"days"`
	Joined int `json:"joined"` // files that are no more
}

// Compact joins the small files of each day of a source's log until few are left: without rows
// that were written again later, and sorted by event time. It does so some at a time. Each
// whole is written before its parts are deleted, and whoever sees both sees rows twice
// that are known by their ids. So it may be stopped anywhere, keeps what is done by
// then, and goes on there when it runs again. A source with a path has no log; it is left alone.
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
		joined := 0
		if day != "" {
			joined, err = s.compactDay(ctx, src, day, objects[:n])
		}
		if objects = objects[n:]; joined > 0 {
			done.Days++
			done.Joined += joined
		}
		if err != nil && !errors.Is(err, errGone) { // somebody removed a file; there is a next time
			return done, err
		}
	}
	return done, nil
}

// compactDay joins the small files among those of a day, and what they become, until few are
// left. What others write meanwhile waits for the next time.
func (s *Store) compactDay(ctx context.Context, src *feature.CompiledSource, day string, objects []store.Object) (joined int, err error) {
	for {
		small := slices.DeleteFunc(objects, func(o store.Object) bool { return o.Size >= compactBelow })
		if len(small) < compactFrom {
			return joined, nil
		}
		// The smallest first: rows that were joined already wait until all that is smaller is as
		// far, and are not written again with each few of these.
		slices.SortStableFunc(small, func(a, b store.Object) int { return cmp.Compare(a.Size, b.Size) })
		objects = nil
		for len(small) >= compactFrom {
			n, size := 0, int64(0)
			for n < min(len(small), compactMost) && size < compactBytes {
				size += small[n].Size
				n++
			}
			whole, err := s.compactSome(ctx, src, day, small[:n])
			if err != nil {
				return joined, err
			}
			joined += n
			objects, small = append(objects, whole), small[n:]
		}
		objects = append(objects, small...)
	}
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

// compactSome puts one file in the place of some, and gives it.
func (s *Store) compactSome(ctx context.Context, src *feature.CompiledSource, day string, small []store.Object) (made store.Object, err error) {
	j, err := s.begin(ctx)
	if err != nil {
		return made, err
	}
	defer j.end()
	in, err := j.input(ctx, src, small)
	if err != nil {
		return made, err
	}
	// All columns are kept as they are, also those that the source has no more. Of the same
	// row, written again later, the first stays.
	joined := filepath.Join(j.dir, "joined")
	if err := j.exec(ctx, `COPY (SELECT * FROM (SELECT DISTINCT ON ("_id") * FROM `, in.from, ` ORDER BY "_id", "_created") ORDER BY "_event", "_created", "_id") TO `, duck.Quote(joined), " (FORMAT parquet, COMPRESSION zstd)"); err != nil {
		return made, j.explain(ctx, in, err)
	}
	whole, err := os.Open(joined)
	if err != nil {
		return made, err
	}
	defer func() { _ = whole.Close() }()
	hash := sha256.New()
	made.Size, err = io.Copy(hash, whole)
	if err != nil {
		return made, err
	}
	// By its key it is listed behind its parts: whoever lists meanwhile and misses
	// parts that are deleted finds the whole. And it is none of its parts.
	after := int64(0)
	for _, o := range small {
		after = max(after, createdOf(o.Key)+1)
	}
	made.Key = segment.Key(src.Name, day, after, hash.Sum(nil))
	made.Version, err = s.blob.Put(ctx, made.Key, whole, made.Size, store.IfAbsent())
	switch {
	case fault.Is(err, fault.Conflict):
		return made, errGone // it is there since the others were listed
	case err != nil:
		return made, fmt.Errorf("write %q: %w", made.Key, err)
	}
	return made, s.remove(ctx, small)
}

// remove deletes objects.
func (s *Store) remove(ctx context.Context, objects []store.Object) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(fetches)
	for _, o := range objects {
		group.Go(func() error {
			if err := s.blob.Delete(ctx, o.Key); err != nil {
				return fmt.Errorf("delete %q: %w", o.Key, err)
			}
			return nil
		})
	}
	return group.Wait()
}
