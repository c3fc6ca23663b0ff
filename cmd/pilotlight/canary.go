package main

import (
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/predict"
)

// aliasPath is where an alias of a model is changed.
func aliasPath(name, alias string) string {
	return modelPath(name) + "/aliases/" + url.PathEscape(alias)
}

// aliasFlags adds what all changes of what an alias names beside its version take.
func aliasFlags(cmd *cobra.Command, change *predict.AliasChange) (alias *string) {
	alias = cmd.Flags().String("alias", model.Champion, "the `alias`")
	cmd.Flags().StringVar(&change.Why, "why", "", "`reason`, kept in the history")
	return alias
}

func canaryCommand(c *client) *cobra.Command {
	change := predict.AliasChange{By: whoami()}
	var alias *string
	var share string
	var end bool
	cmd := &cobra.Command{
		Use:   "canary NAME VERSION",
		Short: "Have a version answer a share of an alias's traffic",
		Long: `Have a version answer a share of an alias's traffic.

Which requests those are is decided by whose they are: by the inputs that the
model's quality.entity names, the join keys of its features, the header
Entity-Key, or the request's id. A share that grows takes nobody back.
Rollback ends a canary, and promote has it answer everything.`,
		Example: `  pilotlight model canary fraud 3 --share 5%
  pilotlight model canary fraud 3 --share 25% --why "no worse on 5%"
  pilotlight model canary fraud 3 --end`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			method := "PUT"
			if end {
				method = "DELETE"
			} else {
				var err error
				if change.Share, err = parseShare(share); err != nil {
					return err
				}
			}
			return c.move(cmd, method, aliasPath(args[0], *alias)+"/canaries/"+url.PathEscape(args[1]), &change)
		},
	}
	alias = aliasFlags(cmd, &change)
	cmd.Flags().StringVar(&share, "share", "", "`share` of the traffic, such as 10% or 0.1")
	cmd.Flags().BoolVar(&end, "end", false, "have it answer nothing any more")
	cmd.MarkFlagsOneRequired("share", "end")
	cmd.MarkFlagsMutuallyExclusive("share", "end")
	return cmd
}

// parseShare reads "10%" or "0.1".
func parseShare(text string) (float64, error) {
	number, percent := strings.CutSuffix(strings.TrimSpace(text), "%")
	v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if percent {
		v /= 100
	}
	if err != nil || !(v > 0 && v < 1) {
		return 0, fmt.Errorf("the share is %q, expected one between 0 and 1, such as 10%% or 0.1", text)
	}
	return v, nil
}

// percent writes a share.
func percent(share float64) string {
	return strconv.FormatFloat(math.Round(share*1e8)/1e6, 'g', -1, 64) + "%"
}

func shadowCommand(c *client) *cobra.Command {
	change := predict.AliasChange{By: whoami()}
	var alias *string
	var end bool
	cmd := &cobra.Command{
		Use:   "shadow NAME [VERSION]",
		Short: "Have a version asked what an alias is, behind the answers",
		Long: `Have a version asked what an alias is, behind the answers.

Nobody gets what it says: it is written to the payload log under the id of the
answer, so that "pilotlight quality" and "pilotlight drift" tell how it would do.`,
		Example: `  pilotlight model shadow fraud 3
  pilotlight model shadow fraud --end`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			method := "PUT"
			switch {
			case end && len(args) == 2:
				return fmt.Errorf("--end takes no version")
			case end:
				method = "DELETE"
			case len(args) < 2:
				return fmt.Errorf("which version? expected: pilotlight model shadow %s VERSION", args[0])
			default:
				var err error
				if change.Version, err = parseVersion(args[1]); err != nil {
					return err
				}
			}
			return c.move(cmd, method, aliasPath(args[0], *alias)+"/shadow", &change)
		},
	}
	alias = aliasFlags(cmd, &change)
	cmd.Flags().BoolVar(&end, "end", false, "have it asked no longer")
	return cmd
}

func promoteCommand(c *client) *cobra.Command {
	change := predict.AliasChange{By: whoami()}
	var alias *string
	cmd := &cobra.Command{
		Use:   "promote NAME [VERSION]",
		Short: "Have the canary of an alias answer everything",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 {
				var err error
				if change.Version, err = parseVersion(args[1]); err != nil {
					return err
				}
			}
			return c.move(cmd, "POST", aliasPath(args[0], *alias)+"/promote", &change)
		},
	}
	alias = aliasFlags(cmd, &change)
	return cmd
}

func parseVersion(text string) (int, error) {
	v, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("version is %q, expected a number", text)
	}
	return v, nil
}

// named writes what an alias names: "1", or "1 + 2 at 10% + 3 as shadow".
func named(version int, s *model.Split) string {
	words := []string{number(version)}
	if s != nil {
		for _, c := range s.Canaries {
			words = append(words, fmt.Sprintf("%d at %s", c.Version, percent(c.Share)))
		}
		if s.Shadow > 0 {
			words = append(words, fmt.Sprintf("%d as shadow", s.Shadow))
		}
	}
	return strings.Join(words, " + ")
}
