package auth

import (
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// Config says who is let in.
type Config struct {
	Auth  string        `env:"AUTH" help:"'on' asks each caller for an API key or a token; 'off' lets everyone who reaches the server use it, wherever it listens. Empty: 'off' on a loopback address, elsewhere the process does not start."`
	Stale time.Duration `env:"AUTH_STALE" default:"1m" help:"How long API keys that were read before stay good while the bucket does not answer; then nobody is let in."`

	Issuer      string   `env:"OIDC_ISSUER" help:"URL of the identity provider whose tokens are taken beside API keys; empty: none are."`
	Audience    string   `env:"OIDC_AUDIENCE" default:"pilotlight" help:"Audience that tokens must be for."`
	Algorithms  []string `env:"OIDC_ALGORITHMS" default:"RS256,ES256" help:"Algorithms that tokens may be signed by: of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA."`
	ScopeClaim  string   `env:"OIDC_SCOPE_CLAIM" default:"scope" help:"Claim that holds a token's scopes, as a text with spaces or a list; what is no scope here is left out."`
	TenantClaim string   `env:"OIDC_TENANT_CLAIM" default:"tenant" help:"Claim that holds whom the use of a token is counted for."`

	Events         string `env:"EVENTS_FROM" default:"broker" help:"Who may post to /events with AUTH=on: 'broker' is whoever shows a token of BROKER_ISSUER or a key with the scope events; 'anyone' is for brokers that send no tokens, where the network keeps others away."`
	BrokerIssuer   string `env:"BROKER_ISSUER" help:"URL of the issuer of the broker's tokens: with Knative's authentication-oidc, the cluster's own; empty: none."`
	BrokerAudience string `env:"BROKER_AUDIENCE" default:"pilotlight" help:"Audience that the broker's tokens must be for, which the triggers name."`
	BrokerSubject  string `env:"BROKER_SUBJECT" default:"system:serviceaccount:pilotlight:*" help:"Pattern for the subject of the broker's tokens, in which * stands for any characters."`
}

var asymmetric = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// Validate refuses what can't work, and what would let forged tokens in.
func (c *Config) Validate() error {
	for _, a := range c.Algorithms {
		if !slices.Contains(asymmetric, a) {
			return fault.New(fault.Invalid, "OIDC_ALGORITHMS has %.20q, expected some of %s", a, strings.Join(asymmetric, ", "))
		}
	}
	for name, issuer := range map[string]string{"OIDC_ISSUER": c.Issuer, "BROKER_ISSUER": c.BrokerIssuer} {
		if issuer == "" {
			continue
		}
		u, err := url.Parse(issuer)
		if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && (u.Scheme != "http" || u.Hostname() != "127.0.0.1" && u.Hostname() != "localhost") {
			return fault.New(fault.Invalid, "%s is %.100q, expected an https URL", name, issuer)
		}
	}
	switch {
	case c.Issuer != "" && (c.Audience == "" || len(c.Algorithms) == 0):
		return fault.New(fault.Invalid, "OIDC_AUDIENCE or OIDC_ALGORITHMS is missing beside OIDC_ISSUER")
	case c.BrokerIssuer != "" && (c.BrokerAudience == "" || c.BrokerSubject == ""):
		return fault.New(fault.Invalid, "BROKER_AUDIENCE or BROKER_SUBJECT is missing beside BROKER_ISSUER")
	case c.BrokerIssuer != "" && c.BrokerIssuer == c.Issuer:
		return fault.New(fault.Invalid, "BROKER_ISSUER and OIDC_ISSUER are the same: give callers and the broker issuers of their own")
	case c.Events != "broker" && c.Events != "anyone":
		return fault.New(fault.Invalid, "EVENTS_FROM is %.20q, expected broker or anyone", c.Events)
	case c.Stale < time.Second:
		return fault.New(fault.Invalid, "AUTH_STALE is %s, expected a second or more", c.Stale)
	}
	return nil
}

// issuers are the configured ones.
func (c *Config) issuers() (all []Issuer) {
	if c.Issuer != "" {
		all = append(all, Issuer{URL: c.Issuer, Audience: c.Audience, Algorithms: c.Algorithms, ScopeClaim: c.ScopeClaim, TenantClaim: c.TenantClaim})
	}
	if c.BrokerIssuer != "" {
		all = append(all, Issuer{URL: c.BrokerIssuer, Audience: c.BrokerAudience, Algorithms: asymmetric, Subject: c.BrokerSubject, Grants: []Scope{Scope(Events), Scope(Predict)}})
	}
	return all
}
