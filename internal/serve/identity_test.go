package serve

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/serve/servetest"
)

// keyFiles are those of a Config, as a test writes them.
type keyFiles struct {
	t *testing.T
	Config
}

func newKeyFiles(t *testing.T, cert, key, ca []byte) *keyFiles {
	dir := t.TempDir()
	f := &keyFiles{t, Config{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key")}}
	if ca != nil {
		f.ClientCA = filepath.Join(dir, "ca.crt")
	}
	f.write(cert, key, ca)
	return f
}

func (f *keyFiles) write(cert, key, ca []byte) {
	f.t.Helper()
	for path, b := range map[string][]byte{f.Cert: cert, f.Key: key, f.ClientCA: ca} {
		if path == "" {
			continue
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			f.t.Fatal(err)
		}
	}
}

// weak is a key that parses, and that TLS refuses to sign with.
func weak(t *testing.T, key any, public any) (cert, keyPEM []byte) {
	t.Helper()
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, public, key)
	if err != nil {
		t.Fatal(err)
	}
	k, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: k})
}

func TestCertificatesThatAreRefused(t *testing.T) {
	ca := servetest.NewAuthority(t, "ca")
	cert, key := ca.Issue(t, nil)
	other, otherKey := ca.Issue(t, nil)
	expired, expiredKey := ca.Issue(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	early, earlyKey := ca.Issue(t, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) })
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	odd, oddKey := weak(t, p224, &p224.PublicKey)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	small, smallKey := weak(t, rsaKey, &rsaKey.PublicKey)
	chain := append(bytes.Clone(other), ca.PEM...)
	for _, test := range []struct {
		name          string
		cert, key, ca []byte
		want          string
	}{
		{"nothing in the files", nil, nil, ca.PEM, "TLS_CERT holds no certificate as PEM"},
		{"no PEM", []byte("hello"), otherKey, ca.PEM, "TLS_CERT holds no certificate as PEM"},
		{"a key alone", otherKey, otherKey, ca.PEM, "TLS_CERT holds no certificate as PEM"},
		{"half of a certificate", other[:len(other)/2], otherKey, ca.PEM, "TLS_CERT breaks off, or holds something that is not PEM"},
		{"half of a chain", chain[:len(chain)-100], otherKey, ca.PEM, "TLS_CERT breaks off, or holds something that is not PEM"},
		{"not DER", []byte("-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n"), otherKey, ca.PEM, "TLS_CERT: certificate 1 can't be read"},
		{"half of a key", other, otherKey[:len(otherKey)/2], ca.PEM, "TLS_KEY does not hold the private key of TLS_CERT's first certificate"},
		{"another key", other, key, ca.PEM, "TLS_KEY does not hold the private key of TLS_CERT's first certificate"},
		{"the authority first", append(bytes.Clone(ca.PEM), other...), otherKey, ca.PEM, "TLS_KEY does not hold the private key of TLS_CERT's first certificate"},
		{"an encrypted key", other, []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\naGVsbG8=\n-----END ENCRYPTED PRIVATE KEY-----\n"), ca.PEM, "TLS_KEY is encrypted, and nobody is here to type its password"},
		{"a curve that TLS has not", odd, oddKey, ca.PEM, "TLS_CERT and TLS_KEY are of no use for TLS"},
		{"expired", expired, expiredKey, ca.PEM, "TLS_CERT: the certificate is valid from "},
		{"not valid yet", early, earlyKey, ca.PEM, "TLS_CERT: the certificate is valid from "},
		{"one of the chain expired", append(bytes.Clone(other), expired...), otherKey, ca.PEM, "TLS_CERT: the certificate is valid from "},
		{"no authority", other, otherKey, otherKey, "TLS_CLIENT_CA holds no certificate as PEM"},
		{"too large", bytes.Repeat([]byte("#\n"), pemMost), otherKey, ca.PEM, "TLS_CERT can't be read"},
		{"good", chain, otherKey, ca.PEM, ""},
		{"good, key and chain in one file", append(bytes.Clone(otherKey), chain...), append(bytes.Clone(otherKey), chain...), ca.PEM, ""},
		{"good, with words around", append([]byte("subject=/CN=x\n"), chain...), otherKey, append([]byte("# all of them\n"), ca.PEM...), ""},
		{"good, RSA", small, smallKey, ca.PEM, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newKeyFiles(t, cert, key, ca.PEM)
			var log bytes.Buffer
			ids, err := openIdentities(&f.Config, slog.New(slog.NewJSONHandler(&log, nil)))
			if err != nil {
				t.Fatal(err)
			}
			first := ids.current.Load()
			f.write(test.cert, test.key, test.ca)
			for range 3 {
				ids.look(t.Context(), time.Now())
			}
			lines := strings.Count(log.String(), "\n")
			if test.want == "" {
				if ids.current.Load() == first || ids.refused.Load() || lines != 1 || !strings.Contains(log.String(), "the certificate was replaced") {
					t.Fatalf("it was not taken over: %s", &log)
				}
				return
			}
			if ids.current.Load() != first || !ids.refused.Load() || lines != 1 || !strings.Contains(log.String(), test.want) || !strings.Contains(log.String(), `"level":"ERROR"`) {
				t.Errorf("got refused %t and log %s; want the old one to stay, and one line that has %q", ids.refused.Load(), &log, test.want)
			}
			if strings.Contains(log.String(), "PRIVATE") || len(test.key) > 100 && strings.Contains(log.String(), string(test.key[40:60])) {
				t.Errorf("the log tells of the key: %s", &log)
			}
			f.write(cert, key, ca.PEM)
			ids.look(t.Context(), time.Now())
			if ids.refused.Load() || ids.current.Load() != first {
				t.Error("the old files are there again, and it still says that they are refused")
			}
			if strings.Contains(test.want, "valid from") {
				return // at the start there is nothing better
			}
			f.write(test.cert, test.key, test.ca)
			if _, err := openIdentities(&f.Config, slog.New(slog.DiscardHandler)); err == nil || !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("at the start: got %v, want %q", err, test.want)
			}
		})
	}
}

// What changes from one look to the next is not taken.
func TestFilesThatAreBeingWritten(t *testing.T) {
	ca := servetest.NewAuthority(t, "ca")
	cert, key := ca.Issue(t, nil)
	f := newKeyFiles(t, cert, key, nil)
	var log bytes.Buffer
	ids, err := openIdentities(&f.Config, slog.New(slog.NewJSONHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	first := ids.current.Load()
	next, nextKey := ca.Issue(t, nil)
	for _, state := range [][2][]byte{{next[:200], key}, {next, key}, {next, nextKey[:100]}, {next, nextKey}} {
		f.write(state[0], state[1], nil)
		ids.look(t.Context(), time.Now())
		if ids.current.Load() != first || log.Len() > 0 {
			t.Fatalf("it was judged at once: %s", &log)
		}
	}
	ids.look(t.Context(), time.Now())
	if ids.current.Load() == first {
		t.Error("it was not taken over once it was whole")
	}
}

// A certificate that ends is replaced by whatever there is; one that begins later is taken when it has begun.
func TestCertificatesOfOtherTimes(t *testing.T) {
	ca := servetest.NewAuthority(t, "ca")
	now := time.Now()
	cert, key := ca.Issue(t, func(c *x509.Certificate) { c.NotAfter = now.Add(10 * time.Minute) })
	next, nextKey := ca.Issue(t, func(c *x509.Certificate) { c.NotBefore = now.Add(5 * time.Minute) })
	f := newKeyFiles(t, cert, key, nil)
	ids, err := openIdentities(&f.Config, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	first := ids.current.Load()
	f.write(next, nextKey, nil)
	for _, step := range []struct {
		after time.Duration
		taken bool
	}{{0, false}, {time.Second, false}, {4 * time.Minute, false}, {6 * time.Minute, true}} {
		ids.look(t.Context(), now.Add(step.after))
		if taken := ids.current.Load() != first; taken != step.taken {
			t.Errorf("after %s: taken over: %t, want %t", step.after, taken, step.taken)
		}
	}
	last, lastKey := ca.Issue(t, func(c *x509.Certificate) { c.NotAfter = now.Add(30 * time.Minute) })
	second := ids.current.Load()
	f.write(last, lastKey, nil)
	for range 2 {
		ids.look(t.Context(), now.Add(2*time.Hour))
	}
	if ids.current.Load() == second {
		t.Error("both have ended, and the older one is still shown")
	}
}

func TestFilesThatAreNone(t *testing.T) {
	ca := servetest.NewAuthority(t, "ca")
	cert, key := ca.Issue(t, nil)
	f := newKeyFiles(t, cert, key, nil)
	for path, want := range map[string]string{
		filepath.Join(t.TempDir(), "missing"): "TLS_KEY can't be read: stat ",
		t.TempDir():                           "is not a file",
		"/dev/zero":                           "TLS_KEY can't be read: /dev/zero is not a file",
	} {
		c := f.Config
		c.Key = path
		if _, err := openIdentities(&c, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
	}

	var log bytes.Buffer
	ids, err := openIdentities(&f.Config, slog.New(slog.NewJSONHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	first := ids.current.Load()
	if err := os.Remove(f.Key); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		ids.look(t.Context(), time.Now())
	}
	if ids.current.Load() != first || !ids.refused.Load() || strings.Count(log.String(), "TLS_KEY can't be read") != 1 {
		t.Errorf("the key's file is gone: got refused %t and log %s", ids.refused.Load(), &log)
	}
}

// Whatever the files hold: it is taken and can be shown, or refused in one sentence that names the variable.
func FuzzIdentity(f *testing.F) {
	ca := servetest.NewAuthority(f, "ca")
	cert, key := ca.Issue(f, nil)
	f.Add(cert, key, ca.PEM)
	f.Add(append(bytes.Clone(key), cert...), append(bytes.Clone(cert), key...), []byte(nil))
	f.Add(cert[:100], key[:50], []byte("-----BEGIN CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, cert, key, clientCA []byte) {
		files := pemFiles{cert, key, clientCA}
		i, err := files.identity()
		switch {
		case err != nil && !strings.HasPrefix(err.Error(), "TLS_"):
			t.Errorf("got %q", err)
		case err == nil && (i.tls.Certificates[0].Leaf == nil || i.from.IsZero() || i.until.IsZero()):
			t.Errorf("got %+v", i)
		}
	})
}
