// Package store keeps bytes: the ports that everything durable goes through,
// and the rules that each backend promises to follow.
//
// KV holds small values that are looked up by key and may expire. Blob holds
// objects of any size: artifacts, manifests, logs. Online holds the newest row
// of each key, and takes and gives many at a time. A backend is a package
// below this one and is chosen by URL in a main; storetest holds the contract
// that each of them passes. Errors are faults: NotFound for a missing key,
// Conflict for a condition that does not hold, Invalid for a key that the port
// does not take, Unavailable for a backend that can't be reached.
package store

import (
	"context"
	"errors"
	"io"
	"iter"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// Condition guards a write or a delete. The zero value always holds.
type Condition struct {
	absent  bool
	version string
}

// IfAbsent holds when the key does not exist.
func IfAbsent() Condition { return Condition{absent: true} }

// IfVersion holds when the key exists in exactly that version.
func IfVersion(version string) Condition { return Condition{version: version} }

// Always reports whether the condition asks for nothing.
func (c Condition) Always() bool { return c == Condition{} }

// Absent reports whether the condition asks that the key does not exist.
func (c Condition) Absent() bool { return c.absent }

// Version is the version that the condition asks for, or "".
func (c Condition) Version() string { return c.version }

// Holds tells whether a key in that version ("" for none) meets the condition.
func (c Condition) Holds(version string) bool {
	return c.Always() || c.absent && version == "" || c.version != "" && c.version == version
}

// Item is one entry of a KV.
type Item struct {
	Key     string
	Value   []byte
	Version string // opaque; changes with every Put
}

// KV keeps small values by key. Every method is atomic for its key and safe for
// concurrent use, also by several processes where the backend is shared; a nil
// error from Put or Delete means that the change is as durable as the backend is.
type KV interface {
	// Get reads one item. A missing or expired key is NotFound.
	Get(ctx context.Context, key string) (Item, error)
	// Put writes a value and gives its new version. A ttl of 0 keeps it for ever.
	// Where the condition does not hold it changes nothing and returns Conflict. A
	// negative ttl is Invalid.
	Put(ctx context.Context, key string, value []byte, ttl time.Duration, c Condition) (version string, err error)
	// Delete removes a key. A missing key is no error, unless the condition asks
	// for a version: then it is Conflict, as is a present one when the condition
	// asks for none.
	Delete(ctx context.Context, key string, c Condition) error
	// Scan visits the live items whose key starts with prefix, in no promised
	// order. An item that changes meanwhile is seen once or not at all, never torn.
	Scan(ctx context.Context, prefix string) iter.Seq2[Item, error]
	// Close lets go of connections and files. No call may be under way or follow.
	Close() error
}

// Shared is what a KV may also be: Shared tells that processes on other machines
// see the same items, and that it bounds by itself what it keeps.
type Shared interface{ Shared() bool }

// Volatile is what a Blob may also be: Volatile tells that it is the memory of this process, where what
// is written for later costs much and is worth little.
type Volatile interface{ Volatile() bool }

// Object describes one object of a Blob.
type Object struct {
	Key      string
	Size     int64
	Version  string // opaque; differs whenever the content does
	Modified time.Time
}

// Blob keeps objects of any size. An object appears whole or not at all;
// readers of the old content are not disturbed by a replacement. Reads and lists
// see every write that was acknowledged before they began. All methods are safe
// for concurrent use, also by several processes on one backend.
type Blob interface {
	// Get opens the bytes from offset on: length of them, fewer where the object
	// ends, or all the rest when length is negative. An offset at or past the end
	// gives no bytes; a negative offset is Invalid. The object's description is that
	// of the whole. The caller closes the reader.
	Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, Object, error)
	// Put stores all of body, which must hold exactly size bytes (else it is
	// Invalid), and gives the object's new version. An error of the body's own
	// comes back in the chain. It is durable when Put returns. Where the condition
	// does not hold it changes nothing and returns Conflict. Body is read from
	// its start; a backend may seek back and read again to repeat a failed attempt.
	Put(ctx context.Context, key string, body io.ReadSeeker, size int64, c Condition) (version string, err error)
	// List visits the objects whose key starts with prefix in byte order of their
	// keys, starting behind the key `after` (a valid key, or "" for the first).
	List(ctx context.Context, prefix, after string) iter.Seq2[Object, error]
	// Delete removes an object; a missing one is no error.
	Delete(ctx context.Context, key string) error
	// Close lets go of connections and files. No call may be under way or follow.
	Close() error
}

// Filed is what a Blob is too whose objects are files. Nobody changes such a file: a new version of an object is
// another file, and one that was replaced or deleted can be read for as long as it is open or mapped.
type Filed interface {
	// Path tells where the file of an object is, whether there is one or not, and with "" in which folder all are.
	Path(key string) string
}

// ReadAll reads an object that is known to be small.
func ReadAll(ctx context.Context, b Blob, key string) ([]byte, Object, error) {
	r, o, err := b.Get(ctx, key, 0, -1)
	if err != nil {
		return nil, Object{}, err
	}
	data, err := io.ReadAll(r)
	return data, o, errors.Join(err, r.Close())
}

// CheckKey refuses keys that some backend could not hold: a key is 1 to 512 bytes
// of segments joined by "/", each 1 to 200 bytes of ASCII letters, digits and
// "-_.=@:+", and none of them "." or "..". A key must not also be the folder of
// another (a and a/b); backends may refuse that as Conflict.
func CheckKey(key string) error {
	if key == "" || len(key) > 512 {
		return fault.New(fault.Invalid, "a key has 1 to 512 bytes, not %d", len(key))
	}
	for s := range strings.SplitSeq(key, "/") {
		if s == "" || len(s) > 200 || s == "." || s == ".." {
			return fault.New(fault.Invalid, "key %q: the segment %q is empty, longer than 200 bytes, or one of \".\" and \"..\"", key, s)
		}
		for i := range len(s) {
			c := s[i]
			if ok := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-_.=@:+", c) >= 0; !ok {
				return fault.New(fault.Invalid, "key %q: a segment holds ASCII letters, digits and \"-_.=@:+\" only", key)
			}
		}
	}
	return nil
}

// Openers maps URL schemes to the backends that a main links.
type Openers[T any] map[string]func(ctx context.Context, u *url.URL) (T, error)

// Open opens the backend that the URL's scheme names.
func (o Openers[T]) Open(ctx context.Context, raw string) (T, error) {
	var none T
	u, err := url.Parse(raw)
	if err != nil {
		return none, fault.Wrap(fault.Invalid, err, "store URL is not a URL")
	}
	open, ok := o[u.Scheme]
	if !ok {
		known := make([]string, 0, len(o))
		for s := range o {
			known = append(known, s+":")
		}
		slices.Sort(known)
		return none, fault.New(fault.Invalid, "store URL %q: the scheme must be one of %s", u.Redacted(), strings.Join(known, " "))
	}
	return open(ctx, u)
}
