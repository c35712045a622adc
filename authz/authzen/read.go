package authzen

import (
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
)

// question is the body of every endpoint. Unknown members are ignored (section
// 10.1.1).
type question struct {
	member
	Evaluations []member `json:"evaluations"`
	Options     struct {
		Semantic string `json:"evaluations_semantic"`
	} `json:"options"`
	Page *page `json:"page"`
}

// member is one evaluation, or the defaults of many.
type member struct {
	Subject  *entity        `json:"subject"`
	Action   *action        `json:"action"`
	Resource *entity        `json:"resource"`
	Context  map[string]any `json:"context"`
}

type entity struct {
	Type       *string        `json:"type"`
	ID         *string        `json:"id"`
	Properties map[string]any `json:"properties"`
}

type action struct {
	Name       *string        `json:"name"`
	Properties map[string]any `json:"properties"`
}

type page struct {
	Token string `json:"token"`
	Limit *int   `json:"limit"`
}

// read takes one I-JSON document (RFC 7493): duplicate names, invalid UTF-8 and
// text behind the document are refused, because two readers could see two
// questions in it.
func read(w http.ResponseWriter, r *http.Request) (*question, error) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return nil, rampart.Errorf(rampart.Invalid, "", "the request must be of type application/json")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return nil, err
	}
	if err != nil {
		return nil, &rampart.Error{Kind: rampart.Invalid, Msg: "the request could not be read", Err: err}
	}
	return parse(body)
}

func parse(body []byte) (*question, error) {
	if err := shallow(body); err != nil {
		return nil, err
	}
	var q question
	if err := json.Unmarshal(body, &q, json.WithUnmarshalers(json.UnmarshalFromFunc(number))); err != nil {
		return nil, &rampart.Error{Kind: rampart.Invalid, Msg: "the request is not valid I-JSON of the expected shape" + where(err), Err: err}
	}
	if len(q.Evaluations) > MaxEvaluations {
		return nil, rampart.Errorf(rampart.Invalid, "", "evaluations holds more than %d items", MaxEvaluations)
	}
	return &q, nil
}

// shallow refuses nesting that no question needs, before a tree is built.
func shallow(body []byte) error {
	const deepest = authz.MaxDepth + 8
	depth := 0
	inText := false
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case inText && c == '\\':
			i++
		case c == '"':
			inText = !inText
		case inText:
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			depth--
		}
		if depth > deepest {
			return rampart.Errorf(rampart.Invalid, "", "the request is nested deeper than %d", deepest)
		}
	}
	return nil
}

// where names the member that an error concerns; its name is the caller's own.
func where(err error) string {
	if e, ok := errors.AsType[*json.SemanticError](err); ok && e.JSONPointer != "" {
		return ", at " + clip(string(e.JSONPointer))
	}
	if e, ok := errors.AsType[*jsontext.SyntacticError](err); ok && e.JSONPointer != "" {
		return ", at " + clip(string(e.JSONPointer))
	}
	return ""
}

func clip(s string) string {
	const most = 100
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}

// number keeps whole numbers whole: a policy compares longs, not floats. One
// that float64 would round is refused.
func number(d *jsontext.Decoder, v *any) error {
	if d.PeekKind() != '0' {
		return errors.ErrUnsupported
	}
	t, err := d.ReadToken()
	if err != nil {
		return err
	}
	text := t.String()
	if !strings.ContainsAny(text, ".eE") {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return fmt.Errorf("%s is beyond 64 bits", clip(text))
		}
		*v = n
		return nil
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsInf(f, 0) {
		return fmt.Errorf("%s is no number that can be kept", clip(text))
	}
	*v = f
	return nil
}

// or fills what an evaluation leaves out from the defaults (section 7.1).
func (m member) or(defaults member) member {
	if m.Subject == nil {
		m.Subject = defaults.Subject
	}
	if m.Action == nil {
		m.Action = defaults.Action
	}
	if m.Resource == nil {
		m.Resource = defaults.Resource
	}
	if m.Context == nil {
		m.Context = defaults.Context
	}
	return m
}

// need reports the first member that is missing.
func need(members ...required) error {
	for _, m := range members {
		if m.value == nil || *m.value == "" {
			return rampart.Errorf(rampart.Invalid, "", "%s is required", m.name)
		}
	}
	return nil
}

type required struct {
	name  string
	value *string
}

func (e *entity) kind() *string {
	if e == nil {
		return nil
	}
	return e.Type
}

func (e *entity) id() *string {
	if e == nil {
		return nil
	}
	return e.ID
}

func (a *action) name() *string {
	if a == nil {
		return nil
	}
	return a.Name
}
