package filter

import (
	"context"
	"fmt"

	"github.com/rampart-security/rampart"
)

// Resolve replaces each relation by the objects to which the subject stands in
// it, as ids returns them for its name; each name is asked for once. More than
// MaxList objects are an Untranslatable, an error of ids is returned.
func (f Filter) Resolve(ctx context.Context, ids func(relation string) ([]string, error)) (Filter, error) {
	if f.keep != some {
		return f, nil
	}
	r := resolving{ctx: ctx, ids: ids, known: map[string]Expr{}}
	e, err := r.resolve(f.cond)
	if err != nil {
		return None(), fmt.Errorf("filter: %w", err)
	}
	return Where(e), nil
}

type resolving struct {
	ctx   context.Context
	ids   func(relation string) ([]string, error)
	known map[string]Expr
}

func (r *resolving) resolve(e Expr) (Expr, error) {
	switch e := e.(type) {
	case And:
		left, right, err := r.pair(e.L, e.R)
		return And{left, right}, err
	case Or:
		left, right, err := r.pair(e.L, e.R)
		return Or{left, right}, err
	case Not:
		x, err := r.resolve(e.X)
		return Not{x}, err
	case Total:
		x, err := r.resolve(e.X)
		return Total{x}, err
	case Rel:
		return r.relation(e.Name)
	}
	return e, nil
}

func (r *resolving) pair(l, rest Expr) (Expr, Expr, error) {
	left, err := r.resolve(l)
	if err != nil {
		return nil, nil, err
	}
	right, err := r.resolve(rest)
	return left, right, err
}

func (r *resolving) relation(name string) (Expr, error) {
	if e, ok := r.known[name]; ok {
		return e, nil
	}
	if err := r.ctx.Err(); err != nil {
		return nil, err
	}
	ids, err := r.ids(name)
	if err != nil {
		return nil, fmt.Errorf("relation %q: %w", clip(name), err)
	}
	if len(ids) > MaxList {
		return nil, &Untranslatable{
			Policy: rampart.PolicyRef{Engine: "relation", ID: name, Effect: rampart.Allow},
			What:   fmt.Sprintf("the subject has it to more than %d objects", MaxList),
		}
	}
	list := make([]any, len(ids))
	for i, id := range ids {
		list[i] = id
	}
	r.known[name] = In{Attr{"id"}, Lit{list}}
	return r.known[name], nil
}
