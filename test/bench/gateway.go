package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/auth"
	"github.com/pilotlight-ml/pilotlight/internal/store/diskstore"
)

// gateway compares functions/gateway, with a key and limits in Redis, with the proxy of the standard library, which checks nothing.
func (b *bench) gateway(ctx context.Context) (err error) {
	binary := filepath.Join(b.dir, "gateway")
	if err := b.build(ctx, binary, "./functions/gateway"); err != nil {
		return err
	}
	bucket := url.URL{Scheme: "file", Path: filepath.Join(b.dir, "keys")}
	key, err := issue(ctx, &bucket)
	if err != nil {
		return err
	}
	redis, stop, err := b.redis(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()

	const answers = 200
	behind, err := b.start(ctx, launch{args: []string{b.self, "child", "echo", fmt.Sprint(answers)}, core: anyCore, ready: "/"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, behind.stop()) }()
	var all []*variant
	for _, v := range []struct {
		name string
		l    launch
	}{
		{"the function alone (Go net/http)", launch{args: []string{b.self, "child", "echo", fmt.Sprint(answers)}, ready: "/"}},
		{"`httputil.ReverseProxy`, bare", launch{args: []string{b.self, "child", "bare", "http://" + behind.addr}, ready: "/"}},
		{"**gateway**, key, limits in memory", launch{args: []string{binary}, env: []string{
			"AUTH=on", "LOG_LEVEL=WARN", "BLOB_URL=" + bucket.String(), "PREDICT_URL=http://" + behind.addr,
		}, ready: "/readyz"}},
		{"**gateway**, key, limits in Redis", launch{args: []string{binary}, env: []string{
			"AUTH=on", "LOG_LEVEL=WARN", "BLOB_URL=" + bucket.String(), "KV_URL=redis://" + redis, "LIMIT_TIMEOUT=5s", "PREDICT_URL=http://" + behind.addr,
		}, ready: "/readyz"}},
	} {
		p, err := b.start(ctx, v.l)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, p.stop()) }()
		r := newRequest("POST", "/v2/models/m/infer", map[string]string{"Authorization": "Bearer " + key, "Content-Type": "application/json"}, make([]byte, 300))
		r.want = make([]byte, answers)
		all = append(all, &variant{name: v.name, server: p, request: r})
	}
	unpin, err := b.pin(ctx)
	if err != nil {
		return err
	}
	for round := range b.rounds {
		progress("gateway: round %d of %d", round+1, b.rounds)
		for _, v := range all {
			m, err := b.measure(ctx, v)
			if err != nil {
				unpin()
				return fmt.Errorf("%s: %w", v.name, err)
			}
			v.rounds = append(v.rounds, m)
		}
	}
	unpin()
	b.tellGateway(all)
	return nil
}

// issue makes a key in a bucket.
func issue(ctx context.Context, bucket *url.URL) (key string, err error) {
	blob, err := diskstore.OpenBlob(ctx, bucket)
	if err != nil {
		return "", err
	}
	_, key, err = auth.NewKeys(blob).Create(ctx, auth.Grant{
		Name: "bench", Scopes: []auth.Scope{"predict/m*"}, Limits: auth.Limits{Rate: 1e6, Burst: 1e6, Daily: auth.Quota{Requests: 1 << 40}},
	}, "")
	return key, errors.Join(err, blob.Close())
}

func (b *bench) tellGateway(all []*variant) {
	b.report.section("The gateway, on one core")
	b.report.add("A request of 300 bytes and an answer of 200. The function, and Redis, run on any core, and so beside the load or the gateway.\n\n")
	direct, bare := all[0], all[1]
	var rows [][]string
	for _, v := range all {
		var later, share []float64
		for i := range v.rounds {
			later = append(later, micro(quantile(v.rounds[i].alone.times, 0.5)-quantile(direct.rounds[i].alone.times, 0.5)))
			share = append(share, 100*v.rounds[i].perCore()/bare.rounds[i].perCore())
		}
		row := []string{
			v.name,
			micros(median(of(v.rounds, func(m measured) time.Duration { return m.cpu }))),
			count(median(of(v.rounds, measured.perCore))),
			spread(share, "%.0f"),
			micros(median(of(v.rounds, func(m measured) time.Duration { return quantile(m.alone.times, 0.5) }))),
			spread(later, "%.0f"),
		}
		if v == direct {
			row[3], row[5] = "", ""
		}
		rows = append(rows, row)
	}
	b.report.table([]string{"", "CPU each", "per s and core", "% of the bare proxy's", "1 caller: p50", "µs more than the function"}, rows)
}

// bare is a proxy that does nothing else.
func bare(ctx context.Context, args []string) error {
	to, err := url.Parse(args[0])
	if err != nil {
		return err
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(to) },
		Transport: &http.Transport{MaxIdleConnsPerHost: 256},
	}
	return listen(ctx, proxy.ServeHTTP)
}
