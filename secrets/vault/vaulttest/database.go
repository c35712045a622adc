package vaulttest

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Users is the database in which engines make their users, as their statements for
// creation, renewal and revocation do. Calls come one at a time, while requests wait.
type Users interface {
	Create(role, user, password string, until time.Time) error
	Renew(user string, until time.Time) error
	Drop(user string) error // when its lease has ended; one that fails is tried again
}

// nobody is no database.
type nobody struct{}

func (nobody) Create(_, _, _ string, _ time.Time) error { return nil }
func (nobody) Renew(string, time.Time) error            { return nil }
func (nobody) Drop(string) error                        { return nil }

func (s *Server) users() Users {
	if s.Users == nil {
		return nobody{}
	}
	return s.Users
}

// database is a database engine. Without Users it makes users up.
type database struct{ roles map[string]*dbRole }

type dbRole struct {
	ttl, most time.Duration

	// Of a static role.
	user, password string
	period         time.Duration
	rotated        time.Time
}

func (d *database) serve(s *Server, c *call) *response {
	area, name, _ := strings.Cut(c.path, "/")
	switch c.op + " " + area {
	case "write config":
		return &response{}
	case "write roles":
		d.roles[name] = &dbRole{ttl: c.duration("default_ttl", time.Hour), most: c.duration("max_ttl", 24*time.Hour)}
		return &response{}
	case "write static-roles":
		d.roles[name] = &dbRole{user: c.text("username"), password: s.id("A1a"), period: c.duration("rotation_period", 24*time.Hour), rotated: s.now()}
		return &response{}
	case "read creds", "read static-creds":
		return d.creds(s, c, area, name)
	}
	return fail(http.StatusNotFound, "unsupported path")
}

func (d *database) creds(s *Server, c *call, area, name string) *response {
	r, ok := d.roles[name]
	if !ok || (r.user != "") != (area == "static-creds") {
		return fail(http.StatusBadRequest, fmt.Sprintf("unknown role: %s", name))
	}
	if area == "creds" {
		user := "v-token-" + name + "-" + s.id("u")
		l := s.newLease(c, r.ttl, r.most)
		password := s.id("A1a")
		if err := s.users().Create(name, user, password, l.until); err != nil {
			delete(s.leases, l.id)
			return fail(http.StatusInternalServerError, "1 error occurred:\n\t* failed to execute query")
		}
		l.user = user
		s.watch(l, l.until.Sub(s.now()))
		return &response{lease: l, data: map[string]any{"username": user, "password": password}}
	}
	for next := r.rotated.Add(r.period); !s.now().Before(next); next = r.rotated.Add(r.period) {
		r.password, r.rotated = s.id("A1a"), next
	}
	return &response{data: map[string]any{
		"username": r.user, "password": r.password, "ttl": int(r.rotated.Add(r.period).Sub(s.now()) / time.Second),
		"rotation_period": int(r.period / time.Second), "last_vault_rotation": stamp(r.rotated),
	}}
}
