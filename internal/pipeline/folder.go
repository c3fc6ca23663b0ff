package pipeline

import (
	"os"
	"path/filepath"
	"time"
)

// folders is what the names of folders for steps begin with, in the folder for temporary files.
const folders = "pilotlight-step-"

// folder makes one for a step, which must be removed. It is held while this process lives, by which forsaken folders are known.
func folder() (dir string, remove func(), err error) {
	dir, err = os.MkdirTemp("", folders+"*")
	if err != nil {
		return "", nil, err
	}
	release, held := lock(dir)
	return dir, func() {
		_ = os.RemoveAll(dir)
		if held {
			release()
		}
	}, nil
}

// makes is how long a folder may be there before it is held.
const makes = time.Minute

// tidy deletes folders of steps whose processes were killed: training sets and what SQL has spilled would fill the disk.
func tidy() (deleted int) {
	all, _ := filepath.Glob(filepath.Join(os.TempDir(), folders+"*")) // the pattern is one
	for _, dir := range all {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || time.Since(info.ModTime()) < makes {
			continue
		}
		if release, held := lock(dir); held {
			if os.RemoveAll(dir) == nil {
				deleted++
			}
			release()
		}
	}
	return deleted
}
