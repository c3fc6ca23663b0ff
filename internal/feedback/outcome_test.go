package feedback

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func fresh() *decoder { return &decoder{now: noon.UnixMicro(), far: time.Hour} }

func TestOutcomes(t *testing.T) {
	now := noon.UnixMicro()
	at := noon.Add(-time.Hour).UnixMicro()
	for text, want := range map[string]Outcome{
		`{"prediction":"p1","value":true}`:                                                 {Prediction: "p1", Value: "true", Time: now},
		` { "value" : 12.50 , "row":3, "prediction":"p1", "model":"flights" } `:            {Prediction: "p1", Row: 3, Model: "flights", Value: "12.50", Time: now},
		`{"prediction":"p1","value":"d\u00e9j\u00e0","time":"2026-11-25T13:00:00+02:00"}`:  {Prediction: "p1", Value: `"déjà"`, Time: at},
		`{"prediction":"p1","value":"","time":1795604400,"id":"mine","entity":null}`:       {Prediction: "p1", Value: `""`, Time: at},
		`{"prediction":"p1","value":-1e3,"time":"2026-11-25 12:59:59.5","at":1795604400}`:  {Prediction: "p1", Value: "-1e3", At: at, Time: now + 3599_500_000},
		`{"model":"m","entity":{"b":1.0,"a":"x y"},"at":"2026-11-25T11:00Z","value":1}`:    {},
		`{"model":"m","entity":{"b":1.0,"a":"x y"},"at":"2026-11-25T11:00:00Z","value":1}`: {Model: "m", Entity: `{"a":"x y","b":1}`, At: at, Value: "1", Time: now},
	} {
		got, err := fresh().decode([]byte(text), "", 0)
		if want == (Outcome{}) {
			if reason, _ := reasonOf(err); err == nil || reason != BadTime {
				t.Errorf("%s: got %v, want a time that isn't one", text, err)
			}
			continue
		}
		want.Created, want.ID = now, got.ID
		if err != nil || got != want || got.ID == 0 {
			t.Errorf("%s: got %+v %v, want %+v", text, got, err, want)
		}
	}
}

func TestUnfitOutcomes(t *testing.T) {
	long := strings.Repeat("x", 1025)
	var keys []string
	for i := range keysMost + 1 {
		keys = append(keys, fmt.Sprintf(`"k%d":1`, i))
	}
	for _, c := range []struct {
		text   string
		reason Reason
		detail string
	}{
		{``, BadJSON, `the outcome is not valid JSON at byte 0: it ends where a value is expected`},
		{`oops`, BadJSON, `the outcome is not valid JSON at byte 0: 'o' stands where a value is expected`},
		{`{"prediction":"p","value":1`, BadJSON, `the outcome is not valid JSON at byte 27: it ends where a comma or } is expected`},
		{`{"prediction":"p","value":1} {}`, BadJSON, `the outcome is not valid JSON at byte 29: '{' stands where the end is expected`},
		{`{"prediction":"p","value":01}`, BadJSON, `the outcome is not valid JSON at byte 27: '1' stands where a comma or } is expected`},
		{"{\"prediction\":\"\xff\",\"value\":1}", BadJSON, `the outcome is not valid JSON at byte 15: a string is not valid UTF-8`},
		{`{"prediction":"\ud800","value":1}`, BadJSON, `the outcome is not valid JSON at byte 15: an escape does not name a character`},
		{`[]`, BadType, `the outcome is an array, expected an object`},
		{`7`, BadType, `the outcome is a number, expected an object`},
		{`null`, BadType, `the outcome is null, expected an object`},
		{`{"prediction":"p","value":1,"valeu":2}`, BadField, `there is no field "valeu"; the fields are prediction, row, model, entity, at, value, time, id`},
		{`{"prediction":"p","value":1,"value":2}`, BadField, `"value" is given twice`},
		{`{"prediction":"p","entity":{"a":1},"value":2}`, BadField, `"prediction" and "entity" are both given, expected one of them`},
		{`{"prediction":7,"value":1}`, BadType, `"prediction" is a number, expected a string`},
		{`{"prediction":"p","value":[1]}`, BadType, `"value" is an array, expected a boolean, a number or a string`},
		{`{"prediction":"p","value":{"a":{"b":[]}}}`, BadType, `"value" is an object, expected a boolean, a number or a string`},
		{`{"prediction":"p","value":1,"row":"1"}`, BadType, `"row" is a string, expected an integer`},
		{`{"prediction":"p","value":1,"time":true}`, BadType, `"time" is a boolean, expected a time`},
		{`{"model":"m","at":1,"entity":"a","value":1}`, BadType, `"entity" is a string, expected an object`},
		{`{"model":"m","at":1,"entity":{"a":null},"value":1}`, BadType, `"entity.a" is null, expected a boolean, a number or a string`},
		{`{"prediction":"p"}`, Missing, `"value" is missing`},
		{`{"prediction":"p","value":null}`, Missing, `"value" is missing`},
		{`{"prediction":"","value":1}`, Missing, `"prediction" is empty`},
		{`{"value":1}`, Missing, `"prediction" is missing, or "model", "entity" and "at" in its place`},
		{`{"entity":{"a":1},"at":1,"value":1}`, Missing, `"model" is missing beside "entity"`},
		{`{"entity":{"a":1},"model":"m","value":1}`, Missing, `"at" is missing beside "entity"`},
		{`{"entity":{},"model":"m","at":1,"value":1}`, Missing, `"entity" is empty`},
		{`{"prediction":"` + long + `","value":1}`, BadSize, `"prediction" has 1025 bytes, more than 256`},
		{`{"prediction":"p","value":"` + long + `"}`, BadSize, `"value" has 1025 bytes, more than 1024`},
		{`{"entity":{` + strings.Join(keys, ",") + `},"model":"m","at":1,"value":1}`, BadSize, `"entity" has more than 16 keys`},
		{`{"entity":{"a":"` + long + `","b":"` + long + `"},"model":"m","at":1,"value":1}`, BadSize, `"entity" has more than 2048 bytes`},
		{`{"prediction":"p","value":1e999}`, BadNumber, `"value" is 1e999, more than a float of 64 bits can be`},
		{`{"prediction":"p","value":1,"row":-1}`, BadNumber, `"row" is -1, expected an integer from 0 to 2147483647`},
		{`{"prediction":"p","value":1,"row":1.5}`, BadNumber, `"row" is 1.5, expected an integer from 0 to 2147483647`},
		{`{"prediction":"p","value":1,"row":2147483648}`, BadNumber, `"row" is 2147483648, expected an integer from 0 to 2147483647`},
		{`{"prediction":"p","value":1,"model":"../x"}`, BadName, `"model" is "../x", which is no name of a model`},
		{`{"prediction":"p","value":1,"time":"soon"}`, BadTime, `"time" is "soon", expected a time such as 2026-11-25T09:30:00Z`},
		{`{"prediction":"p","value":1,"time":"2026-11-25T13:00:01Z"}`, BadTime, `"time" is more than 1h0m0s ahead of the clock here`},
		{`{"prediction":"p","value":1,"time":1e300}`, BadTime, `"time" is more than 1h0m0s ahead of the clock here`},
		{`{"prediction":"p","value":1,"time":1795604400000}`, BadTime, `"time" is more than 1h0m0s ahead of the clock here`},
		{`{"prediction":"p","value":1,"at":-1e300}`, BadTime, `"at" is not after 1970-01-01T00:00:00Z`},
		{`{"prediction":"p","value":1,"at":0}`, BadTime, `"at" is not after 1970-01-01T00:00:00Z`},
	} {
		_, err := fresh().decode([]byte(c.text), "", 0)
		if err == nil {
			t.Errorf("%.80s: got it accepted, want %s", c.text, c.detail)
			continue
		}
		if reason, detail := reasonOf(err); reason != c.reason || detail != c.detail {
			t.Errorf("%.80s:\n got %s: %s\nwant %s: %s", c.text, reason, detail, c.reason, c.detail)
		}
	}
}

// What makes two outcomes the same, and what does not.
func TestWhatAnOutcomeIsKnownBy(t *testing.T) {
	type came struct {
		text, source string
		known        uint64
		minute       int
	}
	const plain, named = `{"prediction":"p","value":1}`, `{"prediction":"p","value":1,"id":"7"}`
	for _, c := range []struct {
		a, b came
		same bool
	}{
		{came{text: plain}, came{text: `{ "value":1, "prediction":"p", "row":0 }`, minute: 5}, true},
		{came{text: plain}, came{text: `{"prediction":"p","value":2}`}, false},
		{came{text: plain}, came{text: `{"prediction":"p","value":1,"row":1}`}, false},
		{came{text: plain}, came{text: `{"prediction":"p","value":1,"time":1}`}, false},
		{came{text: plain}, came{text: plain, source: "s"}, false},
		{came{text: named}, came{text: `{"prediction":"other","value":2,"id":"7"}`}, true}, // corrected
		{came{text: named}, came{text: `{"prediction":"p","value":1,"id":"8"}`}, false},
		{came{text: named}, came{text: named, source: "s"}, false},
		{came{text: named, source: "s", known: 1}, came{text: named, source: "s", known: 2}, true},
		{came{text: plain, source: "s", known: 1}, came{text: plain, source: "s", known: 2}, false},
		{came{text: plain, source: "s", known: 1}, came{text: `{"prediction":"p","value":2}`, source: "s", known: 1}, true},
	} {
		id := func(x came) uint64 {
			d := fresh()
			d.now += int64(x.minute) * 60e6
			o, err := d.decode([]byte(x.text), x.source, x.known)
			if err != nil {
				t.Error(err)
			}
			return o.ID
		}
		if same := id(c.a) == id(c.b); same != c.same {
			t.Errorf("%+v and %+v: same is %v, want %v", c.a, c.b, same, c.same)
		}
	}
}

func TestEntityIsWrittenInOneWay(t *testing.T) {
	for object, want := range map[string]string{
		`{"tailnum":"N1", "carrier":"B6"}`:             `{"carrier":"B6","tailnum":"N1"}`,
		`{"a":1.0,"b":-0.0,"c":1e3,"d":1.50,"e":1E0}`:  `{"a":1,"b":0,"c":1000,"d":1.5,"e":1}`,
		`{"a":9007199254740993,"b":true,"c":"\u0041"}`: `{"a":9007199254740993,"b":true,"c":"A"}`,
		`{"a":1e300,"b":0.00001}`:                      `{"a":1e+300,"b":1e-05}`,
		`{"a":{}}`:                                     `"entity.a" is an object, expected a boolean, a number or a string`,
		`{"a":1}x`:                                     `the entity is not valid JSON at byte 7: 'x' stands where the end is expected`,
		`{"a":1,"a":1}`:                                `"entity": "a" is given twice`,
	} {
		got, err := Entity([]byte(object))
		if err != nil {
			got = err.Error()
		} else if again, err := Entity([]byte(got)); err != nil || again != got {
			t.Errorf("%s: becomes %s, and that %s %v", object, got, again, err)
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", object, got, want)
		}
	}
}

// cut gives all elements, or where that ended.
func cut(body io.Reader, lines bool) (all []string, err error) {
	e := newElements(body, lines)
	for {
		text, err := e.next()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, string(text))
	}
}

func TestElements(t *testing.T) {
	for _, c := range []struct {
		body  string
		lines bool
		want  string // elements, or what is wrong
	}{
		{"", false, `[]`},
		{" \n", false, `[]`},
		{"[]", false, `[]`},
		{" [ ] \n", false, `[]`},
		{`{"a":{}} `, false, `["{\"a\":{}}"]`},
		{`[{"a":[1,2]} , 7,"x,]\"}",[[]]]`, false, `["{\"a\":[1,2]}" "7" "\"x,]\\\"}\"" "[[]]"]`},
		{`[1,,oops,}{}, ]`, false, `["1" "" "oops" "}{}" ""]`},
		{"[{\"a\":\"\xff\"},2]", false, `["{\"a\":\"\xff\"}" "2"]`},
		{`[1,{"a":2`, false, `the body ends within outcome 1`},
		{`[1,"`, false, `the body ends within outcome 1`},
		{`[1`, false, `the body ends within outcome 0`},
		{`{"a":1`, false, `the body ends within outcome 0`},
		{`{]}`, false, `'}' stands behind the end of the outcome; several are sent as an array, or one a line as application/x-ndjson`},
		{`[1] 2`, false, `'2' stands behind the end of the array`},
		{"{}\n{}", false, `'{' stands behind the end of the outcome; several are sent as an array, or one a line as application/x-ndjson`},
		{`prediction=p`, false, `the body begins with 'p', expected an outcome, an array of them, or one a line as application/x-ndjson`},
		{"", true, `[]`},
		{"\n \r\n", true, `[]`},
		{"{\"a\":1}\r\n\n oops \n{\"b\":\"\n[2]", true, `["{\"a\":1}" "oops" "{\"b\":\"" "[2]"]`},
	} {
		for name, body := range map[string]io.Reader{"whole": strings.NewReader(c.body), "byte by byte": &drip{[]byte(c.body)}} {
			all, err := cut(body, c.lines)
			got := fmt.Sprintf("%q", all)
			if err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("%q %s: got %s, want %s", c.body, name, got, c.want)
			}
		}
	}
	// However long one is, those beside it are whole.
	long := `"` + strings.Repeat("x", 1<<20) + `"`
	for _, lines := range []bool{false, true} {
		body := "[1," + long + ",2]"
		if lines {
			body = "1\n" + long + "\n2"
		}
		all, err := cut(strings.NewReader(body), lines)
		if err != nil || len(all) != 3 || all[2] != "2" || len(all[1]) <= outcomeMost || len(all[1]) > outcomeMost+2 {
			t.Errorf("got %d elements and %v, want 3 with the second cut", len(all), err)
		}
	}
}

type drip struct{ rest []byte }

func (d *drip) Read(p []byte) (int, error) {
	if len(d.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:1], d.rest)
	d.rest = d.rest[n:]
	return n, nil
}

// FuzzOutcomes has any body taken apart. Of JSON, each element is accepted or rejected, and what is
// accepted can be written and read again.
func FuzzOutcomes(f *testing.F) {
	for _, s := range []string{
		`{"prediction":"p","value":true,"row":1,"time":"2026-11-25T11:00:00Z","id":"x"}`,
		`[{"model":"m","entity":{"b":1.5e3,"a":"\u00e9"},"at":1795604400,"value":"c"},{"value":1},7]`,
		"{\"prediction\":\"p\",\"value\":1}\n\noops\n", "[{\"a\":\"\xff\\\"\"},{}]", `[1,[2,{"a":[]}],"]"]`,
	} {
		f.Add([]byte(s), false)
		f.Add([]byte(s), true)
	}
	f.Fuzz(func(t *testing.T, body []byte, lines bool) {
		b := &batch{decoder: *fresh(), most: 1 << 20, reasons: map[Reason]int{}}
		e := newElements(bytes.NewReader(body), lines)
		n := 0
		var err error
		for ; err == nil; n++ {
			var raw []byte
			if raw, err = e.next(); err == nil {
				err = b.add(n, raw, "", 0)
			}
		}
		n--
		if b.size() != n {
			t.Errorf("%d elements became %d accepted and %d rejected", n, len(b.good), b.rejected)
		}
		var array []json.RawMessage
		if !lines && json.Unmarshal(body, &array) == nil && array != nil && (!errors.Is(err, io.EOF) || n != len(array)) {
			t.Errorf("got %d elements and %v, want the %d of the array", n, err, len(array))
		}
		if kept := bytes.Count(b.lines.Bytes(), []byte("\n")); kept != b.rejected {
			t.Errorf("%d lines are kept for %d that are rejected", kept, b.rejected)
		}
		for line := range bytes.Lines(b.lines.Bytes()) {
			if !json.Valid(line) {
				t.Errorf("what is kept is no JSON: %q", line)
			}
		}
		key, data, err := encode([]*batch{b})
		if err != nil || (data == nil) != (len(b.good) == 0) {
			t.Fatalf("%d accepted: %v", len(b.good), err)
		}
		if data == nil {
			return
		}
		got, err := readOutcomes(key, data)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(b.good) {
			t.Errorf("got %v %v, want %v", got, err, b.good)
		}
	})
}
