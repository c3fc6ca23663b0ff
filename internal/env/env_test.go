package env_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/env"
)

type cache struct {
	URL   string        `env:"KV_URL" default:"mem:" help:"Where keys | values are kept."`
	TTL   time.Duration `env:"CACHE_TTL" default:"30s" help:"How long an answer is kept."`
	Size  env.Size      `env:"CACHE_SIZE" default:"64MiB" help:"How much is kept."`
	Names []string      `env:"CACHE_NAMES" help:"Whose."`
	Key   env.Secret    `env:"CACHE_KEY" help:"What opens it."`
	Level slog.Level    `env:"LOG_LEVEL" default:"INFO"`
	On    bool          `env:"CACHE_ON" default:"true"`
	Port  uint16        `env:"PORT" default:"8080"`
	Share float64       `env:"CACHE_SHARE" default:"0.5"`

	untouched int
}

type other struct {
	URL string `env:"KV_URL" default:"mem:" help:"Told elsewhere."`
}

type contrary struct {
	URL string `env:"KV_URL" default:"redis://localhost"`
}

type strict struct {
	N int `env:"N" default:"1"`
}

var errStrict = errors.New("the only N is 1")

func (s *strict) Validate() error {
	if s.N != 1 {
		return errStrict
	}
	return nil
}

func TestLoadFillsStructs(t *testing.T) {
	c := cache{untouched: 7}
	var o other
	_, err := env.Load(map[string]string{
		"KV_URL": "redis://r", "CACHE_SIZE": "1GB", "CACHE_NAMES": "a,b", "CACHE_KEY": "open sesame", "CACHE_ON": "", "PORT": "0",
	}, &c, &o)
	if err != nil {
		t.Fatal(err)
	}
	want := cache{"redis://r", 30 * time.Second, 1_000_000_000, []string{"a", "b"}, "open sesame", slog.LevelInfo, true, 0, 0.5, 7}
	if got := fmt.Sprintf("%+v", c); got != fmt.Sprintf("%+v", want) {
		t.Errorf("got %s, want %+v", got, want)
	}
	if got, want := string(c.Key), "open sesame"; got != want {
		t.Errorf("secret: got %q, want %q", got, want)
	}
	if o.URL != "redis://r" {
		t.Errorf("a variable of two structs: got %q in the second", o.URL)
	}
}

func TestLoadReadsOnlyWhatItIsGiven(t *testing.T) {
	t.Setenv("CACHE_TTL", "1h")
	for _, environ := range []map[string]string{nil, {}} {
		var c cache
		if _, err := env.Load(environ, &c); err != nil || c.TTL != 30*time.Second {
			t.Errorf("environ %v: got TTL %s and error %v, want the default", environ, c.TTL, err)
		}
	}
	if got := env.Environ()["CACHE_TTL"]; got != "1h" {
		t.Errorf("the process's environment: got %q, want 1h", got)
	}
}

func TestLoadTellsAllThatIsWrong(t *testing.T) {
	var c cache
	s := strict{}
	_, err := env.Load(map[string]string{
		"CACHE_TTL": "5 potatoes", "CACHE_SIZE": "big", "LOG_LEVEL": "loud", "CACHE_ON": "ja", "PORT": "70000", "CACHE_SHARE": "half", "N": "2",
	}, &c, &s)
	if !errors.Is(err, errStrict) {
		t.Errorf("got %v, want it to hold what Validate says", err)
	}
	got := strings.Split(err.Error(), "\n")
	want := []string{
		`CACHE_TTL is "5 potatoes": expected a duration such as 30s or 1m30s`,
		`CACHE_SIZE is "big": expected a size such as 256MiB, 1GB or 4096`,
		`LOG_LEVEL is "loud": expected DEBUG, INFO, WARN or ERROR`,
		`CACHE_ON is "ja": expected true or false`,
		`PORT is "70000": expected a whole number in the range of uint16`,
		`CACHE_SHARE is "half": expected a number`,
		`the only N is 1`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestLoadErrorsOfSpecialFields(t *testing.T) {
	for _, test := range []struct {
		name string
		dst  any
		set  string
		want string
	}{
		{"required", &struct {
			V string `env:"V,required"`
		}{}, "", `required environment variable "V" is not set`},
		{"list", &struct {
			V []int `env:"V"`
		}{}, "1,x", `V is "1,x": expected a whole number in the range of int, several separated by commas`},
		{"password in a URL", &struct {
			V env.Size `env:"V"`
		}{}, "redis://me:sesame@host", `V is "redis://me:xxxxx@host": expected a size such as 256MiB, 1GB or 4096`},
		{"password in what is no URL", &struct {
			V env.Size `env:"V"`
		}{}, "redis://me:ses%zz@host", `V is "(hidden)": expected a size such as 256MiB, 1GB or 4096`},
		{"nested", &struct {
			V cache
		}{}, "", `config struct struct { V env_test.cache } is not flat: load its field V by itself`},
		{"not a pointer", cache{}, "", `config is read into a pointer to a struct, not into env_test.cache`},
		{"nil", nil, "", `config is read into a pointer to a struct, not into <nil>`},
	} {
		t.Run(test.name, func(t *testing.T) {
			environ := map[string]string{}
			if test.set != "" {
				environ["V"] = test.set
			}
			_, err := env.Load(environ, test.dst)
			if err == nil || err.Error() != test.want {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}

func TestLoadRefusesTwoDefaults(t *testing.T) {
	_, err := env.Load(nil, &cache{}, &contrary{})
	want := `KV_URL has two defaults: "mem:" in package env_test and "redis://localhost" in package env_test`
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestSecretFromFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var c struct {
		Key env.Secret `env:"KEY_FILE,file"`
	}
	table, err := env.Load(map[string]string{"KEY_FILE": file}, &c)
	if err != nil || string(c.Key) != "sesame" {
		t.Errorf("got %q and error %v, want sesame", string(c.Key), err)
	}
	if table[0].Value != file {
		t.Errorf("table: got %q, want the file's name", table[0].Value)
	}
}

func TestTablePrint(t *testing.T) {
	table, err := env.Load(map[string]string{"KV_URL": "redis://me:sesame@r:6379", "CACHE_KEY": "open sesame"}, &cache{}, &other{})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := table.Print(&b); err != nil {
		t.Fatal(err)
	}
	want := `VARIABLE     VALUE                     FROM         READ BY
KV_URL       redis://me:xxxxx@r:6379   environment  env_test
CACHE_TTL    30s                       default      env_test
CACHE_SIZE   64MiB                     default      env_test
CACHE_NAMES                            default      env_test
CACHE_KEY    (hidden)                  environment  env_test
LOG_LEVEL    INFO                      default      env_test
CACHE_ON     true                      default      env_test
PORT         8080                      default      env_test
CACHE_SHARE  0.5                       default      env_test
`
	// The width of the value column is its own affair.
	squeeze := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	if got := b.String(); squeeze(got) != squeeze(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestTableMarkdown(t *testing.T) {
	table, err := env.Load(map[string]string{"CACHE_TTL": "1h", "KV_URL": "redis://r"}, &cache{}, &strict{})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := table[:2].Markdown(&b); err != nil {
		t.Fatal(err)
	}
	want := "| variable | default | what it sets | read by |\n|---|---|---|---|\n" +
		"| `KV_URL` | `mem:` | Where keys \\| values are kept. | env_test |\n" +
		"| `CACHE_TTL` | `30s` | How long an answer is kept. | env_test |\n"
	if got := b.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestSizeText(t *testing.T) {
	for text, want := range map[string]env.Size{
		"0": 0, "4096": 4096, "256MiB": 256 << 20, "256 MiB": 256 << 20, "1GB": 1e9, "1.5KiB": 1536, "10gib": 10 << 30, "64k": 64000,
	} {
		var got env.Size
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%q: got %d and error %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "x", "-1", "1XB", "9EiB", "NaN"} {
		var got env.Size
		if err := got.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q: got %d, want an error", text, got)
		}
	}
}

func FuzzSizeText(f *testing.F) {
	for _, n := range []int64{0, 1, 1024, 1 << 20, 1_000_000, 1<<63 - 1} {
		f.Add(n)
	}
	f.Fuzz(func(t *testing.T, n int64) {
		if n < 0 {
			t.Skip("sizes are not negative")
		}
		text, err := env.Size(n).MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var got env.Size
		if err := got.UnmarshalText(text); err != nil || int64(got) != n {
			t.Errorf("%d is written %s and read as %d with error %v", n, text, got, err)
		}
	})
}

func TestSecretStaysHidden(t *testing.T) {
	s := env.Secret("sesame")
	text, err := s.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("m", "key", s)
	for _, got := range []string{
		fmt.Sprint(s), fmt.Sprintf("%v %+v %#v %q %x", s, struct{ S env.Secret }{s}, s, s, s), string(text), log.String(),
	} {
		if strings.Contains(got, "sesame") || strings.Contains(got, "736573616d65") {
			t.Errorf("got %s", got)
		}
	}
}

func BenchmarkLoad(b *testing.B) {
	environ := env.Environ()
	for b.Loop() {
		if _, err := env.Load(environ, &cache{}, &other{}, &strict{}); err != nil {
			b.Fatal(err)
		}
	}
}
