package verify

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/spec"
)

func edgeProbes() []Probe {
	return []Probe{
		{ID: "P-001", Title: "plain HTTP is refused at the edge", SeedRow: "tls: client to edge", Controls: []string{"tls.min13"},
			Proves: []string{"PAY-2", "owasp2021:A02"}, Vantage: fromOutside, Safety: safe, Run: plainEdge,
			Blind: "without TLS 1.3 there is still no plain HTTP"},
		{ID: "P-002", Title: "TLS 1.2 is refused at the edge", SeedRow: "checklist: TLS 1.3 for external traffic", Controls: []string{"tls.min13"},
			Proves: []string{"PAY-2", "owasp2021:A02"}, Vantage: fromOutside, Safety: safe, Run: oldTLS},
		{ID: "P-003", Title: "a route that no document declares does not exist", SeedRow: "owasp: A05", Controls: []string{"edge.route"},
			Proves: []string{"owasp2021:A05", "api2023:API9"}, Vantage: fromOutside, Safety: safe, Run: unknownRoutes,
			Blind: "a request without a route has nowhere to go"},
		{ID: "P-004", Title: "a path has one reading: dot segments, encoded slashes, NUL", SeedRow: "owasp: A01", Controls: []string{"edge.route"},
			Proves: []string{"owasp2021:A01", "owasp2021:A03"}, Vantage: fromOutside, Safety: safe, Run: crookedPaths,
			Blind: "a request without a route has nowhere to go"},
		{ID: "P-005", Title: "a body over the declared size is not read", SeedRow: "validation: gateway", Controls: []string{"validate.max_body"},
			Proves: []string{"owasp2021:A05", "api2023:API4"}, Vantage: fromOutside, Safety: safe, Needs: needBody, Run: oversize},
		{ID: "P-006", Title: "every answer carries the security headers", SeedRow: "owasp: A05", Controls: []string{"headers.security"},
			Proves: []string{"owasp2021:A05", "api2023:API8"}, Vantage: fromOutside, Safety: safe, Run: securityHeaders},
		{ID: "P-007", Title: "identity headers from outside count for nothing", SeedRow: "checklist: AuthN at the edge", Controls: []string{"authn.session"},
			Proves: []string{"owasp2021:A07", "owasp2021:A01"}, Vantage: fromOutside, Safety: safe, Run: forgedHeaders,
			Blind: "no plane can serve without knowing who asks"},
	}
}

func needBody(sys *spec.System) (bool, string) {
	ops, err := operations(sys)
	return err == nil && slices.ContainsFunc(ops, func(o operation) bool { return o.body != nil }), "no operation takes a body"
}

// healthy is the positive control of probes that attack before any login: the
// edge answers over TLS 1.3.
func (e *Env) healthy(ctx context.Context) error {
	_, err := e.mustPass(ctx, "GET over TLS 1.3", get("/_rampart/health"))
	return err
}

// raw opens a TCP connection to the edge from this probe's address.
func (e *Env) raw(ctx context.Context) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: e.http.source}, Timeout: 5 * time.Second}
	conn, err := d.DialContext(ctx, "tcp", e.edgeAddr())
	if err != nil {
		return nil, fmt.Errorf("the edge takes no connection: %w", err)
	}
	conn.SetDeadline(time.Now().Add(8 * time.Second))
	return conn, nil
}

func plainEdge(ctx context.Context, e *Env) (Result, error) {
	if err := e.healthy(ctx); err != nil {
		return Result{}, err
	}
	conn, err := e.raw(ctx)
	if err != nil {
		return Result{}, err
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /_rampart/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err == nil {
		defer res.Body.Close()
		if res.StatusCode < 400 {
			return failed("plain HTTP was answered %d", res.StatusCode), nil
		}
	}
	return e.refusedPeer(ctx, "plain HTTP", conn.LocalAddr().String(), "tls.min13")
}

func oldTLS(ctx context.Context, e *Env) (Result, error) {
	if err := e.healthy(ctx); err != nil {
		return Result{}, err
	}
	conn, err := e.raw(ctx)
	if err != nil {
		return Result{}, err
	}
	defer conn.Close()
	c := tls.Client(conn, &tls.Config{RootCAs: e.roots, ServerName: e.edgeName(), MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12})
	if err := c.HandshakeContext(ctx); err == nil {
		return failed("the edge agreed on TLS 1.2"), nil
	}
	return e.refusedPeer(ctx, "TLS 1.2", conn.LocalAddr().String(), "tls.min13")
}

func unknownRoutes(ctx context.Context, e *Env) (Result, error) {
	if err := e.healthy(ctx); err != nil {
		return Result{}, err
	}
	var attacks []attack
	for _, path := range []string{"/admin", "/debug/pprof/", "/metrics", "/.git/config", "/_rampart/config", "/v1/secrets/x"} {
		if _, ok := e.find(http.MethodGet, path); ok {
			continue
		}
		attacks = append(attacks, attack{path, get(path), []string{"edge.route"}})
	}
	return e.refusedAll(ctx, attacks)
}

func crookedPaths(ctx context.Context, e *Env) (Result, error) {
	r, _, err := e.readable()
	if err != nil {
		return Result{}, err
	}
	who, err := e.visitor(ctx, e.facts())
	if err != nil {
		return Result{}, err
	}
	if _, err := e.mustEnter(ctx, "the straight path", r.with(who)); err != nil {
		return Result{}, err
	}
	var attacks []attack
	for _, crooked := range []string{"/x/..%2f" + strings.TrimPrefix(r.path, "/"), "/x/.." + r.path, "/" + r.path, "/x%00", "/x%252e%252e", "/x\\y", "/.;" + r.path, "/%c0%ae%c0%ae/x"} {
		attacks = append(attacks, attack{crooked, get(crooked).with(who), []string{"edge.route"}})
	}
	return e.refusedAll(ctx, attacks)
}

func oversize(ctx context.Context, e *Env) (Result, error) {
	i := slices.IndexFunc(e.ops, func(o operation) bool { return o.body != nil })
	op := e.ops[i]
	path, err := op.url(nil)
	if err != nil {
		return Result{}, err
	}
	small := request{method: op.method, path: path, body: []byte(`{}`)}
	res, err := e.do(ctx, small)
	if err != nil {
		return Result{}, err
	}
	if res.status == http.StatusRequestEntityTooLarge {
		return unsure("even a body of two bytes is too large for %s", op.path), nil
	}
	e.note("a body of 2 bytes: %d", res.status)
	big := []byte(`{"x":"` + strings.Repeat("a", int(op.flow.Validate.MaxBody)) + `"}`)
	small.body = big
	return e.refused(ctx, attack{fmt.Sprintf("a body of %d bytes, %d allowed", len(big), op.flow.Validate.MaxBody), small, []string{"validate.max_body"}})
}

// hardening is what every answer must carry.
var hardening = map[string]func(string) bool{
	"Strict-Transport-Security": func(v string) bool { return strings.HasPrefix(v, "max-age=") && !strings.HasPrefix(v, "max-age=0") },
	"X-Content-Type-Options":    func(v string) bool { return v == "nosniff" },
	"X-Frame-Options":           func(v string) bool { return v == "DENY" || v == "SAMEORIGIN" },
	"Referrer-Policy":           func(v string) bool { return v != "" && v != "unsafe-url" },
	"Content-Security-Policy": func(v string) bool {
		return strings.Contains(v, "default-src") && !strings.Contains(v, "unsafe-inline") && !strings.Contains(v, "unsafe-eval") && strings.Contains(v, "frame-ancestors")
	},
}

func securityHeaders(ctx context.Context, e *Env) (Result, error) {
	r, _, err := e.readable()
	if err != nil {
		return Result{}, err
	}
	who, err := e.visitor(ctx, e.facts())
	if err != nil {
		return Result{}, err
	}
	for name, req := range map[string]request{"the login page": get("/login"), "an answer from inside": r.with(who), "a refusal": get("/verify-no-such-page")} {
		res, err := e.do(ctx, req)
		if err != nil {
			return Result{}, err
		}
		e.note("%s: %d", name, res.status)
		if missing := softHeaders(res.header); len(missing) > 0 {
			return failed("%s lacks %s", name, strings.Join(missing, ", ")), nil
		}
		for _, tell := range []string{"Server", "X-Powered-By", "Via"} {
			if res.header.Get(tell) != "" {
				return failed("%s tells of the inside: %s", name, tell), nil
			}
		}
	}
	return passed("login page, answers and refusals carry all %d headers", len(hardening)), nil
}

func softHeaders(h http.Header) []string {
	var out []string
	for name, fits := range hardening {
		if !fits(h.Get(name)) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// forgedHeaders poses as the inside: first as nobody, then as a user without
// rights.
func forgedHeaders(ctx context.Context, e *Env) (Result, error) {
	r, _, err := e.readable()
	if err != nil {
		return Result{}, err
	}
	who, err := e.visitor(ctx, e.facts())
	if err != nil {
		return Result{}, err
	}
	if _, err := e.mustEnter(ctx, "with a session", r.with(who)); err != nil {
		return Result{}, err
	}
	principal := b64.EncodeToString(fmt.Appendf(nil, `{"kind":"human","sub":%q,"roles":["admin"]}`, who.subject()))
	forged := http.Header{
		wire.HeaderPrinc: {principal}, "Rampart-Identity": {"v1." + principal + ".AAAA"}, wire.HeaderCred: {wire.TypeSession + " x"}, wire.HeaderClientIP: {"127.0.0.9:1"},
		"X-Forwarded-For": {"127.0.0.9"}, "X-Forwarded-User": {who.name}, "X-Real-Ip": {"127.0.0.9"}, "Forwarded": {"for=127.0.0.9"},
	}
	r.header = forged
	res, err := e.do(ctx, r)
	if err != nil {
		return Result{}, err
	}
	verdict, err := e.attribute(ctx, attack{"forged identity headers", r, []string{"authn.session", "authn.jwt", "authn.api_key"}}, res)
	if err != nil || verdict.Verdict != Pass {
		return verdict, err
	}
	seen, ok, err := e.trail.wait(ctx, patience, byTrace(res.trace))
	if err != nil || !ok {
		return unsure("the refusal is not in the audit log"), err
	}
	if !strings.HasPrefix(seen.Peer, e.http.source.String()+":") {
		return failed("X-Forwarded-For changed the client's address on record to %s", seen.Peer), nil
	}
	return passed("%d forged headers: still nobody, and on record under the socket's own address", len(forged)), nil
}
