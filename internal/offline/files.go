package offline

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/dustin/go-humanize"
	"golang.org/x/sync/errgroup"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// files are copies of the bucket's objects on the local disk. One job at a time uses them.
type files struct {
	blob store.Blob
	dir  string
	most int64
	have map[string]*file // by folder
	size int64
	job  int64 // counts calls of begin
}

// file is one copy. Its path is a folder of its own and the object's key, so that
// DuckDB sees the partitions in it.
type file struct {
	folder string
	object store.Object
	job    int64 // that used it last
}

// path is where the copy lies.
func (f *file) path() string { return filepath.Join(f.folder, filepath.FromSlash(f.object.Key)) }

// errGone is of an object that was deleted or replaced after it was listed.
var errGone = errors.New("the object is not there any more")

func newFiles(blob store.Blob, dir string, most int64) *files {
	return &files{blob: blob, dir: dir, most: most, have: map[string]*file{}}
}

// begin lets go of what was got before: it stays only while there is room.
func (f *files) begin() { f.job++ }

// get makes copies that stay until the next begin, and gives them in the order of
// objects. An object that has changed since it was listed is errGone.
func (f *files) get(ctx context.Context, objects []store.Object) ([]*file, error) {
	all := make([]*file, len(objects))
	var missing []*file
	var need int64
	for i, o := range objects {
		sum := sha256.Sum256([]byte(o.Version + "\x00" + o.Key))
		folder := filepath.Join(f.dir, hex.EncodeToString(sum[:12]))
		one := f.have[folder]
		if one == nil {
			one = &file{folder: folder, object: o}
			missing = append(missing, one)
			need += o.Size
		} else {
			one.job = f.job
		}
		all[i] = one
	}
	if !f.shrink(need) {
		return nil, fault.New(fault.Overloaded, "the files that are read at once, %s more, do not fit into OFFLINE_CACHE, which is %s", humanize.IBytes(uint64(need)), humanize.IBytes(uint64(f.most)))
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for _, one := range missing {
		group.Go(func() error { return f.fetch(ctx, one) })
	}
	if err := group.Wait(); err != nil {
		for _, one := range missing {
			_ = os.RemoveAll(one.folder)
		}
		return nil, err
	}
	for _, one := range missing {
		one.job = f.job
		f.have[one.folder] = one
		f.size += one.object.Size
	}
	return all, nil
}

// shrink makes room by removing copies that were not used for longest.
func (f *files) shrink(need int64) bool {
	free := slices.SortedFunc(maps.Values(f.have), func(a, b *file) int { return cmp.Compare(a.job, b.job) })
	for _, one := range free {
		if f.size+need <= f.most || one.job == f.job {
			break
		}
		delete(f.have, one.folder)
		f.size -= one.object.Size
		_ = os.RemoveAll(one.folder) // what can't be removed is only in the way
	}
	return f.size+need <= f.most
}

func (f *files) fetch(ctx context.Context, one *file) error {
	r, o, err := f.blob.Get(ctx, one.object.Key, 0, -1)
	switch {
	case fault.Is(err, fault.NotFound):
		return errGone
	case err != nil:
		return fmt.Errorf("read %q: %w", one.object.Key, err)
	}
	defer func() { _ = r.Close() }()
	if o.Version != one.object.Version {
		return errGone
	}
	if err := os.MkdirAll(filepath.Dir(one.path()), 0o700); err != nil {
		return err
	}
	w, err := os.Create(one.path())
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	if err := errors.Join(err, w.Close()); err != nil {
		return fmt.Errorf("copy %q: %w", one.object.Key, err)
	}
	return nil
}
