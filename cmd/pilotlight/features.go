package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
)

const featuresPath = "/admin/v1/features"

func featuresCommand(c *client) *cobra.Command {
	cmd := &cobra.Command{
		Use: "features", Short: "Define features",
		Long: `Define features: the entities that they are about, the sources of their rows,
views that make features of rows, expressions that compute others, and services
that list what a model uses.`,
	}
	cmd.AddCommand(applyFeaturesCommand(c), listFeaturesCommand(c), getFeaturesCommand(c), deleteFeatureCommand(c), pushFeaturesCommand(c), importFeastCommand(c), trainingSetCommand(c), materializeCommand(c), skewCommand(c))
	return cmd
}

func applyFeaturesCommand(c *client) *cobra.Command {
	var files []string
	var dry bool
	cmd := &cobra.Command{
		Use: "apply -f FILE", Short: "Put definitions from files over those that there are",
		Long: `Put definitions from files over those that there are, by their names, and show
what differs. All of them become one new version, or none does. What the files
do not name stays as it is; features delete removes.`,
		Example: `  pilotlight features apply -f features/ --dry-run
  pilotlight features apply -f features/`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			set, err := definitions(files, cmd.InOrStdin())
			if err != nil {
				return err
			}
			return c.changeFeatures(cmd, http.MethodPost, "", dry, set)
		},
	}
	cmd.Flags().StringArrayVarP(&files, "filename", "f", nil, "`file` of YAML or JSON, folder of .yaml, .yml and .json files, or - for the standard input; may be repeated")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only show what would differ")
	_ = cmd.MarkFlagRequired("filename") // which exists
	return cmd
}

// definitions reads files and folders into one set.
func definitions(paths []string, in io.Reader) (*feature.Set, error) {
	var sets []*feature.Set
	add := func(name string, b []byte, err error) error {
		if err != nil {
			return err
		}
		s, err := feature.Parse(name, b)
		if err != nil {
			return errors.New(fault.Message(err))
		}
		sets = append(sets, s)
		return nil
	}
	for _, path := range paths {
		if path == "-" {
			b, err := io.ReadAll(in)
			if err := add("standard input", b, err); err != nil {
				return nil, err
			}
			continue
		}
		found := 0
		err := filepath.WalkDir(path, func(file string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			switch filepath.Ext(file) {
			case ".yaml", ".yml", ".json":
			default:
				if file != path { // one that is named itself may be called anything
					return nil
				}
			}
			found++
			b, err := os.ReadFile(file)
			return add(file, b, err)
		})
		if err != nil {
			return nil, err
		}
		if found == 0 {
			return nil, fmt.Errorf("%s has no .yaml, .yml or .json files", path)
		}
	}
	return feature.Join(sets...), nil
}

// changeFeatures sends a change of the definitions and shows what it does.
func (c *client) changeFeatures(cmd *cobra.Command, method, path string, dry bool, set *feature.Set) error {
	q := url.Values{"by": {whoami()}}
	if dry {
		q.Set("dry", "true")
	}
	var body any
	if set != nil {
		body = set
	}
	var applied feature.Changed
	if printed, err := c.ask(cmd.Context(), method, featuresPath+path+"?"+q.Encode(), body, &applied); printed || err != nil {
		return err
	}
	for _, change := range applied.Changes {
		fmt.Fprintln(c.out, change)
	}
	switch {
	case len(applied.Changes) == 0:
		fmt.Fprintf(c.out, "nothing differs from version %d\n", applied.Version)
	case dry:
		fmt.Fprintf(c.out, "this would become version %d\n", applied.Version)
	default:
		fmt.Fprintf(c.out, "this is version %d\n", applied.Version)
	}
	return nil
}

// featureSet gets a version of the definitions; 0: the newest.
func (c *client) featureSet(cmd *cobra.Command, version int) (*feature.Set, error) {
	path := featuresPath
	if version != 0 {
		path += "?version=" + strconv.Itoa(version)
	}
	b, err := c.call(cmd.Context(), http.MethodGet, path, "", nil, 0)
	if err != nil {
		return nil, err
	}
	set := &feature.Set{}
	return set, json.Unmarshal(b, set)
}

func listFeaturesCommand(c *client) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List what is defined", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			set, err := c.featureSet(cmd, 0)
			if err != nil {
				return err
			}
			if c.format == "json" {
				return c.writeJSON(set)
			}
			if set.Version == 0 {
				_, err := fmt.Fprintln(c.out, "nothing is defined; to change that: pilotlight features apply -f FILE")
				return err
			}
			rows := [][]string{{"KIND", "NAME", "CHANGED", "WHAT"}}
			add := func(kind, name string, version int, format string, args ...any) {
				rows = append(rows, []string{kind, name, number(version), fmt.Sprintf(format, args...)})
			}
			for _, e := range set.Entities {
				add(feature.KindEntity, e.Name, 0, "%s", fieldNames(e.Keys))
			}
			for _, s := range set.Sources {
				from := "pushed"
				if s.Path != "" {
					from = s.Path
				}
				add(feature.KindSource, s.Name, 0, "%d columns, %s", len(s.Fields), from)
			}
			for _, v := range set.Views {
				what := "features"
				switch {
				case len(v.Windows) > 0:
					what = strconv.Itoa(len(v.Windows)) + " windows"
				case len(v.Features) > 0:
					what = strconv.Itoa(len(v.Features)) + " features"
				}
				add(feature.KindView, v.Name, v.Version, "%s of %s by %s", what, v.Source, strings.Join(v.Entities, ", "))
			}
			for _, e := range set.Expressions {
				add(feature.KindExpression, e.Name, e.Version, "%d features", len(e.Features))
			}
			for _, s := range set.Services {
				add(feature.KindService, s.Name, 0, "%d features", len(s.Features))
			}
			fmt.Fprintf(c.out, "version %d of %s by %s\n\n", set.Version, set.At.Local().Format(time.DateTime), or(set.By, "unknown"))
			return c.table(rows)
		},
	}
}

func fieldNames(fields []feature.Field) string {
	words := make([]string, len(fields))
	for i, f := range fields {
		words[i] = f.Name + " " + f.Type.String()
	}
	return strings.Join(words, ", ")
}

// writeJSON prints a value without escapes that are for HTML.
func (c *client) writeJSON(v any) error {
	e := json.NewEncoder(c.out)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

func getFeaturesCommand(c *client) *cobra.Command {
	version := 0
	cmd := &cobra.Command{
		Use: "get [KIND/NAME]", Short: "Show definitions as apply takes them",
		Example: `  pilotlight features get > features.yaml
  pilotlight features get view/carrier_delays
  pilotlight features get --version 3`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			set, err := c.featureSet(cmd, version)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				ref, err := feature.ParseRef(args[0])
				if err == nil {
					set, err = set.Only(ref)
				}
				if err != nil {
					return errors.New(fault.Message(err))
				}
			}
			if c.format == "json" {
				return c.writeJSON(set)
			}
			y, err := set.YAML()
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.out, "%s\n", bytes.TrimSpace(y))
			return err
		},
	}
	cmd.Flags().IntVar(&version, "version", 0, "`number` of a version (0: the newest)")
	return cmd
}

func deleteFeatureCommand(c *client) *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use: "delete KIND/NAME", Short: "Remove a definition that no other one uses",
		Example: `  pilotlight features delete view/carrier_delays`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := feature.ParseRef(args[0])
			if err != nil {
				return errors.New(fault.Message(err))
			}
			return c.changeFeatures(cmd, http.MethodDelete, "/"+ref.Kind+"/"+url.PathEscape(ref.Name), dry, nil)
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only show what would differ")
	return cmd
}
