// Package feedback takes in what came true of what models predicted.
//
// An Intake acknowledges outcomes once they are durable: in the bucket, one
// Parquet object under InboxPrefix for those that came together, and in another one what
// was rejected, with the reason. It does not know the predictions: whether there is one
// that an outcome is about, and whether its value suits the model, is told where
// the two are joined. Outcomes may come twice, then they have the same ID.
package feedback

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/jsonwire"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/row"
)

// Outcome is what came true of one row of a prediction. Times are in microseconds
// since 1970, and after it.
type Outcome struct {
	Prediction string // its id; "": Model, Entity and At say which
	Row        int32  // of the prediction's rows, from 0 on
	Model      string // "": not said
	Entity     string // what the prediction was about, as Entity writes it; "": not said
	At         int64  // when it was made; 0: not said
	Value      string // JSON: a boolean, a number, or a string
	Source     string // of the event that brought it; "": it came by HTTP
	Time       int64  // when it came true
	Created    int64  // when it was taken in
	ID         uint64 // equal for the same outcome, see Intake
}

// Reason says what sort of demand a rejected outcome did not meet.
type Reason string

// The reasons.
const (
	BadJSON   Reason = "json"    // it is no JSON
	BadField  Reason = "field"   // a field that there isn't, or that stands twice or beside one that it can't
	BadType   Reason = "type"    // a field has another type
	Missing   Reason = "missing" // a field that is needed is not there
	BadSize   Reason = "size"    // something is too long or too many
	BadNumber Reason = "number"  // no number that can be reckoned with, or no row's
	BadName   Reason = "name"    // no name that a model can have
	BadTime   Reason = "time"    // too far ahead, or before 1970
)

// Limits of what an outcome holds, in bytes.
const (
	outcomeMost = 16 << 10 // all of it, as JSON
	wordMost    = 256      // an id
	valueMost   = 1 << 10
	entityMost  = 2 << 10
	keysMost    = 16 // of an entity; their number
	sourceMost  = 1 << 10
)

// unfit is why an outcome is rejected.
type unfit struct {
	reason Reason
	detail string
}

func (u *unfit) Error() string { return u.detail }

func reject(r Reason, format string, args ...any) error {
	return &unfit{r, fmt.Sprintf(format, args...)}
}

// reasonOf tells what is wrong; other errors than those of reject are the scanner's.
func reasonOf(err error) (Reason, string) {
	var u *unfit
	if errors.As(err, &u) {
		return u.reason, u.detail
	}
	return BadJSON, fault.Message(err)
}

// decoder reads outcomes that came at one moment. It is for one goroutine.
type decoder struct {
	scan jsonwire.Scanner
	now  int64
	far  time.Duration // that a time may be ahead
	text []byte
}

// decode reads an outcome. Source and known are those of the event that it came in: known
// is what it is known by if it has no id of its own; 0: by what it holds.
func (d *decoder) decode(raw []byte, source string, known uint64) (Outcome, error) {
	d.scan.Text, d.scan.Pos, d.scan.What = raw, 0, "the outcome"
	o := Outcome{Source: source, Created: d.now}
	if c := d.scan.Peek(); c != '{' {
		if err := d.scan.Skip(); err != nil {
			return o, err
		}
		return o, reject(BadType, "the outcome is %s, expected an object", kindOf(c))
	}
	d.scan.Pos++
	id, err := d.fields(&o)
	if err != nil {
		return o, err
	}
	if d.scan.Peek(); d.scan.Pos < len(raw) {
		return o, d.scan.Expected("the end")
	}
	if err := o.check(); err != nil {
		return o, err
	}
	switch {
	case id != "":
		o.ID = identify("id", source, id)
	case known != 0:
		o.ID = known
	default: // if it says no time it is the same whenever it comes
		o.ID = identify("content", source, o.Prediction, strconv.Itoa(int(o.Row)), o.Model, o.Entity,
			strconv.FormatInt(o.At, 10), o.Value, strconv.FormatInt(o.Time, 10))
	}
	if o.Time == 0 {
		o.Time = d.now
	}
	return o, nil
}

var fieldNames = [...]string{"prediction", "row", "model", "entity", "at", "value", "time", "id"}

// fields reads the members of an object whose brace is consumed. A null is as good as none.
func (d *decoder) fields(o *Outcome) (id string, err error) {
	seen := 0
	for i := 0; ; i++ {
		key, err := d.scan.Member(i)
		if err != nil {
			return "", err
		}
		if key == nil {
			return id, nil
		}
		field := slices.IndexFunc(fieldNames[:], func(name string) bool { return name == string(key) })
		switch {
		case field < 0:
			return "", reject(BadField, "there is no field %.64q; the fields are %s", key, strings.Join(fieldNames[:], ", "))
		case seen>>field&1 == 1:
			return "", reject(BadField, "%q is given twice", key)
		}
		seen |= 1 << field
		if d.scan.Word("null") {
			continue
		}
		switch name := fieldNames[field]; name {
		case "prediction":
			o.Prediction, err = d.word(name)
		case "row":
			o.Row, err = d.row()
		case "model":
			if o.Model, err = d.word(name); err == nil && model.CheckName(o.Model) != nil {
				return "", reject(BadName, "%q is %.64q, which is no name of a model", name, o.Model)
			}
		case "entity":
			o.Entity, err = d.entity()
		case "at":
			o.At, err = d.moment(name)
		case "value":
			o.Value, err = d.value()
		case "time":
			o.Time, err = d.moment(name)
		case "id":
			id, err = d.word(name)
		}
		if err != nil {
			return "", err
		}
	}
}

// check tells what an outcome lacks.
func (o *Outcome) check() error {
	switch {
	case o.Value == "":
		return reject(Missing, `"value" is missing`)
	case o.Prediction != "" && o.Entity != "":
		return reject(BadField, `"prediction" and "entity" are both given, expected one of them`)
	case o.Prediction == "" && o.Entity == "":
		return reject(Missing, `"prediction" is missing, or "model", "entity" and "at" in its place`)
	case o.Prediction == "" && o.Model == "":
		return reject(Missing, `"model" is missing beside "entity"`)
	case o.Prediction == "" && o.At == 0:
		return reject(Missing, `"at" is missing beside "entity"`)
	}
	return nil
}

// word reads a string that is not empty and not long.
func (d *decoder) word(name string) (string, error) {
	if c := d.scan.Peek(); c != '"' {
		return "", d.not(name, "a string", c)
	}
	text, err := d.scan.Quoted()
	switch {
	case err != nil:
		return "", err
	case len(text) == 0:
		return "", reject(Missing, "%q is empty", name)
	case len(text) > wordMost:
		return "", reject(BadSize, "%q has %d bytes, more than %d", name, len(text), wordMost)
	}
	return d.scan.Keep(text), nil
}

func (d *decoder) row() (int32, error) {
	if c := d.scan.Peek(); !numeric(c) {
		return 0, d.not("row", "an integer", c)
	}
	literal, _, err := d.scan.Number()
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(string(literal), 10, 32)
	if err != nil || n < 0 {
		return 0, reject(BadNumber, `"row" is %.64s, expected an integer from 0 to %d`, literal, math.MaxInt32)
	}
	return int32(n), nil
}

// moment reads a time: RFC 3339, or seconds since 1970.
func (d *decoder) moment(name string) (int64, error) {
	var us int64
	switch c := d.scan.Peek(); {
	case c == '"':
		text, err := d.scan.Quoted()
		if err != nil {
			return 0, err
		}
		at, err := row.ParseTime(string(text))
		if err != nil {
			return 0, reject(BadTime, "%q is %.64q, expected a time such as 2026-11-25T09:30:00Z", name, text)
		}
		us = at.UnixMicro()
	case numeric(c):
		literal, _, err := d.scan.Number()
		if err != nil {
			return 0, err
		}
		const most = 1 << 33 // seconds, so that what follows is exact; it is ahead of every clock
		seconds, _ := strconv.ParseFloat(string(literal), 64)
		us = int64(math.Round(min(max(seconds, -1), most) * 1e6))
	default:
		return 0, d.not(name, "a time", c)
	}
	switch latest := d.now + d.far.Microseconds(); {
	case us <= 0:
		return 0, reject(BadTime, "%q is not after 1970-01-01T00:00:00Z", name)
	case us > latest:
		return 0, reject(BadTime, "%q is more than %s ahead of the clock here", name, d.far)
	}
	return us, nil
}

// value reads what came true, and writes it in the shortest way.
func (d *decoder) value() (string, error) {
	text, err := d.scalar(d.text[:0], "value", valueMost, func(dst, literal []byte, _ bool) []byte { return append(dst, literal...) })
	d.text = text
	return d.scan.Keep(text), err
}

// scalar appends a boolean, a number or a string of at most so many bytes to dst, as JSON.
func (d *decoder) scalar(dst []byte, name string, most int, number func(dst, literal []byte, integer bool) []byte) ([]byte, error) {
	c := d.scan.Peek()
	size := 0
	switch {
	case c == '"':
		text, err := d.scan.Quoted()
		if err != nil {
			return dst, err
		}
		size = len(text)
		dst = jsonwire.AppendString(dst, string(text))
	case numeric(c):
		literal, integer, err := d.scan.Number()
		if err != nil {
			return dst, err
		}
		if f, err := strconv.ParseFloat(string(literal), 64); err != nil || math.IsInf(f, 0) {
			return dst, reject(BadNumber, "%q is %.64s, more than a float of 64 bits can be", name, literal)
		}
		size = len(literal)
		dst = number(dst, literal, integer)
	case d.scan.Word("true"):
		dst = append(dst, "true"...)
	case d.scan.Word("false"):
		dst = append(dst, "false"...)
	default:
		return dst, d.not(name, "a boolean, a number or a string", c)
	}
	if size > most {
		return dst, reject(BadSize, "%q has %d bytes, more than %d", name, size, most)
	}
	return dst, nil
}

// Entity gives the one way to write what a prediction is about: a JSON object of booleans,
// numbers and strings with its keys in order and without spaces. Equal numbers are
// written alike, but integers beyond 2^53 as they are. Others are Invalid.
func Entity(object []byte) (string, error) {
	d := decoder{scan: jsonwire.Scanner{Text: object, What: "the entity"}}
	text, err := d.entity()
	if d.scan.Peek(); err == nil && d.scan.Pos < len(object) {
		err = d.scan.Expected("the end")
	}
	if err != nil {
		_, detail := reasonOf(err)
		return "", fault.New(fault.Invalid, "%s", detail)
	}
	return text, nil
}

func (d *decoder) entity() (string, error) {
	if c := d.scan.Peek(); c != '{' {
		return "", d.not("entity", "an object", c)
	}
	d.scan.Pos++
	type pair struct{ key, text string }
	pairs, size := make([]pair, 0, 4), len("{}")
	for i := 0; ; i++ {
		key, err := d.scan.Member(i)
		if err != nil {
			return "", err
		}
		if key == nil {
			break
		}
		if i == keysMost {
			return "", reject(BadSize, `"entity" has more than %d keys`, keysMost)
		}
		p := pair{key: string(key)}
		if slices.ContainsFunc(pairs, func(q pair) bool { return q.key == p.key }) {
			return "", reject(BadField, `"entity": %.64q is given twice`, key)
		}
		d.text, err = d.scalar(d.text[:0], "entity."+p.key[:min(len(p.key), 64)], entityMost, appendNumber)
		if err != nil {
			return "", err
		}
		p.text = string(d.text)
		pairs = append(pairs, p)
		if size += len(p.key) + len(p.text) + len(`"":,`); size > entityMost {
			return "", reject(BadSize, `"entity" has more than %d bytes`, entityMost)
		}
	}
	if len(pairs) == 0 {
		return "", reject(Missing, `"entity" is empty`)
	}
	slices.SortFunc(pairs, func(a, b pair) int { return strings.Compare(a.key, b.key) })
	text := append(d.text[:0], '{')
	for i, p := range pairs {
		if i > 0 {
			text = append(text, ',')
		}
		text = append(append(jsonwire.AppendString(text, p.key), ':'), p.text...)
	}
	d.text = append(text, '}')
	return d.scan.Keep(d.text), nil
}

// appendNumber writes equal numbers alike.
func appendNumber(dst, literal []byte, integer bool) []byte {
	f, _ := strconv.ParseFloat(string(literal), 64) // as was checked
	switch {
	case math.Trunc(f) == f && math.Abs(f) < 1<<53: // also -0, 1.0 and 1e3
		return strconv.AppendInt(dst, int64(f), 10)
	case integer:
		return append(dst, literal...)
	}
	return jsonwire.AppendFloat(dst, f, 64)
}

// not rejects a field whose value begins with c, or tells that this is no JSON.
func (d *decoder) not(name, expected string, c byte) error {
	if err := d.scan.Skip(); err != nil {
		return err
	}
	return reject(BadType, "%q is %s, expected %s", name, kindOf(c), expected)
}

func numeric(c byte) bool { return c == '-' || '0' <= c && c <= '9' }

// kindOf names the kind of a JSON value that begins with c.
func kindOf(c byte) string {
	switch c {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	}
	return "a number"
}

// identify gives the number that the same outcome is known by: never 0.
func identify(parts ...string) uint64 {
	var room [512]byte
	b := room[:0]
	for _, p := range parts {
		b = append(binary.AppendUvarint(b, uint64(len(p))), p...)
	}
	sum := sha256.Sum256(b)
	return max(1, binary.BigEndian.Uint64(sum[:]))
}
