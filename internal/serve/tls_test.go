package serve_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/serve/servetest"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// overTLS has run and client speak TLS by certificates of this authority; nil: no TLS.
var overTLS *servetest.Authority

// pemFiles writes a certificate and its key.
func pemFiles(t testing.TB, ca *servetest.Authority) (cert, key string) {
	t.Helper()
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	c, k := ca.Issue(t, nil)
	write(t, cert, c)
	write(t, key, k)
	return cert, key
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// What holds without TLS holds with it.
func TestTheSameOverTLS(t *testing.T) {
	overTLS = servetest.NewAuthority(t, "ca")
	defer func() { overTLS = nil }()
	for name, test := range map[string]func(*testing.T){
		"protocols": TestBothProtocolsOnOnePort, "http2": TestHTTP2Answers, "errors": TestErrorsAreJSON, "large bodies": TestBodyTooLarge,
		"slow bodies": TestSlowBodyIsCutOff, "deadline of reading": TestReadDeadlineEndsWithTheBody, "slow readers": TestSlowReaderIsCutOff,
		"long requests": TestLongRequests, "callers that leave": TestCallerThatLeaves, "panics": TestPanics, "other sites": TestPagesOfOtherSitesAreRefused,
		"drain": TestDrain, "short drain": TestDrainTakesOnlySoLong, "request ids": TestRequestID,
	} {
		t.Run(name, test)
	}
}

func TestTLSSettings(t *testing.T) {
	for _, test := range []struct {
		environ map[string]string
		want    string
	}{
		{map[string]string{"TLS_CERT": "/x"}, "TLS_CERT and TLS_KEY belong together: set both, or neither"},
		{map[string]string{"TLS_KEY": "/x"}, "TLS_CERT and TLS_KEY belong together: set both, or neither"},
		{map[string]string{"TLS_CLIENT_CA": "/x"}, "TLS_CLIENT_CA needs TLS_CERT and TLS_KEY: without TLS nobody shows a certificate"},
	} {
		if _, err := env.Load(test.environ, &serve.Config{}); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v: got %v, want %q", test.environ, err, test.want)
		}
	}
	var c serve.Config
	if _, err := env.Load(map[string]string{"PORT": "0", "TLS_CERT": "/nowhere", "TLS_KEY": "/nowhere"}, &c); err != nil {
		t.Fatal(err)
	}
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		t.Fatal(err)
	}
	if s, err := serve.Open(t.Context(), &c, tel, http.NotFoundHandler()); err == nil || err.Error() != "TLS_CERT can't be read: stat /nowhere: no such file or directory" {
		t.Errorf("got %v and %v", s, err)
	}
}

func TestTLSIsMeasured(t *testing.T) {
	ca := servetest.NewAuthority(t, "ca")
	overTLS = ca
	defer func() { overTLS = nil }()
	until := time.Now().Add(30 * time.Minute).Truncate(time.Second)
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	cert, key := ca.Issue(t, func(c *x509.Certificate) { c.NotAfter = until })
	write(t, certFile, cert)
	write(t, keyFile, key)
	s := run(t, map[string]string{"TLS_CERT": certFile, "TLS_KEY": keyFile}, routes(map[string]http.HandlerFunc{"GET /hello": echo}))
	s.log.line(t, `"msg":"listening"`, `"tls":true`)
	if conn := dial(t, s.addr); conn.Close() != nil {
		t.Error("it does not close")
	}
	ask(t, client(t, false), http.MethodGet, s.url+"/hello", nil).check(t, 200, "")
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		_, series := scrape(t, s.url)
		took := series["http_server_request_duration_seconds http_request_method=GET http_response_status_code=200 http_route=/hello network_protocol_version=1.1 url_scheme=https"]
		if took.GetHistogram().GetSampleCount() != 1 {
			t.Fatalf("no request by https: %v", series)
		}
		expiry, refused := series["pilotlight_tls_expiry_timestamp_seconds"].GetGauge(), series["pilotlight_tls_refused"].GetGauge()
		if expiry.GetValue() != float64(until.Unix()) || refused == nil || refused.GetValue() != 0 {
			t.Fatalf("got expiry %v and refused %v, want %d and 0", expiry, refused, until.Unix())
		}
		if series["pilotlight_tls_handshake_failures_total"].GetCounter().GetValue() == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no handshake failed: %v", series)
		}
	}

	write(t, keyFile, []byte("not a key"))
	s.log.line(t, `"level":"ERROR"`, "the new certificate is not taken, the old one stays", "TLS_KEY does not hold the private key")
	_, series := scrape(t, s.url)
	if got := series["pilotlight_tls_refused"].GetGauge().GetValue(); got != 1 {
		t.Errorf("got refused %v, want 1", got)
	}
	if err := s.stop(); err != nil {
		t.Error(err)
	}
}

// Clients of others, and those that are refused.
func TestClientsOfTLS(t *testing.T) {
	ca := servetest.NewAuthority(t, "ca")
	caFile := filepath.Join(t.TempDir(), "ca.crt")
	write(t, caFile, ca.PEM)
	cert, key := pemFiles(t, ca)
	s := run(t, map[string]string{"TLS_CERT": cert, "TLS_KEY": key}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s", r.Proto, tls.VersionName(r.TLS.Version))
	}))

	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("NOT TESTED: curl is not on the PATH")
	}
	old := []string{"--ciphers", "DEFAULT@SECLEVEL=0", "--tlsv1.0", "--tls-max", "1.1"}
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"--http1.1"}, "HTTP/1.1 TLS 1.3"},
		{[]string{"--http2"}, "HTTP/2.0 TLS 1.3"},
		{[]string{"--http2", "--tls-max", "1.2"}, "HTTP/2.0 TLS 1.2"},
		{[]string{"--http1.1", "--tls-max", "1.2", "-d", "@" + caFile}, "HTTP/1.1 TLS 1.2"},
		{old, "curl: (35)"},
	} {
		out, _ := exec.CommandContext(t.Context(), curl, append([]string{"-sS", "--max-time", "20", "--cacert", caFile, s.url}, test.args...)...).CombinedOutput()
		if !strings.HasPrefix(string(out), test.want) {
			t.Errorf("curl %v: got %q, want %q", test.args, out, test.want)
		}
	}
	out, _ := exec.CommandContext(t.Context(), curl, "-sS", "--max-time", "20", s.url).CombinedOutput()
	if !strings.HasPrefix(string(out), "curl: (60)") {
		t.Errorf("curl that does not know the authority: got %q", out)
	}

	conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: ca.Pool(), MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}}).DialContext(t.Context(), "tcp", s.addr)
	if err == nil {
		conn.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "remote error: tls: protocol version not supported") {
		t.Errorf("TLS 1.1: got %v", err)
	}
	resumes := tlsClient(t, &tls.Config{RootCAs: ca.Pool(), ClientSessionCache: tls.NewLRUClientSessionCache(0)}, true)
	for _, again := range []bool{false, true} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		w, err := resumes.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, w.Body)
		w.Body.Close()
		if w.TLS.DidResume != again {
			t.Errorf("took a session up again: %t, want %t", w.TLS.DidResume, again)
		}
	}
	plain := dial(t, s.addr)
	fmt.Fprint(plain, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if b, _ := io.ReadAll(plain); !strings.HasPrefix(string(b), "HTTP/1.0 400 ") {
		t.Errorf("without TLS: got %q, want 400", b)
	}
}

// tlsClient makes a client with connections of its own, one for each request if fresh.
func tlsClient(t *testing.T, config *tls.Config, fresh bool) *http.Client {
	transport := &http.Transport{TLSClientConfig: config, DisableKeepAlives: fresh, ForceAttemptHTTP2: !fresh}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 30 * time.Second}
}

func TestCallersShowCertificates(t *testing.T) {
	ca, mine, other := servetest.NewAuthority(t, "ca"), servetest.NewAuthority(t, "clients"), servetest.NewAuthority(t, "others")
	cert, key := pemFiles(t, ca)
	caFile := filepath.Join(t.TempDir(), "clients.crt")
	write(t, caFile, mine.PEM)
	s := run(t, map[string]string{"TLS_CERT": cert, "TLS_KEY": key, "TLS_CLIENT_CA": caFile}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %t", r.TLS.VerifiedChains[0][0].Issuer.CommonName, r.TLS.DidResume)
	}))
	with := func(a *servetest.Authority, change func(*x509.Certificate)) *tls.Config {
		c := &tls.Config{RootCAs: ca.Pool(), ClientSessionCache: tls.NewLRUClientSessionCache(0)}
		if a == nil {
			return c
		}
		pair, err := tls.X509KeyPair(a.Issue(t, change))
		if err != nil {
			t.Fatal(err)
		}
		// Whatever the server asks for: a stranger shows what it has.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		return c
	}
	for name, config := range map[string]*tls.Config{
		"none": with(nil, nil), "of another authority": with(other, nil),
		"expired":     with(mine, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }),
		"of a server": with(mine, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }),
	} {
		for _, most := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			config.MaxVersion = most
			got := ask(t, tlsClient(t, config, true), http.MethodGet, s.url, nil)
			if got.err == nil || !strings.Contains(got.err.Error(), "remote error: tls: ") {
				t.Errorf("%s, %s: got %d %s and %v, want the connection refused", name, tls.VersionName(most), got.status, got.body, got.err)
			}
		}
	}
	for _, most := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		config := with(mine, nil)
		config.MaxVersion = most
		before := tlsClient(t, config, true)
		for range 2 { // the second would resume the first's session if there were one
			ask(t, before, http.MethodGet, s.url, nil).check(t, 200, "clients false")
		}
		write(t, caFile, other.PEM)
		fresh := tlsClient(t, with(other, nil), true)
		for deadline := time.Now().Add(20 * time.Second); ask(t, fresh, http.MethodGet, s.url, nil).err != nil; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the new authority is not believed")
			}
		}
		if got := ask(t, before, http.MethodGet, s.url, nil); got.err == nil {
			t.Errorf("%s: the old authority is still believed: %s", tls.VersionName(most), got.body)
		}
		write(t, caFile, mine.PEM)
		for deadline := time.Now().Add(20 * time.Second); ask(t, before, http.MethodGet, s.url, nil).err != nil; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the first authority is not believed again")
			}
		}
	}
}

// A secret of Kubernetes as kubelet mounts it: files are links into ..data, which is a link that is swapped.
type secret struct {
	t   *testing.T
	dir string
	n   int
}

func (s *secret) put(cert, key []byte) {
	s.t.Helper()
	s.n++
	version := fmt.Sprintf("..v%d", s.n)
	if err := os.Mkdir(filepath.Join(s.dir, version), 0o700); err != nil {
		s.t.Fatal(err)
	}
	write(s.t, filepath.Join(s.dir, version, "tls.crt"), cert)
	write(s.t, filepath.Join(s.dir, version, "tls.key"), key)
	tmp := filepath.Join(s.dir, "..data_tmp")
	err := errors.Join(os.Symlink(version, tmp), os.Rename(tmp, filepath.Join(s.dir, "..data")))
	if s.n == 1 {
		err = errors.Join(err, os.Symlink("..data/tls.crt", filepath.Join(s.dir, "tls.crt")), os.Symlink("..data/tls.key", filepath.Join(s.dir, "tls.key")))
	} else {
		err = errors.Join(err, os.RemoveAll(filepath.Join(s.dir, fmt.Sprintf("..v%d", s.n-1))))
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// Certificates are replaced five times, three of them good, while callers shake hands and others keep their connections:
// none of them notices but by what they are shown.
func TestCertificatesAreReplacedUnderLoad(t *testing.T) {
	ca := servetest.NewAuthority(t, "ca")
	mounted := &secret{t: t, dir: t.TempDir()}
	cert, key := ca.Issue(t, nil, "v1")
	mounted.put(cert, key)
	s := run(t, map[string]string{"TLS_CERT": filepath.Join(mounted.dir, "tls.crt"), "TLS_KEY": filepath.Join(mounted.dir, "tls.key")}, http.HandlerFunc(echo))

	ctx, stop := context.WithCancel(t.Context())
	var shown sync.Map // name -> how many handshakes
	var asked atomic.Int64
	var callers sync.WaitGroup
	for i := range 8 {
		config := &tls.Config{RootCAs: ca.Pool(), VerifyConnection: func(c tls.ConnectionState) error {
			n, _ := shown.LoadOrStore(c.PeerCertificates[0].DNSNames[0], new(atomic.Int64))
			n.(*atomic.Int64).Add(1)
			return nil
		}}
		c := tlsClient(t, config, i%2 == 0)
		callers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				body := fmt.Sprint(i, n)
				if got := ask(t, c, http.MethodPost, s.url, strings.NewReader(body)); got.err != nil || got.body != body {
					t.Errorf("caller %d, request %d: got %d %q and %v", i, n, got.status, got.body, got.err)
					return
				}
				asked.Add(1)
			}
		})
	}
	defer callers.Wait()
	defer stop()
	sees := func(name string) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if _, ok := shown.Load(name); ok {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("nobody was shown %s\n%s", name, s.log.line(t))
			}
		}
	}
	sees("v1")
	for _, version := range []string{"v2", "bad", "v3", "half", "v4"} {
		cert, key := ca.Issue(t, nil, version)
		switch version {
		case "bad":
			_, key = ca.Issue(t, nil)
			mounted.put(cert, key)
			s.log.line(t, "is not taken, the old one stays", "TLS_KEY does not hold")
		case "half":
			mounted.put(cert[:len(cert)/2], key)
			s.log.line(t, "is not taken, the old one stays", "TLS_CERT breaks off")
		default:
			mounted.put(cert, key)
			sees(version)
			s.log.line(t, "the certificate was replaced", version)
		}
	}
	stop()
	callers.Wait()
	for _, bad := range []string{"bad", "half"} {
		if _, ok := shown.Load(bad); ok {
			t.Errorf("%s was shown", bad)
		}
	}
	t.Logf("%d requests, all answered", asked.Load())
}

// Who does not finish the handshake is cut off, and holds up nobody.
func TestSlowHandshakesAreCutOff(t *testing.T) {
	ca := servetest.NewAuthority(t, "ca")
	cert, key := pemFiles(t, ca)
	s := run(t, map[string]string{"TLS_CERT": cert, "TLS_KEY": key, "HEADER_TIMEOUT": "300ms"}, http.HandlerFunc(echo))
	hello := clientHello(t)
	begin := time.Now()
	ends := make(chan time.Duration, 300)
	for i := range cap(ends) {
		conn := dial(t, s.addr)
		if i%3 > 0 {
			_, _ = conn.Write(hello[:len(hello)/(i%3)]) // half of it, or all and nothing then
		}
		go func() { _, _ = io.Copy(io.Discard, conn); ends <- time.Since(begin) }()
	}
	c := tlsClient(t, ca.Client(t), true)
	ask(t, c, http.MethodPost, s.url, strings.NewReader("hello")).check(t, 200, "hello")
	for range cap(ends) {
		if took := <-ends; took > 10*time.Second {
			t.Fatalf("a connection was open for %s", took)
		}
	}
	if err := s.stop(); err != nil {
		t.Error(err)
	}
}

// clientHello records how a client begins.
func clientHello(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	_ = tls.Client(recorder{Writer: &b}, &tls.Config{ServerName: "localhost"}).HandshakeContext(t.Context())
	if b.Len() < 100 {
		t.Fatalf("got %d bytes", b.Len())
	}
	return b.Bytes()
}

// recorder is a connection that nobody answers on.
type recorder struct {
	net.Conn
	io.Writer
}

func (r recorder) Write(p []byte) (int, error) { return r.Writer.Write(p) }
func (recorder) Read([]byte) (int, error)      { return 0, io.EOF }
func (recorder) Close() error                  { return nil }
func (recorder) SetDeadline(time.Time) error   { return nil }
