package predict

import (
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/row"
)

// keeping is a prediction on its way to the payload log. Its memory is reused by later ones.
type keeping struct {
	payload.Prediction
	wanted bool // also if it does not fail
	values []row.Value
	times  []int64
}

var keepings = sync.Pool{New: func() any { return new(keeping) }}

// keep begins to keep a prediction of a version; nil where nothing of it is written.
func (f *Flow) keep(s *served) *keeping {
	if s.origin == nil {
		return nil
	}
	k := keepings.Get().(*keeping)
	k.wanted = f.log.Wants(s.origin)
	return k
}

// free gives the memory back.
func (k *keeping) free() {
	if k == nil || cap(k.Features) > keepMost {
		return
	}
	k.Prediction = payload.Prediction{Features: k.Features[:0]}
	keepings.Put(k)
}

// take notes the features that were fetched, which may change afterwards.
func (k *keeping) take(fields []row.Field, answers *feature.Answers) {
	k.Fields, k.Features = fields, k.Features[:0]
	for e := range answers.Rows() {
		k.values, k.times = k.values[:0], k.times[:0]
		for c := range fields {
			a := answers.At(c, e)
			k.values, k.times = append(k.values, a.Value), append(k.times, a.Event)
		}
		k.Features = payload.AppendFeatures(k.Features, fields, k.values, k.times)
	}
	clear(k.values)
}

// idMost is the longest id of a caller's that a prediction goes by.
const idMost = 200

// add writes it down. It goes by the id that it has for good, its caller's, or a new one.
func (k *keeping) add(log *payload.Log, o *payload.Origin, ask *asking, err error) {
	switch {
	case ask.id != "":
		k.ID = ask.id
	case k.ID == "" || len(k.ID) > idMost:
		k.ID = log.NewID()
	}
	k.Asked, k.Caller, k.Err = ask.begin, ask.caller, err
	if ask.from != nil {
		k.Caller = callerOf(ask.from)
	}
	if k.At.IsZero() {
		k.At = ask.begin
	}
	if err != nil {
		k.Latency, k.Rows = time.Since(ask.begin), 1
		k.Features = k.Features[:0]
	}
	log.Add(o, &k.Prediction)
}

// callerOf is the address that a request comes from, by the word of whoever passed it on.
func callerOf(r *http.Request) string {
	if via := r.Header["X-Forwarded-For"]; len(via) > 0 {
		first, _, _ := strings.Cut(via[0], ",")
		return strings.TrimSpace(first)
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}
