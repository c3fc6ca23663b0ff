package predict

import (
	"context"

	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// keyHeader says whose a request is, where its inputs don't: the same canary, or none, answers all with the same value.
const keyHeader = "Entity-Key"

// keyMost bounds the elements of an input of which a key is made.
const keyMost = 64

// choose finds the version that answers a request to an alias with canaries, where m answers
// if none does. To find out whose the request is it is read for m, which refuses
// what it can't read; r is that, if m answers. A canary that is not warm answers nothing
// yet, and is loaded: so no request waits for one, or fails by one that can't be loaded.
func (f *Flow) choose(ctx context.Context, ask *asking, m *model.Manifest, split *model.Split, e edge) (_ *model.Manifest, r *Request) {
	if len(split.Canaries) == 0 {
		return m, nil
	}
	s := f.of(m)
	r, err := f.read(ctx, m, s, e)
	if err != nil {
		return m, nil // and the answer says why
	}
	canary := f.registry.Known(m.Name, split.Choose(f.point(ctx, ask, m, s, split, r)))
	if canary == nil || canary == m {
		return m, r
	}
	if state, _ := f.registry.Warm.State(canary); state != model.Ready {
		f.registry.Warm.Prefetch(ctx, canary)
		return m, r
	}
	return canary, nil
}

// point is where a request lies among all: by its entity, or what a header or a
// CloudEvent says, or its id, or anywhere.
func (f *Flow) point(ctx context.Context, ask *asking, m *model.Manifest, s *served, split *model.Split, r *Request) float64 {
	var room [128]byte
	if key := f.entity(ctx, room[:0], m, s, r.Inputs); key != nil {
		return split.Point(m.Name, key)
	}
	text := ask.key
	if text == "" {
		text = ask.from.Header.Get(keyHeader)
	}
	if text == "" {
		text = ask.id
	}
	if text == "" {
		text = r.ID
	}
	if text == "" {
		return model.Anywhere()
	}
	return split.Point(m.Name, append(room[:0], text...))
}

// entity writes whom the first row of a request is about to dst: by the inputs that its version's
// manifest names, or else the join keys of its features; nil: the caller did not bring all of them.
func (f *Flow) entity(ctx context.Context, dst []byte, m *model.Manifest, s *served, inputs []tensor.Tensor) []byte {
	names := m.Quality.Entity
	if len(names) == 0 && m.Features != "" {
		j, err := f.joinOf(ctx, m, s)
		if err != nil {
			return nil
		}
		names = j.keys
	}
	if len(names) == 0 {
		return nil
	}
next:
	for i, name := range names {
		for k := range inputs {
			if inputs[k].Name == name {
				if i > 0 {
					dst = append(dst, ',')
				}
				dst = appendRow(dst, &inputs[k])
				continue next
			}
		}
		return nil
	}
	return dst
}

// appendRow writes the first row of a tensor, the same for all types and protocols that say the same.
func appendRow(dst []byte, t *tensor.Tensor) []byte {
	n := 1
	for _, d := range t.Shape[min(1, len(t.Shape)):] {
		n = int(min(int64(n)*d, keyMost))
	}
	for i := range min(n, elements(t)) {
		if i > 0 {
			dst = append(dst, ',')
		}
		if t.Type == tensor.Bytes {
			dst = append(dst, t.Strings[i]...)
		} else if v, ok := numberAt(t, i); ok {
			dst = append(dst, v.String()...)
		} else {
			size := t.Type.Size()
			dst = append(dst, t.Data[i*size:(i+1)*size]...)
		}
	}
	return dst
}

func elements(t *tensor.Tensor) int {
	if t.Type == tensor.Bytes {
		return len(t.Strings)
	}
	return len(t.Data) / t.Type.Size()
}
