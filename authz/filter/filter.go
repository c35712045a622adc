// Package filter says what a policy allows of many resources at once.
//
// Where a check asks "may this subject read this order?", a filter answers
// "which orders may this subject read?" The policies leave, for a resource that
// is not known yet, small conditions over its attributes; the same conditions
// run as SQL with bind arguments, as row-level security of PostgreSQL, and in
// Go. A row is in the filter exactly when the check allows it: errors included,
// see Expr.
//
// What cannot be said as such a condition is refused with Untranslatable. A
// list is never filtered afterwards in silence.
package filter

import (
	"context"
	"fmt"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
)

// Source is an engine that can say its policies as conditions. r.Resource has a
// Type and may have a Tenant; id and attributes are unknown. An error that is
// not an Untranslatable denies as any failure does.
type Source interface {
	Residual(ctx context.Context, r authz.Request) (Residual, error)
}

// Residual is what the policies of one engine leave to be known of a resource.
// The zero Residual keeps nothing.
type Residual struct {
	Permits []Expr // one that is defined and true keeps a row
	Forbids []Expr // one that is true or undefined drops it, whatever permits say
	// Rulings says of each permit, at its place, what it asks for besides; nil
	// when none asks for anything.
	Rulings []authz.Ruling
}

// Permit adds a permit, and what its policy asks for besides.
func (r *Residual) Permit(e Expr, by authz.Ruling) {
	r.Permits = append(r.Permits, e)
	if r.Rulings == nil && len(by.Obligations) == 0 && by.Fields == nil {
		return
	}
	silent := make([]authz.Ruling, len(r.Permits)-1-len(r.Rulings))
	r.Rulings = append(append(r.Rulings, silent...), by)
}

// Untranslatable says which policy cannot be said as a filter, and why.
type Untranslatable struct {
	Policy rampart.PolicyRef
	What   string // the part that cannot be said
}

func (u *Untranslatable) Error() string {
	return fmt.Sprintf("%s cannot be said as a filter: %s", u.Policy, u.What)
}
