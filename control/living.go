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
	sys         *spec.System
	file        string      // where it was read, for people; "": not known
	roles       *rbac.Roles // for whoever grants roles; no request is judged here
	grants      grants
	fresh       func(name string) time.Duration // how long values from backends are fresh
	permissions []string                        // as Options.Permissions
}

// compileLiving compiles all that changes with the file but the permissions.
func compileLiving(sys *spec.System, file string) (*living, error) {
	roles, err := compileRoles(sys)
	if err != nil {
		return nil, fmt.Errorf("authz.roles: %w", err)
	}
	return &living{sys: sys, file: file, roles: roles, grants: grantsOf(sys), fresh: freshOf(sys)}, nil
}

// examined compiles a file that is to follow another, with what only planes use.
func (o Options) examined(sys *spec.System, file string) (*living, error) {
	l, err := compileLiving(sys, file)
	if err == nil && o.Examine != nil {
		l.permissions, err = o.Examine(sys)
	}
	return l, err
}

// living is the configuration in force.
func (p *Plane) living() *living { return p.alive.Load() }

// system is the file in force.
func (p *Plane) system() *spec.System { return p.living().sys }

// enforce puts a configuration in force here, and tells the planes. Whoever begins
// to watch in between is told twice, which is harmless.
func (p *Plane) enforce(l *living) {
	p.tokens.SetSystem(l.sys)
	p.sessions.SetBounds(time.Duration(l.sys.Sessions.Idle), time.Duration(l.sys.Sessions.Absolute))
	p.alive.Store(l)
	p.hub.config(l.sys.Bundle())
}
