// Package diskstore keeps items and objects in a folder: items in one database
// file, objects as the files that their keys name, so that any other tool can
// read them where they lie.
//
// What was acknowledged survives a crash of the process and of the machine. A
// folder of objects may be used by many processes at once, also through a
// network file system that honours flock; a folder of items belongs to one
// process at a time. The same folder may hold both. Symbolic links in the
// folder are whoever made them's affair: they are followed, but not listed.
package diskstore

import (
	"context"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"syscall"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Files of our own lie beside the objects. Their names hold a "%", which no key
// does, so they can't meet one.
const (
	tempDir    = ".%tmp"      // objects on their way in
	lockFile   = ".%lock"     // held while an object appears or goes
	kvFile     = "%kv.db"     // all items
	onlineFile = "%online.db" // all rows
)

// folder gives the folder that a URL names, and makes it.
func folder(u *url.URL) (string, error) {
	if u.Host != "" || u.RawQuery != "" || !filepath.IsAbs(u.Path) {
		return "", fault.New(fault.Invalid, "store URL %q: want file:///absolute/folder", u.Redacted())
	}
	if err := os.MkdirAll(u.Path, 0o777); err != nil {
		return "", diskFault(err)
	}
	return filepath.Clean(u.Path), nil
}

func check(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return store.CheckKey(key)
}

func missing(key string) error {
	return fault.New(fault.NotFound, "key %q does not exist", key)
}

func conflict(key string) error {
	return fault.New(fault.Conflict, "key %q is not in the state that was asked for", key)
}

// diskFault gives a kind to what the file system says.
func diskFault(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fault.Wrap(fault.Unavailable, err, "the disk of the store is full")
	}
	return fault.Wrap(fault.Unavailable, err, "the disk of the store cannot be used")
}
