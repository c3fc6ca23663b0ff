package model

import (
	"container/list"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sync/singleflight"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Artifacts moves model files between the bucket and a disk cache.
//
// The cache holds at most a budget of bytes and drops what was used longest
// ago, never a file that is being read. A file appears in it whole, by rename,
// after its digest was checked while it streamed in; so processes may share the
// folder. A file that this process did not write itself is checked before its
// first use.
type Artifacts struct {
	blob   store.Blob
	dir    string
	budget int64
	parts  int // ranged reads under way at once for one file

	flight singleflight.Group
	tel    *instruments

	mu    sync.Mutex
	files map[Digest]*file
	order *list.List // of *file; the front was used last
	used  int64
}

// file is one entry of the disk cache.
type file struct {
	digest   Digest
	size     int64
	users    int  // readers at this moment
	verified bool // by this process
	place    *list.Element
}

const (
	partSize     = 8 << 20   // of one ranged read: large enough that a round trip does not count
	strayAge     = time.Hour // a temporary file untouched for so long was left by a crash
	fetchTimeout = 15 * time.Minute
)

func openArtifacts(blob store.Blob, dir string, budget int64, parts int, tel *instruments) (*Artifacts, error) {
	a := &Artifacts{blob: blob, dir: dir, budget: budget, parts: parts, tel: tel, files: map[Digest]*file{}, order: list.New()}
	if err := os.MkdirAll(a.tmp(), 0o755); err != nil {
		return nil, fault.Wrap(fault.Unavailable, err, "the model cache folder %s can't be made", dir)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, err, "the model cache folder %s can't be read", dir)
	}
	type found struct {
		file
		at time.Time
	}
	var old []found
	for _, e := range entries {
		hex, isArtifact := strings.CutPrefix(e.Name(), "sha256-")
		d := Digest(digestPrefix + hex)
		if info, err := e.Info(); err == nil && isArtifact && d.valid() {
			old = append(old, found{file{digest: d, size: info.Size()}, info.ModTime()})
		}
	}
	slices.SortFunc(old, func(x, y found) int { return x.at.Compare(y.at) })
	for _, f := range old {
		a.insert(f.file)
	}
	a.sweep()
	return a, nil
}

func (a *Artifacts) tmp() string { return filepath.Join(a.dir, "tmp") }

func (a *Artifacts) path(d Digest) string { return filepath.Join(a.dir, "sha256-"+d.Hex()) }

// sweep removes what crashed processes left behind. Others may be at work in a
// shared folder, so only what lay untouched for long goes.
func (a *Artifacts) sweep() {
	entries, _ := os.ReadDir(a.tmp())
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > strayAge {
			_ = os.RemoveAll(filepath.Join(a.tmp(), e.Name())) // the next start tries again
		}
	}
}

// insert adds a file in front; the caller holds mu or is alone.
func (a *Artifacts) insert(f file) *file {
	p := &f
	p.place = a.order.PushFront(p)
	a.files[f.digest] = p
	a.used += f.size
	a.tel.cacheBytes(a.used)
	return p
}

// drop forgets a file and removes it; the caller holds mu.
func (a *Artifacts) drop(f *file) {
	a.order.Remove(f.place)
	delete(a.files, f.digest)
	a.used -= f.size
	a.tel.cacheBytes(a.used)
	_ = os.Remove(a.path(f.digest)) // another process may have removed it
}

// room makes place for size bytes by dropping files that nobody reads; the
// caller holds mu.
func (a *Artifacts) room(size int64) error {
	if size > a.budget {
		return fault.New(fault.Unavailable, "an artifact of %s does not fit the model cache of %s (MODEL_CACHE_SIZE)", humanize.IBytes(uint64(size)), humanize.IBytes(uint64(a.budget)))
	}
	for e := a.order.Back(); e != nil && a.used+size > a.budget; {
		f, before := e.Value.(*file), e.Prev()
		if f.users == 0 {
			a.drop(f)
		}
		e = before
	}
	if a.used+size > a.budget {
		return fault.New(fault.Unavailable, "the model cache of %s (MODEL_CACHE_SIZE) is full of files in use: %s; an artifact of %s must wait", humanize.IBytes(uint64(a.budget)), humanize.IBytes(uint64(a.used)), humanize.IBytes(uint64(size)))
	}
	return nil
}

// Has reports whether the file is in the disk cache.
func (a *Artifacts) Has(d Digest) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.files[d] != nil
}

// Open makes sure that the artifact lies in the disk cache, whole and with the
// right digest, and gives its path. It stays there until release is called.
// However many ask for one digest, it is fetched once.
func (a *Artifacts) Open(ctx context.Context, d Digest, size int64) (path string, release func(), err error) {
	for range 3 { // a file may be dropped between its arrival and our claim on it
		if f := a.claim(d); f != nil {
			if err := a.verify(f, size); err == nil {
				return a.path(d), func() { a.release(f) }, nil
			}
			a.discard(f)
		}
		_, err, _ = a.flight.Do(string(d), func() (any, error) { return nil, a.fetch(ctx, d, size) })
		if err != nil {
			return "", nil, err
		}
	}
	return "", nil, fault.New(fault.Overloaded, "the model cache (MODEL_CACHE_SIZE) is too small for the models in use: %s was dropped as soon as it had arrived", d)
}

func (a *Artifacts) claim(d Digest) *file {
	a.mu.Lock()
	defer a.mu.Unlock()
	f := a.files[d]
	if f != nil {
		f.users++
		a.order.MoveToFront(f.place)
	}
	return f
}

func (a *Artifacts) release(f *file) {
	a.mu.Lock()
	f.users--
	a.mu.Unlock()
}

// discard drops a file that turned out bad.
func (a *Artifacts) discard(f *file) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f.users--
	if a.files[f.digest] == f {
		a.drop(f)
	}
}

// verify checks a claimed file that this process did not write, once.
func (a *Artifacts) verify(f *file, size int64) error {
	a.mu.Lock()
	done := f.verified
	a.mu.Unlock()
	if done {
		_, err := os.Stat(a.path(f.digest)) // gone, where another process shares the folder
		return err
	}
	in, err := os.Open(a.path(f.digest))
	if err != nil {
		return err
	}
	defer in.Close()
	h := sha256.New()
	n, err := io.Copy(h, in)
	if err != nil {
		return err
	}
	if n != size || newDigest(h.Sum(nil)) != f.digest {
		return errors.New("content does not match its digest")
	}
	// The time tells the next start how lately the file was used.
	now := time.Now()
	_ = os.Chtimes(a.path(f.digest), now, now)
	a.mu.Lock()
	f.verified = true
	a.mu.Unlock()
	return nil
}

// fetch brings one artifact from the bucket: ranged reads in parallel, hashed in
// order as they arrive, placed by rename when everything was right.
func (a *Artifacts) fetch(ctx context.Context, d Digest, size int64) error {
	if a.Has(d) {
		return nil
	}
	// Others wait for this fetch too, so it does not end with its first caller.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
	defer cancel()
	a.mu.Lock()
	err := a.room(size)
	a.mu.Unlock()
	if err != nil {
		return err
	}
	out, err := os.CreateTemp(a.tmp(), "fetch-*")
	if err != nil {
		return diskError(err)
	}
	defer os.Remove(out.Name()) // no-op once renamed
	defer out.Close()

	h := sha256.New()
	group := make(chan *part, a.parts-1) // with the one being hashed: a.parts under way
	go func() {
		defer close(group)
		for off := int64(0); off < size; off += partSize {
			p := &part{off: off, n: min(partSize, size-off), done: make(chan struct{})}
			select {
			case group <- p:
				go p.read(ctx, a.blob, d.key(), out)
			case <-ctx.Done():
				return
			}
		}
	}()
	for p := range group {
		<-p.done
		if err == nil {
			err = p.err
		}
		if err != nil {
			cancel() // and drain: whoever was started is waited for
			continue
		}
		h.Write(*p.buf)
		buffers.Put(p.buf)
	}
	if err == nil {
		err = ctx.Err()
	}
	switch {
	case fault.Is(err, fault.NotFound):
		return fault.Wrap(fault.Internal, err, "artifact %s is missing in the bucket", d)
	case err != nil:
		return fmt.Errorf("fetch artifact %s: %w", d, err)
	}
	if got := newDigest(h.Sum(nil)); got != d {
		return fault.New(fault.Internal, "artifact %s was refused: its content in the bucket has the digest %s", d, got)
	}
	return a.place(out, d, size)
}

// place moves a complete temporary file into the cache.
func (a *Artifacts) place(f *os.File, d Digest, size int64) error {
	if err := f.Chmod(0o644); err != nil {
		return diskError(err)
	}
	if err := f.Close(); err != nil {
		return diskError(err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.files[d] != nil {
		return nil
	}
	if err := a.room(size); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), a.path(d)); err != nil {
		return diskError(err)
	}
	a.insert(file{digest: d, size: size, verified: true})
	return nil
}

// part is one ranged read of a fetch.
type part struct {
	off, n int64
	buf    *[]byte
	done   chan struct{}
	err    error
}

// buffers are reused between parts: a fetch needs few, but each is large.
var buffers = sync.Pool{New: func() any { b := make([]byte, partSize); return &b }}

func (p *part) read(ctx context.Context, blob store.Blob, key string, out *os.File) {
	defer close(p.done)
	p.buf = buffers.Get().(*[]byte)
	*p.buf = (*p.buf)[:p.n]
	r, _, err := blob.Get(ctx, key, p.off, p.n)
	if err != nil {
		p.err = err
		return
	}
	defer r.Close()
	if n, err := io.ReadFull(r, *p.buf); errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		p.err = fault.New(fault.Internal, "the artifact is truncated in the bucket: it ends at byte %d", p.off+int64(n))
		return
	} else if err != nil {
		p.err = fault.Wrap(fault.Unavailable, err, "the artifact could not be read from the bucket")
		return
	}
	if _, err := out.WriteAt(*p.buf, p.off); err != nil {
		p.err = diskError(err)
	}
}

func diskError(err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return fault.Wrap(fault.Unavailable, err, "the disk of the model cache is full")
	}
	return fault.Wrap(fault.Unavailable, err, "the model cache folder can't be written")
}

// Upload is an artifact on its way in: a temporary file and what it holds.
type Upload struct {
	Digest Digest
	Size   int64
	file   *os.File
	dir    string
}

// Receive streams a new artifact to disk and takes its digest. Close removes
// what was not kept. The file lies alone in a folder of its own, so that it
// can't refer to anybody else's.
func (a *Artifacts) Receive(r io.Reader) (*Upload, error) {
	dir, err := os.MkdirTemp(a.tmp(), "upload-*")
	if err != nil {
		return nil, diskError(err)
	}
	u := &Upload{dir: dir}
	if u.file, err = os.Create(filepath.Join(dir, "artifact")); err != nil {
		return nil, errors.Join(diskError(err), os.RemoveAll(dir))
	}
	h := sha256.New()
	in := &bodyReader{r: r}
	if u.Size, err = io.Copy(io.MultiWriter(u.file, h), in); err != nil {
		if in.err == nil {
			err = diskError(err)
		}
		return nil, errors.Join(err, u.Close())
	}
	u.Digest = newDigest(h.Sum(nil))
	return u, nil
}

// bodyReader remembers whether a failed copy failed on the sender's side.
type bodyReader struct {
	r   io.Reader
	err error
}

func (b *bodyReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.err = err
	}
	return n, err
}

// Path is where the upload lies.
func (u *Upload) Path() string { return u.file.Name() }

// Close removes the temporary file.
func (u *Upload) Close() error {
	_ = u.file.Close() // closed already where it was kept
	return os.RemoveAll(u.dir)
}

// keep stores the upload in the bucket under its digest and, when that is done,
// in the disk cache. What the bucket may hold there already is written again:
// the same bytes, so a push also heals an artifact that was damaged.
func (a *Artifacts) keep(ctx context.Context, u *Upload) error {
	if _, err := a.blob.Put(ctx, u.Digest.key(), u.file, u.Size, store.Condition{}); err != nil {
		return fmt.Errorf("store artifact %s: %w", u.Digest, err)
	}
	// The cache is a convenience here: without room the first request fetches.
	_ = a.place(u.file, u.Digest, u.Size)
	return nil
}
