// Command pilotlight talks to a Pilotlight server: it publishes models, moves
// their aliases, asks them for predictions, defines features, puts events back
// that were not delivered, tells of alerts, runs pipelines, and makes API keys.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "pilotlight:", err)
		stop()
		os.Exit(1)
	}
}

func command() *cobra.Command {
	c := &client{}
	root := &cobra.Command{
		Use:           "pilotlight",
		Short:         "Publish models to a Pilotlight server and ask them for predictions",
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			c.out = cmd.OutOrStdout()
			return c.check()
		},
	}
	flags := root.PersistentFlags()
	flags.StringVar(&c.server, "server", or(os.Getenv("PILOTLIGHT_SERVER"), "http://127.0.0.1:8080"), "server `URL` (PILOTLIGHT_SERVER)")
	flags.StringVar(&c.key, "key", "", "API `key` (PILOTLIGHT_KEY)")
	flags.StringVarP(&c.format, "output", "o", "table", "output `format`: table or json")
	root.AddCommand(modelCommand(c), predictCommand(c), featuresCommand(c), feedbackCommand(c), qualityCommand(c), driftCommand(c), eventsCommand(c), alertsCommand(c), rolloutCommand(c), pipelineCommand(c), keyCommand(c), limitsCommand(c), routesCommand(c))
	return root
}

func or(s, other string) string {
	if s != "" {
		return s
	}
	return other
}
