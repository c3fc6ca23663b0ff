package etl

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// LandingPrefix is where files lie that somebody put: below it the names of their source and their own.
const LandingPrefix = "landing/"

// Landing takes files in for whoever can't write to the bucket.
type Landing struct {
	blob store.Blob
	sink event.Sink
	log  *slog.Logger
}

// NewLanding makes a Landing. Sink hears of each file; nil: nobody does.
func NewLanding(blob store.Blob, sink event.Sink, log *slog.Logger) *Landing {
	return &Landing{blob, sink, log}
}

// Register mounts PUT /landing/{source}/{file}.
func (l *Landing) Register(mux *http.ServeMux) {
	mux.HandleFunc("PUT /landing/{source}/{file}", func(w http.ResponseWriter, r *http.Request) {
		if err := l.put(w, r); err != nil {
			serve.Error(w, r, err)
		}
	})
}

// Landed answers a file that was put.
type Landed struct {
	Key    string `json:"key"` // where it lies in the bucket
	Bytes  int64  `json:"bytes"`
	Digest string `json:"digest"`
}

// put keeps a body, which MAX_UPLOAD bounds, and which goes by way of the disk. The same again is answered as the first time; another one
// under the same name is a Conflict.
func (l *Landing) put(w http.ResponseWriter, r *http.Request) error {
	serve.Long(w, r)
	ctx := r.Context()
	source, name := r.PathValue("source"), r.PathValue("file")
	key := LandingPrefix + source + "/" + name
	if err := store.CheckKey(key); err != nil || strings.Contains(source+name, "/") {
		return invalid("%.100q is no name that a file can have: a source and a name have 1 to 200 ASCII letters, digits and -_.=@:+", source+"/"+name)
	}
	if formatOf(name).suffix == "" {
		return invalid("%.100q ends like no format that is read: .csv, .jsonl, .json, .ndjson, each also with .gz, and .parquet", name)
	}
	f, err := os.CreateTemp("", "pilotlight-landing-")
	if err != nil {
		return fault.Wrap(fault.Unavailable, err, "there is no room on the disk for the file")
	}
	defer func() { _, _ = f.Close(), os.Remove(f.Name()) }()
	body, err := serve.Unpacked(r)
	if err != nil {
		return err
	}
	h := sha256.New()
	read := &reading{r: body}
	size, err := io.Copy(io.MultiWriter(f, h), read)
	switch {
	case read.err != nil:
		return serve.BodyError(read.err)
	case err != nil:
		return fault.Wrap(fault.Unavailable, err, "there is no room on the disk for the file")
	case size == 0:
		return invalid("the file is empty")
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	sum := hex.EncodeToString(h.Sum(nil))
	switch _, err := l.blob.Put(ctx, key, f, size, store.IfAbsent()); {
	case fault.Is(err, fault.Conflict):
		if err := l.same(ctx, key, sum); err != nil {
			return err
		}
	case err != nil:
		return fmt.Errorf("keep %q: %w", key, err)
	}
	told := Landed{key, size, "sha256:" + sum}
	telemetry.LineFrom(ctx).Set(slog.String("file", key), slog.Int64("size", size))
	if l.sink != nil {
		// Told again where it is put again, in case the first time was lost; the id is the same.
		e := event.FileLanded.New(event.Landed{Source: source, File: key, Bytes: size, Digest: told.Digest, At: time.Now()})
		if err := l.sink.Send(ctx, e); err != nil {
			l.log.WarnContext(ctx, "a file that landed was not told of; the next run finds it", "file", key, "error", err)
		}
	}
	return serve.WriteJSON(w, http.StatusOK, &told)
}

// same tells whether what lies there is what was put.
func (l *Landing) same(ctx context.Context, key, sum string) (err error) {
	there, _, err := l.blob.Get(ctx, key, 0, -1)
	if err != nil {
		return fmt.Errorf("compare with %q: %w", key, err)
	}
	defer func() { err = errors.Join(err, there.Close()) }()
	h := sha256.New()
	if _, err := io.Copy(h, there); err != nil {
		return fmt.Errorf("compare with %q: %w", key, err)
	}
	if hex.EncodeToString(h.Sum(nil)) != sum {
		return fault.New(fault.Conflict, "there is another file %s already; files that landed are not replaced: give it another name", key)
	}
	return nil
}

// reading remembers that it was the sender that failed.
type reading struct {
	r   io.Reader
	err error
}

func (r *reading) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}
