package segment_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
)

// slow writes groups of numbers, a second for each, and keeps them.
type slow struct {
	mu     sync.Mutex
	groups [][]int
	err    error // of the next group
}

func (s *slow) write(ctx context.Context, parts []int) error {
	select {
	case <-time.After(time.Duration(len(parts)) * time.Second):
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		err := s.err
		s.err = nil
		return err
	}
	s.groups = append(s.groups, slices.Clone(parts))
	return nil
}

func (s *slow) written() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprint(s.groups)
}

var wide = segment.Limits{Rows: 100, Bytes: 1000, Write: time.Minute}

func TestPartsThatComeMeanwhileAreTheNextGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &slow{}
		c := segment.NewCommitter("numbers", wide, to.write, func(last, next int) bool { return last/10 == next/10 })
		begin := time.Now()
		for i, part := range []int{1, 2, 3, 11, 4} { // 4 does not overtake 11
			go func() {
				if err := c.Commit(t.Context(), part, 1, 1); err != nil {
					t.Error(part, err)
				}
			}()
			synctest.Wait()
			if got := c.Waiting(); got != i {
				t.Errorf("%d wait behind the first, want %d", got, i)
			}
		}
		c.Close()
		if got, want := to.written(), "[[1] [2 3] [11] [4]]"; got != want || time.Since(begin) != 5*time.Second {
			t.Errorf("got %s after %s, want %s after 5s", got, time.Since(begin), want)
		}
	})
}

func TestTooMuchIsToComeAgain(t *testing.T) {
	for what, part := range map[string]struct {
		rows  int
		bytes int64
	}{"rows": {92, 1}, "bytes": {1, 992}} {
		synctest.Test(t, func(t *testing.T) {
			to := &slow{}
			c := segment.NewCommitter("numbers", wide, to.write, nil)
			for range 40 { // so that the average settles: a part of a row takes a second
				if err := c.Commit(t.Context(), 0, 1, 1); err != nil {
					t.Fatal(err)
				}
			}
			go func() { _ = c.Commit(t.Context(), 1, 2, 2) }()
			synctest.Wait()
			go func() { _ = c.Commit(t.Context(), 2, 9, 9) }()
			synctest.Wait()
			err := c.Commit(t.Context(), 3, part.rows, part.bytes)
			if !fault.Is(err, fault.Overloaded) || fault.Message(err) != "9 numbers wait to be written; try again in 11s" || fault.RetryAfter(err).Round(time.Second) != 11*time.Second {
				t.Errorf("%s: got %v, try again in %s", what, err, fault.RetryAfter(err))
			}
			c.Close()
			if err := c.Commit(t.Context(), 3, part.rows, part.bytes); err != nil { // however large: nothing waits
				t.Errorf("%s: alone: %v", what, err)
			}
		})
	}
}

func TestAnErrorIsThatOfTheGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := errors.New("away")
		to := &slow{err: away}
		c := segment.NewCommitter("numbers", wide, to.write, nil)
		errs := make([]error, 3)
		for i := range errs {
			go func() { errs[i] = c.Commit(t.Context(), i, 1, 1) }()
			synctest.Wait()
		}
		c.Close()
		synctest.Wait()
		if got := fmt.Sprint(errs, to.written()); got != "[away <nil> <nil>][[1 2]]" {
			t.Errorf("got %s, want the error of the first group alone", got)
		}
	})
}

func TestWritingHasATimeAndNoCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &slow{}
		limits := wide
		limits.Write = 500 * time.Millisecond
		c := segment.NewCommitter("numbers", limits, to.write, nil)
		if err := c.Commit(t.Context(), 1, 1, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want that the time for writing is over", err)
		}
		c = segment.NewCommitter("numbers", wide, to.write, nil)
		ctx, leave := context.WithTimeout(t.Context(), time.Millisecond)
		defer leave()
		if err := c.Commit(ctx, 2, 1, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the caller's own end", err)
		}
		c.Close()
		if got := to.written(); got != "[[2]]" {
			t.Errorf("got %s, want what was begun for the caller that left", got)
		}
	})
}

func TestAPanicIsAnErrorOfTheGroup(t *testing.T) {
	broken := true
	c := segment.NewCommitter("numbers", wide, func(context.Context, []int) error {
		if broken {
			panic("it broke")
		}
		return nil
	}, nil)
	if err := c.Commit(t.Context(), 1, 1, 1); !fault.Is(err, fault.Internal) {
		t.Errorf("got %v, want the panic", err)
	}
	c.Close()
	broken = false
	if err := c.Commit(t.Context(), 1, 1, 1); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}
