package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/feature"
)

// What is imported can be applied as it is.
func TestImportFeast(t *testing.T) {
	yaml, err := run(t, "", "features", "import-feast", "../../internal/feast/testdata/registry.db")
	if err != nil {
		t.Fatal(err)
	}
	set, err := feature.Parse("imported", []byte(yaml))
	if err != nil || len(set.Views) != 5 {
		t.Fatalf("got %v and %d views, want 5: %s", err, len(set.Views), yaml)
	}
	file := filepath.Join(t.TempDir(), "features.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := run(t, "", "features", "apply", "-f", file, "--server", featureServer(t)); err != nil || !strings.Contains(out, "this is version 1") {
		t.Errorf("got %q, %v", out, err)
	}
	if _, err := run(t, "", "features", "import-feast", file); err == nil || !strings.Contains(err.Error(), "no Feast registry") && !strings.Contains(err.Error(), "protobuf") {
		t.Errorf("a file that is no registry: got %v", err)
	}
}
