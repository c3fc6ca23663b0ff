package env

import (
	"errors"
	"log/slog"
	"math"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
)

// Size is a number of bytes, written with a unit or without: 256MiB, 1GB, 4096.
type Size int64

// UnmarshalText reads a size.
func (s *Size) UnmarshalText(text []byte) error {
	n, err := humanize.ParseBytes(string(text))
	if err != nil || n > math.MaxInt64 {
		return errors.New("expected a size such as 256MiB, 1GB or 4096")
	}
	*s = Size(n)
	return nil
}

// MarshalText writes the size so that reading it gives the same number again.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// String gives the size in the largest unit of which it is a whole number.
func (s Size) String() string {
	n, unit := int64(s), 0
	for ; n != 0 && n%1024 == 0; unit++ {
		n /= 1024
	}
	return strconv.FormatInt(n, 10) + [...]string{"", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}[unit]
}

// Secret is a value that no log, table or error shows; string(s) reveals it.
type Secret string

const hidden = "(hidden)"

// UnmarshalText reads a secret. A line end, as files of secrets have it, is not part of it.
func (s *Secret) UnmarshalText(text []byte) error {
	*s = Secret(strings.TrimRight(string(text), "\r\n"))
	return nil
}

// String, GoString, MarshalText and LogValue keep the secret out of whatever prints it.
func (s Secret) String() string { return hidden }

// GoString is String for %#v.
func (s Secret) GoString() string { return hidden }

// MarshalText is String for encoders.
func (s Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// LogValue is String for slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(hidden) }
