package console

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// change is what the API is asked to do with an alias.
type change struct {
	Version int     `json:"version,omitempty"`
	Share   float64 `json:"share,omitempty"`
	Seen    *int    `json:"seen,omitempty"` // the alias's last move, which the reader saw: who is quicker than the form is not overwritten
	By      string  `json:"by,omitempty"`
	Why     string  `json:"why,omitempty"`
}

// changeAlias does what a form of a model's page asks for: "do" says what.
func (c *Console) changeAlias(q *Query) (said, next string, err error) {
	name, alias := q.PathValue("model"), strings.TrimSpace(q.PostFormValue("alias"))
	next = at("/console/models", name)
	if alias == "" {
		return "", next, fault.New(fault.Invalid, "say which alias is meant, such as champion")
	}
	ask := change{By: strings.TrimSpace(q.PostFormValue("by")), Why: strings.TrimSpace(q.PostFormValue("why"))}
	if ask.By == "" {
		ask.By = "console"
	}
	version, share := 0, 0.0
	do := q.PostFormValue("do")
	if do == "move" || do == "canary" || do == "promote" || do == "end" {
		if version, err = strconv.Atoi(q.PostFormValue("version")); err != nil || version < 1 {
			return "", next, fault.New(fault.Invalid, "version is %.20q, expected the number of a version", q.PostFormValue("version"))
		}
	}
	if do == "canary" {
		if share, err = strconv.ParseFloat(q.PostFormValue("share"), 64); err != nil {
			return "", next, fault.New(fault.Invalid, "share is %.20q, expected per cent such as 5", q.PostFormValue("share"))
		}
	}
	if do != "cancel" {
		if ask.Seen, err = q.seen(name, alias); err != nil {
			return "", next, err
		}
	}
	path := at("/admin/v1/models", name, "aliases", alias)
	var made moveLine
	switch do {
	case "move":
		ask.Version = version
		err = q.ask(http.MethodPut, path, ask, &made)
	case "rollback":
		err = q.ask(http.MethodPost, path+"/rollback", ask, &made)
	case "canary":
		ask.Share = share / 100
		err = q.ask(http.MethodPut, at(path+"/canaries", strconv.Itoa(version)), ask, &made)
	case "promote":
		ask.Version = version
		err = q.ask(http.MethodPost, path+"/promote", ask, &made)
	case "end":
		err = q.ask(http.MethodDelete, at(path+"/canaries", strconv.Itoa(version)), ask, &made)
	case "cancel":
		err = q.ask(http.MethodDelete, withQuery(at("/admin/v1/rollouts", name, alias), "by", ask.By), nil, nil)
		return fmt.Sprintf("The rollout of %s is cancelled.", alias), next, err
	default:
		err = fault.New(fault.Invalid, "do is %.20q, which is nothing that can be done", do)
	}
	if err != nil {
		return "", next, err
	}
	if made.Seq == 0 {
		return fmt.Sprintf("%s is as it was: nothing had to be done.", alias), next, nil
	}
	return fmt.Sprintf("Done, as move %d: %s %s.", made.Seq, alias, made.What()), next, nil
}

// seen gives the last move of an alias, 0 if there is none. It is a Conflict where that was made after the page was shown that the form is
// of, which says by "saw" what the newest move of the model was then.
func (q *Query) seen(name, alias string) (*int, error) {
	saw, err := strconv.Atoi(q.PostFormValue("saw"))
	if err != nil {
		return nil, fault.New(fault.Invalid, "saw is %.20q, expected the number of the newest move that the page showed", q.PostFormValue("saw"))
	}
	var m struct {
		History []moveLine `json:"history"`
	}
	if err := q.get(withQuery(at("/admin/v1/models", name), "limit", "1"), &m); err != nil {
		return nil, err
	}
	last := 0
	for i := range m.History {
		if move := &m.History[i]; move.Alias == alias {
			last = max(last, move.Seq)
		}
	}
	if last > saw {
		return nil, fault.New(fault.Conflict, "%.100s was moved meanwhile, by move %d: nothing was changed", alias, last)
	}
	return &last, nil
}
