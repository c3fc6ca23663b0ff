package offline

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/feature"
)

// Sources are as new as their newest row, wherever it lies, and views tell when they were brought online.
func TestFresh(t *testing.T) {
	w := fullWorld(t)
	s := open(t, w.blob)
	url := serveWorld(t, w, s) + "/admin/v1/features/freshness"
	look := func() (f Freshness) {
		status, b := call(t, http.MethodGet, url, "", nil)
		if status != http.StatusOK {
			t.Fatalf("got %d %s", status, b)
		}
		if err := json.Unmarshal(b, &f); err != nil {
			t.Fatal(err)
		}
		return f
	}
	newest := map[string]int64{}
	for name, rows := range w.rows {
		for _, r := range rows {
			newest[name] = max(newest[name], r.Event)
		}
	}
	f := look()
	if len(f.Sources) != 2 || len(f.Views) != len(w.defs.Views) {
		t.Fatalf("got %+v", f)
	}
	for _, src := range f.Sources {
		switch {
		case src.Written.IsZero() || time.Since(src.Written) > time.Hour:
			t.Errorf("%s: written %v", src.Name, src.Written)
		case src.Name == "pushed" && src.Newest.UnixMicro() != newest["pushed"]:
			t.Errorf("%s: newest %v, want %v", src.Name, src.Newest, time.UnixMicro(newest["pushed"]).UTC())
		case src.Name == "filed" && !src.Newest.IsZero():
			t.Errorf("of files from elsewhere it is said how new they are: %v", src.Newest)
		}
	}
	for _, v := range f.Views {
		if !v.Materialized.IsZero() {
			t.Errorf("%s was never materialized, and was at %v", v.Name, v.Materialized)
		}
	}
	w.materialize(t, s, Span{})
	f = look()
	for _, v := range f.Views {
		if v.Materialized.IsZero() {
			t.Errorf("%s was materialized, and it is not said when", v.Name)
		}
	}
	for _, src := range f.Sources {
		if src.Name == "filed" && src.Known.IsZero() {
			t.Error("files were read, and it is not said until when their rows were known")
		}
	}
	empty := newCatalogOf(t)
	defs, err := empty.Current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if f, err := s.Fresh(t.Context(), defs); err != nil || len(f.Sources) != 0 {
		t.Errorf("of nothing: got %+v, %v", f, err)
	}
}

func newCatalogOf(t *testing.T) *feature.Catalog {
	t.Helper()
	return (&world{blob: memBlob(t)}).catalog(t, parse(t, "entities: [{name: a, keys: [{name: a, type: string}]}]"))
}
