package serve

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// Who takes nothing for so long is given up; who takes a little is not.
func TestConnGivesUp(t *testing.T) {
	const stall = 50 * time.Millisecond
	ours, theirs := net.Pipe()
	defer theirs.Close()
	c := newConn(ours, stall)
	defer c.Close()
	text := strings.Repeat("x", 10)
	go func() {
		for range len(text) {
			time.Sleep(stall / 2)
			_, _ = theirs.Read(make([]byte, 1))
		}
	}()
	begin := time.Now()
	if err := c.send([]byte(text)); err != nil || time.Since(begin) < 2*stall {
		t.Errorf("got %v after %v", err, time.Since(begin))
	}
	if err := c.send([]byte(text)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// What a lane has read comes first.
func TestConnGoesOn(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	c := newConn(ours, time.Minute)
	defer c.Close()
	c.begin([]byte("GET / HTTP/1.1\r\n"))
	if n, err := c.Read(make([]byte, 4096)); n != 16 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	go func() { _, _ = io.WriteString(theirs, "Host: a\r\n") }()
	if n, err := c.Read(make([]byte, 4096)); n != 9 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	go func() { _, _ = c.Write([]byte("x")) }()
	if n, err := theirs.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
}

// Deadlines that were moved ahead don't move the connection's own; it is as if they had.
func TestConnMovesDeadlines(t *testing.T) {
	const soon, late = 30 * time.Millisecond, time.Hour
	for _, tt := range []struct {
		name          string
		before, after time.Duration // of the deadline, from now on; 0: none
		called        bool          // off, while something is read
		ends          bool
	}{
		{"one that passes", late, soon, false, true},
		{"one that was moved away", soon, late, false, false},
		{"one that was taken back", soon, 0, false, false},
		{"one that passed before", -soon, late, false, false},
		{"called off before", late, -soon, false, true},
		{"called off meanwhile", late, 0, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			defer theirs.Close()
			c := newConn(ours, time.Minute)
			defer c.Close()
			from := func(d time.Duration) time.Time {
				if d == 0 {
					return time.Time{}
				}
				return time.Now().Add(d)
			}
			first := make(chan struct{})
			go func() { // so that the first deadline is the connection's own
				defer close(first)
				_, _ = theirs.Write([]byte("1"))
				_, _ = theirs.Read(make([]byte, 1))
			}()
			deadline := from(tt.before)
			if err := c.SetDeadline(from(late)); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 2)
			if n, err := c.Read(b); n != 1 || err != nil {
				t.Fatalf("got %d, %v", n, err)
			}
			if n, err := c.Write(b[:1]); n != 1 || err != nil {
				t.Fatalf("got %d, %v", n, err)
			}
			<-first
			_ = c.Conn.SetDeadline(deadline)
			c.read.own, c.write.own = deadline, deadline
			if err := c.SetDeadline(from(tt.after)); err != nil {
				t.Fatal(err)
			}
			switch {
			case tt.called:
				time.AfterFunc(soon, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
			case !tt.ends:
				go func() { // half of it before the old deadline, and half afterwards
					_, _ = io.ReadFull(theirs, make([]byte, 1))
					time.Sleep(2 * soon)
					_, _ = io.ReadFull(theirs, make([]byte, 1))
					_, _ = theirs.Write([]byte("23"))
				}()
			}
			if n, err := c.Write([]byte("ab")); tt.ends != errors.Is(err, os.ErrDeadlineExceeded) || !tt.ends && n != 2 {
				t.Errorf("wrote %d, %v", n, err)
			}
			if n, err := c.Read(b); tt.ends != errors.Is(err, os.ErrDeadlineExceeded) || !tt.ends && n != 2 {
				t.Errorf("read %d, %v", n, err)
			}
		})
	}
}

func TestConnKnowsWhoLeft(t *testing.T) {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, way := range []string{"says nothing", "has said something", "leaves", "leaves by a reset", "closed here"} {
		peer, err := new(net.Dialer).DialContext(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer peer.Close()
		ours, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer ours.Close()
		c := newConn(ours, time.Minute)
		want := true
		switch way {
		case "says nothing":
			want = false
		case "has said something":
			if _, err := peer.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			peer.Close()
			want = false
		case "leaves by a reset":
			if err := peer.(*net.TCPConn).SetLinger(0); err != nil {
				t.Fatal(err)
			}
			peer.Close()
		case "leaves":
			peer.Close()
		case "closed here":
			ours.Close()
		}
		for begin := time.Now(); c.left() != want; time.Sleep(time.Millisecond) {
			if time.Since(begin) > 5*time.Second {
				t.Fatalf("%s: got %t, want %t", way, !want, want)
			}
		}
		if way == "has said something" {
			if b := make([]byte, 2); !readsOne(ours, b) || b[0] != 'x' {
				t.Errorf("%s: what it said is gone", way)
			}
		}
	}
}

func readsOne(c net.Conn, b []byte) bool {
	n, err := c.Read(b)
	return n == 1 && err == nil
}
