package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/feast"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/redisstore"
)

const (
	featureView     = "stats"
	featureCount    = 10   // of the view
	featureEntities = 1000 // that are stored
)

// featureValue is what is stored of an entity, here and in peers/feast_server.py.
func featureValue(entity, j int) float64 { return float64(entity*featureCount+j) / 7 }

// featureCase is how many entities one request asks for.
type featureCase struct {
	entities int
	servers  []*featureServer
	bare     []float64 // requests a second of the bare loop, a round each
}

// featureServer is what answers a case.
type featureServer struct {
	name    string
	server  *process
	request request
	rounds  []measured
}

// features reads features over Feast's protocol, from us and from Feast's own
// server, and by nothing but HMGET.
func (b *bench) features(ctx context.Context) (err error) {
	redis, stop, err := b.redis(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	python := filepath.Join(b.root, ".venv-feast", "bin", "python")
	if _, err := os.Stat(python); err != nil {
		return fmt.Errorf("the Python environment with Feast is missing: make feast: %w", err)
	}
	peers := []struct {
		name string
		launch
	}{
		{"Feast's Python server", launch{args: []string{
			python, "-W", "ignore", filepath.Join(b.root, "test/bench/peers/feast_server.py"), filepath.Join(b.dir, "feast"), redis, featureView, strconv.Itoa(featureEntities), strconv.Itoa(featureCount),
		}, env: []string{"FEAST_USAGE=False"}, ready: "/health"}},
		{"**Pilotlight**", launch{args: []string{b.self, "child", "features", redis}, env: []string{"LOG_LEVEL=ERROR"}, ready: "/health"}},
		{"Pilotlight with ONLINE_CACHE=0", launch{args: []string{b.self, "child", "features", redis}, env: []string{"LOG_LEVEL=ERROR", "ONLINE_CACHE=0"}, ready: "/health"}},
	}
	cases := []*featureCase{{entities: 1}, {entities: 50}}
	for _, p := range peers {
		s, err := b.start(ctx, p.launch)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.stop()) }()
		for _, c := range cases {
			r, err := featureRequest(ctx, s, c.entities)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			c.servers = append(c.servers, &featureServer{name: p.name, server: s, request: r})
		}
	}
	unpin, err := b.pin(ctx)
	if err != nil {
		return err
	}
	defer unpin()
	for round := range b.rounds {
		progress("features: round %d of %d", round+1, b.rounds)
		for _, c := range cases {
			for _, s := range c.servers {
				m, err := b.measure(ctx, &variant{server: s.server, request: s.request})
				if err != nil {
					return fmt.Errorf("%s: %w", s.name, err)
				}
				s.rounds = append(s.rounds, m)
			}
			text, err := b.once(ctx, launch{args: []string{b.self, "child", "hmget", redis, strconv.Itoa(c.entities), b.seconds.String()}})
			if err != nil {
				return err
			}
			rate, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
			if err != nil {
				return err
			}
			c.bare = append(c.bare, rate)
		}
	}
	b.tellFeatures(cases)
	return nil
}

// redis starts a Redis of the bench's own, without files, on any core.
func (b *bench) redis(ctx context.Context) (addr string, stop func() error, err error) {
	port, err := freePort()
	if err != nil {
		return "", nil, err
	}
	cmd := b.command(ctx, launch{args: []string{"redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"}, core: anyCore})
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() error {
		err := cmd.Process.Signal(os.Interrupt)
		if gone := (*exec.ExitError)(nil); errors.As(errors.Join(err, cmd.Wait()), &gone) {
			return nil
		}
		return err
	}
	addr = "127.0.0.1:" + port
	online, err := redisstore.OpenOnline(ctx, &url.URL{Scheme: "redis", Host: addr})
	if err != nil {
		return "", nil, errors.Join(err, stop())
	}
	defer online.Close()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err = online.Read(ctx, []string{"up"}, nil); err == nil {
			return addr, stop, nil
		}
		if time.Now().After(end) {
			return "", nil, errors.Join(err, stop())
		}
	}
}

// featureRequest makes the request for so many entities, and sees to it that its answer is right.
func featureRequest(ctx context.Context, s *process, entities int) (request, error) {
	var ids, refs []string
	for i := range entities {
		ids = append(ids, strconv.Itoa(i+7))
	}
	for j := range featureCount {
		refs = append(refs, fmt.Sprintf(`"%s:f%d"`, featureView, j))
	}
	body := fmt.Sprintf(`{"features": [%s], "entities": {"driver_id": [%s]}}`, strings.Join(refs, ", "), strings.Join(ids, ", "))
	r := newRequest("POST", "/get-online-features", map[string]string{"Content-Type": "application/json"}, []byte(body))
	answer, err := s.answer(ctx, r)
	if err != nil {
		return r, err
	}
	r.want = append([]byte(nil), answer...)
	var got struct {
		Metadata struct {
			FeatureNames []string `json:"feature_names"`
		}
		Results []struct {
			Values   []float64
			Statuses []string
		}
	}
	if err := json.Unmarshal(answer, &got); err != nil {
		return r, err
	}
	seen := 0
	for c, name := range got.Metadata.FeatureNames {
		for i := range entities {
			want := float64(i + 7)
			if j, ok := strings.CutPrefix(name, "f"); ok {
				n, err := strconv.Atoi(j)
				if err != nil {
					return r, err
				}
				want = featureValue(i+7, n)
			}
			if got.Results[c].Values[i] != want || got.Results[c].Statuses[i] != "PRESENT" {
				return r, fmt.Errorf("%s of entity %d is %v, want %v: %.300s", name, i+7, got.Results[c].Values[i], want, answer)
			}
			seen++
		}
	}
	if seen != entities*(featureCount+1) {
		return r, fmt.Errorf("the answer has %d values, want %d: %.300s", seen, entities*(featureCount+1), answer)
	}
	return r, nil
}

func (b *bench) tellFeatures(cases []*featureCase) {
	b.report.section("Reading features, on one core")
	b.report.add("Through /get-online-features, from a local Redis, %d features of each entity, always the same ones: what is kept in the process is found there each time, which ONLINE_CACHE=0 shows without; the last line reads what Feast has stored by HMGETs in one pipeline, and does nothing else.\n\n", featureCount)
	var rows [][]string
	for _, c := range cases {
		for _, s := range c.servers {
			row := []string{fmt.Sprintf("%s, %d × %d", s.name, c.entities, featureCount), micros(median(of(s.rounds, func(m measured) time.Duration { return m.cpu })))}
			for _, pick := range []func(measured) load{func(m measured) load { return m.alone }, func(m measured) load { return m.crowded }} {
				row = append(row,
					count(median(of(s.rounds, func(m measured) float64 { return pick(m).perSecond() }))),
					micros(median(of(s.rounds, func(m measured) time.Duration { return quantile(pick(m).times, 0.5) }))),
					micros(median(of(s.rounds, func(m measured) time.Duration { return quantile(pick(m).times, 0.99) }))))
			}
			rows = append(rows, row)
		}
		rows = append(rows, []string{fmt.Sprintf("HMGET alone, %d × %d", c.entities, featureCount), "", count(median(c.bare)), "", "", "", "", ""})
	}
	b.report.table([]string{"", "CPU each", "1 caller: per s", "p50", "p99", fmt.Sprintf("%d callers: per s", many), "p50", "p99"}, rows)
	b.report.add("Ours to Feast's within a round, and to HMGET alone (one caller each): median (least to most).\n\n")
	rows = nil
	for _, at := range []struct {
		c      *featureCase
		server int
		name   string
	}{{cases[0], 1, ""}, {cases[1], 1, ""}, {cases[0], 2, ", ONLINE_CACHE=0"}, {cases[1], 2, ", ONLINE_CACHE=0"}} {
		c := at.c
		theirs, ours := c.servers[0].rounds, c.servers[at.server].rounds
		each := func(f func(i int) float64) string {
			var all []float64
			for i := range ours {
				all = append(all, f(i))
			}
			return spread(all, "%.2f")
		}
		rows = append(rows, []string{
			fmt.Sprintf("%d × %d%s", c.entities, featureCount, at.name),
			each(func(i int) float64 { return ours[i].alone.perSecond() / theirs[i].alone.perSecond() }),
			each(func(i int) float64 { return ours[i].crowded.perSecond() / theirs[i].crowded.perSecond() }),
			each(func(i int) float64 {
				return float64(quantile(ours[i].alone.times, 0.99)) / float64(quantile(theirs[i].alone.times, 0.99))
			}),
			each(func(i int) float64 {
				return float64(quantile(ours[i].crowded.times, 0.99)) / float64(quantile(theirs[i].crowded.times, 0.99))
			}),
			each(func(i int) float64 { return ours[i].alone.perSecond() / c.bare[i] }),
		})
	}
	b.report.table([]string{"", "per s, 1 caller", fmt.Sprintf("per s, %d callers", many), "p99, 1 caller", fmt.Sprintf("p99, %d callers", many), "per s to HMGET's"}, rows)
}

// serveFeatures is the edge of Feast's protocol, on a Redis that it fills first.
func serveFeatures(ctx context.Context, args []string) error {
	var c feature.Config
	var nc feature.NearConfig
	f := serve.Function{Name: "features", Configs: []any{&c, &nc}, Wire: func(ctx context.Context, p *serve.Process) error {
		blob, err := memstore.OpenBlob(ctx, nil)
		if err != nil {
			return err
		}
		p.Defer(blob.Close)
		own := url.Values{"prefix": {nc.Size.String() + "/"}} // each server has rows of its own, of times of their own
		online, err := redisstore.OpenOnline(ctx, &url.URL{Scheme: "redis", Host: args[0], RawQuery: own.Encode()})
		if err != nil {
			return err
		}
		p.Defer(online.Close)
		online = nc.Open(p, online)
		catalog := feature.NewCatalog(&c, blob, nil, p.Tel.Log)
		set := &feature.Set{
			Entities: []feature.Entity{{Name: "driver", Keys: []feature.Field{{Name: "driver_id", Type: row.Int64}}}},
			Sources:  []feature.Source{{Name: "rows", Fields: []feature.Field{{Name: "driver_id", Type: row.Int64}, {Name: "event_timestamp", Type: row.Timestamp}}}},
			Views:    []feature.View{{Name: featureView, Entities: []string{"driver"}, Source: "rows", TTL: feature.Duration(24 * time.Hour)}},
		}
		for j := range featureCount {
			set.Sources[0].Fields = append(set.Sources[0].Fields, feature.Field{Name: fmt.Sprintf("f%d", j), Type: row.Float64})
		}
		if _, _, err := catalog.Apply(ctx, set, nil, "bench", false); err != nil {
			return err
		}
		ic := feature.IngestConfig{Rows: featureEntities, Bytes: 64 << 20, Write: time.Minute, Ahead: time.Hour}
		in, err := feature.NewIngest(&ic, feature.IngestDeps{Catalog: catalog, Online: online, Blob: blob}, p.Tel)
		if err != nil {
			return err
		}
		p.Defer(in.Close)
		defined, err := catalog.Current(ctx)
		if err != nil {
			return err
		}
		source, err := defined.Source("rows")
		if err != nil {
			return err
		}
		var rows []feature.Row
		at := row.OfTime(time.Now().Add(-time.Minute))
		for i := range featureEntities {
			values := []row.Value{row.OfInt64(int64(i)), at}
			for j := range featureCount {
				values = append(values, row.OfFloat64(featureValue(i, j)))
			}
			rows = append(rows, feature.Row{Values: values})
		}
		if _, err := in.Accept(ctx, source, rows, feature.OnlineOnly); err != nil {
			return err
		}
		feature.NewFeast(feature.NewTable(online, catalog.Current), in, catalog, "bench").Register(p.Mux)
		return nil
	}}
	p, err := f.Start(ctx, map[string]string{"PORT": os.Getenv("PORT"), "LOG_LEVEL": os.Getenv("LOG_LEVEL"), "ONLINE_CACHE": cmp.Or(os.Getenv("ONLINE_CACHE"), "16MiB")})
	if err != nil {
		return err
	}
	return p.Run(ctx)
}

// hmget reads what Feast has stored, as often as it can, and prints how often in a second that is.
func hmget(ctx context.Context, args []string) error {
	entities, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	d, err := time.ParseDuration(args[2])
	if err != nil {
		return err
	}
	hashes, err := redisstore.OpenHashes(ctx, &url.URL{Scheme: "redis", Host: args[0]})
	if err != nil {
		return err
	}
	defer hashes.Close()
	keys, err := feast.NewKeys("bench", []row.Field{{Name: "driver_id", Type: row.Int64}})
	if err != nil {
		return err
	}
	names := make([]string, entities)
	fields := make([][]string, entities)
	for i := range names {
		names[i] = string(keys.Append(nil, []row.Value{row.OfInt64(int64(i + 7))}))
		fields[i] = []string{feast.TimeField(featureView)}
		for j := range featureCount {
			fields[i] = append(fields[i], feast.FeatureField(featureView, fmt.Sprintf("f%d", j)))
		}
	}
	n := 0
	begin := time.Now()
	for time.Since(begin) < d {
		values, err := hashes.Read(ctx, names, fields)
		if err != nil {
			return err
		}
		for i := range values {
			for j, v := range values[i] {
				if v == nil {
					return fmt.Errorf("entity %d has no field %d", i+7, j)
				}
			}
		}
		n++
	}
	fmt.Println(float64(n) / time.Since(begin).Seconds())
	return nil
}
