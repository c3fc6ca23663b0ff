package main

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const profileTime = 10 * time.Second

// profiled shows where the server's time goes for flights in JSON.
func (b *bench) profiled(ctx context.Context) error {
	progress("profile: %s", profileTime)
	file := filepath.Join(b.dir, "cpu.pprof")
	p, err := b.start(ctx, launch{args: []string{b.self, "child", "profile", file}, env: []string{"MODEL_CACHE_DIR=" + b.dir + "/profile"}, ready: "/readyz"})
	if err != nil {
		return err
	}
	s, err := samples["flights"](b.root, b.dir)
	if err == nil {
		err = b.profileLoad(ctx, p, &s)
	}
	if err := errors.Join(err, p.stop()); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "go", "tool", "pprof", "-top", "-cum", "-nodecount", "45", b.self, file).Output()
	if err != nil {
		return err
	}
	b.report.section("Where the server's time goes: flights in JSON")
	b.report.add("```\n%s```\n", strings.ReplaceAll(string(out), "github.com/pilotlight-ml/pilotlight/internal/", ""))
	return nil
}

func (b *bench) profileLoad(ctx context.Context, p *process, s *sample) error {
	r, err := b.push(ctx, p, s)
	if err != nil {
		return err
	}
	_, err = p.run(ctx, r, many, profileTime)
	return err
}
