package redisstore_test

import (
	"context"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/redisstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
)

func openHashes(t testing.TB, raw string) store.Hashes {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	h, err := redisstore.OpenHashes(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func TestHashes(t *testing.T) {
	raw := storetest.RedisURL(t)
	client, prefix := bare(t, raw)
	key := "\x02\x00\x00\x00\r\n\xffproject" // as binary as those of Feast
	if err := client.HSet(t.Context(), prefix+key, "a", "1", "\x00\r\n", "\xff\r\n", "empty", "").Err(); err != nil {
		t.Fatal(err)
	}
	if err := client.HSet(t.Context(), prefix+"other", "a", "2").Err(); err != nil {
		t.Fatal(err)
	}
	if err := client.Set(t.Context(), prefix+"text", "x", 0).Err(); err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string]string{"protocol 2": raw, "protocol 3": raw + "&protocol=3"} {
		h := openHashes(t, raw)
		fields := [][]string{{"\x00\r\n", "none", "empty", "a"}, {"a", "b"}, nil, {"a"}}
		got, err := h.Read(t.Context(), []string{key, "none", key, "other"}, fields)
		if err != nil {
			t.Fatal(err)
		}
		want := [][][]byte{{[]byte("\xff\r\n"), nil, {}, []byte("1")}, {nil, nil}, {}, {[]byte("2")}}
		for i := range want {
			if len(got[i]) != len(want[i]) {
				t.Fatalf("%s, key %d: got %d values, want %d", name, i, len(got[i]), len(want[i]))
			}
			for j := range want[i] {
				if string(got[i][j]) != string(want[i][j]) || (got[i][j] == nil) != (want[i][j] == nil) {
					t.Errorf("%s, key %d, field %d: got %q, want %q", name, i, j, got[i][j], want[i][j])
				}
			}
		}
		_, err = h.Read(t.Context(), []string{"other", "text"}, [][]string{{"a"}, {"a"}})
		if !fault.Is(err, fault.Internal) || !strings.Contains(fault.Message(err), `"text"`) {
			t.Errorf("%s, no hash: got %v, want Internal that names it", name, err)
		}
		if got, err := h.Read(t.Context(), nil, nil); err != nil || len(got) != 0 {
			t.Errorf("%s, no keys: got %v, %v", name, got, err)
		}
		if _, err := h.Read(t.Context(), []string{"other"}, nil); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s, no fields: got %v, want Invalid", name, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := h.Read(ctx, []string{"other"}, [][]string{{"a"}}); !errors.Is(err, context.Canceled) {
			t.Errorf("%s, cancelled: got %v", name, err)
		}
	}
	away := openHashes(t, "redis://127.0.0.1:1")
	if _, err := away.Read(t.Context(), []string{"k"}, [][]string{{"a"}}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("without a server: got %v, want Unavailable", err)
	}
}

// BenchmarkHashes reads ten fields of fifty hashes, and so does the client by itself.
func BenchmarkHashes(b *testing.B) {
	raw := storetest.RedisURL(b)
	client, prefix := bare(b, raw)
	keys, names := make([]string, 50), make([]string, 10)
	fields := make([][]string, len(keys))
	for j := range names {
		names[j] = "f" + strconv.Itoa(j)
	}
	for i := range keys {
		keys[i], fields[i] = strconv.Itoa(i), names
		for _, name := range names {
			if err := client.HSet(b.Context(), prefix+keys[i], name, "12345678").Err(); err != nil {
				b.Fatal(err)
			}
		}
	}
	h := openHashes(b, raw)
	b.Run("ours", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := h.Read(b.Context(), keys, fields); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("bare", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			pipe := client.Pipeline()
			for _, key := range keys {
				pipe.HMGet(b.Context(), prefix+key, names...)
			}
			if _, err := pipe.Exec(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
}
