package vaulttest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// system is what is mounted at sys.
type system struct{}

func (system) serve(s *Server, c *call) *response {
	area, name, _ := strings.Cut(c.path, "/")
	switch area {
	case "mounts", "auth":
		return s.mount(c, area, name)
	case "policies":
		return s.setPolicy(c, strings.TrimPrefix(name, "acl/"))
	case "namespaces":
		s.spaces[c.ns+name+"/"] = true
		return &response{data: map[string]any{"path": name + "/"}}
	case "leases":
		return s.serveLease(c, name)
	case "wrapping":
		if name == "unwrap" && c.op == "write" {
			return s.unwrap(c)
		}
	}
	return fail(http.StatusNotFound, "unsupported path")
}

// mount puts an engine or an auth method at a path, or removes it.
func (s *Server) mount(c *call, area, name string) *response {
	at, kind := c.ns+strings.Trim(name, "/")+"/", c.text("type")
	if area == "auth" {
		at = c.ns + "auth/" + strings.Trim(name, "/") + "/"
	}
	if c.op == "delete" {
		delete(s.mounts, at)
		return &response{}
	}
	if _, ok := s.mounts[at]; ok || c.op != "write" {
		return fail(http.StatusBadRequest, "path is already in use at "+at)
	}
	var e engine
	switch area + " " + kind {
	case "mounts kv", "mounts kv-v2":
		e = newKV()
	case "mounts transit":
		e = &transit{keys: map[string]*transitKey{}}
	case "mounts database":
		e = &database{roles: map[string]*dbRole{}}
	case "mounts pki":
		e = &pki{}
	case "auth approle", "auth kubernetes", "auth cert":
		e = &method{kind: kind, roles: map[string]*role{}}
	default:
		return fail(http.StatusBadRequest, fmt.Sprintf("plugin not found in the catalog: %s", kind))
	}
	s.mounts[at] = e
	return &response{}
}

// setPolicy takes a policy in JSON; the real servers read HCL, of which that is a form.
func (s *Server) setPolicy(c *call, name string) *response {
	if c.op == "delete" {
		delete(s.rules, c.ns+name)
		return &response{}
	}
	var in struct {
		Path map[string]struct{ Capabilities []string }
	}
	if err := json.Unmarshal([]byte(c.text("policy")), &in); err != nil {
		return fail(http.StatusBadRequest, "failed to parse policy")
	}
	p := policy{}
	for path, rule := range in.Path {
		p[path] = rule.Capabilities
	}
	s.rules[c.ns+name] = p
	return &response{}
}

// lease is a secret that ends.
type lease struct {
	id        string
	renewable bool
	ttl       time.Duration
	until     time.Time
	most      time.Time
	by        *token // it ends with it, at the latest
	user      string // of a database; "": none
}

func (s *Server) newLease(c *call, ttl, most time.Duration) *lease {
	l := &lease{id: c.mount + c.path + "/" + s.id("lease"), renewable: true, ttl: ttl, until: s.now().Add(min(ttl, most)), most: s.now().Add(most), by: c.token}
	s.leases[l.id] = l
	return l
}

// over reports whether a lease has ended: by itself, or with its token.
func (l *lease) over(now time.Time) bool { return !now.Before(l.until) || l.by.ended(now) }

// end ends a lease now. A user that cannot be dropped is tried again.
func (s *Server) end(l *lease) {
	delete(s.leases, l.id)
	if l.user != "" && s.users().Drop(l.user) != nil {
		l.until = s.now()
		s.leases[l.id] = l
		s.watch(l, time.Second)
	}
}

// watch looks at a lease after a time, and has it end when it is over. Where
// nothing is to be dropped, it is enough to look when somebody asks.
func (s *Server) watch(l *lease, after time.Duration) {
	if s.Users == nil {
		return
	}
	time.AfterFunc(max(after, 0), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case s.over || s.leases[l.id] != l:
		case s.off || !l.over(s.now()):
			s.watch(l, 100*time.Millisecond)
		default:
			s.end(l)
		}
	})
}

func (s *Server) serveLease(c *call, verb string) *response {
	if prefix, ok := strings.CutPrefix(verb, "revoke-prefix/"); ok && c.op == "write" {
		for id, l := range s.leases {
			if strings.HasPrefix(id, prefix) {
				s.end(l)
			}
		}
		return &response{}
	}
	l := s.leases[c.text("lease_id")]
	gone := l == nil || l.over(s.now())
	switch {
	case c.op == "write" && verb == "revoke":
		if l != nil {
			s.end(l)
		}
		return &response{}
	case c.op != "write" || verb != "renew":
		return fail(http.StatusNotFound, "unsupported path")
	case gone:
		return fail(http.StatusBadRequest, "lease not found")
	case !l.renewable:
		return fail(http.StatusBadRequest, "lease is not renewable")
	}
	by := c.duration("increment", l.ttl)
	if by <= 0 {
		by = l.ttl
	}
	resp := &response{lease: l}
	if l.until = s.now().Add(by); l.until.After(l.most) {
		l.until = l.most
		resp.warnings = []string{fmt.Sprintf("TTL of %q exceeded the effective max_ttl of %q; TTL value is capped accordingly", by, l.most.Sub(s.now()))}
	}
	if l.user != "" && s.users().Renew(l.user, l.until) != nil {
		return fail(http.StatusInternalServerError, "1 error occurred:\n\t* failed to renew entry")
	}
	return resp
}

// wrapped is a reply that waits to be unwrapped, once.
type wrapped struct {
	resp  *response
	until time.Time
}

func (s *Server) wrap(w http.ResponseWriter, c *call, resp *response, ttl time.Duration) {
	id := s.id("hvs.wrap")
	s.wraps[id] = wrapped{resp, s.now().Add(ttl)}
	out := s.envelope(&response{})
	out["wrap_info"] = map[string]any{
		"token": id, "accessor": "accessor", "ttl": int(ttl / time.Second), "creation_time": s.now().UTC().Format(time.RFC3339Nano),
		"creation_path": c.mount + c.path,
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out)
}

func (s *Server) unwrap(c *call) *response {
	id := c.text("token")
	if id == "" {
		id = c.r.Header.Get("X-Vault-Token")
	}
	w, ok := s.wraps[id]
	delete(s.wraps, id)
	if !ok || !s.now().Before(w.until) {
		return fail(http.StatusBadRequest, "wrapping token is not valid or does not exist")
	}
	return w.resp
}
