package alert

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// webhook posts alerts one by one to a URL, which may hold a secret: no error and no log has it.
type webhook struct {
	url    string
	client *http.Client
	first  time.Duration // the first pause between attempts
}

const (
	hookTries   = 4
	hookTimeout = 5 * time.Second // of an attempt
)

func newWebhook(url string) *webhook {
	if url == "" {
		return nil
	}
	return &webhook{url: url, first: 500 * time.Millisecond, client: &http.Client{
		Timeout:       hookTimeout,
		Transport:     http.DefaultTransport.(*http.Transport).Clone(),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // the URL is for nobody else
	}}
}

// message is what Alertmanager posts to webhooks, of version 4.
type message struct {
	Version           string            `json:"version"`
	GroupKey          string            `json:"groupKey"`
	TruncatedAlerts   int               `json:"truncatedAlerts"`
	Status            string            `json:"status"`
	Receiver          string            `json:"receiver"`
	GroupLabels       map[string]string `json:"groupLabels"`
	CommonLabels      map[string]string `json:"commonLabels"`
	CommonAnnotations map[string]string `json:"commonAnnotations"`
	ExternalURL       string            `json:"externalURL"`
	Alerts            []messageAlert    `json:"alerts"`
}

type messageAlert struct {
	Status       string            `json:"status"`
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations"`
	StartsAt     time.Time         `json:"startsAt"`
	EndsAt       time.Time         `json:"endsAt"` // 0001-01-01T00:00:00Z while it is firing
	GeneratorURL string            `json:"generatorURL"`
	Fingerprint  string            `json:"fingerprint"`
}

// messageOf puts a change in Alertmanager's words. The fingerprint is of the alert's
// identity, so that the receiver finds what is resolved by it.
func messageOf(c *Change) *message {
	labels := map[string]string{"alertname": c.Rule, "model": c.Model, "metric": c.Metric, "severity": string(c.Severity)}
	for name, value := range map[string]string{"version": c.Version, "column": c.Column} {
		if value != "" {
			labels[name] = value
		}
	}
	for name, value := range c.Slice {
		labels["slice_"+labelName(name)] = value
	}
	annotations := map[string]string{"summary": c.Summary, "id": c.ID}
	if c.Description != "" {
		annotations["description"] = c.Description
	}
	if len(c.Examples) > 0 {
		var named []string
		for _, e := range c.Examples {
			named = append(named, e.String())
		}
		annotations["predictions"] = strings.Join(named, " ")
	}
	status := "firing"
	if !c.Resolved.IsZero() {
		status = "resolved"
	}
	return &message{
		Version: "4", GroupKey: fmt.Sprintf("{}:{alertname=%q}", c.Rule), Status: status, Receiver: "pilotlight",
		GroupLabels: map[string]string{"alertname": c.Rule}, CommonLabels: labels, CommonAnnotations: annotations,
		Alerts: []messageAlert{{Status: status, Labels: labels, Annotations: annotations, StartsAt: c.Since, EndsAt: c.Resolved, Fingerprint: idOf(c.key(), time.Time{})[:16]}},
	}
}

// labelName makes a column's name one of a label.
func labelName(column string) string {
	return strings.Map(func(c rune) rune {
		if c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' {
			return c
		}
		return '_'
	}, column)
}

// send posts a change: Unavailable where sending it later may help, else Invalid.
func (h *webhook) send(ctx context.Context, c *Change) error {
	body := encode(messageOf(c))
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval = h.first
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		err := h.attempt(ctx, body)
		if fault.Is(err, fault.Invalid) {
			err = backoff.Permanent(err)
		}
		return struct{}{}, err
	}, backoff.WithBackOff(pauses), backoff.WithMaxTries(hookTries))
	return err
}

func (h *webhook) attempt(ctx context.Context, body []byte) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url, bytes.NewReader(body))
	if err != nil {
		return fault.New(fault.Invalid, "ALERT_WEBHOOK is not a URL")
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := h.client.Do(r)
	if err != nil {
		return fault.New(fault.Unavailable, "the webhook does not answer: %s", reason(err))
	}
	defer resp.Body.Close()
	switch status := resp.StatusCode; {
	case status/100 == 2:
		return nil
	case status == http.StatusBadRequest, status == http.StatusRequestEntityTooLarge, status == http.StatusUnprocessableEntity:
		return fault.New(fault.Invalid, "the webhook refuses the alert with %d", status)
	default: // also what somebody has to put right first, such as a key that has run out
		return fault.New(fault.Unavailable, "the webhook answers %d", status)
	}
}

// reason says what is known of a failure without the address.
func reason(err error) string {
	var number syscall.Errno
	switch {
	case errors.Is(err, context.DeadlineExceeded), os.IsTimeout(err):
		return "it took too long"
	case errors.As(err, &number):
		return number.Error()
	}
	return "the connection failed"
}
