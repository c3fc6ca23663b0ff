package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding"
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/pilotlight-ml/pilotlight/internal/alert"
	"github.com/pilotlight-ml/pilotlight/internal/auth"
	"github.com/pilotlight-ml/pilotlight/internal/deadletter"
	"github.com/pilotlight-ml/pilotlight/internal/drift"
	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/etl"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/feedback"
	"github.com/pilotlight-ml/pilotlight/internal/limit"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/modelcard"
	"github.com/pilotlight-ml/pilotlight/internal/offline"
	"github.com/pilotlight-ml/pilotlight/internal/oip"
	"github.com/pilotlight-ml/pilotlight/internal/pipeline"
	"github.com/pilotlight-ml/pilotlight/internal/predict"
	"github.com/pilotlight-ml/pilotlight/internal/pulse"
	"github.com/pilotlight-ml/pilotlight/internal/rollout"
	"github.com/pilotlight-ml/pilotlight/internal/span"
	"github.com/pilotlight-ml/pilotlight/internal/tfserving"
)

// described is docs/openapi.yaml.
type described struct {
	Paths      map[string]map[string]json.RawMessage
	Components struct{ Schemas map[string]*schema }
}

// schema is what the tests look at of a JSON Schema.
type schema struct {
	Ref                  string `json:"$ref"`
	Required             []string
	Properties           map[string]*schema
	Items                *schema
	AdditionalProperties json.RawMessage
}

func describedHere(t *testing.T) *described {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, "docs/openapi.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	d := &described{}
	if err := yaml.Unmarshal(b, d); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestOpenAPIHolds has schemathesis ask every operation of docs/openapi.yaml: each answer must be one that is described, and none of them a defect's.
func TestOpenAPIHolds(t *testing.T) {
	python, err := filepath.Abs(filepath.Join(root, ".venv-schemathesis/bin/python")) // it runs in another folder
	if err == nil {
		_, err = os.Stat(python)
	}
	if err != nil {
		const how = "no Python environment with schemathesis: run `make schemathesis`"
		if os.Getenv("CI") != "" {
			t.Fatal(how)
		}
		t.Skip(how)
	}
	url, _ := start(t, map[string]string{"SEED": filepath.Join(root, "examples/flights"), "PAYLOAD_LOG": "on", "LOG_LEVEL": "ERROR"})
	upload(t, url, "fraud", onnxtest.Simple(-1).Bytes())
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, python, filepath.Join(root, "test/conformance/openapi.py"), strings.TrimPrefix(url, "http://"), "10").CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
	// Events are handled behind their answers, where a defect is a status that has the broker try again.
	_, metrics := call(t, "GET", url+"/metrics", nil)
	for line := range strings.Lines(metrics) {
		if strings.Contains(line, `error_type="internal"`) || strings.HasPrefix(line, "pilotlight_events_received_total") && strings.Contains(line, `status="503"`) {
			t.Errorf("a defect was counted: %s", line)
		}
	}
	request, err := os.ReadFile(filepath.Join(root, "examples/flights/request.json"))
	if err != nil {
		t.Fatal(err)
	}
	if status, body := call(t, "POST", url+"/v2/models/flights/infer", bytes.NewReader(request)); status != http.StatusOK {
		t.Errorf("after that, a request got %d %s", status, body)
	}
}

// patterns lists what a mux serves. net/http does not tell, so this looks into what it keeps to find patterns that conflict.
func patterns(t *testing.T, mux *http.ServeMux) []string {
	t.Helper()
	index := reflect.ValueOf(mux).Elem().FieldByName("index")
	lists := []reflect.Value{index.FieldByName("multis")}
	for segments := index.FieldByName("segments").MapRange(); segments.Next(); {
		lists = append(lists, segments.Value())
	}
	var all []string
	for _, list := range lists {
		for i := range list.Len() {
			all = append(all, list.Index(i).Elem().FieldByName("str").String())
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

var placeholder = regexp.MustCompile(`\{[^}]*\}`)

// TestOpenAPIHasTheRoutes compares the paths of docs/openapi.yaml with those that are served, both ways.
func TestOpenAPIHasTheRoutes(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	process, err := function(nil).Start(ctx, map[string]string{
		"PORT": "0", "LOG_LEVEL": "WARN", "ORT_LIB": onnxtest.Library(t), "MODEL_CACHE_DIR": t.TempDir(), "AUTH": "on", "EVENTS_FROM": "anyone", "DATA_DIR": t.TempDir(),
	})
	cancel()
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Run(ctx); err != nil { // which closes it
		t.Fatal(err)
	}
	served := map[string]bool{"GET /healthz": true, "GET /readyz": true, "GET /metrics": true} // by internal/serve itself
	for _, pattern := range patterns(t, process.Mux) {
		method, path, _ := strings.Cut(pattern, " ")
		if first, _, _ := strings.Cut(path[1:], "/"); strings.Contains(first, ".") || first == "console" {
			continue // a service of gRPC, or pages for people
		}
		if path = strings.TrimSuffix(path, "{$}"); path != "/" {
			path = strings.TrimSuffix(path, "/")
		}
		served[method+" "+placeholder.ReplaceAllString(path, "{}")] = true
	}
	told := map[string]bool{}
	for path, item := range describedHere(t).Paths {
		for method := range item {
			if method != "parameters" {
				path = strings.TrimSuffix(path, ":predict") // which is no segment of its own to a mux
				told[strings.ToUpper(method)+" "+placeholder.ReplaceAllString(path, "{}")] = true
			}
		}
	}
	got, want := slices.Sorted(maps.Keys(told)), slices.Sorted(maps.Keys(served))
	for _, route := range want {
		if !told[route] {
			t.Errorf("%s is served, and not in docs/openapi.yaml", route)
		}
	}
	for _, route := range got {
		if !served[route] {
			t.Errorf("%s is in docs/openapi.yaml, and not served", route)
		}
	}
	if len(want) < 50 {
		t.Errorf("got %d routes, so they are not found any more: %q", len(want), want)
	}
}

// TestOpenAPISchemasAreTheTypes compares the schemas with the types that are encoded and decoded: the names of fields, and which are always there.
func TestOpenAPISchemasAreTheTypes(t *testing.T) {
	c := comparison{t: t, schemas: describedHere(t).Components.Schemas, seen: map[reflect.Type]bool{}}
	for name, v := range map[string]any{
		"Live": oip.Live{}, "Ready": oip.Ready{}, "Names": oip.ModelList{}, "ServerMetadata": oip.ServerMetadata{}, "ModelMetadata": oip.ModelMetadata{},
		"ModelReady": oip.ModelReady{}, "ModelConfig": oip.ModelConfig{}, "IndexEntry": oip.IndexEntry{}, "Statistics": oip.Statistics{},
		"Alive": tfserving.Alive{}, "ModelStatus": tfserving.ModelStatus{}, "MetadataV1": tfserving.Metadata{},
		"ModelSummary": predict.ModelSummary{}, "ModelDetail": predict.ModelDetail{}, "Manifest": model.Manifest{}, "Card": modelcard.Card{}, "Move": model.Move{}, "Pulse": pulse.Live{},
		"AliasChange": predict.AliasChange{}, "PushSettings": predict.PushSettings{},
		"Pushed": feature.Result{}, "FeatureSet": feature.Set{}, "FeaturesChanged": feature.Changed{}, "Runs": offline.Runs{}, "Skew": offline.Skew{},
		"OutcomesTaken": feedback.Result{}, "Landed": etl.Landed{}, "Judgement": feedback.Judgement{}, "PredictionList": feedback.PredictionList{}, "Prediction": feedback.Prediction{}, "Freshness": offline.Freshness{}, "Drift": feedback.Drift{},
		"Rollout": rollout.Rollout{}, "Key": auth.Key{}, "Policy": limit.Policy{}, "AlertStatus": alert.Status{}, "Rules": alert.Rules{}, "RulesApplied": alert.Applied{},
		"PipelineSummary": pipeline.Summary{}, "Pipeline": pipeline.Detail{}, "PipelineApplied": pipeline.Applied{}, "PipelineRun": pipeline.Shown{}, "PipelineLog": pipeline.Log{}, "PipelinePage": pipeline.Page{}, "PipelineVersion": pipeline.Version{}, "EventTypes": event.Types{},
		"LetterSummary": deadletter.Summary{}, "Letter": deadletter.Letter{}, "TraceSummary": span.Summary{}, "Span": span.Span{},
	} {
		c.compare(name, &schema{Ref: "#/components/schemas/" + name}, reflect.TypeOf(v))
	}
	c.compare("Profile.columns", c.schemas["Profile"].Properties["columns"], reflect.TypeFor[[]drift.Column]())
}

// comparison walks through types and their schemas.
type comparison struct {
	t       *testing.T
	schemas map[string]*schema
	seen    map[reflect.Type]bool
}

var ownText = []reflect.Type{reflect.TypeFor[json.Marshaler](), reflect.TypeFor[encoding.TextMarshaler]()}

func (c *comparison) compare(at string, s *schema, goes reflect.Type) {
	for s != nil && s.Ref != "" {
		to := c.schemas
		var next *schema
		for i, part := range strings.Split(strings.TrimPrefix(s.Ref, "#/components/schemas/"), "/") {
			if i%2 == 0 { // the others are "properties"
				next = to[part]
				to = next.Properties
			}
		}
		s = next
	}
	if s == nil {
		c.t.Errorf("%s has no schema", at)
		return
	}
	for _, own := range ownText {
		if goes.Implements(own) || reflect.PointerTo(goes).Implements(own) {
			return
		}
	}
	switch goes.Kind() {
	case reflect.Pointer:
		c.compare(at, s, goes.Elem())
	case reflect.Slice:
		c.compare(at+"[]", s.Items, goes.Elem())
	case reflect.Map:
		values := &schema{}
		if s.AdditionalProperties != nil {
			if err := json.Unmarshal(s.AdditionalProperties, values); err != nil {
				c.t.Errorf("%s: %v", at, err)
			}
		}
		c.compare(at+"{}", values, goes.Elem())
	case reflect.Struct:
		if c.seen[goes] {
			return
		}
		c.seen[goes] = true
		fields := map[string]reflect.Type{}
		var required []string
		for _, f := range reflect.VisibleFields(goes) {
			tag, tagged := f.Tag.Lookup("json")
			name, options, _ := strings.Cut(tag, ",")
			if f.Anonymous && !tagged || !f.IsExported() || name == "-" {
				continue
			}
			name = cmp.Or(name, f.Name)
			fields[name] = f.Type
			if options != "omitempty" && options != "omitzero" {
				required = append(required, name)
			}
		}
		slices.Sort(required)
		slices.Sort(s.Required)
		if got, want := slices.Sorted(maps.Keys(s.Properties)), slices.Sorted(maps.Keys(fields)); !slices.Equal(got, want) {
			c.t.Errorf("%s has the properties %q, the fields of %s are %q", at, got, goes, want)
		}
		if !slices.Equal(s.Required, required) && !asked[goes] {
			c.t.Errorf("%s requires %q, always there of %s are %q", at, s.Required, goes, required)
		}
		for name, f := range fields {
			c.compare(at+"."+name, s.Properties[name], f)
		}
	}
}

// asked are types of requests, where what is not omitted when it is written may be left out all the same.
var asked = map[reflect.Type]bool{reflect.TypeFor[predict.AliasChange](): true, reflect.TypeFor[predict.PushSettings](): true, reflect.TypeFor[model.Quality](): true}
