package pdp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/cedar"
	"github.com/rampart-security/rampart/authz/filter"
	"github.com/rampart-security/rampart/authz/rebac"
	"github.com/rampart-security/rampart/authz/rego"
)

// maxHouses bounds the organizations in which one principal has roles of its
// own, for one list: each needs conditions of its own.
const maxHouses = 64

// tenant is the attribute that says to which organization a row belongs.
const tenant = "tenant"

var errNoGraph = errors.New("there is no graph of relations")

// Filter answers for many objects at once: which rows of r.Resource.Type may
// the principal do r.Action to? A row is kept exactly when DecideObject, asked
// about it by somebody who can carry out every obligation, allows. The id and
// the attributes of r.Resource are unknown and ignored; its Tenant, unless "",
// is that of all rows asked for.
//
// A permit that asks for an obligation beyond r.Supported drops its rows, as a
// check denies them. What the others ask for is asked for the whole list: the
// decision has the obligations of every permit by which a row may be in it, and
// of Fields what they all show, which for one row is never more than a check
// shows.
//
// A policy that cannot be said as a filter denies with CodeUntranslatable, and
// whatever denies comes with a filter that keeps nothing. The decision is not
// put on record.
func (d *PDP) Filter(ctx context.Context, r authz.Request) (filter.Filter, rampart.Decision) {
	if d == nil {
		return filter.None(), told(deny(rampart.LayerDomain, rampart.CodeError, "there is no policy decision point"))
	}
	l := list{d: d, r: r, revision: rampart.Revision{Policy: d.opt.Policy}}
	f, denied := l.make(ctx)
	if denied == nil {
		out := allow(rampart.LayerDomain)
		out.Revision, out.Obligations, out.Fields = l.revision, obligations(l.rulings), fields(l.rulings)
		return f, out
	}
	denied.Revision = l.revision
	return filter.None(), told(*denied)
}

// list makes one filter.
type list struct {
	d        *PDP
	r        authz.Request
	revision rampart.Revision
	rulings  []authz.Ruling // by which a row may be in the list, of those that ask for something
}

func (l *list) make(ctx context.Context) (filter.Filter, *rampart.Decision) {
	if denied := l.refusal(ctx); denied != nil {
		return filter.None(), denied
	}
	ctx, cancel := context.WithTimeout(ctx, l.d.patience(l.r.AtLeast))
	defer cancel()
	residuals, denied, err := l.residuals(ctx)
	if denied != nil {
		return filter.None(), denied
	}
	f := filter.None()
	if err == nil {
		f, err = l.complete(ctx, residuals)
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return filter.None(), unlisted(err)
	}
	return f, nil
}

// refusal denies what no policy needs to look at, and fixes what is asked.
func (l *list) refusal(ctx context.Context) *rampart.Decision {
	d, p := l.d, &l.r.Principal
	if denied := d.refusal(ctx, rampart.LayerDomain); denied != nil {
		return denied
	}
	if p.IsZero() {
		return refuse(rampart.LayerDomain, rampart.CodeNoPermit, "nobody is authenticated")
	}
	l.r.Layer, l.r.Relations = rampart.LayerDomain, nil
	l.r.Resource = rampart.Resource{Type: l.r.Resource.Type, Tenant: l.r.Resource.Tenant}
	l.r.Context = withTime(l.r.Context, d.opt.Now())
	if err := l.r.Validate(); err != nil {
		return refuse(rampart.LayerDomain, rampart.CodeError, "the request is out of bounds: "+err.Error())
	}
	typ, house := l.r.Resource.Type, l.r.Resource.Tenant
	switch {
	case d.types != nil && d.types[typ] == nil:
		return refuse(rampart.LayerDomain, rampart.CodeError, fmt.Sprintf("the type %q is not declared under authz.types of rampart.yaml", typ))
	case house != "" && !slices.Contains(p.Organizations, house):
		denied := d.stranger(p, house, "")
		return &denied
	case len(d.engines) == 0 && d.grant(l.r.Action, typ) == "":
		return refuse(rampart.LayerDomain, rampart.CodeNoPermit, "the service has no policy: name a .cedar or .rego file under `policy` of the service in rampart.yaml")
	}
	return nil
}

// part is the rows for which one set of roles counts.
type part struct {
	tenant string      // one whose roles count; "" is none
	rows   filter.Expr // total
}

// parts splits the rows by organization, as far as the principal has roles that
// count in one only. Rows of foreign organizations are in no part.
func (l *list) parts() ([]part, error) {
	p := &l.r.Principal
	if house := l.r.Resource.Tenant; house != "" {
		return []part{{house, l.within(house)}}, nil
	}
	none := filter.Not{X: filter.Has{Attr: tenant}}
	var own, rest []string
	for _, org := range p.Organizations {
		if slices.ContainsFunc(p.Roles, func(held string) bool { return strings.HasSuffix(held, "@"+org) }) {
			own = append(own, org)
			continue
		}
		rest = append(rest, org)
	}
	if !scoped(p.Roles) {
		return []part{{"", filter.Or{L: none, R: in(rest)}}}, nil
	}
	if len(own) > maxHouses {
		return nil, &filter.Untranslatable{Policy: rampart.PolicyRef{Engine: "rbac", ID: "roles"}, What: fmt.Sprintf("%s has roles of its own in more than %d organizations; name one", p.Subject, maxHouses)}
	}
	out := []part{{"", none}}
	if len(rest) > 0 {
		out = append(out, part{rest[0], in(rest)})
	}
	for _, org := range own {
		out = append(out, part{org, in([]string{org})})
	}
	return out, nil
}

// scoped reports whether a role is for one organization only.
func scoped(roles []string) bool {
	return slices.ContainsFunc(roles, func(held string) bool { return strings.Contains(held, "@") })
}

// within is the rows of one organization. Whoever lists by it has the column:
// one that is not there fails in the database, it never shows a stranger's rows.
func (l *list) within(house string) filter.Expr { return in([]string{house}) }

func in(orgs []string) filter.Expr {
	list := make([]any, len(orgs))
	for i, o := range orgs {
		list[i] = o
	}
	return filter.Total{X: filter.In{X: filter.Attr{Name: tenant}, List: filter.Lit{Value: list}}}
}

// residuals is what the policies leave of every part, each within its rows. It
// denies when no part is left.
func (l *list) residuals(ctx context.Context) ([]filter.Residual, *rampart.Decision, error) {
	parts, err := l.parts()
	if err != nil {
		return nil, nil, err
	}
	var out []filter.Residual
	var denied *rampart.Decision
	left := 0
	for _, p := range parts {
		in, no := l.d.admit(&l.r.Principal, l.r.Action, p.tenant)
		if no != nil {
			denied = no
			continue
		}
		left++
		r := l.r
		r.Principal = in
		found, err := l.d.residual(ctx, r)
		if err != nil {
			return nil, nil, err
		}
		for _, f := range found {
			out = append(out, guard(f, p.rows))
		}
	}
	if left > 0 {
		denied = nil
	}
	return out, denied, nil
}

// guard limits what policies say to some rows.
func guard(r filter.Residual, rows filter.Expr) filter.Residual {
	limit := func(list []filter.Expr) []filter.Expr {
		out := make([]filter.Expr, len(list))
		for i, e := range list {
			out[i] = filter.And{L: rows, R: e}
		}
		return out
	}
	return filter.Residual{Permits: limit(r.Permits), Forbids: limit(r.Forbids), Rulings: r.Rulings}
}

// residual asks every engine, and adds the relation that the type grants by.
func (d *PDP) residual(ctx context.Context, r authz.Request) ([]filter.Residual, error) {
	out := d.granted(r.Action, r.Resource.Type)
	for _, e := range d.engines {
		s, ok := e.(filter.Source)
		if !ok {
			return nil, &filter.Untranslatable{What: "the language of a policy knows no lists"}
		}
		found, err := s.Residual(ctx, r)
		if err != nil {
			return nil, err
		}
		out = append(out, found)
	}
	return out, nil
}

func (d *PDP) granted(action rampart.Action, typ string) []filter.Residual {
	grant := d.grant(action, typ)
	if grant == "" {
		return nil
	}
	return []filter.Residual{{Permits: []filter.Expr{filter.Rel{Name: grant}}}}
}

// complete demands what a check demands of every object, has relations looked
// up and holds the filter against the columns.
func (l *list) complete(ctx context.Context, residuals []filter.Residual) (filter.Filter, error) {
	t := l.d.types[l.r.Resource.Type]
	asking := l.demands(residuals)
	f := filter.Combine(residuals...).And(l.d.whole(t)...)
	f, err := l.resolve(ctx, f, asking)
	if err != nil || t == nil {
		return f, err
	}
	if err := f.Validate(filter.TableOf(t.Type)); err != nil {
		return f, &filter.Untranslatable{Policy: rampart.PolicyRef{Engine: "schema", ID: l.r.Resource.Type}, What: err.Error()}
	}
	return f, nil
}

// demand is a permit that asks for something besides, and the rows that it
// permits.
type demand struct {
	rows   filter.Filter
	ruling authz.Ruling
}

// demands lists the permits that ask for something. One that asks for what the
// asker cannot carry out becomes a forbid.
func (l *list) demands(residuals []filter.Residual) []demand {
	var out []demand
	for i := range residuals {
		r := &residuals[i]
		for n, ruling := range r.Rulings {
			permit := r.Permits[n]
			switch {
			case slices.ContainsFunc(ruling.Obligations, l.unsupported):
				r.Forbids = append(slices.Clip(r.Forbids), filter.Total{X: permit})
			case len(ruling.Obligations) > 0 || ruling.Fields != nil:
				out = append(out, demand{filter.Where(permit), ruling})
			}
		}
	}
	return out
}

func (l *list) unsupported(o rampart.Obligation) bool { return !slices.Contains(l.r.Supported, o.Type) }

// whole is the rows that have every required attribute: a check denies the
// others. What a provider supplies is in no row.
func (d *PDP) whole(t *declared) []filter.Filter {
	if t == nil {
		return nil
	}
	var out []filter.Filter
	for _, name := range t.required {
		if t.Attrs[name].Provider == "" {
			out = append(out, filter.Where(filter.Has{Attr: name}))
		}
	}
	return out
}

// resolve replaces relations by the objects to which the principal has them,
// all of one revision, and keeps of demands those that a row may meet.
func (l *list) resolve(ctx context.Context, f filter.Filter, demands []demand) (filter.Filter, error) {
	for range settles {
		a := answers{l: l, known: map[string][]string{}, even: true}
		got, err := a.resolve(ctx, f, demands)
		if err != nil {
			return filter.None(), err
		}
		if a.even {
			l.revision.Relations, l.rulings = a.revision, a.met
			return got, nil
		}
	}
	return filter.None(), fmt.Errorf("the relations changed each time they were asked for: %w", authz.ErrStale)
}

// answers are those of the graph in one round; each relation is asked for once.
type answers struct {
	l        *list
	known    map[string][]string
	revision uint64
	even     bool // one revision answered them all
	met      []authz.Ruling
}

func (a *answers) resolve(ctx context.Context, f filter.Filter, demands []demand) (filter.Filter, error) {
	ask := func(name string) ([]string, error) { return a.objects(ctx, name) }
	f, err := f.Resolve(ctx, ask)
	if err != nil || f.IsNone() {
		return f, err
	}
	for _, d := range demands {
		rows, err := d.rows.Resolve(ctx, ask)
		if err != nil {
			return filter.None(), err
		}
		if !f.And(rows).IsNone() {
			a.met = append(a.met, d.ruling)
		}
	}
	return f, nil
}

func (a *answers) objects(ctx context.Context, name string) ([]string, error) {
	if ids, ok := a.known[name]; ok {
		return ids, nil
	}
	ids, at, err := a.l.objects(ctx, name)
	a.even = a.even && (len(a.known) == 0 || at == a.revision)
	a.revision, a.known[name] = at, ids
	return ids, err
}

func (l *list) objects(ctx context.Context, relation string) ([]string, uint64, error) {
	p := l.r.Principal
	who := l.d.subject(p)
	switch {
	case l.d.opt.Graph == nil:
		return nil, 0, sourceError{errNoGraph}
	case l.d.odd(p):
		return nil, 0, sourceError{errOddSubject}
	case who == "":
		return nil, 0, nil // related to nothing
	}
	if l.r.Resource.Tenant == "" && scoped(p.Roles) && slices.Contains(slices.Collect(maps.Values(l.d.opt.FromToken)), "roles") {
		return nil, 0, &filter.Untranslatable{Policy: rampart.PolicyRef{Engine: "rebac", ID: relation}, What: "roles for one organization are relations here; name the organization"}
	}
	p.Roles = l.d.roles.Narrow(p, l.r.Resource.Tenant)
	ids, at, err := l.d.opt.Graph.Objects(ctx, authz.RelationQuery{
		Subject: who, Relation: relation, Type: l.r.Resource.Type, Context: l.r.Context,
		Also: rebac.FromToken(p, l.d.opt.FromToken), AtLeast: l.r.AtLeast,
	})
	if err != nil {
		err = sourceError{err}
	}
	return ids, at, err
}

// sourceError is an error of the graph, as opposed to one of a policy.
type sourceError struct{ error }

func (e sourceError) Unwrap() error { return e.error }

// unlisted words why there is no list.
func unlisted(err error) *rampart.Decision {
	code := rampart.CodeError
	u, untranslatable := errors.AsType[*filter.Untranslatable](err)
	_, source := errors.AsType[sourceError](err)
	switch {
	case errors.Is(err, authz.ErrStale):
		code = rampart.CodeStale
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		code = rampart.CodeTimeout
	case untranslatable:
		ref := u.Policy
		ref.Effect = rampart.Deny
		return refuse(rampart.LayerDomain, rampart.CodeUntranslatable, err.Error(), ref)
	case source:
		code = rampart.CodeSource
	}
	return refuse(rampart.LayerDomain, code, err.Error())
}

var (
	_ rowSecurity   = (*cedar.Engine)(nil)
	_ rowSecurity   = (*rego.Engine)(nil)
	_ filter.Source = (*cedar.Engine)(nil)
	_ filter.Source = (*rego.Engine)(nil)
)

// rowSecurity is an engine that can say its policies without knowing who asks.
type rowSecurity interface {
	ResidualRLS(ctx context.Context, action rampart.Action, resourceType string) (filter.Residual, error)
}

// RLS says what policies allow of the rows of a type as row-level security: the
// principal is unknown, and what policies read of it becomes filter.Subject. It
// is a second line behind Filter: roles count as the session is told, so that
// who sets them leaves out those for one organization, and permissions, scope
// and separation of duty have been judged before. A database masks nothing and
// carries out no obligation, so that fields and obligations of permits are left
// to Filter. An error that is a
// filter.Untranslatable names the policy that a database cannot decide.
//
// The relations that the filter reads come with it, as filter.RLS wants them.
// They are those of the service's own tuples and of the subject's token.
func (d *PDP) RLS(ctx context.Context, action rampart.Action, resourceType string) (filter.Filter, []filter.Relation, error) {
	f, err := d.rls(ctx, action, resourceType)
	if err != nil {
		return filter.None(), nil, fmt.Errorf("pdp: %w", err)
	}
	read, err := d.inTuples(resourceType, f.Relations())
	if err != nil {
		return filter.None(), nil, fmt.Errorf("pdp: %w", err)
	}
	return f, read, nil
}

// inTuples says relations to objects of a type by tuples.
func (d *PDP) inTuples(typ string, names []string) ([]filter.Relation, error) {
	var out []filter.Relation
	for _, name := range names {
		if d.model == nil {
			return nil, &filter.Untranslatable{Policy: d.relationRef(typ, name), What: "there is no model of relations"}
		}
		r, err := d.model.Direct(typ, name, d.opt.FromToken)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

func (d *PDP) rls(ctx context.Context, action rampart.Action, typ string) (filter.Filter, error) {
	switch {
	case d == nil:
		return filter.None(), errors.New("there is no policy decision point")
	case d.types != nil && d.types[typ] == nil:
		return filter.None(), fmt.Errorf("the type %q is not declared under authz.types of rampart.yaml", typ)
	}
	found := d.granted(action, typ)
	for _, e := range d.engines {
		s, ok := e.(rowSecurity)
		if !ok {
			return filter.None(), &filter.Untranslatable{What: "the language of a policy knows no row-level security"}
		}
		r, err := s.ResidualRLS(ctx, action, typ)
		if err != nil {
			return filter.None(), err
		}
		found = append(found, r)
	}
	member := filter.Or{
		L: filter.Not{X: filter.Has{Attr: tenant}},
		R: filter.In{X: filter.Attr{Name: tenant}, List: filter.Subject{Name: "organizations"}},
	}
	return filter.Combine(found...).And(filter.Where(member)).And(d.whole(d.types[typ])...), nil
}
