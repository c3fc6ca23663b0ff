package command

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// Socket is how the words of a Command begin that runs in another container: unix:PATH names the socket of a Host there.
const Socket = "unix:"

// order is what a host is asked for: everything of a Command but its words, which are the host's own.
type order struct {
	Name    string        `json:"name"`
	Dataset string        `json:"dataset"`
	Output  string        `json:"output"`
	Scratch string        `json:"scratch"`
	Most    int64         `json:"most"`
	Grace   time.Duration `json:"grace"`
}

// news is a line of a host's answer: something that the program said, or how it ended.
type news struct {
	Line  string `json:"line,omitempty"`
	Ended bool   `json:"ended,omitempty"`
	Kind  string `json:"kind,omitempty"` // of what went wrong; "": nothing did
	Error string `json:"error,omitempty"`
}

// Host runs one program for steps in other containers of its pod, which reach it through a socket and share the folders that they name.
// Who asks says nothing of what is run.
type Host struct {
	Words []string // the program and its arguments
	Log   *slog.Logger
}

// Serve answers until ctx ends. One program runs at a time: others wait.
func (h *Host) Serve(ctx context.Context, l net.Listener) error {
	var turn sync.Mutex
	run := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var o order
		if err := json.NewDecoder(io.LimitReader(r.Body, 1<<16)).Decode(&o); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		turn.Lock()
		defer turn.Unlock()
		told := &teller{out: json.NewEncoder(w), flush: http.NewResponseController(w).Flush}
		_ = told.flush()
		c := Command{Name: o.Name, Words: h.Words, Dataset: o.Dataset, Output: o.Output, Scratch: o.Scratch, Most: o.Most, Grace: o.Grace, Log: slog.New(told)}
		err := c.Run(r.Context()) // which ends with the step's connection
		end := news{Ended: true}
		if err != nil {
			h.Log.WarnContext(r.Context(), "trained", "error", err)
			end.Kind, end.Error = fault.KindOf(err).String(), fault.Message(err)
		}
		told.tell(end)
	})
	server := &http.Server{Handler: run, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(l); ctx.Err() == nil {
		return err
	}
	return nil
}

// teller is a log whose lines go to the step.
type teller struct {
	mu    sync.Mutex
	out   *json.Encoder
	flush func() error
}

func (t *teller) tell(n news) {
	t.mu.Lock()
	defer t.mu.Unlock()
	_ = t.out.Encode(n) // a step that is gone has ended the program, too
	_ = t.flush()
}

// Enabled implements slog.Handler.
func (t *teller) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements slog.Handler.
func (t *teller) Handle(_ context.Context, r slog.Record) error {
	line := r.Message
	r.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	t.tell(news{Line: line})
	return nil
}

// WithAttrs implements slog.Handler.
func (t *teller) WithAttrs([]slog.Attr) slog.Handler { return t }

// WithGroup implements slog.Handler.
func (t *teller) WithGroup(string) slog.Handler { return t }

// hostWait is how long the other container may take to begin.
const hostWait = 2 * time.Minute

// remote has the host at a socket run the program.
func (c *Command) remote(ctx context.Context, socket string) error {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, socket) }}
	defer transport.CloseIdleConnections()
	body, err := json.Marshal(order{c.Name, c.Dataset, c.Output, c.Scratch, c.Most, c.Grace})
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://host", bytes.NewReader(body))
	if err != nil {
		return err
	}
	answer, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		return c.lost(ctx, err, "can't be reached")
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("the container of trainer %s answers %s", c.Name, answer.Status)
	}
	said := bufio.NewScanner(answer.Body)
	said.Buffer(nil, 8*LineMost) // a line in JSON
	for said.Scan() {
		var n news
		if err := json.Unmarshal(said.Bytes(), &n); err != nil {
			return fmt.Errorf("the container of trainer %s: %w", c.Name, err)
		}
		switch {
		case !n.Ended:
			c.Log.InfoContext(ctx, n.Line)
		case n.Kind == "":
			return nil
		default:
			return fault.New(kindOf(n.Kind), "%s", n.Error)
		}
	}
	return c.lost(ctx, said.Err(), "ended while it worked, most likely because memory ran out")
}

func (c *Command) lost(ctx context.Context, err error, what string) error {
	if ctx.Err() != nil {
		return fmt.Errorf("trainer %s was ended: %w", c.Name, context.Cause(ctx))
	}
	return fault.Wrap(fault.Overloaded, err, "the container of trainer %s %s", c.Name, what)
}

// kindOf finds the kind of a name.
func kindOf(name string) fault.Kind {
	for k := fault.Internal; k <= fault.Unauthenticated; k++ {
		if k.String() == name {
			return k
		}
	}
	return fault.Internal
}

// dial waits for the socket, as containers of a pod begin in no order.
func dial(ctx context.Context, socket string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, hostWait)
	defer cancel()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
		if err == nil {
			return conn, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(100 * time.Millisecond):
		}
	}
}
