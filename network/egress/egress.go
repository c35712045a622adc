// Package egress is the one way out to an external party. Default deny: a
// Transport reaches one declared host, by declared methods and paths, over
// verified TLS, and never an address inside.
//
// A name is resolved once, every answer is classified, and if any is denied
// nothing is dialled: an answer that mixes public and private addresses is what
// DNS rebinding looks like. What is dialled is the address that was checked, and
// the socket is checked again as it connects. No proxy is used and no redirect
// followed. Kernel rules must back this up: a process that ignores its sidecar
// is stopped by them, not by this package.
package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"code.dny.dev/ssrf"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/network/canonical"
)

// The controls that refuse.
const (
	controlAllow   = "egress.allow"
	controlPrivate = "egress.private_ip"
)

// The bounds of one exchange.
const (
	maxAnswers       = 32
	maxRequestBody   = 8 << 20
	maxResponseBody  = 16 << 20
	maxHeader        = 64 << 10 // of the response
	dialTimeout      = 5 * time.Second
	handshakeTimeout = 5 * time.Second
	headerTimeout    = 25 * time.Second // until the response begins
	idleTimeout      = time.Minute
)

// Resolver turns a name into addresses; *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Options declare a destination.
type Options struct {
	Host    string   // HOST or HOST:PORT, default port 443; a name, never an address
	Methods []string // allowed methods
	Paths   []string // allowed paths: exact, or a prefix that ends in "/*"

	// TLS returns the configuration for a server name. It is asked at each dial,
	// so that roots may change, and must verify: a configuration that skips
	// verification or names another server is refused.
	TLS func(serverName string) (*tls.Config, error)

	StandIn  string         // 127.0.0.1:PORT or [::1]:PORT that is dialled instead; TLS is verified all the same
	Denied   []netip.Prefix // own networks and addresses, beside the built-in ranges
	Resolver Resolver       // if nil, net.DefaultResolver

	// AnyPath and AnyAddress switch egress.allow's methods and paths, and
	// egress.private_ip, off. They exist for throw-away systems in which verify
	// shows what a control is worth.
	AnyPath, AnyAddress bool
}

// Transport is an http.RoundTripper to one destination. It may be used
// concurrently.
type Transport struct {
	opt   Options
	host  string
	port  uint16
	guard *ssrf.Guardian
	http  *http.Transport
}

// New checks opt and returns its Transport. It panics if opt.TLS is nil.
func New(opt Options) (*Transport, error) {
	if opt.TLS == nil {
		panic("egress: TLS must be given")
	}
	if opt.Resolver == nil {
		opt.Resolver = net.DefaultResolver
	}
	host, port, err := destination(opt.Host)
	if err != nil {
		return nil, err
	}
	if err := checkRules(opt); err != nil {
		return nil, err
	}
	t := &Transport{opt: opt, host: host, port: port, guard: newGuard(port, opt.Denied)}
	t.http = &http.Transport{
		Proxy:                  nil, // the guard would see the proxy's address
		DialTLSContext:         t.dial,
		DialContext:            refusePlain,
		ForceAttemptHTTP2:      true, // else a configuration that offers h2 would be answered in a language not understood
		DisableCompression:     true, // a bomb would expand behind the cap
		MaxResponseHeaderBytes: maxHeader,
		ResponseHeaderTimeout:  headerTimeout,
		IdleConnTimeout:        idleTimeout,
		MaxIdleConnsPerHost:    16,
	}
	return t, nil
}

// destination splits and checks HOST[:PORT].
func destination(text string) (host string, port uint16, err error) {
	host, portText, err := net.SplitHostPort(text)
	if err != nil {
		host, portText = text, "443"
	}
	n, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || n == 0 {
		return "", 0, fmt.Errorf("egress: host %q: port must be 1 to 65535", text)
	}
	name, err := canonical.Host(host)
	if err != nil || name != host {
		return "", 0, fmt.Errorf("egress: host %q: must be a lower-case name", text)
	}
	if isNumeric(name) {
		return "", 0, fmt.Errorf("egress: host %q: must be a name, not an address", text)
	}
	return name, uint16(n), nil
}

// isNumeric reports whether some resolver could take name for an address: its
// last label is a number, decimal, octal or hexadecimal (WHATWG URL, section
// 3.5, "ends in a number").
func isNumeric(name string) bool {
	last := name[strings.LastIndexByte(name, '.')+1:]
	if strings.Contains(name, ":") {
		return true
	}
	if strings.HasPrefix(last, "0x") {
		return true
	}
	return strings.Trim(last, "0123456789") == ""
}

func checkRules(opt Options) error {
	if len(opt.Methods) == 0 || len(opt.Paths) == 0 {
		return fmt.Errorf("egress: host %q: methods and paths must be declared", opt.Host)
	}
	for _, p := range opt.Paths {
		if clean, err := canonical.Path(strings.TrimSuffix(p, "*"), ""); err != nil || clean != strings.TrimSuffix(p, "*") {
			return fmt.Errorf("egress: path %q: must be a plain path, or a prefix that ends in /*", p)
		}
		if strings.Contains(strings.TrimSuffix(p, "/*"), "*") {
			return fmt.Errorf("egress: path %q: a star may only stand at the end, after a slash", p)
		}
	}
	if opt.StandIn == "" {
		return nil
	}
	if a, err := netip.ParseAddrPort(opt.StandIn); err != nil || !a.Addr().IsLoopback() {
		return fmt.Errorf("egress: stand-in %q: must be a loopback address and port", opt.StandIn)
	}
	return nil
}

// newGuard adds our ranges to those of the library. Allow lists stay empty: the
// library consults them before its deny lists.
func newGuard(port uint16, own []netip.Prefix) *ssrf.Guardian {
	var v4, v6 []netip.Prefix
	for _, s := range special {
		own = append(own[:len(own):len(own)], s.prefix)
	}
	for _, p := range own {
		if p.Addr().Is4() {
			v4 = append(v4, p)
		} else {
			v6 = append(v6, p)
		}
	}
	return ssrf.New(ssrf.WithPorts(port), ssrf.WithDeniedV4Prefixes(v4...), ssrf.WithDeniedV6Prefixes(v6...))
}

// RoundTrip sends r if it is within what was declared. Errors are rampart.Errors:
// Denied by egress.allow or egress.private_ip, Invalid when the body is too
// large, Unavailable when the destination does not answer. A redirect is an
// answer like any other.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := t.check(r); err != nil {
		closeBody(r)
		return nil, err
	}
	out := r
	if r.Body != nil && r.Body != http.NoBody {
		out = r.Clone(r.Context())
		out.Body, out.GetBody = &cappedBody{ReadCloser: r.Body, left: maxRequestBody}, nil
	}
	resp, err := t.http.RoundTrip(out)
	if err != nil {
		return nil, classified(err)
	}
	resp.Body = &cappedBody{ReadCloser: resp.Body, left: maxResponseBody}
	return resp, nil
}

// CloseIdleConnections closes the connections that nobody uses.
func (t *Transport) CloseIdleConnections() { t.http.CloseIdleConnections() }

// check holds a request against the declaration.
func (t *Transport) check(r *http.Request) error {
	if r.URL.Scheme != "https" {
		return refuse("only https leads out")
	}
	if r.URL.User != nil || r.URL.Fragment != "" || r.URL.Opaque != "" {
		return refuse("address must be plain")
	}
	if !t.isDeclared(r.URL.Host) || r.Host != "" && !t.isDeclared(r.Host) {
		return refuse("host is not declared")
	}
	if r.ContentLength > maxRequestBody {
		return tooLarge()
	}
	if t.opt.AnyPath {
		return nil
	}
	path, err := canonical.Path(r.URL.EscapedPath(), r.URL.RawQuery)
	if err != nil {
		return refuse("path has more than one reading")
	}
	if !slices.Contains(t.opt.Methods, r.Method) || !slices.ContainsFunc(t.opt.Paths, func(p string) bool { return matches(p, path) }) {
		return refuse("method or path is not declared")
	}
	return nil
}

// isDeclared compares a host and port with the declared ones, exactly: what
// needs interpretation is not the declared host.
func (t *Transport) isDeclared(hostport string) bool {
	withPort := net.JoinHostPort(t.host, strconv.Itoa(int(t.port)))
	return hostport == withPort || hostport == t.host && t.port == 443
}

func matches(rule, path string) bool {
	prefix, isPrefix := strings.CutSuffix(rule, "*")
	if isPrefix {
		return strings.HasPrefix(path, prefix) && len(path) > len(prefix)
	}
	return rule == path
}

func refusePlain(context.Context, string, string) (net.Conn, error) {
	return nil, refuse("only https leads out")
}

// dial resolves, classifies, connects and proves who answers. addr is ignored:
// check has made sure that it is the declared one.
func (t *Transport) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	cfg, err := t.config()
	if err != nil {
		return nil, err
	}
	raw, err := t.connect(ctx)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, cfg)
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, unavailable("destination did not prove its identity", err)
	}
	return conn, nil
}

// config asks for the TLS configuration and refuses one that proves nothing.
func (t *Transport) config() (*tls.Config, error) {
	cfg, err := t.opt.TLS(t.host)
	if err != nil {
		return nil, unavailable("destination cannot be verified", err)
	}
	if cfg == nil || cfg.InsecureSkipVerify || cfg.ServerName != t.host {
		return nil, &rampart.Error{Kind: rampart.Internal, Msg: "egress: TLS configuration does not verify the declared host", Control: controlAllow}
	}
	return cfg, nil
}

func (t *Transport) connect(ctx context.Context) (net.Conn, error) {
	dialer := net.Dialer{Timeout: dialTimeout}
	if t.opt.StandIn != "" {
		conn, err := dialer.DialContext(ctx, "tcp", t.opt.StandIn)
		if err != nil {
			return nil, unavailable("stand-in does not answer", err)
		}
		return conn, nil
	}
	addrs, err := t.resolve(ctx)
	if err != nil {
		return nil, err
	}
	if !t.opt.AnyAddress {
		dialer.Control = t.control
	}
	var last error
	for _, a := range addrs {
		conn, err := dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(a, t.port).String())
		if err == nil {
			return conn, nil
		}
		last = err
	}
	if rampart.KindOf(last) == rampart.Denied {
		return nil, last
	}
	return nil, unavailable("destination does not answer", last)
}

// resolve looks the name up once and refuses all answers if one is denied.
func (t *Transport) resolve(ctx context.Context) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	// The final dot keeps search domains out of it.
	addrs, err := t.opt.Resolver.LookupNetIP(ctx, "ip", t.host+".")
	if err != nil || len(addrs) == 0 {
		return nil, unavailable("destination's name does not resolve", err)
	}
	if len(addrs) > maxAnswers {
		return nil, unavailable("destination's name has too many addresses", nil)
	}
	for i, a := range addrs {
		// The resolver may write an A record as ::ffff:a.b.c.d. As IPv4 it is
		// judged by what will be dialled.
		addrs[i] = a.Unmap()
		if why := t.denies(addrs[i]); why != "" {
			return nil, private(why)
		}
	}
	return addrs, nil
}

// denies returns why an address may not be dialled, "" if it may.
func (t *Transport) denies(a netip.Addr) string {
	if t.opt.AnyAddress {
		return ""
	}
	return classify(t.guard, a)
}

// control judges the address once more as the socket connects.
func (t *Transport) control(network, address string, c syscall.RawConn) error {
	if err := t.guard.Safe(network, address, c); err != nil {
		return private("special purpose")
	}
	return nil
}

// classified turns whatever a transport returns into an error of ours.
func classified(err error) error {
	if _, ok := errors.AsType[*rampart.Error](err); ok {
		return err
	}
	return unavailable("destination does not answer", err)
}

func refuse(msg string) error {
	return rampart.Errorf(rampart.Denied, controlAllow, "egress: %s", msg)
}

func private(why string) error {
	return &rampart.Error{Kind: rampart.Denied, Control: controlPrivate, Msg: "egress: destination's address is not allowed", Err: errors.New(why)}
}

func unavailable(msg string, err error) error {
	return &rampart.Error{Kind: rampart.Unavailable, Control: controlAllow, Msg: "egress: " + msg, Err: err}
}
