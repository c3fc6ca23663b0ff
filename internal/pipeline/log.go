package pipeline

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Log is what a step of a run has told: of all its tries, and how far the last one is.
type Log struct {
	Step     string    `json:"step"`
	Attempt  int       `json:"attempt"` // the last try
	At       time.Time `json:"at"`      // when that was last heard of
	Progress *Progress `json:"progress,omitempty"`
	Last     int       `json:"last"`  // the number of the last line; older ones may be left out
	Lines    []Line    `json:"lines"` // the newest, oldest first
}

// Progress is how far a step is.
type Progress struct {
	Done  int64  `json:"done"`
	Total int64  `json:"total,omitempty"` // 0: nobody knows
	Unit  string `json:"unit,omitempty"`  // what is counted: rows, bytes
}

// Line is a line of a log.
type Line struct {
	Number  int       `json:"number"` // from 1, through all tries
	Attempt int       `json:"attempt"`
	At      time.Time `json:"at"`
	Level   string    `json:"level"`
	Text    string    `json:"text"`
}

const (
	logMost   = 4 << 20
	linesMost = 2000      // lines of a log
	linesSize = 256 << 10 // and their bytes
	lineMost  = 4 << 10   // bytes of a line
	logEvery  = 2 * time.Second
)

func logKey(name, run, step string) string { return Prefix + name + "/logs/" + run + "/" + step }

func (m *Manager) readLog(ctx context.Context, name, run, step string) (*Log, error) {
	l := &Log{Step: step}
	_, err := store.ReadJSON(ctx, m.blob, logKey(name, run, step), logMost, l)
	if fault.Is(err, fault.NotFound) {
		err = nil
	}
	if l.Lines == nil {
		l.Lines = []Line{}
	}
	return l, err
}

// Logs gives what the steps of a run have told, in their order.
func (m *Manager) Logs(ctx context.Context, name, id string) ([]*Log, error) {
	run, err := m.Get(ctx, name, id)
	if err != nil {
		return nil, err
	}
	logs := []*Log{}
	for _, s := range run.Steps {
		if s.Attempt == 0 {
			continue
		}
		l, err := m.readLog(ctx, name, id, s.Name)
		if fault.Is(err, fault.Internal) { // it must not hide the others
			l = &Log{Step: s.Name, Lines: []Line{{At: m.now().UTC(), Level: slog.LevelError.String(), Text: fault.Message(err)}}}
		} else if err != nil {
			return nil, err
		}
		logs = append(logs, l)
	}
	return logs, nil
}

// journal writes a step's log to the bucket behind the step's back, while that runs. That it does, also if there is
// nothing to write, tells others that the step runs.
type journal struct {
	m   *Manager
	key string

	mu    sync.Mutex
	log   Log
	size  int
	dirty bool
}

// open begins the log of a try behind those of the tries before.
func (m *Manager) journal(ctx context.Context, name, run, step string, attempt int) (*journal, error) {
	l, err := m.readLog(ctx, name, run, step)
	if err != nil && !fault.Is(err, fault.Internal) { // what is damaged is begun anew
		return nil, err
	}
	j := &journal{m: m, key: logKey(name, run, step), log: *l}
	j.log.Attempt, j.log.Progress = attempt, nil
	for _, line := range j.log.Lines {
		j.size += len(line.Text)
	}
	return j, nil
}

func (j *journal) add(at time.Time, level, text string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	text = clip(strings.ToValidUTF8(text, "?"), lineMost)
	j.log.Last++
	j.log.Lines = append(j.log.Lines, Line{j.log.Last, j.log.Attempt, at.UTC(), level, text})
	j.size += len(text)
	for len(j.log.Lines) > linesMost || j.size > linesSize {
		j.size -= len(j.log.Lines[0].Text)
		j.log.Lines = j.log.Lines[1:]
	}
	j.dirty = true
}

func (j *journal) progress(done, total int64, unit string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.log.Progress = &Progress{done, total, unit}
	j.dirty = true
}

// write writes what there is. An error is logged: a step must not end for its log.
func (j *journal) write(ctx context.Context) {
	j.mu.Lock()
	j.log.At = j.m.now().UTC()
	l := j.log
	l.Lines = append([]Line{}, l.Lines...)
	j.dirty = false
	j.mu.Unlock()
	if _, err := store.WriteJSON(ctx, j.m.blob, j.key, &l, store.Condition{}); err != nil && ctx.Err() == nil {
		j.m.log.WarnContext(ctx, "the log of a step is not written", slog.String("key", j.key), slog.String("error", err.Error()))
	}
}

// keep writes until ctx is done: what is new every logEvery, and that the step runs every third of a lease.
func (j *journal) keep(ctx context.Context) {
	every := min(logEvery, j.m.lease/3)
	written := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(every):
		}
		j.mu.Lock()
		dirty := j.dirty
		j.mu.Unlock()
		if dirty || time.Since(written) > j.m.lease/3-every {
			j.write(ctx)
			written = time.Now()
		}
	}
}

// handler is the journal as where a slog.Logger writes.
type handler struct {
	*journal
	text slog.Handler // writes attributes
	to   *bytes.Buffer
	mu   *sync.Mutex
}

func (j *journal) logger(also slog.Handler) *slog.Logger {
	b := &bytes.Buffer{}
	text := slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey || a.Key == slog.MessageKey) {
			return slog.Attr{}
		}
		return a
	}})
	return slog.New(slog.NewMultiHandler(&handler{journal: j, text: text, to: b, mu: &sync.Mutex{}}, also))
}

func (h *handler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	h.mu.Lock()
	h.to.Reset()
	err := h.text.Handle(ctx, r)
	attributes := strings.TrimSpace(h.to.String())
	h.mu.Unlock()
	text := r.Message
	if attributes != "" {
		text = fmt.Sprintf("%s  %s", text, attributes)
	}
	h.add(r.Time, r.Level.String(), text)
	return err
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &handler{h.journal, h.text.WithAttrs(attrs), h.to, h.mu}
}

func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{h.journal, h.text.WithGroup(name), h.to, h.mu}
}
