package spec

import (
	"cmp"
	"fmt"
	"net"
	"path"
	"slices"
	"strings"
)

// Warnings returns what is allowed but deserves a look, sorted by position, at
// most 20. The caller must not change the slice.
func (s *System) Warnings() []Problem { return s.warnings }

// warn collects the warnings of a System that check accepted.
func warn(s *System) []Problem {
	r := newReport(s.source.file)
	r.at, r.sys = s.source.at, s
	s.warnServices(r)
	s.warnFlows(r)
	s.warnRoles(r)
	if len(s.Unsafe.Disable) > 0 {
		r.bad("unsafe.disable", "switches off "+strings.Join(s.Unsafe.Disable, ", "), "every plane refuses this file outside a throw-away state folder")
	}
	return r.problems()
}

func (s *System) warnServices(r *report) {
	reached, called := map[string]bool{}, map[string]bool{}
	for i := range s.Flows {
		f := &s.Flows[i]
		reached[f.To] = true
		called[f.To] = called[f.To] || s.flowKindOf(*f).internal()
	}
	for _, name := range sortedNames(s.Services) {
		svc, key := s.Services[name], join("services", name)
		if svc.Role == roleGateway {
			if !reached[name] {
				r.bad(key, "no principal reaches the gateway, so nothing outside is served", "add { from: users, to: "+name+", authn: session } to flows")
			}
			continue
		}
		r.warnFileServer(key, svc.Run)
		s.warnPort(r, key, svc)
		if !reached[name] {
			r.bad(key, "no flow reaches the service, so nobody can call it", "add { from: "+cmp.Or(s.Gateway(), "SERVICE")+", to: "+name+" } to flows")
		}
		if called[name] && svc.OpenAPI == "" {
			if r.has(key + ".methods") {
				key += ".methods"
			}
			r.bad(key, "without an openapi document requests are not validated, and only "+strings.Join(svc.Methods, " and ")+" pass", "add openapi: FILE, or list in methods: what may pass unvalidated, such as methods: [GET, HEAD, POST]")
		}
	}
}

// warnPort speaks up when a service has the port of the gateway. It is no fault:
// the two may run on machines of their own.
func (s *System) warnPort(r *report, key string, svc Service) {
	host, port, _ := net.SplitHostPort(s.Services[s.Gateway()].Listen)
	at, same := upstreamAt(svc.Upstream)
	if port == "" || port != same {
		return
	}
	if host == "" || net.ParseIP(host).IsUnspecified() || sameHost(host, at) {
		r.bad(key+".upstream", "port "+port+" is the gateway's too, so on one machine only one of them starts", "give the service another port")
	}
}

// sameHost compares two hosts of this machine.
func sameHost(a, b string) bool {
	if a == "localhost" {
		a = "127.0.0.1"
	}
	if b == "localhost" {
		b = "127.0.0.1"
	}
	return a == b
}

// warnFileServer speaks up when a service is Python's file server as it is by
// default: in the folder where the file lies, and mostly the state folder with
// its keys beside it, and on every address, where nobody logs in.
func (r *report) warnFileServer(key string, run []string) {
	words := strings.Fields(strings.Join(run, " ")) // a shell's line too
	at := slices.Index(words, "http.server")
	if at < 1 || words[at-1] != "-m" {
		return
	}
	moved := slices.Contains(words[:at], "cd")
	if dir := optionOf(words[at:], "--directory", "-d"); !moved && (dir == "" || path.Clean(dir) == ".") {
		r.bad(key+".run", "http.server hands out every file of the folder where it starts, and so the state folder's keys and credentials if that is there", "keep what it serves in a folder of its own and add --directory, FOLDER")
	}
	if bind := optionOf(words[at:], "--bind", "-b"); bind == "" || bind == "0.0.0.0" || bind == "::" {
		r.bad(key+".run", "http.server listens on every address of the machine, where it is reached around the sidecar, without a login", "add --bind, 127.0.0.1")
	}
}

// optionOf is the value that a command line gives an option, "" without it.
func optionOf(words []string, long, short string) string {
	for i, w := range words {
		if v, ok := strings.CutPrefix(w, long+"="); ok {
			return v
		}
		if (w == long || w == short) && i+1 < len(words) {
			return words[i+1]
		}
	}
	return ""
}

func (s *System) warnFlows(r *report) {
	for i, f := range s.Flows {
		key := index("flows", i)
		if slices.Contains(f.Allow, "any") {
			r.bad(key+".allow", "every caller that proves who it is may use this flow", `write "role:NAME" to narrow it`)
		}
		if kind := s.flowKindOf(f); kind != flowPublish && kind != flowDeliver {
			continue
		}
		if f.Message == nil || f.Message.Sign == "" && len(f.Message.AcceptFrom) == 0 {
			r.bad(key, "messages are not signed, so whoever reaches the queue can forge them", "add sign: svid where they are published and accept_from where they are taken")
		}
		if f.Message == nil || f.Message.Schema == "" {
			r.bad(key, "messages are not checked against a schema", "add message: { schema: FILE.json }")
		}
	}
}

// warnRoles speaks up when a flow allows a role that a file with roles does
// not declare: it may be a slip of the pen.
func (s *System) warnRoles(r *report) {
	if !r.has("authz.roles") {
		return
	}
	declared := map[string]bool{}
	for name := range s.Authz.Roles {
		if r.has(join("authz.roles", name)) {
			declared[name] = true
		}
	}
	for i, f := range s.Flows {
		for j, a := range f.Allow {
			role, ok := strings.CutPrefix(a, "role:")
			if ok && !declared[role] {
				r.unknown(index(index("flows", i)+".allow", j), fmt.Sprintf("role %q is not declared and holds no permission", role), role, declared, "declared are")
			}
		}
	}
}
