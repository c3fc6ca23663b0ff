package predict_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/onnxwire"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/predict/predicttest"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry/telemetrytest"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// negative takes INPUT0 of a type, [-1], and gives OUTPUT0 with the other sign.
func negative(d tensor.Type) []byte {
	return onnxtest.Apply("Neg", []onnxwire.Value{onnxwire.Tensor("INPUT0", d, -1)}, []onnxwire.Value{onnxwire.Tensor("OUTPUT0", d, -1)}).Bytes()
}

// pair is a server with a model m: version 1 says what it is asked, version 2 the negative of it.
func pair(t testing.TB, blob store.Blob, d tensor.Type, settings model.Settings, environ map[string]string) *predicttest.Server {
	t.Helper()
	s := predicttest.Start(t, blob, environ)
	s.Push(t, "m", onnxtest.Identity(spec(tensor.FP32, -1)).Bytes(), settings)
	s.Push(t, "m", negative(d), settings)
	for version := range 2 {
		warm(t, s, "m", version+1)
	}
	return s
}

func warm(t testing.TB, s *predicttest.Server, name string, version int) {
	t.Helper()
	m, err := s.Registry.Manifest(t.Context(), name, version)
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.Registry.Warm.Acquire(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	l.Release()
}

func canary(t testing.TB, r *model.Registry, version int, share float64) *model.Split {
	t.Helper()
	m, err := r.Canary(t.Context(), "m", model.Champion, share, model.Change{To: version})
	if err != nil {
		t.Fatal(err)
	}
	return m.After
}

// numbers is a V2 request of INPUT0.
func numbers(data string) string { return strings.Replace(floats(data), `"X"`, `"INPUT0"`, 1) }

// said tells which version gave an answer by its sign.
func said(t testing.TB, a predicttest.Answer) int {
	t.Helper()
	answered(t, a, 200)
	version := 1
	if strings.Contains(a.Body, "[-") {
		version = 2
	}
	if strings.Contains(a.Body, "model_version") && !strings.Contains(a.Body, fmt.Sprintf(`"model_version":"%d"`, version)) {
		t.Errorf("the answer names another version than %d: %s", version, a.Body)
	}
	return version
}

// answered checks the status alone.
func answered(t testing.TB, got predicttest.Answer, status int) {
	t.Helper()
	if got.Status != status {
		t.Fatalf("got %d %s, want %d", got.Status, got.Body, status)
	}
}

// By whatever protocol a customer's request comes, and whatever rows follow the first, one version answers it, the one that is due.
func TestACanaryIsTheSameForACustomer(t *testing.T) {
	s := pair(t, nil, tensor.FP32, model.Settings{Quality: model.Quality{Entity: []string{"INPUT0"}}}, nil)
	c := dial(t, s)
	for _, share := range []float64{.2, .6} {
		split := canary(t, s.Registry, 2, share)
		seen := map[int]int{}
		for i := 1; i <= 40; i++ {
			want := max(1, split.Choose(split.Point("m", strconv.AppendInt(nil, int64(i), 10))))
			seen[want]++
			head := `{"inputs":[{"name":"INPUT0","shape":[1],"datatype":"FP32","parameters":{"binary_data_size":4}}]}`
			raw := string(tensor.Raw([]float32{float32(i)}))
			for how, a := range map[string]predicttest.Answer{
				"V2":            s.Do(t, "POST", "/v2/models/m/infer", numbers(fmt.Sprint(i)), "Entity-Key: "+fmt.Sprint(7*i)),
				"by the alias":  s.Do(t, "POST", "/v2/models/m/versions/champion/infer", numbers(fmt.Sprint(i))),
				"many rows":     s.Do(t, "POST", "/v2/models/m/infer", numbers(fmt.Sprint(i, ",99,98"))),
				"V2 binary":     s.Do(t, "POST", "/v2/models/m/infer", head+raw, headerLength(len(head))),
				"V1":            s.Do(t, "POST", "/v1/models/m:predict", fmt.Sprintf(`{"instances":[%d]}`, i)),
				"V1 by columns": s.Do(t, "POST", "/v1/models/m/labels/champion:predict", fmt.Sprintf(`{"inputs":[%d,99]}`, i)),
				"event":         s.Do(t, "POST", "/v1/models/m:predict", fmt.Sprintf(`{"instances":[%d]}`, i), ce(fmt.Sprint(i))...),
			} {
				if got := said(t, a); got != want {
					t.Errorf("customer %d, %s: got version %d, want %d", i, how, got, want)
				}
			}
			if a := s.Do(t, "POST", "/v2/models/m/infer", raw, headerLength(0)); a.Status != 200 || (a.Body[len(a.Body)-1]&0x80 != 0) != (want == 2) {
				t.Errorf("customer %d, raw: got %d %q, want version %d", i, a.Status, a.Body, want)
			}
			text, err := c.call(t.Context(), t, "ModelInfer", fmt.Sprintf(
				`{"model_name":"m","inputs":[{"name":"INPUT0","datatype":"FP32","shape":[2],"contents":{"fp32_contents":[%d,99]}}]}`, i))
			if err != nil || !strings.Contains(text, fmt.Sprintf(`"model_version":"%d"`, want)) {
				t.Errorf("customer %d, gRPC: got %s, %v, want version %d", i, text, err, want)
			}
		}
		if seen[1] == 0 || seen[2] == 0 {
			t.Errorf("share %g: got %v of the versions: nothing was told apart", share, seen)
		}
	}
	if a := s.Do(t, "POST", "/v2/models/m/versions/1/infer", numbers("1")); said(t, a) != 1 {
		t.Error("a version that is asked by its number has a canary")
	}
	if a := s.Do(t, "POST", "/v2/models/m/infer", `{"inputs":[]}`); a.Status != 400 {
		t.Errorf("got %d %s", a.Status, a.Body)
	}
}

// Without an entity the caller's header tells whose a request is, or else its id.
func TestACanaryByHeaderOrID(t *testing.T) {
	s := pair(t, nil, tensor.FP32, model.Settings{}, nil)
	c := dial(t, s)
	split := canary(t, s.Registry, 2, .5)
	for i := range 40 {
		key := fmt.Sprint("k", i)
		want := max(1, split.Choose(split.Point("m", []byte(key))))
		withID := strings.Replace(numbers("5"), "{", fmt.Sprintf(`{"id":%q,`, key), 1)
		for how, a := range map[string]predicttest.Answer{
			"header":        s.Do(t, "POST", "/v2/models/m/infer", strings.Replace(numbers("5"), "{", fmt.Sprintf(`{"id":"r%d",`, i), 1), "Entity-Key: "+key),
			"V1":            s.Do(t, "POST", "/v1/models/m:predict", `{"instances":[5]}`, "Entity-Key: "+key),
			"id":            s.Do(t, "POST", "/v2/models/m/infer", withID),
			"partition key": s.Do(t, "POST", "/v1/models/m:predict", `{"instances":[5]}`, ce(fmt.Sprint(i), "Ce-Partitionkey: "+key)...),
		} {
			if got := said(t, a); got != want {
				t.Errorf("%s, %s: got version %d, want %d", key, how, got, want)
			}
		}
		ctx := metadata.AppendToOutgoingContext(t.Context(), "entity-key", key)
		text, err := c.call(ctx, t, "ModelInfer", `{"model_name":"m","inputs":[{"name":"INPUT0","datatype":"FP32","shape":[1],"contents":{"fp32_contents":[5]}}]}`)
		if err != nil || !strings.Contains(text, fmt.Sprintf(`"model_version":"%d"`, want)) {
			t.Errorf("%s, gRPC: got %s, %v, want version %d", key, text, err, want)
		}
		once, again := s.Do(t, "POST", "/v1/models/m:predict", `{"instances":[5]}`, ce(key)...), s.Do(t, "POST", "/v1/models/m:predict", `{"instances":[5]}`, ce(key)...)
		if said(t, once) != said(t, again) {
			t.Errorf("event %s is answered otherwise when it comes again", key)
		}
	}
	seen := map[int]int{}
	for range 64 {
		seen[said(t, s.Do(t, "POST", "/v2/models/m/infer", numbers("5")))]++
	}
	if seen[1] == 0 || seen[2] == 0 { // by chance once in 2^63
		t.Errorf("without any key: got %v", seen)
	}
}

// The join keys of features say whose a request is.
func TestACanaryByJoinKeys(t *testing.T) {
	s, _ := featured(t)
	s.Push(t, "numbers", onnxtest.Identity(tensor.Spec{Type: tensor.FP32, Shape: []int64{-1, 3}}).Bytes(), model.Settings{Features: "numbers"})
	warm(t, s, "numbers", 1)
	m, err := s.Registry.Canary(t.Context(), "numbers", model.Champion, .5, model.Change{To: 2})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]int{}
	for i := range 30 {
		driver := fmt.Sprint("d", i)
		want := max(1, m.After.Choose(m.After.Point("numbers", []byte(driver))))
		seen[want]++
		a := s.Do(t, "POST", "/v2/models/numbers/infer", infer(featureTime, in("driver", "BYTES", "[2]", fmt.Sprintf(`[%q,"x"]`, driver)), in("hour", "INT64", "[2,1]", "[19,5]")))
		if a.Status != 200 || !strings.Contains(a.Body, fmt.Sprintf(`"model_version":"%d"`, want)) {
			t.Errorf("%s: got %d %s, want version %d", driver, a.Status, a.Body, want)
		}
	}
	if seen[1] == 0 || seen[2] == 0 {
		t.Errorf("got %v", seen)
	}
}

// What is logged and remembered of an answer is of the version that gave it.
func TestACanaryHasItsOwnLogAndCache(t *testing.T) {
	b := memBlob(t)
	s := pair(t, b, tensor.FP32, model.Settings{Cache: model.Cache{TTL: model.Duration(time.Hour)}}, map[string]string{"PAYLOAD_LOG": "on", "PAYLOAD_EVERY": "20ms", "CACHE_CHECK": "0"})
	split := canary(t, s.Registry, 2, .5)
	versions, hits := map[string]int32{}, [3]int{}
	for i := range 30 {
		key := fmt.Sprint(i)
		a := s.Do(t, "POST", "/v2/models/m/infer", strings.Replace(numbers("5"), "{", fmt.Sprintf(`{"id":"r%s",`, key), 1), "Entity-Key: "+key)
		version := said(t, a)
		if want := max(1, split.Choose(split.Point("m", []byte(key)))); version != want {
			t.Errorf("got version %d, want %d", version, want)
		}
		if strings.Contains(a.Header.Get("Cache-Status"), "hit") {
			hits[version]++
		}
		versions["r"+key] = int32(version)
	}
	for version := 1; version <= 2; version++ {
		if hits[version] == 0 {
			t.Errorf("nothing of version %d was remembered", version)
		}
	}
	for _, r := range logged(t, b, 30) {
		if r.Version != versions[r.ID] || (r.Outputs == `{"OUTPUT0":-5}`) != (r.Version == 2) {
			t.Errorf("got %+v, want version %d", r, versions[r.ID])
		}
	}
}

// A version with another signature gets what its own V1 requests would be read as.
func TestVersionsWithDifferentSignatures(t *testing.T) {
	s := pair(t, nil, tensor.Int64, model.Settings{}, nil)
	split := canary(t, s.Registry, 2, .5)
	seen := map[string]int{}
	for i := range 30 {
		key := fmt.Sprint(i)
		want := map[int]string{0: `{"predictions":[5]}`, 2: `{"predictions":[-5]}`}[split.Choose(split.Point("m", []byte(key)))]
		a := s.Do(t, "POST", "/v1/models/m:predict", `{"instances":[5]}`, "Entity-Key: "+key)
		seen[want]++
		if a.Status != 200 || a.Body != want {
			t.Errorf("got %d %s, want %s", a.Status, a.Body, want)
		}
	}
	if len(seen) != 2 {
		t.Errorf("got %v", seen)
	}
}

// heldBack is a bucket in which one object is held back until the gate opens, and then given, or said to be gone.
type heldBack struct {
	store.Blob
	key  string
	open chan struct{}
}

func (g *heldBack) Get(ctx context.Context, key string, from, n int64) (io.ReadCloser, store.Object, error) {
	if key == g.key {
		select {
		case <-g.open:
		case <-ctx.Done():
			return nil, store.Object{}, ctx.Err()
		}
	}
	return g.Blob.Get(ctx, key, from, n)
}

// lost is a bucket that has lost all artifacts but one, also what a runtime has made of them.
type lost struct {
	store.Blob
	keep string
}

func (l *lost) Get(ctx context.Context, key string, from, n int64) (io.ReadCloser, store.Object, error) {
	if strings.HasPrefix(key, "artifacts/") && key != l.keep {
		return nil, store.Object{}, fault.New(fault.NotFound, "there is no %s", key)
	}
	return l.Blob.Get(ctx, key, from, n)
}

// No request waits for a canary that is not loaded, and none fails by one that can't be.
func TestACanaryThatIsNotLoaded(t *testing.T) {
	blob := newBlob(t)
	s := pair(t, blob, tensor.FP32, model.Settings{}, nil)
	split := canary(t, s.Registry, 2, .5)
	two, err := s.Registry.Manifest(t.Context(), "m", 2)
	if err != nil {
		t.Fatal(err)
	}
	key := ""
	for i := 0; key == ""; i++ {
		if k := fmt.Sprint(i); split.Choose(split.Point("m", []byte(k))) == 2 {
			key = k
		}
	}
	artifact := "artifacts/sha256/" + two.Digest.Hex()
	g := &heldBack{Blob: blob, key: artifact, open: make(chan struct{})}
	slow := predicttest.Start(t, g, nil)
	ask := func(s *predicttest.Server) int {
		t.Helper()
		return said(t, s.Do(t, "POST", "/v2/models/m/infer", numbers("5"), "Entity-Key: "+key))
	}
	for range 5 {
		if got := ask(slow); got != 1 {
			t.Errorf("got version %d while the canary is loaded", got)
		}
	}
	if state, _ := slow.Registry.Warm.State(two); state != model.Loading {
		t.Errorf("got state %v of the canary, want loading", state)
	}
	close(g.open)
	eventually(t, "the canary answers", func() bool { return ask(slow) == 2 })

	one, err := s.Registry.Manifest(t.Context(), "m", 1)
	if err != nil {
		t.Fatal(err)
	}
	broken := predicttest.Start(t, &lost{Blob: blob, keep: "artifacts/sha256/" + one.Digest.Hex()}, nil)
	eventually(t, "the canary fails to load", func() bool {
		if got := ask(broken); got != 1 {
			t.Fatalf("got version %d", got)
		}
		state, _ := broken.Registry.Warm.State(two)
		return state == model.Failed
	})
	if got := ask(broken); got != 1 {
		t.Errorf("got version %d", got)
	}
}

// A shadow is asked what was answered, by whatever protocol, in the words of its own signature; and what it says is logged under the same id.
func TestShadow(t *testing.T) {
	b := memBlob(t)
	s := pair(t, b, tensor.FP32, model.Settings{}, map[string]string{"PAYLOAD_LOG": "on", "PAYLOAD_EVERY": "20ms"})
	s.Push(t, "m", negative(tensor.FP64), model.Settings{}) // version 3
	warm(t, s, "m", 3)
	shadow := func(version int) {
		t.Helper()
		if _, err := s.Registry.Shadow(t.Context(), "m", model.Champion, model.Change{To: version}); err != nil {
			t.Fatal(err)
		}
	}
	c := dial(t, s)
	shadow(2)
	head := `{"id":"b","inputs":[{"name":"INPUT0","shape":[2],"datatype":"FP32","parameters":{"binary_data_size":8}}]}`
	asks := []predicttest.Answer{
		s.Do(t, "POST", "/v2/models/m/infer", numbers("1,2.5"), "X-Forwarded-For: 10.1.2.3"),
		s.Do(t, "POST", "/v2/models/m/infer", head+string(tensor.Raw([]float32{3, 4})), headerLength(len(head))),
		s.Do(t, "POST", "/v2/models/m/infer", string(tensor.Raw([]float32{5})), headerLength(0)),
		s.Do(t, "POST", "/v1/models/m:predict", `{"instances":[6]}`),
		s.Do(t, "POST", "/v1/models/m:predict", `{"instances":[7]}`, ce("e")...),
	}
	for _, a := range asks {
		answered(t, a, 200)
	}
	if _, err := c.call(t.Context(), t, "ModelInfer", `{"model_name":"m","id":"g","inputs":[{"name":"INPUT0","datatype":"FP32","shape":[1],"contents":{"fp32_contents":[8]}}]}`); err != nil {
		t.Fatal(err)
	}
	if a := s.Do(t, "POST", "/v2/models/m/infer", `{"inputs":[]}`); a.Status != 400 { // no answer: nothing to hold it against
		t.Errorf("got %d", a.Status)
	}
	logged(t, b, 17)
	shadow(3)
	answered(t, s.Do(t, "POST", "/v1/models/m:predict", `{"instances":[9]}`), 200) // which its own signature makes FP64
	answered(t, s.Do(t, "POST", "/v2/models/m/infer", numbers("10")), 200)         // which says that it is FP32
	rows := logged(t, b, 21)
	one, other := map[string]int{}, map[string]int{}
	for i, r := range rows {
		name := fmt.Sprint(r.ID, " ", r.Row)
		if r.Version == 1 {
			one[name] = i
		} else {
			other[name] = i
		}
	}
	if len(one) != 11 || len(other) != 10 {
		t.Fatalf("got %d and %d rows: %+v", len(one), len(other), rows)
	}
	for name, i := range other {
		mine, its := rows[one[name]], rows[i]
		if _, ok := one[name]; !ok {
			t.Errorf("the shadow was asked %s, which nobody answered", name)
		}
		if its.At != mine.At || its.Caller != mine.Caller || its.Inputs != mine.Inputs || its.Weight != mine.Weight || its.Digest == mine.Digest {
			t.Errorf("got %+v beside %+v", its, mine)
		}
		switch {
		case mine.Inputs == `{"INPUT0":10}`:
			if its.Kind != "invalid" || !strings.Contains(its.Error, "FP64") || its.Version != 3 {
				t.Errorf("got %+v", its)
			}
		case its.Kind != "" || strings.Replace(mine.Outputs, ":", ":-", 1) != its.Outputs:
			t.Errorf("got %+v beside %+v", its, mine)
		}
	}
	if a := s.Do(t, "GET", "/v2/models/m/versions/2/stats", ""); !strings.Contains(a.Body, `"inference_count":8`) {
		t.Errorf("got %s", a.Body)
	}
}

// A shadow is given the features of the same moment.
func TestAShadowWithFeatures(t *testing.T) {
	b := memBlob(t)
	s, _ := featuredOn(t, b, nil)
	s.Push(t, "numbers", onnxtest.Identity(tensor.Spec{Type: tensor.FP64, Shape: []int64{-1, 3}}).Bytes(), model.Settings{Features: "numbers"})
	warm(t, s, "numbers", 2)
	if _, err := s.Registry.Shadow(t.Context(), "numbers", model.Champion, model.Change{To: 2}); err != nil {
		t.Fatal(err)
	}
	ask := []string{in("driver", "BYTES", "[1]", `["d7"]`), in("hour", "INT64", "[1,1]", "[19]")}
	answered(t, s.Do(t, "POST", "/v2/models/numbers/infer", infer(featureTime.Add(time.Minute), ask...)), 200)
	answered(t, s.Do(t, "POST", "/v2/models/numbers/infer", infer(time.Time{}, ask...)), 200) // now, which is long after
	rows := logged(t, b, 4)
	byID := map[string][]payload.Row{}
	for _, r := range rows {
		byID[r.ID] = append(byID[r.ID], r)
	}
	for _, both := range byID {
		if len(both) != 2 || both[0].Version == both[1].Version || both[0].At != both[1].At || both[0].Features != both[1].Features || both[0].FeatureTimes != both[1].FeatureTimes || both[0].Outputs != both[1].Outputs {
			t.Errorf("got %+v", both)
		}
	}
}

// Of what is not kept nothing is asked, and the share that is kept is the answer's.
func TestShadowsOfASample(t *testing.T) {
	b := memBlob(t)
	s := pair(t, b, tensor.FP32, model.Settings{Log: model.Log{Sample: .5}}, map[string]string{"PAYLOAD_LOG": "on", "PAYLOAD_EVERY": "20ms"})
	s.Push(t, "m", negative(tensor.FP32), model.Settings{}) // version 3, of which all is kept, and has the file of version 2
	if _, err := s.Registry.Shadow(t.Context(), "m", model.Champion, model.Change{To: 3}); err != nil {
		t.Fatal(err)
	}
	kept := 0
	for range 40 {
		a := s.Do(t, "POST", "/v2/models/m/infer", numbers("1"))
		answered(t, a, 200)
		if a.Header.Get("Prediction-Id") != "" {
			kept++
		}
	}
	if kept == 0 || kept == 40 {
		t.Fatalf("%d of 40 were kept", kept)
	}
	for _, r := range logged(t, b, 2*kept) {
		if r.Weight != 2 {
			t.Errorf("got %+v", r)
		}
	}
}

// Where no CPU is left over for shadows requests wait for them, then are dropped, and counted, and answered all the same.
func TestShadowsWithoutACPU(t *testing.T) {
	const asked = 40
	collector := telemetrytest.NewCollector(t)
	b := memBlob(t)
	t.Run("server", func(t *testing.T) {
		s := pair(t, b, tensor.FP32, model.Settings{Cache: model.Cache{TTL: model.Duration(time.Hour)}}, map[string]string{
			"PAYLOAD_LOG": "on", "PAYLOAD_EVERY": "20ms", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL, "QUEUE_RUNS": "1", "CACHE_CHECK": "0",
		})
		answered(t, s.Do(t, "POST", "/v2/models/m/infer", numbers("5")), 200) // and is remembered: it takes no run any more
		s.Push(t, "slow", onnxtest.Slow().Bytes(), model.Settings{Log: model.Log{Off: true}})
		warm(t, s, "slow", 1)
		if _, err := s.Registry.Shadow(t.Context(), "m", model.Champion, model.Change{To: 2}); err != nil {
			t.Fatal(err)
		}
		// The only run that there may be is taken until its caller leaves.
		ctx, leave := context.WithCancel(t.Context())
		var busy sync.WaitGroup
		defer busy.Wait()
		defer leave()
		head := `{"inputs":[{"name":"X","shape":[256,256],"datatype":"FP32","parameters":{"binary_data_size":262144}},{"name":"TIMES","shape":[],"datatype":"INT64","data":[100000]}]}`
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+"/v2/models/slow/infer", strings.NewReader(head+string(make([]byte, 262144))))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Inference-Header-Content-Length", strconv.Itoa(len(head)))
		busy.Go(func() {
			if w, err := http.DefaultClient.Do(r); err == nil {
				w.Body.Close()
				t.Errorf("it ended by itself: %s", w.Status)
			}
		})
		time.Sleep(50 * time.Millisecond)
		body := numbers("5") + strings.Repeat(" ", 1<<20) // of which fifteen fit the queue
		for range asked {
			answered(t, s.Do(t, "POST", "/v2/models/m/infer", body), 200)
		}
		leave()
		eventually(t, "what waited is asked", func() bool {
			return strings.Contains(s.Do(t, "GET", "/v2/models/m/versions/2/stats", "").Body, `"success":{"count":1`)
		})
	})
	sums := map[string]int64{}
	m := collector.Metric("pilotlight.shadow.requests")
	if m == nil {
		t.Fatal("nothing was counted")
	}
	for _, p := range m.GetSum().GetDataPoints() {
		for _, a := range p.Attributes {
			if a.Key == "result" {
				sums[a.Value.GetStringValue()] += p.GetAsInt()
			}
		}
	}
	if sums["asked"]+sums["dropped"] != asked || sums["dropped"] < asked/4 || sums["asked"] == 0 {
		t.Errorf("got %v of %d", sums, asked)
	}
	logged(t, b, 1+asked+int(sums["asked"]))
}

// The registry's administration, as the client has it.
func TestSplitsByHTTP(t *testing.T) {
	s := pair(t, nil, tensor.FP32, model.Settings{}, nil)
	s.Push(t, "m", negative(tensor.FP64), model.Settings{})
	const alias = "/admin/v1/models/m/aliases/champion"
	for _, step := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"PUT", "/canaries/2", `{"share":0.25,"by":"me","why":"try","seen":1}`, 200, `"after":{"canaries":[{"version":2,"share":0.25}],"since":2}`},
		{"PUT", "/canaries/2", `{"share":0.5,"seen":1}`, 409, `was last moved by move 2, not 1 as expected`},
		{"PUT", "/canaries/2", `{"share":0.5,"expect":2}`, 409, `names version 1, not 2`},
		{"PUT", "/canaries/2", `{"share":1}`, 400, `promote it`},
		{"PUT", "/canaries/2", `{}`, 400, `the share is 0`},
		{"PUT", "/canaries/2", `{"share":"10%"}`, 400, `share`},
		{"PUT", "/canaries/2", `{"share":0.1,"version":3}`, 400, `version is 3 in the body and 2 in the path`},
		{"PUT", "/canaries/two", `{"share":0.1}`, 400, `\"two\" is not the number of a version`},
		{"PUT", "/canaries/-2", `{"share":0.1}`, 400, `is not the number`},
		{"PUT", "/canaries/9", `{"share":0.1}`, 404, `no version 9`},
		{"PUT", "/shadow", `{}`, 400, `version is 0`},
		{"PUT", "/shadow", `{"version":2}`, 400, `answers alias`},
		{"PUT", "/shadow", `{"version":3}`, 200, `"after":{"canaries":[{"version":2,"share":0.25}],"shadow":3,"since":2}`},
		{"POST", "/promote", `{"version":3}`, 409, `no canary 3`},
		{"POST", "/promote", ``, 200, `"from":1,"to":2`},
		{"POST", "/rollback", ``, 200, `"from":2,"to":1`},
		{"DELETE", "/canaries/2", ``, 200, `"seq":0`}, // there is none
		{"PUT", "/canaries/2", `{"share":0.25}`, 200, `"since":6`},
		{"DELETE", "/canaries/2", ``, 200, `"before":{"canaries":[{"version":2,"share":0.25}],"since":6}`},
		{"PUT", "/shadow", `{"version":3}`, 200, `"after":{"shadow":3}`},
		{"DELETE", "/shadow", ``, 200, `"before":{"shadow":3}`},
		{"PUT", "/canaries/3", `{"share":0.125}`, 200, `"seq":10`},
	} {
		if a := s.Do(t, step.method, alias+step.path, step.body); a.Status != step.status || !strings.Contains(a.Body, step.want) {
			t.Fatalf("%s %s %s: got %d %s, want %d %s", step.method, step.path, step.body, a.Status, a.Body, step.status, step.want)
		}
	}
	for _, path := range []string{"/admin/v1/models", "/admin/v1/models/m"} {
		if a := s.Do(t, "GET", path, ""); !strings.Contains(a.Body, `"splits":{"champion":{"canaries":[{"version":3,"share":0.125}],"since":10}}`) {
			t.Errorf("%s: got %s", path, a.Body)
		}
	}
}

// hinted has the events of here reach others as a broker brings them.
func hinted(t *testing.T, events heard, others ...*process) {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		for {
			select {
			case e := <-events:
				if e.Type() != event.AliasMoved.Name {
					continue
				}
				for _, o := range others {
					if err := o.events.Handle(ctx, &e); err != nil && ctx.Err() == nil {
						t.Error(err)
					}
				}
			case <-ctx.Done():
				return
			}
		}
	})
	t.Cleanup(func() { cancel(); done.Wait() })
}

// Under load an alias goes from one version to a split and on to the other; no request fails, in the process that does it and in another.
func TestNoRequestFailsAsAnAliasMoves(t *testing.T) {
	blob := newBlob(t)
	events := make(heard, 1000)
	here, there := member(t, blob, events), member(t, blob, nil)
	hinted(t, events, there)
	for _, file := range [][]byte{onnxtest.Identity(spec(tensor.FP32, -1)).Bytes(), negative(tensor.FP32)} {
		if _, err := here.Push(t.Context(), model.Push{Name: "m"}, bytes.NewReader(file)); err != nil {
			t.Fatal(err)
		}
	}
	processes := []*process{here, there}
	var split atomic.Pointer[model.Split] // what is moved away from: who was in its canary is not moved
	var first [2]atomic.Int64             // when a process first had version 2 answer somebody who is moved
	var asked, moved [2]atomic.Int64
	begin := time.Now()
	stop := make(chan struct{})
	var load sync.WaitGroup
	end := sync.OnceFunc(func() {
		close(stop)
		load.Wait()
	})
	t.Cleanup(end)
	for worker := range 4 {
		at := worker % 2
		load.Go(func() {
			random := rand.New(rand.NewPCG(uint64(worker), 2))
			for {
				select {
				case <-stop:
					return
				default:
				}
				key := strconv.Itoa(random.IntN(100))
				r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v2/models/m/infer", strings.NewReader(numbers("5")))
				r.Header.Set("Entity-Key", key)
				w := httptest.NewRecorder()
				processes[at].api.ServeHTTP(w, r)
				var got struct {
					Version string `json:"model_version"`
				}
				if err := json.Unmarshal(w.Body.Bytes(), &got); w.Code != http.StatusOK || err != nil {
					t.Errorf("got %d %s", w.Code, w.Body)
					return
				}
				asked[at].Add(1)
				if s := split.Load(); got.Version == "2" && (s == nil || s.Choose(s.Point("m", []byte(key))) == 0) {
					moved[at].Add(1)
					first[at].CompareAndSwap(0, int64(time.Since(begin)))
				}
			}
		})
	}
	// settled waits until no process has version 2 answer anybody who is not due to be.
	settled := func() {
		t.Helper()
		for at := range processes {
			eventually(t, "version 1 answers alone", func() bool {
				n, before := asked[at].Load(), moved[at].Load()
				eventually(t, "requests come", func() bool { return asked[at].Load() >= n+100 || t.Failed() })
				return moved[at].Load() == before || t.Failed()
			})
		}
	}
	step := func(what string, do func() (model.Move, error)) {
		t.Helper()
		settled()
		for at := range first {
			first[at].Store(0)
		}
		at := time.Since(begin)
		if _, err := do(); err != nil {
			t.Error(err)
			return
		}
		eventually(t, what+": both are answered by the new version", func() bool { return first[0].Load() > 0 && first[1].Load() > 0 || t.Failed() })
		t.Logf("%s: first answer of the new version after %s, in another process after %s", what, time.Duration(first[0].Load())-at, time.Duration(first[1].Load())-at)
	}
	step("canary", func() (model.Move, error) {
		return here.Canary(t.Context(), "m", model.Champion, .3, model.Change{To: 2})
	})
	_, now, err := here.Route(t.Context(), model.Ref{Name: "m"})
	if err != nil || now == nil {
		t.Fatal(err)
	}
	split.Store(now)
	step("promote", func() (model.Move, error) {
		return here.Promote(t.Context(), "m", model.Champion, model.Change{})
	})
	split.Store(nil)
	if _, err := here.Rollback(t.Context(), "m", model.Champion, model.Change{}); err != nil {
		t.Error(err)
	}
	step("move", func() (model.Move, error) {
		return here.Move(t.Context(), "m", model.Champion, model.Change{To: 2})
	})
	end()
	t.Logf("%d requests", asked[0].Load()+asked[1].Load())
}

// The event of a split has the canary loaded where the alias is in use, before anybody is sent to it.
func TestACanaryIsLoadedWhenItIsTold(t *testing.T) {
	blob := newBlob(t)
	here, there := member(t, blob, nil), member(t, blob, nil)
	here.push(t, 1, 2, 3)
	if w := there.ask(t, "m"); w.Code != http.StatusOK {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	if _, err := here.Canary(t.Context(), "m", model.Champion, .1, model.Change{To: 2}); err != nil {
		t.Fatal(err)
	}
	if _, err := here.Shadow(t.Context(), "m", model.Champion, model.Change{To: 3}); err != nil {
		t.Fatal(err)
	}
	told := event.AliasMoved.New(event.Moved{Model: "m", Alias: model.Champion, Seq: 3, From: 1, To: 1, Shadow: 3, At: time.Now()})
	if status := there.hint(t, told); status != http.StatusAccepted {
		t.Fatalf("got %d", status)
	}
	for version := 2; version <= 3; version++ {
		m, err := there.Manifest(t.Context(), "m", version)
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, fmt.Sprintf("version %d is loaded", version), func() bool {
			state, _ := there.Warm.State(m)
			return state == model.Ready
		})
	}
}

// ask asks for a prediction as a caller does.
func (m *process) ask(t *testing.T, name string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	body := `{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[1],"data":[1]}]}`
	m.api.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v2/models/"+name+"/infer", strings.NewReader(body)))
	return w
}

// BenchmarkSplit asks a whole server by an alias that names one version, and by one with a canary or a shadow beside it.
func BenchmarkSplit(b *testing.B) {
	blob := newBlob(b)
	s := pair(b, blob, tensor.FP32, model.Settings{}, map[string]string{"PAYLOAD_LOG": "on"})
	body := numbers("1,2,3,4,5,6,7,8")
	ask := func(b *testing.B) {
		client := &http.Client{Transport: &http.Transport{}}
		defer client.CloseIdleConnections()
		b.ReportAllocs()
		for b.Loop() {
			r, err := http.NewRequestWithContext(b.Context(), "POST", s.URL+"/v2/models/m/infer", strings.NewReader(body))
			if err != nil {
				b.Fatal(err)
			}
			r.Header.Set("Entity-Key", "customer-7")
			w, err := client.Do(r)
			if err != nil {
				b.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, w.Body)
			if err := w.Body.Close(); err != nil || w.StatusCode != http.StatusOK {
				b.Fatal(w.Status, err)
			}
		}
	}
	b.Run("alone", ask)
	canary(b, s.Registry, 2, .5)
	b.Run("canary", ask)
	if _, err := s.Registry.Rollback(b.Context(), "m", model.Champion, model.Change{}); err != nil {
		b.Fatal(err)
	}
	if _, err := s.Registry.Shadow(b.Context(), "m", model.Champion, model.Change{To: 2}); err != nil {
		b.Fatal(err)
	}
	b.Run("shadow", ask)
}
