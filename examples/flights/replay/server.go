package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// server is told what happens as it happens: rows by /push, which answers once they are in the log and online, so that
// what is asked next knows them and nothing later. It is asked about each flight, and told what came true.
//
// Nothing counts twice where it is all done again: rows are known by what they hold and outcomes by what they say, and
// where the server had all rows up to an ask before, nothing is asked: it was then, and now the answer would know what came later.
type server struct {
	url   string
	model string // that is asked
	most  int    // rows or outcomes a request
	told  func(at time.Time, flights int)
	// loop is whom answers and outcomes are shown to; nil: nobody. Another model, with the same features, is asked the same then.
	loop *loop

	pending  map[string][]map[string]json.RawMessage // rows by source, since what was asked last
	rows     int                                     // of pending
	lived    bool                                    // it had all rows that were pushed last
	outcomes []json.RawMessage
	since    time.Time // of the first of outcomes

	sums
}

// sums is what a replay did.
type sums struct {
	pushed, known, asked, requests, skipped, sent int
}

func newServer(base string, most int, told func(time.Time, int)) *server {
	return &server{url: strings.TrimSuffix(base, "/"), model: "flights", most: most, told: told, pending: map[string][]map[string]json.RawMessage{}}
}

// take ends with ctx only before an ask that has rows of its own: another replay, which goes by these, begins with it then.
func (s *server) take(ctx context.Context, h happening) error {
	if ctx.Err() != nil && h.source == "asks" && s.rows > 0 {
		return context.Cause(ctx)
	}
	ctx = context.WithoutCancel(ctx)
	switch h.source {
	case "asks":
		if err := s.push(ctx); err != nil {
			return err
		}
		if err := s.ask(ctx, h); err != nil {
			return fmt.Errorf("ask about the flights of %s: %w", h.at.Format(time.RFC3339), err)
		}
		s.told(h.at, h.n)
		return nil
	case "outcomes":
		if len(s.outcomes) == 0 {
			s.since = h.at
		}
		if s.loop != nil {
			if err := s.loop.scores.cameTrue(h); err != nil {
				return err
			}
		}
		more, err := list[json.RawMessage](h)
		if err != nil {
			return err
		}
		if s.outcomes = append(s.outcomes, more...); len(s.outcomes) < s.most {
			return nil
		}
		return s.settle(ctx)
	}
	more, err := list[map[string]json.RawMessage](h)
	if err != nil {
		return err
	}
	s.pending[h.source] = append(s.pending[h.source], more...)
	if s.rows += len(more); s.rows < s.most {
		return nil
	}
	return s.push(ctx)
}

func list[T any](h happening) (all []T, err error) {
	if err := json.Unmarshal(h.rows, &all); err != nil {
		return nil, fmt.Errorf("%s of %s: %w", h.source, h.at.Format(time.RFC3339), err)
	}
	return all, nil
}

func (s *server) flush(ctx context.Context) error {
	if err := s.push(ctx); err != nil {
		return err
	}
	return s.settle(ctx)
}

// push sends the rows that are pending. Those of several sources do not wait for each other.
func (s *server) push(ctx context.Context) error {
	if s.rows == 0 {
		return nil
	}
	var mu sync.Mutex
	known := 0
	group, ctx := errgroup.WithContext(ctx)
	for source, rows := range s.pending {
		if len(rows) == 0 {
			continue
		}
		group.Go(func() error {
			n, err := s.pushOf(ctx, source, rows)
			mu.Lock()
			defer mu.Unlock()
			known += n
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	s.lived = known == s.rows
	s.pushed, s.known = s.pushed+s.rows, s.known+known
	for source, rows := range s.pending {
		s.pending[source] = rows[:0]
	}
	s.rows = 0
	return nil
}

// pushOf sends rows of a source, and tells how many of them the server knew before.
func (s *server) pushOf(ctx context.Context, source string, rows []map[string]json.RawMessage) (known int, err error) {
	to := "online_and_offline"
	if source == "weather" && s.loop == nil { // whose history are files
		to = "online"
	}
	columns := make(map[string][]json.RawMessage, len(rows[0]))
	for name := range rows[0] {
		column := make([]json.RawMessage, len(rows))
		for i, r := range rows {
			column[i] = r[name]
		}
		columns[name] = column
	}
	body, err := json.Marshal(map[string]any{"push_source_name": source, "to": to, "df": columns})
	if err != nil {
		return 0, err
	}
	answer, again, err := post(ctx, s.url+"/push", "application/json", body)
	if err != nil {
		return 0, fmt.Errorf("push %s: %w", source, err)
	}
	var result struct {
		Rejected, Duplicates, Late, Older, Refused int
		Rejections                                 []struct{ Detail string }
	}
	if err := json.Unmarshal(answer, &result); err != nil {
		return 0, fmt.Errorf("push %s: %w", source, err)
	}
	if result.Rejected > 0 {
		return 0, fmt.Errorf("push %s: %d of %d rows are rejected: %s", source, result.Rejected, len(rows), result.Rejections[0].Detail)
	}
	if again { // it may know them of the first attempt
		return 0, nil
	}
	return result.Duplicates + result.Late + result.Older + result.Refused, nil
}

// asks are the inputs about all flights of a minute.
type asks struct {
	Carrier []string `json:"carrier"`
	Origin  []string `json:"origin"`
	Dest    []string `json:"dest"`
	Tailnum []string `json:"tailnum"`
	Day     []int    `json:"day_of_week"`
	Clock   []int    `json:"sched_dep_time"`
}

// input is one of a request's in the Open Inference Protocol.
type input struct {
	Name     string `json:"name"`
	Datatype string `json:"datatype"`
	Shape    [2]int `json:"shape"`
	Data     any    `json:"data"`
}

// ask asks about all flights of a minute in one request, whose id is that minute.
func (s *server) ask(ctx context.Context, h happening) error {
	if s.lived {
		s.skipped += h.n
		return nil
	}
	var q asks
	if err := json.Unmarshal(h.rows, &q); err != nil {
		return err
	}
	shape := [2]int{h.n, 1}
	body, err := json.Marshal(map[string]any{
		"id": h.at.Format(time.RFC3339), "parameters": map[string]string{"feature_time": h.at.Format(time.RFC3339)},
		"inputs": []input{
			{"carrier", "BYTES", shape, q.Carrier},
			{"origin", "BYTES", shape, q.Origin},
			{"dest", "BYTES", shape, q.Dest},
			{"tailnum", "BYTES", shape, q.Tailnum},
			{"day_of_week", "INT64", shape, q.Day},
			{"sched_dep_time", "INT64", shape, q.Clock},
		},
	})
	if err != nil {
		return err
	}
	if s.loop == nil {
		_, err = s.infer(ctx, s.model, h.n, body)
	} else {
		var said, still []float64
		group, each := errgroup.WithContext(ctx)
		group.Go(func() (err error) {
			said, err = s.infer(each, s.model, h.n, body)
			return err
		})
		group.Go(func() (err error) {
			still, err = s.infer(each, frozen, h.n, body)
			return err
		})
		if err = group.Wait(); err == nil {
			s.loop.scores.asked(h.at, said, still)
		}
	}
	if err != nil {
		return err
	}
	s.asked, s.requests = s.asked+h.n, s.requests+1
	return nil
}

// infer asks a model about n flights, and gives the probability of each.
func (s *server) infer(ctx context.Context, model string, n int, body []byte) (probabilities []float64, err error) {
	b, _, err := post(ctx, s.url+"/v2/models/"+model+"/infer", "application/json", body)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Outputs []struct {
			Name string
			Data []float64
		}
	}
	if err := json.Unmarshal(b, &answer); err != nil {
		return nil, err
	}
	for _, o := range answer.Outputs {
		if len(o.Data) != n {
			return nil, fmt.Errorf("the answer says %d times %s of %d flights", len(o.Data), o.Name, n)
		}
		if o.Name == "probability" {
			probabilities = o.Data
		}
	}
	return probabilities, nil
}

// settle tells what came true.
func (s *server) settle(ctx context.Context) error {
	if len(s.outcomes) == 0 {
		return nil
	}
	body, err := json.Marshal(s.outcomes)
	if err != nil {
		return err
	}
	b, _, err := post(ctx, s.url+"/feedback", "application/json", body)
	if err != nil {
		return fmt.Errorf("send %d outcomes: %w", len(s.outcomes), err)
	}
	var result struct {
		Accepted   int
		Rejections []struct{ Detail string }
	}
	if err := json.Unmarshal(b, &result); err != nil {
		return err
	}
	if len(result.Rejections) > 0 {
		return fmt.Errorf("%d of %d outcomes are rejected: %s", len(s.outcomes)-result.Accepted, len(s.outcomes), result.Rejections[0].Detail)
	}
	s.sent += len(s.outcomes)
	s.outcomes = s.outcomes[:0]
	return nil
}

// leave sends the outcomes that were kept when something went wrong, if it still can.
func (s *server) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	_ = s.settle(ctx) // report tells of those that are left
}

// report tells what was done.
func (s *server) report(out io.Writer) {
	fmt.Fprintf(out, "%d rows pushed, %d flights asked about in %d requests, %d outcomes sent\n", s.pushed, s.asked, s.requests, s.sent)
	if s.skipped > 0 {
		fmt.Fprintf(out, "%d flights not asked about again: the server had the rows up to them (%d of all), and would know now what came later\n", s.skipped, s.known)
	}
	if len(s.outcomes) > 0 {
		fmt.Fprintf(out, "%d outcomes from %s on are not sent\n", len(s.outcomes), s.since.Format(time.RFC3339))
	}
}

// checkURL refuses what is no base URL of a server.
func checkURL(s string) error {
	if u, err := url.Parse(s); err != nil || u.Scheme == "" || u.Host == "" {
		return fmt.Errorf("-ask is %q, expected a URL such as http://127.0.0.1:8080", s)
	}
	return nil
}
