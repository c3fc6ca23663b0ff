package auth

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// Limits bound how much somebody may ask for; zero: nothing is bounded. Requests and rows that
// are refused do not count.
type Limits struct {
	Rate    float64 `json:"rate,omitempty"`  // requests a second, over time
	Burst   int     `json:"burst,omitempty"` // requests at once; 0: those of a second
	Daily   Quota   `json:"daily,omitzero"`  // until midnight, UTC
	Monthly Quota   `json:"monthly,omitzero"`
}

// Quota is an amount for a span of time; zero: any.
type Quota struct {
	Requests int64 `json:"requests,omitempty"`
	Rows     int64 `json:"rows,omitempty"` // that predictions were made for
}

// Check refuses what can't be meant.
func (l *Limits) Check() error {
	switch {
	case !(l.Rate >= 0 && l.Rate <= 1e6) || l.Rate != 0 && l.Rate < 1e-4:
		return fault.New(fault.Invalid, "rate is %g, expected 0 (any) or 0.0001 to 1000000 requests a second", l.Rate)
	case l.Burst < 0 || l.Burst > 1e6 || l.Burst > 0 && l.Rate == 0:
		return fault.New(fault.Invalid, "burst is %d, expected 0 (those of a second) to 1000000, beside a rate", l.Burst)
	}
	for _, q := range []int64{l.Daily.Requests, l.Daily.Rows, l.Monthly.Requests, l.Monthly.Rows} {
		if q < 0 || q > 1<<50 {
			return fault.New(fault.Invalid, "a quota is %d, expected 0 (any) or more", q)
		}
	}
	return nil
}

// Size is how many requests may come at once.
func (l *Limits) Size() int {
	if l.Burst > 0 {
		return l.Burst
	}
	return max(1, int(math.Ceil(l.Rate)))
}

// Grant is what a key is given when it is made.
type Grant struct {
	Name     string    `json:"name"`               // what it is for
	Tenant   string    `json:"tenant,omitempty"`   // whom its use is counted for
	Scopes   []Scope   `json:"scopes"`             // what its holder may do
	Priority Priority  `json:"priority,omitempty"` // absent: normal
	Expires  time.Time `json:"expires,omitzero"`   // absent: never
	Limits
}

// Check refuses a grant that can't be meant.
func (g *Grant) Check(now time.Time) error {
	switch {
	case g.Name == "" || len(g.Name) > 100 || strings.ContainsFunc(g.Name, func(c rune) bool { return c < ' ' || c == 0x7f }):
		return fault.New(fault.Invalid, "name is %.60q, expected 1 to 100 bytes that say what the key is for", g.Name)
	case !goodTenant(g.Tenant):
		return fault.New(fault.Invalid, "tenant is %.60q, expected up to 60 letters, digits, '-', '_' and '.'", g.Tenant)
	case len(g.Scopes) == 0 || len(g.Scopes) > 50:
		return fault.New(fault.Invalid, "scopes are missing, or more than 50: expected some of %s", list(Actions))
	case g.Priority != "" && !slices.Contains([]Priority{Low, Normal, High}, g.Priority):
		return fault.New(fault.Invalid, "priority is %.60q, expected low, normal or high", string(g.Priority))
	case !g.Expires.IsZero() && !g.Expires.After(now):
		return fault.New(fault.Invalid, "expires is %s, which is over", g.Expires.UTC().Format(time.RFC3339))
	}
	for _, s := range g.Scopes {
		if err := s.Check(); err != nil {
			return err
		}
	}
	return g.Limits.Check()
}

// goodTenant tells whether use can be counted for a tenant; "": for none.
func goodTenant(t string) bool { return len(t) <= 60 && strings.Trim(t, wordBytes) == "" }

// Key is an API key as it is known to everyone but its holder.
type Key struct {
	ID string `json:"id"`
	Grant
	CreatedAt time.Time `json:"created_at"`
	CreatedBy string    `json:"created_by,omitempty"`
	RotatedAt time.Time `json:"rotated_at,omitzero"`
	Revoked   time.Time `json:"revoked,omitzero"`
}

// Holds tells whether the key lets anybody in at a time.
func (k *Key) Holds(now time.Time) bool {
	return k.Revoked.IsZero() && (k.Expires.IsZero() || now.Before(k.Expires))
}

// stored is a key as the bucket has it.
type stored struct {
	Key
	Secrets []secret `json:"secrets"` // the newest first
}

// secret is one by which a key is known.
type secret struct {
	Hash  string    `json:"sha256"`
	Until time.Time `json:"until,omitzero"` // absent: as long as the key
}

const (
	keyPrefix  = "pl_"
	idLen      = 12
	secretLen  = 26 // of 5 bits each
	secretText = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
)

// A key is pl_<id>_<secret>. The secret has 130 random bits, so one round of a hash is as good as many: there is
// nothing to guess. The prefix lets scanners of source code find keys that went astray.

func newID() string { return strings.ToLower(rand.Text()[:idLen]) }

// newSecret makes a secret, and what is kept of it.
func newSecret(id string) (whole string, s secret) {
	text := rand.Text()
	sum := sha256.Sum256([]byte(text))
	return keyPrefix + id + "_" + text, secret{Hash: hex.EncodeToString(sum[:])}
}

// isKey tells a key from a token.
func isKey(credential string) bool { return strings.HasPrefix(credential, keyPrefix) }

// splitKey gives the parts of a key, if it looks like one.
func splitKey(whole string) (id, text string, ok bool) {
	if len(whole) != len(keyPrefix)+idLen+1+secretLen || !isKey(whole) || whole[len(keyPrefix)+idLen] != '_' {
		return "", "", false
	}
	id, text = whole[len(keyPrefix):len(keyPrefix)+idLen], whole[len(keyPrefix)+idLen+1:]
	return id, text, goodID(id) && strings.Trim(text, secretText) == ""
}

// goodID tells whether a key may have this id, which becomes a part of a path in the bucket.
func goodID(id string) bool {
	return len(id) == idLen && strings.Trim(id, strings.ToLower(secretText)) == ""
}

// known is a key made ready to be compared with.
type known struct {
	key       *Key // nil: there is none of the id
	principal *Principal
	hashes    [][sha256.Size]byte
	until     []time.Time
	read      time.Time
}

// know makes a stored key ready.
func know(s *stored, read time.Time) (*known, error) {
	k := &known{key: &s.Key, read: read}
	for _, one := range s.Secrets {
		b, err := hex.DecodeString(one.Hash)
		if err != nil || len(b) != sha256.Size {
			return nil, fault.New(fault.Internal, "the hash of key %s is damaged", s.ID)
		}
		k.hashes, k.until = append(k.hashes, [sha256.Size]byte(b)), append(k.until, one.Until)
	}
	k.principal = newPrincipal(Principal{ID: "key:" + s.ID, Name: s.Name, Tenant: s.Tenant, Priority: cmp.Or(s.Priority, Normal), Limits: s.Limits}, s.Scopes)
	return k, nil
}

// opens tells whether a secret is one of the key's. All of them are compared, in constant time.
func (k *known) opens(text string, now time.Time) bool {
	sum := sha256.Sum256([]byte(text))
	found := 0
	for i := range k.hashes {
		same := subtle.ConstantTimeCompare(sum[:], k.hashes[i][:])
		if !k.until[i].IsZero() && !now.Before(k.until[i]) {
			same = 0
		}
		found |= same
	}
	return found == 1
}
