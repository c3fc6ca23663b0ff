package gate

import (
	"net/url"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// Config says how much is let through at once.
type Config struct {
	Concurrency int `env:"GATE_CONCURRENCY" default:"1000" help:"Requests under way at once. Callers of low priority are refused from 60 % of them on, those of normal priority from 85 %, those of high priority beyond."`
}

// Validate refuses what can't work.
func (c *Config) Validate() error {
	if c.Concurrency < 10 {
		return fault.New(fault.Invalid, "GATE_CONCURRENCY is %d, expected 10 or more", c.Concurrency)
	}
	return nil
}

// RouteConfig says where requests go.
type RouteConfig struct {
	Predict    string        `env:"PREDICT_URL" default:"http://predict.pilotlight.svc.cluster.local" help:"Where the gateway finds the function predict."`
	Features   string        `env:"FEATURES_URL" default:"http://features.pilotlight.svc.cluster.local" help:"Where the gateway finds the function features."`
	Feedback   string        `env:"FEEDBACK_URL" default:"http://feedback.pilotlight.svc.cluster.local" help:"Where the gateway finds the function feedback."`
	Deadletter string        `env:"DEADLETTER_URL" default:"http://deadletter.pilotlight.svc.cluster.local" help:"Where the gateway finds the function deadletter."`
	Pipeline   string        `env:"PIPELINE_URL" default:"http://pipeline.pilotlight.svc.cluster.local" help:"Where the gateway finds the function pipeline."`
	Hosts      []string      `env:"ROUTE_HOSTS" default:".svc.cluster.local" help:"Hosts that models and tenants may be routed to, by their names or by endings that begin with a dot, so that nobody routes to other places."`
	Retries    float64       `env:"RETRY_BUDGET" default:"0.1" help:"Retries for each request, on average; 0: none."`
	Dial       time.Duration `env:"DIAL_TIMEOUT" default:"2s" help:"How long a connection to a function may take to be made."`
}

// Validate refuses what can't work.
func (c *RouteConfig) Validate() error {
	for name, raw := range map[string]string{"PREDICT_URL": c.Predict, "FEATURES_URL": c.Features, "FEEDBACK_URL": c.Feedback, "DEADLETTER_URL": c.Deadletter, "PIPELINE_URL": c.Pipeline} {
		if _, err := target(raw); err != nil {
			return fault.New(fault.Invalid, "%s: %s", name, fault.Message(err))
		}
	}
	if !(c.Retries >= 0 && c.Retries <= 1) || c.Dial <= 0 {
		return fault.New(fault.Invalid, "RETRY_BUDGET must be 0 to 1, and DIAL_TIMEOUT positive")
	}
	return nil
}

// target reads where a function is found: a scheme and a host.
func target(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fault.New(fault.Invalid, "%.100q is not the URL of a function, such as http://predict.pilotlight.svc.cluster.local", raw)
	}
	u.Path = ""
	return u, nil
}
