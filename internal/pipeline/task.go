package pipeline

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Prefix is where everything of pipelines lies in the bucket.
const Prefix = "pipelines/"

// Artifact is what a step gave: a file in the bucket, or a value.
type Artifact struct {
	Key    string          `json:"key,omitempty"` // of the file
	Size   int64           `json:"size,omitempty"`
	SHA256 string          `json:"sha256,omitempty"`
	Value  json.RawMessage `json:"value,omitempty"`
}

// valueMost is how many bytes of JSON a value may have: it lies in the run's own record.
const valueMost = 64 << 10

// Task is one try of a step, for the step that does it. Its methods may be called by several goroutines, but for Keep and Tell.
type Task struct {
	Pipeline string
	Run      string       // the run's id
	Step     string       // its name in the definition
	Attempt  int          // from 1
	Started  time.Time    // of the run
	Cause    string       // the id of the event pipeline.started, by which all that the run does is known: "<pipeline>:<run>"
	Dir      string       // a folder of its own, empty at first, deleted behind it
	Log      *slog.Logger // what people read by `pilotlight pipeline logs`

	Blob     store.Blob
	Inputs   map[string]Artifact
	Outputs  map[string]Artifact
	Progress func(done, total int64, unit string) // total 0: nobody knows
}

// ID names what the step does, in this run and every try: for things beyond the task that are to be done once.
func (t *Task) ID() string { return t.Pipeline + "/" + t.Run + "/" + t.Step }

// Has tells whether an optional input is there.
func (t *Task) Has(input string) bool {
	_, ok := t.Inputs[input]
	return ok
}

// Fetch brings an input to a file in Dir, checks it by its digest, and gives its path.
func (t *Task) Fetch(ctx context.Context, input string) (path string, err error) {
	a, ok := t.Inputs[input]
	if !ok || a.Key == "" {
		return "", fault.New(fault.Invalid, "the input %q is no file", input)
	}
	path = filepath.Join(t.Dir, "in-"+input+filepath.Ext(a.Key))
	r, _, err := t.Blob.Get(ctx, a.Key, 0, -1)
	if err != nil {
		return "", fmt.Errorf("fetch the input %s: %w", input, err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	f, err := os.Create(path)
	if err != nil {
		return "", fmt.Errorf("fetch the input %s: %w", input, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(f, h), r); err != nil {
		return "", fmt.Errorf("fetch the input %s: %w", input, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != a.SHA256 {
		return "", fault.New(fault.Internal, "the bucket's %s is damaged: its SHA-256 is %s, not %s", a.Key, got, a.SHA256)
	}
	return path, nil
}

// Read decodes an input that is a value into v.
func (t *Task) Read(input string, v any) error {
	a, ok := t.Inputs[input]
	if !ok || a.Value == nil {
		return fault.New(fault.Invalid, "the input %q is no value", input)
	}
	if err := json.Unmarshal(a.Value, v); err != nil {
		return fault.Wrap(fault.Invalid, err, "the input %q is not what it takes", input)
	}
	return nil
}

// Keep makes a file an output. It is in the bucket when Keep returns, and others see it when the step is done.
func (t *Task) Keep(ctx context.Context, output, path string) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("keep the output %s: %w", output, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := sha256.New()
	size, err := io.Copy(h, f)
	if err != nil {
		return fmt.Errorf("keep the output %s: %w", output, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("keep the output %s: %w", output, err)
	}
	sum := hex.EncodeToString(h.Sum(nil))
	// By its digest: a try that lost its lease writes beside this one, and never over it.
	key := fmt.Sprintf("%s%s/files/%s/%s/%s-%s%s", Prefix, t.Pipeline, t.Run, t.Step, output, sum[:16], strings.ToLower(filepath.Ext(path)))
	if _, err := t.Blob.Put(ctx, key, f, size, store.Condition{}); err != nil {
		return fmt.Errorf("keep the output %s: %w", output, err)
	}
	t.Outputs[output] = Artifact{Key: key, Size: size, SHA256: sum}
	return nil
}

// Tell makes a value an output.
func (t *Task) Tell(output string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("tell the output %s: %w", output, err)
	}
	if len(b) > valueMost {
		return fault.New(fault.Invalid, "the output %s has %d bytes; a value has at most %d, more is a file", output, len(b), valueMost)
	}
	t.Outputs[output] = Artifact{Value: b}
	return nil
}
