package rego

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"

	"github.com/rampart-security/rampart"
)

// MaxPackages bounds the packages of one Engine that decide; New enforces it.
const MaxPackages = 64

// Rules that decide, and companions that New adds beside them. OPA answers
// with a value, not with the rule that gave it; a companion has the body of a
// rule and yields its number instead.
const (
	allowRule   = "allow"
	denyRule    = "deny"
	companion   = "rampart_" // prefix; policies may not use it
	allowed     = companion + "allowed"
	denied      = companion + "denied"  // of a set or an object with what it holds, for operators
	unknown     = companion + "unknown" // numbers of rules that read an absent member
	sameRule    = companion + "same"    // a function
	localValue  = companion + "value"
	answersEach = 4
)

// Rules that say what a decision of their package calls for.
const (
	obligationsRule = "obligations"
	maskRule        = "mask"
	fieldsRule      = "fields"
)

// duties in the order in which they are asked.
func duties() []string { return []string{obligationsRule, maskRule, fieldsRule} }

// decides reports whether a decision can rest on r.
func decides(r *ast.Rule) bool {
	name, _ := r.Head.Ref()[0].Value.(ast.Var)
	return name == allowRule || name == denyRule || slices.Contains(duties(), string(name))
}

// decider is one package that decides.
type decider struct {
	path       ast.Ref
	reads      map[*ast.Rule][]read
	lacks      map[*ast.Rule][]lack
	refs       []rampart.PolicyRef // by rule number
	decide     []bool              // by rule number: allow or deny, not a duty
	rules      map[string][]*ast.Rule
	numbers    map[*ast.Rule]int
	duties     map[string]bool // that have a rule
	badDuty    error           // matters only if the package decides
	plainAllow bool            // companions say all about `allow`
	plainDeny  bool
	permits    int                    // allow rules
	added      map[string]bool        // companion sets that have a rule
	trace      rego.PreparedEvalQuery // `allow` alone, for Explain
	forFilters func() (*ast.Compiler, error)
	doubtful   map[int]string // by rule number: why no filter can say it
}

func (d *decider) name() string { return strings.TrimPrefix(d.path.String(), "data.") }

func (d *decider) rule(name string) ast.Ref { return d.path.Append(ast.StringTerm(name)) }

// instrument finds the packages that decide and adds their companions. reads
// says what rules read of the relation graph, lacks what else may be absent.
func instrument(modules map[string]*ast.Module, reads map[*ast.Rule][]read, lacks map[*ast.Rule][]lack) ([]*decider, error) {
	byPath := map[string]*decider{}
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		m := modules[name]
		path := m.Package.Path.String()
		d := byPath[path]
		if d == nil {
			d = &decider{
				path: m.Package.Path, reads: reads, lacks: lacks, plainAllow: true, plainDeny: true,
				added: map[string]bool{}, duties: map[string]bool{},
				rules: map[string][]*ast.Rule{}, numbers: map[*ast.Rule]int{}, doubtful: map[int]string{},
			}
			byPath[path] = d
		}
		if err := d.addModule(m); err != nil {
			return nil, err
		}
	}
	var out []*decider
	for _, path := range slices.Sorted(maps.Keys(byPath)) {
		d := byPath[path]
		if !slices.Contains(d.decide, true) {
			continue
		}
		if d.badDuty != nil {
			return nil, d.badDuty
		}
		d.sayAll()
		out = append(out, d)
	}
	if len(out) == 0 {
		return nil, errors.New("no file has a rule named allow or deny")
	}
	if len(out) > MaxPackages {
		return nil, fmt.Errorf("at most %d packages may decide", MaxPackages)
	}
	return out, nil
}

// sayAll adds what filters need besides.
func (d *decider) sayAll() {
	if !d.plainAllow {
		d.say(allowRule)
	}
	if !d.plainDeny {
		d.say(denyRule)
	}
}

func (d *decider) addModule(m *ast.Module) error {
	for _, r := range slices.Clone(m.Rules) {
		if err := d.addRule(m, r); err != nil {
			return fmt.Errorf("%s: %v", r.Location, err)
		}
	}
	return nil
}

func (d *decider) addRule(m *ast.Module, r *ast.Rule) error {
	name, _ := r.Head.Ref()[0].Value.(ast.Var)
	switch {
	case strings.HasPrefix(string(name), companion):
		return fmt.Errorf("names that begin with %q are taken", companion)
	case name == allowRule:
		return d.addAllow(m, r)
	case name == denyRule:
		return d.addDeny(m, r)
	case slices.Contains(duties(), string(name)):
		return d.addDuty(m, r, string(name))
	}
	return nil
}

func (d *decider) addAllow(m *ast.Module, r *ast.Rule) error {
	if len(r.Head.Args) > 0 || len(r.Head.Ref()) > 1 || r.Head.Value == nil {
		return errors.New("allow is true or false, neither a function nor a set nor an object")
	}
	if r.Default {
		if !ast.Boolean(false).Equal(r.Head.Value.Value) {
			return errors.New("allow may not default to anything but false")
		}
		return nil
	}
	n := d.number(r, allowRule)
	if !plain(r) {
		d.plainAllow = false
	} else {
		d.derive(m, r, allowed, n, r.Body.Copy())
	}
	d.watchLacks(m, r, n)
	d.watchReads(m, r, n, true)
	return nil
}

func (d *decider) addDeny(m *ast.Module, r *ast.Rule) error {
	if len(r.Head.Args) > 0 {
		return errors.New("deny is no function")
	}
	if r.Else != nil {
		return errors.New("deny may not have an else: write a rule of its own")
	}
	if r.Default && r.Head.Value != nil && ast.Boolean(false).Equal(r.Head.Value.Value) {
		return nil
	}
	if err := noInputImport(m); err != nil {
		return err
	}
	n := d.number(r, denyRule)
	if !plain(r) {
		d.plainDeny = false
	} else {
		d.derive(m, r, denied, detailed(r, n), r.Body.Copy())
	}
	d.watch(m, r, n)
	return nil
}

// noInputImport: watch knows input only by its own name.
func noInputImport(m *ast.Module) error {
	for _, imp := range m.Imports {
		if path, ok := imp.Path.Value.(ast.Ref); ok && path.HasPrefix(ast.InputRootRef) {
			return fmt.Errorf("a file with deny rules, obligations or masks may not import %s: write it out", path)
		}
	}
	return nil
}

// detailed is n with a list of what a member of a set says beside it. The list
// is empty where that is undefined: the rule forbids all the same.
func detailed(r *ast.Rule, n *ast.Term) *ast.Term {
	if r.Head.Value != nil {
		return n
	}
	x := ast.VarTerm(localValue)
	said := ast.ArrayComprehensionTerm(x, ast.NewBody(ast.Equality.Expr(x.Copy(), r.Head.Key.Copy())))
	return ast.ArrayTerm(n, said)
}

// addDuty: what a permission depends on must not get lost in an absent member,
// so these rules are watched as deny rules are.
func (d *decider) addDuty(m *ast.Module, r *ast.Rule, name string) error {
	d.duties[name] = true
	if r.Default || r.Head.Value != nil || len(r.Head.Args) > 0 || len(r.Head.Ref()) > 1 || r.Else != nil {
		d.badDuty = fmt.Errorf("%s: %s is a set: write %s contains ...", r.Location, name, name)
		return nil
	}
	if err := noInputImport(m); err != nil {
		d.badDuty = fmt.Errorf("%s: %v", r.Location, err)
		return nil
	}
	d.watch(m, r, d.number(r, name))
	return nil
}

// plain reports whether r says yes exactly when its body holds.
func plain(r *ast.Rule) bool {
	set := r.Head.Value == nil
	return !r.Default && r.Else == nil && (set || ast.Boolean(true).Equal(r.Head.Value.Value))
}

// number gives r the number by which its companions and answers name it.
func (d *decider) number(r *ast.Rule, rule string) *ast.Term {
	ref := rampart.PolicyRef{Engine: engineName, ID: d.name() + "." + rule, File: r.Location.File, Line: r.Location.Row}
	if rule == allowRule {
		ref.Effect = rampart.Allow
		d.permits++
	}
	d.refs = append(d.refs, ref)
	d.decide = append(d.decide, rule == allowRule || rule == denyRule)
	d.rules[rule] = append(d.rules[rule], r)
	d.numbers[r] = len(d.refs) - 1
	return ast.InternedTerm(len(d.refs) - 1)
}

// derive adds the rule `name contains key if body` at r's place.
func (d *decider) derive(m *ast.Module, r *ast.Rule, name string, key *ast.Term, body ast.Body) {
	head := ast.NewHead(ast.Var(name), key)
	head.Location = r.Location
	m.Rules = append(m.Rules, &ast.Rule{Head: head, Body: body, Location: r.Location, Module: m})
	d.added[name] = true
}

// watch adds, for everything that a deny rule reads, by way of what it calls
// too, a companion that reports it absent while the conditions above hold.
func (d *decider) watch(m *ast.Module, r *ast.Rule, n *ast.Term) {
	d.watchLacks(m, r, n)
	d.watchReads(m, r, n, false)
}

func (d *decider) watchLacks(m *ast.Module, r *ast.Rule, n *ast.Term) {
	for _, l := range d.lacks[r] {
		d.deriveSame(m, r)
		d.derive(m, r, unknown, ast.ArrayTerm(n, ast.StringTerm(l.name)), l.body)
	}
}

// deriveSame adds the function by which parameters of callees get their values:
// the type checker knows nothing of what it returns, as it knows nothing of
// parameters.
func (d *decider) deriveSame(m *ast.Module, r *ast.Rule) {
	if d.added[sameRule] {
		return
	}
	x := ast.VarTerm(localValue)
	head := ast.NewHead(ast.Var(sameRule), nil, x)
	head.Args, head.Location = ast.Args{x.Copy()}, r.Location
	body := ast.NewBody(ast.NewExpr(ast.InternedTerm(true)))
	m.Rules = append(m.Rules, &ast.Rule{Head: head, Body: body, Location: r.Location, Module: m})
	d.added[sameRule] = true
}

// watchReads does so for relations that r and its callees read by name. A permit is
// watched only where an absent fact could make it hold.
func (d *decider) watchReads(m *ast.Module, r *ast.Rule, n *ast.Term, oddOnly bool) {
	for _, read := range d.reads[r] {
		if oddOnly && !read.odd {
			continue
		}
		ref := ast.InputRootRef.Append(ast.StringTerm("relation")).Append(ast.StringTerm(read.name))
		body := r.Body[:read.above].Copy()
		body.Append(absent(ref))
		d.derive(m, r, unknown, ast.ArrayTerm(n, ast.StringTerm(ref.String())), body)
	}
}

// alwaysThere names what input puts into every document, so that conditions on
// it stay usable by OPA's rule index.
func alwaysThere(ref ast.Ref) bool {
	switch ref.String() {
	case "input", "input.action", "input.action_full", "input.context",
		"input.resource", "input.resource.type", "input.relation", "input.user", "input.user.id",
		"input.user.roles", "input.user.organizations", "input.user.managed_teams":
		return true
	}
	return false
}
