package model

import (
	"container/list"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Artifacts moves model files between the bucket and a disk cache.
//
// A file that is fetched goes into memory first, checked against its digest as
// it streams in, and to disk behind the caller's back: who waits for a model
// does not wait for the disk, and a disk that is full or broken costs later
// fetches and no answer. The cache holds at most a budget of bytes and drops
// what was used longest ago, never a file that is being read. A file appears in
// it whole, by rename, so processes may share the folder. One that this process
// did not write itself is checked before its first use.
//
// Of a bucket that is a folder of the same disk nothing is copied: a file is
// mapped where it lies, and checked each time.
type Artifacts struct {
	blob   store.Blob
	near   store.Filed // the bucket, if it is on the disk of dir
	dir    string
	budget int64
	parts  int // ranged reads under way at once for one file
	tel    *instruments
	log    *slog.Logger

	writes  sync.WaitGroup // to disk
	writers chan struct{}  // holds one for each write under way

	mu      sync.Mutex
	writing int64 // bytes in memory that are on their way to disk
	fetched map[Digest]*fetched
	files   map[Digest]*file
	order   *list.List // of *file; the front was used last
	used    int64
}

// fetched is a file in memory: on its way in, in use, or on its way to disk.
type fetched struct {
	ready chan struct{} // closed when data or err is set
	data  []byte
	err   error
	users int
	kept  bool // it was sent on its way to disk
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
	partSize    = 8 << 20 // of one ranged read: large enough that a round trip does not count
	writersMost = 4
	writingMost = 64 << 20 // bytes that may wait for a slow disk; what comes beyond it is not cached

	strayAge = time.Hour // a temporary file untouched for so long was left by a crash
)

func openArtifacts(blob store.Blob, dir string, budget int64, parts int, log *slog.Logger, tel *instruments) (*Artifacts, error) {
	a := &Artifacts{
		blob: blob, dir: dir, budget: budget, parts: parts, log: log, tel: tel,
		writers: make(chan struct{}, writersMost), fetched: map[Digest]*fetched{}, files: map[Digest]*file{}, order: list.New(),
	}
	if err := os.MkdirAll(a.tmp(), 0o755); err != nil {
		return nil, fault.Wrap(fault.Unavailable, err, "the model cache folder %s can't be made", dir)
	}
	if f, ok := blob.(store.Filed); ok && sameDisk(f.Path(""), dir) {
		a.near = f
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
	a.tel.cacheBytes(0) // and may stay so
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

// room makes place for size bytes by dropping files that nobody reads, and tells
// whether there is enough; the caller holds mu.
func (a *Artifacts) room(size int64) bool {
	for e := a.order.Back(); e != nil && a.used+size > a.budget; {
		f, before := e.Value.(*file), e.Prev()
		if f.users == 0 {
			a.drop(f)
		}
		e = before
	}
	return a.used+size <= a.budget
}

// Open gives the bytes of an artifact, checked against its digest; they stay
// until release is called, and nobody may change them. However many ask for one
// digest, it is fetched once.
func (a *Artifacts) Open(ctx context.Context, d Digest, size int64) (data []byte, release func(), err error) {
	if f := a.claim(d); f != nil {
		if data, err := a.read(f, size); err == nil {
			return data, func() { unmap(data); a.leaveFile(f) }, nil
		}
		a.discard(f)
	}
	m, first := a.join(d)
	if first {
		if m.data = a.lies(d, size); m.data != nil {
			m.kept = true // where it is
		} else {
			m.data, m.err = a.fetch(ctx, d, size)
		}
		close(m.ready)
	}
	select {
	case <-m.ready:
	case <-ctx.Done():
		a.leave(d, m)
		return nil, nil, ctx.Err()
	}
	if m.err != nil {
		a.leave(d, m)
		return nil, nil, m.err
	}
	return m.data, func() { a.leave(d, m) }, nil
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

func (a *Artifacts) leaveFile(f *file) {
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

// read maps a claimed file into memory, and checks one that this process did not
// write, once.
func (a *Artifacts) read(f *file, size int64) ([]byte, error) {
	path := a.path(f.digest)
	a.mu.Lock()
	verified := f.verified
	a.mu.Unlock()
	if verified {
		return mapFile(path) // gone, where another process shares the folder
	}
	data, err := mapChecked(path, f.digest, size)
	if err != nil {
		return nil, err
	}
	// The time tells the next start how lately the file was used.
	now := time.Now()
	_ = os.Chtimes(path, now, now)
	a.mu.Lock()
	f.verified = true
	a.mu.Unlock()
	return data, nil
}

// mapChecked maps a file that must be this artifact.
func mapChecked(path string, d Digest, size int64) ([]byte, error) {
	data, err := mapFile(path)
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(data); int64(len(data)) != size || newDigest(sum[:]) != d {
		unmap(data)
		return nil, errors.New("content does not match its digest")
	}
	return data, nil
}

// join counts the caller in with those who want a file that is not on disk, and
// tells whether it is the first, who fetches it.
func (a *Artifacts) join(d Digest) (m *fetched, first bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	m = a.fetched[d]
	if m == nil {
		m, first = &fetched{ready: make(chan struct{})}, true
		a.fetched[d] = m
	}
	m.users++
	return m, first
}

// leave counts a user out. The last one sends the file on its way to disk, and
// when that is done its memory is free.
func (a *Artifacts) leave(d Digest, m *fetched) {
	a.mu.Lock()
	defer a.mu.Unlock()
	m.users--
	if m.users > 0 {
		return
	}
	size := int64(len(m.data))
	if m.data != nil && !m.kept && (a.writing == 0 || a.writing+size <= writingMost) {
		m.kept = true
		m.users++
		a.writing += size
		a.writes.Go(func() {
			a.writers <- struct{}{}
			if err := a.write(d, m.data); err != nil {
				a.log.Warn("model cache", "digest", string(d), "error", err)
			}
			<-a.writers
			a.mu.Lock()
			a.writing -= size
			a.mu.Unlock()
			a.leave(d, m)
		})
		return
	}
	delete(a.fetched, d)
	if m.data != nil {
		unmap(m.data)
	}
}

// lies maps an artifact of a bucket that is on the disk of the cache. It gives nil
// where it can't, and fetch tells why it is not there or not what it should be.
func (a *Artifacts) lies(d Digest, size int64) []byte {
	if a.near == nil {
		return nil
	}
	data, _ := mapChecked(a.near.Path(d.key()), d, size)
	return data
}

// fetch brings one artifact from the bucket into memory: ranged reads in
// parallel, each to where it belongs, hashed in order as they arrive.
func (a *Artifacts) fetch(ctx context.Context, d Digest, size int64) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	data, err := anonymous(size)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, err, "there is no memory for an artifact of %s", humanize.IBytes(uint64(size)))
	}
	h := sha256.New()
	group := make(chan *part, a.parts-1) // with the one being hashed: a.parts under way
	go func() {
		defer close(group)
		for rest, off := data, int64(0); len(rest) > 0; {
			p := &part{off: off, buf: rest[:min(partSize, len(rest))], done: make(chan struct{})}
			rest, off = rest[len(p.buf):], off+int64(len(p.buf))
			select {
			case group <- p:
				go p.read(ctx, a.blob, d.key())
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
		h.Write(p.buf)
	}
	if err == nil {
		err = ctx.Err()
	}
	switch got := newDigest(h.Sum(nil)); {
	case fault.Is(err, fault.NotFound):
		err = fault.Wrap(fault.Internal, err, "artifact %s is missing in the bucket", d)
	case err != nil:
		err = fmt.Errorf("fetch artifact %s: %w", d, err)
	case got != d:
		err = fault.New(fault.Internal, "artifact %s was refused: its content in the bucket has the digest %s", d, got)
	default:
		return data, nil
	}
	unmap(data)
	return nil, err
}

// part is one ranged read of a fetch.
type part struct {
	off  int64
	buf  []byte
	done chan struct{}
	err  error
}

func (p *part) read(ctx context.Context, blob store.Blob, key string) {
	defer close(p.done)
	r, _, err := blob.Get(ctx, key, p.off, int64(len(p.buf)))
	if err != nil {
		p.err = err
		return
	}
	defer r.Close()
	if n, err := io.ReadFull(r, p.buf); errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		p.err = fault.New(fault.Internal, "the artifact is truncated in the bucket: it ends at byte %d", p.off+int64(n))
	} else if err != nil {
		p.err = fault.Wrap(fault.Unavailable, err, "the artifact could not be read from the bucket")
	}
}

// write puts a fetched file into the cache, if it has room.
func (a *Artifacts) write(d Digest, data []byte) error {
	a.mu.Lock()
	ok := a.room(int64(len(data)))
	a.mu.Unlock()
	if !ok {
		return fault.New(fault.Unavailable, "an artifact of %s does not fit the model cache of %s (MODEL_CACHE_SIZE) beside the files in use", humanize.IBytes(uint64(len(data))), humanize.IBytes(uint64(a.budget)))
	}
	out, err := os.CreateTemp(a.tmp(), "fetch-*")
	if err != nil {
		return diskError(err)
	}
	defer os.Remove(out.Name()) // no-op once renamed
	defer out.Close()
	if _, err := out.Write(data); err != nil {
		return diskError(err)
	}
	return a.place(out, d, int64(len(data)))
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
	if a.files[d] != nil || !a.room(size) {
		return nil
	}
	if err := os.Rename(f.Name(), a.path(d)); err != nil {
		return diskError(err)
	}
	a.insert(file{digest: d, size: size, verified: true})
	return nil
}

// close waits for files on their way to disk.
func (a *Artifacts) close() { a.writes.Wait() }

// sameDisk tells whether two folders are of one file system.
func sameDisk(x, y string) bool {
	a, b := status(x), status(y)
	return a != nil && b != nil && a.Dev == b.Dev
}

// status is what the system tells of a file; nil where it does not.
func status(path string) *syscall.Stat_t {
	info, err := os.Stat(path)
	if err != nil {
		return nil
	}
	stat, _ := info.Sys().(*syscall.Stat_t)
	return stat
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
}

// Receive streams a new artifact to disk and takes its digest. Close removes
// what was not kept.
func (a *Artifacts) Receive(r io.Reader) (*Upload, error) {
	file, err := os.CreateTemp(a.tmp(), "upload-*")
	if err != nil {
		return nil, diskError(err)
	}
	u := &Upload{file: file}
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

// read maps the upload into memory.
func (u *Upload) read() ([]byte, error) { return mapFile(u.file.Name()) }

// Close removes the temporary file.
func (u *Upload) Close() error {
	_ = u.file.Close()           // closed already where it was kept
	_ = os.Remove(u.file.Name()) // and moved
	return nil
}

// keep stores the upload in the bucket under its digest and, when that is done,
// in the disk cache. What the bucket may hold there already is written again:
// the same bytes, so a push also heals an artifact that was damaged.
func (a *Artifacts) keep(ctx context.Context, u *Upload) error {
	if _, err := a.blob.Put(ctx, u.Digest.key(), u.file, u.Size, store.Condition{}); err != nil {
		return fmt.Errorf("store artifact %s: %w", u.Digest, err)
	}
	if a.near == nil {
		// The cache is a convenience here: without room the first request fetches.
		_ = a.place(u.file, u.Digest, u.Size)
	}
	return nil
}
