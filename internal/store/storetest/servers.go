package storetest

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// RedisURL gives the URL of a Redis in which nobody else sees the keys of this
// test: the server of REDIS_TEST_URL, or one that is started for this process.
// Without either the test is skipped, in CI it fails.
func RedisURL(t testing.TB) string {
	t.Helper()
	base := os.Getenv("REDIS_TEST_URL")
	if base == "" {
		base = running(t, startRedis, "redis-server is not on the PATH: apt-get install redis-server, or set REDIS_TEST_URL")
	}
	u := parse(t, base)
	q := u.Query()
	q.Set("prefix", q.Get("prefix")+fresh())
	u.RawQuery = q.Encode()
	return u.String()
}

// S3URL gives the URL of an S3 bucket and prefix in which nobody else sees the
// objects of this test: below S3_TEST_URL (with AWS_* for the rest), or on a
// server that is started for this process; its credentials are then set as
// AWS_* of this process. Without either the test is skipped, in CI it fails.
func S3URL(t testing.TB) string {
	t.Helper()
	base := os.Getenv("S3_TEST_URL")
	if base == "" {
		base = running(t, startS3, "versitygw is neither in .tools nor on the PATH: make tools, or "+
			"go build -modfile=tool.mod -o .tools/versitygw github.com/versity/versitygw/cmd/versitygw, or set S3_TEST_URL")
	}
	u := parse(t, base)
	u.Path = strings.TrimSuffix(u.Path, "/") + "/" + fresh()
	return u.String()
}

func parse(t testing.TB, raw string) *url.URL {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// fresh names what belongs to one test.
func fresh() string { return "test-" + strings.ToLower(rand.Text()) }

// Each server is started once for the process, by the first test that asks.
var (
	startRedis = sync.OnceValues(redisServer)
	startS3    = sync.OnceValues(s3Server)
)

func running(t testing.TB, start func() (server, error), missing string) string {
	t.Helper()
	s, err := start()
	switch {
	case errors.Is(err, exec.ErrNotFound) && os.Getenv("CI") == "":
		t.Skip("NOT TESTED: " + missing)
	case errors.Is(err, exec.ErrNotFound):
		t.Fatal(missing)
	case err != nil:
		t.Fatal(err)
	}
	return s.url
}

func redisServer() (server, error) {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return server{}, err
	}
	// A password of our own makes sure that no other server answers on that port.
	password := rand.Text()
	return serve(func(dir, port string) (string, []string, func(ctx context.Context) error) {
		addr := "127.0.0.1:" + port
		args := []string{
			program, "--port", port, "--bind", "127.0.0.1", "--requirepass", password,
			"--save", "", "--appendonly", "no", "--dir", dir,
		}
		return "redis://:" + password + "@" + addr, args, func(ctx context.Context) error {
			conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
			if err != nil {
				return err
			}
			defer conn.Close()
			if _, err := fmt.Fprintf(conn, "AUTH %s\r\n", password); err != nil {
				return err
			}
			if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || line != "+OK\r\n" {
				return fmt.Errorf("redis-server answered %q, %w", line, err)
			}
			return nil
		}
	})
}

func s3Server() (server, error) {
	program, err := findTool("versitygw")
	if err != nil {
		return server{}, err
	}
	const bucket = "bucket"
	access, secret := rand.Text(), rand.Text()
	health := "/" + rand.Text() // makes sure that no other server answers on that port
	s, err := serve(func(dir, port string) (string, []string, func(ctx context.Context) error) {
		endpoint := "http://127.0.0.1:" + port
		args := []string{
			program, "--port", "127.0.0.1:" + port, "--access", access, "--secret", secret, "--health", health,
			"--quiet", "--keep-alive", "--disable-acl", "posix",
		}
		data := filepath.Join(dir, "data")
		if err := os.MkdirAll(filepath.Join(data, bucket), 0o777); err != nil {
			return "", nil, func(context.Context) error { return err }
		}
		// The server keeps what it knows of an object in attributes of the file,
		// where the file system has them: a replacement is then atomic.
		if unix.Setxattr(data, "user.test", nil, 0) != nil {
			side := filepath.Join(dir, "side")
			if err := os.Mkdir(side, 0o777); err != nil {
				return "", nil, func(context.Context) error { return err }
			}
			args = append(args, "--sidecar", side)
		}
		query := url.Values{"endpoint": {endpoint}, "region": {"us-east-1"}}
		return "s3://" + bucket + "?" + query.Encode(), append(args, data), func(ctx context.Context) error {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint+health, nil)
			if err != nil {
				return err
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return err
			}
			if resp.StatusCode != http.StatusOK {
				err = fmt.Errorf("versitygw answered %s", resp.Status)
			}
			return errors.Join(err, resp.Body.Close())
		}
	})
	if err != nil {
		return server{}, err
	}
	return s, errors.Join(os.Setenv("AWS_ACCESS_KEY_ID", access), os.Setenv("AWS_SECRET_ACCESS_KEY", secret))
}

// findTool looks for a program that the project builds for itself, in .tools
// beside go.mod, and then on the PATH.
func findTool(name string) (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			if program, err := exec.LookPath(filepath.Join(dir, ".tools", name)); err == nil {
				return program, nil
			}
		}
		if dir == filepath.Dir(dir) {
			return exec.LookPath(name)
		}
	}
}

// server is one that runs for as long as this process does.
type server struct {
	url  string
	life io.Closer // the other end of what keeper reads; open until the process ends
}

// keeper runs a server in a folder. As soon as the process that holds the other
// end of its standard input is gone, however that came to pass, it ends the
// server and removes the folder.
const keeper = `dir=$1; shift
"$@" </dev/null >"$dir/log" 2>&1 &
read -r _
kill -9 $!
rm -rf "$dir"`

// serve starts a server on a free port of the loopback interface. Configure
// gives its URL, its command line, and a check that it is the one that answers.
func serve(configure func(dir, port string) (url string, args []string, ready func(context.Context) error)) (server, error) {
	var last error
	for range 2 { // somebody else may have taken the port in between
		dir, err := os.MkdirTemp("", "storetest-")
		if err != nil {
			return server{}, err
		}
		port, err := freePort()
		if err != nil {
			return server{}, err
		}
		url, args, ready := configure(dir, port)
		cmd := exec.CommandContext(context.Background(), "sh", append([]string{"-c", keeper, "sh", dir}, args...)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // what kills the tests must not kill their keeper
		life, err := cmd.StdinPipe()
		if err != nil {
			return server{}, err
		}
		if err := cmd.Start(); err != nil {
			return server{}, err
		}
		if last = await(ready); last == nil {
			return server{url, life}, nil
		}
		log, _ := os.ReadFile(filepath.Join(dir, "log")) // none is fine
		last = fmt.Errorf("%s does not start: %w\n%s", args[0], last, log)
		if err := errors.Join(life.Close(), cmd.Wait()); err != nil {
			return server{}, err
		}
	}
	return server{}, last
}

// await waits until a server is ready.
func await(ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func freePort() (string, error) {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, errors.Join(err, l.Close())
}
