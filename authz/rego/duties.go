package rego

import (
	"errors"
	"strings"

	"github.com/rampart-security/rampart"
)

// maxDetail bounds what a deny rule says, in bytes.
const maxDetail = 512

// says reads the value of a deny rule: a text, or an object whose members code
// and msg are for operators and whose member reason is for the user.
func says(value any) said {
	switch v := value.(type) {
	case string:
		return said{detail: clip(v)}
	case map[string]any:
		code, _ := v["code"].(string)
		msg, _ := v["msg"].(string)
		reason, _ := v["reason"].(string)
		if code != "" && msg != "" {
			code += ": "
		}
		return said{detail: clip(code + msg), reason: clip(reason)}
	}
	return said{}
}

func clip(s string) string {
	if len(s) <= maxDetail {
		return s
	}
	return strings.ToValidUTF8(s[:maxDetail], "") + "..."
}

// readDuties reads the answer of askDuties.
func (d *decider) readDuties(answer any) ([]rampart.Obligation, *rampart.Fields, error) {
	rest, ok := answer.([]any)
	if !ok {
		return nil, nil, errShape
	}
	asked := map[string][]any{}
	for _, name := range duties() {
		if !d.duties[name] {
			continue
		}
		if len(rest) == 0 {
			return nil, nil, errShape
		}
		if asked[name], ok = rest[0].([]any); !ok {
			return nil, nil, errShape
		}
		rest = rest[1:]
	}
	obligations, err := d.readObligations(asked[obligationsRule])
	if err != nil {
		return nil, nil, err
	}
	fields, err := d.readFields(asked)
	return obligations, fields, err
}

func (d *decider) readObligations(list []any) ([]rampart.Obligation, error) {
	var out []rampart.Obligation
	for _, o := range list {
		members, _ := o.(map[string]any)
		typ, _ := members["type"].(string)
		if typ == "" {
			return nil, errors.New(`an obligation is an object with a text named "type", for example {"type": "step-up", "acr": "aal2"}`)
		}
		obligation := rampart.Obligation{ID: d.name() + "." + obligationsRule, Type: typ}
		for name, value := range members {
			text, ok := value.(string)
			if !ok {
				return nil, errors.New("the members of an obligation are texts: " + name + " is none")
			}
			if name == "type" {
				continue
			}
			if obligation.Properties == nil {
				obligation.Properties = map[string]string{}
			}
			obligation.Properties[name] = text
		}
		out = append(out, obligation)
	}
	return out, nil
}

// readFields: rules of fields that name nothing leave nothing to be seen, which
// differs from no rules.
func (d *decider) readFields(asked map[string][]any) (*rampart.Fields, error) {
	mask, err := memberNames(asked[maskRule], maskRule)
	if err != nil {
		return nil, err
	}
	only, err := memberNames(asked[fieldsRule], fieldsRule)
	if err != nil {
		return nil, err
	}
	if d.duties[fieldsRule] && only == nil {
		only = []string{}
	}
	if only == nil && mask == nil {
		return nil, nil
	}
	return &rampart.Fields{Only: only, Mask: mask}, nil
}

func memberNames(list []any, name string) ([]string, error) {
	var out []string
	for _, v := range list {
		s, ok := v.(string)
		if !ok {
			return nil, errors.New(name + " holds names of members of the resource, and nothing else")
		}
		if s != "" { // names nothing
			out = append(out, s)
		}
	}
	return out, nil
}
