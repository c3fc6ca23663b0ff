package monitoring

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// dashboard is what Grafana's model of a dashboard must have.
type dashboard struct {
	ID            *int
	UID, Title    string
	SchemaVersion int
	Time          struct{ From, To string }
	Templating    struct {
		List []struct {
			Type, Name string
			Query      any
		}
	}
	Annotations *struct{ List []any }
	Panels      []struct {
		ID          int
		Type, Title string
		GridPos     struct{ H, W, X, Y int }
		Datasource  source
		FieldConfig *struct {
			Defaults  struct{ Unit string }
			Overrides []any
		}
		Options map[string]any
		Targets []struct {
			RefID, Expr, LegendFormat string
			Datasource                source
		}
	}
}

type source struct{ Type, UID string }

func TestBoardsAreWhatGrafanaImports(t *testing.T) {
	variable := regexp.MustCompile(`\$(\w+)`)
	uids := map[string]bool{}
	for _, b := range Boards() {
		text, err := b.JSON()
		if err != nil {
			t.Fatal(err)
		}
		var d dashboard
		if err := json.Unmarshal(text, &d); err != nil {
			t.Fatal(err)
		}
		if d.ID != nil || d.UID == "" || len(d.UID) > 40 || uids[d.UID] || d.Title == "" || d.SchemaVersion < 36 || d.Time.From == "" || d.Annotations == nil {
			t.Errorf("%s: got %+v", d.UID, d)
		}
		uids[d.UID] = true
		known := map[string]bool{"__rate_interval": true}
		for _, v := range d.Templating.List {
			if v.Name == "" || v.Type != "datasource" && v.Type != "query" || v.Query == nil {
				t.Errorf("%s: got the variable %+v", d.UID, v)
			}
			known[v.Name] = true
		}
		ids, taken := map[int]bool{}, map[[2]int]string{}
		for _, p := range d.Panels {
			if ids[p.ID] || p.ID < 1 || p.Title == "" {
				t.Errorf("%s: panel %d %q: ids have to differ, and titles to be there", d.UID, p.ID, p.Title)
			}
			ids[p.ID] = true
			if p.GridPos.X+p.GridPos.W > 24 || p.GridPos.W < 1 || p.GridPos.H < 1 {
				t.Errorf("%s: %q lies at %+v", d.UID, p.Title, p.GridPos)
			}
			for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
				for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
					if other, ok := taken[[2]int{x, y}]; ok {
						t.Fatalf("%s: %q lies on %q", d.UID, p.Title, other)
					}
					taken[[2]int{x, y}] = p.Title
				}
			}
			if p.Type == "row" {
				continue
			}
			if !slices.Contains([]string{"timeseries", "stat", "bargauge"}, p.Type) || p.Datasource != (source{"prometheus", "${datasource}"}) || p.FieldConfig == nil || p.FieldConfig.Defaults.Unit == "" || len(p.Options) == 0 || len(p.Targets) == 0 {
				t.Errorf("%s: got %+v", d.UID, p)
			}
			refs := map[string]bool{}
			for _, q := range p.Targets {
				if refs[q.RefID] || q.RefID == "" || q.LegendFormat == "" || q.Datasource != p.Datasource {
					t.Errorf("%s: %q: got %+v", d.UID, p.Title, q)
				}
				refs[q.RefID] = true
				for _, v := range variable.FindAllStringSubmatch(q.Expr, -1) {
					if !known[v[1]] {
						t.Errorf("%s: %q has no variable %s", d.UID, p.Title, v[0])
					}
				}
			}
		}
	}
}

// TestQueriesAreQueries has promtool read all queries, as if they were rules.
func TestQueriesAreQueries(t *testing.T) {
	var rules strings.Builder
	rules.WriteString("groups:\n  - name: boards\n    rules:\n")
	n := 0
	for _, b := range Boards() {
		for _, row := range b.Rows {
			for _, p := range row.Panels {
				for _, s := range p.Series {
					n++
					fmt.Fprintf(&rules, "      - {record: 'board:query_%d', expr: '%s'}\n", n, strings.ReplaceAll(s.Query, "$__rate_interval", "1m"))
				}
			}
		}
	}
	file := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "promtool", "check", "rules", file).CombinedOutput()
	const missing = "promtool is not on the PATH: apt-get install prometheus"
	switch {
	case errors.Is(err, exec.ErrNotFound) && os.Getenv("CI") == "":
		t.Skip("NOT TESTED: " + missing)
	case errors.Is(err, exec.ErrNotFound):
		t.Fatal(missing)
	case err != nil || !strings.Contains(string(out), fmt.Sprintf("%d rules found", n)):
		t.Errorf("%v: %s", err, out)
	}
}

// Every instrument says what it is, and has a name of its own.
func TestInstruments(t *testing.T) {
	all, err := Instruments("../../internal")
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for i := range all {
		name := all[i].Exported()
		if names[name] || all[i].Help == "" || !strings.HasSuffix(all[i].Help, ".") {
			t.Errorf("%s: names have to differ, and descriptions to be sentences: %q", name, all[i].Help)
		}
		names[name] = true
	}
	for _, name := range []string{"pilotlight_inference_request_duration_seconds", "pilotlight_inference_stage_seconds_total", "pilotlight_model_memory_bytes", "pilotlight_drift"} {
		if !names[name] {
			t.Errorf("%s is missing", name)
		}
	}
	if len(all) < 70 {
		t.Errorf("found %d instruments: this test sees too little", len(all))
	}
}
