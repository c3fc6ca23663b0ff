package cache

import (
	"math"
	"testing"
	"time"
)

func TestParseControl(t *testing.T) {
	for header, want := range map[string]Control{
		"":                                    {},
		"no-cache":                            {NoCache: true},
		"No-Store , NO-CACHE":                 {NoCache: true, NoStore: true},
		"max-age=5":                           {Limited: true, MaxAge: 5 * time.Second},
		`max-age="5"`:                         {Limited: true, MaxAge: 5 * time.Second},
		"max-age=0":                           {Limited: true},
		"max-age":                             {Limited: true},
		"max-age=-1":                          {Limited: true},
		"max-age=soon":                        {Limited: true},
		"max-age=99999999999999999999":        {Limited: true, MaxAge: math.MaxInt32 * time.Second},
		"max-age=9, max-age=3":                {Limited: true, MaxAge: 3 * time.Second},
		"only-if-cached, max-stale=3, ,,x=,=": {},
		"no-cache-please, xno-store":          {},
	} {
		if got := ParseControl(header); got != want {
			t.Errorf("%q: got %+v, want %+v", header, got, want)
		}
	}
}

func TestHeader(t *testing.T) {
	for want, o := range map[string]Outcome{
		"":                                                {},
		"pilotlight; hit; ttl=12":                         {Status: Hit, Age: time.Second, TTL: 12*time.Second + 1},
		"pilotlight; hit; ttl=0; detail=shared":           {Status: HitShared, TTL: time.Millisecond},
		"pilotlight; hit; ttl=-1":                         {Status: Stale, TTL: -time.Millisecond},
		"pilotlight; hit; ttl=-2":                         {Status: Stale, TTL: -2 * time.Second},
		"pilotlight; fwd=miss; stored":                    {Status: Miss, Stored: true},
		"pilotlight; fwd=miss":                            {Status: Miss},
		"pilotlight; fwd=miss; collapsed":                 {Status: Joined},
		"pilotlight; fwd=request; stored":                 {Status: Forced, Stored: true},
		"pilotlight; fwd=request":                         {Status: Refused},
		"pilotlight; fwd=bypass; detail=cost":             {Status: Skipped},
		"pilotlight; fwd=bypass; detail=nondeterministic": {Status: Distrusted},
	} {
		if got := string(o.AppendHeader(nil)); got != want {
			t.Errorf("%+v: got %q, want %q", o, got, want)
		}
	}
}
