// Package model keeps trained models: which versions exist, which of them an
// alias names, where their bytes lie, and which are warm in this process.
//
// Truth is one bucket (a store.Blob), laid out so that every change becomes
// visible by one atomic write:
//
//	artifacts/sha256/<hex>               the file, named by what it holds
//	models/<name>/versions/<10 digits>   a manifest, never changed once written
//	models/<name>/aliases                all aliases of a model and how they came to be
//
// Catalog reads and writes the manifests and aliases, Artifacts moves the
// files between the bucket and a disk cache, Warm holds sessions ready to run,
// and Registry takes a new file in. All are safe for concurrent use, and by any
// number of processes on one bucket. The package knows no protocol but that of
// the sample request that a manifest may carry.
package model

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/oip"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// Champion is the alias that answers when a caller names no version.
const Champion = "champion"

// Manifest describes one version of a model. Once published it never changes.
type Manifest struct {
	Name      string           `json:"name"`
	Version   int              `json:"version"`
	Runtime   string           `json:"runtime"`
	Digest    Digest           `json:"digest"`
	Size      int64            `json:"size"`   // of the artifact, in bytes
	Memory    engine.Memory    `json:"memory"` // that a session takes
	Signature engine.Signature `json:"signature"`
	Settings
	CreatedAt time.Time `json:"created_at"`
	CreatedBy string    `json:"created_by,omitempty"`
	// Cause is the id of the event that it was published for, such as that of a pipeline's run.
	Cause string `json:"cause,omitempty"`
}

// Identity is a digest of all that the manifest says.
func (m *Manifest) Identity() string {
	b, err := json.Marshal(m)
	if err != nil {
		panic(err) // it was read from JSON, or is about to be written
	}
	sum := sha256.Sum256(b)
	return string(newDigest(sum[:]))
}

// Settings are what a publisher may decide about a version.
type Settings struct {
	// Threads that one run may use; 0 leaves it to the runtime.
	Threads int `json:"threads,omitempty"`
	// Batching tells how requests may be joined.
	Batching Batching `json:"batching,omitzero"`
	// Cache tells for how long answers may be remembered.
	Cache Cache `json:"cache,omitzero"`
	// Features names the feature service whose features are fetched for a request;
	// the caller brings join keys and what else the service and the model ask for.
	Features string `json:"features,omitempty"`
	// Warmup tells what runs before the first caller is answered.
	Warmup Warmup `json:"warmup,omitzero"`
	// Log tells which predictions are written to the payload log, and what of them.
	Log Log `json:"log,omitzero"`
	// Quality tells how answers are judged once it is known what came true.
	Quality Quality `json:"quality,omitzero"`
	// Labels are the publisher's own words: a commit, a data set, a metric.
	Labels map[string]string `json:"labels,omitempty"`
}

// Batching bounds how many rows (entries of the first dimension) one run takes.
type Batching struct {
	MaxRows int `json:"max_rows,omitempty"` // 0: as many as are found to be worth it; 1: requests are never joined
}

// Log bounds what is written of predictions. What ended with an error always is, but for what is redacted, unless it is Off.
type Log struct {
	Off    bool    `json:"off,omitempty"`    // nothing is written
	Sample float64 `json:"sample,omitempty"` // share of predictions that is; 0: all
	// Redact names inputs, features and outputs whose values are left out; "caller" leaves out who asked.
	Redact []string `json:"redact,omitempty"`
}

// Quality is what judging answers takes. What it does not say the signature tells.
type Quality struct {
	quality.Spec
	// Output says the answer; "": the only output, or the one called probability.
	Output string `json:"output,omitempty"`
	// Entity names the inputs by whose values outcomes may say which prediction they mean.
	Entity []string `json:"entity,omitempty"`
	// Slices names inputs and features by whose values answers are told apart as well.
	Slices []string `json:"slices,omitempty"`
}

// slicesMost is by how many columns the answers of a version may be told apart.
const slicesMost = 8

func (q *Quality) validate() error {
	switch {
	case q.Task == "" && (q.Threshold != 0 || q.Quantile != 0):
		return fault.New(fault.Invalid, "quality.threshold and quality.quantile need quality.task")
	case len(q.Slices) > slicesMost:
		return fault.New(fault.Invalid, "quality.slices has %d names, expected %d at most", len(q.Slices), slicesMost)
	case len(q.Entity) > entityMost:
		return fault.New(fault.Invalid, "quality.entity has %d names, expected %d at most", len(q.Entity), entityMost)
	case q.Task == "":
		return nil
	}
	if err := q.Validate(); err != nil {
		return fmt.Errorf("quality: %w", err)
	}
	return nil
}

// entityMost is how many keys an entity may have.
const entityMost = 16

// Cache bounds how old a remembered answer may be.
type Cache struct {
	TTL Duration `json:"ttl,omitempty"` // 0: answers are never remembered
	// Stale is for how long after that an answer may be given once more, while a
	// new one is made behind it.
	Stale Duration `json:"stale,omitempty"`
}

// Warmup is run whenever a session has been made.
type Warmup struct {
	Runs int `json:"runs,omitempty"` // 0: once
	// Sample is a V2 JSON inference request; without one the inputs are zeros and
	// empty strings, with 1 for every free dimension.
	Sample json.RawMessage `json:"sample,omitempty"`
}

// Duration is a time.Duration that reads and writes as "30s".
type Duration time.Duration

// MarshalText writes the duration as time.Duration does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads what time.ParseDuration reads.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

func (s Settings) validate() error {
	switch {
	case s.Threads < 0 || s.Threads > 1024:
		return fault.New(fault.Invalid, "threads is %d, expected 0 (automatic) to 1024", s.Threads)
	case s.Batching.MaxRows < 0:
		return fault.New(fault.Invalid, "batching.max_rows is %d, expected 0 (as many as are worth it), 1 (requests are never joined) or more", s.Batching.MaxRows)
	case s.Cache.TTL < 0:
		return fault.New(fault.Invalid, "cache.ttl is %s, expected 0 (no caching) or more", time.Duration(s.Cache.TTL))
	case s.Cache.Stale < 0:
		return fault.New(fault.Invalid, "cache.stale is %s, expected 0 (stale answers are never given) or more", time.Duration(s.Cache.Stale))
	case s.Cache.Stale > 0 && s.Cache.TTL == 0:
		return fault.New(fault.Invalid, "cache.stale is %s without cache.ttl: answers are not remembered at all", time.Duration(s.Cache.Stale))
	case !(s.Log.Sample >= 0 && s.Log.Sample <= 1):
		return fault.New(fault.Invalid, "log.sample is %g, expected a share from 0 (which means all) to 1", s.Log.Sample)
	case s.Log.Off && (s.Log.Sample != 0 || len(s.Log.Redact) > 0):
		return fault.New(fault.Invalid, "log.off says that no prediction is written, and log.sample or log.redact what is")
	case s.Warmup.Runs < 0 || s.Warmup.Runs > 100:
		return fault.New(fault.Invalid, "warmup.runs is %d, expected 0 to 100", s.Warmup.Runs)
	}
	return s.Quality.validate()
}

// Digest names content: "sha256:" and 64 hexadecimal digits.
type Digest string

const digestPrefix = "sha256:"

func newDigest(sum []byte) Digest { return Digest(digestPrefix + hex.EncodeToString(sum)) }

// Hex is the digest without its prefix.
func (d Digest) Hex() string { return strings.TrimPrefix(string(d), digestPrefix) }

func (d Digest) valid() bool {
	b, err := hex.DecodeString(d.Hex())
	return err == nil && len(b) == 32 && strings.HasPrefix(string(d), digestPrefix)
}

func (d Digest) key() string { return "artifacts/sha256/" + d.Hex() }

// Ref is what a caller may say to mean a version: a model's name and a version
// number, an alias, or nothing, which means Champion or, for a model that has
// none, its newest version.
type Ref struct {
	Name    string
	Version string
}

// ParseRef reads "name", "name:7" or "name:alias".
func ParseRef(s string) (Ref, error) {
	name, version, _ := strings.Cut(s, ":")
	if err := CheckName(name); err != nil {
		return Ref{}, err
	}
	return Ref{Name: name, Version: version}, nil
}

// String writes the ref as ParseRef reads it.
func (r Ref) String() string {
	if r.Version == "" {
		return r.Name
	}
	return r.Name + ":" + r.Version
}

// number gives the version number, where the ref holds one. There is one way to
// write it: 07 is not 7, so that nobody can make up refs without end.
func (r Ref) number() (int, bool) {
	if r.Version == "" {
		return 0, false
	}
	n, err := strconv.Atoi(r.Version)
	return n, err == nil && n > 0 && strconv.Itoa(n) == r.Version
}

// CheckName refuses names that a path, a key or a label could not carry.
func CheckName(name string) error { return checkWord("model name", name, false) }

// CheckAlias does the same for aliases, which also begin with a letter: digits
// are version numbers.
func CheckAlias(name string) error { return checkWord("alias", name, true) }

func checkWord(what, s string, letterFirst bool) error {
	ok := s != "" && len(s) <= 100
	for i := 0; ok && i < len(s); i++ {
		c := s[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		digit := '0' <= c && c <= '9'
		switch {
		case i == 0 && letterFirst:
			ok = letter
		case i == 0:
			ok = letter || digit
		default:
			ok = letter || digit || c == '-' || c == '_' || c == '.'
		}
	}
	if ok {
		return nil
	}
	first := "a letter or digit"
	if letterFirst {
		first = "a letter"
	}
	return fault.New(fault.Invalid, "%s %q: expected 1 to 100 letters, digits, '-', '_' and '.', the first of them %s", what, tensor.Clip(s), first)
}

// sample makes the tensors of the warm-up run, in signature order.
func (m *Manifest) sample() ([]tensor.Tensor, error) {
	if len(m.Warmup.Sample) == 0 {
		return zeros(m.Signature), nil
	}
	var r oip.Request
	if err := r.Decode(m.Warmup.Sample, -1); err != nil {
		return nil, fmt.Errorf("decode warm-up sample: %w", err)
	}
	inputs, err := m.Arrange(r.Inputs)
	if err != nil {
		return nil, fmt.Errorf("check warm-up sample: %w", err)
	}
	return inputs, nil
}

// Arrange puts a request's inputs into signature order and checks each against
// its spec. The error names the first input that is missing, unknown or unfit.
func (m *Manifest) Arrange(inputs []tensor.Tensor) ([]tensor.Tensor, error) {
	specs := m.Signature.Inputs
	ordered := len(inputs) == len(specs)
	for i := 0; ordered && i < len(specs); i++ {
		ordered = inputs[i].Name == specs[i].Name
	}
	if !ordered {
		sorted := make([]tensor.Tensor, len(specs))
		found := 0
		for i := range specs {
			for j := range inputs {
				if inputs[j].Name == specs[i].Name {
					sorted[i] = inputs[j]
					found++
					break
				}
			}
		}
		if found < len(specs) || len(inputs) > len(specs) {
			return nil, m.mismatch(inputs)
		}
		inputs = sorted
	}
	for i := range specs {
		if err := specs[i].Accepts(&inputs[i]); err != nil {
			return nil, err
		}
	}
	return inputs, nil
}

func (m *Manifest) mismatch(inputs []tensor.Tensor) error {
	names := func(n int, at func(int) string) string {
		quoted := make([]string, n)
		for i := range n {
			quoted[i] = strconv.Quote(at(i))
		}
		return strings.Join(quoted, ", ")
	}
	expected := names(len(m.Signature.Inputs), func(i int) string { return m.Signature.Inputs[i].Name })
	for _, spec := range m.Signature.Inputs {
		missing := true
		for i := range inputs {
			missing = missing && inputs[i].Name != spec.Name
		}
		if missing {
			return fault.New(fault.Invalid, "input %q is missing; model %q expects %s", spec.Name, m.Name, expected)
		}
	}
	for i := range inputs {
		known := false
		for _, spec := range m.Signature.Inputs {
			known = known || inputs[i].Name == spec.Name
		}
		if !known {
			return fault.New(fault.Invalid, "input %q is not one that model %q knows; it expects %s", tensor.Clip(inputs[i].Name), m.Name, expected)
		}
	}
	return fault.New(fault.Invalid, "an input is given twice; model %q expects %s", m.Name, expected)
}

func zeros(s engine.Signature) []tensor.Tensor {
	inputs := make([]tensor.Tensor, len(s.Inputs))
	for i, spec := range s.Inputs {
		n, shape := int64(1), make([]int64, len(spec.Shape))
		for j, d := range spec.Shape {
			shape[j] = max(d, 1)
			if d == 0 {
				shape[j] = 0
			}
			n *= shape[j]
		}
		inputs[i] = tensor.Tensor{Name: spec.Name, Type: spec.Type, Shape: shape}
		if spec.Type == tensor.Bytes {
			inputs[i].Strings = make([]string, n)
		} else {
			inputs[i].Data = make([]byte, n*int64(spec.Type.Size()))
		}
	}
	return inputs
}
