package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/onnxwire"
	"github.com/pilotlight-ml/pilotlight/internal/predict/predicttest"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// run executes the command as main does, and gives what it prints.
func run(t *testing.T, in string, args ...string) (out string, err error) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := command()
	cmd.SetArgs(args)
	cmd.SetIn(strings.NewReader(in))
	cmd.SetOut(&stdout)
	cmd.SetErr(&stderr)
	err = cmd.ExecuteContext(t.Context())
	if stderr.Len() > 0 {
		t.Errorf("%q on the error output", stderr.String())
	}
	return stdout.String(), err
}

// What no test can know of an output, and how wide it makes the columns.
var (
	digests = regexp.MustCompile(`\b[0-9a-f]{64}\b`)
	shorts  = regexp.MustCompile(`\b[0-9a-f]{12}\b`)
	times   = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`)
	gaps    = regexp.MustCompile(` {2,}`)
)

// cli runs commands against one server.
type cli struct {
	t *testing.T
	s *predicttest.Server
}

// prints runs a command and checks its output, where DIGEST, DIG, TIME and ME stand for what differs each time.
func (c cli) prints(want string, args ...string) {
	c.t.Helper()
	out, err := run(c.t, "", append(args, "--server", c.s.URL)...)
	if err != nil {
		c.t.Errorf("%q: %v", args, err)
	}
	got := digests.ReplaceAllString(out, "DIGEST")
	got = times.ReplaceAllString(got, "TIME")
	got = shorts.ReplaceAllString(got, "DIG")
	got = strings.ReplaceAll(got, whoami(), "ME")
	got = gaps.ReplaceAllString(got, "  ")
	if got != want {
		c.t.Errorf("%q prints\n%s\nwant\n%s", args, got, want)
	}
}

// fails runs a command and checks its error.
func (c cli) fails(want string, args ...string) {
	c.t.Helper()
	out, err := run(c.t, "", append(args, "--server", c.s.URL)...)
	if err == nil || err.Error() != want || out != "" {
		c.t.Errorf("%q: got %v, want %s; it printed %q", args, err, want, out)
	}
}

func write(t *testing.T, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

var (
	xs   = []onnxwire.Value{onnxwire.Tensor("X", tensor.FP32, -1)}
	ys   = []onnxwire.Value{onnxwire.Tensor("Y", tensor.FP32, -1)}
	same = onnxtest.Apply("Identity", xs, ys).Bytes()
	neg  = onnxtest.Apply("Neg", xs, ys).Bytes()
)

// The life of a model, as somebody at a terminal sees it.
func TestModel(t *testing.T) {
	c := cli{t, predicttest.Start(t, nil, nil)}
	one, two := write(t, same), write(t, neg)
	sample := write(t, []byte(`{"inputs":[{"name":"X","shape":[2],"datatype":"FP32","data":[1,2]}]}`))

	c.prints("NAME  VERSIONS  NEWEST  ALIASES\n", "model", "list")
	c.prints(`m:1  105 B  sha256:DIGEST
  input  X FP32 [-1]
  output Y FP32 [-1]
champion is now version 1, the first of this model
`, "model", "push", "m", one)
	c.prints(`m:2  100 B  sha256:DIGEST
  input  X FP32 [-1]
  output Y FP32 [-1]
no alias moved; to have it answer: pilotlight model alias m champion 2
`, "model", "push", "m", two, "--sample", sample, "--label", "commit=4f2c1e", "--label", "auc=0.9")
	c.prints(`m:3  105 B  sha256:DIGEST
  input  X FP32 [-1]
  output Y FP32 [-1]
shadow is now version 3
`, "model", "push", "m", one, "--alias", "shadow", "--threads", "2", "--max-rows", "16", "--cache-ttl", "90s", "--warmup-runs", "2", "--runtime", "onnx")
	c.prints(`cat:1  319 B  sha256:DIGEST
  input  X FP32 [-1,2]
  output label BYTES [-1]
  output probabilities FP32 [-1,2] (cat, dog)
champion is now version 1, the first of this model
`, "model", "push", "cat", write(t, onnxtest.Classifier([]string{"cat", "dog"}).Bytes()))
	c.prints(`NAME  VERSIONS  NEWEST  ALIASES
cat  1  1  champion=1
m  3  3  champion=1 shadow=3
`, "model", "list")

	c.prints("champion: 1 -> 2 (move 3)\n", "model", "alias", "m", "champion", "2", "--expect", "1", "--why", "better")
	c.prints("champion already names version 2\n", "model", "alias", "m", "champion", "2")
	c.fails(`alias "champion" of model "m" names version 2, not 1 as expected`, "model", "alias", "m", "champion", "3", "--expect", "1")
	c.fails(`alias "champion" of model "m" names version 2, not 0 as expected`, "model", "alias", "m", "champion", "3", "--expect", "0")
	c.prints("canary: - -> 3 (move 4)\n", "model", "alias", "m", "canary", "3", "--expect", "0")
	c.prints("canary is gone; it named version 3 (move 5)\n", "model", "alias", "m", "canary", "--delete")
	c.prints("canary already names version -\n", "model", "alias", "m", "canary", "--delete")
	c.prints("champion: 2 -> 1 (move 6)\n", "model", "rollback", "m", "--why", "worse")
	c.fails(`alias "champion" of model "m" has no earlier version to go back to`, "model", "rollback", "m")
	c.prints("canary: - -> 3 (move 7)\n", "model", "rollback", "m", "canary")

	c.prints(`VERSION  ALIASES  SIZE  CREATED  BY  LABELS  DIGEST
3  canary shadow  105 B  TIME  ME  DIG
2  100 B  TIME  ME  auc=0.9 commit=4f2c1e  DIG
1  champion  105 B  TIME  ME  DIG

version 3 takes and gives
  input  X FP32 [-1]
  output Y FP32 [-1]

MOVE  ALIAS  FROM  TO  WHEN  BY  WHY
7  canary  -  3  TIME  ME  rollback of move 5.
6  champion  2  1  TIME  ME  rollback of move 3. worse
5  canary  3  -  TIME  ME  
4  canary  -  3  TIME  ME  
3  champion  1  2  TIME  ME  better
2  shadow  -  3  TIME  ME  pushed
1  champion  -  1  TIME  ME  first version
`, "model", "show", "m")

	m, err := c.s.Registry.Manifest(t.Context(), "m", 3)
	if err != nil {
		t.Fatal(err)
	}
	if m.Threads != 2 || m.Batching.MaxRows != 16 || m.Cache.TTL != model.Duration(90e9) || m.Warmup.Runs != 2 || m.CreatedBy != whoami() {
		t.Errorf("got %+v", m)
	}
	if m, err = c.s.Registry.Manifest(t.Context(), "m", 2); err != nil || !strings.Contains(string(m.Warmup.Sample), `"data":[1,2]`) {
		t.Errorf("got %+v, %v", m, err)
	}
}

func TestModelErrors(t *testing.T) {
	c := cli{t, predicttest.Start(t, nil, nil)}
	file := write(t, same)
	dir := t.TempDir()
	c.prints("m:1  105 B  sha256:DIGEST\n  input  X FP32 [-1]\n  output Y FP32 [-1]\nchampion is now version 1, the first of this model\n", "model", "push", "m", file)
	for _, test := range []struct {
		want string
		args []string
	}{
		{`accepts 2 arg(s), received 1`, []string{"model", "push", "m"}},
		{`open /nowhere/file: no such file or directory`, []string{"model", "push", "m", "/nowhere/file"}},
		{dir + ` is a folder, expected a model's file`, []string{"model", "push", "m", dir}},
		{`open /nowhere/sample: no such file or directory`, []string{"model", "push", "m", file, "--sample", "/nowhere/sample"}},
		{file + ` does not hold JSON`, []string{"model", "push", "m", file, "--sample", file}},
		{`model name "a b": expected 1 to 100 letters, digits, '-', '_' and '.', the first of them a letter or digit`, []string{"model", "push", "a b", file}},
		{`model name "a/b": expected 1 to 100 letters, digits, '-', '_' and '.', the first of them a letter or digit`, []string{"model", "push", "a/b", file}},
		{`threads is -1, expected 0 (automatic) to 1024`, []string{"model", "push", "m", file, "--threads", "-1"}},
		{`runtime "torch" is not one of ["onnx"]`, []string{"model", "push", "m", file, "--runtime", "torch"}},
		{`invalid argument "commit" for "--label" flag: commit must be formatted as key=value`, []string{"model", "push", "m", file, "--label", "commit"}},
		{`invalid argument "x" for "--cache-ttl" flag: time: invalid duration "x"`, []string{"model", "push", "m", file, "--cache-ttl", "x"}},
		{`unknown flag: --nonsense`, []string{"model", "push", "m", file, "--nonsense"}},
		{`unknown command "nonsense" for "pilotlight"`, []string{"nonsense"}},
		{`unknown command "x" for "pilotlight model list"`, []string{"model", "list", "x"}},
		{`model "none" does not exist`, []string{"model", "show", "none"}},
		{`model "none" does not exist`, []string{"model", "rollback", "none"}},
		{`model "none" has no version 1`, []string{"model", "alias", "none", "champion", "1"}},
		{`model "m" has no version 2`, []string{"model", "alias", "m", "champion", "2"}},
		{`version is 0, expected the number of a version`, []string{"model", "alias", "m", "champion", "0"}},
		{`version is "two", expected a number`, []string{"model", "alias", "m", "champion", "two"}},
		{`which version? expected: pilotlight model alias m champion VERSION`, []string{"model", "alias", "m", "champion"}},
		{`--delete takes no version`, []string{"model", "alias", "m", "champion", "1", "--delete"}},
		{`alias "1": expected 1 to 100 letters, digits, '-', '_' and '.', the first of them a letter`, []string{"model", "alias", "m", "1", "1"}},
		{`--output is "yaml", expected table or json`, []string{"model", "list", "-o", "yaml"}},
	} {
		c.fails(test.want, test.args...)
	}
	// A large file that is refused before it is read: the sentence arrives all the same.
	large := write(t, bytes.Repeat([]byte("x"), 16<<20))
	c.fails(`model name "a b": expected 1 to 100 letters, digits, '-', '_' and '.', the first of them a letter or digit`, "model", "push", "a b", large)
}

func TestServersThatDontAnswer(t *testing.T) {
	closed := httptest.NewServer(nil)
	closed.Close()
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "<html>Bad gateway</html>", http.StatusBadGateway)
	}))
	defer plain.Close()
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello")) }))
	defer other.Close()
	for _, test := range []struct{ server, want string }{
		{closed.URL, "no server answers at " + closed.URL + "; start one with `make run`, or name another with --server"},
		{closed.URL + "/", "no server answers at " + closed.URL + "; start one with `make run`, or name another with --server"},
		{plain.URL, plain.URL + " answered 502 Bad Gateway"},
		{other.URL, "invalid character 'h' looking for beginning of value"},
		{"127.0.0.1:8080", `--server is "127.0.0.1:8080", expected a URL such as http://127.0.0.1:8080`},
		{"ftp://x", `--server is "ftp://x", expected a URL such as http://127.0.0.1:8080`},
		{"http://", `--server is "http://", expected a URL such as http://127.0.0.1:8080`},
		{"", `--server is "", expected a URL such as http://127.0.0.1:8080`},
	} {
		_, err := run(t, "", "model", "list", "--server", test.server)
		if err == nil || err.Error() != test.want {
			t.Errorf("%s: got %v, want %s", test.server, err, test.want)
		}
	}
}

// The server's URL and the key may come from the environment; flags win.
func TestEnvironment(t *testing.T) {
	got := make(chan string, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got <- r.Header.Get("Authorization")
		_, _ = w.Write([]byte(`{"models":[]}`))
	}))
	defer s.Close()
	t.Setenv("PILOTLIGHT_SERVER", s.URL)
	for _, test := range []struct {
		key  string
		args []string
		want string
	}{
		{"", nil, ""}, {"secret", nil, "Bearer secret"}, {"secret", []string{"--key", "other"}, "Bearer other"},
	} {
		t.Setenv("PILOTLIGHT_KEY", test.key)
		if _, err := run(t, "", append(test.args, "model", "list")...); err != nil {
			t.Fatal(err)
		}
		if got := <-got; got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}

// -o json prints the server's own answer.
func TestJSON(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	out := func(args ...string) string {
		t.Helper()
		out, err := run(t, "", append(args, "-o", "json", "--server", s.URL)...)
		if err != nil {
			t.Fatalf("%q: %v", args, err)
		}
		return out
	}
	file := write(t, same)
	var m model.Manifest
	if pushed := out("model", "push", "m", file); json.Unmarshal([]byte(pushed), &m) != nil || m.Version != 1 || pushed != s.Do(t, "GET", "/admin/v1/models/m/versions/1", "").Body {
		t.Errorf("got %s", pushed)
	}
	for _, test := range []struct{ command, path string }{{"list", "/admin/v1/models"}, {"show m", "/admin/v1/models/m"}} {
		if got, want := out(append([]string{"model"}, strings.Fields(test.command)...)...), s.Do(t, "GET", test.path, "").Body; got != want {
			t.Errorf("%s: got %s, want %s", test.command, got, want)
		}
	}
	var move model.Move
	if moved := out("model", "alias", "m", "shadow", "1"); json.Unmarshal([]byte(moved), &move) != nil || move.Seq != 2 || move.Alias != "shadow" || move.By != whoami() {
		t.Errorf("got %s", moved)
	}
	if got, want := out("predict", "m", "X=1,2"), `{"model_name":"m","model_version":"1","outputs":[{"name":"Y","datatype":"FP32","shape":[2],"data":[1,2]}]}`+"\n"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
