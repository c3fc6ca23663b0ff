package serve

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// identity is what the server shows callers by TLS, and whose certificates it asks of them, as one state of the
// files of TLS_CERT, TLS_KEY and TLS_CLIENT_CA has it.
type identity struct {
	tls         *tls.Config
	from, until time.Time // when all certificates that it shows are valid
	sum         [sha256.Size]byte
}

// lapsed tells whether callers refuse its certificates by now.
func (i *identity) lapsed(now time.Time) bool { return now.Before(i.from) || now.After(i.until) }

// identities follows the files: what is in force is always one that works. It is safe for concurrent use, but look is for one.
type identities struct {
	config  *Config
	log     *slog.Logger
	current atomic.Pointer[identity]
	refused atomic.Bool       // the files hold something else than current, which can't be taken
	seen    [sha256.Size]byte // of the files, at the last look
	told    string            // what the log was told of them
}

// openIdentities reads the files. Certificates that are out of date are no error here: no other ones are there, and
// whoever does not check dates, as a probe, can still be served.
func openIdentities(c *Config, log *slog.Logger) (*identities, error) {
	files, err := readPEM(c)
	if err != nil {
		return nil, err
	}
	first, err := files.identity()
	if err != nil {
		return nil, err
	}
	ids := &identities{config: c, log: log, seen: first.sum}
	ids.current.Store(first)
	return ids, nil
}

// tls gives the configuration of the listener, which asks at each handshake what is in force.
func (ids *identities) tls() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return ids.current.Load().tls, nil },
	}
}

// lookEvery is how often the files are read. That costs less than to be told of changes by the kernel, and also sees those
// of mounts that tell of none.
const lookEvery = time.Second

// watch follows the files until ctx ends.
func (ids *identities) watch(ctx context.Context) {
	if now := time.Now(); ids.current.Load().lapsed(now) {
		ids.log.WarnContext(ctx, "the certificate is not valid now, callers will refuse it", ids.current.Load().attrs()...)
	}
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			ids.look(ctx, now)
		}
	}
}

// look takes over what the files hold if that works and is what they held at the last look, too: what changes from one
// look to the next is still being written.
func (ids *identities) look(ctx context.Context, now time.Time) {
	var sum [sha256.Size]byte
	files, err := readPEM(ids.config)
	if err == nil {
		sum = files.sum()
	}
	current, settled := ids.current.Load(), sum == ids.seen
	ids.seen = sum
	if sum == current.sum {
		ids.refused.Store(false)
		ids.told = ""
		return
	}
	if !settled {
		return
	}
	var next *identity
	if err == nil {
		next, err = files.identity()
	}
	if err == nil && next.lapsed(now) && !current.lapsed(now) {
		err = fault.New(fault.Invalid, "TLS_CERT: the certificate is valid from %s to %s only", next.from.Format(time.RFC3339), next.until.Format(time.RFC3339))
	}
	if err != nil {
		ids.refused.Store(true)
		if ids.told != err.Error() {
			ids.told = err.Error()
			ids.log.ErrorContext(ctx, "the new certificate is not taken, the old one stays", append(current.attrs(), "error", err)...)
		}
		return
	}
	ids.current.Store(next)
	ids.refused.Store(false)
	ids.told = ""
	ids.log.InfoContext(ctx, "the certificate was replaced", next.attrs()...)
}

func (i *identity) attrs() []any {
	leaf := i.tls.Certificates[0].Leaf
	return []any{"subject", leaf.Subject.String(), "names", strings.Join(leaf.DNSNames, ","), "serial", leaf.SerialNumber.Text(16), "not_before", i.from, "not_after", i.until}
}

// pemFiles is what the files hold.
type pemFiles struct{ cert, key, clientCA []byte }

func readPEM(c *Config) (f pemFiles, err error) {
	for _, file := range []struct {
		variable, path string
		to             *[]byte
	}{{"TLS_CERT", c.Cert, &f.cert}, {"TLS_KEY", c.Key, &f.key}, {"TLS_CLIENT_CA", c.ClientCA, &f.clientCA}} {
		if file.path == "" {
			continue
		}
		if *file.to, err = readSmall(file.path); err != nil {
			return f, fault.Wrap(fault.Invalid, err, "%s can't be read", file.variable)
		}
	}
	return f, nil
}

// pemMost is far more than any of the files has; the authorities of the whole world take a quarter of it.
const pemMost = 1 << 20

// readSmall reads a file as it is read again and again: not one that would have its reader wait.
func readSmall(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, pemMost+1))
	if err == nil && len(b) > pemMost {
		err = fmt.Errorf("%s has more than %d bytes", path, pemMost)
	}
	return b, err
}

func (f *pemFiles) sum() (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, b := range [][]byte{f.cert, f.key, f.clientCA} {
		part := sha256.Sum256(b)
		h.Write(part[:])
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// identity makes of the files what can be shown, or says in one sentence what is wrong with them.
func (f *pemFiles) identity() (*identity, error) {
	chain, err := certificates("TLS_CERT", f.cert)
	if err != nil {
		return nil, err
	}
	if bytes.Contains(f.key, []byte("ENCRYPTED")) {
		return nil, fault.New(fault.Invalid, "TLS_KEY is encrypted, and nobody is here to type its password: give the key as it is, and let only this process read it")
	}
	pair, err := tls.X509KeyPair(f.cert, f.key)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "TLS_KEY does not hold the private key of TLS_CERT's first certificate")
	}
	i := &identity{sum: f.sum(), from: chain[0].NotBefore, until: chain[0].NotAfter}
	for _, c := range chain[1:] {
		if c.NotBefore.After(i.from) {
			i.from = c.NotBefore
		}
		if c.NotAfter.Before(i.until) {
			i.until = c.NotAfter
		}
	}
	i.tls = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	if err := i.try(); err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "TLS_CERT and TLS_KEY are of no use for TLS")
	}
	if f.clientCA == nil {
		return i, nil
	}
	authorities, err := certificates("TLS_CLIENT_CA", f.clientCA)
	if err != nil {
		return nil, err
	}
	i.tls.ClientAuth, i.tls.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
	i.tls.SessionTicketsDisabled = true // a session that is taken up again must not outlive its authority
	for _, c := range authorities {
		i.tls.ClientCAs.AddCert(c)
	}
	return i, nil
}

// certificates parses all certificates of a file. One that is not written to its end, or that has a block which
// can't be read, is refused as a whole: half of a chain is none.
func certificates(variable string, b []byte) (all []*x509.Certificate, err error) {
	begun := bytes.Count(b, []byte("-----BEGIN "))
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		begun--
		if block.Type != "CERTIFICATE" {
			continue // a key may be in the same file
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fault.Wrap(fault.Invalid, err, "%s: certificate %d can't be read", variable, len(all)+1)
		}
		all = append(all, c)
	}
	switch {
	case begun != 0:
		return nil, fault.New(fault.Invalid, "%s breaks off, or holds something that is not PEM", variable)
	case len(all) == 0:
		return nil, fault.New(fault.Invalid, "%s holds no certificate as PEM", variable)
	}
	return all, nil
}

// try has a caller in the process shake hands: there are keys that parse, and that TLS can't use.
func (i *identity) try() error {
	const limit = 5 * time.Second // a machine that is so busy has it tried at the next look
	here, there := net.Pipe()
	_, _ = here.SetDeadline(time.Now().Add(limit)), there.SetDeadline(time.Now().Add(limit))
	config := i.tls.Clone()
	config.SessionTicketsDisabled = true // which the caller would have to read
	shown := make(chan error, 1)
	go func() {
		shown <- tls.Server(here, config).Handshake() //nolint:noctx // it has a deadline
		_ = here.Close()
	}()
	err := tls.Client(there, &tls.Config{InsecureSkipVerify: true}).Handshake() //nolint:noctx // it has a deadline
	_ = there.Close()
	if own := <-shown; own != nil && !errors.Is(own, io.ErrClosedPipe) {
		return own // which says more
	}
	return err
}
