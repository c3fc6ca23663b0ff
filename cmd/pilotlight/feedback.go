package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/pilotlight-ml/pilotlight/internal/feedback"
)

func feedbackCommand(c *client) *cobra.Command {
	cmd := &cobra.Command{Use: "feedback", Short: "Tell what came true of what was predicted"}
	cmd.AddCommand(sendFeedbackCommand(c))
	return cmd
}

// outcome is what one `feedback send` says.
type outcome struct {
	Prediction string                     `json:"prediction,omitempty"`
	Row        int                        `json:"row,omitempty"`
	Model      string                     `json:"model,omitempty"`
	Entity     map[string]json.RawMessage `json:"entity,omitempty"`
	At         string                     `json:"at,omitempty"`
	Value      json.RawMessage            `json:"value"`
	Time       string                     `json:"time,omitempty"`
	ID         string                     `json:"id,omitempty"`
}

func sendFeedbackCommand(c *client) *cobra.Command {
	var o outcome
	var file string
	var entity map[string]string
	cmd := &cobra.Command{
		Use: "send [PREDICTION] VALUE | send -f FILE", Short: "Send outcomes of predictions",
		Long: `Send what came true of a prediction: true or false, a number, or a class. The
prediction is meant by its id, which the answer had in the header Prediction-Id
(or the caller gave it with the request), or by --model, --entity and --at. A
file has one outcome a line, as JSON; "-" is standard input. An outcome is
accepted once it is in the bucket; the same again changes nothing. What looks like
a number is one: for the text 7 write '"7"'.`,
		Example: `  pilotlight feedback send order-7 true
  pilotlight feedback send --model flights --entity carrier=B6 --entity tailnum=N1 --at 2013-12-23T19:25:00-05:00 true
  pilotlight feedback send -f outcomes.jsonl`,
		Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case file != "" && len(args) > 0:
				return errors.New("outcomes come from the file or from the command line, not from both")
			case file != "":
				return c.sendOutcomes(cmd, file)
			case len(args) == 0:
				return errors.New("the outcome is missing: PREDICTION VALUE, VALUE with --model and --entity, or -f FILE")
			case len(args) == 2:
				o.Prediction = args[0]
			case len(entity) == 0:
				return errors.New("what prediction is meant? PREDICTION VALUE, or VALUE with --model and --entity")
			}
			o.Value = scalar(args[len(args)-1])
			for k, v := range entity {
				if o.Entity == nil {
					o.Entity = map[string]json.RawMessage{}
				}
				o.Entity[k] = scalar(v)
			}
			b, err := json.Marshal(&o)
			if err != nil {
				return err
			}
			var r feedback.Result
			if err := c.sendFeedback(cmd, b, "application/json", &r); err != nil {
				return err
			}
			c.tellFeedback(&r)
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&file, "file", "f", "", "`file` with an outcome a line")
	flags.IntVar(&o.Row, "row", 0, "`number` of the row, of a prediction of several")
	flags.StringVar(&o.Model, "model", "", "`name` of the model")
	flags.StringToStringVar(&entity, "entity", nil, "`key=value` of what it was about; may be repeated")
	flags.StringVar(&o.At, "at", "", "`time` of the prediction (RFC 3339)")
	flags.StringVar(&o.Time, "time", "", "`time` when it came true (RFC 3339; default now)")
	flags.StringVar(&o.ID, "id", "", "your own `id` of the outcome; the same id again is the same outcome, or its correction")
	return cmd
}

// scalar is what somebody typed, as JSON: a number, true, false or a text in quotes as it is, and all else as a text.
func scalar(typed string) json.RawMessage {
	var v any
	if json.Unmarshal([]byte(typed), &v) == nil {
		switch v.(type) {
		case bool, float64, string:
			return json.RawMessage(typed)
		}
	}
	b, _ := json.Marshal(typed) // strings always do
	return b
}

// sendRows is how many outcomes of a file a request brings.
const sendRows = 10_000

// sendOutcomes sends a file in requests of many lines.
func (c *client) sendOutcomes(cmd *cobra.Command, path string) error {
	in := cmd.InOrStdin()
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	var total feedback.Result
	var lines bytes.Buffer
	n, begin := 0, time.Now()
	flush := func() error {
		if n == 0 {
			return nil
		}
		err := c.sendFeedback(cmd, lines.Bytes(), "application/x-ndjson", &total)
		if err == nil && isTerminal(os.Stderr) {
			fmt.Fprintf(cmd.ErrOrStderr(), "%d outcomes in %s\n", total.Accepted+total.Rejected, time.Since(begin).Round(time.Second))
		}
		lines.Reset()
		n = 0
		return err
	}
	r := bufio.NewReader(in)
	for {
		line, err := r.ReadBytes('\n')
		if len(bytes.TrimSpace(line)) > 0 {
			lines.Write(line)
			if n++; n == sendRows {
				if err := flush(); err != nil {
					return fmt.Errorf("after %d outcomes were accepted: %w", total.Accepted, err)
				}
			}
		}
		if errors.Is(err, io.EOF) {
			if err := flush(); err != nil {
				return fmt.Errorf("after %d outcomes were accepted: %w", total.Accepted, err)
			}
			c.tellFeedback(&total)
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// sendFeedback sends one body, and tells what of it was rejected; total grows by what became of it.
func (c *client) sendFeedback(cmd *cobra.Command, body []byte, kind string, total *feedback.Result) error {
	b, err := c.call(cmd.Context(), "POST", "/feedback", kind, bytes.NewReader(body), int64(len(body)))
	if err != nil {
		return err
	}
	var r feedback.Result
	if printed, err := c.show(b, &r); printed || err != nil {
		return err
	}
	for _, x := range r.Rejections {
		fmt.Fprintf(c.out, "outcome %d: %s: %s\n", total.Accepted+total.Rejected+x.Index+1, x.Reason, x.Detail)
	}
	total.Accepted, total.Rejected = total.Accepted+r.Accepted, total.Rejected+r.Rejected
	return nil
}

func (c *client) tellFeedback(r *feedback.Result) {
	if c.format != "json" {
		fmt.Fprintf(c.out, "%d outcomes accepted, %d rejected\n", r.Accepted, r.Rejected)
	}
}
