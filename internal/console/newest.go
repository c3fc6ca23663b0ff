package console

import (
	"fmt"
	"net/url"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// newest is a list of what a form asks for, the newest first, page by page. Its first page is live.
type newest struct {
	Filtered     bool
	Problem      string // what is wrong with what was asked for
	Newest, More string // the first page, if this one isn't it, and the page behind this one
}

// ask reads a page of the list at a path of the API. Filters that are empty are left out.
func (n *newest) ask(q *Query, v *View, path string, filters map[string]string, into any) error {
	ask := url.Values{"limit": {fmt.Sprint(onePage)}}
	for name, value := range filters {
		if value != "" {
			ask.Set(name, value)
			n.Filtered = true
		}
	}
	if after := q.FormValue("after"); after != "" {
		ask.Set("after", after)
	} else {
		v.Every = 5 * time.Second
	}
	err := q.get(path+"?"+ask.Encode(), into)
	if fault.Is(err, fault.Invalid) {
		n.Problem, v.Every = fault.Message(err), 0
		return nil
	}
	return err
}

// turn makes the links to other pages; next is what the API says the page behind this one is after.
func (n *newest) turn(q *Query, page, next string) {
	f := q.URL.Query()
	if f.Has("after") {
		f.Del("after")
		n.Newest = page + "?" + f.Encode()
	}
	if next != "" {
		f.Set("after", next)
		n.More = page + "?" + f.Encode()
	}
}
