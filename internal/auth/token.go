package auth

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/maypok86/otter/v2"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// Issuer is an identity provider whose tokens are taken.
type Issuer struct {
	URL         string   // as its tokens name it, and below which its configuration lies
	Audience    string   // that a token must be for
	Algorithms  []string // that it may be signed by, all of them asymmetric
	Subject     string   // a pattern that a token's subject must fit; "": any
	ScopeClaim  string   // the claim with scopes, as a text with spaces or a list
	TenantClaim string   // the claim with the tenant
	Grants      []Scope  // that every token has, beside those of its claim
}

const (
	tokenMost   = 16 << 10         // bytes of a token
	tokensMost  = 10_000           // tokens that are remembered
	tokenKept   = time.Minute      // for so long
	thrift      = 10 * time.Second // between two fetches of a provider's keys, however many tokens with unknown ones come
	thriftError = 2 * time.Second
	fetchMost   = 5 * time.Second
)

// Tokens checks tokens. A provider is asked for its keys when the first of its tokens comes, and again for keys
// that were not seen before.
type Tokens struct {
	issuers map[string]*issuer
	checked *otter.Cache[string, *token]
	now     func() time.Time
}

type issuer struct {
	Issuer
	client *http.Client
	now    func() time.Time

	mu       sync.Mutex
	verifier *oidc.IDTokenVerifier // nil: its configuration was not read yet
}

// token is one that was found good.
type token struct {
	principal *Principal
	until     time.Time
}

// NewTokens takes tokens of issuers. It makes no connection.
func NewTokens(issuers ...Issuer) *Tokens {
	t := &Tokens{
		issuers: map[string]*issuer{}, now: time.Now,
		checked: otter.Must(&otter.Options[string, *token]{MaximumSize: tokensMost}), // the options are right
	}
	for _, i := range issuers {
		t.issuers[i.URL] = &issuer{Issuer: i, now: func() time.Time { return t.now() }, client: &http.Client{
			Transport: &thrifty{base: http.DefaultTransport.(*http.Transport).Clone(), had: map[string]*fetched{}}, Timeout: fetchMost,
			CheckRedirect: func(*http.Request, []*http.Request) error {
				return errors.New("an identity provider must not redirect")
			},
		}}
	}
	return t
}

var errBadToken = fault.New(fault.Unauthenticated, "the token is not valid")

// Check finds out whose token it is. One that is forged, expired, of another issuer or for another audience is
// Unauthenticated; Unavailable tells that the issuer can't be asked for its keys.
func (t *Tokens) Check(ctx context.Context, raw string) (*Principal, error) {
	if known, ok := t.checked.GetIfPresent(raw); ok && t.now().Before(known.until) {
		return known.principal, nil
	}
	i := t.issuers[issuerOf(raw)]
	if i == nil {
		return nil, errBadToken
	}
	verifier, err := i.open(ctx)
	if err != nil {
		return nil, err
	}
	good, err := verifier.Verify(ctx, raw)
	if err != nil {
		return nil, i.refusal(ctx, err)
	}
	p, err := i.principal(good)
	if err != nil {
		return nil, err
	}
	until := t.now().Add(tokenKept)
	if good.Expiry.Before(until) {
		until = good.Expiry
	}
	t.checked.Set(raw, &token{p, until})
	return p, nil
}

// issuerOf reads who says to have made a token. Nothing is believed by that.
func issuerOf(raw string) string {
	if len(raw) > tokenMost {
		return ""
	}
	_, rest, _ := strings.Cut(raw, ".")
	payload, _, ok := strings.Cut(rest, ".")
	if !ok {
		return ""
	}
	b, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return ""
	}
	var claims struct {
		Issuer string `json:"iss"`
	}
	if json.Unmarshal(b, &claims) != nil {
		return ""
	}
	return claims.Issuer
}

// open reads the provider's configuration, once.
func (i *issuer) open(ctx context.Context) (*oidc.IDTokenVerifier, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.verifier != nil {
		return i.verifier, nil
	}
	provider, err := oidc.NewProvider(oidc.ClientContext(context.WithoutCancel(ctx), i.client), i.URL)
	if err != nil {
		return nil, i.away(err)
	}
	i.verifier = provider.Verifier(&oidc.Config{ClientID: i.Audience, SupportedSigningAlgs: i.Algorithms, Now: i.now})
	return i.verifier, nil
}

func (i *issuer) away(err error) error {
	return fault.Wrap(fault.Unavailable, err, "tokens can't be checked now: their issuer does not answer")
}

// refusal says why a token is not good.
func (i *issuer) refusal(ctx context.Context, err error) error {
	var unreachable *fetchError
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, new(*oidc.TokenExpiredError)):
		return fault.Wrap(fault.Unauthenticated, err, "the token is expired")
	case errors.As(err, &unreachable), strings.Contains(err.Error(), fetchFailed): // not all errors on the way are wrapped
		return i.away(err)
	}
	return fault.Wrap(fault.Unauthenticated, err, "the token is not valid")
}

// principal reads the claims of a token that was found good. Scopes that mean nothing here are for others.
func (i *issuer) principal(t *oidc.IDToken) (*Principal, error) {
	if ok, _ := path.Match(cmp.Or(i.Subject, "*"), strings.ReplaceAll(t.Subject, "/", "_")); !ok || t.Subject == "" {
		return nil, fault.New(fault.Denied, "the token's subject %.100q is not one that is let in", t.Subject)
	}
	claims := map[string]any{}
	if err := t.Claims(&claims); err != nil {
		return nil, errBadToken
	}
	scopes := i.Grants
	for _, s := range texts(claims[i.ScopeClaim]) {
		if Scope(s).Check() == nil {
			scopes = append(scopes[:len(scopes):len(scopes)], Scope(s))
		}
	}
	tenant, _ := claims[i.TenantClaim].(string)
	if !goodTenant(tenant) {
		return nil, fault.New(fault.Denied, "the token's tenant %.60q is not one that can be counted for", tenant)
	}
	return newPrincipal(Principal{ID: "token:" + t.Issuer + "#" + clip(t.Subject), Name: clip(t.Subject), Tenant: tenant, Priority: Normal}, scopes), nil
}

// texts reads a claim that is a text with spaces, or a list of texts.
func texts(claim any) (all []string) {
	switch claim := claim.(type) {
	case string:
		return strings.Fields(claim)
	case []any:
		for _, one := range claim {
			if s, ok := one.(string); ok {
				all = append(all, s)
			}
		}
	}
	return all
}

// thrifty answers what was fetched a moment ago from memory. A provider's keys are asked for again with every token that none of
// them has signed, and anybody can make such tokens.
type thrifty struct {
	base http.RoundTripper

	mu  sync.Mutex
	had map[string]*fetched // of the two URLs that a provider has
}

type fetched struct {
	at     time.Time
	status int
	header http.Header
	body   []byte
	err    error
}

const fetchFailed = "fetch from the identity provider"

type fetchError struct{ error }

func (t *thrifty) RoundTrip(r *http.Request) (*http.Response, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	url := r.URL.String()
	f := t.had[url]
	if f == nil || time.Since(f.at) > thrift || f.failed() && time.Since(f.at) > thriftError {
		f = t.fetch(r)
		t.had[url] = f
	}
	if f.err != nil {
		return nil, &fetchError{f.err}
	}
	return &http.Response{
		StatusCode: f.status, Status: http.StatusText(f.status), Header: maps.Clone(f.header),
		Body: io.NopCloser(bytes.NewReader(f.body)), ContentLength: int64(len(f.body)), Request: r,
	}, nil
}

func (f *fetched) failed() bool { return f.err != nil || f.status != http.StatusOK }

func (t *thrifty) fetch(r *http.Request) *fetched {
	f := &fetched{at: time.Now()}
	resp, err := t.base.RoundTrip(r)
	if err == nil {
		f.status, f.header = resp.StatusCode, resp.Header
		f.body, err = io.ReadAll(io.LimitReader(resp.Body, objectMost))
		err = errors.Join(err, resp.Body.Close())
	}
	if err == nil && f.status >= http.StatusInternalServerError {
		err = fmt.Errorf("it answers %d", f.status)
	}
	if err != nil {
		f.err = fmt.Errorf("%s: %w", fetchFailed, err)
	}
	return f
}
