// Package console is what a person opens: pages that show what /admin/v1 gives as JSON, and forms that ask it for changes.
//
// It has no data of its own and no rights: every page is made of requests to the process's own server, with the key of whoever
// looks, so that a page shows what its reader may see and nothing that the JSON does not have. It lies where the public way in is
// (functions/gateway, functions/all), which is awake anyway: who has no key is shown a form, and wakes nothing.
//
// Pages are HTML that works without scripts; those that say so keep themselves up to date by server-sent events. Strangers' texts
// (names, values, messages) are text: the templates escape them, and what turns the direction of writing around is made visible.
// All of it is safe for concurrent use.
package console

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/pilotlight-ml/pilotlight/internal/chart"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

//go:embed assets
var assets embed.FS

//go:embed templates
var templates embed.FS

// Console makes pages.
type Console struct {
	api     *http.Client
	tel     *telemetry.Telemetry
	live    chan struct{} // as many as may look at once
	pages   sync.Map      // of templates made ready, by file
	memory  memory
	styling string // the hash of the style in charts
	assets  string // a digest of all files, which their addresses have, so that a browser does not use old ones with new pages
}

// liveMost is how many pages may keep themselves up to date at once.
const liveMost = 64

// Open mounts the console on a process whose server answers /admin/v1.
func Open(p *serve.Process) {
	c := &Console{api: p.Client(), tel: p.Tel, live: make(chan struct{}, liveMost)}
	sum := sha256.Sum256([]byte(chart.Style()))
	c.styling = base64.StdEncoding.EncodeToString(sum[:])
	c.assets = digest(assets)
	c.register(p.Mux)
}

// register mounts
//
//	GET  /console/...          pages; with Accept: text/event-stream, what is live in them
//	POST /console/...          forms
//	GET  /console/....svg      pictures
//	GET  /console/assets/...   styles and scripts
//	     /console/login, /console/logout
func (c *Console) register(mux *http.ServeMux) {
	files, err := fs.Sub(assets, "assets")
	if err != nil {
		panic(err) // embedded as "assets"
	}
	mux.Handle("GET /console/assets/", http.StripPrefix("/console/assets/", cached(http.FileServerFS(files))))
	mux.HandleFunc("GET /console/{$}", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/console", http.StatusMovedPermanently)
	})
	mux.HandleFunc("GET /console/login", c.showLogin)
	mux.HandleFunc("POST /console/login", c.login)
	mux.HandleFunc("POST /console/logout", c.logout)
	c.page(mux, "/console", "overview", c.overview)
	c.page(mux, "/console/models", "models", c.models)
	c.page(mux, "/console/models/{model}", "model", c.model)
	c.page(mux, "/console/models/{model}/over-time", "course", c.overTime)
	mux.HandleFunc("GET /console/models/{model}/quality.svg", c.picture(quality))
	mux.HandleFunc("GET /console/models/{model}/drift.svg", c.picture(drift))
	c.page(mux, "/console/models/{model}/versions/{version}", "version", c.version)
	c.page(mux, "/console/models/{model}/try", "try", c.try)
	c.posted(mux, "/console/models/{model}/try", "try", c.tried)
	c.form(mux, "/console/models/{model}/aliases", c.changeAlias)
	c.page(mux, "/console/predictions", "predictions", c.predictions)
	c.page(mux, "/console/predictions/{id}", "prediction", c.prediction)
	mux.HandleFunc("GET /console/predictions/"+finds, c.findPrediction)
	c.page(mux, "/console/features", "features", c.features)
	c.page(mux, "/console/features/views/{view}", "view", c.featureView)
	c.page(mux, "/console/traces", "traces", c.traces)
	c.page(mux, "/console/traces/{trace}", "trace", c.trace)
	c.page(mux, "/console/pipelines", "pipelines", c.pipelines)
	c.page(mux, "/console/pipelines/{pipeline}", "pipeline", c.pipeline)
	c.form(mux, "/console/pipelines/{pipeline}/runs", c.startRun)
	c.page(mux, "/console/pipelines/{pipeline}/runs/{run}", "run", c.run)
	c.page(mux, "/console/pipelines/{pipeline}/runs/{run}/logs/{step}", "log", c.stepLog)
	c.form(mux, "/console/pipelines/{pipeline}/runs/{run}/cancel", c.cancelRun)
	c.page(mux, "/console/alerts", "alerts", c.alerts)
	c.page(mux, "/console/alerts/{alert}", "alert", c.alert)
	c.page(mux, "/console/events", "events", c.events)
	c.form(mux, "/console/events/replay", c.replayAll)
	c.page(mux, "/console/events/{letter}", "letter", c.letter)
	c.form(mux, "/console/events/{letter}/replay", c.replay)
	c.form(mux, "/console/events/{letter}/delete", c.deleteLetter)
	mux.HandleFunc("GET /console/", func(w http.ResponseWriter, r *http.Request) {
		c.fail(w, r, fault.New(fault.NotFound, "there is no page at %.200s", r.URL.Path))
	})
}

// digest is of all files, short.
func digest(files fs.FS) string {
	sum := sha256.New()
	err := fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(files, path)
		sum.Write(b)
		return err
	})
	if err != nil {
		panic(err) // they are embedded
	}
	return hex.EncodeToString(sum.Sum(nil)[:6])
}

// cached lets browsers keep files for an hour: they change with the program alone, and so do their addresses.
func cached(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=3600")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		h.ServeHTTP(w, r)
	})
}

// View is what a template shows.
type View struct {
	Title string
	Nav   string        // the part of the console that the page belongs to: the path of its link
	Every time.Duration // how often what is live is made anew; 0: nothing is
	Data  any

	Told   string // about what was done last
	Failed bool   // and that it was not
	Signed bool   // with a key
	Assets string // what the addresses of files end in
}

// page mounts a page: look asks the API for what the template of that name shows.
func (c *Console) page(mux *http.ServeMux, pattern, name string, look func(q *Query) (*View, error)) {
	mux.HandleFunc("GET "+pattern, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept") == "text/event-stream" {
			c.stream(w, r, name, look)
			return
		}
		v, err := look(c.query(r))
		if err != nil {
			c.fail(w, r, err)
			return
		}
		v.Told, v.Failed = told(w, r)
		c.show(w, r, http.StatusOK, name, v)
	})
}

// posted mounts a page that is the answer to a form: for what changes nothing, and may be more than fits into a link.
func (c *Console) posted(mux *http.ServeMux, pattern, name string, look func(q *Query) (*View, error)) {
	mux.HandleFunc("POST "+pattern, func(w http.ResponseWriter, r *http.Request) {
		if err := c.read(w, r); err != nil {
			c.fail(w, r, err)
			return
		}
		v, err := look(c.query(r))
		if err != nil {
			c.fail(w, r, err)
			return
		}
		c.show(w, r, http.StatusOK, name, v)
	})
}

// form mounts what a form asks for: do asks the API, and gives a sentence about what was done and where to go on.
func (c *Console) form(mux *http.ServeMux, pattern string, do func(q *Query) (said, next string, err error)) {
	mux.HandleFunc("POST "+pattern, func(w http.ResponseWriter, r *http.Request) {
		if err := c.read(w, r); err != nil {
			c.fail(w, r, err)
			return
		}
		serve.Long(w, r)
		said, next, err := do(c.query(r))
		if fault.Is(err, fault.Unauthenticated) {
			c.fail(w, r, err)
			return
		}
		if err != nil {
			said = fault.Message(err)
			serve.Failed(r, err)
		}
		if next == "" {
			next = r.URL.Path
		}
		tell(w, r, said, err != nil)
		http.Redirect(w, r, next, http.StatusSeeOther)
	})
}

// The bytes that forms may have: of somebody who is known, and of somebody who is about to sign in.
const (
	formMost  = 4 << 20
	loginMost = 16 << 10
)

// read reads a form. Nothing has been asked for in its sender's name yet: that comes first, so that strangers' forms take no memory.
func (c *Console) read(w http.ResponseWriter, r *http.Request) error {
	if err := c.query(r).get("/admin/v1/limits", nil); fault.Is(err, fault.Unauthenticated) {
		return err
	}
	r.Body = http.MaxBytesReader(w, r.Body, formMost)
	if err := r.ParseForm(); err != nil {
		return fault.Wrap(fault.Invalid, err, "the form could not be read")
	}
	return nil
}

// show answers with a page.
func (c *Console) show(w http.ResponseWriter, r *http.Request, status int, name string, v *View) {
	v.Assets = c.assets
	_, err := r.Cookie(keyCookie)
	v.Signed = err == nil
	body, err := c.render(name, "base", v)
	if err != nil {
		serve.Error(w, r, err)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self' 'sha256-"+c.styling+"'; img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	w.WriteHeader(status)
	_, _ = w.Write(body) // a reader that is gone needs no page
}

// fail answers with what went wrong; who has no key that is good is asked for one.
func (c *Console) fail(w http.ResponseWriter, r *http.Request, err error) {
	if fault.Is(err, fault.Unauthenticated) {
		next := "/console"
		if r.Method == http.MethodGet {
			next = r.URL.RequestURI()
		}
		http.Redirect(w, r, "/console/login?next="+template.URLQueryEscaper(next), http.StatusSeeOther)
		return
	}
	serve.Failed(r, err)
	status := fault.HTTPStatus(err)
	c.show(w, r, status, "fault", &View{Title: http.StatusText(status), Data: fault.Message(err)})
}

// render executes a template of a page. What turns the direction of writing around, or steers a terminal, can only be of a stranger's
// text, and is shown as a mark in its place.
func (c *Console) render(page, name string, v *View) ([]byte, error) {
	t, err := c.template(page)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := t.ExecuteTemplate(&out, name, v); err != nil {
		return nil, fmt.Errorf("render %s: %w", page, err)
	}
	return bytes.Map(func(r rune) rune {
		if unicode.Is(unicode.Bidi_Control, r) || unicode.IsControl(r) && r != '\n' && r != '\t' {
			return unicode.ReplacementChar
		}
		return r
	}, out.Bytes()), nil
}

// template gives that of a page, parsed when it is first asked for: a process that nobody looks at pays nothing.
func (c *Console) template(page string) (*template.Template, error) {
	made, _ := c.pages.LoadOrStore(page, sync.OnceValues(func() (*template.Template, error) {
		return template.New("").Funcs(functions).ParseFS(templates, "templates/base.html", "templates/parts.html", path.Join("templates", page+".html"))
	}))
	return made.(func() (*template.Template, error))()
}

// stream sends what is live in a page, the block "live" of its template, whenever it has changed. It ends after a while, or with the
// process; the browser comes again.
func (c *Console) stream(w http.ResponseWriter, r *http.Request, name string, look func(q *Query) (*View, error)) {
	select {
	case c.live <- struct{}{}:
		defer func() { <-c.live }()
	default:
		serve.Error(w, r, fault.New(fault.Overloaded, "%d pages keep themselves up to date already", liveMost))
		return
	}
	serve.Long(w, r)
	v, err := look(c.query(r))
	if err == nil && v.Every == 0 {
		err = fault.New(fault.NotFound, "nothing is live on this page")
	}
	if err != nil {
		serve.Error(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	ctx, cancel := context.WithTimeout(r.Context(), liveFor)
	defer cancel()
	defer context.AfterFunc(serve.Draining(r), cancel)()
	control := http.NewResponseController(w)
	tick := time.NewTicker(v.Every)
	defer tick.Stop()
	for last := []byte(nil); ; {
		if err == nil {
			var body []byte
			if body, err = c.render(name, "live", v); err != nil {
				c.tel.Log.LogAttrs(ctx, slog.LevelError, "console", slog.String("error", err.Error()))
				return
			}
			if !bytes.Equal(body, last) {
				last = body
				_, err = fmt.Fprintf(w, "event: live\ndata: %s\n\n", bytes.ReplaceAll(body, []byte("\n"), []byte("\ndata: ")))
			} else {
				_, err = fmt.Fprint(w, ":\n\n") // so that a reader who has gone is noticed
			}
			if err = errors.Join(err, control.Flush()); err != nil {
				return
			}
			if v.Every == 0 { // that was its last state
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if v, err = look(c.query(r)); fault.Is(err, fault.Unauthenticated) || fault.Is(err, fault.Denied) {
			return
		}
	}
}

// liveFor is how long a page is kept up to date by one request.
const liveFor = 5 * time.Minute

// clipped shortens what is too long to be looked at.
func clipped(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
