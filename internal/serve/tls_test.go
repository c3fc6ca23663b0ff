package serve_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{pool: x509.NewCertPool()}
	der, key := a.sign(t, &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a.cert, a.key = cert, key
	a.pool.AddCert(cert)
	return a
}

func (a *authority) sign(t *testing.T, template *x509.Certificate) ([]byte, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := template, key
	if a.cert != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	return der, key
}

// issue writes a certificate of 127.0.0.1 with a serial number, and its key.
func (a *authority) issue(t *testing.T, certFile, keyFile string, serial int64) {
	t.Helper()
	der, key := a.sign(t, &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}})
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}), 0o600),
		os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
	); err != nil {
		t.Fatal(err)
	}
}

func TestTLS(t *testing.T) {
	ca := newAuthority(t)
	cert, key := filepath.Join(t.TempDir(), "cert"), filepath.Join(t.TempDir(), "key")
	ca.issue(t, cert, key, 2)
	s := run(t, map[string]string{"TLS_CERT_FILE": cert, "TLS_KEY_FILE": key}, routes(map[string]http.HandlerFunc{"/echo": echo}))
	connect := func(http2 bool, c *tls.Config) *http.Client {
		protocols := new(http.Protocols)
		protocols.SetHTTP1(!http2)
		protocols.SetHTTP2(http2)
		c.RootCAs = ca.pool
		tr := &http.Transport{TLSClientConfig: c, Protocols: protocols}
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr}
	}
	ask := func(c *http.Client) (serial int64, proto string, err error) {
		r, err := http.NewRequestWithContext(t.Context(), "POST", "https://"+s.addr+"/echo", strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(r)
		if err != nil {
			return 0, "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != 200 || !strings.Contains(string(b), "hello") {
			t.Errorf("got %d %s %v", resp.StatusCode, b, err)
		}
		return resp.TLS.PeerCertificates[0].SerialNumber.Int64(), resp.Proto, nil
	}
	old := connect(false, &tls.Config{})
	for _, test := range []struct {
		client *http.Client
		proto  string
	}{{old, "HTTP/1.1"}, {connect(true, &tls.Config{}), "HTTP/2.0"}} {
		for range 2 {
			if serial, proto, err := ask(test.client); err != nil || serial != 2 || proto != test.proto {
				t.Errorf("got certificate %d by %s, %v; want 2 by %s", serial, proto, err, test.proto)
			}
		}
	}
	if _, _, err := ask(connect(false, &tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10})); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
	if resp, err := http.Get("http://" + s.addr + "/echo"); err == nil { //nolint:noctx // it is not answered
		resp.Body.Close()
		if resp.StatusCode == 200 {
			t.Error("it is served without TLS as well")
		}
	}

	ca.issue(t, cert, key, 3)
	time.Sleep(1100 * time.Millisecond)
	if serial, _, err := ask(connect(true, &tls.Config{})); err != nil || serial != 3 {
		t.Errorf("a new connection: got certificate %d, %v; want 3", serial, err)
	}
	if serial, _, err := ask(old); err != nil || serial != 2 {
		t.Errorf("an old connection: got certificate %d, %v; want that it goes on with 2", serial, err)
	}
	if err := os.WriteFile(cert, []byte("half of"), 0o600); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1100 * time.Millisecond)
	if serial, _, err := ask(connect(false, &tls.Config{})); err != nil || serial != 3 {
		t.Errorf("a certificate that is damaged: got %d, %v; want 3 as before", serial, err)
	}
}

func TestCertificatesThatCantWork(t *testing.T) {
	for _, environ := range []map[string]string{
		{"TLS_CERT_FILE": "/nowhere"},
		{"TLS_KEY_FILE": "/nowhere"},
	} {
		if _, err := env.Load(environ, &serve.Config{}); err == nil || !strings.Contains(err.Error(), "TLS_CERT_FILE and TLS_KEY_FILE go together") {
			t.Errorf("%v: got %v", environ, err)
		}
	}
	f := &serve.Function{Name: "test", Wire: func(context.Context, *serve.Process) error { return nil }}
	if _, err := f.Start(t.Context(), map[string]string{"PORT": "0", "TLS_CERT_FILE": "/nowhere", "TLS_KEY_FILE": "/nowhere"}); err == nil || !strings.Contains(err.Error(), "can't be read as a certificate") {
		t.Errorf("got %v", err)
	}
}
