package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/pipeline"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

// saying is a step that says something, and fails or waits if it is told to.
type saying struct{ Text string }

func (s *saying) Run(ctx context.Context, t *pipeline.Task) error {
	t.Progress(3, 4, "rows")
	t.Log.InfoContext(ctx, s.Text+"\x1b[2J", "n", 1)
	switch s.Text {
	case "fail":
		return fault.New(fault.Invalid, "there is no\x1b[2J model")
	case "wait":
		return pipeline.Later(time.Hour, "there is no traffic")
	}
	return nil
}

// direct is a sink that has the events of runs handled behind the sender's back.
type direct struct{ events *event.Mux }

func (d *direct) Send(ctx context.Context, events ...event.Event) error {
	for _, e := range events {
		go func() { _ = d.events.Handle(context.WithoutCancel(ctx), &e) }()
	}
	return nil
}

func TestPipelines(t *testing.T) {
	blob, err := memstore.OpenBlob(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		t.Fatal(err)
	}
	events, err := event.NewMux(tel)
	if err != nil {
		t.Fatal(err)
	}
	m, err := pipeline.New(&pipeline.Config{Steps: "process", Lease: 30 * time.Second, Turn: time.Minute, Keep: time.Hour}, pipeline.Deps{Blob: blob, Sink: &direct{events}, Kinds: []pipeline.Kind{{
		Name: "say", New: func(with yamlwire.Node) (pipeline.Step, error) {
			var of struct {
				Text string `yaml:"text"`
			}
			err := with.Into(&of, "with")
			return &saying{of.Text}, err
		},
	}}}, tel)
	if err != nil {
		t.Fatal(err)
	}
	m.Hear(events)
	mux := http.NewServeMux()
	m.Register(mux)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	changing := regexp.MustCompile(`[0-9]{8}T[0-9.]+-[0-9a-f]{8}|\d+(\.\d+)?[mµn]?s\b|\d\d:\d\d:\d\d|[^ ]+/\d+/[a-z0-9]{8}`)
	running := regexp.MustCompile(`(?m)^  a: running.*\n`)
	do := func(in string, args ...string) (string, error) {
		out, err := run(t, in, append([]string{"pipeline", "--server", server.URL}, args...)...)
		out = strings.ReplaceAll(out, whoami(), "ME")
		out = running.ReplaceAllString(out, "") // which may be over before anybody looks
		return gaps.ReplaceAllString(changing.ReplaceAllString(times.ReplaceAllString(out, "TIME"), "X"), "  "), err
	}
	prints := func(want, in string, args ...string) {
		t.Helper()
		if got, err := do(in, args...); err != nil || got != gaps.ReplaceAllString(want, "  ") {
			t.Errorf("%q: got\n%s%v, want\n%s", args, got, err, want)
		}
	}
	fails := func(want, in string, args ...string) {
		t.Helper()
		if got, err := do(in, args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %q, %v, want the error %q", args, got, err, want)
		}
	}
	const two = "pipeline: good\nabout: says good things\nsteps:\n  - {name: a, use: say, with: {text: good}}\n---\npipeline: bad\nsteps:\n  - {name: a, use: say}\n  - {name: b, use: say, after: [a], with: {text: fail}}\n"
	prints("pipeline good: this would become version 1\npipeline bad: this would become version 1\n", two, "apply", "-f", "-", "--dry-run")
	prints("pipeline good: this is version 1\npipeline bad: this is version 1\n", two, "apply", "-f", "-")
	prints("pipeline good: nothing differs from version 1\npipeline bad: nothing differs from version 1\n", two, "apply", "-f", "-")
	fails("standard input:9:3: ", strings.Replace(two, "steps:\n  - {name: a, use: say}", "steps:\n  nonsense: 1", 1), "apply", "-f", "-")
	fails("pipeline good: step a: there is no kind of steps \"sai\", but say", strings.Replace(two, "use: say", "use: sai", 1), "apply", "-f", "-")
	fails("there are no pipelines", "# nothing\n", "apply", "-f", "-")
	prints("run X of good has begun\n  a: succeeded after X\nsucceeded after X\n", "", "run", "good")
	fails("the run of bad is failed: step b: there is no [2J model", "", "run", "bad")
	prints("PIPELINE  VERSION  RUN  STATE  TOOK  WHAT\nbad  1  X  failed  X  step b: there is no [2J model\ngood  1  X  succeeded  X  says good things\n", "", "list")
	prints("X  a  good [2J  n=1\n", "", "logs", "good", "--follow")
	prints("run X of bad, version 1: failed after X\nstep b: there is no [2J model\nSTEP  USE  STATE  TRIES  TOOK  WHY\na  say  succeeded  1  X  \nb  say  failed  1  X  there is no [2J model\n"+
		"TIME  ME  started\nTIME  X  step a succeeded\nTIME  X  step b failed\nTIME  X  ended: failed\n", "", "show", "bad", "latest")
	prints("# version 1, applied TIME by ME\npipeline: good\nabout: says good things\nsteps:\n  - {name: a, use: say, with: {text: good}}\n\nRUN  STATE  TOOK  STARTED BY  WHY\nX  succeeded  X  ME  \n", "", "show", "good")
	prints("pipeline good: this is version 2\n", "pipeline: good\nsteps:\n  - {name: a, use: say, with: {text: wait}}\n", "apply", "-f", "-")
	prints("run X of good has begun\n", "", "run", "good", "--detach")
	for out := ""; !strings.Contains(out, ": waiting"); out, err = do("", "show", "good", "latest") {
		if err != nil {
			t.Fatal(err)
		}
	}
	fails("is under way; wait for its end, or cancel it", "", "run", "good")
	prints("run X of good is canceled\n", "", "cancel", "good")
	fails("has ended already: canceled", "", "cancel", "good")
	if out, err := do("", "logs", "bad", "-o", "json"); err != nil || !strings.Contains(out, `"progress":{"done":3,"total":4,"unit":"rows"}`) {
		t.Errorf("got %s, %v", out, err)
	}
	fails("there is no pipeline none", "", "show", "none")
}
