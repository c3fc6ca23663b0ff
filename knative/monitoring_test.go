package knative

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/metric"
	"sigs.k8s.io/yaml"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/knative/monitoring"
)

// tool runs one of the programs by which those of Prometheus check their files. Without it the
// test is skipped, in CI it fails.
func tool(t *testing.T, name, from string, args ...string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	missing := name + " is not on the PATH: apt-get install " + from
	switch {
	case errors.Is(err, exec.ErrNotFound) && os.Getenv("CI") == "":
		t.Skip("NOT TESTED: " + missing)
	case errors.Is(err, exec.ErrNotFound):
		t.Fatal(missing)
	case err != nil:
		t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

func TestPrometheusRules(t *testing.T) {
	tool(t, "promtool", "prometheus", "check", "rules", "monitoring/rules.yaml")
	tool(t, "promtool", "prometheus", "test", "rules", "monitoring/rules_test.yaml")
}

func TestAlertmanagerConfiguration(t *testing.T) {
	tool(t, "amtool", "prometheus-alertmanager", "check-config", "monitoring/alertmanager.yaml")
	for severity, receiver := range map[string]string{"page": "pages", "ticket": "tickets"} {
		tool(t, "amtool", "prometheus-alertmanager", "config", "routes", "test", "--config.file=monitoring/alertmanager.yaml", "--verify.receivers="+receiver, "severity="+severity)
	}
}

// TestPrometheusConfiguration checks all but the discovery of pods, which promtool of Debian does not know.
func TestPrometheusConfiguration(t *testing.T) {
	var config map[string]any
	readYAML(t, "monitoring/prometheus.yaml", &config)
	for _, s := range config["scrape_configs"].([]any) {
		delete(s.(map[string]any), "kubernetes_sd_configs")
	}
	b, err := yaml.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	rules, err := os.ReadFile("monitoring/rules.yaml")
	if err := errors.Join(err, os.WriteFile(filepath.Join(dir, "prometheus.yaml"), b, 0o600), os.WriteFile(filepath.Join(dir, "rules.yaml"), rules, 0o600)); err != nil {
		t.Fatal(err)
	}
	tool(t, "promtool", "prometheus", "check", "config", filepath.Join(dir, "prometheus.yaml"))
}

func readYAML(t *testing.T, file string, v any) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(b, v); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

var (
	quoted     = regexp.MustCompile(`"[^"]*"`)
	identifier = regexp.MustCompile(`[a-zA-Z_:][a-zA-Z0-9_:]*`)
	matched    = regexp.MustCompile(`([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)"`)
	grouped    = regexp.MustCompile(`by \(([^)]*)\)`)
)

// TestRulesAreAboutWhatIsExported compares the metrics and labels that the rules name
// with those that the code has, so that whoever renames one hears of it.
func TestRulesAreAboutWhatIsExported(t *testing.T) {
	metrics, labels := exported(t)
	for _, l := range []string{"job", "le"} { // which Prometheus itself gives
		labels[l] = true
	}
	var rules struct {
		Groups []struct {
			Rules []struct{ Record, Expr string }
		}
	}
	readYAML(t, "monitoring/rules.yaml", &rules)
	recorded := map[string]bool{}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			recorded[r.Record] = true
		}
	}
	var queries []string
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			queries = append(queries, r.Expr)
		}
	}
	for _, b := range monitoring.Boards() {
		for _, row := range b.Rows {
			for _, p := range row.Panels {
				for _, s := range p.Series {
					queries = append(queries, s.Query)
				}
			}
		}
	}
	named := 0
	for _, query := range queries {
		for _, name := range identifier.FindAllString(quoted.ReplaceAllString(query, ""), -1) {
			switch {
			case strings.Contains(name, ":"):
				if !recorded[name] {
					t.Errorf("%s is not recorded", name)
				}
			case strings.HasPrefix(name, "pilotlight_"), strings.HasPrefix(name, "http_server_"):
				named++
				if !metrics[name] {
					t.Errorf("%s is not exported by any function", name)
				}
			}
		}
		for _, m := range matched.FindAllStringSubmatch(query, -1) {
			if !labels[m[1]] {
				t.Errorf("no metric has the label %s: %s", m[1], query)
			}
		}
		for _, m := range grouped.FindAllStringSubmatch(query, -1) {
			for l := range strings.SplitSeq(m[1], ",") {
				if l = strings.TrimSpace(l); !labels[l] {
					t.Errorf("no metric has the label %s: %s", l, query)
				}
			}
		}
	}
	if named < 100 || len(metrics) < 100 {
		t.Errorf("found %d names in queries, and %d exported ones: this test sees too little", named, len(metrics))
	}
}

// exported gives the names of metrics and labels as /metrics of a running server has them. Most
// metrics are there only once something has happened; so each instrument that the code makes
// is made here, with the same name and unit, and has one value.
func exported(t *testing.T) (metrics, labels map[string]bool) {
	t.Helper()
	labels = labelled(t)
	instruments, err := monitoring.Instruments("../internal")
	if err != nil {
		t.Fatal(err)
	}
	f := serve.Function{Name: "test", Wire: func(ctx context.Context, p *serve.Process) error {
		p.Mux.HandleFunc("GET /x", func(w http.ResponseWriter, r *http.Request) { serve.Error(w, r, fault.New(fault.NotFound, "nothing")) })
		for i := range instruments {
			if err := measure(ctx, p.Tel.Meter, &instruments[i]); err != nil {
				return err
			}
		}
		return nil
	}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p, err := f.Start(ctx, map[string]string{"PORT": "0", "LOG_LEVEL": "ERROR"})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	read := func(path string) string {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.Server().Addr().String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	read("/x")
	metrics = map[string]bool{}
	for line := range strings.Lines(read("/metrics")) {
		name, rest, _ := strings.Cut(line, "{")
		metrics[strings.Fields(name)[0]] = true
		if strings.HasPrefix(name, "http_server_") {
			for _, m := range matched.FindAllStringSubmatch(rest, -1) {
				labels[m[1]] = true
			}
		}
	}
	for i := range instruments { // the table of metrics says the same names
		for _, name := range instruments[i].Series() {
			if !metrics[name] {
				t.Errorf("%s is exported by another name than %s", instruments[i].Name, name)
			}
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	return metrics, labels
}

// labelled gives the labels that the code makes, and those that every alert of Prometheus has.
func labelled(t *testing.T) map[string]bool {
	t.Helper()
	labels := map[string]bool{"alertname": true, "alertstate": true, "error_type": true}
	err := filepath.WalkDir("../internal", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, m := range attributes.FindAllStringSubmatch(string(source), -1) {
			labels[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return labels
}

var attributes = regexp.MustCompile(`attribute\.[A-Z]\w*\("([a-z_.]+)"`)

// measure makes an instrument and gives it a value. Observable or not, one of a kind has the same name.
func measure(ctx context.Context, meter metric.Meter, i *monitoring.Instrument) error {
	switch i.Kind {
	case "Counter":
		c, err := meter.Float64Counter(i.Name, metric.WithUnit(i.Unit))
		if err == nil {
			c.Add(ctx, 1)
		}
		return err
	case "Gauge":
		g, err := meter.Float64Gauge(i.Name, metric.WithUnit(i.Unit))
		if err == nil {
			g.Record(ctx, 1)
		}
		return err
	}
	h, err := meter.Float64Histogram(i.Name, metric.WithUnit(i.Unit))
	if err == nil {
		h.Record(ctx, 1)
	}
	return err
}
