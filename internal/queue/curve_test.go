package queue

import (
	"testing"
	"time"
)

func learn(took func(rows int64) time.Duration, rows ...int64) *curve {
	var c curve
	for _, n := range rows {
		for range settled {
			c.record(n, took(n))
		}
	}
	return &c
}

func TestHowManyRowsAreWorthJoining(t *testing.T) {
	fixed := func(int64) time.Duration { return time.Millisecond }
	each := func(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
	until8 := func(n int64) time.Duration { return time.Duration(max(n, 8)) * time.Millisecond }
	little := func(n int64) time.Duration { return time.Duration(n)*time.Millisecond + 70*time.Microsecond }
	steps := func(n int64) time.Duration {
		return time.Duration(map[int64]float64{1: 10, 2: 20, 4: 24, 8: 48}[n] * 1e6)
	}
	for _, c := range []struct {
		name  string
		curve *curve
		rows  int64
		want  int64
	}{
		{"nothing is known", &curve{}, 1, 1},
		{"alone is known: two are tried", learn(fixed, 1), 1, 3},
		{"each doubling is cheaper", learn(fixed, 1, 2, 4, 8), 1, 31},
		{"no gain", learn(each, 1, 2), 1, 1},
		{"a little", learn(little, 1, 2, 4), 1, 1},
		{"no gain beyond eight", learn(until8, 1, 2, 4, 8, 16), 1, 15},
		{"two don't pay, four do", learn(steps, 1, 2, 4, 8), 1, 7},
		{"two don't pay, four are not known", learn(steps, 1, 2), 1, 1},
		{"of large ones", learn(fixed, 32), 40, 127},
		{"as many as are told apart", learn(fixed, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024), 1, 2047},
	} {
		if got := c.curve.most(c.rows); got != c.want {
			t.Errorf("%s: got %d, want %d", c.name, got, c.want)
		}
	}
}

func TestALostGainIsTriedAgain(t *testing.T) {
	c := learn(func(n int64) time.Duration { return time.Duration(n) * time.Millisecond }, 1, 2)
	tried := 0
	for range 2 * probe {
		if c.most(1) > 1 {
			tried++
		}
	}
	if tried != 2 {
		t.Errorf("tried %d times in %d, want 2", tried, 2*probe)
	}
	// Also beyond a size that did not pay.
	c.asked = probe - 1
	if got := c.most(1); got != 7 {
		t.Errorf("got %d, want 7", got)
	}
}

// The first runs of a model are slow. That must not have it seem for ever that joining pays.
func TestASlowBeginningIsForgotten(t *testing.T) {
	var c curve
	for range known {
		c.record(1, 20*time.Millisecond)
	}
	joined := 0
	for range 10 * probe {
		rows := min(c.most(1), 3)
		c.record(rows, time.Duration(rows)*8*time.Millisecond)
		if rows > 1 {
			joined++
		}
	}
	if joined > 10+2*known {
		t.Errorf("%d of %d runs were joined though it gains nothing, want few, to try", joined, 10*probe)
	}
	// Where it pays, few runs are given to finding out.
	c, alone := curve{}, 0
	for range 100 * recheck {
		rows := min(c.most(1), 8)
		c.record(rows, 8*time.Millisecond)
		if rows == 1 {
			alone++
		}
	}
	if alone > 100+settled {
		t.Errorf("%d of %d runs were alone though joining pays", alone, 100*recheck)
	}
}

func TestExpectedTimes(t *testing.T) {
	c := learn(func(n int64) time.Duration { return 4*time.Millisecond + time.Duration(n)*time.Millisecond }, 1, 4)
	for _, e := range []struct {
		rows int64
		want time.Duration
	}{{1, 5 * time.Millisecond}, {2, 10 * time.Millisecond}, {4, 8 * time.Millisecond}, {8, 16 * time.Millisecond}} {
		if got, ok := c.expect(e.rows); !ok || got != e.want {
			t.Errorf("%d rows: got %s %v, want %s", e.rows, got, ok, e.want)
		}
	}
	if _, ok := new(curve).expect(1); ok {
		t.Error("a guess from nothing")
	}
}

func TestAnOutlierCountsForLittle(t *testing.T) {
	var a average
	for range 100 {
		a.add(10)
	}
	a.add(1e9)
	if a.value > 20 {
		t.Errorf("got %v after one outlier", a.value)
	}
}
