package predict_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/oip"
	"github.com/pilotlight-ml/pilotlight/internal/predict/predicttest"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

func TestServerTellsOfItself(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	for _, path := range []string{"/v2", "/v2/"} {
		a := s.Do(t, "GET", path, "")
		var server oip.ServerMetadata
		if err := json.Unmarshal([]byte(a.Body), &server); err != nil || a.Status != 200 || a.Header.Get("Content-Type") != "application/json" {
			t.Fatalf("%s: got %d %s", path, a.Status, a.Body)
		}
		extensions := []string{"binary_tensor_data", "model_repository", "model_configuration", "statistics"}
		if server.Name != "pilotlight" || server.Version == "" || !slices.Equal(server.Extensions, extensions) {
			t.Errorf("%s: got %+v", path, server)
		}
	}
	want(t, s.Do(t, "GET", "/v2/health/live", ""), 200, `{"live":true}`)
	want(t, s.Do(t, "GET", "/v2/health/ready", ""), 200, `{"ready":true}`)
	want(t, s.Do(t, "GET", "/v2/models", ""), 200, `{"models":[]}`)
	want(t, s.Do(t, "GET", "/v2/models/stats", ""), 200, `{"model_stats":[]}`)
	want(t, s.Do(t, "POST", "/v2/repository/index", ""), 200, `[]`)
	want(t, s.Do(t, "GET", "/admin/v1/models", ""), 200, `{"models":[]}`)
}

func TestModelsTellOfThemselves(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	s.Push(t, "m", onnxtest.Identity(spec(tensor.Bytes, -1, 2), spec(tensor.FP16, 3)).Bytes(), model.Settings{Batching: model.Batching{MaxRows: 32}})
	s.Push(t, "m", onnxtest.NonZero().Bytes(), model.Settings{})
	const metadata = `{"name":"m","versions":["1","2"],"platform":"onnxruntime_onnx",` +
		`"inputs":[{"name":"INPUT0","datatype":"BYTES","shape":[-1,2]},{"name":"INPUT1","datatype":"FP16","shape":[3]}],` +
		`"outputs":[{"name":"OUTPUT0","datatype":"BYTES","shape":[-1,2]},{"name":"OUTPUT1","datatype":"FP16","shape":[3]}]}`
	for _, path := range []string{"/v2/models/m", "/v2/models/m/versions/1", "/v2/models/m/versions/champion"} {
		want(t, s.Do(t, "GET", path, ""), 200, metadata)
		want(t, s.Do(t, "GET", path+"/ready", ""), 200, `{"name":"m","ready":true}`)
		want(t, s.Do(t, "GET", path+"/config", ""), 200, `{"name":"m","platform":"onnxruntime_onnx","backend":"onnx","max_batch_size":32,`+
			`"input":[{"name":"INPUT0","data_type":"TYPE_STRING","dims":[2]},{"name":"INPUT1","data_type":"TYPE_FP16","dims":[]}],`+
			`"output":[{"name":"OUTPUT0","data_type":"TYPE_STRING","dims":[2]},{"name":"OUTPUT1","data_type":"TYPE_FP16","dims":[]}]}`)
	}
	want(t, s.Do(t, "GET", "/v2/models/m/versions/2", ""), 200, `{"name":"m","versions":["1","2"],"platform":"onnxruntime_onnx",`+
		`"inputs":[{"name":"X","datatype":"FP32","shape":[-1]}],"outputs":[{"name":"Y","datatype":"INT64","shape":[1,-1]}]}`)
	want(t, s.Do(t, "GET", "/v2/models/m/versions/2/config", ""), 200, `{"name":"m","platform":"onnxruntime_onnx","backend":"onnx","max_batch_size":0,`+
		`"input":[{"name":"X","data_type":"TYPE_FP32","dims":[-1]}],"output":[{"name":"Y","data_type":"TYPE_INT64","dims":[1,-1]}]}`)
	for _, what := range []string{"", "/ready", "/config", "/stats"} {
		wantError(t, s.Do(t, "GET", "/v2/models/none"+what, ""), 404, `model "none" does not exist`)
		wantError(t, s.Do(t, "GET", "/v2/models/m/versions/3"+what, ""), 404, `model "m" has no version 3`)
		wantError(t, s.Do(t, "GET", "/v2/models/m/versions/x"+what, ""), 404, `model "m" has no version or alias "x"`)
	}
}

func TestUnknownPathsAndMethods(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	for _, test := range []struct {
		method, path string
		status       int
		sentence     string
	}{
		{"GET", "/v1", 404, "there is nothing at /v1"},
		{"GET", "/v3", 404, "there is nothing at /v3"},
		{"GET", "/v2/models/", 404, "there is nothing at /v2/models/"},
		{"POST", "/v2/models/m/generate", 404, "there is nothing at /v2/models/m/generate"},
		{"POST", "/v2/models/m/versions/infer", 405, "POST is not a method of /v2/models/m/versions/infer"},
		{"POST", "/v2/models/m/infer/", 404, "there is nothing at /v2/models/m/infer/"},
		{"GET", "/v2/systemsharedmemory/status", 404, "there is nothing at /v2/systemsharedmemory/status"},
		{"GET", "/admin/v1", 404, "there is nothing at /admin/v1"},
		{"GET", "/v2/models/m/infer", 405, "GET is not a method of /v2/models/m/infer"},
		{"PUT", "/v2/models/m/infer", 405, "PUT is not a method of /v2/models/m/infer"},
		{"DELETE", "/v2/models/m", 405, "DELETE is not a method of /v2/models/m"},
		{"POST", "/v2", 405, "POST is not a method of /v2"},
		{"GET", "/v2/repository/index", 405, "GET is not a method of /v2/repository/index"},
		{"PATCH", "/admin/v1/models/m/aliases/a", 405, "PATCH is not a method of /admin/v1/models/m/aliases/a"},
		{"BREW", "/v2", 405, "BREW is not a method of /v2"},
		{"GET", "/" + strings.Repeat("a", 10000), 404, "there is nothing at /" + strings.Repeat("a", 199)},
	} {
		wantError(t, s.Do(t, test.method, test.path, ""), test.status, test.sentence)
	}
	if a := s.Do(t, "HEAD", "/v2/health/live", ""); a.Status != 200 || a.Body != "" {
		t.Errorf("HEAD: got %d %q", a.Status, a.Body)
	}
}

// index asks for the repository's index.
func index(t *testing.T, s *predicttest.Server, body string) []oip.IndexEntry {
	t.Helper()
	a := s.Do(t, "POST", "/v2/repository/index", body)
	var entries []oip.IndexEntry
	if err := json.Unmarshal([]byte(a.Body), &entries); err != nil || a.Status != 200 {
		t.Fatalf("got %d %s", a.Status, a.Body)
	}
	return entries
}

func TestRepository(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	s.Push(t, "a", onnxtest.NonZero().Bytes(), model.Settings{})
	s.Push(t, "b", onnxtest.Simple(-1).Bytes(), model.Settings{})
	s.Push(t, "b", onnxtest.Simple(4).Bytes(), model.Settings{})
	cold := func(name string) oip.IndexEntry {
		return oip.IndexEntry{Name: name, Version: "1", State: oip.StateUnavailable, Reason: "not loaded yet: the first request loads it"}
	}
	ready := func(name, version string) oip.IndexEntry {
		return oip.IndexEntry{Name: name, Version: version, State: oip.StateReady}
	}
	check := func(body string, want ...oip.IndexEntry) {
		t.Helper()
		if got := index(t, s, body); !slices.Equal(got, want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
	}
	want(t, s.Do(t, "GET", "/v2/models", ""), 200, `{"models":["a","b"]}`)
	check("", cold("a"), cold("b"))
	check(`{"ready":false}`, cold("a"), cold("b"))
	check(`{"ready":true}`)

	want(t, s.Do(t, "POST", "/v2/repository/models/a/load", ""), 200, `{}`)
	check(`{}`, ready("a", "1"), cold("b"))
	check(`{"ready":true}`, ready("a", "1"))
	want(t, s.Do(t, "POST", "/v2/repository/models/b/load", `{"parameters":{}}`), 200, `{}`)
	want(t, s.Do(t, "POST", "/v2/models/b/versions/2/infer", strings.ReplaceAll(simple(4), "[1,16]", "[4,16]")), 200, answerOfSimple("b", "2", 4))
	check(" ", ready("a", "1"), ready("b", "1"), ready("b", "2"))

	want(t, s.Do(t, "POST", "/v2/repository/models/a/unload", `{"parameters":{"unload_dependents":true}}`), 200, `{}`)
	want(t, s.Do(t, "GET", "/v2/models/a/ready", ""), 503, `{"name":"a","ready":false}`)
	check("", oip.IndexEntry{Name: "a", Version: "1", State: oip.StateUnavailable, Reason: "unloaded"}, ready("b", "1"), ready("b", "2"))
	want(t, s.Do(t, "POST", "/v2/repository/models/a/unload", ""), 200, `{}`) // again changes nothing
	want(t, s.Do(t, "POST", "/v2/repository/models/a/load", ""), 200, `{}`)
	want(t, s.Do(t, "GET", "/v2/models/a/ready", ""), 200, `{"name":"a","ready":true}`)

	// A request loads what was unloaded.
	want(t, s.Do(t, "POST", "/v2/repository/models/a/unload", ""), 200, `{}`)
	if a := s.Do(t, "POST", "/v2/models/a/infer", floats("1")); a.Status != 200 {
		t.Errorf("got %d %s", a.Status, a.Body)
	}
	want(t, s.Do(t, "GET", "/v2/models/a/ready", ""), 200, `{"name":"a","ready":true}`)

	for _, what := range []string{"load", "unload"} {
		wantError(t, s.Do(t, "POST", "/v2/repository/models/none/"+what, ""), 404, `model "none" does not exist`)
	}
	wantError(t, s.Do(t, "POST", "/v2/repository/models/a/load", `{"parameters":{"config":"{}"}}`), 400,
		`parameter "config" can't be given to a load: models and their settings come from the registry (POST /admin/v1/models/{model}/versions)`)
	wantError(t, s.Do(t, "POST", "/v2/repository/index", `{`), 400, `the body is not the JSON expected here: unexpected end of JSON input`)
	wantError(t, s.Do(t, "POST", "/v2/repository/index", `{"ready":"yes"}`), 400, `the body is not the JSON expected here: ready must be a boolean, not string`)
}

// answerOfSimple is the answer to simple(rows).
func answerOfSimple(name, version string, rows int) string {
	all := func(v string) string { return strings.TrimSuffix(strings.Repeat(v+",", 16*rows), ",") }
	return fmt.Sprintf(`{"model_name":%q,"model_version":%q,"outputs":[{"name":"OUTPUT0","datatype":"INT32","shape":[%d,16],"data":[%s]},`+
		`{"name":"OUTPUT1","datatype":"INT32","shape":[%d,16],"data":[%s]}]}`, name, version, rows, all("2"), rows, all("0"))
}

// stats asks for the statistics of what path names.
func stats(t *testing.T, s *predicttest.Server, path string) []oip.ModelStatistics {
	t.Helper()
	a := s.Do(t, "GET", path, "")
	var all oip.Statistics
	if err := json.Unmarshal([]byte(a.Body), &all); err != nil || a.Status != 200 {
		t.Fatalf("got %d %s", a.Status, a.Body)
	}
	return all.Models
}

func TestStatistics(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	s.Push(t, "simple", onnxtest.Simple(-1).Bytes(), model.Settings{})
	s.Push(t, "simple", onnxtest.Simple(2).Bytes(), model.Settings{})
	s.Push(t, "other", onnxtest.NonZero().Bytes(), model.Settings{})
	fresh := stats(t, s, "/v2/models/simple/stats")
	if len(fresh) != 1 || fresh[0].Name != "simple" || fresh[0].Version != "1" || fresh[0].LastInference != 0 || fresh[0].InferenceCount != 0 || fresh[0].Batches == nil {
		t.Errorf("got %+v before the first request", fresh)
	}
	begin := time.Now().UnixMilli()
	for _, rows := range []int{1, 2, 2, 7} {
		want(t, s.Do(t, "POST", "/v2/models/simple/infer", simple(rows)), 200, answerOfSimple("simple", "1", rows))
	}
	want(t, s.Do(t, "POST", "/v2/models/simple/versions/2/infer", simple(2)), 200, answerOfSimple("simple", "2", 2))
	for range 3 { // these the version could not answer
		if a := s.Do(t, "POST", "/v2/models/simple/infer", input0("[1,16]", "INT32", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]")); a.Status != 400 {
			t.Errorf("got %d %s", a.Status, a.Body)
		}
	}
	end := time.Now().UnixMilli()

	got := stats(t, s, "/v2/models/simple/versions/1/stats")[0]
	if got.LastInference < begin || got.LastInference > end {
		t.Errorf("last inference at %d, not within %d and %d", got.LastInference, begin, end)
	}
	if got.InferenceCount != 12 || got.ExecutionCount != 4 {
		t.Errorf("got %d rows in %d runs, want 12 in 4", got.InferenceCount, got.ExecutionCount)
	}
	i := got.Inference
	for _, c := range []struct {
		name      string
		got, want uint64
	}{
		{"success", i.Success.Count, 4},
		{"fail", i.Fail.Count, 3},
		{"queue", i.Queue.Count, 4},
		{"compute_input", i.ComputeInput.Count, 4},
		{"compute_infer", i.ComputeInfer.Count, 4},
		{"compute_output", i.ComputeOutput.Count, 4},
		{"cache_hit", i.CacheHit.Count, 0},
		{"cache_miss", i.CacheMiss.Count, 0},
	} {
		if c.got != c.want {
			t.Errorf("%s counts %d, want %d", c.name, c.got, c.want)
		}
	}
	var sizes []string
	for _, b := range got.Batches {
		sizes = append(sizes, fmt.Sprintf("%d: %d %d %d", b.Size, b.ComputeInput.Count, b.ComputeInfer.Count, b.ComputeOutput.Count))
	}
	if want := []string{"1: 1 1 1", "2: 2 2 2", "7: 1 1 1"}; !slices.Equal(sizes, want) {
		t.Errorf("got batches %q, want %q", sizes, want)
	}

	// A model whose rows are fixed answers one at a time, whatever their shape.
	if got := stats(t, s, "/v2/models/simple/versions/2/stats")[0]; got.InferenceCount != 1 || got.ExecutionCount != 1 {
		t.Errorf("got %d rows in %d runs, want 1 in 1", got.InferenceCount, got.ExecutionCount)
	}
	var names []string
	for _, m := range stats(t, s, "/v2/models/stats") {
		names = append(names, m.Name+":"+m.Version)
	}
	if want := []string{"simple:1", "simple:2"}; !slices.Equal(names, want) {
		t.Errorf("got statistics of %q, want %q", names, want)
	}
}

// However many sizes of batch callers use, few are told apart.
func TestStatisticsAreBounded(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	s.Push(t, "x", onnxtest.Identity(spec(tensor.Uint8, -1)).Bytes(), model.Settings{})
	for n := range 100 {
		if a := s.Do(t, "POST", "/v2/models/x/infer", strings.Repeat("x", n), headerLength(0)); a.Status != 200 {
			t.Fatalf("got %d %s", a.Status, a.Body)
		}
	}
	got := stats(t, s, "/v2/models/x/stats")[0]
	if len(got.Batches) != 64 || got.ExecutionCount != 100 || got.InferenceCount != 99*100/2 {
		t.Errorf("got %d sizes, %d runs, %d rows; want 64, 100, %d", len(got.Batches), got.ExecutionCount, got.InferenceCount, 99*100/2)
	}
}
