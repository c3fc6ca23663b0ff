// Command gen writes what is made of the code: dashboards for Grafana, as files and as a ConfigMap, into a folder (gen dashboards
// FOLDER); and the table of metrics (gen metrics FOLDER-OF-SOURCES), to its output.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/pilotlight-ml/pilotlight/knative/monitoring"
)

func main() {
	err := errors.New("say: gen dashboards FOLDER, or gen metrics FOLDER")
	if len(os.Args) == 3 && os.Args[1] == "dashboards" {
		err = dashboards(os.Args[2])
	} else if len(os.Args) == 3 && os.Args[1] == "metrics" {
		err = metrics(os.Stdout, os.Args[2])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// dashboards writes a file for each, and one object of Kubernetes with all of them, where Grafana's sidecar finds it by its label.
func dashboards(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	object := strings.Builder{}
	object.WriteString("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: pilotlight-dashboards\n  labels: {grafana_dashboard: \"1\"}\ndata:\n")
	for _, b := range monitoring.Boards() {
		text, err := b.JSON()
		if err != nil {
			return err
		}
		name := b.UID + ".json"
		if err := os.WriteFile(filepath.Join(dir, name), append(text, '\n'), 0o644); err != nil {
			return err
		}
		fmt.Fprintf(&object, "  %s: |\n", name)
		for line := range strings.Lines(string(text)) {
			object.WriteString("    " + line)
		}
		object.WriteByte('\n')
	}
	return os.WriteFile(filepath.Join(dir, "configmap.yaml"), []byte(object.String()), 0o644)
}

// metrics writes the table.
func metrics(w io.Writer, dir string) error {
	all, err := monitoring.Instruments(dir)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(w)
	fmt.Fprintln(out, "# Metrics")
	fmt.Fprintln(out)
	fmt.Fprintln(out, "Written by `make gen` from what the code measures. How to read, collect and look at them: [monitoring](monitoring.md).")
	fmt.Fprintln(out)
	fmt.Fprintln(out, "| metric | kind | is |")
	fmt.Fprintln(out, "|---|---|---|")
	for i := range all {
		fmt.Fprintf(out, "| `%s` | %s | %s |\n", all[i].Exported(), strings.ToLower(all[i].Kind), strings.ReplaceAll(all[i].Help, "|", `\|`))
	}
	return out.Flush()
}
