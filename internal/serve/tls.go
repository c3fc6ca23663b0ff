package serve

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// certificate is the one of two files. When they change, connections that come from then on get the new one, and those that there
// are go on; files that don't fit together, as between two writes, change nothing.
type certificate struct {
	certFile, keyFile string
	tel               *telemetry.Telemetry

	mu     sync.Mutex
	now    *tls.Certificate
	made   [2]time.Time // of the files, when now was read
	looked time.Time
}

// lookEvery is how often files are looked at, while connections come.
const lookEvery = time.Second

// secure has a listener's connections be encrypted, where the config says by what: TLS 1.2 or later, with HTTP/2 and HTTP/1.1 as the caller likes.
func (c *Config) secure(l net.Listener, tel *telemetry.Telemetry) (net.Listener, error) {
	if c.Certificate == "" {
		return l, nil
	}
	cert := &certificate{certFile: c.Certificate, keyFile: c.Key, tel: tel}
	if _, err := cert.get(nil); err != nil {
		return nil, err
	}
	return tls.NewListener(l, &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: cert.get}), nil
}

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now != nil && time.Since(c.looked) < lookEvery {
		return c.now, nil
	}
	c.looked = time.Now()
	made, err := c.times()
	if err == nil && c.now != nil && made == c.made {
		return c.now, nil
	}
	var fresh tls.Certificate
	if err == nil {
		fresh, err = tls.LoadX509KeyPair(c.certFile, c.keyFile)
	}
	switch {
	case err == nil:
		if c.now != nil {
			c.tel.Log.Info("the certificate was read anew", "file", c.certFile, "until", fresh.Leaf.NotAfter)
		}
		c.now, c.made = &fresh, made
	case c.now == nil:
		return nil, fault.Wrap(fault.Invalid, err, "TLS_CERT_FILE and TLS_KEY_FILE can't be read as a certificate and its key: %s", err)
	default:
		c.tel.Log.Warn("the certificate can't be read anew, and stays as it is", "file", c.certFile, "error", err)
	}
	return c.now, nil
}

func (c *certificate) times() (made [2]time.Time, err error) {
	for i, name := range []string{c.certFile, c.keyFile} {
		info, err := os.Stat(name)
		if err != nil {
			return made, fmt.Errorf("look at %s: %w", name, err)
		}
		made[i] = info.ModTime()
	}
	return made, nil
}
