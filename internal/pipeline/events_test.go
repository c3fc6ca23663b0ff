package pipeline

import (
	"slices"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/triggers"
)

// What definitions may name is what the triggers bring: what they do not bring would never come, and what nobody may
// name would wake the function for nothing.
func TestTheTriggersBringWhatStartsPipelines(t *testing.T) {
	b, err := triggers.Files.ReadFile("240-pipeline.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(b), `cesql: "type IN (`)
	brought, _, closed := strings.Cut(rest, `)"`)
	if !ok || !closed {
		t.Fatal("the first trigger has no such filter")
	}
	var got, want []string
	for name := range strings.SplitSeq(brought, ",") {
		got = append(got, strings.Trim(name, " '"))
	}
	for _, s := range starters {
		want = append(want, s.Name)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the trigger brings %q, definitions may name %q", got, want)
	}
}
