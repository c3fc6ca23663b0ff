package diskstore_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/diskstore"
)

// A full disk is said to be one, and nothing is left of what did not fit.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("diskstore", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("a small disk needs the right to mount one: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	b, err := diskstore.OpenBlob(t.Context(), fileURL(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := b.Put(t.Context(), "small", strings.NewReader("small"), 5, store.Condition{}); err != nil {
		t.Fatal(err)
	}
	_, err = b.Put(t.Context(), "a/large", bytes.NewReader(make([]byte, 2<<20)), 2<<20, store.Condition{})
	if !fault.Is(err, fault.Unavailable) || !strings.Contains(fault.Message(err), "full") {
		t.Errorf("got %v, want unavailable because the disk is full", err)
	}
	var names []string
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !strings.Contains(path, "%") && path != dir {
			names = append(names, e.Name())
		}
		return err
	})
	if err != nil || len(names) != 1 || names[0] != "small" {
		t.Errorf("got %q, %v, want small only", names, err)
	}
	left, err := os.ReadDir(filepath.Join(dir, ".%tmp"))
	if err != nil || len(left) != 0 {
		t.Errorf("got %v left of the writer, %v, want nothing", left, err)
	}
}
