package auth

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/pilotlight-ml/pilotlight/internal/auth/authtest"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/rpc"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry/telemetrytest"
)

func TestNeeds(t *testing.T) {
	for _, test := range []struct {
		method, path string
		action       Action
		model        string
	}{
		{"GET", "/", Anonymous, ""},
		{"GET", "/v2/health/ready", Anonymous, ""},
		{"GET", "/v2", Predict, ""},
		{"GET", "/v2/models", Predict, ""},
		{"GET", "/v2/models/stats", Predict, ""},
		{"GET", "/v2/models/flights", Predict, "flights"},
		{"POST", "/v2/models/flights/infer", Predict, "flights"},
		{"POST", "/v2/models/flights/versions/3/infer", Predict, "flights"},
		{"POST", "/v2/models/flights%2einfer/infer", Predict, "flights.infer"},
		{"POST", "/v2/repository/index", Predict, ""},
		{"POST", "/v2/repository/models/flights/load", ModelsWrite, "flights"},
		{"POST", "/v2/repository/else", Admin, ""},
		{"GET", "/v1/models", Predict, ""},
		{"POST", "/v1/models/flights:predict", Predict, "flights"},
		{"POST", "/v1/models/flights%3Apredict", Predict, "flights"},
		{"POST", "/v1/models/flights/versions/3:predict", Predict, "flights"},
		{"POST", "/get-online-features", FeaturesRead, ""},
		{"POST", "/push", FeaturesWrite, ""},
		{"PUT", "/landing/weather/1.csv", FeaturesWrite, ""},
		{"GET", "/landing", Admin, ""},
		{"POST", "/feedback", Feedback, ""},
		{"POST", "/events", Events, ""},
		{"GET", "/admin/v1/models/flights", AdminRead, ""},
		{"GET", "/admin/v1/models/flights/versions/3/card", AdminRead, ""},
		{"HEAD", "/admin/v1/models/flights", AdminRead, ""},
		{"POST", "/admin/v1/models/flights/versions", ModelsWrite, "flights"},
		{"DELETE", "/admin/v1/models/flights/aliases/canary", ModelsWrite, "flights"},
		{"PUT", "/admin/v1/rollouts/flights/champion", ModelsWrite, "flights"},
		{"GET", "/admin/v1/rollouts", AdminRead, ""},
		{"PUT", "/admin/v1/pipelines/flights", Admin, ""}, // which may run commands
		{"POST", "/admin/v1/pipelines/flights/runs", Admin, ""},
		{"DELETE", "/admin/v1/pipelines/flights/runs/latest", Admin, ""},
		{"GET", "/admin/v1/pipelines/flights/runs/latest/logs", AdminRead, ""},
		{"GET", "/admin/v1/keys", Admin, ""},
		{"GET", "/admin/v1/keys/x", Admin, ""},
		{"POST", "/admin/v1/keys", Admin, ""},
		{"PUT", "/admin/v1/alerts/rules", Admin, ""},
		{"POST", "/admin/v1/features", Admin, ""},
		{"POST", "/admin/v1/features/training-set", FeaturesRead, ""},
		{"GET", "/admin/v1/quality/flights", AdminRead, ""},
		{"POST", "/inference.GRPCInferenceService/ModelInfer", Predict, ""},
		{"POST", "/inference.GRPCInferenceService/RepositoryModelLoad", ModelsWrite, ""},
		{"POST", "/inference.GRPCInferenceService/ServerLive", Anonymous, ""},
		{"POST", "/grpc.health.v1.Health/Check", Anonymous, ""},
		{"POST", "/feast.serving.ServingService/GetOnlineFeatures", FeaturesRead, ""},
		{"POST", "/grpc.health.v1.Health/Check/x", Admin, ""},
		{"GET", "/V2/models", Admin, ""},
		{"GET", "/v2/Models", Admin, ""},
		{"GET", "/v2/health/live/", Admin, ""},
		{"GET", "/unheard/of", Admin, ""},
	} {
		r := httptest.NewRequestWithContext(t.Context(), test.method, test.path, nil)
		got, err := Needs(r)
		if err != nil || got != (Need{test.action, test.model}) {
			t.Errorf("%s %s: got %+v %v, want %s %s", test.method, test.path, got, err, test.action, test.model)
		}
	}
	for _, path := range []string{
		"//v2/models/x/infer", "/v2//models/x/infer", "/v2/models/../../admin/v1/keys", "/v2/health/live/../../../admin/v1/keys", "/./v2/models",
		"/v2/models/x%2Finfer", "/v2/models/x%2finfer/infer", "/v2/models/%2e%2e/admin", "/v2/models/..%2f..%2fadmin/v1/keys",
		"/v2/models/x%5cy/infer", "/v2/models/x%00/infer", "/v2/models/x%0d%0aHost:%20y/infer", "/v2/models/%252e%252e/infer", "/v2/models/x%ff/infer",
		"/..", "/v2/models/x/..", "/.",
	} {
		r := httptest.NewRequestWithContext(t.Context(), "GET", path, nil)
		if got, err := Needs(r); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: got %+v %v, want that it is refused", path, got, err)
		}
	}
}

// TestEveryRouteIsKnown: a route that Needs does not know would be for administrators alone.
func TestEveryRouteIsKnown(t *testing.T) {
	routes := regexp.MustCompile("(?:route|HandleFunc|Handle)\\(\"(GET|POST|PUT|DELETE) (/[^\"]*)\"[,)]")
	found := 0
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && len(d.Name()) > 2 {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.Contains(path, "test/") {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range routes.FindAllStringSubmatch(string(b), -1) {
			found++
			r := httptest.NewRequestWithContext(t.Context(), m[1], strings.NewReplacer("{$}", "", "{", "", "}", "").Replace(m[2]), nil)
			need, err := Needs(r)
			if err != nil || need.Action == Admin && !strings.HasPrefix(m[2], "/admin/v1/") {
				t.Errorf("%s: %s %s: needs %+v, %v", path, m[1], m[2], need, err)
			}
		}
		return nil
	})
	if err != nil || found < 20 {
		t.Errorf("found %d routes, %v", found, err)
	}
}

// FuzzNeeds compares what the guard takes a path for with what a mux does: for no path may a guard have looked at another model, or at
// another action, than the handler that gets it.
func FuzzNeeds(f *testing.F) {
	for _, path := range []string{
		"/v2/models/m/infer", "/v2/models/m/versions/1/infer", "/v1/models/m:predict", "/v1/models/m/versions/1:predict", "/v2/repository/models/m/load", "/v2/models/a%2fb/infer",
		"/v2/models/../models/m/infer", "/v2//models/m/infer", "/admin/v1/keys/x", "/admin/v1/models/m/versions", "/v2/models/%6d/infer", "/v2/models/m%3a/infer", "/feedback/", "/events?x=/v2", "/v2/models/m/infer/",
	} {
		f.Add(path)
	}
	mux := http.NewServeMux()
	var got *http.Request
	for pattern, action := range map[string]Action{
		"POST /v2/models/{model}/infer": Predict, "POST /v2/models/{model}/versions/{version}/infer": Predict, "POST /v1/models/{model}": Predict, "POST /v1/models/{model}/versions/{version}": Predict,
		"POST /v2/repository/models/{model}/load": ModelsWrite, "POST /admin/v1/models/{model}/versions": ModelsWrite, "POST /admin/v1/keys/{id}/rotate": Admin, "POST /admin/v1/keys": Admin,
		"POST /feedback": Feedback, "POST /events": Events, "POST /push": FeaturesWrite, "POST /get-online-features": FeaturesRead,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			got = r
			w.Header().Set("Action", string(action))
		})
	}
	f.Fuzz(func(t *testing.T, path string) {
		u, err := url.ParseRequestURI(path)
		if err != nil || u.Host != "" || u.Scheme != "" || strings.HasPrefix(path, "//") {
			return
		}
		r := &http.Request{Method: "POST", URL: u, RequestURI: path, Header: http.Header{}, Host: "x"}
		need, err := Needs(r)
		if err != nil {
			return
		}
		got = nil
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		if got == nil {
			return
		}
		model := got.PathValue("model")
		if strings.HasPrefix(got.Pattern, "POST /v1/models/{model}") && got.PathValue("version") == "" && strings.Contains(model, ":") {
			model = model[:strings.LastIndexByte(model, ':')]
		}
		if action := Action(w.Header().Get("Action")); need.Action != action || need.Model != model {
			t.Errorf("%q: the guard looked at %+v, the handler is for %s of %q", path, need, action, model)
		}
	})
}

// guarded is a process behind a guard.
type guarded struct {
	t    *testing.T
	url  string
	keys *Keys
	log  *lockedBuffer
	stop func()
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// startGuarded serves, behind a guard, what tells who called.
func startGuarded(t *testing.T, blob store.Blob, environ map[string]string) *guarded {
	t.Helper()
	g := &guarded{t: t, keys: NewKeys(blob), log: &lockedBuffer{}}
	var c Config
	env := map[string]string{"PORT": "0", "AUTH": "on"}
	for k, v := range environ {
		env[k] = v
	}
	stderr := os.Stderr
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	os.Stderr = write // which is where the process is going to log to
	f := &serve.Function{Name: "test", Configs: []any{&c}, Wire: func(_ context.Context, p *serve.Process) error {
		if err := Open(p, &c, solid{blob}, true); err != nil {
			return err
		}
		p.Mux.HandleFunc("POST /admin/v1/models/{model}/versions", func(http.ResponseWriter, *http.Request) { panic("a bug") })
		p.Mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
			name := "nobody"
			if p := From(r.Context()); p != nil {
				name = p.Name
			}
			if err := CheckModel(r.Context(), Predict, r.Header.Get("Model")); r.Header.Get("Model") != "" && err != nil {
				serve.Error(w, r, err)
				return
			}
			if _, err := io.WriteString(w, "hello "+name); err != nil {
				t.Log(err)
			}
		})
		rpc.Register(p.Mux, func() error { return nil })
		return nil
	}}
	ctx, cancel := context.WithCancel(context.Background())
	p, err := f.Start(ctx, env)
	os.Stderr = stderr
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	copied, done := make(chan struct{}), make(chan error, 1)
	go func() { defer close(copied); _, _ = io.Copy(g.log, read) }()
	go func() { done <- p.Run(ctx) }()
	g.url = "http://" + p.Server().Addr().String()
	g.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		_ = write.Close()
		<-copied
	})
	t.Cleanup(g.stop)
	return g
}

// solid is a bucket that does not say that it is memory.
type solid struct{ store.Blob }

func (g *guarded) ask(method, path string, header http.Header) (int, string, http.Header) {
	g.t.Helper()
	r, err := http.NewRequestWithContext(g.t.Context(), method, g.url+path, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	for k, v := range header {
		r.Header[k] = v
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return resp.StatusCode, strings.TrimSpace(string(b)), resp.Header
}

func bearer(s string) http.Header { return http.Header{"Authorization": {"Bearer " + s}} }

func TestGuard(t *testing.T) {
	idp, cluster := authtest.NewProvider(t), authtest.NewProvider(t)
	g := startGuarded(t, bucket(t), map[string]string{"OIDC_ISSUER": idp.URL, "BROKER_ISSUER": cluster.URL, "LOG_LEVEL": "ERROR"})
	_, shop := create(t, g.keys, Grant{Name: "shop", Scopes: []Scope{"predict/flights", "feedback"}})
	_, ops := create(t, g.keys, Grant{Name: "ops", Scopes: []Scope{"admin"}})
	ann := idp.Token(t, "ec", idp.Claims("pilotlight", map[string]any{"scope": "predict"}))
	trigger := cluster.Token(t, "rsa", cluster.Claims("pilotlight", map[string]any{"sub": "system:serviceaccount:pilotlight:t", "scope": "admin"}))
	for _, test := range []struct {
		method, path string
		header       http.Header
		status       int
		body         string
	}{
		{"GET", "/healthz", nil, 200, `{"alive":true}`},
		{"GET", "/v2/health/ready", nil, 200, "hello nobody"},
		{"POST", "/v2/models/flights/infer", nil, 401, `{"error":"the request has no API key or token: send one as Authorization: Bearer ..."}`},
		{"POST", "/v2/models/flights/infer", bearer(shop), 200, "hello shop"},
		{"POST", "/v2/models/flights/infer", http.Header{"X-Api-Key": {shop}}, 200, "hello shop"},
		{"POST", "/v2/models/flights/infer", http.Header{"Authorization": {"bearer  " + shop}}, 200, "hello shop"},
		{"POST", "/v2/models/other/infer", bearer(shop), 403, `{"error":"the API key \"shop\" has no scope for predict of the model other"}`},
		{"POST", "/v1/models/other:predict", bearer(shop), 403, `{"error":"the API key \"shop\" has no scope for predict of the model other"}`},
		{"POST", "/inference.GRPCInferenceService/ModelInfer", http.Header{"Authorization": {"Bearer " + shop}, "Model": {"other"}}, 403, `{"error":"the API key \"shop\" has no scope for predict of the model other"}`},
		{"POST", "/feedback", bearer(shop), 200, "hello shop"},
		{"POST", "/events", bearer(shop), 403, `{"error":"the API key \"shop\" has no scope for events"}`},
		{"POST", "/events", bearer(ops), 403, `{"error":"the API key \"ops\" has no scope for events"}`},
		{"POST", "/events", nil, 401, `{"error":"the request has no API key or token: send one as Authorization: Bearer ..."}`},
		{"POST", "/events", bearer(trigger), 200, "hello system:serviceaccount:pilotlight:t"},
		{"GET", "/admin/v1/keys", bearer(trigger), 403, `{"error":"the token's holder \"system:serviceaccount:pilotlight:t\" has no scope for admin"}`},
		{"GET", "/admin/v1/keys", bearer(shop), 403, `{"error":"the API key \"shop\" has no scope for admin"}`},
		{"GET", "/admin/v1/keys/../../../v2/health/ready", bearer(shop), 400, ``},
		{"GET", "/no/such/path", bearer(ops), 200, "hello ops"},
		{"POST", "/v2/models/other/infer", bearer(ann), 200, "hello ann"},
		{"POST", "/push", bearer(ann), 403, `{"error":"the token's holder \"ann\" has no scope for features:write"}`},
		{"POST", "/push", bearer(ann + "x"), 401, `{"error":"the token is not valid"}`},
		{"POST", "/push", bearer(shop[:len(shop)-2] + "AA"), 401, `{"error":"the API key is not valid"}`},
		{"POST", "/push", http.Header{"Authorization": {"Basic " + shop}}, 401, `{"error":"the header Authorization is not of the form: Bearer ..."}`},
		{"POST", "/push", http.Header{"Authorization": {"Bearer " + shop, "Bearer " + ops}}, 400, `{"error":"the request has more than one API key or token"}`},
		{"POST", "/push", http.Header{"Authorization": {"Bearer " + ops}, "X-Api-Key": {shop}}, 400, `{"error":"the request has more than one API key or token"}`},
	} {
		status, body, header := g.ask(test.method, test.path, test.header)
		if status != test.status || test.body != "" && body != test.body {
			t.Errorf("%s %s with %.40q: got %d %s, want %d %s", test.method, test.path, test.header, status, body, test.status, test.body)
		}
		if (status == 401) != (header.Get("WWW-Authenticate") == "Bearer") {
			t.Errorf("%s %s: got %d with WWW-Authenticate %q", test.method, test.path, status, header.Get("WWW-Authenticate"))
		}
	}
}

func TestGuardByGRPC(t *testing.T) {
	g := startGuarded(t, bucket(t), map[string]string{"LOG_LEVEL": "ERROR"})
	_, shop := create(t, g.keys, Grant{Name: "shop", Scopes: []Scope{"feedback"}})
	conn, err := grpc.NewClient(strings.TrimPrefix(g.url, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Errorf("anybody may ask whether it is well: got %v", err)
	}
	call := func(ctx context.Context) error {
		return conn.Invoke(ctx, "/inference.GRPCInferenceService/ModelInfer", &emptypb.Empty{}, &emptypb.Empty{})
	}
	if err := call(t.Context()); status.Code(err) != codes.Unauthenticated {
		t.Errorf("without a key: got %v", err)
	}
	if err := call(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+shop)); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), `"shop" has no scope for predict`) {
		t.Errorf("without the scope: got %v", err)
	}
}

func TestEventsFromAnyone(t *testing.T) {
	g := startGuarded(t, bucket(t), map[string]string{"EVENTS_FROM": "anyone", "LOG_LEVEL": "ERROR"})
	if status, body, _ := g.ask("POST", "/events", nil); status != 200 {
		t.Errorf("got %d %s", status, body)
	}
	if status, body, _ := g.ask("POST", "/events/", nil); status != 401 {
		t.Errorf("got %d %s", status, body)
	}
}

func TestSecretsAreNowhere(t *testing.T) {
	idp, collector := authtest.NewProvider(t), telemetrytest.NewCollector(t)
	g := startGuarded(t, bucket(t), map[string]string{"OIDC_ISSUER": idp.URL, "LOG_LEVEL": "DEBUG", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL, "TRACE_SAMPLE": "1"})
	_, ops := create(t, g.keys, Grant{Name: "ops", Scopes: []Scope{"admin"}})
	key, shop := create(t, g.keys, Grant{Name: "shop", Scopes: []Scope{"predict"}})
	token := idp.Token(t, "rsa", idp.Claims("pilotlight", nil))
	var said strings.Builder
	for _, header := range []http.Header{
		bearer(ops), bearer(shop), bearer(token), bearer(token + "x"), bearer(shop + "x"), bearer(shop[:len(shop)-2] + "AA"),
		{"Authorization": {shop}},
		{"Authorization": {"Basic " + shop}},
		{"X-Api-Key": {shop}},
		{"X-Api-Key": {token}},
		{"X-Api-Key": {shop, ops}},
	} {
		for _, path := range []string{"/v2/models/x/infer", "/admin/v1/keys", "/push", "/nothing", "//" + "x"} {
			_, body, h := g.ask("POST", path, header)
			said.WriteString(body)
			for _, v := range h {
				said.WriteString(strings.Join(v, " "))
			}
		}
	}
	status, body, _ := g.ask("DELETE", "/admin/v1/keys/"+key.ID, bearer(ops))
	if status != 200 {
		t.Fatalf("got %d %s", status, body)
	}
	g.ask("POST", "/admin/v1/models/x/versions", bearer(ops)) // which panics
	_, metrics, _ := g.ask("GET", "/metrics", nil)
	g.stop()
	log := g.log.String()
	for _, want := range []string{
		`"msg":"audit","outcome":"done","status":200,"caller":"key:`, `"action":"admin","method":"DELETE","path":"/admin/v1/keys/` + key.ID + `"`,
		`"msg":"audit","outcome":"failed","status":0,"caller":"key:`, `"action":"models:write","method":"POST","path":"/admin/v1/models/x/versions"`,
		`"msg":"audit","outcome":"refused","kind":"denied","why":"the API key \"shop\" has no scope for admin"`,
	} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %s", want)
		}
	}
	if !strings.Contains(metrics, `pilotlight_auth_decisions_total{action="admin",outcome="denied"}`) {
		t.Error("the metrics lack pilotlight_auth_decisions_total")
	}
	var spans strings.Builder
	for _, name := range []string{"POST /", "DELETE /admin/v1/keys/{id}"} {
		if s := collector.Span(name); s != nil {
			spans.WriteString(s.String())
		}
	}
	if spans.Len() == 0 {
		t.Error("no spans to look at")
	}
	_, secret1, _ := splitKey(ops)
	_, secret2, _ := splitKey(shop)
	for what, text := range map[string]string{"the log": log, "an answer": said.String(), "the metrics": metrics, "a span": spans.String()} {
		for _, secret := range []string{secret1, secret2, strings.Split(token, ".")[2]} {
			if strings.Contains(text, secret) {
				t.Errorf("%s has a secret in it: %.200s", what, text[max(0, strings.Index(text, secret)-100):])
			}
		}
	}
}

func TestRefusalsDoNotFillTheLog(t *testing.T) {
	var log lockedBuffer
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Output: &log}, "test")
	if err != nil {
		t.Fatal(err)
	}
	a := NewAudit(tel)
	now := time.Now()
	a.now = func() time.Time { return now }
	r := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
	for range 1000 {
		a.Refused(r, Need{}, nil, errNotValid)
	}
	now = now.Add(time.Second)
	a.Refused(r, Need{}, nil, errNotValid)
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(log.String(), "\n"); got != refusalsMost+1 || !strings.Contains(log.String(), `"refusals_left_out":950`) {
		t.Errorf("got %d lines, want %d, the last of which tells of 950 others", got, refusalsMost+1)
	}
}

func TestSettingsThatWouldLetAnybodyIn(t *testing.T) {
	for _, test := range []struct {
		c    func(*Config)
		want string
	}{
		{func(c *Config) { c.Algorithms = []string{"RS256", "HS256"} }, `OIDC_ALGORITHMS has "HS256"`},
		{func(c *Config) { c.Algorithms = []string{"none"} }, `OIDC_ALGORITHMS has "none"`},
		{func(c *Config) { c.Issuer = "http://idp.example.com" }, "expected an https URL"},
		{func(c *Config) { c.Issuer = "https://user:pw@idp.example.com" }, "expected an https URL"},
		{func(c *Config) { c.Issuer, c.Audience = "https://idp.example.com", "" }, "OIDC_AUDIENCE or"},
		{func(c *Config) { c.BrokerIssuer, c.BrokerSubject = "https://k", "" }, "BROKER_AUDIENCE or"},
		{func(c *Config) { c.BrokerIssuer, c.Issuer = "https://k", "https://k" }, "are the same"},
		{func(c *Config) { c.Events = "all" }, "EVENTS_FROM"},
		{func(c *Config) { c.Stale = 0 }, "AUTH_STALE"},
		{func(c *Config) {}, ""},
	} {
		c := Config{Stale: time.Minute, Audience: "a", Algorithms: []string{"RS256"}, Events: "broker", BrokerAudience: "a", BrokerSubject: "s"}
		test.c(&c)
		if err := c.Validate(); (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("got %v, want %q", err, test.want)
		}
	}
	f := &serve.Function{Name: "test", Wire: func(context.Context, *serve.Process) error { return nil }}
	if _, err := f.Start(t.Context(), map[string]string{"PORT": "0", "AUTH": "on"}); err == nil || !strings.Contains(err.Error(), "nobody who would check callers") {
		t.Errorf("a function without a guard starts with AUTH=on: %v", err)
	}
	var c Config
	f = &serve.Function{Name: "test", Configs: []any{&c}, Wire: func(_ context.Context, p *serve.Process) error {
		return Open(p, &c, bucket(t), true)
	}}
	if _, err := f.Start(t.Context(), map[string]string{"PORT": "0", "AUTH": "on"}); err == nil || !strings.Contains(err.Error(), "AUTH=on with a bucket in memory") {
		t.Errorf("got %v", err)
	}
}

func BenchmarkAdmit(b *testing.B) {
	keys := NewKeys(bucket(b))
	tel, err := telemetry.Start(b.Context(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		b.Fatal(err)
	}
	g, err := NewGuard(&Config{Stale: time.Minute, Events: "broker"}, keys, tel)
	if err != nil {
		b.Fatal(err)
	}
	_, whole := create(b, keys, Grant{Scopes: []Scope{"predict/flights-*"}})
	r := httptest.NewRequestWithContext(b.Context(), "POST", "/v2/models/flights-eu/infer", nil)
	r.Header.Set("Authorization", "Bearer "+whole)
	for b.Loop() {
		need, _, err := g.Admit(r)
		if err != nil {
			b.Fatal(err)
		}
		g.count(r.Context(), need.Action, err)
	}
}
