package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
)

// A process that is told to end while callers ask it writes every prediction that it answered to S3 before, once:
// those that wait for a segment, and those of segments that are on their way.
func TestTheEndWritesWhatWasAnswered(t *testing.T) {
	for _, every := range []string{"1h", "5ms"} {
		t.Run("every "+every, func(t *testing.T) { ended(t, every) })
	}
}

func ended(t *testing.T, every string) {
	bucket := storetest.S3URL(t)
	blob, err := blobs.Open(t.Context(), bucket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = blob.Close() }) // nothing is lost by it
	const ends = 3
	var mu sync.Mutex
	var answered []string
	var unanswered atomic.Int64
	for end := range ends {
		p := spawn(t, "main", "listening", "BLOB_URL="+bucket, "PAYLOAD_EVERY="+every)
		eventually(t, p.url+"/readyz", http.StatusOK, `{"ready":true}`)
		if status, body := call(t, "POST", p.url+"/admin/v1/models/m/versions", onnxtest.NonZero().Bytes()); status != http.StatusCreated && status != http.StatusOK {
			t.Fatalf("push: got %d %s", status, body)
		}
		var callers sync.WaitGroup
		over := make(chan struct{})
		for c := range 4 {
			callers.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-over:
						return
					default:
					}
					id := fmt.Sprintf("%d-%d-%d", end, c, i)
					if !asked(t.Context(), p.url, id) {
						unanswered.Add(1)
						continue
					}
					mu.Lock()
					answered = append(answered, id)
					mu.Unlock()
				}
			})
		}
		time.Sleep(time.Duration(100+rand.IntN(300)) * time.Millisecond)
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		err := p.wait()
		close(over)
		callers.Wait()
		if err != nil {
			t.Fatalf("the process ended with %v: %s", err, p.lines())
		}
	}
	const rows = 4 // of request
	found := map[string][rows]int{}
	segments := 0
	for o, err := range blob.List(t.Context(), payload.Inbox, "") {
		if err != nil {
			t.Fatal(err)
		}
		segments++
		if err := payload.Load(t.Context(), blob, o.Key, func(some []payload.Row) error {
			for _, r := range some {
				times := found[r.ID]
				times[r.Row]++
				found[r.ID] = times
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	lost := slices.DeleteFunc(slices.Clone(answered), func(id string) bool { return found[id] != [rows]int{} })
	if len(answered) == 0 || unanswered.Load() == 0 {
		t.Fatalf("%d were answered and %d not: the test proves nothing", len(answered), unanswered.Load())
	}
	if len(lost) > 0 {
		t.Errorf("%d of %d answered predictions are lost: %.10q", len(lost), len(answered), lost)
	}
	for id, times := range found {
		if times != [rows]int{1, 1, 1, 1} {
			t.Errorf("the rows of %s are there %d times", id, times)
		}
	}
	t.Logf("%d answered, %d not, %d found in %d segments of %d processes", len(answered), unanswered.Load(), len(found), segments, ends)
}

// asked tells whether a prediction was answered.
func asked(ctx context.Context, url, id string) bool {
	r, err := http.NewRequestWithContext(ctx, "POST", url+"/v2/models/m/infer", strings.NewReader(strings.Replace(request, "{", fmt.Sprintf(`{"id":%q,`, id), 1)))
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err == nil && resp.StatusCode == http.StatusOK
}
