package rbac

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/rampart-security/rampart"
)

// Bounds of separation of duty; Compile enforces the first.
const (
	MaxSeparations = 1024
	maxDuties      = 256 // roles of one principal that some separation knows; more are taken for a clash
)

// Separation names roles that nobody may use together (ANSI/INCITS 359
// sections 6.3 and 6.4). A role counts with all roles that it includes.
type Separation struct {
	Roles   []string `json:"roles"`
	Dynamic bool     `json:"dynamic,omitzero"` // nobody acts with two of them at once; otherwise nobody is granted two
}

// duty says that a role is, or includes, one side of a separation.
type duty struct{ separation, role int }

// separate notes each role's sides. It refuses a separation of less than two
// known roles, and a role that alone unites two.
func (r *Roles) separate(all []Separation) error {
	if len(all) > MaxSeparations {
		return fmt.Errorf("at most %d separations", MaxSeparations)
	}
	r.separations = all
	for s, sep := range all {
		r.dynamic = r.dynamic || sep.Dynamic
		if err := r.known(sep); err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(r.byName)) {
			g, met := r.byName[name], []string(nil)
			for i, side := range sep.Roles {
				if g.includes[side] {
					met, g.duties = append(met, side), append(g.duties, duty{s, i})
				}
			}
			if len(met) > 1 {
				return fmt.Errorf("role %q includes %q and %q, which are kept apart", name, met[0], met[1])
			}
			r.byName[name] = g
		}
	}
	return nil
}

func (r *Roles) known(sep Separation) error {
	if len(sep.Roles) < 2 {
		return fmt.Errorf("a separation of %q: it takes two roles or more", sep.Roles)
	}
	for i, name := range sep.Roles {
		if _, ok := r.byName[name]; !ok {
			return fmt.Errorf("a separation names %q, which is no role", name)
		}
		if slices.Contains(sep.Roles[:i], name) {
			return fmt.Errorf("a separation names %q twice", name)
		}
	}
	return nil
}

// Clash is two roles of one principal that a separation keeps apart.
type Clash struct {
	A, B       string // as the principal holds them, for example "clerk@acme"
	Separation int    // index of the rule, in the order given to Compile
}

// Conflict returns the first clash of roles that nobody may be granted
// together, for whoever grants them. Roles for two organizations do not meet.
func (r *Roles) Conflict(roles []string) (Clash, bool) {
	if r == nil {
		return Clash{}, false
	}
	for i, a := range roles {
		for _, b := range roles[:i] {
			if s, ok := r.apart(part(b), part(a), false); ok {
				return Clash{A: b, B: a, Separation: s}, true
			}
		}
	}
	return Clash{}, false
}

func part(held string) acting {
	name, org, _ := strings.Cut(held, "@")
	return acting{name, org}
}

// Separated returns the first clash of roles that p acts with at once in a
// tenant, "" being any. Where p's credential names the roles to act with, only
// these count. It allocates nothing.
func (r *Roles) Separated(p rampart.Principal, tenant string) (Clash, bool) {
	if r == nil || !r.dynamic {
		return Clash{}, false
	}
	seen := 0
	for a := range r.acts(p, tenant) {
		if len(r.byName[a.role].duties) == 0 {
			continue
		}
		if seen++; seen > maxDuties {
			return Clash{A: a.String(), B: a.String()}, true
		}
		for b := range r.acts(p, tenant) {
			if s, ok := r.apart(a, b, true); ok {
				return Clash{A: a.String(), B: b.String(), Separation: s}, true
			}
		}
	}
	return Clash{}, false
}

// apart reports the separation of which two roles are different sides. A role
// for one organization meets those for the same one and those for all.
func (r *Roles) apart(a, b acting, dynamic bool) (int, bool) {
	if a.org != b.org && a.org != "" && b.org != "" {
		return 0, false
	}
	for _, x := range r.byName[a.role].duties {
		for _, y := range r.byName[b.role].duties {
			if x.separation == y.separation && x.role != y.role && r.separations[x.separation].Dynamic == dynamic {
				return x.separation, true
			}
		}
	}
	return 0, false
}
