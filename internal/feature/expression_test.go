package feature

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/row"
)

// operands are inputs of every type that the expressions of tests may use.
var operands = []struct {
	name  string
	value row.Value
}{
	{"i", row.OfInt64(7)},
	{"small", row.OfInt32(-3)},
	{"f", row.OfFloat64(2.5)},
	{"g", row.OfFloat32(0.5)},
	{"s", row.OfString("EWR-JFK")},
	{"b", row.OfBytes([]byte("ab"))},
	{"yes", row.OfBool(true)},
	{"at", row.OfTime(time.Date(2013, 2, 3, 4, 5, 6, 0, time.UTC))},
	{"l", row.OfList(row.Int64, row.OfInt64(1), row.OfInt64(2), row.OfInt64(3))},
	{"ls", row.OfList(row.String, row.OfString("a"), row.OfString("b"))},
	{"big", bigList(20_000)},
	{"long", row.OfString(strings.Repeat("0123456789", 6000))},
	{"endless", row.OfString(strings.Repeat("x", longest+1))},
}

func bigList(n int) row.Value {
	values := make([]row.Value, n)
	for i := range values {
		values[i] = row.OfInt64(int64(i))
	}
	return row.OfList(row.Int64, values...)
}

// oneExpression is a set with the expression e, whose feature y is value.
func oneExpression(value string, t row.Type) *Set {
	s := flightSet()
	e := Expression{Name: "e", Features: []Expressed{{Name: "y", Type: t, Value: value}}}
	for _, o := range operands {
		e.Inputs = append(e.Inputs, Field{Name: o.name, Type: o.value.Type()})
	}
	s.Expressions = append(s.Expressions, e)
	return s
}

// evaluated compiles a value and computes it of the operands.
func evaluated(value string, t row.Type) (v row.Value, compile, run error) {
	c, err := Compile(oneExpression(value, t))
	if err != nil {
		return row.Value{}, err, nil
	}
	k := c.expressed[&c.expressions["e"].Features[0]]
	var touched []row.Value
	for _, o := range k.touches {
		for _, known := range operands {
			if known.name == o.name {
				touched = append(touched, known.value)
			}
		}
	}
	v, run = (&evaluation{}).evaluate(k, touched)
	return v, nil, run
}

func TestExpressionValues(t *testing.T) {
	for _, c := range []struct {
		value string
		want  row.Value
	}{
		{"i * 2 + 1", row.OfInt64(15)},
		{"i / 2", row.OfInt64(3)},
		{"small", row.OfInt32(-3)},
		{"small", row.OfInt64(-3)},
		{"i", row.OfFloat32(7)},
		{"f + g", row.OfFloat64(3)},
		{"f * 2.0", row.OfInt64(5)}, // nothing is lost
		{"double(i) / 2.0", row.OfFloat64(3.5)},
		{"1.0 / 0.0", row.OfFloat64(math.Inf(1))},
		{"i > f && f < 3", row.OfBool(true)}, // numbers compare across types
		{"yes ? 1 : 0", row.OfInt32(1)},
		{"yes", row.OfInt64(1)},
		{"i == 7", row.OfFloat32(1)},
		{"uint(i)", row.OfInt64(7)},
		{`s + "!"`, row.OfString("EWR-JFK!")},
		{`s.startsWith("EWR")`, row.OfBool(true)},
		{`s.matches("^[A-Z]{3}-")`, row.OfBool(true)},
		{"size(s)", row.OfInt64(7)},
		{"b + b", row.OfBytes([]byte("abab"))},
		{"at.getHours()", row.OfInt64(4)},
		{"at.getDayOfWeek() in [0, 6]", row.OfBool(true)},
		{`at + duration("1h")`, row.OfTime(time.Date(2013, 2, 3, 5, 5, 6, 0, time.UTC))},
		{`(at - timestamp("2013-02-03T00:00:00Z")).getHours()`, row.OfInt64(4)},
		{"l[1]", row.OfInt64(2)},
		{"l", row.OfList(row.Float32, row.OfFloat32(1), row.OfFloat32(2), row.OfFloat32(3))},
		{"l.map(x, x * x).filter(x, x > 1)", row.OfList(row.Int64, row.OfInt64(4), row.OfInt64(9))},
		{"l.filter(x, x > 5)", row.OfList(row.Int64)},
		{"ls.map(x, size(x) > 1)", row.OfList(row.Bool, row.OfBool(false), row.OfBool(false))},
		{`l.exists(x, x == 2) && l.all(x, x < 4) && l.exists_one(x, x == 3) && "a" in ls`, row.OfBool(true)},
		{`{"EWR": 1, "JFK": 2}["JFK"]`, row.OfInt64(2)},
		{"big.exists(x, x == 3)", row.OfBool(true)}, // ends early
	} {
		got, err, run := evaluated(c.value, c.want.Type())
		if err != nil || run != nil || !got.Equal(c.want) {
			t.Errorf("%s: got %s (%s), %v, %v, want %s (%s)", c.value, got, got.Type(), err, run, c.want, c.want.Type())
		}
	}
}

// What can't be computed is an error of the evaluation, found in bounded time and memory.
func TestExpressionsThatFail(t *testing.T) {
	for _, c := range []struct {
		value string
		as    row.Type
	}{
		{"1 / (i - 7)", row.Int64},
		{"i * 9223372036854775807", row.Int64},
		{"f", row.Int64},
		{"i * 1000000000", row.Int32},
		{"i", row.Bool},
		{"l[7]", row.Int64},
		{`{"EWR": 1}[s]`, row.Int64},
		{"int(s)", row.Int64},
		{"uint(18446744073709551615u)", row.Int64},
		{"string(b'\\xff')", row.String},
		{"size(endless)", row.Int64},
		{"long + long", row.String},
		{"big.map(x, big.map(y, x * y)[0])", row.ListOf(row.Int64)},
		{"big.all(x, big.all(y, big.all(z, x + y + z >= 0)))", row.Bool},
		{"big.filter(x, x in big)", row.ListOf(row.Int64)},
		{`big.map(x, long + long)`, row.ListOf(row.String)},
		{`big.map(x, int(long))`, row.ListOf(row.Int64)},
		{`big.map(x, long.contains("no"))`, row.ListOf(row.Bool)},
		{`big.map(x, long.matches("^(0|1|2)*$"))`, row.ListOf(row.Bool)},
		{`[s].map(a, a + a).map(a, a + a).map(a, a + a).map(a, a + a).map(a, a + a).map(a, a + a).map(a, a + a).map(a, a + a).map(a, a + a).map(a, a + a)` +
			`.map(a, a + a).map(a, a + a).map(a, a + a).map(a, a + a).map(a, a + a).map(a, a + a).map(a, a + a).map(a, a + a).map(a, a + a)[0]`, row.String},
	} {
		begin := time.Now()
		got, err, run := evaluated(c.value, c.as)
		if err != nil || run == nil {
			t.Errorf("%.80s: got %.80s, %v, %v, want an error of the evaluation", c.value, got, err, run)
		}
		t.Logf("%.60s: %v: %.80v", c.value, time.Since(begin), run)
	}
}

func TestExpressionsThatAreRefused(t *testing.T) {
	at := func(s string) string { return `expression "e": feature "y": ` + s }
	for _, c := range []struct {
		value string
		as    row.Type
		want  string
	}{
		{"i +", row.Int64, at("at 1:4: Syntax error: ")},
		{"i\n  + k", row.Int64, at(`at 2:5: there is no input, view or expression "k"`)},
		{"nothing.at + i", row.Int64, at(`at 1:1: there is no input, view or expression "nothing"`)},
		{"fleet.size", row.Int64, at(`at 1:6: "fleet" has no feature "size"`)},
		{"size(fleet)", row.Int64, at(`at 1:6: "fleet" is no value; its features are, such as fleet.name`)},
		{"ratio.rate", row.Int64, at(`at 1:6: "ratio" has no feature "rate"`)},
		{"has(fleet.planes)", row.Bool, at("at 1:4: has() is for maps")},
		{".i", row.Int64, at(`at 1:2: there is no input, view or expression ".i"`)},
		{"int", row.Int64, at(`at 1:1: there is no input, view or expression "int"`)},
		{"i + f", row.Float64, at("at 1:3: found no matching overload for '_+_' applied to '(int, double)'")},
		{"s", row.Int64, at("its value is a string and can't become a int64")},
		{"l", row.Int64, at("its value is a list(int) and can't become a int64")},
		{"ls", row.ListOf(row.Int64), at("its value is a list(string) and can't become a list(int64)")},
		{"at - at", row.Int64, at("its value is a google.protobuf.Duration")},
		{"null", row.Int64, at("at 1:1: a value is a null_type, and only scalars")},
		{"type(i) == type(f)", row.Bool, at("at 1:5: a value is a type")},
		{"dyn(i)", row.Int64, at("at 1:4: a value is a dyn")},
		{`[1, "a"].size()`, row.Int64, at("at 1:1: a value is a list(dyn)")},
		{"[l, l] == [l, l]", row.Bool, at("at 1:1: a value is a list(list(int))")},
		{"l.map(x, [x])[0][0]", row.Int64, at("at 1:6: a value is a list(list(int))")},
		{`{"a": l}["a"]`, row.ListOf(row.Int64), at("at 1:1: a value is a map(string, list(int))")},
		{"l + l", row.ListOf(row.Int64), at("at 1:3: lists can't be added")},
		{"big.map(i, i)", row.ListOf(row.Int64), at(`at 1:1: the loop calls its elements "i", as something else is called`)},
		{"big.map(fleet, fleet)", row.ListOf(row.Int64), at(`at 1:1: the loop calls its elements "fleet", as something else is called`)},
		{"s.matches(s)", row.Bool, at("at 1:11: a pattern to match must be written down, not computed")},
		{`s.matches("(")`, row.Bool, at("at 1:11: error parsing regexp: missing closing )")},
		{`s.matches("` + strings.Repeat("x{900}", 50) + `")`, row.Bool, at("at 1:11: the pattern has 45002 steps, more than 1000")},
		{"google.protobuf.Int64Value{value: 1}", row.Int64, at("at 1:27: there are no messages here")},
		{"timestamp('yesterday') > at", row.Bool, at("at 1:11: invalid timestamp argument")},
		{strings.Repeat("1+", sourceMost/2) + "1", row.Int64, at("its value has 4097 characters, more than 4096")},
		{strings.Repeat("(", 100) + "1" + strings.Repeat(")", 100), row.Int64, at("")},
		{strings.Repeat("!", 999) + "yes", row.Bool, ""},
		{strings.Repeat("[", 100) + "1" + strings.Repeat("]", 100), row.Bool, at("")},
		{"[" + strings.Repeat("1,", 999) + "1].map(x, [" + strings.Repeat("1,", 99) + "1].map(y, x * y).size()).size()", row.Int64, at("it takes at least 1")},
	} {
		_, err, _ := evaluated(c.value, c.as)
		if c.want == "" {
			continue
		}
		if !fault.Is(err, fault.Invalid) || !strings.HasPrefix(fault.Message(err), c.want) {
			t.Errorf("%.80s: got %v, want %s", c.value, err, c.want)
		}
	}
}

// chain is a set of n expressions that each need the one before.
func chain(n int) *Set {
	s := &Set{}
	for i := range n {
		e := Expression{Name: fmt.Sprint("e", i), Features: []Expressed{{Name: "y", Type: row.Int64, Value: fmt.Sprintf("e%d.y + 1", i-1)}}}
		if i == 0 {
			e.Features[0].Value = "1"
		}
		s.Expressions = append(s.Expressions, e)
	}
	return s
}

func TestExpressionsThatNeedEachOther(t *testing.T) {
	for _, c := range []struct {
		values []string // of features y of expressions a, b, c
		want   string
	}{
		{[]string{"b.y + 1", "c.y + 1", "1"}, ""},
		{[]string{"a.y + 1"}, "expressions need each other in a circle: a.y -> a.y"},
		{[]string{"b.y + 1", "c.y + 1", "b.y + 1"}, "expressions need each other in a circle: b.y -> c.y -> b.y"},
		{[]string{"1", "a.y + c.y", "a.y + b.y"}, "expressions need each other in a circle: b.y -> c.y -> b.y"},
	} {
		s := &Set{}
		for i, v := range c.values {
			s.Expressions = append(s.Expressions, Expression{Name: string(rune('a' + i)), Features: []Expressed{{Name: "y", Type: row.Int64, Value: v}}})
		}
		_, err := Compile(s)
		if c.want == "" && err == nil {
			continue
		}
		if !fault.Is(err, fault.Invalid) || fault.Message(err) != c.want {
			t.Errorf("%q: got %v, want %s", c.values, err, c.want)
		}
	}
	if _, err := Compile(chain(chainMost)); err != nil {
		t.Errorf("a chain of %d: got %v", chainMost, err)
	}
	if _, err := Compile(chain(chainMost + 1)); !fault.Is(err, fault.Invalid) {
		t.Errorf("a chain of %d: got %v, want Invalid", chainMost+1, err)
	}
}

// A set of the bucket was checked when it was applied: expressions cost nothing until they are needed.
func TestExpressionsWait(t *testing.T) {
	c, err := compile(oneExpression("i + 1", row.Int64))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Features([]string{"fleet:planes"}, false); err != nil || len(c.expressed) != 0 {
		t.Errorf("without an expression: %d were read, %v", len(c.expressed), err)
	}
	if _, err := c.Features([]string{"e:y"}, false); err != nil || len(c.expressed) != 1 {
		t.Errorf("with one: %d were read, %v", len(c.expressed), err)
	}
}

func FuzzExpression(f *testing.F) {
	for _, seed := range []string{
		"i + 1", "fleet.planes > 3", `s.matches("a|b")`, "l.map(x, x > 1, x * 2)", `{"a": 1}[s]`, "at - at < duration('3s')",
		"[1, 2].exists(x, x in l)", "b'\\x00' + b", "!(yes ? yes : i == 7)", "-(-i)", "r'\\d' + s", "has({'a': 1}.a)", "{}", "[]", "i.f.g", "long + long",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		for _, as := range []row.Type{row.Int64, row.Bool, row.String, row.ListOf(row.Float64)} {
			v, err, run := evaluated(value, as)
			switch {
			case err != nil && !fault.Is(err, fault.Invalid):
				t.Fatalf("%q: %v is not Invalid", value, err)
			case err == nil && run == nil && v.Type() != as:
				t.Fatalf("%q: got a %s, want a %s", value, v.Type(), as)
			}
		}
	})
}
