package evaluation

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// sorts has a column of each sort.
type sorts struct {
	Text  *string  `parquet:"text,dict"`
	Bit   *bool    `parquet:"bit"`
	Small *int32   `parquet:"small"`
	Whole *int64   `parquet:"whole"`
	Short *float32 `parquet:"short"`
	Long  *float64 `parquet:"long"`
	Milli int64    `parquet:"milli,timestamp(millisecond)"`
	Micro int64    `parquet:"micro,timestamp(microsecond)"`
	Nano  int64    `parquet:"nano,timestamp(nanosecond)"`
	List  []int64  `parquet:"list"`
}

func write(t testing.TB, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.parquet")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func aFile(t testing.TB) []byte {
	t.Helper()
	at := time.Date(2013, 7, 4, 12, 0, 0, 5e6, time.UTC)
	full := sorts{new("x"), new(true), new(int32(7)), new(int64(1<<53 + 1)), new(float32(.1)), new(.1), at.UnixMilli(), at.UnixMicro(), at.UnixNano(), []int64{1, 2}}
	none := sorts{Milli: 1, Micro: 1, Nano: 1000}
	var b bytes.Buffer
	if err := parquet.Write(&b, []sorts{full, none, full}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Values come as they were written, to the bit, and go into tensors of what the model takes.
func TestFrame(t *testing.T) {
	path := write(t, aFile(t))
	f, err := readFrame("holdout", path, []string{"text", "bit", "small", "whole", "short", "long", "milli", "micro", "nano"})
	if err != nil {
		t.Fatal(err)
	}
	for column, want := range map[string][2]string{
		"text": {"x", "(none)"}, "bit": {"1", "(none)"}, "small": {"7", "(none)"}, "whole": {"9007199254740993", "(none)"}, "short": {"0.1", "(none)"}, "long": {"0.1", "(none)"},
		"milli": {"1372939200005000", "1000"}, "micro": {"1372939200005000", "1"}, "nano": {"1372939200005000", "1"},
	} {
		c := f.columns[column]
		if got := [2]string{c.text(0), c.text(1)}; got != want || c.text(2) != want[0] {
			t.Errorf("%s: got %q, want %q", column, got, want)
		}
	}
	for _, c := range []struct {
		column string
		to     tensor.Type
		fits   bool
	}{
		{"text", tensor.Bytes, true},
		{"text", tensor.FP32, false},
		{"small", tensor.Bytes, false},
		{"small", tensor.Int8, true},
		{"whole", tensor.Int64, true},
		{"whole", tensor.Int32, false},
		{"whole", tensor.FP64, true},
		{"short", tensor.FP32, true},
		{"short", tensor.Int64, false},
		{"long", tensor.FP64, true},
		{"bit", tensor.Bool, true},
		{"small", tensor.Uint16, true},
		{"long", tensor.FP16, false},
	} {
		spec := tensor.Spec{Name: "x", Type: c.to, Shape: []int64{-1, 1}}
		got, err := f.columns[c.column].tensor(spec, []int{0, 2})
		if (err == nil) != c.fits || err != nil && !fault.Is(err, fault.Invalid) {
			t.Errorf("%s as %s: got %v", c.column, c.to, err)
		} else if err == nil && spec.Accepts(&got) != nil {
			t.Errorf("%s as %s: the input takes no such tensor: %v", c.column, c.to, spec.Accepts(&got))
		}
	}
	got, err := f.columns["short"].tensor(tensor.Spec{Name: "x", Type: tensor.FP32, Shape: []int64{-1}}, []int{0, 1})
	if v := tensor.View[float32](got.Data); err != nil || v[0] != .1 || v[1] == v[1] {
		t.Errorf("got %v, %v: what is missing is NaN", v, err)
	}
	if _, err := f.columns["short"].tensor(tensor.Spec{Name: "x", Type: tensor.FP32, Shape: []int64{-1, 3}}, []int{0}); !fault.Is(err, fault.Invalid) {
		t.Errorf("three values a row: got %v", err)
	}
	for _, column := range []string{"list", "nowhere"} {
		if _, err := readFrame("holdout", path, []string{column}); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: got %v", column, err)
		}
	}
}

// Whatever a file is, reading it ends with a frame whose columns are as long as it says, or with a sentence.
func FuzzFrame(f *testing.F) {
	whole := aFile(f)
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte("PAR1PAR1"))
	for i := 0; i < len(whole); i += 97 {
		hurt := bytes.Clone(whole)
		hurt[i] ^= 0x55
		f.Add(hurt)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		frame, err := readFrame("holdout", write(t, b), []string{"text", "bit", "small", "whole", "short", "long", "milli"})
		if err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Errorf("got %v", err)
			}
			return
		}
		for name, c := range frame.columns {
			if len(c.null) != frame.rows || len(c.texts)+len(c.whole)+len(c.numbers) != frame.rows {
				t.Errorf("%s: got %d values of %d rows", name, len(c.null), frame.rows)
			}
		}
	})
}
