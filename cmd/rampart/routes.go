package main

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/validate/openapi"
)

func routesCmd() *cobra.Command {
	var file string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "routes [SERVICE]",
		Short: "List what the edge serves: path, who may, and what is checked",
		Long: `routes prints one line for each operation that the gateway serves, with the path as
clients write it: the service's mount and the path of its document. It reads the
file alone; nothing needs to run. Of a service without an OpenAPI document whatever
is below its mount is passed on, shown as /NAME/* for each permission.

CALLERS are the credentials that the ways in take, ASKS is what the gateway asks of
them: a permission or an entry of allow, and a step-up. VALIDATED says whether a
schema is checked. REPEATS says what a request that changes something carries against
being carried out twice: a nonce, an idempotency key (required, or heeded where there
is one). STREAMS are what may stay open: websocket, sse, grpc. CORS names the origins whose pages may read answers, "with session" if as the
user who looks at them. LIMITS are the largest body and the widest rates of an address
and a user.

The gateway itself answers below /login, /logout, /session, /sessions, /account,
/oidc, /oauth2, /.well-known and /_rampart.`,
		Example: `  rampart routes
  rampart routes catalog
  rampart routes -f examples/payments/rampart.yaml --json`,
		Args: namedArgs,
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			return completeRouted(file, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			sys, err := loadCompiled(file)
			if err != nil {
				return err
			}
			list, err := routesTo(sys, args)
			if err != nil {
				return err
			}
			f := adminFlags{json: asJSON}
			return f.show(cmd, list, routeTable(list), "the gateway passes nothing on; add a flow from it to a service")
		},
	}
	fileFlag(cmd, &file)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	worded(cmd)
	return cmd
}

// completeRouted offers the services behind the gateway of the file.
func completeRouted(file string, args []string) ([]string, cobra.ShellCompDirective) {
	sys, err := spec.Load(file)
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return routed(sys), cobra.ShellCompDirectiveNoFileComp
}

// routed lists the services behind the gateway.
func routed(sys *spec.System) []string {
	var out []string
	for _, f := range sys.FlowsFrom(sys.Gateway()) {
		out = append(out, f.To)
	}
	slices.Sort(out)
	return out
}

// route is one operation at the edge, or all of a service without a document.
type route struct {
	Method    string      `json:"method"` // several, with commas, without a document
	Path      string      `json:"path"`   // as clients write it; "/NAME/*" without a document
	Service   string      `json:"service"`
	Operation string      `json:"operation,omitempty"` // operationId; "": none
	Callers   []wayIn     `json:"callers"`             // none: nobody gets in
	Asks      []string    `json:"asks"`                // one suffices
	Require   string      `json:"require,omitempty"`   // permission that is asked besides
	StepUp    *routeProof `json:"step_up,omitempty"`
	Validated bool        `json:"validated"`
	WAF       string      `json:"waf"` // guided | full | off
	Detect    bool        `json:"detect,omitempty"`
	Nonce     *routeNonce `json:"nonce,omitempty"`
	Key       *routeKey   `json:"idempotency,omitempty"`
	Streams   []string    `json:"streams,omitempty"` // websocket, sse, grpc: what may stay open on the service's flow
	CORS      *routeCORS  `json:"cors,omitempty"`    // nil: no page of another origin reads answers
	Limits    routeLimits `json:"limits"`
}

// wayIn is one flow into the gateway.
type wayIn struct {
	From  string `json:"from"`
	Authn string `json:"authn"` // joined by +: all of them
	IP    string `json:"ip"`
	User  string `json:"user"`
}

type routeProof struct {
	ACR    string `json:"acr,omitempty"`
	MaxAge string `json:"max_age,omitempty"`
}

// routeNonce and routeKey are there for methods that change something.
type routeNonce struct {
	Header string `json:"header"`
	Window string `json:"window"`
}

type routeKey struct {
	Header   string `json:"header"`
	Required bool   `json:"required"`
	Keep     string `json:"keep"`
}

type routeCORS struct {
	Origins     []string `json:"origins"`
	Credentials bool     `json:"credentials"`
}

type routeLimits struct {
	Body string `json:"body"`
	IP   string `json:"ip,omitempty"`   // the widest of the ways in, as the gateway counts
	User string `json:"user,omitempty"` // the same
}

// routesTo lists the routes of the services that are asked for; of all if none is.
func routesTo(sys *spec.System, services []string) ([]route, error) {
	if known := routed(sys); len(services) > 0 && !slices.Contains(known, services[0]) {
		return nil, usageError("the gateway passes nothing on to a service %q; %s", services[0], nearService(services[0], known))
	}
	ops, _, err := operations(sys)
	if err != nil {
		return nil, err
	}
	out := []route{}
	for _, f := range sys.FlowsFrom(sys.Gateway()) {
		if len(services) == 0 || f.To == services[0] {
			out = append(out, routesOf(sys, f, ops[f.To])...)
		}
	}
	slices.SortFunc(out, func(a, b route) int { return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Method, b.Method)) })
	return out, nil
}

func nearService(name string, known []string) string {
	if near, ok := spec.Nearest(name, known); ok {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return "those behind it are: " + strings.Join(known, ", ")
}

func routesOf(sys *spec.System, f spec.Flow, ops []*openapi.Operation) []route {
	svc := sys.Services[f.To]
	if ops == nil {
		return undocumented(sys, f, svc)
	}
	var out []route
	for _, op := range ops {
		r := routeOf(sys, f, op.Method)
		r.Path, r.Validated = strings.TrimSuffix(svc.Mount, "/")+op.Path, true
		if op.ID != op.Method+" "+op.Path {
			r.Operation = op.ID
		}
		if len(r.Asks) == 0 {
			r.Asks = []string{op.Permission}
		}
		if d := f.Demand(op.Method, op.Path); d != (spec.Demand{}) {
			r.StepUp = &routeProof{ACR: d.ACR}
			if d.MaxAge > 0 {
				r.StepUp.MaxAge = spec.Duration(d.MaxAge).String()
			}
		}
		out = append(out, r)
	}
	return out
}

// undocumented is all of a service that no document describes, a route for each
// permission. Which of its paths ask for a step-up its requests show.
func undocumented(sys *spec.System, f spec.Flow, svc spec.Service) []route {
	var out []route
	for _, method := range svc.Methods {
		r := routeOf(sys, f, method)
		r.Path = svc.Mount + "*"
		if len(r.Asks) == 0 {
			r.Asks = []string{f.To + ":" + openapi.Verb(method)}
		}
		same := func(o route) bool { return slices.Equal(o.Asks, r.Asks) && o.repeats() == r.repeats() }
		if i := slices.IndexFunc(out, same); i >= 0 {
			out[i].Method += "," + method
			continue
		}
		out = append(out, r)
	}
	return out
}

// routeOf is what all routes of a flow with a method have in common.
func routeOf(sys *spec.System, f spec.Flow, method string) route {
	r := route{Method: method, Service: f.To, Callers: []wayIn{}, Asks: f.Allow, Require: f.Authz.Require, WAF: f.WAF.Mode, Detect: f.WAF.Detect, Streams: f.Stream, Limits: routeLimits{Body: f.Validate.MaxBody.String()}}
	var ip, user spec.Rate
	for _, in := range sys.FlowsTo(sys.Gateway()) {
		r.Callers = append(r.Callers, wayIn{in.From, strings.Join(in.Authn.All, "+"), in.Limit.IP.String(), in.Limit.User.String()})
		ip, user = wider(ip, in.Limit.IP), wider(user, in.Limit.User)
	}
	if len(r.Callers) > 0 {
		r.Limits.IP, r.Limits.User = ip.String(), user.String()
	}
	if f.CORS != nil {
		r.CORS = &routeCORS{f.CORS.Origins, f.CORS.Credentials}
	}
	if method != http.MethodGet && method != http.MethodHead {
		r.Nonce, r.Key = onceOnly(f)
	}
	return r
}

// onceOnly is what a flow has against requests that come twice.
func onceOnly(f spec.Flow) (*routeNonce, *routeKey) {
	var nonce *routeNonce
	var key *routeKey
	if n := f.Nonce; n != nil {
		nonce = &routeNonce{n.Header, n.Window.String()}
	}
	if k := f.Idempotency; k != nil {
		key = &routeKey{k.Header, k.Required, k.Keep.String()}
	}
	return nonce, key
}

// wider is the rate that allows more in the long run; the zero Rate allows nothing.
func wider(a, b spec.Rate) spec.Rate {
	if a == (spec.Rate{}) || float64(b.N)/b.Per.Seconds() > float64(a.N)/a.Per.Seconds() {
		return b
	}
	return a
}

func routeTable(list []route) table {
	t := table{head: []string{"METHOD", "PATH", "SERVICE", "OPERATION", "CALLERS", "ASKS", "VALIDATED", "WAF", "REPEATS", "STREAMS", "CORS", "LIMITS"}}
	for _, r := range list {
		validated := "yes"
		if !r.Validated {
			validated = "no"
		}
		t.add(r.Method, r.Path, r.Service, cmp.Or(r.Operation, "-"), r.callers(), r.asks(), validated, r.waf(), r.repeats(), cmp.Or(strings.Join(r.Streams, " "), "-"), r.cors(), r.limits())
	}
	return t
}

func (r route) callers() string {
	var out []string
	for _, w := range r.Callers {
		if !slices.Contains(out, w.Authn) {
			out = append(out, w.Authn)
		}
	}
	return cmp.Or(strings.Join(out, " | "), "nobody")
}

func (r route) asks() string {
	out := strings.Join(r.Asks, " | ")
	if r.Require != "" {
		out += " + " + r.Require
	}
	if s := r.StepUp; s != nil {
		out += " + step-up " + strings.TrimSpace(s.ACR+" "+s.MaxAge)
	}
	return out
}

func (r route) waf() string {
	if r.Detect && r.WAF != spec.WAFOff {
		return r.WAF + ", detect"
	}
	return r.WAF
}

func (r route) repeats() string {
	var out []string
	if r.Nonce != nil {
		out = append(out, "nonce")
	}
	if r.Key != nil {
		out = append(out, "key")
		if r.Key.Required {
			out[len(out)-1] += " required"
		}
	}
	return cmp.Or(strings.Join(out, " + "), "-")
}

// maxOriginsShown keeps a line of the table in sight; --json has them all.
const maxOriginsShown = 2

func (r route) cors() string {
	if r.CORS == nil {
		return "-"
	}
	shown := r.CORS.Origins[:min(len(r.CORS.Origins), maxOriginsShown)]
	out := strings.Join(shown, ", ")
	if more := len(r.CORS.Origins) - len(shown); more > 0 {
		out += fmt.Sprintf(" and %d more", more)
	}
	if r.CORS.Credentials {
		out += ", with session"
	}
	return out
}

func (r route) limits() string {
	out := "body " + r.Limits.Body
	if r.Limits.IP != "" {
		out += ", ip " + r.Limits.IP + ", user " + r.Limits.User
	}
	return out
}
