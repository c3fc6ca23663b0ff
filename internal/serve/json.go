package serve

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// ReadJSON reads a small JSON body by json.Unmarshal or Strict; an empty one
// changes nothing. Errors are Invalid, or say that the body is too large.
func ReadJSON(r *http.Request, v any, decode func([]byte, any) error) error {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return BodyError(err)
	}
	if len(strings.TrimSpace(string(b))) == 0 {
		return nil
	}
	if err := decode(b, v); err != nil {
		return fault.Wrap(fault.Invalid, err, "the body is not the JSON expected here: %s", Misread(err))
	}
	return nil
}

// WriteJSON answers with a value in JSON, and a line's end behind it.
func WriteJSON(w http.ResponseWriter, status int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, err = w.Write(append(b, '\n'))
	return err
}

// Strict decodes one JSON value and refuses fields that it does not know: a
// misspelt setting must not be taken for an absent one.
func Strict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON value")
	}
	return nil
}

// Misread says what is wrong with JSON in words of JSON instead of Go's.
func Misread(err error) string {
	var wrong *json.UnmarshalTypeError
	if !errors.As(err, &wrong) {
		return strings.TrimPrefix(err.Error(), "json: ")
	}
	expected := "a string"
	switch wrong.Type.Kind() {
	case reflect.Bool:
		expected = "a boolean"
	case reflect.Int:
		expected = "an integer"
	case reflect.Struct, reflect.Map:
		expected = "an object"
	}
	field := strings.TrimPrefix(wrong.Field, "Settings.") // which is embedded, and no part of the JSON
	return fmt.Sprintf("%s must be %s, not %s", cmp.Or(field, "the value"), expected, wrong.Value)
}

// BodyError says what went wrong with a body that could not be read to its end.
func BodyError(err error) error {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) || fault.KindOf(err) != fault.Internal {
		return err
	}
	return fault.Wrap(fault.Invalid, err, "the body could not be read to its end")
}
