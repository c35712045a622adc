package authzen

import (
	"net/http"
	"slices"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
)

// answer is the response to one evaluation (section 6.2).
type answer struct {
	Decision bool           `json:"decision"`
	Context  map[string]any `json:"context,omitempty"`
}

func (s *Server) evaluation(c call, q *question) (any, error) {
	if err := s.opt.Spend(c.ctx, 1); err != nil {
		return nil, err
	}
	return s.evaluate(c, q.member)
}

// evaluate answers one question. A subject that nobody knows is asked for like
// any other and denied, in the same words and on the same record: callers must
// not learn who exists.
func (s *Server) evaluate(c call, m member) (answer, error) {
	err := need(
		required{"subject.type", m.Subject.kind()}, required{"subject.id", m.Subject.id()}, required{"action.name", m.Action.name()},
		required{"resource.type", m.Resource.kind()}, required{"resource.id", m.Resource.id()})
	if err != nil {
		return answer{}, err
	}
	if err := allowed(c.rights.Evaluate, *m.Resource.Type, "ask about"); err != nil {
		return answer{}, err
	}
	r, err := s.request(c, m)
	if err != nil {
		return answer{}, err
	}
	return s.said(c, s.opt.Decide(c.ctx, r)), nil
}

// allowed refuses a type that the caller has no right to.
func allowed(types []string, kind, verb string) error {
	if slices.Contains(types, kind) {
		return nil
	}
	return rampart.Errorf(rampart.Denied, "authz.domain", "this caller may not %s resources of type %q", verb, clip(kind))
}

// request is the question in the decision point's terms. An unknown subject is
// the zero principal.
func (s *Server) request(c call, m member) (authz.Request, error) {
	p, err := s.opt.Subject(c.ctx, *m.Subject.Type, *m.Subject.ID)
	switch {
	case err != nil && rampart.KindOf(err) != rampart.NotFound:
		return authz.Request{}, err
	case err != nil:
		p = rampart.Principal{} // nobody, whom every decision point denies
	}
	r := authz.Request{Layer: rampart.LayerDomain, Principal: p, Context: map[string]any{}}
	if r.Resource, err = resource(m.Resource); err != nil {
		return r, err
	}
	for name, v := range m.Context {
		if name != "supported_obligations" {
			r.Context[name] = v
		}
	}
	if r.Supported, err = texts(m.Context["supported_obligations"]); err != nil {
		return r, err
	}
	if m.Action != nil {
		r.Action = s.actionOf(r.Resource.Type, *m.Action.Name)
	}
	return r, nil
}

// resource reads a resource; its organization is the property "tenant".
func resource(e *entity) (rampart.Resource, error) {
	res := rampart.Resource{Type: *e.Type, Attrs: map[string]any{}}
	if e.ID != nil {
		res.ID = *e.ID
	}
	for name, v := range e.Properties {
		if name != "tenant" {
			res.Attrs[name] = v
			continue
		}
		tenant, ok := v.(string)
		if !ok {
			return res, rampart.Errorf(rampart.Invalid, "", "resource.properties.tenant is a string")
		}
		res.Tenant = tenant
	}
	return res, nil
}

func texts(v any) ([]string, error) {
	if v == nil {
		return nil, nil
	}
	list, ok := v.([]any)
	if !ok || len(list) > 100 {
		return nil, rampart.Errorf(rampart.Invalid, "", "context.supported_obligations is a list of at most 100 names")
	}
	var out []string
	for _, e := range list {
		name, ok := e.(string)
		if !ok {
			return nil, rampart.Errorf(rampart.Invalid, "", "context.supported_obligations is a list of names")
		}
		out = append(out, name)
	}
	return out, nil
}

// actionOf takes "orders:read", and "read" where the type has one action of
// that verb.
func (s *Server) actionOf(kind, name string) rampart.Action {
	var found []rampart.Action
	for _, a := range s.actions(kind) {
		if authz.Verb(a) == name {
			found = append(found, a)
		}
	}
	if len(found) == 1 {
		return found[0]
	}
	return rampart.Action(name)
}

func (s *Server) actions(kind string) []rampart.Action {
	schema := s.opt.Schema()
	if schema == nil {
		return nil
	}
	return schema.Types[kind].Actions
}

// said renders a decision. Reasons are objects by language, as in the
// standard's examples.
func (s *Server) said(c call, d rampart.Decision) answer {
	about := map[string]any{}
	if d.ID != "" {
		about["id"] = d.ID
	}
	if len(d.Obligations) > 0 {
		about["obligations"] = d.Obligations
	}
	if d.Fields != nil {
		about["fields"] = d.Fields
	}
	if !d.Allowed() {
		about["code"] = d.Code
		about["reason_user"] = map[string]string{"en": d.ReasonUser}
	}
	if c.rights.Reasons && d.Reason != "" {
		about["reason_admin"] = map[string]string{"en": d.Reason}
	}
	return answer{Decision: d.Allowed(), Context: about}
}

// The ways to go through a batch (section 7.1.2).
const (
	executeAll  = "execute_all"
	firstDeny   = "deny_on_first_deny"
	firstPermit = "permit_on_first_permit"
)

// evaluations is section 7. Without items it is a single evaluation. An item
// that fails is denied and says why; the others stand (section 7.2.1).
func (s *Server) evaluations(c call, q *question) (any, error) {
	if len(q.Evaluations) == 0 {
		return s.evaluation(c, q)
	}
	if !c.rights.Batch {
		return nil, rampart.Errorf(rampart.Denied, "authz.domain", "this caller may not ask many questions at once")
	}
	semantic := q.Options.Semantic
	if semantic == "" {
		semantic = executeAll
	}
	if !slices.Contains([]string{executeAll, firstDeny, firstPermit}, semantic) {
		return nil, rampart.Errorf(rampart.Invalid, "", "options.evaluations_semantic is %s, %s or %s", executeAll, firstDeny, firstPermit)
	}
	if err := bounded(q); err != nil {
		return nil, err
	}
	if err := s.opt.Spend(c.ctx, len(q.Evaluations)); err != nil {
		return nil, err
	}
	answers := []answer{}
	for _, item := range q.Evaluations {
		if err := c.alive(); err != nil {
			return nil, err
		}
		a, err := s.evaluate(c, item.or(q.member))
		if err != nil {
			a = answer{Context: map[string]any{"error": map[string]any{"status": statusOf(err), "message": message(err)}}}
		}
		answers = append(answers, a)
		if semantic == firstDeny && !a.Decision || semantic == firstPermit && a.Decision {
			break
		}
	}
	return map[string]any{"evaluations": answers}, nil
}

// message is what of an error may leave the house.
func message(err error) string {
	if msg := textOf(err); msg != "" {
		return msg
	}
	return http.StatusText(statusOf(err))
}
