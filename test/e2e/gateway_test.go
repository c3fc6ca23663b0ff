//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// TestStrangersWakeNobody asks through the gateway, which asks for keys, while predict is at zero: who has no key, or has used up what
// his one allows, is refused by the gateway alone; who has one wakes predict and is answered.
func TestStrangersWakeNobody(t *testing.T) {
	p := predict(t)
	gateway := waitReady(t, "gateway", 2*time.Minute)
	key := firstKeys(t)
	plain := client(t, false)
	once := &http.Client{Transport: &shows{plain.Transport, key("once", "--scope", "predict", "--rate", "0.001", "--burst", "1")}, Timeout: 2 * time.Minute}
	always := &http.Client{Transport: &shows{plain.Transport, key("always", "--scope", "predict/flights")}, Timeout: 2 * time.Minute}

	// A key that was just made is known within a second.
	within(t, 10*time.Second, "the key is known", func() bool { return gateway.ask(t.Context(), once, 2) == nil })
	t.Logf("predict is at zero after %.1f s", p.toZero(t).Seconds())
	for _, c := range []struct {
		name   string
		client *http.Client
		status int
	}{
		{"no key", plain, http.StatusUnauthorized},
		{"no such key", &http.Client{Transport: &shows{plain.Transport, "pl_" + strings.Repeat("a", 40)}, Timeout: time.Minute}, http.StatusUnauthorized},
		{"all used up", once, http.StatusTooManyRequests},
	} {
		for range 20 {
			var refused refusal
			if err := gateway.ask(t.Context(), c.client, 2); !errors.As(err, &refused) || refused.status != c.status {
				t.Fatalf("%s: got %v, want %d", c.name, err, c.status)
			}
		}
	}
	time.Sleep(10 * time.Second) // what wakes a pod does so in less
	if pods := p.pods(t); len(pods) != 0 {
		t.Errorf("%d pods of predict were woken by refused requests", len(pods))
	}
	begin := time.Now()
	if err := gateway.ask(t.Context(), always, 3); err != nil {
		t.Fatalf("with a key: %v", err)
	}
	t.Logf("60 refused requests woke nobody; one with a key was answered from zero after %d ms", time.Since(begin).Milliseconds())
	if status, b, err := gateway.call(t.Context(), always, http.MethodGet, "/admin/v1/models", nil); err != nil || status != http.StatusForbidden {
		t.Errorf("a key for predictions of one model, at the administration: got %d %s %v", status, b, err)
	}
}

// shows has each request show a key.
type shows struct {
	http.RoundTripper
	key string
}

func (s *shows) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+s.key)
	return s.RoundTripper.RoundTrip(r)
}

// entry is what the suite has of the gateway: keys, each with a tenant of its own, by the services that these are asked for, and where
// requests of tenants go.
var entry = struct {
	keys map[string]string
	to   map[string]string
}{keys: map[string]string{}, to: map[string]string{}}

// behind is the service as it is asked by way of the gateway, with a key that may do everything. Its predictions are those of this
// service, a copy of predict or the pool itself; all else is done by the functions that the gateway knows.
func (s *service) behind(t *testing.T) *service {
	t.Helper()
	gateway := waitReady(t, "gateway", 2*time.Minute)
	key, known := entry.keys[s.name]
	if !known {
		key = firstKeys(t)(s.name, "--scope", "admin", "--tenant", s.name)
		entry.keys[s.name] = key
		entry.to[s.name] = "http://" + s.name + "." + namespace + ".svc.cluster.local"
		routes, err := json.Marshal(map[string]any{"tenants": entry.to})
		if err != nil {
			t.Fatal(err)
		}
		gateway.key = key
		c := client(t, false)
		within(t, 10*time.Second, "the gateway knows the key", func() bool {
			status, _, err := gateway.call(t.Context(), c, http.MethodPut, "/admin/v1/routes", routes)
			return err == nil && status == http.StatusOK
		})
		time.Sleep(time.Second) // by then each gateway knows the route
	}
	return &service{name: s.name, host: gateway.host, key: key}
}

// firstKeys makes keys as the owner of the bucket does.
func firstKeys(t *testing.T) func(name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	forward := exec.CommandContext(ctx, "kubectl", "-n", namespace, "port-forward", "svc/s3", ":7070")
	out, err := forward.StdoutPipe()
	if err == nil {
		err = forward.Start()
	}
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = forward.Wait() // it was ended
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	port := regexp.MustCompile(`127\.0\.0\.1:(\d+)`).FindStringSubmatch(line)
	if err != nil || port == nil {
		t.Fatalf("kubectl port-forward said %q, %v", line, err)
	}
	secret := get[corev1.Secret](t, "secret", "pilotlight-s3")
	return func(name string, args ...string) string {
		t.Helper()
		c := exec.CommandContext(t.Context(), "go", append([]string{"run", "./cmd/pilotlight", "key", "create", name, "-o", "json", "--store", "s3://pilotlight?endpoint=http://127.0.0.1:" + port[1]}, args...)...)
		c.Dir = root
		c.Env = append(os.Environ(), "AWS_REGION=us-east-1", "AWS_ACCESS_KEY_ID="+string(secret.Data["AWS_ACCESS_KEY_ID"]), "AWS_SECRET_ACCESS_KEY="+string(secret.Data["AWS_SECRET_ACCESS_KEY"]))
		b, err := c.Output()
		var made struct{ Secret string }
		if err == nil {
			err = json.Unmarshal(b, &made)
		}
		if err != nil || made.Secret == "" {
			t.Fatalf("key create %s: %v, %s", name, err, b)
		}
		return made.Secret
	}
}
