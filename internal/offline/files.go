package offline

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/dustin/go-humanize"
	"golang.org/x/sync/errgroup"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// files are copies of the bucket's objects on the local disk. One job at a time uses them.
type files struct {
	blob store.Blob
	dir  string
	most int64
	from int              // so many small objects are joined, and fewer are not
	have map[string]*file // by folder
	size int64
	job  int64 // counts calls of begin
}

// file is the copy of one object, or of many small ones joined: one for each way in which their columns
// are laid out. A single one lies in a folder of its own under the object's key, so that
// DuckDB sees the partitions in it.
type file struct {
	folder  string
	objects []store.Object // none where they are joined
	paths   []string
	size    int64
	job     int64 // that used it last
}

// DuckDB takes some milliseconds and a megabyte for each of a thousand small files that it reads at
// once, so they are joined before.
const (
	joinBelow = 256 << 10
	joinFrom  = 64
	joinAbout = 4096 // of them become one
)

// errGone is of an object that was deleted or replaced after it was listed.
var errGone = errors.New("the object is not there any more")

func newFiles(blob store.Blob, dir string, most int64) *files {
	return &files{blob: blob, dir: dir, most: most, from: joinFrom, have: map[string]*file{}}
}

// begin lets go of what was got before: it stays only while there is room.
func (f *files) begin() { f.job++ }

// get makes copies that stay until the next begin. Small ones among many may be joined, unless
// what their keys say is wanted. An object that has changed since it was listed is
// errGone; one to be joined that is not what was written is a *damaged.
func (f *files) get(ctx context.Context, objects []store.Object, join bool) ([]*file, error) {
	var all, missing []*file
	var need int64
	for _, of := range f.split(objects, join) {
		hash := sha256.New()
		for _, o := range of {
			_, _ = fmt.Fprintf(hash, "%s\x00%s\x00", o.Version, o.Key)
		}
		folder := filepath.Join(f.dir, hex.EncodeToString(hash.Sum(nil)[:12]))
		one := f.have[folder]
		if one == nil {
			one = &file{folder: folder, objects: of}
			for _, o := range of {
				one.size += o.Size
			}
			missing = append(missing, one)
			need += one.size
		} else {
			one.job = f.job
		}
		all = append(all, one)
	}
	if !f.shrink(need) {
		return nil, fault.New(fault.Overloaded, "the files that are read at once, %s more, do not fit into OFFLINE_CACHE, which is %s", humanize.IBytes(uint64(need)), humanize.IBytes(uint64(f.most)))
	}
	// What was joined stays also if another can't be got: who was told that an object is gone
	// lists again, and goes on.
	group, fetching := errgroup.WithContext(ctx)
	group.SetLimit(fetches)
	var err error
	for _, one := range missing {
		if len(one.objects) == 1 {
			group.Go(func() error { return f.fetch(fetching, one) })
		} else if err = f.join(ctx, one); err != nil {
			break
		}
	}
	if err := cmp.Or(group.Wait(), err); err != nil {
		for _, one := range missing {
			if f.have[one.folder] == nil {
				_ = os.RemoveAll(one.folder)
			}
		}
		return nil, err
	}
	for _, one := range missing {
		if len(one.objects) == 1 {
			f.keep(one)
		}
	}
	return all, nil
}

// fetches is how many objects are on their way, or deleted, at once.
const fetches = 16

// keep remembers a copy.
func (f *files) keep(one *file) {
	one.job = f.job
	f.have[one.folder] = one
	f.size += one.size
}

// split tells which objects are joined, and in which order: the small ones, if they are many. An
// object ends a row of them by its key, so that most are the same when others came.
func (f *files) split(objects []store.Object, join bool) [][]store.Object {
	small := func(o store.Object) bool { return join && o.Size < joinBelow }
	many := 0
	for _, o := range objects {
		if small(o) {
			many++
		}
	}
	var all [][]store.Object
	var row []store.Object
	for i, o := range objects {
		if !small(o) || many < f.from {
			all = append(all, objects[i:i+1])
			continue
		}
		if row = append(row, o); crc32.ChecksumIEEE([]byte(o.Key))%joinAbout == 0 {
			all, row = append(all, row), nil
		}
	}
	if len(row) > 0 {
		all = append(all, row)
	}
	return all
}

// shrink makes room by removing copies that were not used for longest.
func (f *files) shrink(need int64) bool {
	free := slices.SortedFunc(maps.Values(f.have), func(a, b *file) int { return cmp.Compare(a.job, b.job) })
	for _, one := range free {
		if f.size+need <= f.most || one.job == f.job {
			break
		}
		delete(f.have, one.folder)
		f.size -= one.size
		_ = os.RemoveAll(one.folder) // what can't be removed is only in the way
	}
	return f.size+need <= f.most
}

// fetch copies an object.
func (f *files) fetch(ctx context.Context, one *file) error {
	o := one.objects[0]
	r, err := f.open(ctx, o)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	path := filepath.Join(one.folder, filepath.FromSlash(o.Key))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	w, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	if err := errors.Join(err, w.Close()); err != nil {
		return fmt.Errorf("copy %q: %w", o.Key, err)
	}
	one.paths = []string{path}
	return nil
}

// open reads an object if it is still what was listed.
func (f *files) open(ctx context.Context, listed store.Object) (io.ReadCloser, error) {
	r, o, err := f.blob.Get(ctx, listed.Key, 0, -1)
	switch {
	case fault.Is(err, fault.NotFound):
		return nil, errGone
	case err != nil:
		return nil, fmt.Errorf("read %q: %w", listed.Key, err)
	case o.Version != listed.Version:
		return nil, errors.Join(errGone, r.Close())
	}
	return r, nil
}

// join makes one copy of many small objects.
func (f *files) join(ctx context.Context, one *file) (err error) {
	if err := os.MkdirAll(one.folder, 0o700); err != nil {
		return err
	}
	to := &joint{folder: one.folder}
	defer func() {
		if err != nil {
			to.abort()
		}
	}()
	group, fetching := errgroup.WithContext(ctx)
	group.SetLimit(fetches)
	for _, o := range one.objects {
		if fetching.Err() != nil {
			break
		}
		group.Go(func() error {
			r, err := f.open(fetching, o)
			if err != nil {
				return err
			}
			data, err := io.ReadAll(r)
			if err := errors.Join(err, r.Close()); err != nil {
				return fmt.Errorf("read %q: %w", o.Key, err)
			}
			if !segment.Intact(o.Key, data) {
				err = errors.New("its bytes are not those that it was named by")
			} else {
				err = to.add(data)
			}
			if err != nil {
				return &damaged{o.Key, err}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if one.paths, one.size, err = to.close(); err != nil {
		return err
	}
	one.objects = nil // they are many, and nobody asks for them again
	f.keep(one)
	return nil
}
