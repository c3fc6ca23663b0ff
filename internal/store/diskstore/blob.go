package diskstore

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

var (
	_ store.Blob  = (*Blob)(nil)
	_ store.Filed = (*Blob)(nil)
)

// Blob is a store.Blob in a folder. An object is written beside the others and
// moved to its place under a lock that all processes on the folder share; the
// lock is never held while bytes stream.
type Blob struct {
	root string
	mu   sync.Mutex // flock does not tell the goroutines of a process apart
	lock *os.File
}

// abandoned is how long nobody has written to a temporary file whose writer is
// taken for dead.
const abandoned = time.Hour

// OpenBlob opens the objects in the folder that u names (file:///folder).
func OpenBlob(_ context.Context, u *url.URL) (store.Blob, error) {
	root, err := folder(u)
	if err != nil {
		return nil, err
	}
	temp := filepath.Join(root, tempDir)
	if err := os.MkdirAll(temp, 0o777); err != nil {
		return nil, diskFault(err)
	}
	left, err := os.ReadDir(temp)
	if err != nil {
		return nil, diskFault(err)
	}
	for _, e := range left {
		// Another process may be doing the same: whoever comes second finds nothing.
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > abandoned {
			_ = os.Remove(filepath.Join(temp, e.Name()))
		}
	}
	lock, err := os.OpenFile(filepath.Join(root, lockFile), os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, diskFault(err)
	}
	return &Blob{root: root, lock: lock}, nil
}

// Get opens a range of an object.
func (b *Blob) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, store.Object, error) {
	if err := check(ctx, key); err != nil {
		return nil, store.Object{}, err
	}
	if offset < 0 {
		return nil, store.Object{}, fault.New(fault.Invalid, "key %q: an offset is not negative", key)
	}
	f, err := os.Open(b.Path(key))
	if absent(err) {
		return nil, store.Object{}, missing(key)
	}
	if err != nil {
		return nil, store.Object{}, diskFault(err)
	}
	info, err := f.Stat()
	if err == nil && info.Mode().IsRegular() {
		o := describe(key, info)
		rest := max(0, o.Size-offset)
		if length < 0 || length > rest {
			length = rest
		}
		return section{io.NewSectionReader(f, offset, length), f}, o, nil
	}
	_ = f.Close() // it was only read from
	if err != nil {
		return nil, store.Object{}, diskFault(err)
	}
	return nil, store.Object{}, missing(key) // a folder
}

// section is a range of an open file. Whoever can make use of it finds an
// io.ReaderAt and an io.Seeker too.
type section struct {
	*io.SectionReader
	io.Closer
}

// Put stores an object.
func (b *Blob) Put(ctx context.Context, key string, body io.ReadSeeker, size int64, c store.Condition) (string, error) {
	if err := check(ctx, key); err != nil {
		return "", err
	}
	temp := filepath.Join(b.root, tempDir, rand.Text())
	version, err := write(ctx, temp, key, body, size)
	if err == nil {
		err = b.locked(func() error { return b.publish(temp, key, c) })
	}
	if err != nil {
		_ = os.Remove(temp) // it may not have come into being
		return "", err
	}
	// Every folder above may be new, made by us or by a neighbour that has not come
	// to this line yet.
	for dir := filepath.Dir(b.Path(key)); ; dir = filepath.Dir(dir) {
		if err := syncDir(dir); err != nil {
			return "", err
		}
		if dir == b.root {
			return version, nil
		}
	}
}

// write makes a durable file of a body, and gives the version that it will have.
func write(ctx context.Context, path, key string, body io.ReadSeeker, size int64) (version string, err error) {
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return "", fmt.Errorf("read the body of %q: %w", key, err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return "", diskFault(err)
	}
	defer func() {
		if e := f.Close(); e != nil && err == nil {
			err = diskFault(e)
		}
	}()
	src := &source{ctx: ctx, r: body}
	n, err := io.Copy(f, io.LimitReader(src, size+1)) // the one more tells a longer body
	if src.err != nil {
		return "", fmt.Errorf("read the body of %q: %w", key, src.err)
	}
	if err != nil {
		return "", diskFault(err)
	}
	if n != size {
		return "", fault.New(fault.Invalid, "key %q: the body does not have the %d bytes that were announced", key, size)
	}
	// The kernel's own time stamps are too coarse to tell two versions apart.
	if err := os.Chtimes(path, time.Time{}, time.Now()); err != nil {
		return "", diskFault(err)
	}
	if err := f.Sync(); err != nil {
		return "", diskFault(err)
	}
	info, err := f.Stat()
	if err != nil {
		return "", diskFault(err)
	}
	return versionOf(info), nil
}

// source reads a body for as long as its caller waits, and keeps the body's
// errors apart from those of the disk.
type source struct {
	ctx context.Context
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	if s.err = s.ctx.Err(); s.err != nil {
		return 0, s.err
	}
	n, err := s.r.Read(p)
	if err != io.EOF {
		s.err = err
	}
	return n, err
}

// publish moves a file to the place of its key, if c holds. The lock is held.
func (b *Blob) publish(temp, key string, c store.Condition) error {
	path := b.Path(key)
	info, err := os.Lstat(path)
	var version string
	switch {
	case errors.Is(err, syscall.ENOTDIR):
		return fault.New(fault.Conflict, "key %q: a part of it is an object already", key)
	case err == nil && info.IsDir():
		return fault.New(fault.Conflict, "key %q is the folder of other objects", key)
	case err == nil:
		version = versionOf(info)
	case !errors.Is(err, fs.ErrNotExist):
		return diskFault(err)
	}
	if !c.Holds(version) {
		return conflict(key)
	}
	err = os.MkdirAll(filepath.Dir(path), 0o777)
	if errors.Is(err, syscall.ENOTDIR) {
		return fault.New(fault.Conflict, "key %q: a part of it is an object already", key)
	}
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		b.prune(filepath.Dir(path))
		return diskFault(err)
	}
	return nil
}

// Delete removes an object.
func (b *Blob) Delete(ctx context.Context, key string) error {
	if err := check(ctx, key); err != nil {
		return err
	}
	path := b.Path(key)
	var parent string
	err := b.locked(func() error {
		info, err := os.Lstat(path)
		if absent(err) || err == nil && info.IsDir() {
			return nil
		}
		if err == nil {
			err = os.Remove(path)
		}
		if err != nil {
			return diskFault(err)
		}
		parent = b.prune(filepath.Dir(path))
		return nil
	})
	if err != nil || parent == "" {
		return err
	}
	return syncDir(parent)
}

// List visits the objects folder by folder, so that it keeps the names of the
// folders above an object in memory and not those of the whole tree.
func (b *Blob) List(ctx context.Context, prefix, after string) iter.Seq2[store.Object, error] {
	return func(yield func(store.Object, error) bool) {
		dir := prefix[:strings.LastIndexByte(prefix, '/')+1]
		if dir != "" && store.CheckKey(dir[:len(dir)-1]) != nil {
			return // no key begins like that, and it may not name a folder of ours
		}
		b.walk(ctx, dir, prefix, after, yield)
	}
}

// walk visits the objects of a folder ("" or with a slash at its end). It
// returns false when it is over for all.
func (b *Blob) walk(ctx context.Context, dir, prefix, after string, yield func(store.Object, error) bool) bool {
	names, err := b.names(dir)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		yield(store.Object{}, err)
		return false
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			yield(store.Object{}, err)
			return false
		}
		key := dir + name
		if !strings.HasPrefix(key, prefix) {
			continue
		}
		if strings.HasSuffix(name, "/") {
			behind := key >= after || strings.HasPrefix(after, key) // at least some of its keys
			if behind && !b.walk(ctx, key, prefix, after, yield) {
				return false
			}
			continue
		}
		if key <= after {
			continue
		}
		info, err := os.Lstat(b.Path(key))
		if absent(err) || err == nil && !info.Mode().IsRegular() {
			continue // gone meanwhile
		}
		if err != nil {
			yield(store.Object{}, diskFault(err))
			return false
		}
		if !yield(describe(key, info), nil) {
			return false
		}
	}
	return true
}

// names gives what lies in a folder in the order of the keys: a folder has a
// slash at the end of its name, which sorts behind a dot.
func (b *Blob) names(dir string) (names []string, err error) {
	var entries []fs.DirEntry
	// Some file systems may leave a file out of a listing when it is replaced at
	// that moment, so nobody replaces any.
	err = b.locked(func() error {
		f, err := os.Open(b.Path(dir))
		if err != nil {
			return err
		}
		entries, err = f.ReadDir(-1)
		return cmp.Or(err, f.Close())
	})
	if absent(err) || errors.Is(err, fs.ErrPermission) && dir == "lost+found/" { // volumes come with that one
		return nil, nil
	}
	if err != nil {
		return nil, diskFault(err)
	}
	for _, e := range entries {
		switch name := e.Name(); {
		case store.CheckKey(name) != nil: // not an object: one of our own, or a stranger
		case e.IsDir():
			names = append(names, name+"/")
		case e.Type().IsRegular():
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// Close lets go of the lock file.
func (b *Blob) Close() error { return b.lock.Close() }

// Path tells where the file of an object is.
func (b *Blob) Path(key string) string { return filepath.Join(b.root, filepath.FromSlash(key)) }

// locked runs f while no one else, in any process, changes names in the folder.
func (b *Blob) locked(f func() error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.flock(syscall.LOCK_EX); err != nil {
		return diskFault(err)
	}
	err := f()
	return cmp.Or(err, b.flock(syscall.LOCK_UN))
}

func (b *Blob) flock(how int) error {
	for {
		if err := syscall.Flock(int(b.lock.Fd()), how); err != syscall.EINTR {
			return err
		}
	}
}

// prune removes a folder and those above it as far as they are empty, and gives
// the first that stays. The lock is held, so nobody is about to put a file there.
func (b *Blob) prune(dir string) string {
	for dir != b.root && os.Remove(dir) == nil {
		dir = filepath.Dir(dir)
	}
	return dir
}

// syncDir makes the names in a folder durable. A folder that is gone has none.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if absent(err) {
		return nil
	}
	if err != nil {
		return diskFault(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return diskFault(err)
	}
	return nil
}

// absent tells whether err means that there is no such file.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

func describe(key string, info fs.FileInfo) store.Object {
	return store.Object{Key: key, Size: info.Size(), Version: versionOf(info), Modified: info.ModTime()}
}

// versionOf tells each file that ever was in a place from all others: two that
// exist at the same time differ in their inode, two that do not in their time.
func versionOf(info fs.FileInfo) string {
	v := strconv.FormatInt(info.ModTime().UnixNano(), 36)
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		v += "-" + strconv.FormatUint(stat.Ino, 36)
	}
	return v
}
