package serve

import (
	"net/netip"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// Config says where the server listens and how much a caller may ask of it.
type Config struct {
	Host string `env:"HOST" default:"127.0.0.1" help:"Address to listen on; anything but a loopback address needs AUTH."`
	Port uint16 `env:"PORT" default:"8080" help:"Port to listen on; 0: any free one."`
	Auth string `env:"AUTH" help:"'on' asks each caller for an API key or a token; 'off' lets everyone who reaches the server use it, wherever it listens. Empty: 'off' on a loopback address, elsewhere the process does not start."`

	Sites []string `env:"CORS_ORIGINS" help:"Origins of web pages elsewhere whose scripts may ask the server, such as https://console.example.com, separated by commas; empty: none."`

	Cert     string `env:"TLS_CERT" help:"File with the server's certificate and those that lead to its authority, as PEM: the port then speaks TLS alone. When the files change, what they hold is taken over within seconds."`
	Key      string `env:"TLS_KEY" help:"File with the private key of TLS_CERT, as PEM."`
	ClientCA string `env:"TLS_CLIENT_CA" help:"File with authorities, as PEM: callers then have to show a certificate by one of them."`

	MaxBody       env.Size      `env:"MAX_BODY" default:"64MiB" help:"How large a request's body may be."`
	Timeout       time.Duration `env:"REQUEST_TIMEOUT" default:"30s" help:"How long a request may take."`
	MaxUpload     env.Size      `env:"MAX_UPLOAD" default:"16GiB" help:"MAX_BODY for uploads of models and other long requests."`
	UploadTimeout time.Duration `env:"UPLOAD_TIMEOUT" default:"30m" help:"REQUEST_TIMEOUT for uploads of models and other long requests."`

	MaxHeader     env.Size      `env:"MAX_HEADER" default:"64KiB" help:"How large a request's header may be."`
	HeaderTimeout time.Duration `env:"HEADER_TIMEOUT" default:"5s" help:"How long a request's header may take to come."`
	IdleTimeout   time.Duration `env:"IDLE_TIMEOUT" default:"3m" help:"How long a connection may wait for its next request; more than its callers let it wait."`
	Stall         time.Duration `env:"STALL_TIMEOUT" default:"10s" help:"How far a body that comes, or an answer that goes, may fall behind MIN_PACE."`
	Pace          env.Size      `env:"MIN_PACE" default:"16KiB" help:"How much of a body must come each second, or of an answer go."`
	Drain         time.Duration `env:"DRAIN_TIMEOUT" default:"25s" help:"How long requests under way may go on once the process is told to end."`
}

// Validate refuses what can't work, and what would let strangers in unasked.
func (c *Config) Validate() error {
	switch {
	case c.Auth != "" && c.Auth != "off" && c.Auth != "on":
		return fault.New(fault.Invalid, "AUTH is %q, expected 'on', 'off' or nothing", c.Auth)
	case c.Auth == "" && !loopback(c.Host):
		return fault.New(fault.Invalid, "HOST %q can be reached from other machines and nothing checks who calls: set AUTH=on, or AUTH=off if that is meant", c.Host)
	case c.MaxBody <= 0 || c.MaxUpload <= 0 || c.MaxHeader <= 0 || c.Pace <= 0:
		return fault.New(fault.Invalid, "MAX_BODY, MAX_UPLOAD, MAX_HEADER and MIN_PACE must be positive")
	case c.Timeout <= 0 || c.UploadTimeout <= 0 || c.HeaderTimeout <= 0 || c.IdleTimeout <= 0 || c.Stall <= 0 || c.Drain <= 0:
		return fault.New(fault.Invalid, "REQUEST_TIMEOUT, UPLOAD_TIMEOUT, HEADER_TIMEOUT, IDLE_TIMEOUT, STALL_TIMEOUT and DRAIN_TIMEOUT must be positive")
	case (c.Cert == "") != (c.Key == ""):
		return fault.New(fault.Invalid, "TLS_CERT and TLS_KEY belong together: set both, or neither")
	case c.ClientCA != "" && c.Cert == "":
		return fault.New(fault.Invalid, "TLS_CLIENT_CA needs TLS_CERT and TLS_KEY: without TLS nobody shows a certificate")
	}
	return checkSites(c.Sites)
}

// loopback reports whether only this machine reaches host; the empty one stands for all addresses.
func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// allowance is how long n bytes may take.
func (c *Config) allowance(n int64) time.Duration {
	return c.Stall + time.Duration(float64(n)/float64(c.Pace)*float64(time.Second))
}
