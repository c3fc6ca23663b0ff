package store

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Line is a part of a Blob whose keys sort by time: each begins with Key of the moment that its object is of.
type Line struct {
	Prefix string
	// Key gives what all keys of objects of that moment, to the millisecond, or later ones sort behind. It is a valid key.
	Key func(at time.Time) string
}

// newestMost is how many keys are looked at in one go: what S3 gives in one answer.
const newestMost = 1000

// Newest gives the keys of the newest objects of a line, the newest first: n of them at most, none before the key from, and all before the key
// end ("" for no bound), which is of about the moment until (zero: now). However many objects there are, it reads few keys
// more than that: it looks for a moment since which there are enough of them, and not too many.
func (l Line) Newest(ctx context.Context, b Blob, from, end string, until time.Time, n int) ([]string, error) {
	most := max(newestMost, 2*n)
	last := func(keys []string) []string {
		keys = slices.Clone(keys[max(0, len(keys)-n):])
		slices.Reverse(keys)
		return keys
	}
	keys, over, err := l.list(ctx, b, from, end, most)
	if err != nil || !over {
		return last(keys), err
	}
	if until.IsZero() {
		until = time.Now()
	}
	// Since many there are too many, and since few too few; in milliseconds since 1970, before which nothing is.
	many, few := int64(-1), farOff.UnixMilli()
	since := func(ms int64) (done bool, err error) {
		keys, over, err = l.list(ctx, b, max(from, l.Key(time.UnixMilli(ms).UTC())), end, most)
		switch {
		case err != nil:
			return true, err
		case over:
			many = ms
		case len(keys) >= n:
			return true, nil
		default:
			few = ms
		}
		return false, nil
	}
	// What is most recent is asked for most: so back from there, by ever longer steps.
	for back := int64(0); until.UnixMilli()-back > many; back = max(firstStep, back*stepMore) {
		if done, err := since(until.UnixMilli() - back); done {
			return last(keys), err
		}
	}
	for few-many > 1 {
		if done, err := since(many + (few-many)/2); done {
			return last(keys), err
		}
	}
	keys, _, err = l.list(ctx, b, max(from, l.Key(time.UnixMilli(many).UTC())), end, 0) // all are of one millisecond
	return last(keys), err
}

const (
	firstStep = int64(time.Hour / time.Millisecond)
	stepMore  = 8
)

// farOff is a moment that no key is of.
var farOff = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)

// list gives the keys between two, and whether there are more than most; 0: all are wanted.
func (l Line) list(ctx context.Context, b Blob, after, end string, most int) (keys []string, over bool, err error) {
	for o, err := range b.List(ctx, l.Prefix, after) {
		if err != nil {
			return nil, false, fmt.Errorf("list %s: %w", l.Prefix, err)
		}
		if end != "" && o.Key >= end {
			break
		}
		if keys = append(keys, o.Key); most > 0 && len(keys) > most {
			return nil, true, nil
		}
	}
	return keys, false, nil
}
