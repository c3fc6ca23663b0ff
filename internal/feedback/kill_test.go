package feedback

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
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/serve/servetest"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/diskstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/s3store"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// instanceBucket makes a run of this test binary an instance that takes outcomes in, so that it can be killed.
const instanceBucket = "PILOTLIGHT_TEST_INSTANCE_BUCKET"

// at opens a bucket on the disk or on S3.
func at(t testing.TB, raw string) store.Blob {
	t.Helper()
	b, err := store.Openers[store.Blob]{
		"file": func(ctx context.Context, u *url.URL) (store.Blob, error) { return diskstore.OpenBlob(ctx, u) },
		"s3":   func(ctx context.Context, u *url.URL) (store.Blob, error) { return s3store.OpenBlob(ctx, u) },
	}.Open(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestInstance is what the child process runs. It says its address, and serves until it is killed.
func TestInstance(t *testing.T) {
	bucket := os.Getenv(instanceBucket)
	if bucket == "" {
		t.Skip("for child processes of TestKilledInstancesLoseNothing")
	}
	conf := ample
	conf.Rows, conf.Bytes = 100_000, 64<<20
	f := open(t, conf, at(t, bucket))
	f.now = time.Now
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { // as ticks would have it
		j := journalOf(t, at(t, bucket))
		for t.Context().Err() == nil {
			if _, err := j.CatchUp(t.Context()); err != nil {
				t.Error(err)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	fmt.Printf("%s\n", l.Addr())
	server := &http.Server{Handler: f.mux, ReadHeaderTimeout: time.Minute}
	t.Error(server.Serve(l))
}

// TestKilledInstancesLoseNothing has outcomes posted until each is acknowledged, and not again, by two
// instances that are killed and started again all the time, and take them into windows meanwhile. In the end each is
// kept, and counts once.
func TestKilledInstancesLoseNothing(t *testing.T) {
	t.Run("disk", func(t *testing.T) { killed(t, "file://"+t.TempDir()) })
	t.Run("s3", func(t *testing.T) { killed(t, storetest.S3URL(t)) })
}

func killed(t *testing.T, bucket string) {
	const kills, most = 12, 200_000 // the number of outcomes is what the kills take
	logNumbers(t, at(t, bucket), most)
	instances := []*servetest.Instance{{}, {}}
	for _, i := range instances {
		if err := i.Start(t, instanceBucket+"="+bucket); err != nil {
			t.Fatal(err)
		}
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		for range kills {
			time.Sleep(time.Duration(50+rand.IntN(600)) * time.Millisecond)
			i := instances[rand.IntN(2)]
			i.Kill()
			if err := i.Start(t, instanceBucket+"="+bucket); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	work := make(chan []int)
	var senders sync.WaitGroup
	var unanswered atomic.Int64
	for range 8 {
		senders.Go(func() {
			for part := range work {
				for !delivered(t.Context(), instances[rand.IntN(2)].URL()+"/feedback", part) {
					unanswered.Add(1)
					time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
				}
			}
		})
	}
	sent := 0
	for ended := false; !ended && sent < most; {
		part := make([]int, []int{1, 10, 100}[rand.IntN(3)])
		for i := range part {
			part[i] = sent
			sent++
		}
		select {
		case <-over:
			ended = true
		default:
		}
		work <- part
	}
	close(work)
	senders.Wait()
	<-over
	if unanswered.Load() == 0 {
		t.Fatal("no request was without an answer: the test proves nothing")
	}
	for _, i := range instances {
		i.Kill()
	}
	blob := at(t, bucket)
	j := journalOf(t, blob)
	before, _, err := j.head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := j.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, prefix := range []string{InboxPrefix, LogPrefix} {
		for key, data := range objectsOf(t, blob, prefix) {
			all, err := readOutcomes(key, data)
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range all {
				found[o.Prediction] = o.Value
			}
		}
	}
	for _, lines := range objectsOf(t, blob, RejectedPrefix) {
		for line := range bytes.Lines(lines) {
			var kept struct{ Outcome struct{ Prediction string } }
			if err := json.Unmarshal(line, &kept); err != nil {
				t.Error(err)
			}
			found[kept.Outcome.Prediction] = "rejected"
		}
	}
	good := int64(0)
	lost := 0
	for i := range sent {
		want := fmt.Sprint(i)
		if i%10 == 5 {
			want = "rejected"
		} else {
			good++
		}
		if found[fmt.Sprint("p-", i)] != want {
			lost++
		}
	}
	if lost > 0 || len(found) != sent {
		t.Errorf("%d of %d outcomes that were acknowledged are lost, and %d are found", lost, sent, len(found))
	}
	got, err := j.Judge(t.Context(), &Question{Model: "numbers", From: monday, Until: monday.AddDate(0, 0, 1)})
	if err != nil || len(got.Versions) != 1 || got.By != ByWindows {
		t.Fatalf("got %+v, %v", got, err)
	}
	// What is predicted of a number is the number.
	if r := got.Versions[0].Report; r.Predicted != most || r.Outcomes != good || got.Outcomes.Joined != good || got.Outcomes.Corrected != 0 || r.Metrics["mae"].Value != 0 {
		t.Errorf("of %d outcomes %d count, with an error of %g; %+v", good, r.Outcomes, r.Metrics["mae"].Value, got.Outcomes)
	}
	t.Logf("%d commits were made between the kills", before.Number)
	t.Logf("%d kills left %d requests without an answer; of %d outcomes %d are lost", kills, unanswered.Load(), sent, lost)
}

// logNumbers logs predictions of numbers, each of itself.
func logNumbers(t *testing.T, b store.Blob, n int) {
	t.Helper()
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		t.Fatal(err)
	}
	_, err = model.NewCatalog(b, time.Minute, nil).Publish(t.Context(), model.Manifest{
		Name: "numbers", Runtime: "onnx", Digest: model.Digest("sha256:" + strings.Repeat("0", 64)), Size: 1, Memory: engine.Memory{Session: 1, Loading: 1},
		Signature: engine.Signature{Outputs: []tensor.Spec{{Name: "number", Type: tensor.FP64, Shape: []int64{-1}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for first := 0; first < n; first += 10_000 { // segments as they would be
		log, err := payload.Open(&payload.Config{On: "on", Memory: 8 << 20, Every: time.Hour}, b, nil, tel)
		if err != nil {
			t.Fatal(err)
		}
		for i := first; i < first+10_000; i++ {
			at := monday.Add(time.Duration(i) * time.Millisecond)
			log.Add(&payload.Origin{Model: "numbers", Version: 1, Sample: 1}, &payload.Prediction{
				ID: fmt.Sprint("p-", i), Asked: at, At: at, Rows: 1, Outputs: []tensor.Tensor{tensor.Of("number", []int64{1}, []float64{float64(i)})},
			})
		}
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// delivered tells whether outcomes were acknowledged. Each tenth of them is a bad one; alone it is refused, and kept.
func delivered(ctx context.Context, url string, part []int) bool {
	var all []string
	for _, i := range part {
		value := fmt.Sprintf(`,"value":%d`, i)
		if i%10 == 5 {
			value = ""
		}
		all = append(all, fmt.Sprintf(`{"prediction":"p-%d","id":"%d"%s}`, i, i, value))
	}
	r, err := http.NewRequestWithContext(ctx, "POST", url, strings.NewReader(strings.Join(all, "\n")))
	if err != nil {
		return false
	}
	r.Header.Set("Content-Type", nline)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode == http.StatusAccepted || len(part) == 1 && resp.StatusCode == http.StatusBadRequest
}
