package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// engineLoop runs a sample through a session, one after the other and nothing
// around it: bench child engine <root> <dir> <sample> <milliseconds>. It prints
// how often, in how long, with how much processor time.
func engineLoop(ctx context.Context, args []string) error {
	s, err := samples[args[2]](args[0], args[1])
	if err != nil {
		return err
	}
	ms, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	session, err := open(ctx, s.path)
	if err != nil {
		return err
	}
	in, err := s.inputs(session.Signature())
	if err != nil {
		return err
	}
	first, err := session.Run(ctx, in)
	if err != nil {
		return err
	}
	want := bytes.Clone(first[0].Data)
	ctx = context.Background() // a run that can't be called off is the least work
	for range 100 {
		if _, err := session.Run(ctx, in); err != nil {
			return err
		}
	}
	var r loop
	begin, cpu := time.Now(), ownCPU()
	for until := begin.Add(time.Duration(ms) * time.Millisecond); time.Now().Before(until); r.Count++ {
		out, err := session.Run(ctx, in)
		if err != nil {
			return err
		}
		// Comparing all of a large answer would take a part of the time.
		if n := min(len(want), 256); !bytes.Equal(out[0].Data[:n], want[:n]) {
			return errors.New("an answer differs")
		}
	}
	r.Took, r.CPU = time.Since(begin), ownCPU()-cpu
	return json.NewEncoder(os.Stdout).Encode(r)
}

// loop is what engineLoop printed.
type loop struct {
	Count     int
	Took, CPU time.Duration
}

func ownCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err) // it has no way to fail
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// inside compares, within one process, the engine alone with the server's
// handler and with the server on a connection: bench child inside <root> <dir>
// <sample> <rounds>. It prints nanoseconds of one request, a round each.
func inside(ctx context.Context, args []string) (err error) {
	s, err := samples[args[2]](args[0], args[1])
	if err != nil {
		return err
	}
	rounds, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	p, err := server(ctx, map[string]string{"PORT": "0", "HOST": "127.0.0.1"})
	if err != nil {
		cancel()
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	defer func() {
		cancel()
		err = errors.Join(err, <-ended)
	}()

	here := &process{addr: p.Server().Addr().String()}
	if err := here.publish(ctx, s.name, s.path); err != nil {
		return err
	}
	r := s.request()
	c, err := dial(ctx, here.addr, r)
	if err != nil {
		return err
	}
	defer c.Close()
	body, err := c.ask()
	if err != nil {
		return err
	}
	want := slices.Clone(body)
	session, err := open(ctx, s.path)
	if err != nil {
		return err
	}
	in, err := s.inputs(session.Signature())
	if err != nil {
		return err
	}

	plain := context.Background() // a run that can't be called off is the least work
	variants := []func() error{
		func() error { _, err := session.Run(plain, in); return err },
		func() error {
			w := &sink{header: http.Header{}}
			r, err := http.NewRequestWithContext(plain, http.MethodPost, "/v2/models/"+s.name+"/infer", bytes.NewReader(s.body))
			if err != nil {
				return err
			}
			if s.header >= 0 {
				r.Header["Inference-Header-Content-Length"] = []string{strconv.Itoa(s.header)}
			}
			p.Server().ServeHTTP(w, r)
			if w.size != len(want) {
				return errors.New("an answer differs")
			}
			return nil
		},
		func() error {
			body, err := c.ask()
			if err == nil && !bytes.Equal(body, want) {
				err = errors.New("an answer differs")
			}
			return err
		},
	}
	result := make([][]float64, len(variants))
	for range rounds {
		for i, f := range variants {
			ns, err := each(f)
			if err != nil {
				return err
			}
			result[i] = append(result[i], ns)
		}
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

// each gives the nanoseconds that one call takes, on average over some time.
func each(f func() error) (float64, error) {
	const long = 200 * time.Millisecond
	begin, n := time.Now(), 0
	for ; time.Since(begin) < long; n++ {
		if err := f(); err != nil {
			return 0, err
		}
	}
	return float64(time.Since(begin)) / float64(n), nil
}

// sink is a response writer that forgets what is written but its size.
type sink struct {
	header http.Header
	size   int
}

func (s *sink) Header() http.Header              { return s.header }
func (s *sink) WriteHeader(int)                  {}
func (s *sink) Write(p []byte) (int, error)      { s.size += len(p); return len(p), nil }
func (s *sink) SetReadDeadline(time.Time) error  { return nil }
func (s *sink) SetWriteDeadline(time.Time) error { return nil }
