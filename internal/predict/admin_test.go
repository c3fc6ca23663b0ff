package predict_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"mime/multipart"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/onnxwire"
	"github.com/pilotlight-ml/pilotlight/internal/predict"
	"github.com/pilotlight-ml/pilotlight/internal/predict/predicttest"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

func newBlob(t testing.TB) store.Blob {
	t.Helper()
	b, err := memstore.OpenBlob(t.Context(), &url.URL{Scheme: "mem"})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// keys lists what a bucket holds.
func keys(t *testing.T, b store.Blob) []string {
	t.Helper()
	var all []string
	for o, err := range b.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, o.Key)
	}
	return all
}

// files lists what lies in a folder, at any depth.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// form makes a multipart form of name and content in turns, and its Content-Type.
func form(t testing.TB, parts ...string) (body, header string) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for i := 0; i < len(parts); i += 2 {
		p, err := w.CreateFormFile(parts[i], parts[i])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Write([]byte(parts[i+1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String(), "Content-Type: " + w.FormDataContentType()
}

// read decodes an answer that must be a success.
func read[T any](t *testing.T, a predicttest.Answer, status int) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(a.Body), &v); err != nil || a.Status != status {
		t.Fatalf("got %d %s, want %d", a.Status, a.Body, status)
	}
	return v
}

func TestPushOfAFileAlone(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	file := onnxtest.Simple(-1).Bytes()
	begin := time.Now().Add(-time.Second)
	for version := 1; version <= 2; version++ { // the same file again is another version
		a := s.Do(t, "POST", "/admin/v1/models/simple/versions", string(file), "Content-Type: application/x-www-form-urlencoded") // as curl says
		m := read[model.Manifest](t, a, 201)
		location := fmt.Sprintf("/admin/v1/models/simple/versions/%d", version)
		if got := a.Header.Get("Location"); got != location {
			t.Errorf("Location is %q, want %q", got, location)
		}
		if m.Name != "simple" || m.Version != version || m.Runtime != "onnx" || m.Size != int64(len(file)) || m.CreatedAt.Before(begin) {
			t.Errorf("got %s", a.Body)
		}
		if in, out := len(m.Signature.Inputs), len(m.Signature.Outputs); in != 2 || out != 2 {
			t.Errorf("got %d inputs and %d outputs, want 2 and 2", in, out)
		}
		want(t, s.Do(t, "GET", location, ""), 200, strings.TrimSpace(a.Body))
	}
	// The first became champion, the second waits.
	want(t, s.Do(t, "POST", "/v2/models/simple/infer", simple(1)), 200, answerOfSimple("simple", "1", 1))
}

func TestPushOfAForm(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	const settings = `{"threads":2,"batching":{"max_rows":64},"cache":{"ttl":"1m30s"},"labels":{"commit":"4f2c1e","auc":"0.9"},"runtime":"onnx",` +
		`"by":"somebody","alias":"shadow","warmup":{"runs":3,"sample":{"inputs":[{"name":"X","shape":[2],"datatype":"FP32","data":[0,1]}]}}}`
	body, kind := form(t, "settings", settings, "model", string(onnxtest.NonZero().Bytes()))
	m := read[model.Manifest](t, s.Do(t, "POST", "/admin/v1/models/m/versions", body, kind), 201)
	if m.Threads != 2 || m.Batching.MaxRows != 64 || time.Duration(m.Cache.TTL) != 90*time.Second || m.Warmup.Runs != 3 || m.CreatedBy != "somebody" ||
		!maps.Equal(m.Labels, map[string]string{"commit": "4f2c1e", "auc": "0.9"}) || !strings.Contains(string(m.Warmup.Sample), `"data":[0,1]`) {
		t.Errorf("got %+v", m)
	}
	d := read[predict.ModelDetail](t, s.Do(t, "GET", "/admin/v1/models/m", ""), 200)
	if want := map[string]int{"champion": 1, "shadow": 1}; !maps.Equal(d.Current, want) {
		t.Errorf("got aliases %v, want %v", d.Current, want)
	}
	if len(d.History) != 2 || d.History[0].Why != "first version" || d.History[1].Alias != "shadow" || d.History[1].By != "somebody" || d.History[1].Why != "pushed" {
		t.Errorf("got %+v", d.History)
	}
	// A form without settings.
	body, kind = form(t, "model", string(onnxtest.NonZero().Bytes()))
	if m := read[model.Manifest](t, s.Do(t, "POST", "/admin/v1/models/m/versions", body, kind), 201); m.Version != 2 || m.Threads != 0 {
		t.Errorf("got %+v", m)
	}
	if a := s.Do(t, "POST", "/v2/models/m/versions/shadow/infer", floats("1")); a.Status != 200 || !strings.Contains(a.Body, `"model_version":"1"`) {
		t.Errorf("got %d %s", a.Status, a.Body)
	}
}

// Whatever is wrong with a push, it leaves nothing in the bucket and on the disk.
func TestRefusedPushes(t *testing.T) {
	blob, cache := newBlob(t), t.TempDir()
	s := predicttest.Start(t, blob, map[string]string{"MODEL_CACHE_DIR": cache, "MAX_UPLOAD": "1MiB"})
	good := string(onnxtest.NonZero().Bytes())
	x, y := []onnxwire.Value{onnxwire.Tensor("X", tensor.FP32, -1)}, []onnxwire.Value{onnxwire.Tensor("Y", tensor.FP32, -1)}
	future := onnxtest.Apply("Neg", x, y)
	future.Opset = 99
	with := func(settings string) []string { return []string{"settings", settings, "model", good} }
	for _, test := range []struct {
		name, model string
		file        string
		parts       []string // of a form, in place of the file alone
		status      int
		sentence    string // or its beginning, with … at the end
	}{
		{"nothing", "m", "", nil, 400, "the model file is empty"},
		{"an empty part", "m", "", []string{"model", ""}, 400, "the model file is empty"},
		{"garbage", "m", "this is not a model", nil, 400, "the file is not an ONNX model…"},
		{"zeros", "m", strings.Repeat("\x00", 1000), nil, 400, "the file is not an ONNX model…"},
		{"a picture", "m", "\x89PNG\r\n\x1a\n" + strings.Repeat("\x00", 100), nil, 400, "the file is not an ONNX model…"},
		{"HTML", "m", "<!DOCTYPE html><html></html>", nil, 400, "the file is not an ONNX model…"},
		{"half a model", "m", good[:len(good)/2], nil, 400, "…"},
		{"all but a byte", "m", good[:len(good)-1], nil, 400, "…"},
		{"an opset of the future", "m", string(future.Bytes()), nil, 400, "the model is written for opset 99 of ai.onnx, ONNX Runtime knows them up to 26"},
		{"an unknown operation", "m", string(onnxtest.Apply("Frobnicate", x, y).Bytes()), nil, 400, "ONNX Runtime cannot open the model: Frobnicate: No Op registered for Frobnicate with domain_version of 18"},
		{"weights elsewhere", "m", string(onnxtest.Elsewhere("weights.bin").Bytes()), nil, 400, "the model keeps weights in other files; save it as one file with all its weights inside"},
		{"weights in a foreign file", "m", string(onnxtest.Elsewhere("/etc/passwd").Bytes()), nil, 400, "the model keeps weights in other files; save it as one file with all its weights inside"},
		{"too large", "m", strings.Repeat("x", 1<<20+1), nil, 413, "the body is larger than the limit of 1048576 bytes"},

		{"bad name", "a%20b", good, nil, 400, `model name "a b": expected 1 to 100 letters, digits, '-', '_' and '.', the first of them a letter or digit`},
		{"path for a name", "..%2Fb", good, nil, 400, `model name "../b": expected 1 to 100 letters, digits, '-', '_' and '.', the first of them a letter or digit`},
		{"long name", strings.Repeat("a", 101), good, nil, 400, `model name "` + strings.Repeat("a", 64) + `…": expected 1 to 100 letters, digits, '-', '_' and '.', the first of them a letter or digit`},

		{"no file", "m", "", []string{"settings", "{}"}, 400, `the form has no part "model" that holds the model's file`},
		{"unknown part", "m", "", []string{"file", good}, 400, `the form's part "file" is not one of "settings" and "model"`},
		{"settings too late", "m", "", []string{"model", good, "settings", "{}"}, 400, `the form's part "settings" stands behind the part "model", which must be the last`},
		{"two files", "m", "", []string{"model", good, "model", good}, 400, `the form's part "model" stands behind the part "model", which must be the last`},

		{"settings are not JSON", "m", "", with(`{`), 400, `the part "settings" is not the JSON expected there: unexpected EOF`},
		{"settings are a list", "m", "", with(`[]`), 400, `the part "settings" is not the JSON expected there: the value must be an object, not array`},
		{"more than settings", "m", "", with(`{} {}`), 400, `the part "settings" is not the JSON expected there: something follows the JSON value`},
		{"unknown setting", "m", "", with(`{"thread":1}`), 400, `the part "settings" is not the JSON expected there: unknown field "thread"`},
		{"unknown setting of a setting", "m", "", with(`{"batching":{"rows":1}}`), 400, `the part "settings" is not the JSON expected there: unknown field "rows"`},
		{"threads are a string", "m", "", with(`{"threads":"2"}`), 400, `the part "settings" is not the JSON expected there: threads must be an integer, not string`},
		{"threads are a fraction", "m", "", with(`{"threads":1.5}`), 400, `the part "settings" is not the JSON expected there: threads must be an integer, not number 1.5`},
		{"ttl without a unit", "m", "", with(`{"cache":{"ttl":"30"}}`), 400, `the part "settings" is not the JSON expected there: time: missing unit in duration "30"`},
		{"ttl is a number", "m", "", with(`{"cache":{"ttl":30}}`), 400, `the part "settings" is not the JSON expected there: cache.ttl must be a string, not number`},
		{"labels are numbers", "m", "", with(`{"labels":{"auc":1}}`), 400, `the part "settings" is not the JSON expected there: labels must be a string, not number`},
		{"negative threads", "m", "", with(`{"threads":-1}`), 400, `threads is -1, expected 0 (automatic) to 1024`},
		{"negative rows", "m", "", with(`{"batching":{"max_rows":-1}}`), 400, `batching.max_rows is -1, expected 0 (as many as are worth it), 1 (requests are never joined) or more`},
		{"negative ttl", "m", "", with(`{"cache":{"ttl":"-1s"}}`), 400, `cache.ttl is -1s, expected 0 (no caching) or more`},
		{"too many runs", "m", "", with(`{"warmup":{"runs":101}}`), 400, `warmup.runs is 101, expected 0 to 100`},
		{"unknown runtime", "m", "", with(`{"runtime":"torch"}`), 400, `runtime "torch" is not one of ["onnx"]`},
		{"bad alias", "m", "", with(`{"alias":"1st"}`), 400, `alias "1st": expected 1 to 100 letters, digits, '-', '_' and '.', the first of them a letter`},
		{"bad sample", "m", "", with(`{"warmup":{"sample":{"inputs":[{"name":"Z","shape":[1],"datatype":"FP32","data":[1]}]}}}`), 400, `input "X" is missing; model "m" expects "X"`},
		{"sample that is none", "m", "", with(`{"warmup":{"sample":7}}`), 400, `the body must be a JSON object`},
	} {
		t.Run(test.name, func(t *testing.T) {
			body, kind := test.file, "Content-Type: application/octet-stream"
			if test.parts != nil {
				body, kind = form(t, test.parts...)
			}
			a := s.Do(t, "POST", "/admin/v1/models/"+test.model+"/versions", body, kind)
			if begin, ok := strings.CutSuffix(test.sentence, "…"); ok {
				if text := refusal(t, a); a.Status != test.status || !strings.HasPrefix(text, begin) {
					t.Errorf("got  %d %s\nwant %d %s", a.Status, text, test.status, test.sentence)
				}
			} else {
				wantError(t, a, test.status, test.sentence)
			}
			if left := append(keys(t, blob), files(t, cache)...); len(left) > 0 {
				t.Errorf("it left %q", left)
			}
		})
	}
	wantError(t, s.Do(t, "GET", "/v2/models/m", ""), 404, `model "m" does not exist`)
	if m := read[model.Manifest](t, s.Do(t, "POST", "/admin/v1/models/m/versions", good), 201); m.Version != 1 {
		t.Errorf("got version %d, want 1", m.Version)
	}
}

// A form that ends early, and one without a boundary.
func TestBrokenForms(t *testing.T) {
	blob := newBlob(t)
	s := predicttest.Start(t, blob, nil)
	body, kind := form(t, "settings", "{}", "model", string(onnxtest.NonZero().Bytes()))
	for _, test := range []struct{ body, kind string }{
		{"", kind},
		{body[:20], kind},
		{body[:200], kind},
		{body[:len(body)-100], kind},
		{body[:len(body)-10], kind},
		{body, "Content-Type: multipart/form-data"},
		{body, "Content-Type: multipart/form-data; boundary=other"},
	} {
		a := s.Do(t, "POST", "/admin/v1/models/m/versions", test.body, test.kind)
		if text := refusal(t, a); a.Status != 400 || text != "the body could not be read to its end" && text != `the form has no part "model" that holds the model's file` {
			t.Errorf("%d bytes: got %d %s", len(test.body), a.Status, text)
		}
	}
	if left := keys(t, blob); len(left) > 0 {
		t.Errorf("it left %q", left)
	}
}

// A bucket with a damaged object is the server's trouble, not the caller's.
func TestPushIntoADamagedBucket(t *testing.T) {
	blob := newBlob(t)
	const junk = "not JSON"
	if _, err := blob.Put(t.Context(), "models/m/aliases", strings.NewReader(junk), int64(len(junk)), store.Condition{}); err != nil {
		t.Fatal(err)
	}
	s := predicttest.Start(t, blob, nil)
	wantError(t, s.Do(t, "POST", "/admin/v1/models/m/versions", string(onnxtest.NonZero().Bytes())), 500, `the aliases of model "m" are damaged in the bucket`)
}

// Racing pushes get versions of their own, without a gap, and one champion.
func TestPushRacingPush(t *testing.T) {
	blob := newBlob(t)
	servers := []*predicttest.Server{predicttest.Start(t, blob, nil), predicttest.Start(t, blob, nil)} // two processes on one bucket
	const each = 6
	var mu sync.Mutex
	var versions []int
	var wg sync.WaitGroup
	for _, s := range servers {
		for i := range each {
			wg.Go(func() {
				body, kind := form(t, "settings", fmt.Sprintf(`{"threads":%d}`, i+1), "model", string(onnxtest.Simple(int64(i+1)).Bytes()))
				a := s.Do(t, "POST", "/admin/v1/models/m/versions", body, kind)
				var m model.Manifest
				if err := json.Unmarshal([]byte(a.Body), &m); err != nil || a.Status != 201 || m.Threads != i+1 || m.Signature.Inputs[0].Shape[0] != int64(i+1) {
					t.Errorf("got %d %s", a.Status, a.Body)
				}
				mu.Lock()
				defer mu.Unlock()
				versions = append(versions, m.Version)
			})
		}
	}
	wg.Wait()
	slices.Sort(versions)
	for i, v := range versions {
		if v != i+1 {
			t.Fatalf("got versions %v, want 1 to %d", versions, 2*each)
		}
	}
	d := read[predict.ModelDetail](t, servers[1].Do(t, "GET", "/admin/v1/models/m", ""), 200)
	if len(d.Versions) != 2*each || d.Current["champion"] != 1 || len(d.History) != 1 {
		t.Errorf("got %d versions, aliases %v, %d moves", len(d.Versions), d.Current, len(d.History))
	}
}

func TestModelsAreListed(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	file := onnxtest.NonZero().Bytes()
	for _, name := range []string{"b", "a-1", "a", "b"} { // keys of a and a-1 sort otherwise than their names
		s.Push(t, name, file, model.Settings{})
	}
	list := read[predict.ModelList](t, s.Do(t, "GET", "/admin/v1/models", ""), 200)
	var got []string
	for _, m := range list.Models {
		got = append(got, fmt.Sprintf("%s %d %d %v", m.Name, m.Versions, m.Newest, m.Aliases))
	}
	if want := []string{"a 1 1 map[champion:1]", "a-1 1 1 map[champion:1]", "b 2 2 map[champion:1]"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	page := read[predict.ModelList](t, s.Do(t, "GET", "/admin/v1/models?limit=2", ""), 200)
	if len(page.Models) != 2 || page.Models[1].Name != "a-1" || page.Next != "a-1" {
		t.Errorf("the first page is %+v", page)
	}
	page = read[predict.ModelList](t, s.Do(t, "GET", "/admin/v1/models?limit=2&after="+page.Next, ""), 200)
	if len(page.Models) != 1 || page.Models[0].Name != "b" || page.Next != "" {
		t.Errorf("the second page is %+v", page)
	}
	page = read[predict.ModelList](t, s.Do(t, "GET", "/admin/v1/models?prefix=a-", ""), 200)
	if len(page.Models) != 1 || page.Models[0].Name != "a-1" {
		t.Errorf("those that begin with a- are %+v", page)
	}
	for query, want := range map[string]string{"limit=0": `limit is "0", expected 1 to 1000`, "limit=1001": `limit is "1001", expected 1 to 1000`} {
		if a := s.Do(t, "GET", "/admin/v1/models?"+query, ""); a.Status != 400 || refusal(t, a) != want {
			t.Errorf("%s: got %d %s", query, a.Status, a.Body)
		}
	}
	for query, want := range map[string]string{
		"": "[1 2] of 2, 1 moves", "?limit=1": "[2] of 2, 1 moves", "?below=2": "[1] of 2, 1 moves", "?below=1": "[] of 2, 1 moves", "?limit=1000&moves=1": "[1 2] of 2, 1 moves",
	} {
		d := read[predict.ModelDetail](t, s.Do(t, "GET", "/admin/v1/models/b"+query, ""), 200)
		versions := []int{}
		for _, m := range d.Versions {
			versions = append(versions, m.Version)
		}
		if got := fmt.Sprintf("%v of %d, %d moves", versions, d.All, len(d.History)); got != want {
			t.Errorf("%s: got %s, want %s", query, got, want)
		}
	}
	for _, path := range []string{"none", "none/versions/1", "a%2Fb/versions/1"} {
		a := s.Do(t, "GET", "/admin/v1/models/"+path, "")
		if text := refusal(t, a); a.Status != 404 || !strings.HasSuffix(text, "does not exist") {
			t.Errorf("%s: got %d %s", path, a.Status, text)
		}
	}
	wantError(t, s.Do(t, "GET", "/admin/v1/models/b/versions/3", ""), 404, `model "b" has no version 3`)
	if m := read[model.Manifest](t, s.Do(t, "GET", "/admin/v1/models/b/versions/champion", ""), 200); m.Version != 1 {
		t.Errorf("got version %d of the champion, want 1", m.Version)
	}
}

// neg and same are two versions that anybody can tell apart.
var (
	xs   = []onnxwire.Value{onnxwire.Tensor("X", tensor.FP32, -1)}
	ys   = []onnxwire.Value{onnxwire.Tensor("Y", tensor.FP32, -1)}
	same = onnxtest.Apply("Identity", xs, ys)
	neg  = onnxtest.Apply("Neg", xs, ys)
)

// answers checks that the champion of m is the given version, by what it says.
func answers(t *testing.T, s *predicttest.Server, version int) {
	t.Helper()
	y := map[int]string{1: "1", 2: "-1"}[version]
	want(t, s.Do(t, "POST", "/v2/models/m/infer", floats("1")), 200,
		fmt.Sprintf(`{"model_name":"m","model_version":"%d","outputs":[{"name":"Y","datatype":"FP32","shape":[1],"data":[%s]}]}`, version, y))
}

func TestAliases(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	s.Push(t, "m", same.Bytes(), model.Settings{})
	s.Push(t, "m", neg.Bytes(), model.Settings{})
	for _, version := range []string{"1", "2"} { // warm, so that moves show at once
		if a := s.Do(t, "POST", "/v2/models/m/versions/"+version+"/infer", floats("1")); a.Status != 200 {
			t.Fatalf("got %d %s", a.Status, a.Body)
		}
	}
	move := func(method, path, body string) model.Move {
		t.Helper()
		m := read[model.Move](t, s.Do(t, method, "/admin/v1/models/m/aliases/"+path, body), 200)
		if m.Seq > 0 && m.At.IsZero() {
			t.Errorf("a move without a time")
		}
		m.At = time.Time{}
		return m
	}
	check := func(got, want model.Move) {
		t.Helper()
		if got != want {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	}
	answers(t, s, 1)
	check(move("PUT", "champion", `{"version":2,"expect":1,"by":"me","why":"better"}`), model.Move{Seq: 2, Alias: "champion", From: 1, To: 2, By: "me", Why: "better"})
	answers(t, s, 2)
	check(move("PUT", "champion", `{"version":2}`), model.Move{Alias: "champion", From: 2, To: 2}) // again: no move
	wantError(t, s.Do(t, "PUT", "/admin/v1/models/m/aliases/champion", `{"version":1,"expect":1}`), 409, `alias "champion" of model "m" names version 2, not 1 as expected`)
	wantError(t, s.Do(t, "PUT", "/admin/v1/models/m/aliases/champion", `{"version":1,"expect":0}`), 409, `alias "champion" of model "m" names version 2, not 0 as expected`)
	answers(t, s, 2)
	check(move("POST", "champion/rollback", `{"by":"you","why":"worse"}`), model.Move{Seq: 3, Alias: "champion", From: 2, To: 1, By: "you", Why: "worse", Undoes: 2})
	answers(t, s, 1)
	wantError(t, s.Do(t, "POST", "/admin/v1/models/m/aliases/champion/rollback", ""), 409, `alias "champion" of model "m" has no earlier version to go back to`)

	check(move("PUT", "shadow", `{"version":2,"expect":0}`), model.Move{Seq: 4, Alias: "shadow", To: 2})
	check(move("DELETE", "shadow", `{"expect":2}`), model.Move{Seq: 5, Alias: "shadow", From: 2})
	check(move("DELETE", "shadow", ``), model.Move{Alias: "shadow"}) // again: no move
	wantError(t, s.Do(t, "POST", "/v2/models/m/versions/shadow/infer", floats("1")), 404, `model "m" has no version or alias "shadow"`)
	check(move("POST", "shadow/rollback", ``), model.Move{Seq: 6, Alias: "shadow", To: 2, Undoes: 5})

	for _, test := range []struct {
		method, path, body string
		status             int
		sentence           string
	}{
		{"PUT", "m/aliases/champion", ``, 400, `version is 0, expected the number of a version`},
		{"PUT", "m/aliases/champion", `{}`, 400, `version is 0, expected the number of a version`},
		{"PUT", "m/aliases/champion", `{"version":-1}`, 400, `version is -1, expected the number of a version`},
		{"PUT", "m/aliases/champion", `{"version":3}`, 404, `model "m" has no version 3`},
		{"PUT", "m/aliases/champion", `{"version":"2"}`, 400, `the body is not the JSON expected here: version must be an integer, not string`},
		{"PUT", "m/aliases/champion", `{"version":2,"expected":1}`, 400, `the body is not the JSON expected here: unknown field "expected"`},
		{"PUT", "m/aliases/champion", `{"version":2}}`, 400, `the body is not the JSON expected here: something follows the JSON value`},
		{"PUT", "m/aliases/champion", `2`, 400, `the body is not the JSON expected here: the value must be an object, not number`},
		{"PUT", "m/aliases/2", `{"version":2}`, 400, `alias "2": expected 1 to 100 letters, digits, '-', '_' and '.', the first of them a letter`},
		{"PUT", "m/aliases/a%2Fb", `{"version":2}`, 400, `alias "a/b": expected 1 to 100 letters, digits, '-', '_' and '.', the first of them a letter`},
		{"PUT", "none/aliases/champion", `{"version":1}`, 404, `model "none" has no version 1`},
		{"DELETE", "none/aliases/champion", ``, 404, `model "none" does not exist`},
		{"DELETE", "m/aliases/champion", `{"expect":2}`, 409, `alias "champion" of model "m" names version 1, not 2 as expected`},
		{"POST", "none/aliases/champion/rollback", ``, 404, `model "none" does not exist`},
		{"POST", "m/aliases/none/rollback", ``, 409, `alias "none" of model "m" has no earlier version to go back to`},
		{"POST", "m/aliases/champion/rollback", `{"to":1}`, 400, `the body is not the JSON expected here: unknown field "to"`},
	} {
		t.Run(test.method+" "+test.path+" "+test.body, func(t *testing.T) {
			wantError(t, s.Do(t, test.method, "/admin/v1/models/"+test.path, test.body), test.status, test.sentence)
		})
	}
	d := read[predict.ModelDetail](t, s.Do(t, "GET", "/admin/v1/models/m", ""), 200)
	if want := map[string]int{"champion": 1, "shadow": 2}; !maps.Equal(d.Current, want) || len(d.History) != 6 || len(d.Versions) != 2 {
		t.Errorf("got %v, %d moves, %d versions", d.Current, len(d.History), len(d.Versions))
	}
	// Without a champion the newest version answers.
	check(move("DELETE", "champion", ``), model.Move{Seq: 7, Alias: "champion", From: 1})
	answers(t, s, 2)
}
