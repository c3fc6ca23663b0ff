package gate

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/auth"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/redisstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
)

// process runs a handler as functions do, until the benchmark ends.
func process(b *testing.B, environ map[string]string, configs []any, wire func(p *serve.Process) error) string {
	b.Helper()
	f := &serve.Function{Name: "bench", Configs: configs, Wire: func(_ context.Context, p *serve.Process) error { return wire(p) }}
	env := map[string]string{"PORT": "0", "LOG_LEVEL": "WARN"}
	for k, v := range environ {
		env[k] = v
	}
	ctx, cancel := context.WithCancel(context.Background())
	p, err := f.Start(ctx, env)
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	return "http://" + p.Server().Addr().String()
}

// BenchmarkGateway compares the gateway, with keys and limits, with the standard library's proxy, with nothing. One caller shows how long a request
// takes, many show what it costs.
func BenchmarkGateway(b *testing.B) {
	const question = `{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]}]}`
	const answer = `{"model_name":"m","model_version":"1","outputs":[{"name":"y","datatype":"FP32","shape":[1,1],"data":[0.5]}]}`
	predict := process(b, nil, nil, func(p *serve.Process) error {
		p.Mux.HandleFunc("POST /v2/models/{model}/infer", func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, answer)
		})
		return nil
	})
	to, err := url.Parse(predict)
	if err != nil {
		b.Fatal(err)
	}
	bare := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(to) },
		Transport: &http.Transport{MaxIdleConnsPerHost: 256, DialContext: (&net.Dialer{}).DialContext},
	})
	b.Cleanup(bare.Close)
	gateway := func(meter store.Meter) (string, string) {
		blob, err := memstore.OpenBlob(b.Context(), nil)
		if err != nil {
			b.Fatal(err)
		}
		var o Options
		var rc RouteConfig
		at := process(b, map[string]string{"AUTH": "on", "PREDICT_URL": predict}, append(o.Parts(), &rc), func(p *serve.Process) error {
			return Open(p, &o, Deps{Blob: solid{blob}, Meter: meter, Own: func() store.Meter { return memstore.NewMeter() }, Routes: &rc})
		})
		_, key, err := auth.NewKeys(blob).Create(b.Context(), auth.Grant{
			Name: "bench", Scopes: []auth.Scope{"predict"}, Limits: auth.Limits{Rate: 1e6, Burst: 1e6, Daily: auth.Quota{Requests: 1 << 40}},
		}, "")
		if err != nil {
			b.Fatal(err)
		}
		return at, key
	}
	u, err := url.Parse(storetest.RedisURL(b))
	if err != nil {
		b.Fatal(err)
	}
	redis, err := redisstore.OpenMeter(b.Context(), u)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = redis.Close() })
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256}}
	ask := func(b *testing.B, at, key string) {
		r, err := http.NewRequestWithContext(b.Context(), "POST", at+"/v2/models/m/infer", strings.NewReader(question))
		if err != nil {
			b.Error(err)
			return
		}
		r.Header.Set("Authorization", "Bearer "+key)
		resp, err := client.Do(r)
		if err != nil {
			b.Error(err)
			return
		}
		got, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || string(got) != answer {
			b.Errorf("got %d %s %v", resp.StatusCode, got, err)
		}
	}
	local, localKey := gateway(memstore.NewMeter())
	shared, sharedKey := gateway(redis)
	for _, test := range []struct{ name, at, key string }{
		{"none", predict, ""}, {"bare", bare.URL, ""}, {"gateway", local, localKey}, {"gateway with redis", shared, sharedKey},
	} {
		b.Run(test.name+"/one", func(b *testing.B) {
			for b.Loop() {
				ask(b, test.at, test.key)
			}
		})
		b.Run(test.name+"/many", func(b *testing.B) {
			b.SetParallelism(16)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					ask(b, test.at, test.key)
				}
			})
		})
	}
}
