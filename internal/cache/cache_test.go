package cache

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// open opens a cache with the defaults of what is not given, and closes it with the test.
func open(t testing.TB, c *Config, kv store.KV) *Cache {
	t.Helper()
	if c.Value == 0 {
		c.Value = 1 << 20
	}
	if c.Timeout == 0 {
		c.Timeout = 20 * time.Millisecond
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		t.Fatal(err)
	}
	cache, err := Open(c, kv, tel)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cache.Close(); err != nil {
			t.Error(err)
		}
		if err := tel.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return cache
}

// spec describes a model whose answers stay fresh for a minute.
func spec(compute func(ctx context.Context, inputs []tensor.Tensor, outputs []string) ([]tensor.Tensor, error)) Spec {
	return Spec{Model: "m", Identity: []string{"file", "manifest"}, TTL: time.Minute, Compute: compute}
}

func awaitUp(t testing.TB, c *Cache) {
	t.Helper()
	await(t, c.shared.up.Load)
}

func await(t testing.TB, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("what was awaited did not happen")
		}
	}
}
