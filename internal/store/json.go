package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// ReadJSON reads an object into v, which a pointer is to, and gives the object's version. One that is no JSON of v's, or has more than most
// bytes, is Internal, and its version is told all the same, so that it can be replaced.
func ReadJSON(ctx context.Context, b Blob, key string, most int64, v any) (version string, err error) {
	r, o, err := b.Get(ctx, key, 0, most+1)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", key, err)
	}
	data, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil {
		return "", fmt.Errorf("read %s: %w", key, err)
	}
	if int64(len(data)) > most {
		return o.Version, fault.New(fault.Internal, "the bucket's %s is damaged: it has more than %d bytes", key, most)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return o.Version, fault.Wrap(fault.Internal, err, "the bucket's %s is damaged", key)
	}
	return o.Version, nil
}

// WriteJSON writes v as an object, and gives its version.
func WriteJSON(ctx context.Context, b Blob, key string, v any, c Condition) (version string, err error) {
	data, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("encode %s: %w", key, err)
	}
	version, err = b.Put(ctx, key, bytes.NewReader(data), int64(len(data)), c)
	if err != nil {
		return "", fmt.Errorf("write %s: %w", key, err)
	}
	return version, nil
}

// IfStill holds as long as an object is as it was read: in that version or, where that is "", not there.
func IfStill(version string) Condition {
	if version == "" {
		return IfAbsent()
	}
	return IfVersion(version)
}
