package bus

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	sqlerrors "github.com/cloudevents/sdk-go/sql/v2/errors"
	"github.com/cloudevents/sdk-go/sql/v2/parser"
	"github.com/cloudevents/sdk-go/v2/binding/spec"
	fixtures "github.com/cloudevents/sdk-go/v2/test"
	"knative.dev/eventing/pkg/eventfilter"
	"knative.dev/eventing/pkg/eventfilter/subscriptionsapi"
	"sigs.k8s.io/yaml"

	"github.com/pilotlight-ml/pilotlight/internal/event"
)

// TestCESQLConformance runs the conformance cases that come with the library, on the version of it that the filters
// use; what is true or false also goes through the filter of a trigger.
func TestCESQLConformance(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/cloudevents/sdk-go/sql/v2").Output()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "test/tck/*.yaml"))
	if err != nil || len(files) < 18 {
		t.Fatalf("got %d files of cases, want 18: %v", len(files), err)
	}
	kinds := map[string]func(error) bool{
		"parse": sqlerrors.IsParseError, "math": sqlerrors.IsMathError, "cast": sqlerrors.IsCastError,
		"missingFunction": sqlerrors.IsMissingFunctionError, "functionEvaluation": sqlerrors.IsFunctionEvaluationError,
		"missingAttribute": sqlerrors.IsMissingAttributeError, "generic": sqlerrors.IsGenericError,
	}
	cases, filtered := 0, 0
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var tck struct {
			Tests []struct {
				Name, Expression, Error string
				Result                  any
				Event                   *event.Event
				EventOverrides          map[string]any
			}
		}
		if err := yaml.Unmarshal(b, &tck); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for _, c := range tck.Tests {
			cases++
			where := filepath.Base(file) + ", " + c.Name + ", " + c.Expression
			if c.Error == "parse" {
				if parse(c.Expression) == nil {
					t.Errorf("%s: it parses", where)
				}
				continue
			}
			e := fixtures.FullEvent()
			if c.Event != nil {
				e = *c.Event
			}
			e.SetSpecVersion("1.0")
			for name, value := range c.EventOverrides {
				if err := spec.V1.SetAttribute(e.Context, name, value); err != nil {
					t.Fatalf("%s: %v", where, err)
				}
			}
			expression, err := parser.Parse(c.Expression)
			if err != nil {
				t.Errorf("%s: %v", where, err)
				continue
			}
			got, err := expression.Evaluate(e)
			if number, ok := c.Result.(float64); ok { // as all numbers of JSON are
				c.Result = int64(number)
			}
			switch {
			case c.Error != "" && (err == nil || !kinds[c.Error](err)), c.Error == "" && err != nil:
				t.Errorf("%s: got error %v, want %q", where, err, c.Error)
			case c.Result != nil && fmt.Sprint(got) != fmt.Sprint(c.Result):
				t.Errorf("%s: got %v, want %v", where, got, c.Result)
			}
			if want, ok := c.Result.(bool); ok && c.Error == "" {
				filtered++
				filter, err := subscriptionsapi.NewCESQLFilter(c.Expression)
				if err != nil {
					t.Errorf("%s: %v", where, err)
				} else if pass := filter.Filter(t.Context(), e) == eventfilter.PassFilter; pass != want {
					t.Errorf("%s: the filter lets it pass: %t", where, pass)
				}
			}
		}
	}
	t.Logf("%d cases, %d of them also as filters", cases, filtered)
}
