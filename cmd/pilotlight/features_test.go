package main

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
)

// featureServer serves the administration of definitions.
func featureServer(t *testing.T) string {
	t.Helper()
	blob, err := memstore.OpenBlob(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	feature.NewCatalog(&feature.Config{Refresh: time.Hour}, blob, nil, slog.New(slog.DiscardHandler)).Register(mux)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

const ground = `entities:
  - name: carrier
    keys:
      - name: carrier
        type: string
sources:
  - name: arrivals
    fields:
      - name: carrier
        type: string
      - name: event_timestamp
        type: timestamp
      - name: delay
        type: float32
`

const carrierView = `views:
  - name: delays
    entities:
      - carrier
    source: arrivals
    windows:
      - name: rows
        aggregate: count
        size: 1h
      - name: mean
        aggregate: mean
        of: delay
        size: 1d
        slide: 1h
`

func TestFeatures(t *testing.T) {
	server := featureServer(t)
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	do := func(in string, args ...string) (string, error) {
		out, err := run(t, in, append([]string{"features", "--server", server}, args...)...)
		out = times.ReplaceAllString(out, "TIME")
		return gaps.ReplaceAllString(strings.ReplaceAll(out, whoami(), "ME"), "  "), err
	}
	prints := func(want string, args ...string) {
		t.Helper()
		if got, err := do("", args...); err != nil || got != want {
			t.Errorf("%q: got\n%s%v, want\n%s", args, got, err, want)
		}
	}
	fails := func(want string, args ...string) {
		t.Helper()
		if got, err := do("", args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %q, %v, want the error %q", args, got, err, want)
		}
	}

	write("all/ground.yaml", ground)
	write("all/views/delays.yml", carrierView)
	write("all/README.md", "no: definitions")
	prints("nothing is defined; to change that: pilotlight features apply -f FILE\n", "list")
	const added = "+ entity/carrier\n+ source/arrivals\n+ view/delays\n"
	prints(added+"this would become version 1\n", "apply", "-f", dir+"/all", "--dry-run")
	prints(added+"this is version 1\n", "apply", "-f", dir+"/all")
	prints("nothing differs from version 1\n", "apply", "-f", dir+"/all/ground.yaml", "-f", dir+"/all/views")
	changed := strings.Replace(carrierView, "size: 1d", "size: 2d", 1) + "services:\n  - name: model\n    features: [\"delays:*\"]\n"
	if got, err := do(changed, "apply", "-f", "-"); err != nil || got != "~ view/delays\n  windows.mean.size: \"1d\" -> \"2d\"\n+ service/model\nthis is version 2\n" {
		t.Errorf("from the standard input: got %s%v", got, err)
	}
	prints(`version 2 of TIME by ME

KIND  NAME  CHANGED  WHAT
entity  carrier  -  carrier string
source  arrivals  -  3 columns, pushed
view  delays  2  2 windows of arrivals by carrier
service  model  -  1 features
`, "list")

	if got, err := run(t, "", "features", "get", "view/delays", "--version", "1", "--server", server); err != nil || got != carrierView {
		t.Errorf("get: got\n%s%v, want\n%s", got, err, carrierView)
	}
	all, err := run(t, "", "features", "get", "--server", server)
	if err != nil {
		t.Fatal(err)
	}
	prints("nothing differs from version 2\n", "apply", "-f", write("back", all))
	var set feature.Set
	if out, err := do("", "get", "view/delays", "-o", "json"); err != nil || json.Unmarshal([]byte(out), &set) != nil || set.Version != 2 || len(set.Views) != 1 || set.Views[0].IDs["rows"] != 1 {
		t.Errorf("get as JSON: got %s%v", out, err)
	}
	var applied feature.Changed
	if out, err := do("", "apply", "-f", dir+"/all", "--dry-run", "-o", "json"); err != nil || json.Unmarshal([]byte(out), &applied) != nil || applied.Version != 3 || !applied.Dry || len(applied.Changes) != 1 {
		t.Errorf("apply as JSON: got %s%v", out, err)
	}

	fails("entity/carrier can't be removed, for it is used by view delays", "delete", "entity/carrier")
	fails("view nothing does not exist", "delete", "view/nothing")
	fails("is not KIND/NAME", "delete", "delays")
	fails("is not KIND/NAME", "get", "delays")
	fails("view nothing does not exist", "get", "view/nothing")
	fails("no version 7", "get", "--version", "7")
	prints("- service/model\nthis would become version 3\n", "delete", "service/model", "--dry-run")
	prints("- service/model\nthis is version 3\n", "delete", "service/model")

	wrong := write("wrong/views.yaml", "views:\n  - name: x\n    sorce: arrivals\n")
	fails(wrong+`:3:5: an element of views has no field "sorce"`, "apply", "-f", dir+"/wrong")
	write("twice/a.yaml", carrierView)
	write("twice/b.yaml", carrierView)
	fails(`view "delays" is defined twice`, "apply", "-f", dir+"/twice")
	write("none/a.txt", "")
	fails("none has no .yaml, .yml or .json files", "apply", "-f", dir+"/none")
	fails("no such file", "apply", "-f", dir+"/nowhere")
	fails(`"filename" not set`, "apply")
	fails("the body defines nothing", "apply", "-f", write("empty.yaml", "---\n"))
}
