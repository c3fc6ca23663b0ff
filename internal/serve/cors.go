package serve

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// sites are pages elsewhere whose scripts may ask this server and read its answers. They bring a credential in a
// header if they have one: the browser sends none by itself.
type sites []string

// checkSites refuses what is no origin.
func checkSites(origins []string) error {
	for _, o := range origins {
		u, err := url.Parse(o)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || o != u.Scheme+"://"+u.Host {
			return fault.New(fault.Invalid, "CORS_ORIGINS has %.100q, expected origins such as https://console.example.com", o)
		}
	}
	return nil
}

// What scripts of other sites may send and read beside what every script may.
const (
	corsMethods = "GET, HEAD, POST, PUT, DELETE"
	corsHeaders = "Authorization, Content-Type, Content-Encoding, Inference-Header-Content-Length, X-Api-Key, X-Request-Id, Traceparent, Cache-Control"
	corsExposed = "X-Request-Id, Retry-After, RateLimit, RateLimit-Policy, Inference-Header-Content-Length, Prediction-Id, Cache-Status, WWW-Authenticate"
)

// answer says in an answer's header what a site may do. It is true if the request asked for nothing but that, and is answered.
func (s sites) answer(w http.ResponseWriter, r *http.Request) bool {
	h := w.Header()
	h.Add("Vary", "Origin")
	origin := r.Header.Get("Origin")
	if !slices.Contains(s, origin) {
		return false
	}
	h.Set("Access-Control-Allow-Origin", origin)
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		h.Set("Access-Control-Expose-Headers", corsExposed)
		return false
	}
	h.Set("Access-Control-Allow-Methods", corsMethods)
	h.Set("Access-Control-Allow-Headers", corsHeaders)
	h.Set("Access-Control-Max-Age", "600")
	w.WriteHeader(http.StatusNoContent)
	return true
}

// trust has pages of those sites not be refused as strange ones.
func (s sites) trust(cross *http.CrossOriginProtection) error {
	for _, o := range s {
		if err := cross.AddTrustedOrigin(strings.ToLower(o)); err != nil {
			return fmt.Errorf("CORS_ORIGINS: %w", err)
		}
	}
	return nil
}
