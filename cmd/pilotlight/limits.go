package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
)

func limitsCommand(c *client) *cobra.Command {
	return documentCommand(c, "/admin/v1/limits", &cobra.Command{
		Use: "limits", Short: "Show the limits of tenants, models and callers, or put others in their place",
		Long: `Show how much tenants, models, and callers whose keys say nothing of it may ask
for. Limits of one key are made with it: pilotlight key create --rate.`,
		Example: `  pilotlight limits
  pilotlight limits apply -f limits.yaml

  # limits.yaml
  callers: {rate: 100}
  tenants: {acme: {monthly: {rows: 5000000}}}
  models: {"big-*": {rate: 5, burst: 20}}`,
	})
}

func routesCommand(c *client) *cobra.Command {
	return documentCommand(c, "/admin/v1/routes", &cobra.Command{
		Use: "routes", Short: "Show which models and tenants the gateway sends elsewhere than to the shared pool, or put others in their place",
		Example: `  pilotlight routes
  pilotlight routes apply -f routes.yaml

  # routes.yaml
  models: {flights: "http://predict-flights.pilotlight.svc.cluster.local"}`,
	})
}

// documentCommand makes a command that shows a document of the server as YAML, with another one that puts a file in its place.
func documentCommand(c *client, path string, cmd *cobra.Command) *cobra.Command {
	cmd.Args = cobra.NoArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		b, err := c.call(cmd.Context(), http.MethodGet, path, "", nil, 0)
		if err != nil {
			return err
		}
		return c.document(b)
	}
	var file string
	apply := &cobra.Command{
		Use: "apply -f FILE", Short: "Put those of a file in place of all that there are", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var b []byte
			var err error
			if file == "-" {
				b, err = io.ReadAll(cmd.InOrStdin())
			} else {
				b, err = os.ReadFile(file)
			}
			if err != nil {
				return err
			}
			if b, err = yaml.YAMLToJSON(b); err != nil {
				return fmt.Errorf("%s is no YAML: %s", file, yaml.FormatError(err, false, false))
			}
			if b, err = c.call(cmd.Context(), http.MethodPut, path, "application/json", bytes.NewReader(b), int64(len(b))); err != nil {
				return err
			}
			return c.document(b)
		},
	}
	apply.Flags().StringVarP(&file, "filename", "f", "", "`file` of YAML or JSON, or - for the standard input")
	_ = apply.MarkFlagRequired("filename") // which exists
	cmd.AddCommand(apply)
	return cmd
}

// document prints JSON as it came, or as YAML.
func (c *client) document(b []byte) error {
	if c.format != "json" {
		var err error
		if b, err = yaml.JSONToYAML(b); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintln(c.out, strings.TrimSpace(string(b)))
	return err
}
