package main

import (
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/predict/predicttest"
)

// The card of a version that a pipeline made, and the lack of one of others.
func TestShowCard(t *testing.T) {
	c := cli{t, predicttest.Start(t, nil, nil)}
	for _, file := range [][]byte{same, neg} {
		if _, err := run(t, "", "model", "push", "m", write(t, file), "--server", c.s.URL); err != nil {
			t.Fatal(err)
		}
	}
	const card = `{"model":"m","version":2,"pipeline":"flights","run":"7","verdict":{"passed":true,"why":"it is better","against":1,"checks":[{"name":"size","passed":true,"why":"it is small"}]},
		"metrics":[{"metric":"auc","better":"higher","candidate":{"value":0.8,"n":10,"interval":{"low":0.7,"high":0.9}},"champion":{"value":0.7,"n":10},"worse":{"value":-0.1,"n":10}}]}`
	if err := c.s.Registry.PutCard(t.Context(), "m", 2, []byte(card)); err != nil {
		t.Fatal(err)
	}
	out, err := run(t, "", "model", "show", "m:2", "--card", "--server", c.s.URL)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# m:2\n", "Made by run 7 of the pipeline flights", "**Passed**: it is better.", "| auc | 0.8 (0.7 to 0.9) | 0.7 | -0.1 |", "- [x] size: it is small"} {
		if !strings.Contains(out, want) {
			t.Errorf("the card does not say %q:\n%s", want, out)
		}
	}
	for ref, want := range map[string]string{"m": "version 1 of model \"m\" has no card", "m:9": "no version 9", "m:best": "no version or alias", "a b": "model name"} {
		if _, err := run(t, "", "model", "show", ref, "--card", "--server", c.s.URL); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", ref, err)
		}
	}
}
