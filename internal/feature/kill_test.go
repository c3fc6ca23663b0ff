package feature

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/serve/servetest"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/diskstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
)

// What makes a run of this test binary an instance that takes events in, so that it can be killed.
const (
	instanceRedis  = "PILOTLIGHT_TEST_INSTANCE_REDIS"
	instanceBucket = "PILOTLIGHT_TEST_INSTANCE_BUCKET"
)

func diskBucket(t testing.TB, dir string) store.Blob {
	t.Helper()
	b, err := diskstore.OpenBlob(t.Context(), &url.URL{Path: dir})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestInstance is what the child process runs. It says its address, and serves until it is killed.
func TestInstance(t *testing.T) {
	redis, dir := os.Getenv(instanceRedis), os.Getenv(instanceBucket)
	if redis == "" {
		t.Skip("for child processes of TestKilledInstancesLoseNothing")
	}
	blob := diskBucket(t, dir)
	conf := ample
	conf.Rows, conf.Bytes = 100_000, 64<<20
	in := ingest(t, conf, IngestDeps{Blob: blob, Catalog: newCatalog(blob), Online: redisOnline(t, redis)})
	m, err := event.NewMux(mute(t))
	if err != nil {
		t.Fatal(err)
	}
	in.Hear(m)
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("%s\n", l.Addr())
	server := &http.Server{Handler: m, ReadHeaderTimeout: time.Minute}
	t.Error(server.Serve(l))
}

// eventOf makes the event that brings a click.
func eventOf(t *testing.T, s *CompiledSource, r Row) event.Event {
	t.Helper()
	return observed(fmt.Sprint("click-", r.ID), s.Name, "["+string(appendRow(nil, s, r.Values))+"]")
}

// TestKilledInstancesLoseNothing has events delivered, as a broker does, until each is
// acknowledged, by two instances that are killed and started again all the time.
func TestKilledInstancesLoseNothing(t *testing.T) {
	redis, dir := storetest.RedisURL(t), t.TempDir()
	blob := diskBucket(t, dir)
	apply(t, newCatalog(blob), clicksYAML)
	s := clicksSource(t)
	random := rand.New(rand.NewPCG(7, 8))
	var rows []Row
	for i := range 4000 {
		rows = append(rows, click(i, random))
	}
	instances := []*servetest.Instance{{}, {}}
	for _, i := range instances {
		if err := i.Start(t, instanceRedis+"="+redis, instanceBucket+"="+dir); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	var kills atomic.Int64
	var killer sync.WaitGroup
	killer.Go(func() {
		for ctx.Err() == nil {
			time.Sleep(time.Duration(20+rand.IntN(150)) * time.Millisecond)
			i := instances[rand.IntN(2)]
			i.Kill()
			if err := i.Start(t, instanceRedis+"="+redis, instanceBucket+"="+dir); err != nil {
				t.Error(err)
				return
			}
			kills.Add(1)
		}
	})
	work := make(chan []Row)
	var senders sync.WaitGroup
	var mu sync.Mutex
	unanswered := 0
	for range 8 {
		senders.Go(func() {
			for part := range work {
				var all []event.Event
				for _, r := range part {
					all = append(all, eventOf(t, s, r))
				}
				b, err := json.Marshal(all)
				if err != nil {
					t.Error(err)
					return
				}
				for !deliver(t.Context(), instances[rand.IntN(2)].URL(), b) {
					mu.Lock()
					unanswered++
					mu.Unlock()
					time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
				}
			}
		})
	}
	for round := 0; round < 2 || kills.Load() < 12 && round < 100; round++ { // the same again, in another order
		random.Shuffle(len(rows), func(i, j int) { rows[i], rows[j] = rows[j], rows[i] })
		for from := 0; from < len(rows); from += 10 {
			work <- append([]Row(nil), rows[from:min(from+10, len(rows))]...)
		}
	}
	close(work)
	senders.Wait()
	stop()
	killer.Wait()
	if kills.Load() < 12 || unanswered == 0 {
		t.Fatalf("%d kills left %d deliveries without an answer: the test proves little", kills.Load(), unanswered)
	}
	t.Logf("%d kills left %d deliveries without an answer", kills.Load(), unanswered)
	compare(t, redisOnline(t, redis), s, rows)
	ids := loggedIDs(t, blob, s.Name)
	for _, r := range rows {
		if id := hash("/pilotlight/features", fmt.Sprint("click-", r.ID), 0); !ids[id] {
			t.Errorf("row %d was acknowledged and is not in the log", r.ID)
		}
	}
	if len(ids) != len(rows) {
		t.Errorf("the log has %d different rows, want %d", len(ids), len(rows))
	}
}

// deliver tells whether a batch of events was acknowledged.
func deliver(ctx context.Context, url string, batch []byte) bool {
	r, err := http.NewRequestWithContext(ctx, "POST", url, bytes.NewReader(batch))
	if err != nil {
		return false
	}
	r.Header.Set("Content-Type", "application/cloudevents-batch+json")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode == http.StatusAccepted
}
