package feature

import (
	"bytes"
	"context"
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/redisstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
)

func redisHashes(t testing.TB, raw string) store.Hashes {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	h, err := redisstore.OpenHashes(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// TestARedisOfFeasts has Feast fill a Redis and read it, and holds our answers against Feast's.
func TestARedisOfFeasts(t *testing.T) {
	python := feastPython(t)
	u, err := url.Parse(storetest.RedisURL(t))
	if err != nil {
		t.Fatal(err)
	}
	project := "p" + strings.Map(func(r rune) rune { // a name that Feast takes
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, u.Query().Get("prefix"))
	u.RawQuery = "" // Feast's keys have no prefix; the project keeps them apart
	connect := u.Host
	if password, ok := u.User.Password(); ok {
		connect += ",password=" + password
	}
	out := runPython(t, python, "feast_sdk.py", "redis", connect, project)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var said struct {
		Now     int64
		Answers []map[string][]json.RawMessage
	}
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &said); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	set, err := Parse("drivers.yaml", []byte(driversYAML))
	if err != nil {
		t.Fatal(err)
	}
	compiled, err := Compile(set)
	if err != nil {
		t.Fatal(err)
	}
	table := NewTable(NewFeastOnline(redisHashes(t, u.String()), project, fixed(compiled)), fixed(compiled))
	for i, c := range []struct {
		features []string
		given    Given
		events   []int64 // of the first feature
	}{
		{
			[]string{"driver_stats:rate", "driver_stats:trips", "driver_stats:small"},
			Given{"driver_id": {row.OfInt64(1001), row.OfInt64(1002), row.OfInt64(1004)}},
			[]int64{said.Now, said.Now - 3600e6, 0},
		},
		{[]string{"driver_tags:tags"}, Given{"driver_id": {row.OfInt64(1001), row.OfInt64(1002)}}, []int64{said.Now, said.Now - 3600e6}},
		{
			[]string{"at_airport:seen", "at_airport:open"},
			Given{"driver_id": {row.OfInt64(1001), row.OfInt64(1001), row.OfInt64(1001)}, "origin": {row.OfString("JFK"), row.OfString("Zürich"), row.OfString("LAX")}},
			[]int64{said.Now, said.Now - 60e6, 0},
		},
	} {
		plan, err := compiled.Features(c.features, false)
		if err != nil {
			t.Fatal(err)
		}
		var a Answers
		n := len(c.events)
		if err := table.Read(t.Context(), plan, c.given, n, time.UnixMicro(said.Now).Add(time.Minute), &a); err != nil {
			t.Fatal(err)
		}
		for column, k := range plan.Columns {
			for e := range n {
				got := a.At(column, e)
				want, err := row.ParseJSON(k.Type, said.Answers[i][k.Feature][e])
				if err != nil || !got.Value.Equal(want) || got.Event != c.events[e] {
					t.Errorf("%s of row %d: got %s of %d, want %s of %d (%v)", k.Feature, e, got.Value, got.Event, want, c.events[e], err)
				}
				if status := map[bool]Status{true: Present, false: NotFound}[c.events[e] != 0]; got.Status != status {
					t.Errorf("%s of row %d: got status %d, want %d", k.Feature, e, got.Status, status)
				}
			}
		}
	}
	// What is not in JSON: bytes, and a time to live of a day.
	plan, err := compiled.Features([]string{"driver_raw:raw", "driver_stats:rate"}, false)
	if err != nil {
		t.Fatal(err)
	}
	var a Answers
	if err := table.Read(t.Context(), plan, Given{"driver_id": {row.OfInt64(1001), row.OfInt64(1003)}}, 2, time.UnixMicro(said.Now), &a); err != nil {
		t.Fatal(err)
	}
	if got := a.At(0, 0).Value; !bytes.Equal([]byte(got.Text()), []byte{0, 255}) {
		t.Errorf("got %s, want the bytes 00ff", got)
	}
	if got := a.At(1, 1).Status; got != OutsideMaxAge {
		t.Errorf("a row of five days ago has status %d, want %d", got, OutsideMaxAge)
	}
	windows, err := compiled.Features([]string{"fares:rides_1h"}, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := table.Read(t.Context(), windows, Given{"driver_id": {row.OfInt64(1)}}, 1, time.Now(), &a); fault.KindOf(err) != fault.Invalid {
		t.Errorf("windows: got %v, want invalid", err)
	}
	if _, err := table.online.Write(t.Context(), nil); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a write: got %v, want invalid", err)
	}
	if rows, err := table.online.Read(t.Context(), []string{"health"}, nil); err != nil || len(rows) != 1 {
		t.Errorf("a key that is no feature's: got %v, %v, want a missing row", rows, err)
	}
}

func TestLayoutConfig(t *testing.T) {
	for _, c := range []struct {
		environ map[string]string
		ok      bool
	}{
		{nil, true},
		{map[string]string{"ONLINE_LAYOUT": "feast"}, false},
		{map[string]string{"ONLINE_LAYOUT": "feast", "FEAST_PROJECT": "demo"}, true},
		{map[string]string{"ONLINE_LAYOUT": "other"}, false},
	} {
		var conf LayoutConfig
		if _, err := env.Load(c.environ, &conf); (err == nil) != c.ok {
			t.Errorf("%v: got %v, want an error: %t", c.environ, err, !c.ok)
		}
	}
}

// fixed are definitions that never change.
func fixed(c *Compiled) func(context.Context) (*Compiled, error) {
	return func(context.Context) (*Compiled, error) { return c, nil }
}
