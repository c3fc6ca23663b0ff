package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strconv"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// observed is a CloudEvent with rows of a source.
type observed struct {
	Specversion     string    `json:"specversion"`
	ID              string    `json:"id"`
	Source          string    `json:"source"`
	Type            string    `json:"type"`
	Subject         string    `json:"subject"`
	Time            time.Time `json:"time"`
	Datacontenttype string    `json:"datacontenttype"`
	Data            data      `json:"data"`

	rows int
}

type data struct {
	Source string          `json:"source"`
	Rows   json.RawMessage `json:"rows"`
}

// newObserved makes the event of all n rows of a source and a minute.
func newObserved(at time.Time, source string, n int, rows json.RawMessage) observed {
	return observed{
		Specversion: "1.0", ID: source + " " + at.UTC().Format(time.RFC3339), Source: "/examples/flights/2013",
		Type: "dev.pilotlight.features.observed.v1", Subject: source, Time: at.UTC(), Datacontenttype: "application/json",
		Data: data{source, rows}, rows: n,
	}
}

// replay gives events to send, in batches. With a speed, each waits for its time: the
// first has come when it begins, and the clock goes that many times faster.
func replay(ctx context.Context, events iter.Seq2[observed, error], speed float64, most int, send func(context.Context, []observed) error) error {
	var batch []observed
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		err := send(ctx, batch)
		batch = batch[:0]
		return err
	}
	var begin time.Time // of the replay
	var first time.Time // event
	for e, err := range events {
		if err != nil {
			return fmt.Errorf("read the flights: %w", err)
		}
		if begin.IsZero() {
			begin, first = time.Now(), e.Time
		}
		if speed > 0 {
			due := begin.Add(time.Duration(float64(e.Time.Sub(first)) / speed))
			if wait := time.Until(due); wait > 0 {
				// What is due goes before the wait, not after it.
				if err := flush(); err != nil {
					return err
				}
				select {
				case <-time.After(time.Until(due)):
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
		}
		if batch = append(batch, e); len(batch) == most {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// patience is how long a server may refuse a batch or not answer.
const patience = 5 * time.Minute

// post sends a batch until it is accepted. It tries again what is refused for now, after
// the pause that the server asks for.
func post(ctx context.Context, to string, events []observed) error {
	body, err := json.Marshal(events)
	if err != nil {
		return err
	}
	_, err = backoff.Retry(ctx, func() (struct{}, error) { return struct{}{}, attempt(ctx, to, body) },
		backoff.WithBackOff(backoff.NewExponentialBackOff()), backoff.WithMaxElapsedTime(patience))
	return err
}

// attempt posts a batch once. Its error tells backoff.Retry what to do.
func attempt(ctx context.Context, to string, body []byte) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return backoff.Permanent(err)
	}
	r.Header.Set("Content-Type", "application/cloudevents-batch+json")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // it is only shown
	switch {
	case resp.StatusCode/100 == 2:
		return nil
	case resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode < http.StatusInternalServerError:
		return backoff.Permanent(fmt.Errorf("%s refuses events with %s: %s", to, resp.Status, bytes.TrimSpace(said)))
	}
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds > 0 {
		return backoff.RetryAfter(seconds)
	}
	return fmt.Errorf("%s answers %s: %s", to, resp.Status, bytes.TrimSpace(said))
}
