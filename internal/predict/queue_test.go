package predict_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/predict/predicttest"
)

// Requests of many callers and sizes at once get each its own answer, and the
// statistics tell rows and runs apart.
func TestManyCallersEachGetTheirOwnAnswer(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	s.Push(t, "simple", onnxtest.Simple(-1).Bytes(), model.Settings{})
	var rows, requests atomic.Int64
	var wg sync.WaitGroup
	for caller := range 32 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(caller), 1))
			for range 40 {
				n := 1 + random.IntN(4)
				a, b, sum := make([]string, 16*n), make([]string, 16*n), make([]string, 16*n)
				for i := range a {
					x, y := random.IntN(1e6), random.IntN(1e6)
					a[i], b[i], sum[i] = strconv.Itoa(x), strconv.Itoa(y), strconv.Itoa(x+y)
				}
				got := s.Do(t, "POST", "/v2/models/simple/infer", fmt.Sprintf(
					`{"inputs":[{"name":"INPUT0","shape":[%d,16],"datatype":"INT32","data":[%s]},{"name":"INPUT1","shape":[%[1]d,16],"datatype":"INT32","data":[%[3]s]}],"outputs":[{"name":"OUTPUT0"}]}`,
					n, strings.Join(a, ","), strings.Join(b, ",")))
				want := fmt.Sprintf(`{"model_name":"simple","model_version":"1","outputs":[{"name":"OUTPUT0","datatype":"INT32","shape":[%d,16],"data":[%s]}]}`, n, strings.Join(sum, ","))
				if got.Status != 200 || got.Body != want {
					t.Errorf("got %d %s, want %s", got.Status, got.Body, want)
				}
				rows.Add(int64(n))
				requests.Add(1)
			}
		})
	}
	wg.Wait()
	var stats struct {
		Models []struct {
			Inferences int64 `json:"inference_count"`
			Executions int64 `json:"execution_count"`
			Stats      struct {
				Success struct{ Count int64 }
			} `json:"inference_stats"`
		} `json:"model_stats"`
	}
	if err := json.Unmarshal([]byte(s.Do(t, "GET", "/v2/models/simple/stats", "").Body), &stats); err != nil {
		t.Fatal(err)
	}
	got := stats.Models[0]
	if got.Inferences != rows.Load() || got.Stats.Success.Count != requests.Load() || got.Executions > requests.Load() || got.Executions == 0 {
		t.Errorf("got %+v, for %d rows in %d requests", got, rows.Load(), requests.Load())
	}
	t.Logf("%d requests in %d runs", requests.Load(), got.Executions)
}

// What can't be answered in time is refused at once, and says when to come again.
func TestOverloadIsRefusedWithATime(t *testing.T) {
	s := predicttest.Start(t, nil, map[string]string{"QUEUE_RUNS": "1", "QUEUE_WAIT": "50ms"})
	s.Push(t, "slow", onnxtest.Slow().Bytes(), model.Settings{})
	body := `{"inputs":[{"name":"X","shape":[256,256],"datatype":"FP32","data":[` + strings.Repeat("0,", 256*256-1) + `0]},{"name":"TIMES","shape":[],"datatype":"INT64","data":[100]}],"outputs":[]}`
	ask := func() predicttest.Answer { return s.Do(t, "POST", "/v2/models/slow/infer", body) }
	if a := ask(); a.Status != 200 {
		t.Fatalf("alone: got %d %.200s", a.Status, a.Body)
	}
	var answered, refused atomic.Int64
	var wg sync.WaitGroup
	for range 24 {
		wg.Go(func() {
			switch a := ask(); a.Status {
			case http.StatusOK:
				answered.Add(1)
			case http.StatusServiceUnavailable:
				refused.Add(1)
				after, err := strconv.Atoi(a.Header.Get("Retry-After"))
				if err != nil || after < 1 || !strings.Contains(a.Body, "requests wait for a run here") {
					t.Errorf("got Retry-After %q and %s", a.Header.Get("Retry-After"), a.Body)
				}
			default:
				t.Errorf("got %d %s", a.Status, a.Body)
			}
		})
	}
	wg.Wait()
	if answered.Load() == 0 || refused.Load() == 0 {
		t.Errorf("%d answered, %d refused: some of both are to be expected", answered.Load(), refused.Load())
	}
}
