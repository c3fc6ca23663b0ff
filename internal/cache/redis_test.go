package cache

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/redisstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

func openRedis(t testing.TB, raw string) store.KV {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := redisstore.OpenKV(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kv.Close() })
	return kv
}

func TestRedisIsShared(t *testing.T) {
	raw := storetest.RedisURL(t)
	m := &oracle{same: true}
	a, b := open(t, &Config{Timeout: time.Second}, openRedis(t, raw)), open(t, &Config{Timeout: time.Second}, openRedis(t, raw))
	awaitUp(t, a)
	awaitUp(t, b)
	inputs := floats("x", 1000)
	for _, s := range []*Scope{a.Scope(spec(m.compute)), b.Scope(spec(m.compute))} {
		await(t, func() bool {
			_, o, err := s.Do(t.Context(), inputs, nil, Control{}, m.run)
			return err == nil && o.Status == HitShared
		})
	}
}

// While Redis hangs, is killed and comes back, everybody is answered in time.
func TestRedisFailsUnderLoad(t *testing.T) {
	storetest.RedisURL(t) // skips where there is none
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().(*net.TCPAddr)
	l.Close()
	redis := startRedis(t, addr.Port)
	c := open(t, &Config{Timeout: 20 * time.Millisecond}, openRedis(t, "redis://"+addr.String()))
	awaitUp(t, c)

	const deadline = 2 * time.Second // far above a budget: the machine may be busy
	m := &oracle{takes: time.Millisecond, same: true}
	s := c.Scope(spec(m.compute))
	ctx, stop := context.WithCancel(t.Context())
	var load sync.WaitGroup
	var answers, shared atomic.Int64
	for g := range 8 {
		load.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				limited, cancel := context.WithTimeout(context.Background(), deadline)
				x := float32(g*1_000_000 + n%100)
				_, o, err := s.Do(limited, []tensor.Tensor{tensor.Of("x", []int64{1}, []float32{x})}, nil, Control{}, m.run)
				cancel()
				if err != nil {
					t.Errorf("request %d: %v", n, err)
					return
				}
				answers.Add(1)
				if o.Status == HitShared {
					shared.Add(1)
				}
			}
		})
	}
	answered := func(during string) {
		t.Helper()
		from := answers.Load()
		await(t, func() bool { return answers.Load() > from+200 })
		t.Logf("%s: up %v, %d answers, %d of them shared, %d failures", during, c.shared.up.Load(), answers.Load(), shared.Load(), c.shared.readErrors.Load()+c.shared.writeErrors.Load())
	}
	await(t, func() bool { return shared.Load() > 0 })
	answered("running")

	signal(t, redis, syscall.SIGSTOP)
	await(t, func() bool { return !c.shared.up.Load() })
	answered("paused")
	signal(t, redis, syscall.SIGCONT)
	awaitUp(t, c)
	answered("continued")

	signal(t, redis, syscall.SIGKILL)
	_ = redis.Wait() // says that it was killed
	await(t, func() bool { return !c.shared.up.Load() })
	answered("killed")
	startRedis(t, addr.Port)
	awaitUp(t, c)
	from := shared.Load()
	await(t, func() bool { return shared.Load() > from })
	answered("back, and empty")
	stop()
	load.Wait()
}

func startRedis(t *testing.T, port int) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(context.Background(), "redis-server", strings.Fields(fmt.Sprintf("--port %d --bind 127.0.0.1 --appendonly no --dir %s --save", port, t.TempDir()))...)
	cmd.Args = append(cmd.Args, "")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may be dead already
		_ = cmd.Wait()
	})
	return cmd
}

func signal(t *testing.T, cmd *exec.Cmd, s syscall.Signal) {
	t.Helper()
	if err := cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}
