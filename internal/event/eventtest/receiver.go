// Package eventtest has a subscriber that does to events what a test wants of it.
package eventtest

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/event"
)

// Wish is the data of an event that tells the receiver how to answer it.
type Wish struct {
	Fail   int    `json:"fail,omitempty"`   // so many attempts, until it is healed; -1: all
	Status int    `json:"status,omitempty"` // of the failures
	Body   string `json:"body,omitempty"`   // of the failures or, if there are to be none, of the answers
	Reply  string `json:"reply,omitempty"`  // type of an event to reply with
}

// Attempt is one delivery of an event.
type Attempt struct {
	At     time.Time       `json:"at"`
	Path   string          `json:"path"`
	Status int             `json:"status"`
	Event  json.RawMessage `json:"event"`
	Header http.Header     `json:"header"`
}

// Receiver is a subscriber: POST anywhere takes an event, and answers it as the
// event's data, a Wish, says. GET /received?id= lists the attempts for an event,
// PUT /healed?id= ends its failures, and POST /send passes a request on to Sink,
// from where the receiver stands.
type Receiver struct {
	Sink string

	mu       sync.Mutex
	attempts map[string][]Attempt
	healed   map[string]bool
}

// ServeHTTP is as the type says.
func (c *Receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := r.URL.Query().Get("id")
	switch {
	case r.Method == http.MethodGet && r.URL.Path == "/received":
		c.mu.Lock()
		defer c.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(append([]Attempt{}, c.attempts[id]...))
	case r.Method == http.MethodPut && r.URL.Path == "/healed":
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.healed == nil {
			c.healed = map[string]bool{}
		}
		c.healed[id] = true
	case r.Method == http.MethodPost && r.URL.Path == "/send":
		c.send(w, r)
	case r.Method == http.MethodPost:
		c.take(w, r)
	default:
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
}

func (c *Receiver) send(w http.ResponseWriter, r *http.Request) {
	out, err := http.NewRequestWithContext(r.Context(), http.MethodPost, c.Sink, r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		if name == "Content-Type" || name == "Traceparent" || len(name) > 3 && name[:3] == "Ce-" {
			out.Header[name] = r.Header[name]
		}
	}
	resp, err := http.DefaultClient.Do(out)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body)
}

func (c *Receiver) take(w http.ResponseWriter, r *http.Request) {
	events, err := event.Read(w, r)
	if err != nil || len(events) != 1 {
		event.Answer(w, r, err)
		return
	}
	e := &events[0]
	var wish Wish
	_ = json.Unmarshal(e.Data(), &wish) // events of others wish for nothing
	b, err := event.Marshal(e)
	if err != nil {
		event.Answer(w, r, err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	status := http.StatusAccepted
	if tried := len(c.attempts[e.ID()]); !c.healed[e.ID()] && (wish.Fail < 0 || tried < wish.Fail) {
		status = wish.Status
	}
	if c.attempts == nil {
		c.attempts = map[string][]Attempt{}
	}
	c.attempts[e.ID()] = append(c.attempts[e.ID()], Attempt{At: time.Now(), Path: r.URL.Path, Status: status, Event: b, Header: r.Header.Clone()})
	if wish.Reply != "" && status == http.StatusAccepted {
		w.Header().Set("Ce-Specversion", "1.0")
		w.Header().Set("Ce-Id", "reply-to-"+e.ID())
		w.Header().Set("Ce-Source", "/receiver")
		w.Header().Set("Ce-Type", wish.Reply)
		w.WriteHeader(http.StatusOK)
		return
	}
	w.WriteHeader(status)
	if status != http.StatusAccepted || wish.Fail == 0 {
		_, _ = io.WriteString(w, wish.Body)
	}
}
