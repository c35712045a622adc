package vaulttest

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

// database is a database engine without a database: it makes up users.
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
		return &response{lease: s.newLease(c.mount+c.path, r.ttl, r.most), data: map[string]any{"username": user, "password": s.id("A1a")}}
	}
	for next := r.rotated.Add(r.period); !s.now().Before(next); next = r.rotated.Add(r.period) {
		r.password, r.rotated = s.id("A1a"), next
	}
	return &response{data: map[string]any{
		"username": r.user, "password": r.password, "ttl": int(r.rotated.Add(r.period).Sub(s.now()) / time.Second),
		"rotation_period": int(r.period / time.Second), "last_vault_rotation": stamp(r.rotated),
	}}
}
