package auth

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/auth/authtest"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

const audience = "pilotlight"

func tokens(p *authtest.Provider) *Tokens {
	return NewTokens(Issuer{URL: p.URL, Audience: audience, Algorithms: []string{"RS256", "ES256"}, ScopeClaim: "scope", TenantClaim: "tenant"})
}

func refusedToken(t *testing.T, tokens *Tokens, raw string) string {
	t.Helper()
	p, err := tokens.Check(t.Context(), raw)
	if err == nil {
		t.Errorf("%.100s lets in %+v", raw, p)
		return ""
	}
	return fault.KindOf(err).String() + ": " + fault.Message(err)
}

func TestATokensClaimsAreScopes(t *testing.T) {
	idp := authtest.NewProvider(t)
	all := tokens(idp)
	for _, test := range []struct {
		name   string
		kid    string
		claims map[string]any
		scopes string
		tenant string
	}{
		{"a text", "rsa", map[string]any{"scope": "openid predict/flights feedback admin/x", "tenant": "acme"}, "predict/flights feedback", "acme"},
		{"a list", "ec", map[string]any{"scope": []string{"features:read", "profile"}}, "features:read", ""},
		{"nothing", "rsa", nil, "", ""},
		{"other shapes", "rsa", map[string]any{"scope": 7, "tenant": []int{1}}, "", ""},
		{"one audience of many", "rsa", map[string]any{"aud": []string{"x", audience}, "scope": "predict"}, "predict", ""},
	} {
		p, err := all.Check(t.Context(), idp.Token(t, test.kid, idp.Claims(audience, test.claims)))
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		var got []string
		for _, s := range p.scopes {
			got = append(got, strings.TrimSuffix(string(s.action)+"/"+s.models, "/"))
		}
		if strings.Join(got, " ") != test.scopes || p.Tenant != test.tenant || p.ID != "token:"+idp.URL+"#ann" || p.Name != "ann" {
			t.Errorf("%s: got %+v, want %s of %s", test.name, p, test.scopes, test.tenant)
		}
	}
}

func TestForgedTokens(t *testing.T) {
	idp, other := authtest.NewProvider(t), authtest.NewProvider(t)
	all := tokens(idp)
	admin := map[string]any{"scope": "admin"}
	claims := idp.Claims(audience, admin)
	good := idp.Token(t, "rsa", claims)
	if _, err := all.Check(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(good, ".")
	none := func(alg string) string {
		return authtest.Part(t, map[string]any{"alg": alg, "typ": "JWT"}) + "." + parts[1] + "."
	}
	// Key confusion: the public key, which all know, as the secret of an HMAC.
	confused := func(secret []byte) string {
		signed := authtest.Part(t, map[string]any{"alg": "HS256", "kid": "rsa", "typ": "JWT"}) + "." + parts[1]
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(signed))
		return signed + "." + authtest.Encode(mac.Sum(nil))
	}
	der, err := x509.MarshalPKIXPublicKey(idp.Public("rsa"))
	if err != nil {
		t.Fatal(err)
	}
	// A header that says by which key, or where to find it.
	pointing := func(header map[string]any) string {
		h := map[string]any{"alg": "RS256", "kid": "rsa"}
		maps.Copy(h, header)
		foreign := strings.Split(other.Token(t, "rsa", claims), ".")
		return authtest.Part(t, h) + "." + foreign[1] + "." + foreign[2]
	}
	with := func(c map[string]any) string {
		m := maps.Clone(claims)
		maps.Copy(m, c)
		maps.DeleteFunc(m, func(_ string, v any) bool { return v == nil })
		return idp.Token(t, "rsa", m)
	}
	const bad = "unauthenticated: the token is not valid"
	for name, test := range map[string]struct{ raw, want string }{
		"nothing":                   {"", bad},
		"no token":                  {"Bearer", bad},
		"two parts":                 {parts[0] + "." + parts[1], bad},
		"four parts":                {good + ".x", bad},
		"not signed":                {parts[0] + "." + parts[1] + ".", bad},
		"alg none":                  {none("none"), bad},
		"alg None":                  {none("None"), bad},
		"alg nOnE with a signature": {none("nOnE") + parts[2], bad},
		"no alg":                    {none(""), bad},
		"HMAC by the PEM":           {confused(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), bad},
		"HMAC by the DER":           {confused(der), bad},
		"HMAC by nothing":           {confused(nil), bad},
		"other claims":              {parts[0] + "." + authtest.Part(t, idp.Claims(audience, map[string]any{"scope": "admin", "sub": "eve"})) + "." + parts[2], bad},
		"a stranger's key":          {other.Token(t, "rsa", claims), bad},
		"a stranger's EC key":       {other.Token(t, "ec", claims), bad},
		"a key in the header":       {pointing(map[string]any{"jwk": other.JWKS()[0]}), bad},
		"a URL in the header":       {pointing(map[string]any{"jku": other.URL + "/keys", "x5u": other.URL}), bad},
		"critical and unknown":      {pointing(map[string]any{"crit": []string{"b64"}, "b64": false}), bad},
		"another issuer":            {other.Token(t, "rsa", other.Claims(audience, admin)), bad},
		"the issuer with a slash":   {with(map[string]any{"iss": idp.URL + "/"}), bad},
		"another audience":          {with(map[string]any{"aud": "elsewhere"}), bad},
		"no audience":               {with(map[string]any{"aud": nil}), bad},
		"an audience that contains": {with(map[string]any{"aud": audience + "-2"}), bad},
		"expired":                   {with(map[string]any{"exp": time.Now().Add(-time.Second).Unix()}), "unauthenticated: the token is expired"},
		"no expiry":                 {with(map[string]any{"exp": nil}), "unauthenticated: the token is expired"},
		"not yet":                   {with(map[string]any{"nbf": time.Now().Add(time.Hour).Unix()}), bad},
		"no subject":                {with(map[string]any{"sub": nil}), `denied: the token's subject "" is not one that is let in`},
		"a tenant that is a path":   {with(map[string]any{"tenant": "../x"}), `denied: the token's tenant "../x" is not one that can be counted for`},
		"too long":                  {good + strings.Repeat("A", tokenMost), bad},
		"JSON":                      {`{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`, bad},
		"padding":                   {good + "=", bad},
	} {
		if got := refusedToken(t, all, test.raw); got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
	if n := other.Fetches.Load(); n != 0 {
		t.Errorf("a token had keys fetched from where it pointed to, %d times", n)
	}
	if n := idp.Fetches.Load(); n > 3 {
		t.Errorf("forged tokens had the provider's keys fetched %d times", n)
	}
}

func TestKeysOfAProviderRotate(t *testing.T) {
	idp := authtest.NewProvider(t)
	all := tokens(idp)
	now := time.Now()
	all.now = func() time.Time { return now }
	old := idp.Token(t, "rsa", idp.Claims(audience, nil))
	if _, err := all.Check(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	idp.Add(t, "rsa2")
	idp.Remove("rsa")
	fresh := idp.Token(t, "rsa2", idp.Claims(audience, nil))
	all.thriftless(t)
	if _, err := all.Check(t.Context(), fresh); err != nil {
		t.Errorf("a token by the new key: %v", err)
	}
	for range 1000 { // go-oidc gives keys to who waits for them before it takes them over itself
		now = now.Add(tokenKept + time.Second) // until then it is remembered
		all.thriftless(t)
		if _, err := all.Check(t.Context(), old); err != nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if got, want := refusedToken(t, all, old), "unauthenticated: the token is not valid"; got != want {
		t.Errorf("a token by the old key: got %q, want %q", got, want)
	}
}

// thriftless has keys be fetched as if the last time were long ago.
func (t *Tokens) thriftless(tt *testing.T) {
	tt.Helper()
	for _, i := range t.issuers {
		transport := i.client.Transport.(*thrifty)
		transport.mu.Lock()
		clear(transport.had)
		transport.mu.Unlock()
	}
}

func TestAProviderThatIsAway(t *testing.T) {
	idp := authtest.NewProvider(t)
	all := tokens(idp)
	const away = "unavailable: tokens can't be checked now: their issuer does not answer"
	idp.Away(true)
	raw := idp.Token(t, "rsa", idp.Claims(audience, nil))
	if got := refusedToken(t, all, raw); got != away {
		t.Errorf("got %q, want %q", got, away)
	}
	idp.Away(false)
	all.thriftless(t)
	if _, err := all.Check(t.Context(), raw); err != nil {
		t.Fatal(err)
	}
	idp.Away(true)
	all.thriftless(t)
	if _, err := all.Check(t.Context(), idp.Token(t, "rsa", idp.Claims(audience, map[string]any{"sub": "bob"}))); err != nil {
		t.Errorf("keys that are known need no provider: %v", err)
	}
	idp.Add(t, "rsa2")
	if got := refusedToken(t, all, idp.Token(t, "rsa2", idp.Claims(audience, nil))); got != away {
		t.Errorf("got %q, want %q", got, away)
	}
}

func TestTheBrokersSubject(t *testing.T) {
	idp := authtest.NewProvider(t)
	broker := NewTokens(Issuer{URL: idp.URL, Audience: audience, Algorithms: []string{"RS256"}, Subject: "system:serviceaccount:pilotlight:*", Grants: []Scope{"events"}})
	check := func(subject string) (*Principal, error) {
		return broker.Check(t.Context(), idp.Token(t, "rsa", idp.Claims(audience, map[string]any{"sub": subject, "scope": "admin"})))
	}
	p, err := check("system:serviceaccount:pilotlight:models-to-predict-oidc")
	if err != nil || !p.May(Events, "") || p.May(Admin, "") {
		t.Errorf("got %+v %v", p, err)
	}
	for _, subject := range []string{"system:serviceaccount:default:pilotlight", "system:serviceaccount:pilotlight", "pilotlight", "system:serviceaccount:pilotlight2:x"} {
		if _, err := check(subject); !fault.Is(err, fault.Denied) {
			t.Errorf("%s: got %v, want that it is denied", subject, err)
		}
	}
}

func BenchmarkCheckToken(b *testing.B) {
	idp := authtest.NewProvider(b)
	all := tokens(idp)
	raw := idp.Token(b, "rsa", idp.Claims(audience, map[string]any{"scope": "predict"}))
	for b.Loop() {
		if p, err := all.Check(b.Context(), raw); err != nil || !p.May(Predict, "flights") {
			b.Fatal(err)
		}
	}
}
