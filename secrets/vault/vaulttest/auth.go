package vaulttest

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// token is a client token.
type token struct {
	id, ns    string
	policies  []string
	renewable bool
	ttl       time.Duration // of a renewal
	until     time.Time     // zero: never ends
	most      time.Time     // zero: no bound
}

func (t *token) ended(now time.Time) bool { return !t.until.IsZero() && !now.Before(t.until) }

func (s *Server) tokenOf(id, ns string) *token {
	t, ok := s.tokens[id]
	if !ok || t.ended(s.now()) || !strings.HasPrefix(ns, t.ns) {
		return nil
	}
	return t
}

// endToken ends a token and all that was leased with it.
func (s *Server) endToken(t *token) {
	delete(s.tokens, t.id)
	for _, l := range s.leases {
		if l.by == t {
			s.end(l)
		}
	}
}

// newToken makes a token that lives ttl and never longer than most; 0: no bound.
func (s *Server) newToken(ns string, policies []string, ttl, most time.Duration) *token {
	t := &token{id: s.id("hvs.token"), ns: ns, policies: policies, renewable: ttl > 0, ttl: ttl}
	if ttl > 0 {
		t.until = s.now().Add(ttl)
	}
	if most > 0 {
		t.most = s.now().Add(most)
		t.until = t.most
		if ttl > 0 && ttl < most {
			t.until = s.now().Add(ttl)
		}
	}
	s.tokens[t.id] = t
	return t
}

func (s *Server) authOf(t *token) map[string]any {
	life := 0
	if !t.until.IsZero() {
		life = wholeSeconds(t.until.Sub(s.now()))
	}
	return map[string]any{
		"client_token": t.id, "accessor": "accessor", "policies": append([]string{"default"}, t.policies...), "token_policies": append([]string{"default"}, t.policies...),
		"lease_duration": life, "renewable": t.renewable, "entity_id": "", "token_type": "service", "orphan": true, "metadata": map[string]any{},
	}
}

// tokens is what is mounted at auth/token.
type tokens struct{}

func (tokens) serve(s *Server, c *call) *response {
	t := c.token
	switch c.op + " " + c.path {
	case "read lookup-self":
		a := s.authOf(t)
		return &response{data: map[string]any{"id": t.id, "ttl": a["lease_duration"], "renewable": t.renewable, "policies": a["policies"], "display_name": "token", "num_uses": 0}}
	case "write renew-self":
		return s.renewToken(t, c.duration("increment", 0))
	case "write revoke-self":
		s.endToken(t)
		return &response{}
	case "write create":
		n := s.newToken(c.ns, c.list("policies"), c.duration("ttl", c.duration("period", 0)), c.duration("explicit_max_ttl", 0))
		if r, ok := c.body["renewable"].(bool); ok {
			n.renewable = r && n.ttl > 0
		}
		return &response{auth: s.authOf(n)}
	}
	return fail(http.StatusNotFound, "unsupported path")
}

// renewToken prolongs: by less and less, with a warning, towards the most it may have.
func (s *Server) renewToken(t *token, by time.Duration) *response {
	if !t.renewable {
		return fail(http.StatusBadRequest, "lease is not renewable")
	}
	if by <= 0 {
		by = t.ttl
	}
	var warnings []string
	until := s.now().Add(by)
	if !t.most.IsZero() && until.After(t.most) {
		until = t.most
		warnings = []string{fmt.Sprintf("TTL of %q exceeded the effective max_ttl of %q; TTL value is capped accordingly", by, t.most.Sub(s.now()))}
	}
	t.until = until
	return &response{auth: s.authOf(t), warnings: warnings}
}

// method is an auth method: approle, kubernetes or cert.
type method struct {
	kind  string
	roles map[string]*role
}

// role is one of a method.
type role struct {
	id        string // approle
	policies  []string
	ttl, most time.Duration
	jwts      []string // kubernetes: which tokens the cluster vouches for, in place of a TokenReview
	secrets   map[string]*secretID
	uses      int           // of a new secret id; 0: no bound
	expires   time.Duration // of a new secret id; 0: never
}

type secretID struct {
	left  int // uses; -1: no bound
	until time.Time
}

func (m *method) serve(s *Server, c *call) *response {
	if c.path == "login" && c.op == "write" {
		return m.login(s, c)
	}
	kind, rest, _ := strings.Cut(c.path, "/")
	name, verb, _ := strings.Cut(rest, "/")
	if kind != "role" && kind != "certs" || name == "" {
		return fail(http.StatusNotFound, "unsupported path")
	}
	if c.op == "write" && verb == "" {
		r := &role{
			id: s.id("role"), policies: c.list("token_policies"), ttl: c.duration("token_ttl", time.Hour), most: c.duration("token_max_ttl", 24*time.Hour),
			secrets: map[string]*secretID{}, uses: c.number("secret_id_num_uses"), expires: c.duration("secret_id_ttl", 0), jwts: c.list("jwts"),
		}
		m.roles[name] = r
		return &response{}
	}
	r := m.roles[name]
	switch {
	case r == nil:
		return notFound()
	case verb == "role-id" && c.op == "read":
		return &response{data: map[string]any{"role_id": r.id}}
	case verb == "secret-id" && c.op == "write":
		id := s.id("secret")
		r.secrets[id] = &secretID{left: r.uses}
		if r.uses == 0 {
			r.secrets[id].left = -1
		}
		if r.expires > 0 {
			r.secrets[id].until = s.now().Add(r.expires)
		}
		return &response{data: map[string]any{"secret_id": id, "secret_id_accessor": "accessor", "secret_id_num_uses": r.uses, "secret_id_ttl": int(r.expires / time.Second)}}
	}
	return fail(http.StatusNotFound, "unsupported path")
}

func (m *method) login(s *Server, c *call) *response {
	var r *role
	switch m.kind {
	case "approle":
		for _, have := range m.roles {
			if have.id == c.text("role_id") {
				r = have
			}
		}
		if r == nil {
			return fail(http.StatusBadRequest, "invalid role or secret ID")
		}
		if !r.spend(c.text("secret_id"), s.now()) {
			return fail(http.StatusBadRequest, "invalid role or secret ID")
		}
	case "kubernetes":
		if r = m.roles[c.text("role")]; r == nil {
			return fail(http.StatusBadRequest, fmt.Sprintf("invalid role name %q", c.text("role")))
		}
		if !slices.Contains(r.jwts, c.text("jwt")) {
			return denied()
		}
	case "cert":
		if c.r.TLS == nil || len(c.r.TLS.PeerCertificates) == 0 || m.roles[c.text("name")] == nil {
			return fail(http.StatusBadRequest, "invalid certificate or no client certificate supplied")
		}
		r = m.roles[c.text("name")]
	}
	return &response{auth: s.authOf(s.newToken(c.ns, r.policies, r.ttl, r.most))}
}

func (r *role) spend(id string, now time.Time) bool {
	have, ok := r.secrets[id]
	if !ok || have.left == 0 || !have.until.IsZero() && !now.Before(have.until) {
		return false
	}
	if have.left > 0 {
		if have.left--; have.left == 0 {
			delete(r.secrets, id)
		}
	}
	return true
}
