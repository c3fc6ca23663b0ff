// Package deadletter keeps the events that a broker could not deliver, with
// what the broker says of the reason, until somebody puts them back or their time is over.
//
// A letter is one object of the bucket, written before the broker is told that
// it arrived, and named by what it holds: one that comes twice is kept once. Any
// number of processes share a bucket. Letters go back to the broker and not
// to where they should have gone, for an address that stands in an event may be
// anybody's; consumers are idempotent. The package knows no type of event but
// the tick that has it sweep.
package deadletter

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// Config says how long letters are kept.
type Config struct {
	Keep time.Duration `env:"DEADLETTER_KEEP" default:"336h" help:"How long events that could not be delivered are kept."`
}

// Validate refuses what can't work.
func (c *Config) Validate() error {
	if c.Keep <= 0 {
		return fault.New(fault.Invalid, "DEADLETTER_KEEP must be positive")
	}
	return nil
}

// Summary is a letter without its event.
type Summary struct {
	ID          string    `json:"id"`
	At          time.Time `json:"at"`               // when the broker took the event in, or else the event's own time
	Destination string    `json:"destination"`      // where it should have gone
	Code        int       `json:"code"`             // the last status that the destination answered with; -1 or 0: it did not answer
	Reason      string    `json:"reason,omitempty"` // the start of what it said
	EventID     string    `json:"event_id"`
	Type        string    `json:"type"`
	Source      string    `json:"source"`
	Subject     string    `json:"subject,omitempty"`
}

// Letter is an event that could not be delivered.
type Letter struct {
	Summary
	Event *event.Event `json:"event"` // as it came to the broker
}

// The extensions that a broker adds to an event on its way. They are not part of it.
const (
	errorDestination = "knativeerrordest"
	errorCode        = "knativeerrorcode"
	errorData        = "knativeerrordata"
	arrival          = "knativearrivaltime"
	brokerTTL        = "knativebrokerttl"
)

const (
	prefix     = "deadletters/"
	timeLayout = "20060102T150405.000Z"
	minute     = len("20060102T1504")
	reasonMost = 4 << 10
)

// Store keeps letters in a bucket.
type Store struct {
	blob    store.Blob
	sink    event.Sink // nil: letters can't be put back
	keep    time.Duration
	now     func() time.Time
	metrics *instruments
}

// New makes a store on a bucket, whose letters go back to sink; it may be nil.
func New(c *Config, blob store.Blob, sink event.Sink, tel *telemetry.Telemetry) (*Store, error) {
	metrics, err := newInstruments(tel)
	if err != nil {
		return nil, err
	}
	return &Store{blob: blob, sink: sink, keep: c.Keep, now: time.Now, metrics: metrics}, nil
}

// Hear has the mux store every event that comes, apart from the tick that it is time to sweep.
func (s *Store) Hear(m *event.Mux) {
	m.Rest(func(ctx context.Context, e *event.Event) error {
		_, dead := e.Extensions()[errorCode]
		if e.Type() == event.Tick.Name && !dead {
			return s.tick(ctx, e)
		}
		return s.Keep(ctx, e)
	})
}

func (s *Store) tick(ctx context.Context, e *event.Event) error {
	tick, err := event.Tick.Decode(e)
	if err != nil {
		return err
	}
	if tick.Job != "sweep-deadletters" {
		return fault.New(fault.Invalid, "nobody here does the job %.100q", tick.Job)
	}
	swept, left, err := s.Sweep(ctx)
	telemetry.LineFrom(ctx).Set(slog.Int("swept", swept), slog.Int("left", left))
	return err
}

// letter reads what the broker added to an event, and takes it off.
func letter(e *event.Event) *Letter {
	l := &Letter{Event: e}
	take := func(name string) string {
		s, _ := e.Extensions()[name].(string)
		if v := e.Extensions()[name]; s == "" && v != nil { // a number, in JSON
			s = fmt.Sprint(v)
		}
		e.SetExtension(name, nil)
		return s
	}
	l.Destination = take(errorDestination)
	l.Code, _ = strconv.Atoi(take(errorCode)) // 0 stands for none
	l.Reason = reason(take(errorData))
	l.At = e.Time().UTC()
	arrived := take(arrival)
	if at, err := time.Parse(time.RFC3339Nano, arrived); err == nil {
		l.At = at.UTC()
	}
	if y := l.At.Year(); y < 1970 || y > 9999 { // such a key would not sort
		l.At = time.Unix(0, 0).UTC()
	}
	take(brokerTTL)
	l.EventID, l.Type, l.Source, l.Subject = e.ID(), e.Type(), e.Source(), e.Subject()
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q", e.Source(), e.ID(), l.Destination, arrived))
	l.ID = l.At.Format(timeLayout) + "-" + hex.EncodeToString(sum[:16])
	return l
}

// reason reads what the destination said. Knative's brokers give the start of it in
// base64, cut after so many bytes and so perhaps within a character; others as it is.
func reason(data string) string {
	if b, err := base64.StdEncoding.DecodeString(data); err == nil {
		for cut := range min(len(b)+1, utf8.UTFMax) {
			if whole := b[:len(b)-cut]; utf8.Valid(whole) {
				data = string(whole)
				break
			}
		}
	}
	return strings.ToValidUTF8(data[:min(len(data), reasonMost)], "")
}

// Keep stores a dead letter durably. One that is there already is not stored again.
func (s *Store) Keep(ctx context.Context, e *event.Event) error {
	l := letter(e)
	telemetry.LineFrom(ctx).Set(slog.String("letter", l.ID), slog.String("destination", l.Destination), slog.Int("code", l.Code))
	b, err := json.Marshal(l)
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "the event can't be written as JSON: %.200s", err)
	}
	_, err = s.blob.Put(ctx, key(l.ID), bytes.NewReader(b), int64(len(b)), store.IfAbsent())
	if fault.Is(err, fault.Conflict) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("keep dead letter %s: %w", l.ID, err)
	}
	s.metrics.kept(ctx, l)
	return nil
}

// key is where a letter lies. Those of a minute have a folder: a disk gives the names in one all at once.
func key(id string) string { return prefix + id[:minute] + "/" + id }

// oldKey is where a letter lies that was kept before minutes had folders. It sorts behind the folder of its minute, and before the next.
func oldKey(id string) string { return prefix + id }

// line is how letters sort.
var line = store.Line{Prefix: prefix, Key: func(at time.Time) string { return key(at.UTC().Format(timeLayout)) }}

var idForm = regexp.MustCompile(`^[0-9]{8}T[0-9]{6}\.[0-9]{3}Z-[0-9a-f]{32}$`)

func checkID(id string) error {
	if !idForm.MatchString(id) {
		return fault.New(fault.Invalid, "%.100q is not the id of a dead letter, such as 20261124T093000.000Z- and 32 hexadecimal digits", id)
	}
	return nil
}

// Get reads a letter.
func (s *Store) Get(ctx context.Context, id string) (*Letter, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	b, _, err := store.ReadAll(ctx, s.blob, key(id))
	if fault.Is(err, fault.NotFound) {
		b, _, err = store.ReadAll(ctx, s.blob, oldKey(id))
	}
	if fault.Is(err, fault.NotFound) {
		return nil, fault.New(fault.NotFound, "there is no dead letter %s", id)
	}
	if err != nil {
		return nil, fmt.Errorf("read dead letter %s: %w", id, err)
	}
	return decode(id, b)
}

// decode reads a letter as Keep wrote it under that id.
func decode(id string, b []byte) (*Letter, error) {
	l := &Letter{}
	err := json.Unmarshal(b, l)
	switch {
	case err == nil && l.Event == nil:
		err = errors.New("it holds no event")
	case err == nil && l.ID != id: // pages and replays go by it
		err = fmt.Errorf("it says that it is %.100q", l.ID)
	case err == nil:
		err = event.Check(l.Event)
	}
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "the dead letter %s is damaged in the bucket", id)
	}
	return l, nil
}

// Filter chooses letters. The zero value means all.
type Filter struct {
	Type   string    `json:"type,omitempty"`  // of the event
	Since  time.Time `json:"since,omitzero"`  // at or after
	Before time.Time `json:"before,omitzero"` // and before
	Cursor string    `json:"-"`               // letters older than those that List gave with it
}

// bounds gives the keys between which the letters of the time of the filter lie, with others of the same minutes.
func (f *Filter) bounds() (from, end string) {
	if !f.Since.IsZero() { // no id at that time sorts before this one
		from = key(f.Since.UTC().Format(timeLayout))
	}
	if !f.Before.IsZero() {
		end = oldKey(f.Before.UTC().Format(timeLayout))
	}
	if f.Cursor != "" && (end == "" || keyAt(f.Cursor) < end) {
		end = keyAt(f.Cursor)
	}
	return from, end
}

// spans tells whether a letter is of the time of the filter.
func (f *Filter) spans(id string) bool {
	return (f.Since.IsZero() || id >= f.Since.UTC().Format(timeLayout)) && (f.Before.IsZero() || id < f.Before.UTC().Format(timeLayout))
}

// idOf gives the id of the letter at a key; "": it is none.
func idOf(k string) string {
	id := k[strings.LastIndexByte(k, '/')+1:]
	if checkID(id) != nil || k != key(id) && k != oldKey(id) {
		return ""
	}
	return id
}

// A cursor is the id of a letter; oldMark stands before that of one at an oldKey.
const oldMark = "-"

func checkCursor(cursor string) error { return checkID(strings.TrimPrefix(cursor, oldMark)) }

// cursorAt makes the cursor that leads to what lies before a letter.
func cursorAt(k, id string) string {
	if k == oldKey(id) {
		return oldMark + id
	}
	return id
}

// keyAt is where the letter of a cursor lies.
func keyAt(cursor string) string {
	if id, old := strings.CutPrefix(cursor, oldMark); old {
		return oldKey(id)
	}
	return key(cursor)
}

// keys lists where the letters in the time of the filter lie, by minutes from the oldest on.
func (s *Store) keys(ctx context.Context, f *Filter) (keys []string, err error) {
	from, end := f.bounds()
	for o, err := range s.blob.List(ctx, prefix, from) {
		if err != nil {
			return nil, fmt.Errorf("list dead letters: %w", err)
		}
		if end != "" && o.Key >= end {
			break
		}
		if id := idOf(o.Key); id != "" && f.spans(id) {
			keys = append(keys, o.Key)
		}
	}
	return keys, nil
}

// reads is how many letters are read, put back or deleted at once.
const reads = 16

// looksMost is how many letters are read for a page: those of a type may be few among many.
const looksMost = 2000

// List gives the newest letters that pass the filter, newest first, limit at most, and the cursor that leads to older ones, if there
// may be any, or "". With a type it may give fewer than there are, or none, and a cursor to go on by: it reads looksMost letters at most.
func (s *Store) List(ctx context.Context, f *Filter, limit int) (list []Summary, cursor string, err error) {
	from, end := f.bounds()
	until := timeOf(f.Cursor, f.Before)
	for looked := 0; ; {
		most := limit + 1 - len(list) // one more tells whether there are older ones
		if f.Type != "" {
			most = max(most, looksMost/8)
		}
		keys, err := line.Newest(ctx, s.blob, from, end, until, most)
		if err != nil {
			return nil, "", err
		}
		read, err := s.read(ctx, keys)
		if err != nil {
			return nil, "", err
		}
		for i, l := range read {
			if len(list) == limit {
				return list, cursor, nil
			}
			end = keys[i]
			id := idOf(end)
			if id != "" {
				cursor = cursorAt(end, id)
			}
			if l != nil && f.spans(id) && (f.Type == "" || l.Type == f.Type) {
				list = append(list, *l)
			}
		}
		looked += len(keys)
		switch {
		case len(keys) < most:
			return list, "", nil
		case f.Type != "" && looked >= looksMost:
			return list, cursor, nil
		}
		until = timeOf(cursor, until)
	}
}

// timeOf gives the moment of a cursor's letter, or else another one: where to look first.
func timeOf(cursor string, other time.Time) time.Time {
	id := strings.TrimPrefix(cursor, oldMark)
	if checkID(id) != nil {
		return other
	}
	at, err := time.Parse(timeLayout, id[:len(timeLayout)])
	if err != nil {
		return other
	}
	return at
}

// read reads summaries of letters, whose events may be large and are let go. In place of one that is gone meanwhile, or damaged, which
// must not hide the others, it gives nil.
func (s *Store) read(ctx context.Context, keys []string) ([]*Summary, error) {
	read := make([]*Summary, len(keys))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(reads)
	for i, k := range keys {
		id := idOf(k)
		if id == "" {
			continue
		}
		group.Go(func() error {
			l, err := s.Get(ctx, id)
			if fault.Is(err, fault.NotFound) || fault.Is(err, fault.Internal) {
				return nil
			}
			if err != nil {
				return err
			}
			summary := l.Summary // a copy: a pointer into the letter would keep its event
			read[i] = &summary
			return nil
		})
	}
	return read, group.Wait()
}

// Delete drops a letter; a missing one is NotFound.
func (s *Store) Delete(ctx context.Context, id string) error {
	if _, err := s.Get(ctx, id); err != nil && !fault.Is(err, fault.Internal) {
		return err
	}
	if err := s.drop(ctx, id); err != nil {
		return fmt.Errorf("delete dead letter %s: %w", id, err)
	}
	return nil
}

// drop deletes a letter, wherever it lies.
func (s *Store) drop(ctx context.Context, id string) error {
	if err := s.blob.Delete(ctx, key(id)); err != nil {
		return err
	}
	return s.blob.Delete(ctx, oldKey(id))
}

// Replay gives a letter's event back to the broker and, once that has accepted
// it, drops the letter. A crash between the two leaves the letter: the event comes
// again when that is replayed, which consumers are made for.
func (s *Store) Replay(ctx context.Context, id string) error {
	if s.sink == nil {
		return fault.New(fault.Unavailable, "there is no broker to put the event back to: K_SINK is empty")
	}
	l, err := s.Get(ctx, id)
	if err != nil {
		return err
	}
	if err := s.sink.Send(ctx, *l.Event); err != nil {
		return fmt.Errorf("replay dead letter %s: %w", id, err)
	}
	s.metrics.replayed.Add(ctx, 1)
	if err := s.drop(ctx, id); err != nil {
		return fmt.Errorf("the event was put back, but its letter %s stays: %w", id, err)
	}
	return nil
}

// Failure is a letter that could not be replayed.
type Failure struct {
	ID    string `json:"id"`
	Error string `json:"error"`
}

// ReplayAll replays the letters that pass the filter, the oldest begun first and
// several at once, and tells how many, and which of them failed. It begins no
// more when there is nowhere to put them.
func (s *Store) ReplayAll(ctx context.Context, f *Filter) (replayed int, failed []Failure, err error) {
	keys, err := s.keys(ctx, f)
	if err != nil {
		return 0, nil, err
	}
	ids := make([]string, len(keys))
	for i, k := range keys {
		ids[i] = idOf(k)
	}
	done := make([]bool, len(ids))
	failures := make([]error, len(ids))
	group, sending := errgroup.WithContext(ctx)
	group.SetLimit(reads)
	for i, id := range ids {
		if sending.Err() != nil {
			break
		}
		group.Go(func() error {
			if f.Type != "" {
				l, err := s.Get(ctx, id)
				if err == nil && l.Type != f.Type || fault.Is(err, fault.NotFound) {
					return nil
				}
			}
			err := s.Replay(ctx, id) // not of sending: what has begun is brought to its end
			switch {
			case err == nil:
				done[i] = true
			case fault.Is(err, fault.NotFound): // somebody else replayed it
			case fault.Is(err, fault.Unavailable) || ctx.Err() != nil:
				return err
			default:
				failures[i] = err
			}
			return nil
		})
	}
	err = group.Wait()
	for i, id := range ids {
		if done[i] {
			replayed++
		}
		if failures[i] != nil {
			failed = append(failed, Failure{id, fault.Message(failures[i])})
		}
	}
	if err != nil {
		return replayed, failed, fmt.Errorf("after %d: %w", replayed, err)
	}
	return replayed, failed, nil
}

// sweepMost bounds a sweep, which must end before the broker stops waiting for
// it. What it leaves is for the next.
const sweepMost = 10_000

// Sweep deletes the letters that are older than DEADLETTER_KEEP, the oldest
// first, and tells how many are left of them.
func (s *Store) Sweep(ctx context.Context) (swept, left int, err error) {
	keys, err := s.keys(ctx, &Filter{Before: s.now().Add(-s.keep)})
	if err != nil {
		return 0, 0, err
	}
	part := keys[:min(len(keys), sweepMost)]
	var n atomic.Int64
	group, deleting := errgroup.WithContext(ctx)
	group.SetLimit(reads)
	for _, k := range part {
		group.Go(func() error {
			if err := s.blob.Delete(deleting, k); err != nil {
				return fmt.Errorf("sweep dead letter %s: %w", idOf(k), err)
			}
			n.Add(1)
			return nil
		})
	}
	err = group.Wait()
	swept = int(n.Load())
	return swept, len(keys) - swept, err
}
