package authz

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/filter"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/sdk"
)

// List says which rows of one table the caller may do something to: those that
// Check would allow, and no others. The zero List holds no row. It may be shared
// between goroutines.
type List struct {
	Fields   *rampart.Fields  // what of every row may be seen, for Project; nil: all of it
	Revision rampart.Revision // of what it was made with

	keep  filter.Filter
	table filter.Table
}

// Filter asks which resources of a type the caller of the request in ctx may do
// action to. Where nobody is permitted anything the list is empty; a list that
// could not be made is Denied, as Check would be. rampart.yaml names the columns
// (authz.types), so that the answer is a condition for SQL.
func Filter(ctx context.Context, svc *sdk.Service, action rampart.Action, resourceType string, opts ...Option) (List, error) {
	if svc.Off(control) {
		return List{keep: filter.All()}, nil
	}
	identity, err := caller(ctx)
	if err != nil {
		return List{}, err
	}
	q := asked(opts)
	answer, err := twice(ctx, func(a agent.FilterAnswer) rampart.Code { return a.Decision.Code }, func() (a agent.FilterAnswer, err error) {
		return a, call(ctx, svc, agent.PathFilter, agent.FilterRequest{
			Identity: identity, Action: action, Type: resourceType, Tenant: q.tenant, Context: q.context, AtLeast: q.atLeast, Supported: q.supported(),
		}, &a)
	})
	if err != nil {
		return List{}, err
	}
	d := answer.Decision
	if d.Code == rampart.CodeNoPermit || d.Code == rampart.CodeForbidden {
		return List{Revision: d.Revision}, nil
	}
	if err := q.enforce(ctx, d); err != nil {
		return List{}, err
	}
	return listOf(answer)
}

func listOf(a agent.FilterAnswer) (List, error) {
	l := List{Fields: a.Decision.Fields, Revision: a.Decision.Revision}
	err := json.Unmarshal(a.Filter, &l.keep)
	if err == nil && len(a.Table) > 0 {
		err = json.Unmarshal(a.Table, &l.table)
	}
	if err != nil {
		return List{}, &rampart.Error{Kind: rampart.Unavailable, Control: control, Msg: "no decision could be had", Err: err}
	}
	return l, nil
}

// IsNone reports whether l holds no row, whatever is in the table: the query can
// be spared.
func (l List) IsNone() bool { return l.keep.IsNone() }

// SQL returns l as a condition for WHERE, in parentheses, and the values of its
// placeholders, which begin at number firstArg. kind is db.DB.Kind. Values are
// never part of the text. In SQLite write the placeholders of the rest of the
// query in the order of their numbers, whether as ?1 or as $1.
func (l List) SQL(kind string, firstArg int) (where string, args []any, err error) {
	where, args, err = l.keep.SQL(filter.Dialect(kind), l.table, firstArg)
	if err != nil {
		return "", nil, &rampart.Error{Kind: rampart.Denied, Control: control, Msg: "not allowed", Err: fmt.Errorf("authz: %w", err)}
	}
	return "(" + where + ")", args, nil
}

// Match reports whether l holds one row, given as Check would be given it.
func (l List) Match(r rampart.Resource) bool {
	row := map[string]any{"id": r.ID, "tenant": r.Tenant}
	for name, v := range r.Attrs {
		row[name] = v
	}
	return l.keep.Match(row, nil)
}
