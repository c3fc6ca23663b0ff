package console

import (
	"encoding/base64"
	"net/http"
	"strings"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// Cookies of the console. They go to its own paths alone, no script can read them, and no other site can have them sent.
const (
	keyCookie  = "pilotlight_key"
	toldCookie = "pilotlight_told"
)

func (c *Console) showLogin(w http.ResponseWriter, r *http.Request) {
	v := &View{Title: "Sign in", Data: local(r.URL.Query().Get("next"))}
	v.Told, v.Failed = told(w, r)
	c.show(w, r, http.StatusOK, "login", v)
}

// login takes a key that the API accepts for reading.
func (c *Console) login(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, loginMost)
	next, key := local(r.PostFormValue("next")), strings.TrimSpace(r.PostFormValue("key"))
	q := c.query(r)
	q.key = key
	err := q.get("/admin/v1/models?limit=1", nil)
	if key == "" || strings.ContainsFunc(key, func(c rune) bool { return c <= ' ' || c > '~' || strings.ContainsRune(`",;\`, c) }) {
		err = fault.New(fault.Invalid, "that is no key or token")
	}
	if err != nil {
		tell(w, r, fault.Message(err), true)
		http.Redirect(w, r, "/console/login?next="+escape(next), http.StatusSeeOther)
		return
	}
	http.SetCookie(w, cookie(r, keyCookie, key, 0))
	http.Redirect(w, r, next, http.StatusSeeOther)
}

func (c *Console) logout(w http.ResponseWriter, r *http.Request) {
	http.SetCookie(w, cookie(r, keyCookie, "", -1))
	http.Redirect(w, r, "/console/login", http.StatusSeeOther)
}

// local keeps to the console: a link must not lead from the form for keys to somewhere else.
func local(next string) string {
	if next != "/console" && !strings.HasPrefix(next, "/console/") && !strings.HasPrefix(next, "/console?") || strings.ContainsAny(next, "\\\r\n") {
		return "/console"
	}
	return next
}

func cookie(r *http.Request, name, value string, age int) *http.Cookie {
	return &http.Cookie{
		Name: name, Value: value, Path: "/console", MaxAge: age, HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https",
	}
}

// tell keeps a sentence for the page that is shown next.
func tell(w http.ResponseWriter, r *http.Request, said string, failed bool) {
	mark := "+"
	if failed {
		mark = "-"
	}
	http.SetCookie(w, cookie(r, toldCookie, mark+base64.RawURLEncoding.EncodeToString([]byte(clipped(said, toldMost))), 60))
}

// toldMost is how many characters of a sentence are kept: four bytes each, in base64, fit into the 4 KiB that browsers give a cookie.
const toldMost = 600

// told gives that sentence, once.
func told(w http.ResponseWriter, r *http.Request) (said string, failed bool) {
	c, err := r.Cookie(toldCookie)
	if err != nil || c.Value == "" {
		return "", false
	}
	http.SetCookie(w, cookie(r, toldCookie, "", -1))
	b, err := base64.RawURLEncoding.DecodeString(c.Value[1:])
	if err != nil {
		return "", false
	}
	return string(b), c.Value[0] == '-'
}
