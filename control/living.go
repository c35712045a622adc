package control

import (
	"fmt"
	"time"

	"github.com/rampart-security/rampart/authz/rbac"
	"github.com/rampart-security/rampart/spec"
)

// living is the configuration in force, and all that is compiled from it. It is
// immutable: whoever asks several questions of one configuration takes one living
// and asks that. The zero value grants nothing.
type living struct {
	sys    *spec.System
	roles  *rbac.Roles // for whoever grants roles; no request is judged here
	grants grants
	fresh  func(name string) time.Duration // how long values from backends are fresh
}

// compileLiving compiles all that changes with the file.
func compileLiving(sys *spec.System) (*living, error) {
	roles, err := compileRoles(sys)
	if err != nil {
		return nil, fmt.Errorf("authz.roles: %w", err)
	}
	return &living{sys: sys, roles: roles, grants: grantsOf(sys), fresh: freshOf(sys)}, nil
}

// living is the configuration in force.
func (p *Plane) living() *living { return p.alive.Load() }

// system is the file in force.
func (p *Plane) system() *spec.System { return p.living().sys }
