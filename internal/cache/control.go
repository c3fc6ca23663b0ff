package cache

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// Control is what a caller says of cached answers.
type Control struct {
	// NoCache wants a new answer, which may be remembered.
	NoCache bool
	// NoStore wants that neither this request meets the cache nor its answer does.
	NoStore bool
	// Limited says that the caller takes no answer older than MaxAge, nor a stale one.
	Limited bool
	MaxAge  time.Duration
}

// ParseControl reads a request's Cache-Control (RFC 9111, 5.2.1), several
// headers joined by commas. What it can't read of max-age it takes for 0, and it
// passes over all other directives: only-if-cached too, for whoever asks for a
// prediction wants one.
func ParseControl(header string) (c Control) {
	if header == "" {
		return c
	}
	for directive := range strings.SplitSeq(header, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "no-cache":
			c.NoCache = true
		case "no-store":
			c.NoStore = true
		case "max-age":
			seconds, err := strconv.ParseUint(strings.Trim(strings.TrimSpace(value), `"`), 10, 31)
			if err != nil && !errors.Is(err, strconv.ErrRange) { // then seconds is the largest there is
				seconds = 0
			}
			age := time.Duration(seconds) * time.Second
			if c.Limited {
				age = min(age, c.MaxAge)
			}
			c.Limited, c.MaxAge = true, age
		}
	}
	return c
}

// takes reports whether an answer of that age will do.
func (c Control) takes(age, ttl time.Duration) bool {
	return !c.NoCache && (!c.Limited || age <= c.MaxAge && age < ttl)
}

// Status says where an answer came from.
type Status uint8

// The statuses. Off is that of a model whose answers are never remembered.
const (
	Off        Status = iota
	Hit               // from the memory of this process
	HitShared         // from the store that processes share
	Stale             // from memory, past its time; a new one is being made
	Joined            // of a run that another request had begun
	Miss              // of a run
	Forced            // of a run that the caller insisted on
	Refused           // of a run, and the caller forbade to remember it
	Skipped           // of a run, because looking up would cost more
	Distrusted        // of a run, because the model answers differently each time
	statuses
)

var statusNames = [statuses]string{"off", "hit", "hit_shared", "stale", "joined", "miss", "forced", "refused", "skipped", "distrusted"}

// String gives the status as it stands in logs and metrics.
func (s Status) String() string { return statusNames[s] }

// Cached reports whether the answer was made for an earlier request.
func (s Status) Cached() bool { return s == Hit || s == HitShared || s == Stale }

// Outcome is how a request met the cache.
type Outcome struct {
	Status Status
	Age    time.Duration // of a cached answer
	TTL    time.Duration // how long a cached answer stays fresh; negative for a stale one
	Stored bool          // the answer of this run is remembered
}

// AppendHeader appends the outcome as a Cache-Status header has it (RFC 9211);
// nothing for Off.
func (o Outcome) AppendHeader(b []byte) []byte {
	const cache = "pilotlight; "
	if o.Status == Off {
		return b
	}
	b = append(b, cache...)
	switch o.Status {
	case Hit, Stale, HitShared:
		b = append(b, "hit; ttl="...)
		seconds := int64(o.TTL / time.Second)
		if o.TTL < 0 {
			seconds = int64((o.TTL - time.Second + 1) / time.Second) // stale is never ttl=0
		}
		b = strconv.AppendInt(b, seconds, 10)
		if o.Status == HitShared {
			b = append(b, "; detail=shared"...)
		}
	case Miss:
		b = append(b, "fwd=miss"...)
	case Joined:
		b = append(b, "fwd=miss; collapsed"...)
	case Forced, Refused:
		b = append(b, "fwd=request"...)
	case Skipped:
		b = append(b, "fwd=bypass; detail=cost"...)
	case Distrusted:
		b = append(b, "fwd=bypass; detail=nondeterministic"...)
	}
	if o.Stored {
		b = append(b, "; stored"...)
	}
	return b
}
