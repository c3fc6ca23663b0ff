// Package yamlwire reads what people define in YAML: strictly, and with the place of
// every mistake. It knows no definitions; all of it is safe for concurrent use.
package yamlwire

import (
	"strconv"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// Duration is a time.Duration that is written like "90m" or "36h", and may say days: "7d", "1d12h".
type Duration time.Duration

const day = 24 * time.Hour

// ParseDuration reads a Duration: days, hours, minutes, seconds and what is
// smaller, such as "90m", "36h", "7d" or "1d12h".
func ParseDuration(s string) (Duration, error) {
	days, rest, hasDays := strings.Cut(s, "d")
	d := time.Duration(0)
	if hasDays {
		n, err := strconv.ParseUint(days, 10, 32)
		if err != nil || n > uint64((1<<63-1)/day) {
			return 0, notDuration(s)
		}
		d = time.Duration(n) * day
	} else {
		rest = s
	}
	if rest != "" || !hasDays {
		below, err := time.ParseDuration(rest)
		if err != nil || hasDays && (below < 0 || strings.HasPrefix(rest, "+") || d+below < 0) {
			return 0, notDuration(s)
		}
		d += below
	}
	return Duration(d), nil
}

func notDuration(s string) error {
	return fault.New(fault.Invalid, `%.50q is not a duration such as "90m", "36h", "7d" or "1d12h"`, s)
}

// String writes the duration in the largest units that it has, those that it has none of left out.
func (d Duration) String() string {
	t := time.Duration(d)
	if t < time.Minute {
		return t.String()
	}
	var b strings.Builder
	for _, unit := range []struct {
		of   time.Duration
		name string
	}{{day, "d"}, {time.Hour, "h"}, {time.Minute, "m"}} {
		if n := t / unit.of; n > 0 {
			b.WriteString(strconv.FormatInt(int64(n), 10) + unit.name)
			t -= n * unit.of
		}
	}
	if t > 0 {
		b.WriteString(t.String())
	}
	return b.String()
}

// MarshalText is String.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText is ParseDuration.
func (d *Duration) UnmarshalText(b []byte) (err error) {
	*d, err = ParseDuration(string(b))
	return err
}
