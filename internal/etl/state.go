package etl

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/duck"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/pipeline"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// State is what is remembered of a step from run to run: one object, which is replaced as a whole, and by one at a time.
type State struct {
	Run    string  `json:"run,omitempty"`    // that was the last to take something
	Report *Report `json:"report,omitempty"` // of it
	// Staged is what it has still to publish; nil: nothing.
	Staged  *Staged             `json:"staged,omitempty"`
	Taken   map[string]Taken    `json:"taken,omitempty"`   // files by their keys, as long as they are there
	Bad     map[string]BadFile  `json:"bad,omitempty"`     // likewise, those that could not be read
	Columns map[string][]column `json:"columns,omitempty"` // of tables that say none
	Rows    int64               `json:"rows,omitempty"`    // that the SQL gave in that run
}

// Taken is a file that was taken.
type Taken struct {
	Version string `json:"version"` // of the object
	SHA256  string `json:"sha256"`
}

// BadFile is a file that could not be read.
type BadFile struct {
	Key     string `json:"key"`
	Reason  string `json:"reason"`
	Version string `json:"version"`
	Run     string `json:"run"` // that found it out
}

// Staged is rows that are decided and not yet published.
type Staged struct {
	Run    string `json:"run"`
	Key    string `json:"key"` // where they lie, as a segment.Writer writes them; empty: there are none
	SHA256 string `json:"sha256"`
	// Files are those that were taken for them, and are taken anew should they be lost.
	Files  []string `json:"files,omitempty"`
	Into   string   `json:"into"`             // the source
	Object string   `json:"object,omitempty"` // of a source with a path: what the file is to be there
	Fields []field  `json:"fields,omitempty"` // of one with a log
}

type field struct {
	Name string   `json:"name"`
	Type row.Type `json:"type"`
}

// stateMost bounds a State: a hundred bytes and a key for each file that lies in the folders.
const stateMost = 64 << 20

// stateKey is where the State of a step lies.
func stateKey(t *pipeline.Task) string { return pipeline.Prefix + t.Pipeline + "/load/" + t.Step }

// stagedPrefix is where rows of a step lie that are not published yet: not among the files of its runs, which go with these.
func stagedPrefix(t *pipeline.Task) string {
	return pipeline.Prefix + t.Pipeline + "/staged/" + t.Step + "/"
}

// open reads the state.
func (j *loading) open(ctx context.Context) (err error) {
	j.state = State{}
	j.version, err = store.ReadJSON(ctx, j.t.Blob, stateKey(j.t), stateMost, &j.state)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	if j.state.Taken == nil {
		j.state.Taken = map[string]Taken{}
	}
	if j.state.Bad == nil {
		j.state.Bad = map[string]BadFile{}
	}
	if j.state.Columns == nil {
		j.state.Columns = map[string][]column{}
	}
	return nil
}

// save replaces the state, unless somebody else has.
func (j *loading) save(ctx context.Context) (err error) {
	if b, err := json.Marshal(&j.state); err != nil || len(b) > stateMost {
		return errors.Join(err, invalid("it would have to remember more files than the %d MiB of %s hold: delete old ones from the folders", stateMost>>20, stateKey(j.t)))
	}
	j.version, err = store.WriteJSON(ctx, j.t.Blob, stateKey(j.t), &j.state, store.IfStill(j.version))
	if fault.Is(err, fault.Conflict) {
		return fault.Wrap(fault.Unavailable, err, "the same step is under way elsewhere")
	}
	return err
}

// stage keeps rows that are about to be decided.
func (j *loading) stage(ctx context.Context, s *Staged, path string) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := sha256.New()
	size, err := io.Copy(h, f)
	if err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	s.SHA256 = hex.EncodeToString(h.Sum(nil))
	s.Key = fmt.Sprintf("%s%s-%s.parquet", stagedPrefix(j.t), j.t.Run, s.SHA256[:16])
	if _, err := j.t.Blob.Put(ctx, s.Key, f, size, store.Condition{}); err != nil {
		return fmt.Errorf("keep the rows: %w", err)
	}
	return nil
}

// publish brings what is staged to its source, and forgets it. Doing so twice, or at once, changes nothing: objects are named by what they hold.
func (j *loading) publish(ctx context.Context) error {
	s := j.state.Staged
	if s == nil {
		return nil
	}
	if s.Key != "" {
		path := filepath.Join(j.t.Dir, "staged.parquet")
		sum, _, err := fetch(ctx, j.t.Blob, s.Key, path)
		switch {
		case fault.Is(err, fault.NotFound):
			return j.again(ctx, s, "it is gone")
		case err != nil:
			return fmt.Errorf("read the rows of run %s: %w", s.Run, err)
		case sum != s.SHA256:
			return j.again(ctx, s, "its SHA-256 is "+sum)
		}
		if s.Object != "" {
			err = keepFile(ctx, j.t.Blob, s.Object, path)
		} else {
			err = j.appendLog(ctx, s, path)
		}
		if err != nil {
			return fmt.Errorf("publish rows of source %s: %w", s.Into, err)
		}
	}
	j.state.Staged = nil
	if err := j.save(ctx); err != nil {
		return err
	}
	// What was published, and what others left who were killed: nobody can decide for that any more, as the state is not what they read.
	for o, err := range j.t.Blob.List(ctx, stagedPrefix(j.t), "") {
		if err != nil {
			return err
		}
		if name := strings.TrimPrefix(o.Key, stagedPrefix(j.t)); name < s.Run || strings.HasPrefix(name, s.Run+"-") {
			if err := j.t.Blob.Delete(ctx, o.Key); err != nil {
				return err
			}
		}
	}
	return nil
}

// again undoes what was decided where its rows are lost, or no run would ever get by them: its files are taken anew. Where
// somebody else has just published them it is Unavailable.
func (j *loading) again(ctx context.Context, s *Staged, why string) error {
	for _, key := range s.Files {
		delete(j.state.Taken, key)
	}
	j.state.Staged, j.state.Run, j.state.Report = nil, "", nil
	if err := j.save(ctx); err != nil {
		return err
	}
	j.t.Log.ErrorContext(ctx, "rows that were decided are lost, and their files are taken anew", "run", s.Run, "object", s.Key, "why", why, "files", len(s.Files))
	return nil
}

// publishRows is how many rows are in memory while they go to a log.
const publishRows = 20_000

// appendLog writes rows to the log of a source. They are in the order of their times, so that few objects are of each day; and the same rows give the same objects.
func (j *loading) appendLog(ctx context.Context, s *Staged, path string) error {
	columns := []row.Field{{Name: segment.Event, Type: row.Timestamp}, {Name: segment.Created, Type: row.Timestamp}, {Name: segment.ID, Type: row.Int64}}
	fields := make([]row.Field, len(s.Fields))
	for i, f := range s.Fields {
		fields[i] = row.Field{Name: f.Name, Type: f.Type}
	}
	log, err := segment.NewLog(j.t.Blob, s.Into, fields)
	if err != nil {
		return err
	}
	from, err := duck.OpenScan(path, append(columns, fields...))
	if err != nil {
		return err
	}
	defer from.Close()
	done := int64(0)
	for end := false; !end; {
		rows := make([]segment.Row, 0, publishRows)
		for len(rows) < publishRows && !end {
			values := make([]row.Value, len(columns)+len(fields))
			switch err := from.Next(values); {
			case errors.Is(err, io.EOF):
				end = true
			case err != nil:
				return err
			default:
				rows = append(rows, segment.Row{Event: values[0].Int(), Created: values[1].Int(), ID: uint64(values[2].Int()), Values: values[3:]})
			}
		}
		_, err := log.Append(ctx, func(yield func(segment.Row) bool) {
			for _, r := range rows {
				if !yield(r) {
					return
				}
			}
		})
		if err != nil {
			return err
		}
		done += int64(len(rows))
		j.t.Progress(done, 0, "rows published")
	}
	return nil
}

// keepFile writes a file as an object, if it is not there.
func keepFile(ctx context.Context, blob store.Blob, key, path string) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if _, err = blob.Put(ctx, key, f, info.Size(), store.IfAbsent()); fault.Is(err, fault.Conflict) {
		return nil
	}
	return err
}

// fetch copies an object to a file, and gives its digest.
func fetch(ctx context.Context, blob store.Blob, key, path string) (sum string, o store.Object, err error) {
	r, o, err := blob.Get(ctx, key, 0, -1)
	if err != nil {
		return "", o, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	f, err := os.Create(path)
	if err != nil {
		return "", o, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(f, h), r); err != nil {
		return "", o, fmt.Errorf("copy %q: %w", key, err)
	}
	return hex.EncodeToString(h.Sum(nil)), o, nil
}

// Report is what a load tells of itself.
type Report struct {
	Source   string           `json:"source"`
	Files    int              `json:"files"`             // taken
	Bytes    int64            `json:"bytes"`             // of them
	Changed  []string         `json:"changed,omitempty"` // of them, the first of those that were taken before, as they were then
	Bad      []BadFile        `json:"bad,omitempty"`     // the first of the files that could not be read
	BadFiles int              `json:"bad_files,omitempty"`
	LeftOut  int              `json:"left_out,omitempty"` // files that earlier runs could not read
	Tables   map[string]int64 `json:"tables,omitempty"`   // their rows
	Result   int64            `json:"result"`             // rows that the SQL gave:
	Rows     int64            `json:"rows"`               // new ones of the source,
	Repeated int64            `json:"repeated,omitempty"` // that are equal to others in all columns,
	SetAside int64            `json:"set_aside,omitempty"`
	Reasons  map[string]int64 `json:"reasons,omitempty"` // of rows set aside, by what they fail; one may fail several times
	Aside    string           `json:"aside,omitempty"`   // where they are kept in the bucket
	From     time.Time        `json:"from,omitzero"`     // the times that the source's new rows are of
	To       time.Time        `json:"to,omitzero"`
}

// listMost is how many of each a report names.
const listMost = 20
