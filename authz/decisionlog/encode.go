package decisionlog

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/pdp"
	"github.com/rampart-security/rampart/internal/jsonline"
)

// text appends JSON: what encoding/json writes for the same value, without
// reflection, since every request leaves three records. The zero value is ready for
// use.
type text struct {
	buf   []byte
	keys  []string       // of the maps that are being written, sorted, one above the other
	stamp jsonline.Stamp // of questions, which come one after the other
	err   error          // the first
}

// name begins a member; first says whether it is the object's first.
func (t *text) name(first *bool, quoted string) {
	if !*first {
		t.buf = append(t.buf, ',')
	}
	*first = false
	t.buf = append(t.buf, quoted...)
}

func (t *text) string(s string) { t.buf = jsonline.String(t.buf, s) }

// any appends what has no form of its own here.
func (t *text) any(v any) {
	b, err := json.Marshal(v)
	t.fail(err)
	t.buf = append(t.buf, b...)
}

func (t *text) fail(err error) {
	if t.err == nil {
		t.err = err
	}
}

func (t *text) time(at time.Time) {
	b, err := jsonline.Time(t.buf, at)
	t.fail(err)
	t.buf = b
}

func (t *text) number(n uint64) { t.buf = strconv.AppendUint(t.buf, n, 10) }

func (t *text) bool(b bool) { t.buf = strconv.AppendBool(t.buf, b) }

func (t *text) strings(list []string) {
	if list == nil {
		t.buf = append(t.buf, "null"...)
		return
	}
	first := true
	t.buf = append(t.buf, '[')
	for _, s := range list {
		t.name(&first, "")
		t.string(s)
	}
	t.buf = append(t.buf, ']')
}

// Members that are left out when they are zero.

func (t *text) someString(first *bool, name, s string) {
	if s != "" {
		t.name(first, name)
		t.string(s)
	}
}

func (t *text) someStrings(first *bool, name string, list []string) {
	if list != nil {
		t.name(first, name)
		t.strings(list)
	}
}

func (t *text) someNumber(first *bool, name string, n uint64) {
	if n != 0 {
		t.name(first, name)
		t.number(n)
	}
}

// members appends a map in the order of its names; keep picks some, value
// appends one.
func members[V any](t *text, m map[string]V, keep func(string) bool, value func(V)) {
	base := len(t.keys)
	for name := range m {
		if keep == nil || keep(name) {
			t.keys = append(t.keys, name)
		}
	}
	end := len(t.keys)
	slices.Sort(t.keys[base:])
	first := true
	t.buf = append(t.buf, '{')
	for i := base; i < end; i++ {
		t.name(&first, "")
		t.string(t.keys[i])
		t.buf = append(t.buf, ':')
		value(m[t.keys[i]])
	}
	t.buf = append(t.buf, '}')
	clear(t.keys[base:end])
	t.keys = t.keys[:base]
}

// value appends a JSON-like value with numbers in exact form: a float is read as
// one, 3.0, not 3, which is an integer to policies.
func (t *text) value(v any) {
	switch v := v.(type) {
	case nil:
		t.buf = append(t.buf, "null"...)
	case string:
		t.string(v)
	case bool:
		t.bool(v)
	case int64:
		t.buf = strconv.AppendInt(t.buf, v, 10)
	case float64:
		t.float(v)
	case map[string]any:
		members(t, v, nil, t.value)
	case []any:
		first := true
		t.buf = append(t.buf, '[')
		for _, e := range v {
			t.name(&first, "")
			t.value(e)
		}
		t.buf = append(t.buf, ']')
	default:
		t.any(v)
	}
}

func (t *text) float(v float64) {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		t.buf = append(t.buf, "null"...) // no policy was asked about it
		return
	}
	start := len(t.buf)
	t.buf = strconv.AppendFloat(t.buf, v, 'g', -1, 64)
	for _, c := range t.buf[start:] {
		if c == '.' || c == 'e' {
			return
		}
	}
	t.buf = append(t.buf, ".0"...)
}

func (t *text) question(q *pdp.Question, open func(member, name string) bool) {
	t.buf = append(t.buf, `{"id":`...)
	t.string(q.ID)
	at, err := t.stamp.Time(append(t.buf, `,"at":`...), q.At)
	t.buf = at
	t.fail(err)
	t.buf = append(t.buf, `,"layer":`...)
	t.string(string(q.Layer))
	t.buf = append(t.buf, `,"principal":`...)
	t.principal(&q.Principal)
	first := false
	t.someString(&first, `"tenant":`, q.Tenant)
	if r := &q.Route; r.Permission != "" || r.Allow != nil || r.Require != "" || r.Flow != "" {
		t.name(&first, `"route":`)
		t.route(r)
	}
	if q.Request != nil {
		t.name(&first, `"request":`)
		t.request(q.Request, open)
	}
	if q.Refused != nil {
		t.name(&first, `"refused":`)
		t.decision(q.Refused)
	}
	t.someStrings(&first, `"path":`, q.Path)
	t.revision(&first, q.Revision)
	t.buf = append(t.buf, '}')
}

func (t *text) principal(p *rampart.Principal) {
	first := true
	t.buf = append(t.buf, '{')
	t.someString(&first, `"kind":`, string(p.Kind))
	t.someString(&first, `"sub":`, p.Subject)
	t.someString(&first, `"tenant":`, p.Tenant)
	t.someStrings(&first, `"organizations":`, p.Organizations)
	t.someStrings(&first, `"roles":`, p.Roles)
	t.someString(&first, `"team":`, p.Team)
	t.someStrings(&first, `"managed_teams":`, p.ManagedTeams)
	t.someString(&first, `"client":`, p.Client)
	t.someString(&first, `"sid":`, p.Session)
	if !p.AuthTime.IsZero() {
		t.name(&first, `"auth_time":`)
		t.time(p.AuthTime)
	}
	t.someString(&first, `"acr":`, p.ACR)
	t.someStrings(&first, `"amr":`, p.AMR)
	t.someStrings(&first, `"scope":`, p.Scope)
	t.someStrings(&first, `"actors":`, p.Actors)
	t.buf = append(t.buf, '}')
}

func (t *text) route(r *pdp.Route) {
	first := false
	t.buf = append(t.buf, `{"Permission":`...)
	t.string(r.Permission)
	t.buf = append(t.buf, `,"Allow":`...)
	t.strings(r.Allow)
	t.buf = append(t.buf, `,"Require":`...)
	t.string(r.Require)
	t.someString(&first, `"Flow":`, r.Flow)
	t.buf = append(t.buf, '}')
}

// request appends r without the values that are not open.
func (t *text) request(r *authz.Request, open func(member, name string) bool) {
	t.buf = append(t.buf, `{"layer":`...)
	t.string(string(r.Layer))
	t.buf = append(t.buf, `,"principal":`...)
	t.principal(&r.Principal)
	t.buf = append(t.buf, `,"action":`...)
	t.string(string(r.Action))
	t.buf = append(t.buf, `,"resource":{"type":`...)
	t.string(r.Resource.Type)
	first := false
	t.someString(&first, `"id":`, r.Resource.ID)
	t.someString(&first, `"tenant":`, r.Resource.Tenant)
	if r.Resource.Attrs != nil {
		t.name(&first, `"attrs":`)
		members(t, r.Resource.Attrs, func(name string) bool { return open(inAttrs, name) }, t.value)
	}
	t.buf = append(t.buf, '}')
	if r.Context != nil {
		t.name(&first, `"context":`)
		members(t, r.Context, func(name string) bool { return open(inContext, name) }, t.value)
	}
	if r.Relations != nil {
		t.name(&first, `"relations":`)
		members(t, r.Relations, nil, t.bool)
	}
	t.someNumber(&first, `"at_least":`, r.AtLeast)
	t.someStrings(&first, `"supported":`, r.Supported)
	t.buf = append(t.buf, '}')
}

func (t *text) decision(d *rampart.Decision) {
	first := true
	t.buf = append(t.buf, '{')
	t.someString(&first, `"id":`, d.ID)
	t.name(&first, `"effect":`)
	t.string(d.Effect.String())
	t.someString(&first, `"layer":`, string(d.Layer))
	t.someString(&first, `"code":`, string(d.Code))
	if d.Policies != nil {
		t.name(&first, `"policies":`)
		t.buf = jsonline.Policies(t.buf, d.Policies)
	}
	if d.Obligations != nil {
		t.name(&first, `"obligations":`)
		t.any(d.Obligations)
	}
	if d.Fields != nil {
		t.name(&first, `"fields":`)
		t.any(d.Fields)
	}
	t.revision(&first, d.Revision)
	t.someString(&first, `"reason_user":`, d.ReasonUser)
	t.someString(&first, `"reason":`, d.Reason)
	if d.Missing != nil {
		t.name(&first, `"missing":`)
		t.any(d.Missing)
	}
	t.someStrings(&first, `"path":`, d.Path)
	t.buf = append(t.buf, '}')
}

func (t *text) revision(first *bool, r rampart.Revision) {
	if r == (rampart.Revision{}) {
		return
	}
	t.name(first, `"revision":`)
	begin := true
	t.buf = append(t.buf, '{')
	t.someNumber(&begin, `"policy":`, r.Policy)
	t.someNumber(&begin, `"relations":`, r.Relations)
	t.buf = append(t.buf, '}')
}

func (t *text) bytes(b []byte) {
	t.buf = append(t.buf, '"')
	t.buf = base64.StdEncoding.AppendEncode(t.buf, b)
	t.buf = append(t.buf, '"')
}
