package telemetry_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

func TestApart(t *testing.T) {
	a := telemetry.NewApart(2)
	for _, test := range []struct{ name, version, wantName, wantVersion string }{
		{"a", "1", "a", "1"},
		{"b", "1", "b", "1"},
		{"a", "2", "a", "other"},
		{"c", "1", "other", "other"},
		{"a", "1", "a", "1"},
	} {
		if name, version := a.Version(test.name, test.version); name != test.wantName || version != test.wantVersion {
			t.Errorf("%s:%s: got %s:%s, want %s:%s", test.name, test.version, name, version, test.wantName, test.wantVersion)
		}
	}
	if got := a.Model("c"); got != "other" {
		t.Errorf("got model %q, want other", got)
	}
	var all *telemetry.Apart
	if got := all.Model("c"); got != "c" {
		t.Errorf("without a bound: got %q, want c", got)
	}
}

func TestApartIsBoundedForAllTogether(t *testing.T) {
	a := telemetry.NewApart(100)
	var wait sync.WaitGroup
	var mu sync.Mutex
	models, versions := map[string]bool{}, map[[2]string]bool{}
	for g := range 8 {
		wait.Go(func() {
			for i := range 2000 {
				name, version := a.Version(fmt.Sprint("m", (i*7+g)%1000), fmt.Sprint(i%3))
				mu.Lock()
				models[name], versions[[2]string{name, version}] = true, true
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	if len(models) > 101 || len(versions) > 100+101 {
		t.Errorf("got %d models and %d versions of 3000, want 101 and 201 at most", len(models), len(versions))
	}
}
