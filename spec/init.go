package spec

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/rampart-security/rampart"
)

// InitOptions describes a service that Rampart is put in front of.
type InitOptions struct {
	Name     string   // of the system; required
	Service  string   // name of the service; required
	Upstream string   // where it listens, http://127.0.0.1:PORT; required
	OpenAPI  string   // its document, relative to the file; "" admits GET and HEAD only
	Run      []string // command that starts it; nil when something else does
	Role     string   // that a user needs; default member
}

// edgePort is where the gateway of Init's file listens.
const edgePort = "8443"

// Init returns a rampart.yaml of ten lines for one service behind a login. The
// error is Problems when an option does not fit.
func Init(o InitOptions) ([]byte, error) {
	if o.Name == "" || o.Service == "" || o.Upstream == "" {
		return nil, rampart.Errorf(rampart.Invalid, "", "init needs a name for the system, a name for the service and its upstream")
	}
	if ps := o.taken(); len(ps) > 0 {
		return nil, ps
	}
	or(&o.Role, "member")
	service := []string{"upstream: " + quoted(o.Upstream)}
	if o.OpenAPI != "" {
		service = append(service, "openapi: "+quoted(o.OpenAPI))
	}
	if len(o.Run) > 0 {
		words := make([]string, len(o.Run))
		for i, w := range o.Run {
			words[i] = quoted(w)
		}
		service = append(service, "run: ["+strings.Join(words, ", ")+"]")
	}
	text := fmt.Appendf(nil, `# What this says and what it leaves to safe defaults: rampart check --effective
rampart: v1
system: { name: %s }
services:
  gateway: { role: gateway, listen: ":%s" }
  %s: { %s }
flows:
  - { from: users, to: gateway, authn: session }
  - { from: gateway, to: %s, allow: %s }
demo: { users: { alice: { roles: [%s], organizations: [home] } } }
`, quoted(o.Name), edgePort, quoted(o.Service), strings.Join(service, ", "), quoted(o.Service), quoted("role:"+o.Role), quoted(o.Role))
	if _, err := parse(bundleName, text); err != nil {
		return nil, err
	}
	return text, nil
}

// taken lists what the rest of the file has already: two names, and a port.
func (o InitOptions) taken() Problems {
	var out Problems
	key := join("services", o.Service)
	for name, of := range map[string]string{roleGateway: "the gateway", defaultHuman: "the people who log in"} {
		if o.Service == name {
			out = append(out, Problem{File: bundleName, Key: key, Msg: fmt.Sprintf("%q is the name of %s", name, of), Fix: "name the service otherwise, such as catalog"})
		}
	}
	if _, port := upstreamAt(o.Upstream); port == edgePort {
		out = append(out, Problem{File: bundleName, Key: key + ".upstream", Msg: "port " + edgePort + " is the gateway's", Fix: "let the service listen on another port"})
	}
	return out
}

// upstreamAt returns host and port of a service's address, "" without.
func upstreamAt(upstream string) (host, port string) {
	u, err := url.Parse(upstream)
	if err != nil {
		return "", ""
	}
	return u.Hostname(), u.Port()
}

// quoted writes a text as a YAML value: as it is when nothing in it is
// special, else with the escapes that Go and YAML share.
func quoted(text string) string {
	if nameForm.MatchString(text) && text != "true" && text != "false" && text != "null" {
		return text
	}
	return strconv.Quote(text)
}
