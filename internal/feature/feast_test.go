package feature

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/feast"
	"github.com/pilotlight-ml/pilotlight/internal/rpc"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
)

// driversYAML is what test/conformance/feast_sdk.py defines for Feast.
const driversYAML = `
entities:
  - {name: driver, keys: [{name: driver_id, type: int64}]}
  - {name: airport, keys: [{name: origin, type: string}]}
sources:
  - name: stats_push
    created: created
    fields:
      - {name: driver_id, type: int64}
      - {name: rate, type: float64, min: -1000}
      - {name: trips, type: int32}
      - {name: tags, type: list(string)}
      - {name: since, type: timestamp}
      - {name: small, type: float32}
      - {name: raw, type: bytes}
      - {name: event_timestamp, type: timestamp}
      - {name: created, type: timestamp}
  - name: pairs
    fields:
      - {name: driver_id, type: int64}
      - {name: origin, type: string}
      - {name: seen, type: int64}
      - {name: open, type: bool}
      - {name: event_timestamp, type: timestamp}
  - name: rides
    fields:
      - {name: driver_id, type: int64}
      - {name: fare, type: float64}
      - {name: event_timestamp, type: timestamp}
views:
  - {name: driver_stats, entities: [driver], source: stats_push, ttl: 1d, features: [rate, trips, small]}
  - {name: driver_raw, entities: [driver], source: stats_push, features: [raw]}
  - {name: driver_tags, entities: [driver], source: stats_push, features: [tags, since]}
  - {name: at_airport, entities: [driver, airport], source: pairs, features: [seen, open]}
  - name: fares
    entities: [driver]
    source: rides
    windows:
      - {name: rides_1h, aggregate: count, size: 1h, slide: 1m}
      - {name: fare_1h, aggregate: sum, of: fare, size: 1h, slide: 1m}
expressions:
  - name: worth
    inputs: [{name: amount, type: float64}]
    features: [{name: value, type: float64, value: "driver_stats.rate * amount"}]
services:
  - name: eta
    features: ["driver_stats:rate", "driver_tags:tags", "at_airport:seen"]
  - name: worthy
    features: ["worth:value"]
`

// feastServer serves Feast's protocol on a port of its own until the test ends.
func feastServer(t testing.TB, online store.Online, yaml string, now time.Time) string {
	t.Helper()
	blob := bucket(t)
	catalog := newCatalog(blob)
	set, err := Parse("drivers.yaml", []byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := catalog.Apply(t.Context(), set, nil, "test", false); err != nil {
		t.Fatal(err)
	}
	in := ingest(t, ample, IngestDeps{Catalog: catalog, Online: online, Blob: blob})
	in.now = func() time.Time { return now }
	f := NewFeast(NewTable(online, catalog.Current), in, catalog, "1.2.3")
	f.now = in.now
	mux := http.NewServeMux()
	f.Register(mux)
	rpc.Register(mux, func() error { return nil }, f.Service())
	var c serve.Config
	if _, err := env.Load(map[string]string{"PORT": "0"}, &c); err != nil {
		t.Fatal(err)
	}
	tel := mute(t)
	s, err := serve.Open(t.Context(), &c, tel, mux)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s.Addr().String()
}

func memory(t testing.TB) store.Online {
	t.Helper()
	o, err := memstore.OpenOnline(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func post(t testing.TB, url, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

const pushed = `{"push_source_name":"stats_push","to":"online_and_offline","df":{"driver_id":[1001,1002,1003],"rate":[0.5,null,0.25],"trips":[3,4,5],
	"tags":[["a","b"],[],null],"since":[1357095845,null,"2013-01-02T03:04:05"],"small":[0.1,5,-1],"raw":["AP8=",null,""],
	"event_timestamp":["2026-11-25T11:59:00.123","2026-11-25T11:00:00","2026-11-20T00:00:00Z"],"created":["2026-11-25T11:59:01","2026-11-25T11:00:01","2026-11-20T00:00:01"]}}`

func TestFeastReadsWhatWasPushed(t *testing.T) {
	url := "http://" + feastServer(t, memory(t), driversYAML, noon)
	for range 2 { // the second time they are known
		if code, body := post(t, url+"/push", pushed); code != http.StatusOK || !strings.Contains(body, `"accepted":3`) {
			t.Fatalf("push: %d %s", code, body)
		}
	}
	if code, body := post(t, url+"/write-to-online-store", `{"feature_view_name":"at_airport","df":{"driver_id":[1001],"origin":["JFK"],"seen":[7],"open":[true],"event_timestamp":["2026-11-25T10:00:00"],"created":[null]}}`); code != http.StatusOK {
		t.Fatalf("write: %d %s", code, body)
	}
	for _, c := range []struct{ name, request, want string }{
		{
			"statuses", `{"features":["driver_stats:rate","driver_stats:trips"],"entities":{"driver_id":[1001,1002,1003,1004,1001]}}`,
			`{"metadata":{"feature_names":["driver_id","rate","trips"]},"results":[
			{"values":[1001,1002,1003,1004,1001],"statuses":["PRESENT","PRESENT","PRESENT","PRESENT","PRESENT"],
			 "event_timestamps":["1970-01-01T00:00:00Z","1970-01-01T00:00:00Z","1970-01-01T00:00:00Z","1970-01-01T00:00:00Z","1970-01-01T00:00:00Z"]},
			{"values":[0.5,null,null,null,0.5],"statuses":["PRESENT","NULL_VALUE","OUTSIDE_MAX_AGE","NOT_FOUND","PRESENT"],
			 "event_timestamps":["2026-11-25T11:59:00.123Z","2026-11-25T11:00:00Z","2026-11-20T00:00:00Z","1970-01-01T00:00:00Z","2026-11-25T11:59:00.123Z"]},
			{"values":[3,4,null,null,3],"statuses":["PRESENT","PRESENT","OUTSIDE_MAX_AGE","NOT_FOUND","PRESENT"],
			 "event_timestamps":["2026-11-25T11:59:00.123Z","2026-11-25T11:00:00Z","2026-11-20T00:00:00Z","1970-01-01T00:00:00Z","2026-11-25T11:59:00.123Z"]}]}`,
		},
		{
			"types and full names", `{"features":["driver_tags:tags","driver_tags:since","driver_stats:small","driver_raw:raw"],"full_feature_names":true,"entities":{"driver":[1001]}}`,
			`{"metadata":{"feature_names":["driver_id","driver_tags__tags","driver_tags__since","driver_stats__small","driver_raw__raw"]},"results":[
			{"values":[1001],"statuses":["PRESENT"],"event_timestamps":["1970-01-01T00:00:00Z"]},
			{"values":[["a","b"]],"statuses":["PRESENT"],"event_timestamps":["2026-11-25T11:59:00.123Z"]},
			{"values":[1357095845],"statuses":["PRESENT"],"event_timestamps":["2026-11-25T11:59:00.123Z"]},
			{"values":[0.10000000149011612],"statuses":["PRESENT"],"event_timestamps":["2026-11-25T11:59:00.123Z"]},
			{"values":["AP8="],"statuses":["PRESENT"],"event_timestamps":["2026-11-25T11:59:00.123Z"]}]}`,
		},
		{
			"service and versions", `{"feature_service":"eta","entities":{"origin":["JFK"],"driver_id":[1001],"more":["x"]},"include_feature_view_version_metadata":true}`,
			`{"metadata":{"feature_names":["driver_id","origin","rate","tags","seen"],"feature_view_metadata":[{"name":"driver_stats","version":1},{"name":"driver_tags","version":1},{"name":"at_airport","version":1}]},"results":[
			{"values":[1001],"statuses":["PRESENT"],"event_timestamps":["1970-01-01T00:00:00Z"]},
			{"values":["JFK"],"statuses":["PRESENT"],"event_timestamps":["1970-01-01T00:00:00Z"]},
			{"values":[0.5],"statuses":["PRESENT"],"event_timestamps":["2026-11-25T11:59:00.123Z"]},
			{"values":[["a","b"]],"statuses":["PRESENT"],"event_timestamps":["2026-11-25T11:59:00.123Z"]},
			{"values":[7],"statuses":["PRESENT"],"event_timestamps":["2026-11-25T10:00:00Z"]}]}`,
		},
		{
			"request data", `{"feature_service":"worthy","entities":{"driver_id":[1001]},"request_context":{"amount":[3]}}`,
			`{"metadata":{"feature_names":["driver_id","value"]},"results":[
			{"values":[1001],"statuses":["PRESENT"],"event_timestamps":["1970-01-01T00:00:00Z"]},
			{"values":[1.5],"statuses":["PRESENT"],"event_timestamps":["1970-01-01T00:00:00Z"]}]}`,
		},
		{
			"no rows", `{"features":["driver_stats:rate"],"entities":{"driver_id":[]}}`,
			`{"metadata":{"feature_names":["driver_id","rate"]},"results":[{"values":[],"statuses":[],"event_timestamps":[]},{"values":[],"statuses":[],"event_timestamps":[]}]}`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, body := post(t, url+"/get-online-features", c.request)
			var got, want any
			if err := json.Unmarshal([]byte(body), &got); err != nil || code != http.StatusOK {
				t.Fatalf("%d %s: %v", code, body, err)
			}
			if err := json.Unmarshal([]byte(c.want), &want); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %s\nwant %s", body, c.want)
			}
		})
	}
	resp, err := http.Get(url + "/health") //nolint:noctx // a test's own server
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("health: got %d", resp.StatusCode)
	}
}

func TestFeastRefuses(t *testing.T) {
	online := memory(t)
	url := "http://" + feastServer(t, online, driversYAML, noon)
	for _, c := range []struct {
		path, body  string
		code        int
		class, want string
	}{
		{"/get-online-features", `{`, 400, "FeastError", "not valid JSON"},
		{"/get-online-features", `{"features":["nothing:rate"],"entities":{"driver_id":[1]}}`, 404, "FeatureViewNotFoundException", "Feature view nothing does not exist"},
		{"/get-online-features", `{"features":["driver_stats:none"],"entities":{"driver_id":[1]}}`, 404, "FeatureViewNotFoundException", "none"},
		{"/get-online-features", `{"feature_service":"none","entities":{"driver_id":[1]}}`, 404, "FeatureServiceNotFoundException", "Feature service none does not exist"},
		{"/get-online-features", `{"features":["driver_stats"],"entities":{"driver_id":[1]}}`, 400, "FeastError", "view:feature"},
		{"/get-online-features", `{"features":["driver_stats:rate"],"entities":{"user":[1]}}`, 400, "FeastError", `no column "driver_id"`},
		{"/get-online-features", `{"features":["driver_stats:rate"],"entities":{"driver_id":["x"]}}`, 400, "FeastError", `column "driver_id", row 0`},
		{"/get-online-features", `{"features":["driver_stats:rate"],"entities":{"driver_id":[1.5]}}`, 400, "FeastError", "not a value of type int64"},
		{"/get-online-features", `{"features":["at_airport:seen"],"entities":{"driver_id":[1,2],"origin":["JFK"]}}`, 400, "FeastError", "same number"},
		{"/get-online-features", `{"feature_service":"worthy","entities":{"driver_id":[1]}}`, 400, "FeastError", `no column "amount"`},
		{"/push", `{"push_source_name":"none","df":{"a":[1]}}`, 422, "PushSourceNotFoundException", "none"},
		{"/push", `{"push_source_name":"rides","df":{"driver_id":[1],"event_timestamp":["2026-11-25T11:00:00"]}}`, 400, "FeastError", `no column "fare"`},
		{"/push", `{"push_source_name":"rides","df":{"driver_id":[1],"fare":[1]}}`, 400, "FeastError", `no column "event_timestamp"`},
		{"/push", `{"push_source_name":"rides","df":{"driver_id":[1,2],"fare":[1],"event_timestamp":["2026-11-25T11:00:00"]}}`, 400, "FeastError", "same number"},
		{"/push", `{"push_source_name":"rides","df":{"driver_id":[1,2],"fare":[1,"x"],"event_timestamp":["2026-11-25T11:00:00","2026-11-25T11:00:00"]}}`, 400, "FeastError", `column "fare", row 1`},
		{"/push", `{"push_source_name":"rides","to":"moon","df":{"driver_id":[1]}}`, 400, "FeastError", "moon"},
		{"/push", `{"push_source_name":"rides","df":{"driver_id":[1],"fare":[1],"event_timestamp":["2027-11-25T11:00:00"]}}`, 400, "FeastError", "all 1 rows are rejected"},
		{"/write-to-online-store", `{"feature_view_name":"none","df":{"a":[1]}}`, 404, "FeatureViewNotFoundException", "none"},
		{"/write-to-online-store", `{"feature_view_name":"fares","df":{"driver_id":[1],"rides_1h":[3],"event_timestamp":["2026-11-25T11:00:00"]}}`, 400, "FeastError", `no column "fare"`},
	} {
		code, body := post(t, url+c.path, c.body)
		var text string
		var detail struct{ Module, Class, Message string }
		if err := json.Unmarshal([]byte(body), &text); err != nil {
			t.Errorf("%s: %d %s: %v", c.body, code, body, err)
			continue
		}
		if err := json.Unmarshal([]byte(text), &detail); err != nil {
			t.Errorf("%s: %d %s: %v", c.body, code, text, err)
		}
		if code != c.code || detail.Class != c.class || detail.Module != "feast.errors" || !strings.Contains(detail.Message, c.want) {
			t.Errorf("%s %s: got %d %+v, want %d %s %q", c.path, c.body, code, detail, c.code, c.class, c.want)
		}
	}
	code, body := post(t, url+"/get-online-features", `{"features":["driver_stats:rate","fares:rides_1h"],"entities":{"driver_id":[1]}}`)
	if code != http.StatusOK || strings.Contains(body, "2026") {
		t.Errorf("what was refused has left something: %d %s", code, body)
	}
}

func TestFeastOverGRPC(t *testing.T) {
	addr := feastServer(t, memory(t), driversYAML, noon)
	if code, body := post(t, "http://"+addr+"/push", pushed); code != http.StatusOK {
		t.Fatalf("push: %d %s", code, body)
	}
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var file descriptorpb.FileDescriptorProto
	if err := proto.Unmarshal(feast.Descriptor, &file); err != nil {
		t.Fatal(err)
	}
	declared, err := protodesc.NewFile(&file, nil)
	if err != nil {
		t.Fatal(err)
	}
	call := func(method, in string) (string, error) {
		t.Helper()
		m := declared.Services().Get(0).Methods().ByName(protoreflect.Name(method))
		request, response := dynamicpb.NewMessage(m.Input()), dynamicpb.NewMessage(m.Output())
		if err := protojson.Unmarshal([]byte(in), request); err != nil {
			t.Fatal(err)
		}
		err := conn.Invoke(t.Context(), "/"+feast.Service+"/"+method, request, response)
		b, _ := protojson.MarshalOptions{UseProtoNames: true}.Marshal(response)
		var compact bytes.Buffer
		if err := json.Compact(&compact, b); err != nil {
			t.Fatal(err)
		}
		return compact.String(), err
	}
	if got, err := call("GetFeastServingInfo", `{}`); err != nil || got != `{"version":"1.2.3"}` {
		t.Errorf("got %s, %v", got, err)
	}
	got, err := call("GetOnlineFeatures", `{"features":{"val":["driver_stats:rate","driver_tags:tags"]},"entities":{"driver_id":{"val":[{"int64_val":1001},{"int32_val":1004}]}}}`)
	want := `{"metadata":{"feature_names":{"val":["driver_id","rate","tags"]}},"results":[` +
		`{"values":[{"int64_val":"1001"},{"int64_val":"1004"}],"statuses":["PRESENT","PRESENT"],"event_timestamps":[{},{}]},` +
		`{"values":[{"double_val":0.5},{}],"statuses":["PRESENT","NOT_FOUND"],"event_timestamps":[{"seconds":"1795607940","nanos":123000000},{}]},` +
		`{"values":[{"string_list_val":{"val":["a","b"]}},{}],"statuses":["PRESENT","NOT_FOUND"],"event_timestamps":[{"seconds":"1795607940","nanos":123000000},{}]}],"status":true}`
	if err != nil || got != want {
		t.Errorf("got  %s, %v\nwant %s", got, err, want)
	}
	if _, err := call("GetOnlineFeatures", `{"features":{"val":["none:rate"]},"entities":{"driver_id":{"val":[{"int64_val":1}]}}}`); status.Code(err) != codes.NotFound {
		t.Errorf("an unknown view: got %v, want not found", err)
	}
	if _, err := call("GetOnlineFeatures", `{"features":{"val":["driver_stats:rate"]},"entities":{"driver_id":{"val":[{"string_val":"x"}]}}}`); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a key of another type: got %v, want an invalid argument", err)
	}
}

// feastPython finds the Python that has feast; without it the test is skipped, in CI it fails.
func feastPython(t testing.TB) string {
	t.Helper()
	python, err := filepath.Abs("../../.venv-feast/bin/python")
	if err == nil {
		_, err = os.Stat(python)
	}
	if err != nil {
		const how = "no Python environment with feast: run `make feast`"
		if os.Getenv("CI") != "" {
			t.Fatal(how)
		}
		t.Skip(how)
	}
	return python
}

func runPython(t testing.TB, python, script string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, python, append([]string{"-W", "ignore", filepath.Join("../../test/conformance", script)}, args...)...)
	cmd.Env = append(os.Environ(), "FEAST_USAGE=False", "HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// TestFeastSDK runs Feast's own SDK, unchanged, against the server.
func TestFeastSDK(t *testing.T) {
	python := feastPython(t)
	for name, online := range map[string]store.Online{"memory": memory(t), "redis": redisOnline(t, storetest.RedisURL(t))} {
		t.Run(name, func(t *testing.T) {
			runPython(t, python, "feast_sdk.py", "remote", "http://"+feastServer(t, online, driversYAML, time.Now()))
		})
	}
}
