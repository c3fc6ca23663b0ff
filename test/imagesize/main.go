// Command imagesize tells how large the images in an OCI layout are, and fails
// when one has grown past its limit: what a node has to pull is part of a cold
// start. `make images` calls it.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
)

// limits are for what an image adds to its base, compressed: bases differ. A
// tenth above what was measured (docs/knative.md), so that growth is noticed
// and decided on, such as by a template (docs/adr/0036).
var limits = map[string]uint64{
	"predict":    28 << 20, // 2 of them for expressions (CEL), 2 for Parquet, in which the payload log is written
	"features":   40 << 20, // DuckDB
	"feedback":   13 << 20, // Parquet; it reads the bucket without DuckDB
	"pipeline":   54 << 20, // DuckDB, as features has, and ONNX Runtime, as predict has: it tries what it trained
	"deadletter": 10 << 20,
	"gateway":    17 << 20, // OIDC, Redis and S3; the console, whose templates keep the linker from leaving methods out
	"all":        68 << 20, // DuckDB; Knative's filters come with all of client-go (docs/adr/0006)
}

// own is how many layers are ours: ko adds one of kodata and one of the program.
const own = 2

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: imagesize OCI-LAYOUT")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "imagesize:", err)
		os.Exit(1)
	}
}

type descriptor struct {
	Digest string `json:"digest"`
	Size   uint64 `json:"size"`
}

func run(layout string) error {
	var index struct{ Manifests []descriptor }
	if err := read(filepath.Join(layout, "index.json"), &index); err != nil {
		return err
	}
	if len(index.Manifests) == 0 {
		return fmt.Errorf("%s holds no images", layout)
	}
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "IMAGE\tTO PULL\tBASE\tLIBRARIES\tPROGRAM\tLIMIT FOR BOTH")
	var large []string
	for _, m := range index.Manifests {
		var manifest struct {
			Config descriptor
			Layers []descriptor
		}
		if err := readBlob(layout, m.Digest, &manifest); err != nil {
			return err
		}
		var config struct{ Config struct{ Entrypoint []string } }
		if err := readBlob(layout, manifest.Config.Digest, &config); err != nil {
			return err
		}
		if len(config.Config.Entrypoint) == 0 || len(manifest.Layers) < own {
			return fmt.Errorf("image %s was not made by ko", m.Digest)
		}
		name := path.Base(config.Config.Entrypoint[0])
		var all uint64
		for _, l := range manifest.Layers {
			all += l.Size
		}
		ours := manifest.Layers[len(manifest.Layers)-own:]
		sum, limit := ours[0].Size+ours[1].Size, limits[name]
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", name, humanize.IBytes(all), humanize.IBytes(all-sum),
			humanize.IBytes(ours[0].Size), humanize.IBytes(ours[1].Size), humanize.IBytes(limit))
		if sum > limit {
			large = append(large, fmt.Sprintf("%s adds %s to its base, at most %s are meant", name, humanize.IBytes(sum), humanize.IBytes(limit)))
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if len(large) > 0 {
		return fmt.Errorf("%s; find out why, or raise the limit in test/imagesize", strings.Join(large, "; "))
	}
	return nil
}

func readBlob(layout, digest string, v any) error {
	return read(filepath.Join(layout, "blobs", strings.ReplaceAll(digest, ":", "/")), v)
}

func read(file string, v any) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	return nil
}
