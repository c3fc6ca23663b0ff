package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/model"
)

const profileTime = 10 * time.Second

// profiled shows where the server's time goes for requests in JSON.
func (b *bench) profiled(ctx context.Context) error {
	flights := func(p *process) (request, error) {
		s, err := samples["flights"](b.root, b.dir)
		if err != nil {
			return request{}, err
		}
		return b.push(ctx, p, &s)
	}
	trees := func(p *process) (request, error) {
		j := allJobs()[0]
		if err := j.open(ctx, b); err != nil {
			return request{}, err
		}
		settings := model.Settings{Batching: model.Batching{MaxRows: j.rows}}
		return j.requestIn(v2JSON), p.publishWith(ctx, j.model, j.path, settings)
	}
	err := b.profile(ctx, "flights", many, flights)
	if err != nil {
		return err
	}
	return b.profile(ctx, "tree ensemble", crowd, trees)
}

func (b *bench) profile(ctx context.Context, title string, callers int, publish func(*process) (request, error)) error {
	progress("profile: %s, %s", title, profileTime)
	file := filepath.Join(b.dir, "cpu.pprof")
	p, err := b.start(ctx, launch{args: []string{b.self, "child", "profile", file}, env: []string{"MODEL_CACHE_DIR=" + b.dir + "/profile"}, ready: "/readyz"})
	if err != nil {
		return err
	}
	r, err := publish(p)
	var l load
	if err == nil {
		l, err = p.run(ctx, r, callers, profileTime)
	}
	if err := errors.Join(err, p.stop()); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "go", "tool", "pprof", "-top", "-cum", "-nodecount", "60", b.self, file).Output()
	if err != nil {
		return err
	}
	b.report.section(fmt.Sprintf("Where the server's time goes: %s in JSON, %d callers", title, callers))
	b.report.add("%s of processor time a request.\n\n```\n%s```\n", micros(l.cpu/time.Duration(l.answers)),
		strings.ReplaceAll(string(out), "github.com/pilotlight-ml/pilotlight/internal/", ""))
	return nil
}
