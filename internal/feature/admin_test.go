package feature

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// ask sends a request to a catalog's administration.
func ask(t *testing.T, c *Catalog, method, path, body string) (status int, answer string) {
	t.Helper()
	mux := http.NewServeMux()
	c.Register(mux)
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, "/admin/v1/features"+path, strings.NewReader(body)))
	return w.Code, strings.TrimSpace(w.Body.String())
}

func TestAdmin(t *testing.T) {
	c := newCatalog(memBlob(t))
	const ifs = `expressions: [{name: e, inputs: [{name: x, type: int64}], features: [{name: y, type: bool, value: "x < 1 && x > 0"}]}]`
	for _, step := range []struct {
		method, path, body string
		status             int
		want               string // in the answer
	}{
		{"GET", "", "", 200, `{"version":0,`},
		{"GET", "?version=1", "", 404, `no version 1`},
		{"GET", "?version=new", "", 400, `version is \"new\"`},
		{"POST", "", "", 400, `the body defines nothing`},
		{"POST", "", "views: [{nam: x}]", 400, `body:1:10: an element of views has no field \"nam\"`},
		{"POST", "", "views: [{name: x}]", 400, `view \"x\": source \"\" is not defined`},
		{"POST", "?dry=maybe", mergeYAML, 400, `dry is \"maybe\"`},
		{"POST", "?dry=true", mergeYAML, 200, `{"version":1,"changes":[{"kind":"entity","name":"carrier","op":"added"},`},
		{"GET", "", "", 200, `{"version":0,`},
		{"POST", "?by=me", mergeYAML, 200, `{"version":1,`},
		{"POST", "?by=you", mergeYAML, 200, `{"version":1,"changes":[]}`},
		{"POST", "", ifs, 200, `{"version":2,"changes":[{"kind":"expression","name":"e","op":"added"}]}`},
		{"POST", "", strings.Replace(ifs, "x < 1", "x < 2", 1), 200, `{"version":3,"changes":[{"kind":"expression","name":"e","op":"changed","fields":[{"path":"features.y.value","old":"x < 1 && x > 0","new":"x < 2 && x > 0"}]}]}`},
		{"GET", "?version=1", "", 200, `"by":"me"`},
		{"DELETE", "/view/last", "", 409, `view/last can't be removed, for it is used by service model`},
		{"DELETE", "/views/last", "", 400, `\"views/last\" is not KIND/NAME`},
		{"DELETE", "/view/first", "", 404, `view first does not exist`},
		{"DELETE", "/service/model?dry=1", "", 200, `{"version":4,"changes":[{"kind":"service","name":"model","op":"removed"}],"dry":true}`},
		{"DELETE", "/service/model", "", 200, `{"version":4,`},
		{"DELETE", "/view/last", "", 200, `{"version":5,"changes":[{"kind":"view","name":"last","op":"removed"}]}`},
		{"GET", "", "", 200, `{"version":5,`},
	} {
		status, got := ask(t, c, step.method, step.path, step.body)
		if status != step.status || !strings.Contains(got, step.want) {
			t.Errorf("%s %s: got %d %s, want %d with %s", step.method, step.path, status, got, step.status, step.want)
		}
	}
}

// What the administration gives can be sent back to it as it is, or changed by hand.
func TestAdminTakesWhatItGives(t *testing.T) {
	c := newCatalog(memBlob(t))
	apply(t, c, flightYAML)
	_, set := ask(t, c, "GET", "", "")
	if status, got := ask(t, c, "POST", "", set); status != 200 || got != `{"version":1,"changes":[]}` {
		t.Errorf("the same: got %d %s, want no change", status, got)
	}
	status, got := ask(t, newCatalog(memBlob(t)), "POST", "", set)
	var applied Changed
	if err := json.Unmarshal([]byte(got), &applied); err != nil || status != 200 || applied.Version != 1 || len(applied.Changes) != 5 {
		t.Errorf("to another: got %d %s, want version 1 of 5 definitions", status, got)
	}
}

// A body that ends too early applies nothing.
func TestAdminHalfABody(t *testing.T) {
	c := newCatalog(memBlob(t))
	mux := http.NewServeMux()
	c.Register(mux)
	w := httptest.NewRecorder()
	half := io.MultiReader(strings.NewReader(mergeYAML), broken{})
	mux.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "POST", "/admin/v1/features", half))
	if now, err := c.Current(t.Context()); w.Code != 400 || err != nil || now.Version != 0 {
		t.Errorf("got %d %s and version %d, %v, want 400 and 0", w.Code, w.Body, now.Version, err)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }
