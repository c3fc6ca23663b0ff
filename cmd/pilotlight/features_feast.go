package main

import (
	"errors"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
)

func importFeastCommand(c *client) *cobra.Command {
	var project string
	cmd := &cobra.Command{
		Use: "import-feast FILE", Short: "Write definitions for those in a Feast registry",
		Long: `Write definitions, as YAML, for those in the registry file of a Feast repository:
its entities, sources, feature views with their TTLs, and feature services.
What can't be taken over, as Python code, is told in comments in front.`,
		Example: `  pilotlight features import-feast data/registry.db > features.yaml
  pilotlight features apply -f features.yaml`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			b, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			set, notes, err := feature.ImportFeast(b, project)
			if err != nil {
				return errors.New(args[0] + ": " + fault.Message(err))
			}
			yaml, err := feature.FeastYAML(set, notes, time.Now())
			if err != nil {
				return err
			}
			_, err = c.out.Write(yaml)
			return err
		},
	}
	cmd.Flags().StringVar(&project, "project", "", "the `project` whose definitions to take, where the registry has several")
	return cmd
}
