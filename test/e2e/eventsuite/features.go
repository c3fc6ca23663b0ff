package eventsuite

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"mime/multipart"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// definitions are those of the test of features; NAME is one of its own.
const definitions = `
entities:
  - {name: NAME_rider, keys: [{name: rider, type: string}]}
sources:
  - name: NAME_rides
    fields:
      - {name: rider, type: string, required: true}
      - {name: event_timestamp, type: timestamp, required: true}
      - {name: minutes, type: float64, min: 0}
views:
  - name: NAME_last
    entities: [NAME_rider]
    source: NAME_rides
    ttl: 1d
  - name: NAME_day
    entities: [NAME_rider]
    source: NAME_rides
    lateness: 1h
    windows:
      - {name: rides, aggregate: count, size: 12h, slide: 1h}
      - {name: mean, aggregate: mean, of: minutes, size: 12h, slide: 1h}
expressions:
  - name: NAME_now
    inputs: [{name: planned, type: float64}]
    features: [{name: ratio, type: float64, value: planned / NAME_day.mean}]
services:
  - name: NAME
    features:
      - NAME_day:rides
      - {feature: NAME_day:mean, default: -1}
      - {feature: NAME_last:minutes, default: -1}
      - {feature: NAME_now:ratio, default: -1}
`

// features: events through the broker move what the next prediction is made of.
func (s *System) features(t *testing.T) {
	name := "suite" + strings.ToLower(rand.Text()[:6])
	var applied struct{ Version int }
	call(t, s.Features, http.MethodPost, "/admin/v1/features", []byte(strings.ReplaceAll(definitions, "NAME", name)), http.StatusOK, &applied)
	if applied.Version < 1 {
		t.Errorf("got version %d of the definitions", applied.Version)
	}
	s.pushTaking(t, name, name)

	ask := func() []float64 {
		t.Helper()
		body := `{"inputs":[{"name":"rider","shape":[2,1],"datatype":"BYTES","data":["ann","bob"]},{"name":"planned","shape":[2,1],"datatype":"FP64","data":[30,30]}]}`
		var got struct{ Outputs []struct{ Data []float64 } }
		call(t, s.Predict, http.MethodPost, "/v2/models/"+name+"/infer", []byte(body), http.StatusOK, &got)
		return got.Outputs[0].Data
	}
	within(t, "predict knows the definitions", func() bool { // it looks at them every two seconds
		status, answer, err := s.Predict(t.Context(), http.MethodGet, "/v2/models/"+name, nil, nil)
		return err == nil && status == http.StatusOK && bytes.Contains(answer, []byte("rider"))
	})
	if got := ask(); !slices.Equal(got, []float64{0, -1, -1, -1, 0, -1, -1, -1}) {
		t.Errorf("before any event: got %v", got)
	}

	now := time.Now().UTC()
	rides := func(id string, rows ...string) event.Event {
		e := event.Event{}
		e.SetSpecVersion("1.0")
		e.SetID(id)
		e.SetSource("/suite/rides")
		e.SetType(event.FeaturesObserved.Name)
		data := fmt.Sprintf(`{"source":"%s_rides","rows":[%s]}`, name, strings.Join(rows, ","))
		if err := e.SetData("application/json", json.RawMessage(data)); err != nil {
			t.Fatal(err)
		}
		return e
	}
	ride := func(rider string, ago time.Duration, minutes float64) string {
		return fmt.Sprintf(`{"rider":%q,"event_timestamp":%q,"minutes":%g}`, rider, now.Add(-ago).Format(time.RFC3339Nano), minutes)
	}
	one := rides(name+"-1", ride("ann", 20*time.Minute, 10), ride("ann", 10*time.Minute, 20))
	s.send(t, one)
	s.send(t, one) // the same again counts once
	within(t, "the events move the prediction", func() bool { return slices.Equal(ask(), []float64{2, 15, 20, 2, 0, -1, -1, -1}) })
	// Out of order, and one too late to count; a broken row beside a good one.
	s.send(t, rides(name+"-2", ride("ann", 30*time.Minute, 60), ride("ann", 5*time.Hour, 999), ride("bob", time.Minute, -5), ride("bob", time.Minute, 40)))
	within(t, "all that counts has come", func() bool { return slices.Equal(ask(), []float64{3, 30, 20, 1, 1, 40, 40, .75}) })

	// What predict takes is what Feast's clients are told.
	var feast struct {
		Results []struct {
			Values   []any
			Statuses []string
		}
	}
	call(t, s.Features, http.MethodPost, "/get-online-features",
		[]byte(fmt.Sprintf(`{"features":["%[1]s_day:rides","%[1]s_last:minutes"],"entities":{"rider":["ann","eve"]}}`, name)), http.StatusOK, &feast)
	if got, want := fmt.Sprint(feast.Results), "[{[ann eve] [PRESENT PRESENT]} {[3 0] [PRESENT PRESENT]} {[20 <nil>] [PRESENT NOT_FOUND]}]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}

	// What models were given reaches the log, and history says the same.
	var skew struct {
		Vectors  int
		Features []struct {
			Feature    string
			Compared   int
			Mismatched int
			Example    json.RawMessage
		}
	}
	within(t, "what was served is compared", func() bool {
		span := fmt.Sprintf(`{"from":%q,"to":%q}`, now.Format(time.RFC3339Nano), time.Now().UTC().Format(time.RFC3339Nano))
		call(t, s.Features, http.MethodPost, "/admin/v1/features/skew", []byte(span), http.StatusOK, &skew)
		compared := 0
		for _, f := range skew.Features {
			if strings.HasPrefix(f.Feature, name) {
				compared++
			}
		}
		return compared == 4
	})
	for _, f := range skew.Features {
		if strings.HasPrefix(f.Feature, name) && f.Mismatched > 0 {
			t.Errorf("%s: %d of %d differ from history: %s", f.Feature, f.Mismatched, f.Compared, f.Example)
		}
	}

	// An event of a source that nobody defined can't ever succeed.
	lost := rides(name+"-3", `{}`)
	if err := lost.SetData("application/json", json.RawMessage(`{"source":"`+name+`_none","rows":[]}`)); err != nil {
		t.Fatal(err)
	}
	s.send(t, lost)
	s.dead(t, lost.ID(), http.StatusUnprocessableEntity)
}

// pushTaking pushes a model that answers with the four features of a service.
func (s *System) pushTaking(t *testing.T, name, service string) {
	t.Helper()
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	if err := form.WriteField("settings", `{"features":"`+service+`"}`); err != nil {
		t.Fatal(err)
	}
	part, err := form.CreateFormFile("model", "identity.onnx")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := part.Write(onnxtest.Identity(tensor.Spec{Type: tensor.FP32, Shape: []int64{-1, 4}}).Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := form.Close(); err != nil {
		t.Fatal(err)
	}
	status, answer, err := s.Predict(t.Context(), http.MethodPost, "/admin/v1/models/"+name+"/versions", http.Header{"Content-Type": {form.FormDataContentType()}}, body.Bytes())
	if err != nil || status != http.StatusCreated {
		t.Fatalf("push: %d %s %v", status, answer, err)
	}
}
