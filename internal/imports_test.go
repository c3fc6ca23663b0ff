package internal_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/pilotlight-ml/pilotlight"

// levels says which packages may know which: an import must point to a lower
// level. Folders below a package are its backends and contracts: they import
// their parent's level, and never each other.
var levels = []struct {
	packages string
	why      string
}{
	{"cgroup env fault telemetry", "the ground: the standard library and one third-party client each"},
	{"chart jsonwire onnxwire row tensor yamlwire", "values, how JSON, YAML and ONNX write them, and how they look, know only the ground"},
	{"drift duck engine event feast oip quality sequential store tfserving window", "ports and wire formats know values, not each other"},
	{"alert cache course ledger model queue segment serve span", "what mains compose flows of"},
	{"modelcard payload pulse rollout rpc", "how a version came to be, what was predicted, what is answered now, who answers it, and gRPC on the server"},
	{"auth console", "who may do what, by every protocol, and pages made of what they may see"},
	{"limit", "how much they may ask for"},
	{"feature pipeline", "features are asked for by other flows, and pipelines run what mains give them"},
	{"deadletter feedback gate offline predict", "flows"},
	{"train", "what a training set is, and how a model is made of it"},
	{"etl evaluation release", "the other steps of pipelines"},
	{"step", "all of them, for mains"},
}

// sideways are the imports within a level that are meant.
var sideways = map[string]string{
	"alert":                "serve",
	"engine/enginetest":    "engine",
	"engine/onnx":          "engine cgroup",
	"event/bus":            "event store",
	"event/eventtest":      "event",
	"engine/onnx/onnxtest": "engine engine/onnx",
	"jsonwire":             "tensor",
	"onnxwire":             "tensor",
	"row":                  "jsonwire",
	"predict/predicttest":  "predict engine/onnx/onnxtest store/memstore",
	"span":                 "serve",
	"telemetry":            "env telemetry/epoch",
	"train":                "train/command",
}

// owners says who alone may import a module, and why.
var owners = []struct{ module, owner, why string }{
	{"github.com/redis/go-redis", "internal/store/redisstore", "a backend hides its client"},
	{"github.com/aws/", "internal/store/s3store", "a backend hides its client"},
	{"go.etcd.io/bbolt", "internal/store/diskstore", "a backend hides its client"},
	{"github.com/yalue/onnxruntime_go", "internal/engine/onnx", "a runtime hides its binding"},
	{"github.com/GoogleCloudPlatform/functions-framework-go", "functions", "handlers are registered by mains"},
	{"cel.dev/", "internal/feature", "only features are expressed"},
	{"github.com/duckdb/", "internal/duck", "one place has DuckDB and its limits"},
	{"github.com/spf13/cobra", "cmd", "only the client has commands"},
	{"github.com/cloudevents/", "internal/event", "flows know events, not the SDK"},
	{"knative.dev/eventing", "internal/event/bus", "only the broker in the process filters as Knative's does"},
	{"knative.dev/serving", "internal/rollout", "elsewhere manifests say it, and tests check them: images stay small"},
	{"google.golang.org/grpc", "test", "internal/rpc serves it on net/http; grpc-go is the client of tests"},
	{"sigs.k8s.io/kustomize", "test", "kustomize is for tests"},
	{"sigs.k8s.io/yaml", "internal/event/bus", "manifests are read by the cluster and by the broker in the process"},
	{"k8s.io/client-go", "internal/rollout", "only what moves traffic talks to Kubernetes"},
}

type listed struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

func TestImportsPointDown(t *testing.T) {
	level := map[string]int{}
	for i, l := range levels {
		for _, p := range strings.Fields(l.packages) {
			level[p] = i
		}
	}
	for _, p := range list(t) {
		rel := strings.TrimPrefix(p.ImportPath, module+"/")
		for _, imported := range p.Imports {
			for _, o := range owners {
				owns := strings.HasPrefix(rel, o.owner) || strings.HasPrefix(rel, "examples/") || // which are no part of the system
					o.owner == "test" && strings.HasSuffix(rel, "test")
				if strings.HasPrefix(imported, o.module) && !owns {
					t.Errorf("%s imports %s, which only %s may: %s", rel, imported, o.owner, o.why)
				}
			}
			from, inside := strings.CutPrefix(rel, "internal/")
			to, ours := strings.CutPrefix(imported, module+"/")
			if !inside || !ours {
				continue
			}
			to = strings.TrimPrefix(to, "internal/")
			if slices.Contains(strings.Fields(sideways[from]), to) || path.Dir(from) == to {
				continue
			}
			fromTop, toTop := strings.Split(from, "/")[0], strings.Split(to, "/")[0]
			low, known := level[toTop]
			high, placed := level[fromTop]
			switch {
			case !placed:
				t.Errorf("internal/%s has no level; give it one in this test", fromTop)
			case !known:
				t.Errorf("%s imports %s, which is nothing that packages under internal may know", from, to)
			case strings.Contains(to, "/") && fromTop != toTop:
				t.Errorf("%s imports %s: only mains name backends and runtimes", from, to)
			case low >= high:
				t.Errorf("%s (level %d: %s) imports %s (level %d: %s): imports point down", from, high, levels[high].why, to, low, levels[low].why)
			}
		}
	}
}

func list(t *testing.T) []listed {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", module+"/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}
