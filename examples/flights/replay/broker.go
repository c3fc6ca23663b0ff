package main

import (
	"context"
	"encoding/json"
	"time"
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
}

type data struct {
	Source string          `json:"source"`
	Rows   json.RawMessage `json:"rows"`
}

// newObserved makes the event of all rows of a source and a minute.
func newObserved(h happening) observed {
	return observed{
		Specversion: "1.0", ID: h.source + " " + h.at.Format(time.RFC3339), Source: "/examples/flights/2013",
		Type: "dev.pilotlight.features.observed.v1", Subject: h.source, Time: h.at, Datacontenttype: "application/json",
		Data: data{h.source, h.rows},
	}
}

// broker sends departures and arrivals as events, in batches. An event's id is its minute and source, so what is sent
// again, by a retry or by another replay, counts once.
type broker struct {
	to   string // its URL
	most int    // events a request
	told func(at time.Time, rows int)

	batch []observed
	rows  int
}

func (b *broker) take(ctx context.Context, h happening) error {
	b.batch = append(b.batch, newObserved(h))
	b.rows += h.n
	if len(b.batch) < b.most {
		return nil
	}
	return b.flush(ctx)
}

func (b *broker) flush(ctx context.Context) error {
	if len(b.batch) == 0 {
		return nil
	}
	body, err := json.Marshal(b.batch)
	if err != nil {
		return err
	}
	if _, _, err := post(ctx, b.to, "application/cloudevents-batch+json", body); err != nil {
		return err
	}
	b.told(b.batch[len(b.batch)-1].Time, b.rows)
	b.batch, b.rows = b.batch[:0], 0
	return nil
}
