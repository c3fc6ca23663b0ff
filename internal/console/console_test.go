package console

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
)

// desk is a console before an API that a test gives, and a browser with cookies that does not follow redirects.
type desk struct {
	t *testing.T
	http.Client
	url string
}

// key is what the API of a desk asks for, if it asks.
const key = "pl_good"

func newDesk(t *testing.T, asks bool, routes map[string]http.HandlerFunc) *desk {
	t.Helper()
	f := &serve.Function{Name: "desk", Wire: func(_ context.Context, p *serve.Process) error {
		for pattern, handle := range routes {
			p.Mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
				if asks && r.Header.Get("Authorization") != "Bearer "+key {
					serve.Error(w, r, fault.New(fault.Unauthenticated, "the key is not valid"))
					return
				}
				handle(w, r)
			})
		}
		Open(p)
		return nil
	}}
	p, err := f.Start(t.Context(), map[string]string{"PORT": "0", "LOG_LEVEL": "ERROR"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{t: t, url: p.Server().URL(), Client: http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
	t.Cleanup(func() {
		d.CloseIdleConnections()
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return d
}

// open gets a page.
func (d *desk) open(path string, status int) (http.Header, string) {
	d.t.Helper()
	return d.ask(http.MethodGet, path, nil, status)
}

// send posts a form, as a browser does from a page of the console.
func (d *desk) send(path string, form url.Values, status int) (http.Header, string) {
	d.t.Helper()
	return d.ask(http.MethodPost, path, form, status)
}

func (d *desk) ask(method, path string, form url.Values, status int) (http.Header, string) {
	d.t.Helper()
	r, err := http.NewRequestWithContext(d.t.Context(), method, d.url+path, strings.NewReader(form.Encode()))
	if err != nil {
		d.t.Fatal(err)
	}
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return d.do(r, status)
}

func (d *desk) do(r *http.Request, status int) (http.Header, string) {
	d.t.Helper()
	answer, err := d.Do(r)
	if err != nil {
		d.t.Fatal(err)
	}
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode != status {
		d.t.Fatalf("%s %s: status %d, want %d: %s", answer.Request.Method, answer.Request.URL.Path, answer.StatusCode, status, b)
	}
	return answer.Header, string(b)
}

// says answers with JSON.
func says(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }
}

// Who shows no key that the API takes gets the form and nothing else, and comes back to where they wanted to go.
func TestSignIn(t *testing.T) {
	d := newDesk(t, true, map[string]http.HandlerFunc{"GET /admin/v1/models": says(`{"models":[{"name":"flights","versions":2,"aliases":{"champion":2}}]}`)})
	answer, _ := d.open("/console/models?prefix=fl", http.StatusSeeOther)
	form := answer.Get("Location")
	if form != "/console/login?next=%2Fconsole%2Fmodels%3Fprefix%3Dfl" {
		t.Errorf("a stranger is sent to %s", form)
	}
	d.open(form, http.StatusOK)
	for _, wrong := range []string{"pl_bad", "", "a b", "pl_\u202e"} {
		answer, _ = d.send("/console/login", url.Values{"key": {wrong}, "next": {"/console/models"}}, http.StatusSeeOther)
		if _, page := d.open(answer.Get("Location"), http.StatusOK); !strings.Contains(page, "told bad") {
			t.Errorf("the key %q: nothing is said about it", wrong)
		}
		d.open("/console/models", http.StatusSeeOther)
	}
	answer, _ = d.send("/console/login", url.Values{"key": {key}, "next": {"/console/models?prefix=fl"}}, http.StatusSeeOther)
	if to := answer.Get("Location"); to != "/console/models?prefix=fl" {
		t.Errorf("after signing in: sent to %s", to)
	}
	for _, c := range (&http.Response{Header: answer}).Cookies() {
		if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/console" {
			t.Errorf("a cookie that others could use: %v", c)
		}
	}
	if _, page := d.open("/console/models", http.StatusOK); !strings.Contains(page, "flights") || strings.Contains(page, key) {
		t.Errorf("signed in: the page is %s", page)
	}
	d.send("/console/logout", nil, http.StatusSeeOther)
	d.open("/console/models", http.StatusSeeOther)
	for _, away := range []string{"https://example.com", "//example.com", "/console/\\example.com", "/v2", "/consoles"} {
		answer, _ = d.send("/console/login", url.Values{"key": {key}, "next": {away}}, http.StatusSeeOther)
		if to := answer.Get("Location"); to != "/console" {
			t.Errorf("next=%s leads to %s", away, to)
		}
	}
}

// A form on another site changes nothing here.
func TestFormsOfOthers(t *testing.T) {
	d := newDesk(t, false, nil)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, d.url+"/console/logout", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	d.do(r, http.StatusForbidden)
}

// Strangers' texts are text, and pages may run nothing but the console's own script.
func TestHostileNames(t *testing.T) {
	d := newDesk(t, false, map[string]http.HandlerFunc{
		"GET /admin/v1/models": says(`{"models":[{"name":"<script>alert(1)</script>","aliases":{"a\"onmouseover=x":1}},{"name":"a\u202egnp\u0007\u001b[31m"},{"name":"` + strings.Repeat("m", 5000) + `"}]}`),
	})
	answer, page := d.open("/console/models", http.StatusOK)
	for _, bad := range []string{"<script>alert", `"onmouseover`, "\u202e", "\u0007", "\u001b", strings.Repeat("m", 200) + "<"} {
		if strings.Contains(page, bad) {
			t.Errorf("the page holds %q", bad)
		}
	}
	if policy := answer.Get("Content-Security-Policy"); !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") {
		t.Errorf("the policy is %q", policy)
	}
	d.open("/console/nothing", http.StatusNotFound)
	d.open("/console/models/"+url.PathEscape("../../x"), http.StatusNotFound)
}

// What is live comes again when it has changed, and not otherwise.
func TestLive(t *testing.T) {
	var rate atomic.Int64
	rate.Store(1)
	d := newDesk(t, false, map[string]http.HandlerFunc{"GET /admin/v1/live": func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `{"every_s":2,"total":{"rate":%d}}`, rate.Load())
	}})
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.url+"/console", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", "text/event-stream")
	answer, err := d.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	lines := bufio.NewScanner(answer.Body)
	next := func() (event string) {
		for lines.Scan() && (lines.Text() != "" || event == "") {
			event += strings.TrimPrefix(lines.Text(), "data: ")
		}
		return event
	}
	if first := next(); !strings.Contains(first, "<b>1</b>") {
		t.Errorf("first: %q", first)
	}
	if same := next(); same != ":" {
		t.Errorf("when nothing has changed: %q", same)
	}
	rate.Store(7)
	for event := ""; !strings.Contains(event, "<b>7</b>"); {
		if event = next(); event == "" {
			t.Fatal("the stream ended")
		}
	}
}

// Nothing of a stranger's form is read: the gateway is small, and open to all.
func TestFormsOfStrangers(t *testing.T) {
	d := newDesk(t, true, map[string]http.HandlerFunc{"GET /admin/v1/limits": says(`{}`), "GET /admin/v1/models": says(`{"models":[]}`)})
	large := url.Values{"x": {strings.Repeat("x", loginMost)}}
	answer, _ := d.send("/console/models/m/aliases", large, http.StatusSeeOther)
	if to := answer.Get("Location"); !strings.HasPrefix(to, "/console/login") {
		t.Errorf("a stranger's form leads to %s", to)
	}
	large.Set("key", key)
	if answer, _ = d.send("/console/login", large, http.StatusSeeOther); strings.Contains(strings.Join(answer["Set-Cookie"], " "), key) {
		t.Error("a form of any size is read from somebody who signs in")
	}
	d.open("/console/models", http.StatusSeeOther)
}

// What is live no more has its last state sent, and the stream ends: the browser need not come again.
func TestLiveEnds(t *testing.T) {
	var asked atomic.Int64
	run := strings.Replace(aRun, `"state":"succeeded"`, `"state":"running"`, 1)
	routes := answers(func(s string) string { return s })
	routes["GET /admin/v1/pipelines/{name}/runs/{id}"] = func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) == 1 {
			_, _ = io.WriteString(w, run)
			return
		}
		_, _ = io.WriteString(w, aRun)
	}
	d := newDesk(t, false, routes)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.url+"/console/pipelines/learns/runs/"+someRun, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", "text/event-stream")
	_, said := d.do(r, http.StatusOK) // to its end
	if n := strings.Count(said, "event: live"); n != 2 || asked.Load() != 2 {
		t.Errorf("got %d states of %d looks, want 2 of 2", n, asked.Load())
	}
}

// What is remembered is little, and gone when its seconds are over.
func TestMemoryIsBounded(t *testing.T) {
	var m memory
	now := time.Now()
	for i := range 10 * rememberMost {
		m.keep(sha256.Sum256([]byte{byte(i), byte(i >> 8)}), nil, now)
		if len(m.said) > rememberMost {
			t.Fatalf("%d answers are remembered", len(m.said))
		}
	}
	m.keep(sha256.Sum256(nil), nil, now.Add(rememberFor))
	if len(m.said) != 1 {
		t.Errorf("%d answers are remembered when their time is over", len(m.said)-1)
	}
}

// A sentence about what was done fits into what browsers keep, however long it is.
func TestLongSentence(t *testing.T) {
	d := newDesk(t, false, map[string]http.HandlerFunc{"DELETE /admin/v1/deadletters/{id}": fails(fault.New(fault.Invalid, "%s", strings.Repeat("\U0001F9EA", 5000)))})
	answer, _ := d.send("/console/events/x/delete", nil, http.StatusSeeOther)
	for _, c := range (&http.Response{Header: answer}).Cookies() {
		if n := len(c.String()); n > 4096 {
			t.Errorf("a cookie of %d bytes", n)
		}
	}
}

// An answer that is too much for a page is said to be.
func TestLargeAnswer(t *testing.T) {
	d := newDesk(t, false, map[string]http.HandlerFunc{"GET /admin/v1/models": says(`{"models":[{"name":"` + strings.Repeat("m", answerMost) + `"}]}`)})
	_, page := d.open("/console/models", http.StatusBadRequest)
	if !strings.Contains(page, "more than 8 MiB") {
		t.Errorf("the page is %.1000s", page)
	}
}
