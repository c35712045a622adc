package threat

import (
	"errors"
	"fmt"
	"reflect"
	"slices"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/ext"
)

// costLimit bounds one evaluation, in CEL's units of about one operation.
const costLimit = 10_000

// total lists the operators and functions that cannot fail on typed values.
// Rules may use no others: in CEL "error && false" is false, so one that could
// fail could turn "could not evaluate" into "does not apply" unseen. What is
// left to fail, the cost limit, always surfaces as an error.
var total = map[string]bool{
	"_&&_": true, "_||_": true, "!_": true, "_?_:_": true,
	"_==_": true, "_!=_": true, "_<_": true, "_<=_": true, "_>_": true, "_>=_": true,
	"@in": true, "@not_strictly_false": true, "size": true,
	"startsWith": true, "endsWith": true, "contains": true,
}

// compiled holds a rule's programs; nil stands for the default. Programs may
// be used by many goroutines at once.
type compiled struct {
	applies, about, impact, likelihood cel.Program
}

// env is the typed vocabulary of one kind of element.
type env struct {
	element *cel.Env // the element's variable
	item    *cel.Env // the same, and d
}

// newEnvs returns an environment for each kind. No variable is dyn: a
// misspelt field is an error of the compiler.
func newEnvs() (map[Element]env, error) {
	out := map[Element]env{}
	types := map[Element]any{
		OnFlow: Flow{}, OnService: Service{}, OnStore: Store{}, OnExternal: External{},
		OnData: Data{}, OnZone: Zone{}, OnPrincipal: Principal{}, OnSystem: System{},
	}
	natives := []any{ext.ParseStructTags(true), reflect.TypeFor[Node]()}
	for _, k := range kinds() {
		natives = append(natives, reflect.TypeOf(types[k]))
	}
	base, err := cel.NewEnv(ext.NativeTypes(natives...))
	if err != nil {
		return nil, err
	}
	for k, v := range types {
		element, err := base.Extend(cel.Variable(string(k), cel.ObjectType(reflect.TypeOf(v).String())))
		if err != nil {
			return nil, err
		}
		item, err := element.Extend(cel.Variable("d", cel.ObjectType("threat.Data")))
		if err != nil {
			return nil, err
		}
		out[k] = env{element, item}
	}
	return out, nil
}

// compile turns the rule's expressions into programs.
func (r *Rule) compile(envs map[Element]env) error {
	e, ok := envs[r.Element]
	if !ok {
		return nil // check has already said so
	}
	var errs [4]error
	r.compiled.applies, errs[0] = r.program(e.element, "applies", r.Applies, cel.BoolType)
	r.compiled.about, errs[1] = r.program(e.item, "about", r.About, cel.BoolType)
	r.compiled.impact, errs[2] = r.program(e.element, "severity.impact", r.Severity.Impact, cel.IntType)
	r.compiled.likelihood, errs[3] = r.program(e.element, "severity.likelihood", r.Severity.Likelihood, cel.StringType)
	return errors.Join(errs[:]...)
}

func (r *Rule) program(env *cel.Env, key string, x expr, want *cel.Type) (cel.Program, error) {
	if x.text == "" {
		return nil, nil
	}
	tree, iss := env.Compile(x.text)
	if iss.Err() != nil {
		first := iss.Errors()[0]
		return nil, r.errorAt(x, first.Location.Line(), first.Location.Column(), key+": "+first.Message)
	}
	if !tree.OutputType().IsExactType(want) {
		return nil, r.errorAt(x, 1, 0, fmt.Sprintf("%s: the result is %s, not %s", key, tree.OutputType(), want))
	}
	if err := r.refuseUnsafe(tree, key, x); err != nil {
		return nil, err
	}
	p, err := env.Program(tree, cel.CostLimit(costLimit))
	if err != nil {
		return nil, r.errorAt(x, 1, 0, key+": "+err.Error())
	}
	return p, nil
}

// refuseUnsafe refuses what the type checker lets pass: dynamic values and
// functions that can fail.
func (r *Rule) refuseUnsafe(tree *cel.Ast, key string, x expr) error {
	rep := tree.NativeRep()
	var bad error
	ast.PreOrderVisit(rep.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		loc := rep.SourceInfo().GetStartLocation(e.ID())
		switch {
		case bad != nil:
		case rep.GetType(e.ID()).Kind() == cel.DynKind:
			bad = r.errorAt(x, loc.Line(), loc.Column(), key+": dynamic values are not allowed")
		case e.Kind() == ast.CallKind && !total[e.AsCall().FunctionName()]:
			bad = r.errorAt(x, loc.Line(), loc.Column(), fmt.Sprintf("%s: %s can fail and is not allowed", key, e.AsCall().FunctionName()))
		}
	}))
	return bad
}

// errorAt places an error: line and col are within the expression, line from
// 1 and column from 0 as CEL counts.
func (r *Rule) errorAt(x expr, line, col int, msg string) error {
	if line <= 1 {
		return fmt.Errorf("%s:%d:%d: %s", r.file, x.line, x.col+max(col, 0), msg)
	}
	return fmt.Errorf("%s:%d:%d: %s", r.file, x.line+line-1, col+1, msg)
}

// finding is what a rule says of one element.
type finding struct {
	applies    bool
	about      []Data
	impact     int
	likelihood string
}

// eval asks the rule about one element. An error means that nothing can be
// said, never that the rule does not apply.
func (r *Rule) eval(n node) (finding, error) {
	vars := map[string]any{string(n.kind): n.value}
	ok, err := run[bool](r.compiled.applies, vars)
	if err != nil || !ok {
		return finding{}, err
	}
	f := finding{applies: true, about: n.data, likelihood: n.expo}
	if r.compiled.about != nil {
		if f.about, err = r.choose(n, vars); err != nil {
			return finding{}, err
		}
		f.applies = len(f.about) > 0
	}
	if !f.applies {
		return finding{}, nil
	}
	return f, r.rate(&f, vars)
}

// choose returns the items that About picks, each with its own cost limit.
func (r *Rule) choose(n node, vars map[string]any) ([]Data, error) {
	var out []Data
	for i := range n.data {
		vars["d"] = &n.data[i]
		ok, err := run[bool](r.compiled.about, vars)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, n.data[i])
		}
	}
	return out, nil
}

func (r *Rule) rate(f *finding, vars map[string]any) error {
	for _, d := range f.about {
		f.impact = max(f.impact, d.impact())
	}
	if r.compiled.impact != nil {
		v, err := run[int64](r.compiled.impact, vars)
		if err != nil {
			return err
		}
		f.impact = int(min(max(v, 0), 3))
	}
	if r.compiled.likelihood != nil {
		v, err := run[string](r.compiled.likelihood, vars)
		if err != nil {
			return err
		}
		f.likelihood = v
	}
	if !slices.Contains([]string{"low", "medium", "high"}, f.likelihood) {
		return fmt.Errorf("likelihood %q is none of low, medium, high", f.likelihood)
	}
	return nil
}

func run[T any](p cel.Program, vars map[string]any) (T, error) {
	var zero T
	v, _, err := p.Eval(vars)
	if err != nil {
		return zero, err
	}
	out, ok := v.Value().(T)
	if !ok {
		return zero, fmt.Errorf("the result is %T, not %T", v.Value(), zero)
	}
	return out, nil
}
