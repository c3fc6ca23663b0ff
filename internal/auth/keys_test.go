package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
)

func bucket(t testing.TB) store.Blob {
	t.Helper()
	b, err := memstore.OpenBlob(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func create(t testing.TB, k *Keys, g Grant) (*Key, string) {
	t.Helper()
	if g.Name == "" {
		g.Name = "test"
	}
	key, whole, err := k.Create(t.Context(), g, "me")
	if err != nil {
		t.Fatal(err)
	}
	return key, whole
}

// checked tries a key, and gives why it is refused.
func checked(t testing.TB, r *Ring, whole string) string {
	t.Helper()
	p, err := r.Check(t.Context(), whole)
	if err == nil {
		if p == nil {
			t.Fatal("neither a principal nor an error")
		}
		return ""
	}
	return fault.KindOf(err).String() + ": " + fault.Message(err)
}

const (
	notValid = "unauthenticated: the API key is not valid"
	revoked  = "unauthenticated: the API key is revoked"
	expired  = "unauthenticated: the API key is expired"
	cantTell = "unavailable: API keys can't be checked now: the bucket that holds them does not answer"
)

func TestAKeyOpensAndTheBucketHasOnlyItsHash(t *testing.T) {
	blob := bucket(t)
	keys := NewKeys(blob)
	ring := NewRing(keys, time.Minute)
	key, whole := create(t, keys, Grant{Name: "shop", Tenant: "acme", Scopes: []Scope{"predict/flights-*", "feedback"}, Priority: High, Limits: Limits{Rate: 5}})
	p, err := ring.Check(t.Context(), whole)
	if err != nil {
		t.Fatal(err)
	}
	if p.ID != "key:"+key.ID || p.Name != "shop" || p.Tenant != "acme" || p.Priority != High || p.Limits.Rate != 5 {
		t.Errorf("got %+v", p)
	}
	for _, wrong := range []string{
		"", "pl_", "pl__", "hello", whole + "A", whole[:len(whole)-1], strings.ToLower(whole),
		whole[:len(whole)-1] + "1", "pl_" + key.ID + "_" + strings.Repeat("A", secretLen), "pl_aaaaaaaaaaaa_" + whole[len("pl_aaaaaaaaaaaa_"):],
		"pl_../../../aaa_" + whole[len("pl_aaaaaaaaaaaa_"):], strings.Repeat("A", 1<<16),
	} {
		if got := checked(t, ring, wrong); got != notValid {
			t.Errorf("%.60q: got %q, want %q", wrong, got, notValid)
		}
	}
	_, text, _ := splitKey(whole)
	for o, err := range blob.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		b, _, err := store.ReadAll(t.Context(), blob, o.Key)
		if err != nil || bytes.Contains(b, []byte(text)) {
			t.Errorf("%s holds the secret: %s %v", o.Key, b, err)
		}
	}
}

func TestRevocationIsHeardOfEverywhereWithinASecond(t *testing.T) {
	blob := bucket(t)
	synctest.Test(t, func(t *testing.T) {
		keys := NewKeys(blob)
		here, there := NewRing(keys, time.Minute), NewRing(NewKeys(blob), time.Minute)
		key, whole := create(t, keys, Grant{Scopes: []Scope{"predict"}})
		for _, r := range []*Ring{here, there} {
			if got := checked(t, r, whole); got != "" {
				t.Fatal(got)
			}
		}
		if _, err := keys.Revoke(t.Context(), key.ID); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		for _, r := range []*Ring{here, there} {
			if got := checked(t, r, whole); got != revoked {
				t.Errorf("got %q, want %q", got, revoked)
			}
		}
		// So is a key that was asked for before it was there.
		id := "aaaaaaaaaaaa"
		whole, s := newSecret(id)
		if got := checked(t, there, whole); got != notValid {
			t.Errorf("got %q, want %q", got, notValid)
		}
		made := &stored{Key: Key{ID: id, Grant: Grant{Name: "late", Scopes: []Scope{"predict"}}}, Secrets: []secret{s}}
		if err := errors.Join(keys.put(t.Context(), keysPrefix+id, made, store.IfAbsent()), keys.tell(t.Context(), id)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if got := checked(t, there, whole); got != "" {
			t.Errorf("got %q, want that it opens", got)
		}
		// More changes than are told of make everything new.
		if _, err := keys.Revoke(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		for range changesKept + 1 {
			if err := keys.tell(t.Context(), "bbbbbbbbbbbb"); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		if got := checked(t, there, whole); got != revoked {
			t.Errorf("got %q, want %q", got, revoked)
		}
		synctest.Wait()
	})
}

func TestRotation(t *testing.T) {
	blob := bucket(t)
	synctest.Test(t, func(t *testing.T) {
		keys := NewKeys(blob)
		ring := NewRing(keys, time.Minute)
		key, first := create(t, keys, Grant{Scopes: []Scope{"predict"}, Expires: time.Now().Add(100 * time.Hour)})
		_, second, err := keys.Rotate(t.Context(), key.ID, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		both := func(want1, want2 string) {
			t.Helper()
			if got := checked(t, ring, first); got != want1 {
				t.Errorf("the first: got %q, want %q", got, want1)
			}
			if got := checked(t, ring, second); got != want2 {
				t.Errorf("the second: got %q, want %q", got, want2)
			}
		}
		both("", "")
		time.Sleep(time.Hour)
		both(notValid, "")
		if _, _, err := keys.Rotate(t.Context(), key.ID, 0); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		both(notValid, notValid)
		_, first, err = keys.Rotate(t.Context(), key.ID, 0)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		both("", notValid)
		time.Sleep(100 * time.Hour)
		both(expired, notValid)
		if _, _, err := keys.Rotate(t.Context(), key.ID, 0); !fault.Is(err, fault.Conflict) {
			t.Errorf("got %v, want a conflict: it is expired", err)
		}
		synctest.Wait()
	})
}

// moody is a bucket that can be away.
type moody struct {
	store.Blob
	away atomic.Bool
	gets atomic.Int64
}

func (m *moody) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, store.Object, error) {
	m.gets.Add(1)
	if m.away.Load() {
		return nil, store.Object{}, fault.New(fault.Unavailable, "the bucket is away")
	}
	return m.Blob.Get(ctx, key, offset, length)
}

func TestNobodyIsLetInForLongWithoutTheBucket(t *testing.T) {
	blob := &moody{Blob: bucket(t)}
	synctest.Test(t, func(t *testing.T) {
		keys := NewKeys(blob)
		ring := NewRing(keys, time.Minute)
		_, whole := create(t, keys, Grant{Scopes: []Scope{"predict"}})
		_, other := create(t, keys, Grant{Scopes: []Scope{"predict"}})
		if got := checked(t, ring, whole); got != "" {
			t.Fatal(got)
		}
		blob.away.Store(true)
		time.Sleep(59 * time.Second)
		if got := checked(t, ring, whole); got != "" {
			t.Errorf("got %q, want that what is known stays good", got)
		}
		if got := checked(t, ring, other); got != cantTell {
			t.Errorf("got %q, want %q", got, cantTell)
		}
		time.Sleep(2 * time.Second)
		if got := checked(t, ring, whole); got != cantTell {
			t.Errorf("got %q, want %q", got, cantTell)
		}
		blob.away.Store(false)
		time.Sleep(time.Second)
		if got := checked(t, ring, whole); got != "" {
			t.Errorf("got %q, want that it opens again", got)
		}
		if got := checked(t, NewRing(NewKeys(bucket(t)), time.Minute), whole); got != notValid {
			t.Errorf("an empty bucket: got %q, want %q", got, notValid)
		}
		blob.away.Store(true)
		if got := checked(t, NewRing(keys, time.Minute), whole); got != cantTell {
			t.Errorf("a bucket that never answered: got %q, want %q", got, cantTell)
		}
		synctest.Wait()
	})
}

func TestWhoGuessesCostsLittle(t *testing.T) {
	blob := &moody{Blob: bucket(t)}
	ring := NewRing(NewKeys(blob), time.Minute)
	whole, _ := newSecret("aaaaaaaaaaaa")
	for range 1000 {
		if got := checked(t, ring, whole); got != notValid {
			t.Fatal(got)
		}
	}
	if n := blob.gets.Load(); n > 20 { // one for the key, and one each half second
		t.Errorf("an id that does not exist was read %d times", n)
	}
}

func TestGrantsThatCantBeMeant(t *testing.T) {
	ok := func() Grant { return Grant{Name: "n", Scopes: []Scope{"predict"}} }
	for _, test := range []struct {
		change func(*Grant)
		want   string
	}{
		{func(g *Grant) { g.Name = "" }, "name is"},
		{func(g *Grant) { g.Name = "a\nb" }, "name is"},
		{func(g *Grant) { g.Tenant = "a/b" }, "tenant is"},
		{func(g *Grant) { g.Tenant = "a*" }, "tenant is"},
		{func(g *Grant) { g.Scopes = nil }, "scopes are missing"},
		{func(g *Grant) { g.Scopes = []Scope{"predikt"} }, `scope "predikt": expected one of predict, features:read`},
		{func(g *Grant) { g.Scopes = []Scope{""} }, `scope ""`},
		{func(g *Grant) { g.Scopes = []Scope{"predict/"} }, `scope "predict/": behind the slash`},
		{func(g *Grant) { g.Scopes = []Scope{"predict/a/b"} }, `scope "predict/a/b": behind the slash`},
		{func(g *Grant) { g.Scopes = []Scope{"predict/[a"} }, `scope "predict/[a": behind the slash`},
		{func(g *Grant) { g.Scopes = []Scope{"admin/x"} }, "admin is not about single models"},
		{func(g *Grant) { g.Priority = "urgent" }, "priority is"},
		{func(g *Grant) { g.Expires = time.Now().Add(-time.Second) }, "which is over"},
		{func(g *Grant) { g.Rate = -1 }, "rate is"},
		{func(g *Grant) { g.Rate = 1e9 }, "rate is"},
		{func(g *Grant) { g.Burst = 5 }, "burst is"},
		{func(g *Grant) { g.Daily.Rows = -1 }, "a quota is"},
	} {
		g := ok()
		test.change(&g)
		if err := g.Check(time.Now()); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("got %v, want %q", err, test.want)
		}
	}
	g := ok()
	if err := g.Check(time.Now()); err != nil {
		t.Error(err)
	}
}

func TestMay(t *testing.T) {
	p := newPrincipal(Principal{}, []Scope{"predict/fl*", "predict/x", "feedback"})
	admin := newPrincipal(Principal{}, []Scope{"admin"})
	for _, test := range []struct {
		p      *Principal
		action Action
		model  string
		want   bool
	}{
		{p, Predict, "flights", true},
		{p, Predict, "x", true},
		{p, Predict, "xx", false},
		{p, Predict, "Flights", false},
		{p, Predict, "", true}, // which models there are
		{p, ModelsWrite, "flights", false},
		{p, Feedback, "", true},
		{p, Admin, "", false},
		{p, Action("unheard"), "", false},
		{p, Anonymous, "", true},
		{newPrincipal(Principal{}, nil), Anonymous, "", true},
		{newPrincipal(Principal{}, nil), Predict, "", false},
		{admin, ModelsWrite, "flights", true},
		{admin, Predict, "any", true},
		{admin, Events, "", false},
	} {
		if got := test.p.May(test.action, test.model); got != test.want {
			t.Errorf("%+v %s %s: got %t, want %t", test.p.scopes, test.action, test.model, got, test.want)
		}
	}
}

func TestAdminOfKeys(t *testing.T) {
	mux := http.NewServeMux()
	keys := NewKeys(bucket(t))
	keys.Register(mux)
	said := func(method, path, body string, status int, into any) string {
		t.Helper()
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, "/admin/v1/keys"+path, strings.NewReader(body)))
		if w.Code != status {
			t.Fatalf("%s %s: got %d %s, want %d", method, path, w.Code, w.Body, status)
		}
		if into != nil {
			if err := json.Unmarshal(w.Body.Bytes(), into); err != nil {
				t.Fatal(err)
			}
		}
		return w.Body.String()
	}
	var made, again Issued
	said("POST", "", `{"name":"shop","scopes":["predict"],"lasts":"24h","rate":2.5,"daily":{"requests":1000}}`, 201, &made)
	if left := time.Until(made.Expires); made.Secret == "" || made.Rate != 2.5 || made.Daily.Requests != 1000 || left < 23*time.Hour || left > 24*time.Hour {
		t.Errorf("got %+v", made)
	}
	ring := NewRing(keys, time.Minute)
	if got := checked(t, ring, made.Secret); got != "" {
		t.Error(got)
	}
	said("POST", "/"+made.ID+"/rotate", "", 200, &again)
	if again.Secret == made.Secret || again.ID != made.ID {
		t.Errorf("got %+v", again)
	}
	var all List
	for _, text := range []string{said("GET", "", "", 200, &all), said("GET", "/"+made.ID, "", 200, nil), said("DELETE", "/"+made.ID, "", 200, nil)} {
		_, secret, _ := splitKey(again.Secret)
		if strings.Contains(text, secret) || strings.Contains(text, "sha256") {
			t.Errorf("an answer tells the secret, or its hash: %s", text)
		}
	}
	if len(all.Keys) != 1 || all.Keys[0].Name != "shop" {
		t.Errorf("got %+v", all)
	}
	for _, bad := range []struct{ method, path, body, want string }{
		{"POST", "", `{"name":"x","scopes":["predict"],"secret":"pl_mine"}`, `unknown field`},
		{"POST", "", `{"name":"x","scopes":["predict"],"lasts":"soon"}`, `lasts is \"soon\"`},
		{"POST", "", `{"name":"x","scopes":["predict"],"lasts":"1h","expires":"2100-01-01T00:00:00Z"}`, `two ways`},
		{"POST", "", ``, `name is`},
		{"POST", "/" + made.ID + "/rotate", `{"overlap":"-1h"}`, `overlap is`},
	} {
		if got := said(bad.method, bad.path, bad.body, 400, nil); !strings.Contains(got, bad.want) {
			t.Errorf("%s: got %s, want %s", bad.body, got, bad.want)
		}
	}
	said("GET", "/nosuchkey", "", 404, nil)
	said("DELETE", "/..%2F..%2Fchanges", "", 404, nil)
	said("POST", "/"+made.ID+"/rotate", "", 409, nil)
}

func BenchmarkCheck(b *testing.B) {
	keys := NewKeys(bucket(b))
	ring := NewRing(keys, time.Minute)
	_, whole := create(b, keys, Grant{Scopes: []Scope{"predict/flights-*"}})
	for b.Loop() {
		p, err := ring.Check(b.Context(), whole)
		if err != nil || !p.May(Predict, "flights-eu") {
			b.Fatal(err)
		}
	}
}
