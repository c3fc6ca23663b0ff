// Package env turns environment variables into config structs, once, at the
// start of a process.
//
// A package owns its Config and tags each field:
//
//	TTL time.Duration `env:"CACHE_TTL" default:"30s" help:"How long an answer is kept."`
//
// A main hands pointers to all of them to Load, which either fills every
// struct or tells in one error everything that is wrong. The Table it gives
// shows what is in force and where it came from; secrets never appear in it,
// nor in errors. The package knows no variable by name.
package env

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
)

// Environ gives the environment of the process in the form that Load takes.
func Environ() map[string]string { return env.ToMap(os.Environ()) }

// Load fills the structs that dst points at from environ, a variable that is
// missing or empty giving way to its default, and then calls the Validate
// method of those that have one. The structs are flat. A variable may stand in
// several of them, with the same default everywhere. The error names each
// offending variable; the table is complete only without one.
func Load(environ map[string]string, dst ...any) (Table, error) {
	if environ == nil { // which the library would take for "use the real one"
		environ = map[string]string{}
	}
	var table Table
	var errs []error
	for _, d := range dst {
		fields, err := fieldsOf(d)
		if err == nil {
			table, err = table.add(environ, fields)
		}
		if err == nil {
			err = parse(environ, d, fields)
		}
		if v, ok := d.(interface{ Validate() error }); ok && err == nil {
			err = v.Validate()
		}
		errs = append(errs, err)
	}
	return table, errors.Join(errs...)
}

// field is one tagged field of a config struct.
type field struct {
	reflect.StructField
	variable string
	owner    string
	fromFile bool // the variable names a file that holds the value
}

func (f *field) secret() bool { return f.Type == reflect.TypeFor[Secret]() }

// redact gives a value of the field as strangers may see it.
func (f *field) redact(value string) string {
	switch {
	case value == "" || f.fromFile:
		return value
	case f.secret():
		return hidden
	case strings.Contains(value, "://") && strings.Contains(value, "@"): // a URL, maybe with a password
		u, err := url.Parse(value)
		if err != nil {
			return hidden
		}
		return u.Redacted()
	}
	return value
}

// fieldsOf lists the tagged fields of the struct that dst points at.
func fieldsOf(dst any) ([]field, error) {
	t := reflect.TypeOf(dst)
	if t == nil || t.Kind() != reflect.Pointer || t.Elem().Kind() != reflect.Struct {
		return nil, fmt.Errorf("config is read into a pointer to a struct, not into %T", dst)
	}
	t = t.Elem()
	var fields []field
	for f := range t.Fields() {
		variable, options, _ := strings.Cut(f.Tag.Get("env"), ",")
		switch {
		case variable != "" && variable != "-":
			fields = append(fields, field{
				StructField: f, variable: variable, owner: path.Base(t.PkgPath()),
				fromFile: slices.Contains(strings.Split(options, ","), "file"),
			})
		case f.Type.Kind() == reflect.Struct && f.IsExported():
			// The library would go into it, and errors and the table would miss it.
			return nil, fmt.Errorf("config struct %s is not flat: load its field %s by itself", t, f.Name)
		}
	}
	return fields, nil
}

// parse lets the library fill dst, and words its errors for whoever set the variables.
func parse(environ map[string]string, dst any, fields []field) error {
	err := env.ParseWithOptions(dst, env.Options{Environment: environ, DefaultValueTagName: "default"})
	var all env.AggregateError
	if !errors.As(err, &all) {
		return err
	}
	var errs []error
	for _, err := range all.Errors {
		var bad env.ParseError
		if errors.As(err, &bad) {
			f := &fields[slices.IndexFunc(fields, func(f field) bool { return f.Name == bad.Name })]
			err = f.wrong(environ[f.variable], bad.Err)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// wrong says that a value doesn't fit the field and what would.
func (f *field) wrong(value string, cause error) error {
	if f.secret() || f.fromFile {
		return fmt.Errorf("%s does not hold a %s", f.variable, f.Type)
	}
	expected := cause.Error()
	t := f.Type
	if t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	switch k := t.Kind(); {
	case t == reflect.TypeFor[time.Duration]():
		expected = "expected a duration such as 30s or 1m30s"
	case t == reflect.TypeFor[slog.Level]():
		expected = "expected DEBUG, INFO, WARN or ERROR"
	case reflect.PointerTo(t).Implements(reflect.TypeFor[interface{ UnmarshalText([]byte) error }]()):
		// which says best itself what it expects
	case k == reflect.Bool:
		expected = "expected true or false"
	case k >= reflect.Int && k <= reflect.Uint64:
		expected = "expected a whole number in the range of " + k.String()
	case k == reflect.Float32 || k == reflect.Float64:
		expected = "expected a number"
	}
	if t != f.Type {
		expected += ", several separated by commas"
	}
	return fmt.Errorf("%s is %q: %s", f.variable, f.redact(value), expected)
}
