package pii

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// roles of a mapped field.
const (
	rolePlain = iota // a column as it is
	rolePII
	roleTenant
	roleRow
	roleSubject
)

// field is one mapped field of a struct.
type field struct {
	index  []int // as reflect.Value.FieldByIndex takes it
	role   int
	name   string // of the field in data.pii
	item   string
	column string
	kind   reflect.Type
	search bool // a blind index stands in column + "_idx"
}

const tagKey = "rampart"

const (
	maxFields    = 200
	indexSuffix  = "_idx"
	maxColumnLen = 63 // PostgreSQL cuts longer ones
)

var columnForm = regexp.MustCompile(`^[a-z_][a-z0-9_]*$`)

// parseTag reads `rampart:"..."` of one field: pii=FIELD, tenant, row or subject,
// and column=COLUMN, item=ITEM beside them.
func parseTag(tag, goName, item string) (field, error) {
	f := field{role: -1, item: item}
	for part := range strings.SplitSeq(tag, ",") {
		key, value, given := strings.Cut(part, "=")
		role, column, err := tagPart(key, value, given)
		if err != nil {
			return f, err
		}
		switch {
		case role >= 0 && f.role >= 0:
			return f, fmt.Errorf("is one of pii, tenant, row and subject, not two")
		case role >= 0:
			f.role, f.name = role, value
		case column:
			f.column = value
		default:
			f.item = value
		}
	}
	if f.role < 0 {
		f.role = rolePlain
	}
	if f.column == "" {
		f.column = f.name
	}
	if f.column == "" {
		f.column = snake(goName)
	}
	if !columnForm.MatchString(f.column) || len(f.column) > maxColumnLen-len(indexSuffix) {
		return f, fmt.Errorf("column %q is no plain name of a column", f.column)
	}
	return f, nil
}

// tagPart sorts one part of a tag; role is -1 if it names none.
func tagPart(key, value string, given bool) (role int, column bool, err error) {
	role = slices.Index([]string{"", "pii", "tenant", "row", "subject"}, key)
	switch {
	case key == "pii" && given && value != "":
		return rolePII, false, nil
	case role > rolePII && !given:
		return role, false, nil
	case (key == "column" || key == "item") && given && value != "":
		return -1, key == "column", nil
	}
	return -1, false, fmt.Errorf("does not know %q; write pii=FIELD, tenant, row or subject, with column=COLUMN or item=ITEM beside it", key)
}

// snake is order_id for OrderID.
func snake(name string) string {
	var b strings.Builder
	runes := []rune(name)
	for i, r := range runes {
		starts := unicode.IsUpper(r) && i > 0 && (!unicode.IsUpper(runes[i-1]) || i+1 < len(runes) && unicode.IsLower(runes[i+1]))
		if starts {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

var (
	textType = reflect.TypeFor[string]()
	piiTypes = []reflect.Type{textType, reflect.TypeFor[[]byte](), reflect.TypeFor[String](), reflect.TypeFor[Bytes](), reflect.TypeFor[*string](), reflect.TypeFor[*String]()}
)

// fieldsOf reads the tags of a struct type.
func fieldsOf(t reflect.Type, item string) ([]field, error) {
	if t.Kind() != reflect.Struct {
		return nil, fmt.Errorf("pii: %s is no struct", t)
	}
	var out []field
	for _, sf := range reflect.VisibleFields(t) {
		tag, ok := sf.Tag.Lookup(tagKey)
		if !ok || tag == "-" {
			continue
		}
		f, err := parseTag(tag, sf.Name, item)
		if err == nil {
			err = fits(f, sf)
		}
		if err == nil && len(out) == maxFields {
			err = fmt.Errorf("is one of more than %d", maxFields)
		}
		if err != nil {
			return nil, fmt.Errorf("pii: the tag of %s.%s %w", t, sf.Name, err)
		}
		f.index, f.kind = sf.Index, sf.Type
		out = append(out, f)
	}
	return out, nil
}

func fits(f field, sf reflect.StructField) error {
	switch {
	case !sf.IsExported():
		return fmt.Errorf("is on a field that is not exported")
	case f.role == rolePII && !slices.Contains(piiTypes, sf.Type):
		return fmt.Errorf("is on a %s; what is sealed is a pii.String, pii.Bytes, string, []byte, *pii.String or *string", sf.Type)
	case f.role > rolePII && sf.Type != textType:
		return fmt.Errorf("is on a %s; tenant, row and subject are strings", sf.Type)
	}
	return nil
}
