package feature

import (
	"context"
	"io"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// Every value that is read is counted by its view and by what it was found to be.
func TestReadsAreMeasured(t *testing.T) {
	c, o := tableSet(t), openMem(t)
	fill(t, o, c)
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tel.Shutdown(context.Background()) })
	table := newTable(o, c)
	if err := table.Measure(tel); err != nil {
		t.Fatal(err)
	}
	p, err := c.Features([]string{"carriers:delay", "carriers:seats", "worse:than", "carriers:codes"}, true)
	if err != nil {
		t.Fatal(err)
	}
	limit := row.OfFloat64(5)
	given := Given{"carrier": texts("AA", "UA", "DL", "XX"), "limit": {limit, limit, limit, limit}}
	var answers Answers
	const reads = agesEvery + 1
	for range reads {
		if err := table.Read(t.Context(), p, given, 4, noon, &answers); err != nil {
			t.Fatal(err)
		}
	}
	if err := table.Read(t.Context(), p, Given{}, 4, noon, &answers); err == nil {
		t.Fatal("it was read without keys")
	}
	w := httptest.NewRecorder()
	tel.Metrics().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	for _, want := range []string{
		`pilotlight_features_values_total{status="present",view="carriers"} 85`,         // 3 of AA, 2 of DL
		`pilotlight_features_values_total{status="outside_max_age",view="carriers"} 51`, // of UA
		`pilotlight_features_values_total{status="null_value",view="carriers"} 17`,      // the seats of DL
		`pilotlight_features_values_total{status="not_found",view="carriers"} 51`,       // of XX
		`pilotlight_features_values_total{status="present",view="worse"} 34`,
		`pilotlight_features_values_total{status="null_value",view="worse"} 34`,
		`pilotlight_features_read_duration_seconds_count{outcome="read"} 17`,
		`pilotlight_features_read_duration_seconds_count{outcome="failed"} 1`,
		`pilotlight_features_read_rows_total 68`,
		`pilotlight_features_age_seconds_count{view="carriers"} 4`,   // of two reads, whose columns of the view are not side by side
		`pilotlight_features_age_seconds_sum{view="carriers"} 14400`, // DL's are an hour old
	} {
		if !strings.Contains(w.Body.String(), want+"\n") {
			t.Errorf("the metrics lack %s", want)
		}
	}
	if !strings.Contains(w.Body.String(), `pilotlight_features_newest_age_seconds{view="carriers"}`) {
		t.Error("the age of the newest value is missing")
	}
}

// BenchmarkMeasuredRead is what measuring adds to a read of a row in memory.
func BenchmarkMeasuredRead(b *testing.B) {
	c, o := tableSet(b), openMem(b)
	fill(b, o, c)
	tel, err := telemetry.Start(b.Context(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		b.Fatal(err)
	}
	p, err := c.Service("model")
	if err != nil {
		b.Fatal(err)
	}
	given := Given{"carrier": texts("AA"), "origin": texts("EWR"), "dest": texts("LAX"), "limit": {row.OfFloat64(5)}}
	for _, name := range []string{"plain", "measured"} {
		table := newTable(o, c)
		if name == "measured" {
			if err := table.Measure(tel); err != nil {
				b.Fatal(err)
			}
		}
		b.Run(name, func(b *testing.B) {
			var answers Answers
			b.ReportAllocs()
			for b.Loop() {
				if err := table.Read(b.Context(), p, given, 1, noon, &answers); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
