package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/modelcard"
	"github.com/pilotlight-ml/pilotlight/internal/predict"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

const modelsPath = "/admin/v1/models"

func modelPath(name string) string { return modelsPath + "/" + url.PathEscape(name) }

func modelCommand(c *client) *cobra.Command {
	cmd := &cobra.Command{Use: "model", Short: "Publish models and move their aliases"}
	cmd.AddCommand(pushCommand(c), listCommand(c), showCommand(c), aliasCommand(c),
		canaryCommand(c), shadowCommand(c), promoteCommand(c), rollbackCommand(c))
	return cmd
}

func pushCommand(c *client) *cobra.Command {
	settings := predict.PushSettings{By: whoami()}
	var ttl, stale time.Duration
	var sample string
	cmd := &cobra.Command{
		Use:   "push NAME FILE",
		Short: "Publish a file as the next version of a model",
		Long: `Publish a file as the next version of a model.

The server opens the file and runs a sample before it accepts it. The first
version of a model becomes its champion, which answers when a caller names no
version; later versions wait until an alias is moved to them.`,
		Example: `  pilotlight model push fraud fraud.onnx
  pilotlight model push fraud fraud.onnx --alias champion --label commit=4f2c1e`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			settings.Cache = model.Cache{TTL: model.Duration(ttl), Stale: model.Duration(stale)}
			if sample != "" {
				b, err := os.ReadFile(sample)
				if err != nil {
					return err
				}
				if !json.Valid(b) {
					return fmt.Errorf("%s does not hold JSON", sample)
				}
				settings.Warmup.Sample = b
			}
			return push(cmd, c, args[0], args[1], &settings)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&settings.Alias, "alias", "", "point this `alias` at the new version")
	flags.StringToStringVar(&settings.Labels, "label", nil, "`key=value` to keep with the version; may be repeated")
	flags.StringVar(&settings.Runtime, "runtime", "", "`name` of the runtime (default onnx)")
	flags.IntVar(&settings.Threads, "threads", 0, "threads that one run may use (0: by the model's size)")
	flags.IntVar(&settings.Batching.MaxRows, "max-rows", 0, "how many `rows` of different requests one run may join (0: as many as are worth it, 1: none)")
	flags.DurationVar(&ttl, "cache-ttl", 0, "how long an answer may be remembered (0: not at all)")
	flags.DurationVar(&stale, "cache-stale", 0, "how long after that it may still be given, while a new one is made (0: not at all)")
	flags.Float64Var(&settings.Log.Sample, "log-sample", 0, "`share` of predictions that is written to the payload log (0: all); failed ones always are")
	flags.BoolVar(&settings.Log.Off, "log-off", false, "write no prediction to the payload log")
	flags.StringSliceVar(&settings.Log.Redact, "log-redact", nil, "`names` of inputs, features and outputs whose values are left out there; caller leaves out who asked")
	flags.StringVar((*string)(&settings.Quality.Task), "quality-task", "", "how answers are judged: binary, multiclass or regression (default: told by the outputs)")
	flags.StringVar(&settings.Quality.Output, "quality-output", "", "`name` of the output that is the answer (default: the only one, or probability)")
	flags.Float64Var(&settings.Quality.Threshold, "quality-threshold", 0, "least `probability` that says yes (default 0.5)")
	flags.Float64Var(&settings.Quality.Quantile, "quality-quantile", 0, "`share` that a regression foretells (default 0.5)")
	flags.StringSliceVar(&settings.Quality.Slices, "quality-slices", nil, "`names` of inputs and features by whose values answers are told apart as well")
	flags.StringSliceVar(&settings.Quality.Entity, "quality-entity", nil, "`names` of inputs by which outcomes may say which prediction they mean")
	flags.StringVar(&settings.Features, "features", "", "feature `service` whose features are fetched for each request")
	flags.StringVar(&sample, "sample", "", "`file` with a V2 inference request to check and warm the model with")
	flags.IntVar(&settings.Warmup.Runs, "warmup-runs", 0, "how often the sample runs after each load (0: once)")
	return cmd
}

func push(cmd *cobra.Command, c *client, name, path string, settings *predict.PushSettings) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if info.IsDir() {
		return fmt.Errorf("%s is a folder, expected a model's file", path)
	}
	// The form is built around the file, not in memory: its length is known before
	// it is sent, and the file may be of any size.
	var head bytes.Buffer
	form := multipart.NewWriter(&head)
	part, err := form.CreateFormField("settings")
	if err != nil {
		return err
	}
	if err := json.NewEncoder(part).Encode(settings); err != nil {
		return err
	}
	if _, err := form.CreateFormFile("model", filepath.Base(path)); err != nil {
		return err
	}
	tail := "\r\n--" + form.Boundary() + "--\r\n"
	size := int64(head.Len()) + info.Size() + int64(len(tail))

	bar := progressbar.NewOptions64(info.Size(),
		progressbar.OptionSetDescription("push "+name), progressbar.OptionSetWriter(cmd.ErrOrStderr()),
		progressbar.OptionShowBytes(true), progressbar.OptionUseIECUnits(true), progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionSetVisibility(c.format != "json" && isTerminal(os.Stderr)), progressbar.OptionClearOnFinish())
	reader := progressbar.NewReader(file, bar)
	b, err := c.call(cmd.Context(), "POST", modelPath(name)+"/versions", form.FormDataContentType(),
		io.MultiReader(&head, &reader, strings.NewReader(tail)), size)
	_ = bar.Finish() // what it shows is not worth an error
	if err != nil {
		return err
	}
	var m model.Manifest
	if printed, err := c.show(b, &m); printed || err != nil {
		return err
	}
	fmt.Fprintf(c.out, "%s:%d  %s  %s\n", m.Name, m.Version, humanize.IBytes(uint64(m.Size)), m.Digest)
	printSpecs(c.out, "input ", m.Signature.Inputs)
	printSpecs(c.out, "output", m.Signature.Outputs)
	switch {
	case settings.Alias != "":
		fmt.Fprintf(c.out, "%s is now version %d\n", settings.Alias, m.Version)
	case m.Version == 1:
		fmt.Fprintf(c.out, "%s is now version 1, the first of this model\n", model.Champion)
	default:
		fmt.Fprintf(c.out, "no alias moved; to have it answer: pilotlight model alias %s %s %d\n", m.Name, model.Champion, m.Version)
	}
	return nil
}

func printSpecs(w io.Writer, what string, specs []tensor.Spec) {
	for _, s := range specs {
		fmt.Fprintf(w, "  %s %s %s %s", what, s.Name, s.Type, tensor.FormatShape(s.Shape))
		if len(s.Labels) > 0 {
			fmt.Fprintf(w, " (%s)", strings.Join(s.Labels, ", "))
		}
		fmt.Fprintln(w)
	}
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func listCommand(c *client) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the models",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var list predict.ModelList
			if printed, err := c.ask(cmd.Context(), "GET", modelsPath, nil, &list); printed || err != nil {
				return err
			}
			rows := [][]string{{"NAME", "VERSIONS", "NEWEST", "ALIASES"}}
			for _, m := range list.Models {
				rows = append(rows, []string{m.Name, strconv.Itoa(m.Versions), strconv.Itoa(m.Newest), aliases(m.Aliases, m.Splits, 0)})
			}
			return c.table(rows)
		},
	}
}

// aliases writes aliases as "champion=3 other=4", or "champion=3+4@10%+5@shadow", or the names of those
// that mean one version, with its part where they mean others, too.
func aliases(all map[string]int, splits map[string]*model.Split, version int) string {
	var words []string
	for name, v := range all {
		word := name + "=" + strconv.Itoa(v)
		if version > 0 {
			word = name
		}
		s := splits[name]
		if s != nil && len(s.Canaries) > 0 && version == v {
			word += "@" + percent(s.Share(v))
		}
		mine := version == 0 || version == v
		part := func(v int, what string) {
			switch version {
			case 0:
				word += fmt.Sprintf("+%d@%s", v, what)
			case v:
				word, mine = name+"@"+what, true
			}
		}
		if s != nil {
			for _, c := range s.Canaries {
				part(c.Version, percent(c.Share))
			}
			if s.Shadow > 0 {
				part(s.Shadow, "shadow")
			}
		}
		if mine {
			words = append(words, word)
		}
	}
	slices.Sort(words)
	return strings.Join(words, " ")
}

func showCommand(c *client) *cobra.Command {
	var card bool
	cmd := &cobra.Command{
		Use:   "show NAME[:VERSION]",
		Short: "Show a model's versions, signature, and the history of its aliases; or the card of a version",
		Long: `Show a model's versions, signature, and the history of its aliases.

With --card it is how a version that a pipeline made came to be, as Markdown: of
which data, by which trainer, and how it did beside the version before it.`,
		Example: `  pilotlight model show fraud
  pilotlight model show fraud:4 --card`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if card {
				return c.showCard(cmd, args[0])
			}
			var d predict.ModelDetail
			if printed, err := c.ask(cmd.Context(), "GET", modelPath(args[0]), nil, &d); printed || err != nil {
				return err
			}
			rows := [][]string{{"VERSION", "ALIASES", "SIZE", "CREATED", "BY", "LABELS", "DIGEST"}}
			for _, m := range slices.Backward(d.Versions) {
				var labels []string
				for k, v := range m.Labels {
					labels = append(labels, k+"="+v)
				}
				slices.Sort(labels)
				rows = append(rows, []string{
					strconv.Itoa(m.Version), aliases(d.Current, d.Splits, m.Version), humanize.IBytes(uint64(m.Size)),
					m.CreatedAt.Local().Format(time.DateTime), m.CreatedBy, strings.Join(labels, " "), m.Digest.Hex()[:12],
				})
			}
			if err := c.table(rows); err != nil {
				return err
			}
			newest := d.Versions[len(d.Versions)-1]
			fmt.Fprintf(c.out, "\nversion %d takes and gives\n", newest.Version)
			printSpecs(c.out, "input ", newest.Signature.Inputs)
			printSpecs(c.out, "output", newest.Signature.Outputs)
			if len(d.History) == 0 {
				return nil
			}
			fmt.Fprintln(c.out)
			rows = [][]string{{"MOVE", "ALIAS", "FROM", "TO", "WHEN", "BY", "WHY"}}
			for _, m := range slices.Backward(d.History) {
				why := m.Why
				if m.Undoes > 0 {
					why = strings.TrimSpace(fmt.Sprintf("rollback of move %d. %s", m.Undoes, why))
				}
				rows = append(rows, []string{strconv.Itoa(m.Seq), m.Alias, named(m.From, m.Before), named(m.To, m.After), m.At.Local().Format(time.DateTime), m.By, why})
			}
			return c.table(rows)
		},
	}
	cmd.Flags().BoolVar(&card, "card", false, "show the card of the version (champion)")
	return cmd
}

// showCard shows how a version, which may be named by an alias, came to be.
func (c *client) showCard(cmd *cobra.Command, text string) error {
	ref, err := model.ParseRef(text)
	if err != nil {
		return err
	}
	if ref.Version == "" {
		ref.Version = model.Champion
	}
	var card modelcard.Card
	printed, err := c.ask(cmd.Context(), "GET", modelPath(ref.Name)+"/versions/"+url.PathEscape(ref.Version)+"/card", nil, &card)
	if !printed && err == nil {
		fmt.Fprint(c.out, card.Markdown())
	}
	return err
}

// number writes a version, where 0 is none.
func number(v int) string {
	if v == 0 {
		return "-"
	}
	return strconv.Itoa(v)
}

func aliasCommand(c *client) *cobra.Command {
	change := predict.AliasChange{By: whoami()}
	var expect int
	var remove bool
	cmd := &cobra.Command{
		Use:   "alias NAME ALIAS VERSION",
		Short: "Point an alias at a version",
		Example: `  pilotlight model alias fraud champion 3
  pilotlight model alias fraud champion 3 --expect 2 --why "better on new cards"
  pilotlight model alias fraud shadow --delete`,
		Args: cobra.RangeArgs(2, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			method := "PUT"
			switch {
			case remove && len(args) == 3:
				return fmt.Errorf("--delete takes no version")
			case remove:
				method = "DELETE"
			case len(args) < 3:
				return fmt.Errorf("which version? expected: pilotlight model alias %s %s VERSION", args[0], args[1])
			default:
				var err error
				if change.Version, err = parseVersion(args[2]); err != nil {
					return err
				}
			}
			if cmd.Flags().Changed("expect") {
				change.Expect = &expect
			}
			return c.move(cmd, method, aliasPath(args[0], args[1]), &change)
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&expect, "expect", 0, "move it only if it names this `version` now (0: only if it does not exist)")
	flags.BoolVar(&remove, "delete", false, "remove the alias")
	flags.StringVar(&change.Why, "why", "", "`reason`, kept in the history")
	return cmd
}

func rollbackCommand(c *client) *cobra.Command {
	change := predict.AliasChange{By: whoami()}
	cmd := &cobra.Command{
		Use:   "rollback NAME [ALIAS]",
		Short: "Take back the last move of an alias (champion), or end its canary",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			alias := model.Champion
			if len(args) == 2 {
				alias = args[1]
			}
			return c.move(cmd, "POST", aliasPath(args[0], alias)+"/rollback", &change)
		},
	}
	cmd.Flags().StringVar(&change.Why, "why", "", "`reason`, kept in the history")
	return cmd
}

func (c *client) move(cmd *cobra.Command, method, path string, change *predict.AliasChange) error {
	var m model.Move
	if printed, err := c.ask(cmd.Context(), method, path, change, &m); printed || err != nil {
		return err
	}
	switch {
	case m.Seq == 0:
		fmt.Fprintf(c.out, "%s already names version %s\n", m.Alias, named(m.To, m.After))
	case m.To == 0:
		fmt.Fprintf(c.out, "%s is gone; it named version %s (move %d)\n", m.Alias, named(m.From, m.Before), m.Seq)
	default:
		fmt.Fprintf(c.out, "%s: %s -> %s (move %d)\n", m.Alias, named(m.From, m.Before), named(m.To, m.After), m.Seq)
	}
	return nil
}
