package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"strings"
	"syscall"
	"text/tabwriter"
)

// caller takes names below localhost, as ingresses on this machine have them, for
// this machine (RFC 6761, section 6.3), as curl and browsers do and Go's resolver does not.
var caller = func() *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	dial := t.DialContext
	t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		if host, port, err := net.SplitHostPort(address); err == nil && strings.HasSuffix(host, ".localhost") {
			address = net.JoinHostPort("localhost", port)
		}
		return dial(ctx, network, address)
	}
	return &http.Client{Transport: t}
}()

// client is the server as commands see it, and where they write.
type client struct {
	server string
	key    string
	format string
	out    io.Writer
	caller *http.Client // nil: the one that all commands share
}

func (c *client) check() error {
	if c.format != "table" && c.format != "json" {
		return fmt.Errorf("--output is %q, expected table or json", c.format)
	}
	u, err := url.Parse(c.server)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("--server is %q, expected a URL such as http://127.0.0.1:8080", c.server)
	}
	c.server = strings.TrimSuffix(c.server, "/")
	if c.key == "" {
		c.key = os.Getenv("PILOTLIGHT_KEY")
	}
	return nil
}

// call sends a request and gives the answer's body; any status of 400 and above
// becomes an error with the server's sentence.
func (c *client) call(ctx context.Context, method, path, contentType string, body io.Reader, size int64) ([]byte, error) {
	resp, err := c.send(ctx, method, path, contentType, body, size)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("read answer of %s: %w", c.server, err)
	}
	return b, nil
}

// send is call for answers that are large: the caller reads and closes the body.
func (c *client) send(ctx context.Context, method, path, contentType string, body io.Reader, size int64) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, c.server+path, body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		r.Header.Set("Content-Type", contentType)
		r.ContentLength = size
	}
	if c.key != "" {
		r.Header.Set("Authorization", "Bearer "+c.key)
	}
	resp, err := cmp.Or(c.caller, caller).Do(r)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("no server answers at %s; start one with `make run`, or name another with --server", c.server)
	}
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 400 {
		return resp, nil
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("read answer of %s: %w", c.server, err)
	}
	var refusal struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(b, &refusal) != nil || refusal.Error == "" {
		return nil, fmt.Errorf("%s answered %s", c.server, resp.Status)
	}
	return nil, errors.New(refusal.Error)
}

// ask sends v as JSON (nothing when nil) and decodes the answer into answer.
// With -o json it also prints the answer as it came and reports that it did.
func (c *client) ask(ctx context.Context, method, path string, v, answer any) (printed bool, err error) {
	var body io.Reader
	var size int64
	if v != nil {
		b, err := json.Marshal(v)
		if err != nil {
			return false, err
		}
		body, size = bytes.NewReader(b), int64(len(b))
	}
	b, err := c.call(ctx, method, path, "application/json", body, size)
	if err != nil {
		return false, err
	}
	return c.show(b, answer)
}

func (c *client) show(b []byte, answer any) (printed bool, err error) {
	if c.format == "json" {
		if _, err := fmt.Fprintln(c.out, strings.TrimSpace(string(b))); err != nil {
			return true, err
		}
		printed = true
	}
	return printed, json.Unmarshal(b, answer)
}

// table prints rows in columns.
func (c *client) table(rows [][]string) error {
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

// whoami is who a change is recorded for, where it says who made it. The server's audit log
// has whose key it was.
func whoami() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}
