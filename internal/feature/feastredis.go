package feature

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/feast"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// LayoutConfig says who has written what the online store holds.
type LayoutConfig struct {
	Layout  string `env:"ONLINE_LAYOUT" default:"pilotlight" help:"Who fills the online store: pilotlight or, where it is only read, feast."`
	Project string `env:"FEAST_PROJECT" help:"Feast's project, of ONLINE_LAYOUT=feast."`
}

// Validate refuses what can't work.
func (c *LayoutConfig) Validate() error {
	switch {
	case c.Layout != "pilotlight" && c.Layout != "feast":
		return invalid("ONLINE_LAYOUT is %.50q, expected pilotlight or feast", c.Layout)
	case c.Layout == "feast" && c.Project == "":
		return invalid("ONLINE_LAYOUT=feast needs the name of Feast's project in FEAST_PROJECT")
	}
	return nil
}

// Open opens the online store at a URL in that layout.
func (c *LayoutConfig) Open(ctx context.Context, url string, own store.Openers[store.Online], feast store.Openers[store.Hashes], defined func(context.Context) (*Compiled, error)) (store.Online, error) {
	if c.Layout != "feast" {
		return own.Open(ctx, url)
	}
	hashes, err := feast.Open(ctx, url)
	if err != nil {
		return nil, err
	}
	return NewFeastOnline(hashes, c.Project, defined), nil
}

// FeastOnline is a store.Online on a Redis that Feast fills, for a Table to read:
// it has the views of Feast's that are defined here too. It can't be written, and
// it has no windows. It is safe for concurrent use.
type FeastOnline struct {
	hashes  store.Hashes
	project string
	defined func(context.Context) (*Compiled, error)

	mu    sync.Mutex
	of    *Compiled
	views map[string]*feastView // of a set
}

var _ store.Online = (*FeastOnline)(nil)

// NewFeastOnline reads a project's hashes by the definitions that defined gives (Catalog.Current).
func NewFeastOnline(hashes store.Hashes, project string, defined func(context.Context) (*Compiled, error)) *FeastOnline {
	return &FeastOnline{hashes: hashes, project: project, defined: defined}
}

// feastView is where Feast keeps a view.
type feastView struct {
	*CompiledView
	keys   *feast.Keys
	fields []string // of the hash: the time of the view, and each column
}

// Read gives rows as Table reads them from a store of our own.
func (o *FeastOnline) Read(ctx context.Context, keys []string, dst []store.OnlineRow) ([]store.OnlineRow, error) {
	if err := store.CheckOnlineKeys(keys); err != nil {
		return nil, err
	}
	views := make([]*feastView, 0, len(keys))
	names := make([]string, 0, len(keys))
	fields := make([][]string, 0, len(keys))
	var name []byte
	for _, key := range keys {
		v, values, err := o.parse(ctx, key)
		if err != nil {
			return nil, err
		}
		if name = name[:0]; v != nil {
			name = v.keys.Append(name, values)
			views, names, fields = append(views, v), append(names, string(name)), append(fields, v.fields)
		}
	}
	found, err := o.hashes.Read(ctx, names, fields)
	if err != nil {
		return nil, err
	}
	i := 0
	for _, key := range keys {
		r := store.OnlineRow{Key: key}
		if _, _, ok := cutKey(key); ok {
			if err := views[i].row(found[i], &r); err != nil {
				return nil, err
			}
			i++
		}
		dst = append(dst, r)
	}
	return dst, nil
}

// row makes a row of ours of the fields of a hash.
func (v *feastView) row(found [][]byte, r *store.OnlineRow) error {
	if found[0] == nil {
		return nil
	}
	event, err := feast.DecodeTime(found[0])
	if err != nil {
		return v.damaged(err)
	}
	values := make([]row.Value, len(v.Columns))
	for i, c := range v.Columns {
		if found[i+1] == nil {
			continue
		}
		value, err := feast.DecodeValue(found[i+1])
		if err == nil {
			values[i], err = row.Convert(value, c.Type)
		}
		if err != nil {
			return fault.Wrap(fault.Internal, err, "what Feast has stored of %s:%s can't be read as a %s", v.Name, c.Name, c.Type)
		}
	}
	r.Stamp = store.Stamp{Event: event, Created: max(event, 1)} // a row of the year 1970 is one, too
	r.Value = row.Append(nil, v.Columns, values)
	return nil
}

// cutKey takes a key of CompiledView.Key apart.
func cutKey(key string) (view, rest string, ok bool) {
	if rest, ok = strings.CutPrefix(key, "feature/"); !ok {
		return "", "", false
	}
	return strings.Cut(rest, "/")
}

// parse finds the view and the join keys that a key of CompiledView.Key is of; nil: none.
func (o *FeastOnline) parse(ctx context.Context, key string) (*feastView, []row.Value, error) {
	name, rest, ok := cutKey(key)
	if !ok {
		return nil, nil, nil
	}
	v, err := o.view(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	values := make([]row.Value, len(v.Keys))
	for i, k := range v.Keys {
		if values[i], rest, ok = cutValue(rest, k.Type); !ok {
			return nil, nil, fault.New(fault.Internal, "view %q is read by a key that is none of its", name)
		}
	}
	return v, values, nil
}

// cutValue reads what row.AppendKey writes.
func cutValue(b string, t row.Type) (v row.Value, rest string, ok bool) {
	if b == "" || row.Type(b[0]) != t {
		return v, "", false
	}
	b = b[1:]
	if t == row.String || t == row.Bytes {
		length, n := binary.Uvarint([]byte(b))
		if n <= 0 || length > uint64(len(b)-n) {
			return v, "", false
		}
		text := b[n:][:length]
		if v = row.OfString(text); t == row.Bytes {
			v = row.OfBytes([]byte(text))
		}
		return v, b[n+len(text):], true
	}
	if len(b) < 8 {
		return v, "", false
	}
	i := int64(binary.BigEndian.Uint64([]byte(b[:8])))
	switch t {
	case row.Int32:
		v = row.OfInt32(int32(i))
	case row.Timestamp:
		v = row.OfMicros(i)
	default:
		v = row.OfInt64(i)
	}
	return v, b[8:], true
}

func (o *FeastOnline) view(ctx context.Context, name string) (*feastView, error) {
	defined, err := o.defined(ctx)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.of != defined {
		o.of, o.views = defined, map[string]*feastView{}
	}
	if v := o.views[name]; v != nil {
		return v, nil
	}
	of, err := defined.View(name)
	if err != nil {
		return nil, err
	}
	if len(of.Windows) > 0 {
		return nil, invalid("view %q is made of windows, which a store that Feast fills does not have", name)
	}
	v := &feastView{CompiledView: of, fields: []string{feast.TimeField(name)}}
	if v.keys, err = feast.NewKeys(o.project, of.Keys); err != nil {
		return nil, fmt.Errorf("view %q: %w", name, err)
	}
	for _, c := range of.Columns {
		v.fields = append(v.fields, feast.FeatureField(name, c.Name))
	}
	o.views[name] = v
	return v, nil
}

var errFeastsOwn = invalid("the online store is filled by Feast (ONLINE_LAYOUT) and only read here")

// Write is refused.
func (*FeastOnline) Write(context.Context, []store.OnlineRow) ([]bool, error) {
	return nil, errFeastsOwn
}

// Replace is refused.
func (*FeastOnline) Replace(context.Context, []store.OnlineRow, []store.Stamp) ([]bool, error) {
	return nil, errFeastsOwn
}

// Delete is refused.
func (*FeastOnline) Delete(context.Context, []string) error { return errFeastsOwn }

// Close closes the hashes.
func (o *FeastOnline) Close() error { return o.hashes.Close() }
