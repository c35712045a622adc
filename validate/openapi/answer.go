package openapi

import (
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/validate/strictjson"
)

// problemSchema is what an error of our own planes looks like (package problem).
// A service answers through its sidecar, whose refusals no document declares.
const problemSchema = `{
	"type": "object", "required": ["status"], "additionalProperties": false,
	"properties": {
		"type": {"type": "string", "maxLength": 256}, "title": {"type": "string", "maxLength": 256},
		"status": {"type": "integer", "minimum": 400, "maximum": 599}, "detail": {"type": "string", "maxLength": 1024},
		"instance": {"type": "string", "maxLength": 256}, "trace": {"type": "string", "maxLength": 64}, "step_up": {"type": "string", "maxLength": 1024},
		"limit": {"type": "object", "additionalProperties": false, "properties": {"control": {"type": "string", "maxLength": 64}, "name": {"type": "string", "maxLength": 64}}},
		"errors": {"type": "array", "maxItems": 64, "items": {
			"type": "object", "additionalProperties": false,
			"properties": {"pointer": {"type": "string", "maxLength": 512}, "detail": {"type": "string", "maxLength": 512}}}}}}`

// maxAnswerValues bounds the values of one answer: lists are longer there than
// in requests.
const maxAnswerValues = 200_000

// answer is what the document declares for one status.
type answer map[string]*Answer // by media type

// answers are the declared ones of an operation.
type answers struct {
	byStatus map[string]answer // "200", "2XX" or "default"
	problem  *Schema
}

// Answer says how an answer with this status and Content-Type is judged. The
// error says that the document declares none such: a rampart.Error of kind
// Unavailable, control validate.response, with JSON pointers for the log alone.
// hasBody is false for an answer without content. An answer of status 304, and a
// problem document (RFC 9457) in the form that the planes give it, are always
// declared.
func (op *Operation) Answer(status int, contentType string, hasBody bool) (*Answer, error) {
	if status == http.StatusNotModified {
		return &Answer{}, nil
	}
	declared, ok := op.answers.find(status)
	if a := declared[contentType]; a != nil && hasBody && (status < 400 || contentType != problem.ContentType) {
		return a, nil // of exactly this spelling
	}
	kind := ""
	if contentType != "" {
		var params map[string]string
		var err error
		if kind, params, err = mime.ParseMediaType(contentType); err != nil || isJSONType(kind) && !onlyUTF8(params) {
			return nil, withheld("/header/Content-Type: is not one media type, in UTF-8")
		}
	}
	own := status >= 400 && kind == problem.ContentType
	switch {
	case !ok && own:
		return &Answer{either: []*Schema{op.answers.problem}}, nil
	case !ok:
		return nil, withheld("/status: is not declared")
	case !hasBody:
		return &Answer{}, nil
	}
	a, ok := declared[kind]
	switch {
	case ok && own && a.Judged():
		return &Answer{either: []*Schema{a.either[0], op.answers.problem}}, nil
	case ok:
		return a, nil
	case own:
		return &Answer{either: []*Schema{op.answers.problem}}, nil
	}
	return nil, withheld("/header/Content-Type: is not declared for this status")
}

func (a answers) find(status int) (answer, bool) {
	var few [8]byte
	key := strconv.AppendInt(few[:0], int64(status), 10)
	if v, ok := a.byStatus[string(key)]; ok {
		return v, true
	}
	key = append(strconv.AppendInt(few[:0], int64(status/100), 10), "XX"...)
	if v, ok := a.byStatus[string(key)]; ok {
		return v, true
	}
	v, ok := a.byStatus["default"]
	return v, ok
}

// Answer judges the body of one answer. It is read-only and safe for concurrent use.
type Answer struct {
	either []*Schema // one of them must match; none: nothing to judge
}

// Judged reports whether the body has a schema, so that Check must see it.
func (a *Answer) Judged() bool { return len(a.either) > 0 }

// Check judges a whole body. The error is as that of Operation.Answer; the first
// ten JSON pointers are told, and no value.
func (a *Answer) Check(body []byte) error {
	if !a.Judged() {
		return nil
	}
	if withOutline(body, a.knows) {
		return nil
	}
	v, err := strictjson.Limits{Values: maxAnswerValues}.Decode(body)
	if err != nil {
		return withheld("/body: is not JSON with one reading")
	}
	var f findings
	for i, s := range a.either {
		var one findings
		one.judge(s, "/body", v)
		if len(one.fields) == 0 {
			return nil
		}
		if i == 0 {
			f = one
		}
	}
	var text []string
	for _, field := range f.fields {
		text = append(text, field.Pointer+": "+field.Detail)
	}
	return withheld(strings.Join(text, "; "))
}

// knows reports whether one of the schemas knows the answer.
func (a *Answer) knows(o *strictjson.Outline) bool {
	for _, s := range a.either {
		if s.known != nil && s.known.knowsOutline(o) {
			return true
		}
	}
	return false
}

// withheldReason is for the log: which places of an answer are not as declared.
type withheldReason string

func (w withheldReason) Error() string { return string(w) }

// withheld makes the error of an answer that must not leave. Nothing of it is
// the caller's business.
func withheld(reason string) error {
	return problem.With(&rampart.Error{
		Kind: rampart.Unavailable, Control: "validate.response", Msg: "the answer was withheld: it is not what the service declares", Err: withheldReason(reason),
	}, problem.Details{Status: http.StatusBadGateway})
}

// placedAnswer is one media type object of an answer.
type placedAnswer struct {
	placed
	status, kind string
}

// answersOf lists the media types of all answers of an operation.
func (b *builder) answersOf(s source) (list []placedAnswer, statuses []string, err error) {
	all, _ := s.op["responses"].(map[string]any)
	for _, status := range sorted(all) {
		at := join(s.at+"/responses", status)
		if strings.HasPrefix(status, "x-") {
			continue
		}
		if !isStatus(status) {
			return nil, nil, b.doc.fail(at, `write a status as "200", "2XX" or default`)
		}
		m := b.deref(all[status])
		if m == nil {
			return nil, nil, b.doc.fail(at, "response must be an object, and a reference must lead to one")
		}
		statuses = append(statuses, status)
		at = b.place(all[status], at)
		content, _ := m["content"].(map[string]any)
		for _, name := range sorted(content) {
			v, _ := content[name].(map[string]any)
			kind, _, err := mime.ParseMediaType(name)
			if v == nil || err != nil || strings.Contains(kind, "*") {
				return nil, nil, b.doc.fail(join(at+"/content", name), "write one media type, without wildcards, and an object")
			}
			list = append(list, placedAnswer{placed{v, join(at+"/content", name)}, status, kind})
		}
	}
	return list, statuses, nil
}

func isStatus(s string) bool {
	if s == "default" {
		return true
	}
	if len(s) != 3 || s[0] < '1' || s[0] > '5' {
		return false
	}
	_, err := strconv.Atoi(s)
	return err == nil || s[1:] == "XX"
}

// entriesOut visits the schemas of all answers.
func (b *builder) entriesOut(list []source, fn visit) error {
	for _, s := range list {
		answers, _, err := b.answersOf(s)
		if err != nil {
			return err
		}
		for _, a := range answers {
			if err := fn(a.v["schema"], a.at+"/schema", true); err != nil {
				return err
			}
		}
	}
	return nil
}

// setAnswers compiles what an operation answers.
func (b *builder) setAnswers(op *Operation, s source, problems *Schema) error {
	list, statuses, err := b.answersOf(s)
	if err != nil {
		return err
	}
	op.answers = answers{byStatus: map[string]answer{}, problem: problems}
	for _, status := range statuses {
		op.answers.byStatus[status] = answer{}
	}
	for _, a := range list {
		judge := &Answer{}
		if _, ok := a.v["schema"]; ok && isJSONType(a.kind) {
			schema, err := b.compiler.schema(a.at + "/schema")
			if err != nil {
				return err
			}
			judge.either = []*Schema{schema}
		}
		op.answers.byStatus[a.status][a.kind] = judge
	}
	return nil
}
