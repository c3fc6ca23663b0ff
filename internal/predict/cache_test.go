package predict_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/predict"
	"github.com/pilotlight-ml/pilotlight/internal/predict/predicttest"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/redisstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

var ttl = regexp.MustCompile(`ttl=\d+`)

var remembered = model.Settings{Cache: model.Cache{TTL: model.Duration(time.Minute)}}

// sums asks the model simple for 1 + 1; more goes behind the inputs.
func sums(more string) string {
	row := strings.Repeat("1,", 15) + "1"
	return fmt.Sprintf(`{"inputs":[{"name":"INPUT0","shape":[1,16],"datatype":"INT32","data":[%s]},{"name":"INPUT1","shape":[1,16],"datatype":"INT32","data":[%[1]s]}]%s}`, row, more)
}

func TestAnswersAreRemembered(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	s.Push(t, "simple", onnxtest.Simple(-1).Bytes(), remembered)
	s.Push(t, "fresh", onnxtest.Simple(-1).Bytes(), model.Settings{})
	one := le(ones())
	binary := `{"inputs":[{"name":"INPUT1","shape":[1,16],"datatype":"INT32","parameters":{"binary_data_size":64}},{"name":"INPUT0","shape":[1,16],"datatype":"INT32","parameters":{"binary_data_size":64}}]}`
	first := ""
	for _, c := range []struct {
		name, model, body string
		headers           []string
		want              string
	}{
		{"the first", "simple", sums(""), nil, "pilotlight; fwd=miss; stored"},
		{"the same again", "simple", sums(""), nil, "pilotlight; hit; ttl=N"},
		{"with an id of its own", "simple", sums(`,"id":"x"`), nil, "pilotlight; hit; ttl=N"},
		{"as bytes, in another order", "simple", binary + one + one, []string{fmt.Sprint("Inference-Header-Content-Length: ", len(binary))}, "pilotlight; hit; ttl=N"},
		{"one output of two", "simple", sums(`,"outputs":[{"name":"OUTPUT0"}]`), nil, "pilotlight; fwd=miss; stored"},
		{"not to be remembered", "simple", sums(""), []string{"Cache-Control: no-store"}, "pilotlight; fwd=request"},
		{"computed anew", "simple", sums(""), []string{"Cache-Control: no-cache"}, "pilotlight; fwd=request; stored"},
		{"not old", "simple", sums(""), []string{"Cache-Control: max-age=30"}, "pilotlight; hit; ttl=N"},
		{"a model whose answers are not remembered", "fresh", sums(""), nil, ""},
	} {
		got := s.Do(t, "POST", "/v2/models/"+c.model+"/infer", c.body, c.headers...)
		if status := ttl.ReplaceAllString(got.Header.Get("Cache-Status"), "ttl=N"); got.Status != 200 || status != c.want {
			t.Errorf("%s: got %d, Cache-Status %q, want %q", c.name, got.Status, status, c.want)
		}
		if hit := strings.Contains(c.want, "hit"); hit != (got.Header.Get("Age") != "") {
			t.Errorf("%s: got Age %q", c.name, got.Header.Get("Age"))
		}
		if first == "" {
			first = got.Body
		} else if c.body == sums("") && c.model == "simple" && got.Body != first {
			t.Errorf("%s: got %s, want %s", c.name, got.Body, first)
		}
	}
	stats := s.Do(t, "GET", "/v2/models/simple/stats", "").Body
	for _, want := range []string{`"inference_count":4,"execution_count":4`, `"success":{"count":8,`, `"cache_hit":{"count":4,`, `"cache_miss":{"count":4,`} {
		if !strings.Contains(stats, want) {
			t.Errorf("statistics lack %s: %s", want, stats)
		}
	}
	s.Push(t, "simple", onnxtest.Simple(-1).Bytes(), model.Settings{Cache: model.Cache{TTL: model.Duration(time.Hour)}})
	got := s.Do(t, "POST", "/v2/models/simple/versions/2/infer", sums(""))
	if got.Header.Get("Cache-Status") != "pilotlight; fwd=miss; stored" {
		t.Errorf("another version: got %q", got.Header.Get("Cache-Status"))
	}
}

func ones() []int32 {
	x := make([]int32, 16)
	for i := range x {
		x[i] = 1
	}
	return x
}

// Two servers on one bucket and one Redis share their answers, and lose nothing
// but those when Redis ends.
func TestServersShareAnswers(t *testing.T) {
	at := storetest.RedisURL(t)
	kv, err := store.Openers[store.KV]{"redis": redisstore.OpenKV}.Open(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	defer kv.Close()
	blob, err := memstore.OpenBlob(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	start := func() *predicttest.Server {
		return predicttest.StartOn(t, predict.Deps{Blob: blob, KV: kv}, map[string]string{"MODEL_REFRESH": "10ms", "CACHE_L2_TIMEOUT": "1s"})
	}
	a, b := start(), start()
	// It takes a while, so that a look at Redis pays.
	a.Push(t, "slow", onnxtest.Slow().Bytes(), remembered)
	x := tensor.Raw(make([]float32, 256*256))
	head := `{"inputs":[{"name":"X","shape":[256,256],"datatype":"FP32","parameters":{"binary_data_size":262144}},{"name":"TIMES","shape":[],"datatype":"INT64","data":[20]}],"parameters":{"binary_data_output":true}}`
	ask := func(s *predicttest.Server) string {
		got := s.Do(t, "POST", "/v2/models/slow/infer", head+string(x), fmt.Sprint("Inference-Header-Content-Length: ", len(head)))
		if got.Status != 200 {
			t.Fatalf("got %d %s", got.Status, got.Body)
		}
		return got.Header.Get("Cache-Status")
	}
	eventually(t, "an answer of one is the other's", func() bool {
		x[0]++
		if got := ask(a); got != "pilotlight; fwd=miss; stored" {
			t.Fatalf("the first: got %q", got)
		}
		time.Sleep(20 * time.Millisecond) // it is written behind the answer
		return strings.HasSuffix(ask(b), "detail=shared")
	})
}
