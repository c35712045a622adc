package spec

import (
	"fmt"
	"net/netip"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Edge is how the gateway meets the internet.
type Edge struct {
	TrustedHops   []string `yaml:"trusted_hops" shape:"one"` // CIDRs of proxies in front whose word on the client's address counts; none: the address of the connection
	ProxyProtocol bool     `yaml:"proxy_protocol"`           // connections from trusted_hops begin with a PROXY protocol header of version 2
	Connections   int      `yaml:"connections"`              // at once, default 10000
	PerIP         int      `yaml:"per_ip"`                   // of them from one address (IPv6: /64; a /56 has four times as many, a /48 sixteen), default 256
	Ban           Ban      `yaml:"ban"`
	WAF           *WAF     `yaml:"waf"` // of flows to services that do not say themselves, key by key; exclusions belong to flows
}

// Ban keeps addresses away that are refused again and again: by a credential,
// a policy, a limit, the WAF or the framing guard.
type Ban struct {
	After   Rate     `yaml:"after"`   // refusals of one address (IPv6: /64; a /56 at four times as many, a /48 at sixteen), default 120/m
	First   Duration `yaml:"first"`   // the first ban; each further one is twice as long; default 1m
	Longest Duration `yaml:"longest"` // default 1h
}

// Limits is where gateways that share a load count together, and keep idempotency
// keys.
type Limits struct {
	Store    string `yaml:"store"`    // rediss://HOST:PORT of a Valkey or Redis that takes the planes' certificates
	CA       string `yaml:"ca"`       // PEM file of the store's CA, relative to rampart.yaml; required
	Gateways int    `yaml:"gateways"` // how many share it; while the store is away each admits its share, and none a request with an idempotency key; 1 to 64, default 2
}

// WAF inspects what requests to a service carry for known attacks (the OWASP
// Core Rule Set). In YAML: a map, or one word: a mode, or "detect".
type WAF struct {
	Mode      string       `yaml:"mode"`      // guided (default): values that provably no rule matches are not handed to the rules | full: everything is | off
	Detect    bool         `yaml:"detect"`    // findings are recorded, and nothing is refused
	Paranoia  int          `yaml:"paranoia"`  // level of the rules, 1 (default) to 4
	Threshold int          `yaml:"threshold"` // anomaly score that refuses, 1 to 100, default 5: one critical finding
	Exclude   []WAFExclude `yaml:"exclude"`
}

// WAFExclude takes rules off one field of one operation, for a while.
type WAFExclude struct {
	Route  string    `yaml:"route"`             // "METHOD /path" below the service's mount, as the document writes it
	Field  string    `yaml:"field"`             // "body:/pointer", "query:NAME", "path:NAME", "header:NAME" or "cookie:NAME"
	Rules  []int     `yaml:"rules" shape:"one"` // ids
	Reason string    `yaml:"reason"`
	Until  time.Time `yaml:"until"` // from 00:00 UTC of this date on the rules are back
}

// Resilience says how long the gateway waits for a service and when it stops
// asking.
type Resilience struct {
	Timeout Duration `yaml:"timeout" shape:"brief"` // until the answer begins, default 30s
	Breaker Breaker  `yaml:"breaker"`
}

// Breaker gives a service that fails time to recover.
type Breaker struct {
	Failures int      `yaml:"failures"`           // percent of the last 10 s that opens it, 5 to 100, default 50
	Least    int      `yaml:"least"`              // requests in them before it may open, default 20
	Open     Duration `yaml:"open" shape:"brief"` // how long before one is let through to try, default 5s
}

// CORS lets pages of other origins call a service (Fetch standard, section 3.2).
type CORS struct {
	Origins     []string `yaml:"origins" shape:"one"` // https://HOST[:PORT], exactly; no wildcard
	Headers     []string `yaml:"headers" shape:"one"` // of requests, beyond those that are always allowed
	Expose      []string `yaml:"expose" shape:"one"`  // of answers
	Credentials bool     `yaml:"credentials"`         // with the session cookie: those pages act as the user
	MaxAge      Duration `yaml:"max_age"`             // how long browsers remember, default 10m
}

// Words of Flow.Priority, Flow.Stream, Validate.Response, Validate.Opaque and WAF.Mode.
const (
	PriorityHigh   = "high"
	PriorityNormal = "normal"
	PriorityLow    = "low"

	StreamWebSocket = "websocket"
	StreamEvents    = "sse"
	StreamGRPC      = "grpc"

	ResponseStrict  = "strict"
	ResponseSampled = "sampled"
	ResponseOff     = "off"

	OpaqueGraphQL = "graphql"
	OpaqueGRPC    = "grpc"
	OpaqueUpload  = "upload"

	WAFGuided = "guided"
	WAFFull   = "full"
	WAFOff    = "off"

	wafDetect = "detect" // one word for detect: true
)

var (
	operationForm = regexp.MustCompile(`^(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) /\S*$`)
	fieldForm     = regexp.MustCompile(`^(body:(/[^\s]*)?|(query|path|header|cookie):[^\s:/]{1,128})$`)
)

// fillEdge gives the gateway its bounds.
func fillEdge(svc *Service) {
	if svc.Edge == nil {
		svc.Edge = &Edge{}
	}
	e := svc.Edge
	or(&e.Connections, 10_000)
	or(&e.PerIP, 256)
	or(&e.Ban.After, Rate{120, time.Minute})
	or(&e.Ban.First, Duration(time.Minute))
	or(&e.Ban.Longest, Duration(time.Hour))
	if e.WAF != nil {
		e.WAF.fill()
	}
}

func (w *WAF) fill() {
	or(&w.Mode, WAFGuided)
	or(&w.Paranoia, 1)
	or(&w.Threshold, 5)
}

// fillRoute gives a flow from the gateway to a service what only the edge does.
func (s *System) fillRoute(f *Flow, key string) {
	or(&f.Priority, PriorityNormal)
	s.fillWAF(f, key)
	if f.Upstream == nil {
		f.Upstream = &Resilience{}
	}
	or(&f.Upstream.Timeout, Duration(30*time.Second))
	or(&f.Upstream.Breaker.Failures, 50)
	or(&f.Upstream.Breaker.Least, 20)
	or(&f.Upstream.Breaker.Open, Duration(5*time.Second))
	if s.Services[f.To].OpenAPI != "" {
		or(&f.Validate.Response, ResponseSampled)
	}
	if f.CORS != nil {
		or(&f.CORS.MaxAge, Duration(10*time.Minute))
	}
}

// fillWAF takes what the flow leaves out from its gateway.
func (s *System) fillWAF(f *Flow, key string) {
	own := WAF{}
	if f.WAF != nil {
		own = *f.WAF
	}
	if e := s.Services[f.From].Edge; e != nil && e.WAF != nil {
		or(&own.Mode, e.WAF.Mode)
		or(&own.Paranoia, e.WAF.Paranoia)
		or(&own.Threshold, e.WAF.Threshold)
		if !s.source.has(key + ".waf.detect") {
			own.Detect = e.WAF.Detect
		}
	}
	own.fill()
	f.WAF = &own
}

// waf decodes a single word, or the map of keys.
func (d *decoder) waf(n *yaml.Node, to *WAF, path string) {
	if n.Kind == yaml.MappingNode {
		d.structure(n, reflect.ValueOf(to).Elem(), path)
		return
	}
	if !d.wantTag(n, "!!str", path, "a word or a map", "write waf: full, or waf: { mode: full, paranoia: 2 }") {
		return
	}
	switch n.Value {
	case WAFGuided, WAFFull, WAFOff:
		to.Mode = n.Value
	case wafDetect:
		to.Detect = true
		d.at[path+".detect"] = d.where(path)
	default:
		d.unknown(path, fmt.Sprintf("unknown way to look for attacks %q", shorten(n.Value)), n.Value, words(WAFGuided, WAFFull, WAFOff, wafDetect), "the words are")
	}
}

// meets checks how the gateway meets the internet.
func (c *checker) meets(key string, e Edge) {
	for i, hop := range e.TrustedHops {
		p, err := netip.ParsePrefix(hop)
		at := index(key+".trusted_hops", i)
		switch {
		case err != nil || p != p.Masked():
			c.bad(at, fmt.Sprintf("%q is no network", shorten(hop)), "write it as 10.0.0.0/8, with no bit set behind the prefix")
		case p.Bits() == 0:
			c.bad(at, "everybody is no trusted hop: any client could choose its address", "name the networks of your proxies")
		}
	}
	if e.ProxyProtocol && len(e.TrustedHops) == 0 {
		c.bad(key+".proxy_protocol", "no hop is trusted to say who the client is", "add trusted_hops: [10.0.0.0/8], the networks of your proxies")
	}
	c.number(key+".connections", e.Connections, 16, 1_000_000)
	c.number(key+".per_ip", e.PerIP, 1, 1_000_000)
	c.within(key+".ban.first", e.Ban.First, time.Second, 24*time.Hour)
	c.within(key+".ban.longest", e.Ban.Longest, time.Duration(e.Ban.First), 7*24*time.Hour)
	if e.WAF != nil {
		c.only(key+".waf", "an exclusion is of one operation, and so of one flow", "exclude")
		c.waf(key+".waf", *e.WAF)
	}
}

// number reports a number that is out of bounds, and a 0 that is written: nobody
// means the default by it.
func (c *checker) number(key string, n, least, most int) {
	switch {
	case least > 0 && c.zero[key]: // n is the default by now
		c.bad(key, fmt.Sprintf("want a number from %d to %d, got 0", least, most), fmt.Sprintf("write at least %d, or leave the key out for the default of %d", least, n))
	case n < least || n > most:
		c.bad(key, fmt.Sprintf("want a number from %d to %d", least, most), fmt.Sprintf("write %d", min(max(n, least), most)))
	}
}

func (c *checker) limits() {
	l := c.s.Limits
	if l == nil || !c.need("limits", "store", l.Store != "", "rediss://HOST:PORT") {
		return
	}
	c.number("limits.gateways", l.Gateways, 1, 64)
	u, err := url.Parse(l.Store)
	if err != nil || u.Scheme != "rediss" || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		c.bad("limits.store", fmt.Sprintf("%q is no address of a store", shorten(l.Store)), "write rediss://HOST:PORT: planes show their certificate, so no password stands here")
	}
	if c.need("limits", "ca", l.CA != "", "limits-ca.pem, the CA of the store's certificate") {
		c.checkResource("limits.ca", l.CA, ".pem", ".crt")
	}
}

// route checks what a flow from the gateway to a service adds.
func (c *checker) route(key string, f Flow) {
	c.eachOf(key+".stream", f.Stream, StreamWebSocket, StreamEvents, StreamGRPC)
	c.grpc(key, f)
	c.oneOf(key+".validate.response", f.Validate.Response, ResponseStrict, ResponseSampled, ResponseOff)
	c.eachOf(key+".validate.opaque", f.Validate.Opaque, OpaqueGraphQL, OpaqueGRPC, OpaqueUpload)
	c.waf(key+".waf", *f.WAF)
	c.within(key+".upstream.timeout", f.Upstream.Timeout, 100*time.Millisecond, 10*time.Minute)
	c.number(key+".upstream.breaker.failures", f.Upstream.Breaker.Failures, 5, 100)
	c.number(key+".upstream.breaker.least", f.Upstream.Breaker.Least, 1, 100_000)
	c.within(key+".upstream.breaker.open", f.Upstream.Breaker.Open, 100*time.Millisecond, 10*time.Minute)
	if f.CORS != nil {
		c.cors(key+".cors", *f.CORS)
	}
}

// grpc demands that a flow which carries calls says what that means: nobody reads
// their messages, all are POST, and no answer is kept whole.
func (c *checker) grpc(key string, f Flow) {
	i := slices.Index(f.Stream, StreamGRPC)
	if i < 0 {
		return
	}
	at, svc := index(key+".stream", i), c.s.Services[f.To]
	if !slices.Contains(f.Validate.Opaque, OpaqueGRPC) {
		c.bad(at, "messages of gRPC pass without validation, and the flow does not say so", "add validate: { opaque: grpc }")
	}
	if svc.OpenAPI == "" && !slices.Contains(svc.Methods, "POST") {
		c.bad(at, "calls of gRPC are POST, which "+f.To+" does not take", "add methods: [POST] to services."+f.To)
	}
	if f.Idempotency != nil {
		c.bad(at, "an idempotency key keeps a whole answer, and a call has none", "remove idempotency, or grpc")
	}
}

func (c *checker) eachOf(key string, list []string, allowed ...string) {
	for i, v := range list {
		c.oneOf(index(key, i), v, allowed...)
	}
}

func (c *checker) waf(key string, w WAF) {
	c.oneOf(key+".mode", w.Mode, WAFGuided, WAFFull, WAFOff)
	c.number(key+".paranoia", w.Paranoia, 1, 4)
	c.number(key+".threshold", w.Threshold, 1, 100)
	for i, x := range w.Exclude {
		at := index(key+".exclude", i)
		c.need(at, "route", x.Route != "", `"POST /payments"`)
		c.need(at, "field", x.Field != "", `"body:/note"`)
		c.need(at, "rules", len(x.Rules) > 0, "[942190]")
		c.need(at, "reason", x.Reason != "", "WHY")
		c.need(at, "until", !x.Until.IsZero(), "2027-06-30")
		if x.Route != "" {
			c.match(at+".route", x.Route, operationForm, `write "METHOD /path", such as "POST /payments"`)
		}
		if x.Field != "" {
			c.match(at+".field", x.Field, fieldForm, `write "body:/pointer", "query:NAME", "path:NAME", "header:NAME" or "cookie:NAME"`)
		}
		for j, id := range x.Rules {
			c.number(index(at+".rules", j), id, 900000, 999999)
		}
	}
}

func (c *checker) cors(key string, x CORS) {
	c.need(key, "origins", len(x.Origins) > 0, "[https://app.example.com]")
	for i, o := range x.Origins {
		u, err := url.Parse(o)
		if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || o != "https://"+u.Host || strings.ToLower(u.Host) != u.Host {
			c.bad(index(key+".origins", i), fmt.Sprintf("%q is no origin of the web", shorten(o)), "write https://HOST, in lower case and without a path")
		}
	}
	for list, names := range map[string][]string{"headers": x.Headers, "expose": x.Expose} {
		for i, h := range names {
			c.match(index(key+"."+list, i), h, headerForm, "write a header name")
		}
	}
	c.within(key+".max_age", x.MaxAge, time.Second, 24*time.Hour)
}
