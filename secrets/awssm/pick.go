package awssm

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"unicode/utf8"

	"github.com/rampart-security/rampart"
)

// pick returns a member of a JSON object, and the member username beside the
// member password. A name that stands there twice is refused: which one AWS's
// rotation function means nobody knows. Errors do not repeat the text.
func pick(text []byte, field string) (value []byte, user string, err error) {
	members, err := object(text)
	if err != nil {
		return nil, "", rampart.Errorf(rampart.Invalid, control, "it has fields only if it is a JSON object in which no name stands twice")
	}
	raw, ok := members[field]
	if !ok {
		return nil, "", rampart.Errorf(rampart.NotFound, control, "it has no field %.64s", field)
	}
	if value, ok = scalar(raw); !ok || len(value) == 0 {
		return nil, "", rampart.Errorf(rampart.Invalid, control, "its field %.64s is no text, number or truth value", field)
	}
	if field == "password" {
		name, _ := scalar(members["username"])
		user = string(name)
	}
	return value, user, nil
}

var errObject = errors.New("no object")

// object splits a JSON object into its members, one level deep.
func object(text []byte) (map[string]json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	if open, err := d.Token(); err != nil || open != json.Delim('{') || !utf8.Valid(text) {
		return nil, errObject
	}
	out := map[string]json.RawMessage{}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, errObject
		}
		var raw json.RawMessage
		key, ok := name.(string)
		if _, twice := out[key]; !ok || twice || d.Decode(&raw) != nil {
			return nil, errObject
		}
		out[key] = raw
	}
	if _, err := d.Token(); err != nil {
		return nil, errObject
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errObject
	}
	return out, nil
}

// scalar returns a text without its quotes, a number or truth value as it is
// written.
func scalar(raw json.RawMessage) ([]byte, bool) {
	if len(raw) == 0 || raw[0] == '{' || raw[0] == '[' || raw[0] == 'n' {
		return nil, false
	}
	if raw[0] != '"' {
		return bytes.Clone(raw), true
	}
	var text string
	if json.Unmarshal(raw, &text) != nil {
		return nil, false
	}
	return []byte(text), true
}
