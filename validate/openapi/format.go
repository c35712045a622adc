package openapi

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// isKnownFormat lists the formats that are checked, and three that have nothing
// to check beyond the type.
func isKnownFormat(name string) bool {
	return slices.Contains([]string{
		"int32", "int64", "float", "double", "password", "byte",
		"date", "date-time", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uri-reference", "iri",
		"iri-reference", "uuid", "uri-template", "json-pointer", "relative-json-pointer", "regex", "semver",
	}, name)
}

// formats are those of OpenAPI's registry that the library lacks, and those
// that it reads more widely than we do: what a format means must be so narrow
// that formatBytes can tell its bytes.
func formats() []*jsonschema.Format {
	return []*jsonschema.Format{
		{Name: "int32", Validate: integerOf(32)},
		{Name: "int64", Validate: integerOf(64)},
		{Name: rangeFormat, Validate: inRange},
		{Name: "byte", Validate: onText(isBase64)},
		{Name: "ipv4", Validate: onText(isIPv4)},
		{Name: "email", Validate: onText(isEmail)},
	}
}

// rangeFormat is the range of a number whose schema lacks an end of it: no
// further from zero than maxRange. A format costs less than a minimum and a
// maximum, which are compared exactly. No document can name it.
const rangeFormat = "rampart-range"

// maxRange is 2^53-1: up to it all readers read numbers alike (RFC 7493, section
// 2.2).
const maxRange = 1<<53 - 1

func inRange(v any) error {
	n, ok := v.(json.Number)
	if !ok {
		return nil
	}
	if i, err := strconv.ParseInt(n.String(), 10, 64); err == nil {
		if i < -maxRange || i > maxRange {
			return errForm
		}
		return nil
	}
	// Beyond 2^53 floats are whole and 2 apart at least: none is taken for a
	// smaller one.
	if f, err := strconv.ParseFloat(n.String(), 64); err != nil || f < -maxRange || f > maxRange {
		return errForm
	}
	return nil
}

var errForm = errors.New("not of this form")

// onText applies a rule to strings: other types are no business of a format.
func onText(rule func(string) bool) func(any) error {
	return func(v any) error {
		if s, ok := v.(string); ok && !rule(s) {
			return errForm
		}
		return nil
	}
}

// integerOf checks that a number fits into bits, for services that decode it
// into such a variable. Other types are no business of a format.
func integerOf(bits int) func(any) error {
	return func(v any) error {
		n, ok := v.(json.Number)
		if !ok {
			return nil
		}
		if _, err := strconv.ParseInt(n.String(), 10, bits); err != nil {
			return errors.New("out of range")
		}
		return nil
	}
}

// isBase64 accepts RFC 4648, section 4, in its one canonical spelling: with
// padding, without line breaks, and without stray bits at the end.
func isBase64(s string) bool {
	if strings.ContainsAny(s, "\r\n") {
		return false
	}
	_, err := base64.StdEncoding.Strict().DecodeString(s)
	return err == nil
}

func isIPv4(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Is4()
}

// isEmail accepts the dot-atom form of an address (RFC 5322, section 3.4.1) at a
// host name (RFC 1123), 254 bytes at most. It refuses quoted local parts, which
// can hold anything, and address literals.
func isEmail(s string) bool {
	local, domain, ok := strings.Cut(s, "@")
	if !ok || len(s) > 254 || len(local) > 64 {
		return false
	}
	for atom := range strings.SplitSeq(local, ".") {
		if atom == "" || strings.ContainsFunc(atom, func(r rune) bool { return !isAtom(r) }) {
			return false
		}
	}
	for label := range strings.SplitSeq(domain, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' || strings.ContainsFunc(label, func(r rune) bool { return !isHost(r) }) {
			return false
		}
	}
	return true
}

func isHost(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-'
}

func isAtom(r rune) bool { return isHost(r) || strings.ContainsRune("!#$%&'*+/=?^_`{|}~", r) }
