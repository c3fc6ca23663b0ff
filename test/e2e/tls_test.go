//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	netv1alpha1 "knative.dev/networking/pkg/apis/networking/v1alpha1"
	servingv1beta1 "knative.dev/serving/pkg/apis/serving/v1beta1"
	"sigs.k8s.io/yaml"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/predict/predicttest"
	"github.com/pilotlight-ml/pilotlight/internal/serve/servetest"
)

// TestTLSAtTheIngress gives the gateway a name of its own with a certificate by an authority of the test, as overlays/tls does, and
// calls it by that at the ingress; then replaces the certificate.
func TestTLSAtTheIngress(t *testing.T) {
	door, err := url.Parse(os.Getenv("KNATIVE_INGRESS_TLS_URL"))
	if err != nil || door.Host == "" {
		t.Skip("NOT TESTED: KNATIVE_INGRESS_TLS_URL does not say how the ingress is reached by TLS")
	}
	s := predict(t)
	s.push(t, "sums", onnxtest.Simple(-1).Bytes())
	name := namespace + ".example.com"
	ca := servetest.NewAuthority(t, "e2e authority")
	first := putSecret(t, ca, name)

	b, err := os.ReadFile(filepath.Join(root, "knative/overlays/tls/domain.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var mapping servingv1beta1.DomainMapping
	if err := yaml.UnmarshalStrict(b, &mapping); err != nil {
		t.Fatal(err)
	}
	mapping.Name, mapping.Namespace = name, namespace
	claim := &netv1alpha1.ClusterDomainClaim{
		TypeMeta:   metav1.TypeMeta{APIVersion: "networking.internal.knative.dev/v1alpha1", Kind: "ClusterDomainClaim"},
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: netv1alpha1.ClusterDomainClaimSpec{Namespace: namespace},
	}
	t.Cleanup(func() {
		for _, o := range []string{"domainmapping/" + name, "clusterdomainclaim/" + name, "secret/pilotlight-tls"} {
			if _, err := tryKubectl(t, nil, "delete", "--ignore-not-found", o); err != nil {
				t.Error(err)
			}
		}
	})
	apply(t, claim)
	apply(t, &mapping)
	kubectl(t, nil, "wait", "--for=condition=Ready", "domainmapping/"+name, "--timeout=2m")

	config := &tls.Config{RootCAs: ca.Pool(), ServerName: name}
	transport := func(c *tls.Config, fresh bool) *http.Transport {
		x := &http.Transport{TLSClientConfig: c, ForceAttemptHTTP2: true, DisableKeepAlives: fresh, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, door.Host)
		}}
		t.Cleanup(x.CloseIdleConnections)
		return x
	}
	infer := func(ctx context.Context, by *http.Transport) (*tls.ConnectionState, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+name+"/v2/models/flights/infer", bytes.NewReader(flights(3)))
		if err != nil {
			return nil, err
		}
		r.Header.Set("Authorization", "Bearer "+s.key)
		w, err := by.RoundTrip(r)
		if err != nil {
			return nil, err
		}
		defer w.Body.Close()
		b, err := io.ReadAll(w.Body)
		if err == nil && w.StatusCode != http.StatusOK {
			err = refusal{w.StatusCode, string(b)}
		}
		if err == nil {
			err = right(b, 3)
		}
		return w.TLS, err
	}
	by := transport(config, false)
	within(t, time.Minute, "the ingress shows the certificate", func() bool {
		_, err = infer(t.Context(), by)
		return err == nil
	})
	state, err := infer(t.Context(), by)
	if err != nil || state.NegotiatedProtocol != "h2" || state.PeerCertificates[0].SerialNumber.Cmp(first.SerialNumber) != 0 {
		t.Fatalf("got %v %v, want an answer by HTTP/2 with certificate %s", state, err, first.SerialNumber)
	}

	port := door.Port()
	caFile := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(caFile, ca.PEM, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"--http1.1"}, "1.1 200"},
		{[]string{"--http2"}, "2 200"},
		{[]string{"--tls-max", "1.2"}, "2 200"},
		{[]string{"--ciphers", "DEFAULT@SECLEVEL=0", "--tlsv1.0", "--tls-max", "1.1"}, "curl: (35)"},
	} {
		out, _ := exec.CommandContext(t.Context(), "curl", append([]string{
			"-sS", "--max-time", "60", "--cacert", caFile, "--connect-to", name + ":443:127.0.0.1:" + port,
			"-H", "Authorization: Bearer " + s.key, "-o", os.DevNull, "-w", "%{http_version} %{http_code}", "https://" + name + "/v2/health/ready",
		}, test.args...)...).CombinedOutput()
		if !strings.HasPrefix(string(out), test.want) {
			t.Errorf("curl %v: got %q, want %q", test.args, out, test.want)
		}
	}
	strange := config.Clone()
	strange.ServerName = "other.example.com"
	if _, err := infer(t.Context(), transport(strange, true)); err == nil {
		t.Error("a name that has no certificate was shown one")
	}

	conn, err := grpc.NewClient("passthrough:///"+door.Host, grpc.WithAuthority(name), grpc.WithTransportCredentials(credentials.NewTLS(config)), grpc.WithPerRPCCredentials(shown(s.key)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, err := predicttest.Sum(t.Context(), conn, "sums", 4, 5); err != nil || got != 9 {
		t.Errorf("gRPC: got %d %v, want 9", got, err)
	}

	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+name+"/v2/health/ready", nil)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := client(t, false).Transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	plain.Body.Close()
	if to := plain.Header.Get("Location"); plain.StatusCode != http.StatusMovedPermanently || !strings.HasPrefix(to, "https://"+name+"/") {
		t.Errorf("by http: got %d to %q, want to be sent to https", plain.StatusCode, to)
	}

	// Callers that shake hands for each request, while the certificate is replaced.
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var asked atomic.Int64
	ended := make(chan error, 2)
	for range cap(ended) {
		each := transport(config, true)
		go func() {
			for ctx.Err() == nil {
				if _, err := infer(context.WithoutCancel(ctx), each); err != nil {
					ended <- err
					return
				}
				asked.Add(1)
			}
			ended <- nil
		}()
	}
	begin := time.Now()
	second := putSecret(t, ca, name)
	fresh := transport(config, true)
	within(t, time.Minute, "the new certificate is shown", func() bool {
		state, err := infer(t.Context(), fresh)
		return err == nil && state.PeerCertificates[0].SerialNumber.Cmp(second.SerialNumber) == 0
	})
	after, before := time.Since(begin), asked.Load()
	within(t, time.Minute, "a hundred more are answered", func() bool { return asked.Load() >= before+100 || len(ended) > 0 })
	stop()
	for range cap(ended) {
		if err := <-ended; err != nil {
			t.Errorf("while the certificate was replaced: %v", err)
		}
	}
	t.Logf("the new certificate was shown %.1f s after kubectl began to apply it; %d requests around that, each with a handshake", after.Seconds(), asked.Load())
}

// putSecret makes a certificate for a name and puts it into the Secret that overlays/tls names.
func putSecret(t *testing.T, ca *servetest.Authority, name string) *x509.Certificate {
	t.Helper()
	cert, key := ca.Issue(t, nil, name)
	apply(t, &corev1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: metav1.ObjectMeta{Name: "pilotlight-tls", Namespace: namespace},
		Type: corev1.SecretTypeTLS, Data: map[string][]byte{corev1.TLSCertKey: cert, corev1.TLSPrivateKeyKey: key},
	})
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return pair.Leaf
}
