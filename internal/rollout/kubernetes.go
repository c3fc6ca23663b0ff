package rollout

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// cluster reads and writes the Knative services of a namespace by the Kubernetes API, as a service account. It is safe for
// concurrent use.
type cluster struct {
	services string // the URL of all of them
	token    string // the file, which Kubernetes writes anew each hour
	client   *http.Client
}

const (
	callTimeout = 10 * time.Second
	objectMost  = 4 << 20 // etcd takes less
)

// newCluster reads who it is from a folder as Kubernetes mounts it: ca.crt, namespace and token.
func newCluster(api, folder string) (*cluster, error) {
	ca, err := os.ReadFile(filepath.Join(folder, "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("read KUBERNETES_ACCOUNT: %w", err)
	}
	namespace, err := os.ReadFile(filepath.Join(folder, "namespace"))
	if err != nil {
		return nil, fmt.Errorf("read KUBERNETES_ACCOUNT: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fault.New(fault.Invalid, "KUBERNETES_ACCOUNT: ca.crt holds no certificate")
	}
	return &cluster{
		services: strings.TrimSuffix(api, "/") + "/apis/serving.knative.dev/v1/namespaces/" + url.PathEscape(strings.TrimSpace(string(namespace))) + "/services",
		token:    filepath.Join(folder, "token"),
		client: &http.Client{
			Timeout:       callTimeout,
			Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // a token goes nowhere else
		},
	}, nil
}

// get reads a service.
func (c *cluster) get(ctx context.Context, name string) (*service, error) {
	return c.call(ctx, http.MethodGet, name, nil)
}

// put writes a service that was read and changed; it is a Conflict if anybody has changed it since.
func (c *cluster) put(ctx context.Context, s *service) (*service, error) {
	b, err := json.Marshal(s.raw)
	if err != nil {
		return nil, fmt.Errorf("encode the service %s: %w", s.Metadata.Name, err)
	}
	return c.call(ctx, http.MethodPut, s.Metadata.Name, b)
}

func (c *cluster) call(ctx context.Context, method, name string, body []byte) (*service, error) {
	r, err := http.NewRequestWithContext(ctx, method, c.services+"/"+url.PathEscape(name), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("ask Kubernetes for the service %s: %w", name, err)
	}
	token, err := os.ReadFile(c.token)
	if err != nil {
		return nil, fmt.Errorf("read the token of the service account: %w", err)
	}
	r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "pilotlight")
	resp, err := c.client.Do(r)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, err, "Kubernetes does not answer")
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, objectMost+1))
	if err != nil || len(b) > objectMost {
		return nil, fault.Wrap(fault.Unavailable, err, "Kubernetes broke off its answer about the service %s", name)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, refused(resp.StatusCode, name, b)
	}
	return readService(b)
}

// refused says what the API server's status means.
func refused(status int, name string, body []byte) error {
	var said struct{ Message string }
	_ = json.Unmarshal(body, &said) // proxies say nothing
	kind, what := fault.Unavailable, "can't be asked for now"
	switch status {
	case http.StatusNotFound:
		kind, what = fault.NotFound, "does not exist"
	case http.StatusConflict:
		kind, what = fault.Conflict, "was changed by somebody else meanwhile"
	case http.StatusUnauthorized, http.StatusForbidden:
		kind, what = fault.Denied, "is not ours to read and write: the service account has no such role"
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		kind, what = fault.Internal, "was refused as we would have it"
	}
	return fault.Wrap(kind, fmt.Errorf("%d %.1000s", status, said.Message), "the Knative service %s %s", name, what)
}
