package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pilotlight-ml/pilotlight/internal/auth"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/diskstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/s3store"
)

const keysPath = "/admin/v1/keys"

// keyStores are where keys can be made without a server.
var keyStores = store.Openers[store.Blob]{"file": diskstore.OpenBlob, "s3": s3store.OpenBlob}

func keyCommand(c *client) *cobra.Command {
	var bucket string
	cmd := &cobra.Command{
		Use: "key", Short: "Make, list and revoke API keys",
		Long: `Make, list, rotate and revoke API keys.

Whoever may write the bucket can do anything already, so the first key is made there,
by --store; with a key that may administer, the server makes others.`,
	}
	cmd.PersistentFlags().StringVar(&bucket, "store", "", "bucket `URL` to work on without a server, such as s3://pilotlight or file:///data/blob")
	for _, sub := range []*cobra.Command{createKeyCommand(c), listKeysCommand(c), revokeKeyCommand(c), rotateKeyCommand(c)} {
		run := sub.RunE
		sub.RunE = func(cmd *cobra.Command, args []string) error {
			if bucket == "" {
				return run(cmd, args)
			}
			blob, err := keyStores.Open(cmd.Context(), bucket)
			if err != nil {
				return errors.New(fault.Message(err))
			}
			mux := http.NewServeMux()
			auth.NewKeys(blob).Register(mux)
			c.caller = &http.Client{Transport: inProcess{mux}}
			cmd.SetContext(auth.With(cmd.Context(), &auth.Principal{ID: whoami()}))
			return errors.Join(run(cmd, args), blob.Close())
		}
		cmd.AddCommand(sub)
	}
	return cmd
}

// inProcess has a handler answer what would be sent to a server.
type inProcess struct{ http.Handler }

func (h inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body == nil {
		r.Body = http.NoBody
	}
	a := &answered{header: http.Header{}, status: http.StatusOK}
	h.ServeHTTP(a, r)
	return &http.Response{StatusCode: a.status, Status: http.StatusText(a.status), Header: a.header, Body: io.NopCloser(&a.body), Request: r}, nil
}

// answered keeps an answer.
type answered struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *answered) Header() http.Header         { return a.header }
func (a *answered) WriteHeader(status int)      { a.status = status }
func (a *answered) Write(b []byte) (int, error) { return a.body.Write(b) }

func createKeyCommand(c *client) *cobra.Command {
	var ask auth.Issue
	var scopes []string
	var lasts time.Duration
	cmd := &cobra.Command{
		Use: "create NAME --scope SCOPE...", Short: "Make a key and print it, this once",
		Long: `Make a key and print it. It can't be read again: only its hash is kept.

Scopes: ` + strings.Join(words(auth.Actions), ", ") + `.
Those of predict and models:write may be for some models alone: predict/flights, models:write/fraud-*.`,
		Example: `  pilotlight key create ops --scope admin --store file://$PWD/.data/blob
  pilotlight key create shop --scope predict/flights --scope feedback --rate 50 --tenant acme --expires 2160h`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ask.Name = args[0]
			for _, s := range scopes {
				ask.Scopes = append(ask.Scopes, auth.Scope(s))
			}
			if lasts != 0 {
				ask.Lasts = lasts.String()
			}
			return c.issue(cmd, keysPath, ask)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&scopes, "scope", nil, "what its holder may do; may be repeated")
	f.StringVar(&ask.Tenant, "tenant", "", "whom its use is counted for")
	f.StringVar((*string)(&ask.Priority), "priority", "", "low, normal or high: who is refused last when there is too much to do")
	f.DurationVar(&lasts, "expires", 0, "how long it is good for, such as 2160h; 0: for good")
	f.Float64Var(&ask.Rate, "rate", 0, "requests a second; 0: any")
	f.IntVar(&ask.Burst, "burst", 0, "requests at once; 0: those of a second")
	f.Int64Var(&ask.Daily.Requests, "daily-requests", 0, "requests a day; 0: any")
	f.Int64Var(&ask.Daily.Rows, "daily-rows", 0, "rows that predictions are made for a day; 0: any")
	f.Int64Var(&ask.Monthly.Requests, "monthly-requests", 0, "requests a month; 0: any")
	f.Int64Var(&ask.Monthly.Rows, "monthly-rows", 0, "rows a month; 0: any")
	_ = cmd.MarkFlagRequired("scope") // which exists
	return cmd
}

// issue asks for a secret, and prints it where a script takes it, what there is to say about it beside that.
func (c *client) issue(cmd *cobra.Command, path string, ask any) error {
	var made auth.Issued
	if printed, err := c.ask(cmd.Context(), http.MethodPost, path, ask, &made); printed || err != nil {
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "key %s of %s may %s; it is shown this once\n", made.ID, shown(made.Name, 100), strings.Join(words(made.Scopes), ", "))
	_, err := fmt.Fprintln(c.out, made.Secret)
	return err
}

func listKeysCommand(c *client) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List keys, the newest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var l auth.List
			if printed, err := c.ask(cmd.Context(), http.MethodGet, keysPath, nil, &l); printed || err != nil {
				return err
			}
			return c.listKeys(l.Keys)
		},
	}
}

func (c *client) listKeys(keys []auth.Key) error {
	rows := [][]string{{"ID", "NAME", "TENANT", "SCOPES", "STATE", "CREATED", "BY"}}
	for i := range keys {
		one := &keys[i]
		state := "good"
		switch {
		case !one.Revoked.IsZero():
			state = "revoked"
		case !one.Holds(time.Now()):
			state = "expired"
		case !one.Expires.IsZero():
			state = "until " + one.Expires.Local().Format(time.DateTime)
		}
		if one.Rate > 0 {
			state += ", " + strconv.FormatFloat(one.Rate, 'g', -1, 64) + "/s"
		}
		rows = append(rows, []string{
			one.ID, shown(one.Name, 40), shown(cmp.Or(one.Tenant, "-"), 40), shown(strings.Join(words(one.Scopes), " "), 100), state,
			one.CreatedAt.Local().Format(time.DateTime), shown(one.CreatedBy, 60),
		})
	}
	return c.table(rows)
}

func revokeKeyCommand(c *client) *cobra.Command {
	return &cobra.Command{
		Use: "revoke ID", Short: "End a key for good, everywhere within a second", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var key auth.Key
			if printed, err := c.ask(cmd.Context(), http.MethodDelete, keysPath+"/"+url.PathEscape(args[0]), nil, &key); printed || err != nil {
				return err
			}
			_, err := fmt.Fprintf(c.out, "key %s of %s is revoked\n", key.ID, shown(key.Name, 100))
			return err
		},
	}
}

func rotateKeyCommand(c *client) *cobra.Command {
	var overlap time.Duration
	cmd := &cobra.Command{
		Use: "rotate ID", Short: "Give a key another secret and print it, this once", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.issue(cmd, keysPath+"/"+url.PathEscape(args[0])+"/rotate", auth.Rotation{Overlap: overlap.String()})
		},
	}
	cmd.Flags().DurationVar(&overlap, "overlap", 0, "how long the secret before stays good, such as 1h")
	return cmd
}

func words[T ~string](of []T) []string {
	out := make([]string, len(of))
	for i, w := range of {
		out[i] = string(w)
	}
	return out
}
