package spec

import "time"

// System is one rampart.yaml, parsed, checked and with every default filled
// in. It is read-only after Load: planes share one value between goroutines.
type System struct {
	Version    string               `yaml:"rampart"`
	Info       Info                 `yaml:"system"`
	Data       map[string]Data      `yaml:"data"`
	Zones      map[string]Zone      `yaml:"zones"`
	Principals map[string]Principal `yaml:"principals"`
	Plans      map[string]Plan      `yaml:"plans"`
	Authz      Authz                `yaml:"authz"`
	Sessions   Sessions             `yaml:"sessions"`
	Identity   Identity             `yaml:"identity"`
	Revocation Revocation           `yaml:"revocation"`
	Trust      Trust                `yaml:"trust"`
	Secrets    map[string]Backend   `yaml:"secrets"`
	KEK        KEK                  `yaml:"kek"`
	Limits     *Limits              `yaml:"limits"` // nil: each gateway counts for itself
	Services   map[string]Service   `yaml:"services"`
	Stores     map[string]Store     `yaml:"stores"`
	External   map[string]External  `yaml:"external"`
	Flows      []Flow               `yaml:"flows"`
	Threats    map[string]Named     `yaml:"threats"`
	Accept     []Accept             `yaml:"accept"`
	Verify     Verify               `yaml:"verify"`
	Demo       Demo                 `yaml:"demo"`
	Unsafe     Unsafe               `yaml:"unsafe"`

	bundle   Bundle    // the bytes this System was read from
	source   *report   // where each key stands; nil for a System that was not read from text
	warnings []Problem // sorted by position
}

// Info names the system.
type Info struct {
	Name        string `yaml:"name"` // lower-case letters, digits and dashes; required
	Owner       string `yaml:"owner"`
	Criticality string `yaml:"criticality" oneof:"low medium high"` // low | medium | high; default medium
	TrustDomain string `yaml:"trust_domain"`                        // SPIFFE trust domain; default NAME.internal
}

// Data is one kind of information that flows carry and stores hold.
type Data struct {
	Class     string   `yaml:"class" oneof:"public internal confidential secret"` // public | internal | confidential | secret; default internal
	Integrity string   `yaml:"integrity" oneof:"normal high critical"`            // normal | high | critical
	PCI       bool     `yaml:"pci"`
	PII       []string `yaml:"pii"`                      // names of fields that identify people
	Encrypt   string   `yaml:"encrypt" oneof:"envelope"` // "" | envelope
	Shred     string   `yaml:"shred"`                    // encrypt: what can be made unreadable at once: tenant (default) | subject, one person
	RowMAC    bool     `yaml:"row_mac"`                  // rows carry a MAC over their integrity columns
	Kind      string   `yaml:"kind" oneof:"credential"`  // "" | credential
	Source    string   `yaml:"source"`                   // credential: secret://BACKEND/PATH[#FIELD]; a literal secret is refused

	Search map[string]string `yaml:"search"` // encrypt: field of pii -> email | phone | exact, how a value is normalised to be found by equality; it leaks which rows are equal

	Cache    Duration `yaml:"cache"`    // credential: how long planes remember it, 1s to 1h, default 5m
	Rotate   Duration `yaml:"rotate"`   // credential: rotate at this age
	Generate string   `yaml:"generate"` // credential: prefix of a random value made when the store has none
}

// Zone is a trust boundary's inside. A flow between two zones crosses one.
type Zone struct {
	Trust   int  `yaml:"trust"` // 0 (hostile) to 100
	Private bool `yaml:"private"`
}

// Principal is a kind of caller outside the system.
type Principal struct {
	Kind string `yaml:"kind" oneof:"human client"` // human | client; default human
	Zone string `yaml:"zone"`                      // default internet
	Plan string `yaml:"plan"`                      // client: key of plans
}

// Plan is what an API key may do per window.
type Plan struct {
	APIKey      Rate `yaml:"api_key"`
	Quota       Rate `yaml:"quota"`       // kept across restarts, counted from 00:00 UTC where it is per day; the zero Rate: no quota
	Concurrency int  `yaml:"concurrency"` // requests of one key in flight at once, default 100
}

// Authz holds what decisions of all services rest on. Policies belong to
// services and flows.
type Authz struct {
	Roles     map[string][]string     `yaml:"roles"`      // role -> permissions "type:verb" or "type:*", or "role:OTHER" to include another role
	Separate  []Separation            `yaml:"separate"`   // separation of duty
	Types     map[string]AuthzType    `yaml:"types"`      // resource types that policies speak of, in the singular
	Model     string                  `yaml:"model"`      // file of relations in the OpenFGA modelling language, *.fga
	FromToken map[string]string       `yaml:"from_token"` // "team#member" -> the fact of the subject that names the objects: team, managed_teams, organizations, roles
	Providers map[string]AttrProvider `yaml:"providers"`  // of attributes that neither the service nor a token knows
	OpenFGA   *OpenFGA                `yaml:"openfga"`    // nil: relations are held by each sidecar
	Bundle    PolicyBundle            `yaml:"bundle"`
	Log       DecisionLog             `yaml:"log"`
}

// Separation names roles that nobody may use together (ANSI/INCITS 359).
type Separation struct {
	Roles []string `yaml:"roles"` // at least two
	Kind  string   `yaml:"kind"`  // static (default): nobody is granted two of them | dynamic: nobody acts with two of them at once
}

// AuthzType is one type of resource.
type AuthzType struct {
	Actions   []string             `yaml:"actions" shape:"one"` // "type:verb" that apply to it
	Attrs     map[string]AuthzAttr `yaml:"attrs"`
	Relations []string             `yaml:"relations" shape:"one"` // of the model, that policies read as relation.NAME
	Grants    map[string]string    `yaml:"grants"`                // action -> relation of the model that permits it
	Table     string               `yaml:"table"`                 // of its rows
	Columns   map[string]string    `yaml:"columns"`               // attribute, id or tenant -> column, where the names differ
}

// AuthzAttr is one attribute. In YAML: a type, with "?" behind it when the
// attribute is optional, or {type: ..., optional: ..., class: ..., pii: ..., provider: ...}.
type AuthzAttr struct {
	Type     string `yaml:"type"` // string | bool | long | decimal | strings
	Optional bool   `yaml:"optional"`
	Class    string `yaml:"class"` // default internal
	PII      bool   `yaml:"pii"`
	Provider string `yaml:"provider"` // key of providers; "" when the service supplies it
}

// AttrProvider is a service that answers GET PATH/{type}/{id} with a JSON
// object of attributes. A flow to it must be declared.
type AttrProvider struct {
	Service string   `yaml:"service"`
	Path    string   `yaml:"path"`                  // default /attributes
	Cache   Duration `yaml:"cache"`                 // default 0: asked each time
	Timeout Duration `yaml:"timeout" shape:"brief"` // default 100ms
}

// OpenFGA is a server that holds the relations instead.
type OpenFGA struct {
	Address string `yaml:"address"` // host:port of its gRPC listener
	Store   string `yaml:"store"`   // id of the store
	Token   string `yaml:"token"`   // secret://BACKEND/PATH[#FIELD] of the pre-shared key; "" for none
	CA      string `yaml:"ca"`      // PEM file of its CA, relative to rampart.yaml; "" only for a server on loopback without TLS
}

// PolicyBundle bounds how policies reach the planes.
type PolicyBundle struct {
	Keys         []string `yaml:"keys" shape:"one"` // Ed25519 public keys, base64url, of those who may sign policies; none: the control plane signs
	Expires      Duration `yaml:"expires"`          // of what the control plane signs, default 30d
	MaxStaleness Duration `yaml:"max_staleness"`    // how long a plane decides by a bundle that it cannot renew, default 24h
	Replay       int      `yaml:"replay"`           // newest decisions that a new bundle is tried on, default 200
	MaxChanged   int      `yaml:"max_changed"`      // percent of them that may come out otherwise; more refuses the bundle; default 100
}

// DecisionLog keeps the input of decisions, so that they can be replayed.
type DecisionLog struct {
	Overflow string   `yaml:"overflow"` // block (default) | deny: what happens when the log cannot keep up
	Keep     Duration `yaml:"keep"`     // default 30d
}

// Sessions bounds browser sessions.
type Sessions struct {
	Idle     Duration `yaml:"idle"`     // default 30m
	Absolute Duration `yaml:"absolute"` // default 12h
}

// Revocation bounds for how long a plane that no longer hears the control plane
// serves on: a revocation may be waiting there. After it the plane closes, flow
// by flow.
type Revocation struct {
	Sensitive Duration `yaml:"sensitive"` // flows that System.Sensitive names; 2s to 1m, default 5s
	Other     Duration `yaml:"other"`     // all others; 5s to 10m and not below Sensitive, default 2m
}

// Service is one process of the system.
type Service struct {
	Role     string   `yaml:"role" oneof:"gateway"` // "" (an ordinary service) | gateway
	Zone     string   `yaml:"zone"`
	Listen   string   `yaml:"listen"`                   // gateway: edge address, default ":8443"
	Upstream string   `yaml:"upstream"`                 // service: http://127.0.0.1:PORT, loopback only
	Mount    string   `yaml:"mount"`                    // public path prefix; default "/" with openapi, "/NAME/" without
	OpenAPI  string   `yaml:"openapi"`                  // file, relative to rampart.yaml
	Policy   []string `yaml:"policy" shape:"one"`       // .cedar and .rego files of the service and domain layers; a single string is accepted
	Tests    []string `yaml:"policy_tests" shape:"one"` // *_test.yaml and *_test.rego files: run by `rampart policy test` and before a bundle takes over
	Envoy    bool     `yaml:"envoy"`                    // an Envoy beside the service asks its sidecar (external authorization, over a socket of its own)
	Run      []string `yaml:"run"`                      // command that `rampart up` starts, in the folder of rampart.yaml
	Methods  []string `yaml:"methods"`                  // without openapi: allowed methods, default GET and HEAD
	Headers  []string `yaml:"headers"`                  // of callers, that the service reads beyond the usual ones and those that openapi declares
	Names    []string `yaml:"names" shape:"one"`        // gateway: public host names; none: localhost
	ACME     *ACME    `yaml:"acme"`                     // gateway: certificates for Names from a public authority
	Cert     *Files   `yaml:"certificate"`              // gateway: certificate for Names from files that somebody else renews
	Edge     *Edge    `yaml:"edge"`                     // gateway
	Workload bool     `yaml:"workload"`                 // the sidecar serves the SPIFFE Workload API and Envoy's SDS on a socket for the service

	Secrets map[string]string `yaml:"secrets"` // credential -> socket | file: the service itself holds it, asked for at its socket, or written to a file in memory as well
}

// Store is a database or queue.
type Store struct {
	Kind       string   `yaml:"kind" oneof:"sqlite postgres nats"` // sqlite | postgres | nats
	Zone       string   `yaml:"zone"`
	Holds      []string `yaml:"holds"`
	AtRest     string   `yaml:"at_rest"`     // "" | encrypted
	AuditTable string   `yaml:"audit_table"` // append-only table that records changes
	URL        string   `yaml:"url"`         // postgres: postgres://USER@HOST:PORT/DB, no password
	Password   string   `yaml:"password"`    // postgres: secret://BACKEND/PATH[#FIELD]
	CA         string   `yaml:"ca"`          // postgres: PEM file of the database CA, relative to rampart.yaml
	Pooler     bool     `yaml:"pooler"`      // postgres: PgBouncer with transaction pooling stands at URL
	ClientCert bool     `yaml:"client_cert"` // postgres: services show a certificate of our CA whose common name is their role
	Rotate     *Rotate  `yaml:"rotate"`      // postgres: two roles take turns
	Dynamic    *Dynamic `yaml:"dynamic"`     // postgres: instead of a password, a role made for each lease
	DeadLetter string   `yaml:"dead_letter"` // nats: subject for refused messages; "" is dead.TOPIC of each topic
}

// External is a party outside the system that services call.
type External struct {
	Zone    string   `yaml:"zone"`
	URL     string   `yaml:"url"`      // https://HOST[:PORT]
	StandIn string   `yaml:"stand_in"` // 127.0.0.1:PORT that plays the party on a developer's machine; TLS is still verified, against the stand-in's CA
	Run     []string `yaml:"run"`      // starts the stand-in
}

// Flow is one edge: who talks to whom, carrying what, under which controls.
type Flow struct {
	ID          string       `yaml:"id" shape:"number"` // default FROM>TO
	From        string       `yaml:"from"`              // principal, service or store
	Subject     string       `yaml:"subject"`
	To          string       `yaml:"to"` // service, store or external
	Carries     []string     `yaml:"carries"`
	TLS         TLS          `yaml:"tls"`
	Authn       Authn        `yaml:"authn"`
	Limit       Limit        `yaml:"limit"`
	Validate    Validate     `yaml:"validate"`
	Allow       []string     `yaml:"allow" shape:"one"` // layer 1: "role:NAME", "permission:TYPE:VERB" or "any"; one suffices. Default: the permission of the route
	Authz       FlowAuthz    `yaml:"authz"`
	Scope       []string     `yaml:"scope" shape:"one"` // into a service: permissions "type:verb" or "type:*" that a credential may keep on this flow; nil: all that it has
	StepUp      []StepUp     `yaml:"step_up"`
	ServerOwned ServerOwned  `yaml:"server_owned"`
	Idempotency *Idempotency `yaml:"idempotency" shape:"usual"`
	Nonce       *Nonce       `yaml:"nonce" shape:"usual"`
	Egress      *Egress      `yaml:"egress"`
	Inject      *Inject      `yaml:"inject"`
	DB          *DB          `yaml:"db"`
	Topic       string       `yaml:"topic"`
	Message     *Message     `yaml:"message"`
	Guard       *Guard       `yaml:"guard"`
	Priority    string       `yaml:"priority" oneof:"high normal low"` // gateway to service: high | normal (default) | low: what is refused last when the edge is full
	Stream      []string     `yaml:"stream" shape:"one"`               // gateway to service: websocket, sse, grpc: what may stay open on this flow
	Upstream    *Resilience  `yaml:"upstream"`                         // gateway to service
	CORS        *CORS        `yaml:"cors"`                             // gateway to service; nil: pages of other origins may not read answers
	WAF         *WAF         `yaml:"waf"`                              // gateway to service

	Line int `yaml:"-"` // 1-based line of the flow in rampart.yaml
}

// TLS of one flow. Inside (service to service) it is always mutual TLS 1.3.
type TLS struct {
	Min         string `yaml:"min"`         // "1.2" (external only) | "1.3"; default "1.3"
	Certificate string `yaml:"certificate"` // edge: local | public
	Verify      string `yaml:"verify"`      // external: public_ca; store: full
}

// Authn says how the caller of a flow proves who it is.
//
// From a principal to the gateway: a set of methods that must all be present
// (session, jwt, api_key). From the gateway or a service to a service: one of
// the three propagation patterns gateway, per_service, exchange.
// In YAML: a single word, or {all: [...], bind: "jwt.azp == api_key.client"}.
type Authn struct {
	All     []string `yaml:"all"`
	Bind    string   `yaml:"bind"` // "" or "jwt.azp == api_key.client"
	Pattern string   `yaml:"-"`    // filled from the single word; default exchange
}

// Limit of one flow. A zero Rate takes the default that `check --effective`
// shows; it never means "no limit".
type Limit struct {
	IP     Rate `yaml:"ip"`                   // default 300/m, edge only
	User   Rate `yaml:"user"`                 // default 120/m, edge only
	APIKey Rate `yaml:"api_key" shape:"plan"` // the word "plan" (the default) takes the rate of the key's plan
	Plan   bool `yaml:"-"`                    // api_key: plan
}

// Validate of one flow.
type Validate struct {
	OpenAPI string `yaml:"openapi"`  // strict (the only mode, default where the service has a document)
	MaxBody Size   `yaml:"max_body"` // default 64KiB

	Response string   `yaml:"response"`           // gateway to service: sampled (default with openapi): one answer in 64 is checked and what is not declared is on record | strict: each is, and refused | off
	Opaque   []string `yaml:"opaque" shape:"one"` // gateway to service: graphql, grpc, upload: bodies that pass without validation; the threat table says so
}

// FlowAuthz narrows a flow further, or opens the decision point of its end.
type FlowAuthz struct {
	Require string   `yaml:"require"`            // permission "type:verb" that the subject must hold for any route of this flow
	Ask     []string `yaml:"ask" shape:"one"`    // types that the calling service may ask decisions about (OpenID AuthZEN)
	Search  []string `yaml:"search" shape:"one"` // types that it may search besides
}

// StepUp asks for a stronger or a fresher login than the session's on some
// routes of a flow into a service (RFC 9470). At least one of ACR and MaxAge is
// there; Covers says which requests it means.
type StepUp struct {
	Routes []string `yaml:"routes" shape:"one"` // "METHOD /path" below the service's mount; default: all
	ACR    string   `yaml:"acr"`                // aal1 | aal2
	MaxAge Duration `yaml:"max_age"`            // since the newest proof; 30s to 24h
}

// ServerOwned names request fields whose truth is the server's.
type ServerOwned struct {
	Fields []string `yaml:"fields"`
	Mode   string   `yaml:"mode"`   // refuse | strip | compare; default refuse
	Source string   `yaml:"source"` // data item that holds the truth
}

// Idempotency makes retries of unsafe methods safe. In YAML: the map, or true for
// its defaults, by which a request without a key is served as without this.
type Idempotency struct {
	Header   string   `yaml:"header"` // default Idempotency-Key
	Required bool     `yaml:"required"`
	Keep     Duration `yaml:"keep"`   // default 24h
	Repeat   bool     `yaml:"repeat"` // the service knows again the key that it is told, and answers a second request as the first: what may have been carried out is sent again. Default: a retry of it gets 409
}

// Nonce makes a captured request worthless: "unix-seconds.22-base64url-chars". In
// YAML: the map, or true for its defaults.
type Nonce struct {
	Header string   `yaml:"header"` // default Rampart-Nonce
	Window Duration `yaml:"window"` // default 5m
}

// Egress of a flow to an external party; everything else is denied.
type Egress struct {
	Methods    []string `yaml:"methods"`
	Paths      []string `yaml:"paths"`       // exact, or a prefix ending in "/*"
	PrivateIPs string   `yaml:"private_ips"` // never (the only value)
}

// Inject puts a secret into an outbound call, in the sidecar.
type Inject struct {
	Secret string `yaml:"secret"` // key of data, kind credential
	Into   string `yaml:"into"`   // "header:NAME"; for Authorization the value becomes "Bearer SECRET"
}

// DB bounds a flow to a database.
type DB struct {
	Role string `yaml:"role"`
	Pool int    `yaml:"pool"` // connections, default 10

	Timeout Duration `yaml:"timeout" shape:"brief"` // postgres: of each statement, default 5s
}

// Message rules of a flow to or from a queue.
type Message struct {
	Sign         string   `yaml:"sign"`          // to a queue: svid
	AcceptFrom   []string `yaml:"accept_from"`   // from a queue: services whose signature counts
	Schema       string   `yaml:"schema"`        // JSON Schema file, relative to rampart.yaml
	ReplayWindow Duration `yaml:"replay_window"` // default 10m
	Refuse       string   `yaml:"refuse"`        // dead_letter (the only value)
}

// Guard holds CEL over `message` (the payload) and `subject` (for whom the
// producer acted, signed by its sidecar); false sends to the dead letter.
type Guard struct {
	Recipient string `yaml:"recipient"`
}

// Named gives a team's own name to a threat that the rules find.
type Named struct {
	Is    string `yaml:"is"` // RULE@ELEMENT
	Title string `yaml:"title"`
	Line  int    `yaml:"-"`
}

// Accept records a risk taken on purpose. It overlays, never hides.
type Accept struct {
	Threat string    `yaml:"threat"`
	Owner  string    `yaml:"owner"`
	Reason string    `yaml:"reason"`
	Until  time.Time `yaml:"until"` // a date; from 00:00 UTC of it on the acceptance no longer counts
	Line   int       `yaml:"-"`
}

// Verify bounds `rampart verify`.
type Verify struct {
	Freshness Duration  `yaml:"freshness"` // default 24h
	Scenario  *Scenario `yaml:"scenario"`  // what a probe must know of this system beyond flows and schemas
}

// Scenario tells probes how to make one valid, consequential request, so that
// they can replay it, change it and count what was booked. Text in ${...} is
// replaced by what an earlier step took.
type Scenario struct {
	User    DemoUser `yaml:"user"`    // facts of the probes' user, default every role; a second one lives in another tenant
	Prepare []Step   `yaml:"prepare"` // run in order as the probes' user
	Call    string   `yaml:"call"`    // "POST /payments"
	Body    any      `yaml:"body"`
	Amount  string   `yaml:"amount"` // JSON pointer of the server-owned field, in Body and in a ledger row
	Ledger  string   `yaml:"ledger"` // "GET /payments?order_id=${order_id}": a JSON array, one row per booking
	Object  string   `yaml:"object"` // "GET /orders/${order_id}": one subject's object, which others must not see
	List    string   `yaml:"list"`   // "GET /orders": a JSON array of such objects, those that the caller may see; both name themselves in "id"

	PII map[string]string `yaml:"pii"` // field of data.*.pii -> JSON pointer of the member of Body that becomes it; default: the member of its name
}

// Step is one preparing request.
type Step struct {
	Call string            `yaml:"call"` // "POST /orders"
	Body any               `yaml:"body"`
	Take map[string]string `yaml:"take"` // name -> JSON pointer into the answer
}

// Demo is what `rampart up` creates at its first start; no plane reads it.
type Demo struct {
	Users   map[string]DemoUser   `yaml:"users"`
	Clients map[string]DemoClient `yaml:"clients"`
}

// DemoUser holds the facts of a user that policies may use.
type DemoUser struct {
	Roles         []string `yaml:"roles" json:"roles,omitempty"`
	Organizations []string `yaml:"organizations" json:"organizations,omitempty"` // the first is the home tenant
	Team          string   `yaml:"team" json:"team,omitempty"`
	ManagedTeams  []string `yaml:"managed_teams" json:"managed_teams,omitempty"`
}

// DemoClient is a client with an API key.
type DemoClient struct {
	Principal string `yaml:"principal"` // key of principals, kind client
}

// Unsafe switches controls off. Every plane refuses it outside a throw-away
// state folder.
type Unsafe struct {
	Disable []string `yaml:"disable"` // control ids
}

// Duration is a time.Duration written as 90s, 5m, 24h or 30d.
type Duration time.Duration

// Rate is "N/s", "N/m", "N/h" or "N/d". The zero Rate refuses everything.
type Rate struct {
	N   int
	Per time.Duration
}

// Size is a number of bytes written as 512, 64KiB or 1MiB.
type Size int64

// Bundle is a System as bytes: the file, and every file it names keyed by the
// name used in it. Control plane and planes exchange this, so that all of them
// parse the same text. Digest is the hex SHA-256 over all of it.
type Bundle struct {
	File      []byte            `json:"file"`
	Resources map[string][]byte `json:"resources"`
	Digest    string            `json:"digest"`
}

// Bundle returns the bytes s was read from.
func (s *System) Bundle() Bundle { return s.bundle }

// Off reports whether the file disables a control (see Unsafe).
func (s *System) Off(control string) bool {
	for _, c := range s.Unsafe.Disable {
		if c == control {
			return true
		}
	}
	return false
}

// Resource returns the bytes of a file that rampart.yaml names.
func (s *System) Resource(name string) ([]byte, bool) {
	b, ok := s.bundle.Resources[name]
	return b, ok
}

// Gateway returns the name of the service whose role is gateway.
func (s *System) Gateway() string {
	for name, svc := range s.Services {
		if svc.Role == "gateway" {
			return name
		}
	}
	return ""
}

// Flow returns the flow with this id.
func (s *System) Flow(id string) (Flow, bool) {
	for _, f := range s.Flows {
		if f.ID == id {
			return f, true
		}
	}
	return Flow{}, false
}

// FlowsFrom returns the flows that start at name, in file order.
func (s *System) FlowsFrom(name string) []Flow {
	var out []Flow
	for _, f := range s.Flows {
		if f.From == name {
			out = append(out, f)
		}
	}
	return out
}

// FlowsTo returns the flows that end at name, in file order.
func (s *System) FlowsTo(name string) []Flow {
	var out []Flow
	for _, f := range s.Flows {
		if f.To == name {
			out = append(out, f)
		}
	}
	return out
}

// FlowBetween returns the first flow from one element to another.
func (s *System) FlowBetween(from, to string) (Flow, bool) {
	for _, f := range s.Flows {
		if f.From == from && f.To == to {
			return f, true
		}
	}
	return Flow{}, false
}

// DeadLetter returns the subject for messages of topic that a consumer refused.
func (s *System) DeadLetter(store, topic string) string {
	if d := s.Stores[store].DeadLetter; d != "" {
		return d
	}
	return "dead." + topic
}

// SPIFFE ids. They are derived, never written in the file.

// ServiceID returns spiffe://DOMAIN/service/NAME (gateways: /gateway/NAME).
func (s *System) ServiceID(name string) string {
	kind := "service"
	if s.Services[name].Role == "gateway" {
		kind = "gateway"
	}
	return "spiffe://" + s.Info.TrustDomain + "/" + kind + "/" + name
}

// StoreID returns spiffe://DOMAIN/store/NAME, the identity of an embedded queue.
func (s *System) StoreID(name string) string {
	return "spiffe://" + s.Info.TrustDomain + "/store/" + name
}

// ControlID returns the control plane's SPIFFE ID.
func (s *System) ControlID() string { return "spiffe://" + s.Info.TrustDomain + "/control" }
