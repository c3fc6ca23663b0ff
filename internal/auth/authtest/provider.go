// Package authtest is an identity provider for tests.
package authtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Provider issues tokens. It is safe for concurrent use.
type Provider struct {
	URL     string
	Fetches atomic.Int64 // how often its keys were asked for

	mu   sync.Mutex
	keys map[string]crypto.Signer // by key id
	away bool
}

// NewProvider starts a provider with the keys "rsa" and "ec". It ends with the test.
func NewProvider(t testing.TB) *Provider {
	t.Helper()
	p := &Provider{keys: map[string]crypto.Signer{}}
	p.Add(t, "rsa")
	p.Add(t, "ec")
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	p.URL = server.URL
	answer := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(v); err != nil {
			t.Error(err)
		}
	}
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		if p.isAway() {
			http.Error(w, "away", http.StatusBadGateway)
			return
		}
		answer(w, map[string]any{"issuer": p.URL, "jwks_uri": p.URL + "/keys", "authorization_endpoint": p.URL, "token_endpoint": p.URL, "id_token_signing_alg_values_supported": []string{"RS256"}})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		p.Fetches.Add(1)
		if p.isAway() {
			http.Error(w, "away", http.StatusBadGateway)
			return
		}
		answer(w, map[string]any{"keys": p.JWKS()})
	})
	return p
}

func (p *Provider) isAway() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.away
}

// Away has the provider answer nobody, or everybody again.
func (p *Provider) Away(away bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.away = away
}

// Add makes a key: of RSA, unless its id begins with "ec".
func (p *Provider) Add(t testing.TB, kid string) {
	t.Helper()
	var key crypto.Signer
	var err error
	if kid[:2] == "ec" {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	} else {
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys[kid] = key
}

// Remove has the provider not tell of a key any more.
func (p *Provider) Remove(kid string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.keys, kid)
}

// JWKS gives the public keys.
func (p *Provider) JWKS() []map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []map[string]string
	for kid, key := range p.keys {
		switch key := key.Public().(type) {
		case *rsa.PublicKey:
			all = append(all, map[string]string{"kty": "RSA", "kid": kid, "use": "sig", "n": Encode(key.N.Bytes()), "e": Encode(big.NewInt(int64(key.E)).Bytes())})
		case *ecdsa.PublicKey:
			b, err := key.Bytes()
			if err != nil {
				panic(err) // it was just made
			}
			all = append(all, map[string]string{"kty": "EC", "kid": kid, "use": "sig", "crv": "P-256", "x": Encode(b[1:33]), "y": Encode(b[33:])})
		}
	}
	return all
}

// Public gives a key's public half.
func (p *Provider) Public(kid string) crypto.PublicKey {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.keys[kid].Public()
}

// Claims are those of a good token for an audience, with others on top.
func (p *Provider) Claims(audience string, others map[string]any) map[string]any {
	now := time.Now()
	c := map[string]any{"iss": p.URL, "aud": audience, "sub": "ann", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}
	maps.Copy(c, others)
	return c
}

// Token signs claims by a key.
func (p *Provider) Token(t testing.TB, kid string, claims map[string]any) string {
	t.Helper()
	p.mu.Lock()
	key := p.keys[kid]
	p.mu.Unlock()
	alg := "RS256"
	if kid[:2] == "ec" {
		alg = "ES256"
	}
	signed := Part(t, map[string]any{"alg": alg, "kid": kid, "typ": "JWT"}) + "." + Part(t, claims)
	sum := sha256.Sum256([]byte(signed))
	var signature []byte
	var err error
	switch key := key.(type) {
	case *rsa.PrivateKey:
		signature, err = rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	case *ecdsa.PrivateKey:
		r, s, e := ecdsa.Sign(rand.Reader, key, sum[:])
		if err = e; err == nil {
			signature = append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + Encode(signature)
}

// Part writes a part of a token.
func Part(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return Encode(b)
}

// Encode writes bytes as tokens have them.
func Encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
