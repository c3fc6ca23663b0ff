package flights_test

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"testing"
	"time"

	_ "github.com/duckdb/duckdb-go/v2" // the driver

	"github.com/pilotlight-ml/pilotlight/internal/predict/predicttest"
)

// Each feature of the flight in request.json in SQL, over rows/: $1 is the moment, $2 the entity's key. What features.json
// says was computed by Pilotlight, for the training set.
var features = map[string]struct{ key, query string }{
	"dewp":                      {"origin", newest("dewp")},
	"humid":                     {"origin", newest("humid")},
	"wind_speed":                {"origin", newest("wind_speed")},
	"precip":                    {"origin", newest("precip")},
	"pressure":                  {"origin", newest("pressure")},
	"visib":                     {"origin", newest("visib")},
	"dep_delay_mean_1h":         {"origin", window("avg(dep_delay)", "departures", "departed_at", "origin", 60, 5)},
	"dep_delay_mean_3h":         {"origin", window("avg(dep_delay)", "departures", "departed_at", "origin", 180, 5)},
	"departures_1h":             {"origin", window("count(*)", "departures", "departed_at", "origin", 60, 5)},
	"carrier_dep_delay_mean_3h": {"carrier", window("avg(dep_delay)", "departures", "departed_at", "carrier", 180, 5)},
	"carrier_arr_delay_mean_3h": {"carrier", window("avg(arr_delay)", "arrivals", "arrived_at", "carrier", 180, 5)},
	"origin_arr_delay_mean_3h":  {"origin", window("avg(arr_delay)", "arrivals", "arrived_at", "origin", 180, 5)},
	"dest_arr_delay_mean_3h":    {"dest", window("avg(arr_delay)", "arrivals", "arrived_at", "dest", 180, 5)},
	"dest_arr_delay_mean_12h":   {"dest", window("avg(arr_delay)", "arrivals", "arrived_at", "dest", 720, 30)},
	"aircraft_arr_delay": {"tailnum", `SELECT arr_delay FROM 'rows/arrivals.jsonl'
		WHERE tailnum = $2 AND arrived_at <= $1 AND arrived_at >= $1::TIMESTAMPTZ - INTERVAL 12 HOUR ORDER BY arrived_at DESC LIMIT 1`},
}

// window is an aggregate of the steps that end with the one that the moment lies in, of what was known then.
func window(aggregate, source, at, key string, minutes, step int) string {
	return fmt.Sprintf(`SELECT %s::DOUBLE FROM 'rows/%s.jsonl' WHERE %s = $2 AND %s <= $1
		AND %[4]s >= time_bucket(INTERVAL %[5]d MINUTE, $1::TIMESTAMPTZ) + INTERVAL %[5]d MINUTE - INTERVAL %[6]d MINUTE`, aggregate, source, key, at, step, minutes)
}

// newest is a column of the newest observation of the last three hours that was known.
func newest(column string) string {
	return fmt.Sprintf(`SELECT %s::DOUBLE FROM 'rows/weather.parquet' WHERE origin = $2 AND known_at <= $1
		AND observed_at >= $1::TIMESTAMPTZ - INTERVAL 3 HOUR ORDER BY observed_at DESC LIMIT 1`, column)
}

func readJSON(t *testing.T, name string, v any) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return b
}

// request is one of inference, of one flight.
type request struct {
	Parameters struct {
		At time.Time `json:"feature_time"`
	} `json:"parameters"`
	Inputs []struct {
		Name string `json:"name"`
		Data []any  `json:"data"`
	} `json:"inputs"`
}

func (r *request) values() map[string]any {
	values := map[string]any{}
	for _, in := range r.Inputs {
		values[in.Name] = in.Data[0]
	}
	return values
}

func TestFeaturesOfTheRequest(t *testing.T) {
	var keys, complete request
	readJSON(t, "request.json", &keys)
	body := readJSON(t, "complete.json", &complete)
	var want struct {
		Features map[string]*float64 `json:"features"`
		Outputs  outputs             `json:"outputs"`
	}
	readJSON(t, "features.json", &want)
	if len(want.Features) != len(features) {
		t.Errorf("features.json has %d features, and %d are known here", len(want.Features), len(features))
	}
	db, err := sql.Open("duckdb", "")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for name, f := range features {
		var got sql.NullFloat64
		if err := db.QueryRowContext(t.Context(), f.query, keys.Parameters.At, keys.values()[f.key]).Scan(&got); err != nil && !errors.Is(err, sql.ErrNoRows) {
			t.Fatalf("%s: %v", name, err)
		}
		told := want.Features[name]
		if got.Valid != (told != nil) || told != nil && math.Abs(got.Float64-*told) > 1e-9 {
			t.Errorf("%s: SQL says %v, Pilotlight %v", name, got, told)
		}
		expected := -999.0 // not known
		if told != nil {
			expected = *told
		}
		if given, ok := complete.values()[name].(float64); !ok || float32(given) != float32(expected) {
			t.Errorf("%s: complete.json gives %v, want %v", name, complete.values()[name], expected)
		}
	}
	s := predicttest.Start(t, nil, nil)
	s.PushFile(t, "flights", "flights.onnx")
	a := s.Do(t, "POST", "/v2/models/flights/infer", string(body))
	var got struct {
		Outputs outputs `json:"outputs"`
	}
	if err := json.Unmarshal([]byte(a.Body), &got); a.Status != 200 || err != nil || len(got.Outputs) != 2 {
		t.Fatalf("status %d, %v: %s", a.Status, err, a.Body)
	}
	if p := got.Outputs[0].Data[0]; math.Abs(p-want.Outputs[0].Data[0]) > 1e-5 {
		t.Errorf("got a probability of %v, want %v", p, want.Outputs[0].Data[0])
	}
}
