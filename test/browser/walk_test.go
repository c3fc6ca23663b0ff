package browser

import (
	_ "embed"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/pilotlight-ml/pilotlight/internal/auth"
	"github.com/pilotlight-ml/pilotlight/internal/store/diskstore"
)

//go:embed page.js
var pageScript string

const (
	ofOneShape = 3   // pages of one shape that are looked at: they differ in what they are of
	pagesMost  = 120 // in all
)

// words are parts of addresses that stand where elsewhere a name does.
var words = []string{"views", "sources", "services", "latest"}

// shape is what the addresses of a kind of page have in common: behind each part that says what something is comes its name, and a query says what is wanted of it.
func shape(href string) string {
	u, err := url.Parse(href)
	if err != nil {
		return href
	}
	parts := strings.Split(strings.TrimPrefix(u.Path, "/console/"), "/")
	named := false
	for i, part := range parts {
		if named && !slices.Contains(words, part) {
			parts[i], named = "*", false
		} else {
			named = true
		}
	}
	return strings.Join(parts, "/") + "?" + strings.Join(slices.Sorted(maps.Keys(u.Query())), "&")
}

// links gives the console's own addresses that a page leads to.
func (b *tab) links() []string {
	return asks[[]string](b, `[...new Set([...document.querySelectorAll("a[href]")].map((a) => a.getAttribute("href")))].filter((h) => !h.includes("#")).filter((h) => h === "/console" || h.startsWith("/console/") || h.startsWith("/console?") || h.startsWith("?"))`)
}

// check asks a page for what is wrong with it.
func (b *tab) check() {
	b.t.Helper()
	for _, wrong := range append(asks[[]string](b, pageScript), b.noted()...) {
		b.t.Errorf("%s: %s", b.where, wrong)
	}
}

// walk clicks through the console from its first page on, some pages of each shape, and gives their addresses in the order of their discovery.
func (b *tab) walk() []string {
	b.t.Helper()
	seen, shapes, order := map[string]bool{"/console": true}, map[string]int{}, []string{"/console"}
	from := map[string]string{} // where each page's link stands
	for i := 0; i < len(order) && i < pagesMost; i++ {
		page := order[i]
		if i == 0 {
			b.visit(page)
		} else {
			if here := asks[string](b, "location.pathname + location.search"); here != from[page] {
				b.visit(from[page])
			}
			if status := b.click(page); status != http.StatusOK {
				b.t.Errorf("the link from %s to %s leads to status %d", from[page], page, status)
				b.noted() // it says the same
				continue
			}
		}
		b.check()
		here := asks[string](b, "location.pathname + location.search")
		for _, href := range b.links() {
			s := shape(href)
			if strings.HasPrefix(href, "?") {
				s = shape(here) + s
			}
			if seen[href] || shapes[s] >= ofOneShape {
				continue
			}
			seen[href] = true
			shapes[s]++
			from[href] = here
			order = append(order, href)
		}
	}
	return order
}

// TestEveryPage clicks through all pages, as they look to those who like them light or dark, at a desk or on a phone.
func TestEveryPage(t *testing.T) {
	s := start(t)
	s.live()
	var pages []string
	for _, look := range []struct {
		width, height int64
		colours       string
	}{{1280, 900, "light"}, {390, 844, "dark"}, {1280, 900, "dark"}, {390, 844, "light"}} {
		t.Run(fmt.Sprintf("%d px, %s", look.width, look.colours), func(t *testing.T) {
			b := open(t, s.url)
			b.look(look.width, look.height, look.colours)
			pages = b.walk()
			t.Logf("%d pages: %s", len(pages), strings.Join(pages, " "))
			dark := asks[bool](b, `getComputedStyle(document.body).backgroundColor.match(/\d+/g).every((c) => c < 128)`)
			if dark != (look.colours == "dark") {
				t.Errorf("the page is dark: %t", dark)
			}
		})
	}
	t.Run("first paint", func(t *testing.T) {
		b := open(t, s.url)
		for _, page := range oneOfEach(pages) {
			var times []float64
			for range 10 {
				b.visit(page)
				times = append(times, asks[float64](b, `new Promise((done) => {
					const told = () => performance.getEntriesByName("first-contentful-paint")[0];
					if (told()) return done(told().startTime);
					new PerformanceObserver(() => { if (told()) done(told().startTime); }).observe({type: "paint", buffered: true});
				})`))
			}
			slices.Sort(times)
			t.Logf("first contentful paint of %-60s median %5.0f ms, worst of ten %5.0f ms", page, (times[4]+times[5])/2, times[9])
		}
		b.noted()
	})
}

// oneOfEach leaves one page of each shape.
func oneOfEach(pages []string) (some []string) {
	seen := map[string]bool{}
	for _, page := range pages {
		if s := shape(page); !seen[s] && !strings.HasPrefix(page, "?") {
			seen[s] = true
			some = append(some, page)
		}
	}
	return some
}

// TestNothingIsOverlooked has a page do what none may, so that it is known that the tests would see it.
func TestNothingIsOverlooked(t *testing.T) {
	s := start(t)
	b := open(t, s.url)
	b.visit("/console")
	b.check()
	for _, bad := range []struct{ script, said string }{
		{`document.body.append(Object.assign(document.createElement("script"), {textContent: "1"}))`, "Content Security Policy"},
		{`document.body.setAttribute("style", "color: red")`, "Content Security Policy"},
		{`fetch("/console/nowhere")`, "answers 404"},
		{`fetch("https://example.invalid/x").catch(() => {})`, "Content Security Policy"},
		{`setTimeout(() => { throw new Error("as it must") })`, "as it must"},
		{`console.error("as it must")`, "as it must"},
		{`document.querySelector("main").append(document.createElement("svg").cloneNode(), new Image())`, ""},
	} {
		b.do(ran(bad.script))
		s.until(bad.script, func() bool {
			return bad.said == "" || strings.Contains(strings.Join(b.noted(), "\n"), bad.said)
		})
	}
	b.do(ran(`const wide = document.createElement("table"); wide.innerHTML = "<tr><th>" + "m".repeat(999); document.querySelector("main").append(wide); wide.style.whiteSpace = "nowrap"; wide.style.overflowWrap = "normal"; document.querySelector("h1").remove()`))
	wrong := strings.Join(asks[[]string](b, pageScript), "\n")
	for _, want := range []string{"a picture has no text", "0 headings", "has no scope", "wider than the window"} {
		if !strings.Contains(wrong, want) {
			t.Errorf("%q is not among what is wrong: %s", want, wrong)
		}
	}
}

// TestKeyboard goes through the console without a mouse.
func TestKeyboard(t *testing.T) {
	s := start(t)
	b := open(t, s.url)
	focus := func() string {
		return asks[string](b, `document.activeElement.className + " " + (document.activeElement.getAttribute("href") || document.activeElement.name || "")`)
	}
	b.visit("/console/models")
	b.do(chromedp.KeyEvent(kb.Tab))
	if at := focus(); at != "skip #main" {
		t.Errorf("the first Tab leads to %q, want the link to the content", at)
	}
	if !asks[bool](b, `document.activeElement.getBoundingClientRect().left >= 0`) {
		t.Error("the link to the content is not to be seen where it has the focus")
	}
	b.do(chromedp.KeyEvent(kb.Enter), chromedp.KeyEvent(kb.Tab))
	if !asks[bool](b, `document.querySelector("main").contains(document.activeElement)`) {
		t.Errorf("behind the link to the content Tab leads to %q, want something in the content", focus())
	}
	b.visit("/console/models")
	for i := 0; ; i++ {
		b.do(chromedp.KeyEvent(kb.Tab))
		if strings.HasSuffix(focus(), " /console/models") {
			break
		}
		if i > 20 {
			t.Fatal("Tab does not lead to the navigation")
		}
	}
	b.press("/")
	if !asks[bool](b, `document.activeElement.matches("[data-search]") && document.activeElement.value === ""`) {
		t.Errorf("/ leads to %q, want the search", focus())
	}
	if status := b.load(chromedp.KeyEvent("fl" + kb.Enter)); status != http.StatusOK || !strings.Contains(asks[string](b, "location.search"), "prefix=fl") {
		t.Errorf("a search leads to status %d, %s", status, asks[string](b, "location.href"))
	}
	b.check()
}

// TestSignIn signs in with a key where keys are asked for, and out again.
func TestSignIn(t *testing.T) {
	data := t.TempDir()
	blob, err := diskstore.OpenBlob(t.Context(), &url.URL{Scheme: "file", Path: filepath.Join(data, "bucket")})
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Close()
	_, secret, err := auth.NewKeys(blob).Create(t.Context(), auth.Grant{Name: "reader", Scopes: []auth.Scope{"admin:read"}}, "")
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, "AUTH=on", "BLOB_URL=file://"+filepath.Join(data, "bucket"))
	b := open(t, s.url)
	b.visit("/console/models?prefix=fl")
	b.check()
	if at := asks[string](b, "location.pathname"); at != "/console/login" {
		t.Fatalf("a stranger is at %s", at)
	}
	enter := func(key string) {
		t.Helper()
		if status := b.load(chromedp.SendKeys(chromedp.CSS("input[name=key]"), key+kb.Enter)); status != http.StatusOK {
			t.Fatalf("status %d", status)
		}
		b.check()
	}
	enter("pl_wrong")
	if at := asks[string](b, `location.pathname + " " + document.querySelector(".told").className`); at != "/console/login told bad" {
		t.Errorf("with a wrong key: at %s", at)
	}
	enter(secret)
	if at := asks[string](b, "location.pathname + location.search"); at != "/console/models?prefix=fl" {
		t.Errorf("with a key: at %s, want where they wanted to go", at)
	}
	if asks[string](b, "document.cookie") != "" {
		t.Error("a script can read the key")
	}
	// Who may only look is told so where they try more.
	b.visit("/console/events")
	b.check()
	b.load(ran(`document.querySelector("header form button").click()`))
	if at := asks[string](b, "location.pathname"); at != "/console/login" {
		t.Errorf("after signing out: at %s", at)
	}
	b.load(chromedp.Navigate(s.url + "/console"))
	if at := asks[string](b, "location.pathname"); at != "/console/login" {
		t.Errorf("after signing out the first page is %s", at)
	}
}

// TestScreenshots takes pictures of pages into the folder SCREENSHOTS, of the server at CONSOLE_URL or one of its own.
func TestScreenshots(t *testing.T) {
	folder := os.Getenv("SCREENSHOTS")
	if folder == "" {
		t.Skip("SCREENSHOTS names no folder: `make screenshots` does")
	}
	at := os.Getenv("CONSOLE_URL")
	if at == "" {
		s := start(t)
		s.live()
		at = s.url
	}
	b := open(t, strings.TrimSuffix(at, "/"))
	b.look(1280, 900, "light")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	take := func(name string) {
		t.Helper()
		picture, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
		if err == nil {
			picture, err = small(picture)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(folder, name+".png"), picture, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s.png: %d KB of %s", name, len(picture)>>10, b.where)
	}
	pages := oneOfEach(b.walk())
	for _, page := range pages {
		b.visit(page)
		take(fileName(page))
	}
	b.look(1280, 900, "dark")
	b.visit("/console")
	take("overview-dark")
	b.look(390, 844, "light")
	b.visit("/console")
	take("overview-phone")
}

var notInNames = regexp.MustCompile(`[^a-z]+`)

// fileName makes one of the fixed parts of an address.
func fileName(page string) string {
	name := strings.Trim(notInNames.ReplaceAllString(strings.ReplaceAll(shape(page), "*", "one"), "-"), "-")
	if page == "/console" {
		name = "overview"
	}
	return name
}
