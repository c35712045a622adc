package pdp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/rebac"
)

const (
	// now is the member of the context that holds the time, in whole seconds
	// since 1970. It is always the PDP's own, so that nobody can ask in another
	// hour.
	now = "now"
	// maxSource bounds what one provider may take, whatever it was told itself.
	maxSource = 10 * time.Second
	// settles is how often relations are asked for again when the graph moves
	// between two questions.
	settles = 3
)

// gather completes a domain question: the time, the attributes that providers
// supply, and the relations that policies read. What cannot be had is refused.
func (d *PDP) gather(ctx context.Context, q *Question) {
	r := *q.Request
	q.Request = &r
	r.Relations = nil
	r.Context = withTime(r.Context, d.opt.Now())
	if err := r.Validate(); err != nil {
		q.Refused = refuse(q.Layer, rampart.CodeError, "the request is out of bounds: "+err.Error())
		return
	}
	if q.Refused = d.attributes(ctx, &r); q.Refused != nil {
		return
	}
	if q.Refused = d.conform(&r); q.Refused != nil {
		return
	}
	if r.Principal, q.Refused = d.admit(&q.Principal, r.Action, r.Resource.Tenant); q.Refused == nil {
		d.relate(ctx, q)
	}
}

// withTime copies a context, which is the asker's, and says the time in it.
func withTime(about map[string]any, at time.Time) map[string]any {
	out := make(map[string]any, len(about)+1)
	maps.Copy(out, about)
	out[now] = at.Unix()
	return out
}

// attributes asks the providers of r's type.
func (d *PDP) attributes(ctx context.Context, r *authz.Request) *rampart.Decision {
	t := d.types[r.Resource.Type]
	if t == nil || len(t.sources) == 0 {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(t.sources)) {
		for _, attr := range t.sources[name] {
			if r.Resource.Attrs[attr] != nil {
				return refuse(rampart.LayerDomain, rampart.CodeError, fmt.Sprintf("the attribute %q of %q is the provider %q's to say, and whoever asked said it", attr, r.Resource.Type, name))
			}
		}
	}
	if r.Resource.ID == "" {
		return nil // a provider knows what exists; a required attribute is missing then
	}
	attrs := maps.Clone(r.Resource.Attrs)
	if attrs == nil {
		attrs = map[string]any{}
	}
	r.Resource.Attrs = attrs
	for _, name := range slices.Sorted(maps.Keys(t.sources)) {
		if refused := d.supply(ctx, name, t.sources[name], r); refused != nil {
			return refused
		}
	}
	if err := r.Validate(); err != nil {
		return refuse(rampart.LayerDomain, rampart.CodeError, "what a provider said is out of bounds: "+err.Error())
	}
	return nil
}

// supply asks one provider, once.
func (d *PDP) supply(ctx context.Context, name string, wanted []string, r *authz.Request) *rampart.Decision {
	p := d.opt.Providers[name]
	if p == nil {
		return refuse(rampart.LayerDomain, rampart.CodeSource, fmt.Sprintf("there is no provider %q of attributes", name))
	}
	ctx, cancel := context.WithTimeout(ctx, maxSource)
	defer cancel()
	got, err := p.Attributes(ctx, r.Resource.Type, r.Resource.ID, wanted)
	if err != nil {
		return refuse(rampart.LayerDomain, rampart.CodeSource, fmt.Sprintf("the provider %q of attributes: %v", name, err))
	}
	for _, attr := range wanted {
		if v := got[attr]; v != nil {
			r.Resource.Attrs[attr] = v
		}
	}
	return nil
}

// relate asks the graph for every relation that the policies for this action
// and type may read, and for the one that the type grants by. Without a graph
// they stay unknown; so they do for a resource without an id, which does not
// exist yet and to which nobody stands in any relation.
func (d *PDP) relate(ctx context.Context, q *Question) {
	r := q.Request
	grant := d.grant(r.Action, r.Resource.Type)
	names := d.relations(r.Action, r.Resource.Type, grant)
	if len(names) == 0 || d.opt.Graph == nil || r.Resource.ID == "" {
		return
	}
	if d.odd(q.Principal) {
		q.Refused = d.unrelated(errOddSubject)
		return
	}
	ask := d.asking(q, grant)
	ctx, cancel := context.WithTimeout(ctx, d.patience(r.AtLeast))
	defer cancel()
	for range settles {
		even, err := ask.all(ctx, names)
		if err != nil {
			q.Refused = d.unrelated(err)
			return
		}
		if even {
			r.Relations, q.Path, q.Revision.Relations = ask.facts, ask.path, ask.revision
			return
		}
	}
	q.Refused = refuse(q.Layer, rampart.CodeStale, "the relations changed each time they were asked for")
}

// patience leaves a graph that is behind the time to catch up, so that it, and
// not the clock, says that it did not.
func (d *PDP) patience(atLeast uint64) time.Duration {
	if atLeast == 0 {
		return d.opt.Timeout
	}
	return d.opt.Timeout + 2*rebac.MaxWait
}

// trace follows the relation that would have permitted, for a denial. On the
// way to an allow only what goes on record pays for that.
func (d *PDP) trace(ctx context.Context, q *Question) {
	if q.Request == nil || q.Path != nil || d.opt.Graph == nil {
		return
	}
	r := q.Request
	grant := d.grant(r.Action, r.Resource.Type)
	if _, asked := r.Relations[grant]; !asked {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, d.opt.Timeout)
	defer cancel()
	ask := d.asking(q, grant)
	ask.query.Relation = grant
	if got, err := d.opt.Graph.Related(ctx, ask.query, true); err == nil && got.Revision == q.Revision.Relations {
		q.Path = got.Path
	}
}

// errOddSubject is about a subject of a type that the model knows and of a name
// that no tuple can hold: "user:*" would be true of it, and cannot be asked.
var errOddSubject = errors.New("no tuple can name the subject")

func (d *PDP) odd(p rampart.Principal) bool {
	typ, _, _ := strings.Cut(p.Subject, ":")
	return rebac.SubjectOf(p) == "" && d.model != nil && d.model.Has(typ, "")
}

func (d *PDP) asking(q *Question, grant string) asking {
	r := q.Request
	who := d.subject(q.Principal)
	if !d.model.CanName(r.Resource.Type, r.Resource.ID) {
		who = ""
	}
	return asking{d: d, grant: grant, query: authz.RelationQuery{
		Subject: who, Type: r.Resource.Type, ID: r.Resource.ID,
		Context: r.Context, Also: rebac.FromToken(r.Principal, d.opt.FromToken), AtLeast: r.AtLeast,
	}}
}

// subject is how the graph names a principal; "" when no tuple can name it, so
// that it is related to nothing.
func (d *PDP) subject(p rampart.Principal) string {
	who := rebac.SubjectOf(p)
	if typ, id, _ := strings.Cut(who, ":"); !d.model.CanName(typ, id) {
		return ""
	}
	return who
}

// relations joins what the engines read with the relation that grants.
func (d *PDP) relations(action rampart.Action, typ, grant string) []string {
	var names []string
	if grant != "" {
		names = append(names, grant)
	}
	for i, e := range d.engines {
		read := e.Relations(action, typ)
		if i == 0 && names == nil {
			names = read // as it is: it is sorted, and nobody writes to it
			continue
		}
		for _, n := range read {
			if !slices.Contains(names, n) {
				names = append(slices.Clip(names), n)
			}
		}
	}
	return names
}

// asking is one round of questions to the graph.
type asking struct {
	d        *PDP
	grant    string
	query    authz.RelationQuery
	facts    map[string]bool
	path     []string
	revision uint64
}

// all asks for every name. It reports whether one revision answered them all.
func (a *asking) all(ctx context.Context, names []string) (even bool, err error) {
	a.facts, a.path, even = make(map[string]bool, len(names)), nil, true
	for i, name := range names {
		if a.query.Subject == "" {
			a.facts[name] = false // no tuple can name the subject, or the object
			continue
		}
		q := a.query
		q.Relation = name
		got, err := a.d.opt.Graph.Related(ctx, q, name == a.grant && a.d.opt.Observe != nil)
		if err != nil {
			return false, fmt.Errorf("relation %q of %s: %w", name, q.Type, err)
		}
		even = even && (i == 0 || got.Revision == a.revision)
		if a.revision = got.Revision; i > 0 && !even {
			return false, nil
		}
		a.facts[name] = got.Holds
		if name == a.grant {
			a.path = got.Path
		}
	}
	return even, nil
}

// unrelated words that the graph did not answer.
func (d *PDP) unrelated(err error) *rampart.Decision {
	code := rampart.CodeSource
	switch {
	case errors.Is(err, authz.ErrStale):
		code = rampart.CodeStale
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		code = rampart.CodeTimeout
	}
	return refuse(rampart.LayerDomain, code, err.Error())
}
