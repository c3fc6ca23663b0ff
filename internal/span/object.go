package span

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// An object is lines of JSON, compressed by zstd, two for each part of a trace: what lists tell of it, and its
// spans. It is named by the times of the first and the last of them:
//
//	traces/2026-11-26/<until>-<from>-<hash>.jsonl.zst
//
// in microseconds since 1970, so that those of some time are found by their names, and the hash of what it holds. Whoever
// looks for a trace looks for its id in the lines, which is faster than they can be decompressed; no index is needed.

// Prefix is where traces lie in the bucket.
const Prefix = "traces/"

const (
	suffix   = ".jsonl.zst"
	clipMost = 1 << 10 // bytes of a name or value
)

// Span is one span, as it is told and as it lies in the bucket.
type Span struct {
	Span       string         `json:"span"` // its id: 16 hexadecimal digits
	Parent     string         `json:"parent,omitempty"`
	Name       string         `json:"name"`
	Service    string         `json:"service"`
	Kind       string         `json:"kind"` // internal, server, client, producer or consumer
	Start      time.Time      `json:"start"`
	Duration   int64          `json:"duration_us"`
	Error      string         `json:"error,omitempty"` // one sentence
	Attributes map[string]any `json:"attributes,omitempty"`
	Links      []Link         `json:"links,omitempty"`
}

// Link leads from a span to another, which is a cause of it.
type Link struct {
	Trace string `json:"trace"`
	Span  string `json:"span"`
}

// head is what lists tell of a part.
type head struct {
	Trace   string `json:"t"`
	Name    string `json:"n"`
	Service string `json:"s"`
	Model   string `json:"m,omitempty"`
	From    int64  `json:"f"` // microseconds since 1970
	Until   int64  `json:"u"`
	Spans   int    `json:"c"`
	Error   string `json:"e,omitempty"` // of the first span that failed
	Root    bool   `json:"r,omitempty"` // nothing stands above it
}

// encode writes the two lines of a part, of which there is at least one span.
func encode(dst []byte, service string, spans []telemetry.Span) (lines []byte, from, until int64) {
	root := &spans[0]
	h := head{Trace: root.Trace.String(), Name: clip(root.Name), Service: service, Spans: len(spans), Root: !root.Parent.IsValid()}
	all := make([]Span, len(spans))
	for i := range spans {
		s := &spans[i]
		start, end := s.Start.UnixMicro(), s.End.UnixMicro()
		if i == 0 {
			h.From, h.Until = start, end
		}
		h.From, h.Until = min(h.From, start), max(h.Until, end)
		if h.Error == "" {
			h.Error = clip(s.Error)
		}
		all[i] = Span{
			Span: s.ID.String(), Name: clip(s.Name), Service: service, Kind: trace.ValidateSpanKind(s.Kind).String(),
			Start: s.Start.UTC(), Duration: max(0, s.End.Sub(s.Start).Microseconds()), Error: clip(s.Error), Attributes: attributes(s.Attributes),
		}
		if s.Parent.IsValid() {
			all[i].Parent = s.Parent.String()
		}
		for _, l := range s.Links {
			all[i].Links = append(all[i].Links, Link{l.SpanContext.TraceID().String(), l.SpanContext.SpanID().String()})
		}
		if m, ok := all[i].Attributes["model"].(string); ok && h.Model == "" {
			h.Model = m
		}
	}
	for _, v := range []any{&h, all} {
		b, err := json.Marshal(v)
		if err != nil { // a number that JSON has not
			b = []byte("[]")
		}
		dst = append(append(dst, b...), '\n')
	}
	return dst, h.From, h.Until
}

func clip(s string) string {
	if len(s) > clipMost {
		s = s[:clipMost]
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

func attributes(kv []attribute.KeyValue) map[string]any {
	if len(kv) == 0 {
		return nil
	}
	m := make(map[string]any, len(kv))
	for _, a := range kv {
		switch a.Value.Type() {
		case attribute.BOOL:
			m[string(a.Key)] = a.Value.AsBool()
		case attribute.INT64:
			m[string(a.Key)] = a.Value.AsInt64()
		default: // JSON has not all floats, and few are told
			m[string(a.Key)] = clip(a.Value.String())
		}
	}
	return m
}

// object makes an object of parts.
func object(parts []part) (key string, data []byte, err error) {
	from, until := parts[0].from, parts[0].until
	var lines bytes.Buffer
	for i := range parts {
		from, until = min(from, parts[i].from), max(until, parts[i].until)
		lines.Write(parts[i].line)
	}
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(256<<10))
	if err != nil {
		return "", nil, err
	}
	data = w.EncodeAll(lines.Bytes(), nil)
	return keyOf(from, until, data), data, w.Close()
}

func keyOf(from, until int64, data []byte) string {
	from, until = max(from, 0), max(until, 0)
	sum := sha256.Sum256(data)
	return fmt.Sprintf("%s%s/%016d-%016d-%s%s", Prefix, dayOf(until), until, from, hex.EncodeToString(sum[:8]), suffix)
}

func dayOf(micros int64) string { return time.UnixMicro(micros).UTC().Format(time.DateOnly) }

// spanOf reads from when to when the spans of an object are; false: it is none.
func spanOf(key string) (from, until int64, ok bool) {
	name := key[strings.LastIndexByte(key, '/')+1:]
	if !strings.HasSuffix(name, suffix) {
		return 0, 0, false
	}
	until1, rest, _ := strings.Cut(name, "-")
	from1, _, _ := strings.Cut(rest, "-")
	until, err1 := strconv.ParseInt(until1, 10, 64)
	from, err2 := strconv.ParseInt(from1, 10, 64)
	return from, until, err1 == nil && err2 == nil && from <= until
}

// keep writes an object. One that is there holds the same.
func keep(ctx context.Context, blob store.Blob, key string, data []byte) error {
	_, err := blob.Put(ctx, key, bytes.NewReader(data), int64(len(data)), store.IfAbsent())
	if fault.Is(err, fault.Conflict) {
		return nil
	}
	return err
}

// each visits the parts of an object's lines; those that are damaged are left out.
func each(lines []byte, visit func(first, second []byte)) {
	for len(lines) > 0 {
		var first, second []byte
		first, lines, _ = bytes.Cut(lines, []byte{'\n'})
		second, lines, _ = bytes.Cut(lines, []byte{'\n'})
		visit(first, second)
	}
}

// heads reads what lists tell of an object's parts.
func heads(lines []byte) (all []head) {
	each(lines, func(first, _ []byte) {
		var h head
		if json.Unmarshal(first, &h) == nil && isTrace(h.Trace) && h.From <= h.Until {
			all = append(all, h)
		}
	})
	return all
}

// spansOf reads the spans of a trace in an object's lines.
func spansOf(lines []byte, id string) (all []Span) {
	if !bytes.Contains(lines, []byte(id)) {
		return nil
	}
	each(lines, func(first, second []byte) {
		var h head
		if !bytes.Contains(first, []byte(id)) || json.Unmarshal(first, &h) != nil || h.Trace != id {
			return
		}
		var spans []Span
		if json.Unmarshal(second, &spans) == nil {
			all = append(all, spans...)
		}
	})
	return all
}

// isTrace tells whether s is the id of a trace: 32 hexadecimal digits in lower case, not all of them 0.
func isTrace(s string) bool {
	id, err := trace.TraceIDFromHex(s)
	return err == nil && id.IsValid()
}

// sorted puts spans in the order of their starts, each once: parts may lie in two objects after a crash.
func sorted(all []Span) []Span {
	slices.SortStableFunc(all, func(a, b Span) int {
		return cmp.Or(a.Start.Compare(b.Start), cmp.Compare(b.Duration, a.Duration), cmp.Compare(a.Span, b.Span))
	})
	seen := map[string]bool{}
	return slices.DeleteFunc(all, func(s Span) bool {
		twice := seen[s.Span]
		seen[s.Span] = true
		return twice
	})
}
