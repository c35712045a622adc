// Package wire holds the messages that planes, control plane, SDK and command
// line exchange, and nothing else: no behaviour, so that each side can be
// written and judged alone.
package wire

import (
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/spec"
)

// Paths of the control plane's listener for planes: mutual TLS 1.3, JSON
// bodies unless said otherwise. Every other path of that listener is the
// public surface (login, /oauth2/..., JWKS), which only the gateway's SVID may
// reach.
const (
	PathJoin      = "/v1/join"      // POST JoinRequest -> Identity; the one call without a client certificate
	PathRenew     = "/v1/renew"     // POST RenewRequest -> Identity
	PathWatch     = "/v1/watch"     // GET -> stream of Update, one JSON object per line
	PathHeartbeat = "/v1/heartbeat" // POST Heartbeat -> 204
	PathResolve   = "/v1/resolve"   // POST ResolveRequest -> Resolved
	PathSecret    = "/v1/secrets/"  // GET /v1/secrets/{data item}, store:{name} or SecretOpenFGA -> agent.SecretValue
	PathDEK       = "/v1/dek"       // POST agent.DEKRequest -> agent.DEK
	PathEdgeCert  = "/v1/edge-cert" // POST RenewRequest -> Identity; the gateway's public certificate from the local CA
	PathToken     = "/oauth2/token" // POST form; RFC 8693 exchange, or client_credentials, when the caller is a plane

	PathSubject  = "/v1/subject"  // POST SubjectRequest -> rampart.Principal: the directory's facts of a person or client, for questions about somebody who is not there
	PathSubjects = "/v1/subjects" // POST SubjectRequest with "user:" or "client:" -> []string, the ids of all who may act

	PathIntrospect = "/oauth2/introspect" // POST form; RFC 7662, of tokens for the caller when it is a plane
)

// SecretOpenFGA is how a sidecar asks at PathSecret for the key of the server
// that authz.openfga names. No data item has a colon in its name.
const SecretOpenFGA = "authz:openfga"

// Subject token types of the exchange beside RFC 8693's own.
const (
	GrantExchange  = "urn:ietf:params:oauth:grant-type:token-exchange"
	TypeJWT        = "urn:ietf:params:oauth:token-type:jwt"
	TypeAccess     = "urn:ietf:params:oauth:token-type:access_token"
	TypeSession    = "urn:rampart:token-type:session" // gateway only: the session cookie's value
	TypeAPIKey     = "urn:rampart:token-type:api_key" // gateway only: an API key used alone
	TypeSVIDOnly   = "urn:rampart:token-type:service" // a service acting as itself: no subject_token
	HeaderPrinc    = "Rampart-Principal"              // gateway to sidecar, pattern gateway: base64url JSON of Vouched
	HeaderCred     = "Rampart-Credential"             // gateway to sidecar, pattern per_service: "TYPE VALUE"
	HeaderClientIP = "Rampart-Client-Ip"              // gateway to control's public surface
)

// JoinRequest trades a one-time token for an SVID.
type JoinRequest struct {
	Token string `json:"token"`
	CSR   []byte `json:"csr"` // DER; only its public key and proof of possession count
}

// RenewRequest asks for a new SVID with the current one as proof.
type RenewRequest struct {
	CSR []byte `json:"csr"`
}

// Identity is an SVID: leaf first, then the issuing certificate.
type Identity struct {
	ID       string    `json:"id"`
	Chain    [][]byte  `json:"chain"`  // DER
	Bundle   []byte    `json:"bundle"` // PEM of the roots
	NotAfter time.Time `json:"not_after"`
}

// Update is one line of the watch stream. The first lines carry the whole
// state (keys, policies, config, endpoints, revocations), then changes; "beat" comes
// every second.
type Update struct {
	Kind       string       `json:"kind"` // config | policies | keys | trust | endpoints | revoked | forget | beat
	Config     *spec.Bundle `json:"config,omitempty"`
	Policies   []byte       `json:"policies,omitempty"` // the newest signed policy bundle (authz/bundle); none: there is none yet
	Shadow     []byte       `json:"shadow,omitempty"`   // with Policies: a signed bundle to try beside it, which decides nothing
	Keys       *Keys        `json:"keys,omitempty"`
	Endpoints  *Endpoints   `json:"endpoints,omitempty"`
	Revoked    []Revocation `json:"revoked,omitempty"`
	Trust      *Trust       `json:"trust,omitempty"`
	Forget     *Forget      `json:"forget,omitempty"` // of cached secrets and keys: what is newer, or gone
	Seq        uint64       `json:"seq"`
	ServerTime time.Time    `json:"time"`
}

// Forget names what caches must not serve any more.
type Forget struct {
	Secrets []string    `json:"secrets,omitempty"` // names at PathSecret
	DEKs    []DEKTarget `json:"deks,omitempty"`
	Lifts   []Lift      `json:"lifts,omitempty"` // bans that are over; at most MaxLifts
	ID      uint64      `json:"id,omitempty"`    // of a shred; heartbeats acknowledge the highest they carried out
}

// Keys are the public keys of the token service, as JWK sets (RFC 7517).
type Keys struct {
	Internal []byte `json:"internal"` // Ed25519 keys of internal tokens
	Edge     []byte `json:"edge"`     // ES256 keys of edge JWTs
	Policy   []byte `json:"policy"`   // Ed25519 keys of policy bundles; counted only when authz.bundle.keys names none
	Issuer   string `json:"issuer"`   // of both
}

// Endpoints tells where planes listen.
type Endpoints struct {
	Sidecars map[string]string `json:"sidecars"` // service -> host:port of its inbound listener
	Queues   map[string]string `json:"queues"`   // store -> host:port
}

// Revocation makes every credential of one subject issued at or before
// NotBefore void.
type Revocation struct {
	Seq       uint64    `json:"seq"`
	Kind      string    `json:"kind"` // sid | sub | client | jti | key | family | kid | tenant | svid | serial | issuer
	ID        string    `json:"id"`   // svid: a SPIFFE ID, as subject, actor or peer; kid: of a signing key, whatever the date of what it signed
	NotBefore time.Time `json:"not_before"`
	Expires   time.Time `json:"expires"`
}

// Heartbeat reports a plane's state once a second.
type Heartbeat struct {
	Plane    string `json:"plane"`    // "gateway/edge", "sidecar/orders"
	Instance string `json:"instance"` // random per process
	Digest   string `json:"digest"`   // of the configuration it enforces
	// Unenforced says why the plane enforces an older configuration than the newest
	// that it was given; "": it does not. At most MaxReason bytes.
	Unenforced string `json:"unenforced,omitempty"`
	Policy     uint64 `json:"policy"` // version of the policy bundle it decides by; 0 for planes that decide nothing
	Shadow     Shadow `json:"shadow,omitzero"`
	// Refused are the bundles that the plane was offered last and did not take
	// over: the newest, and the one to try beside it. At most MaxRefused.
	Refused   []Refused  `json:"refused,omitempty"`
	Listen    string     `json:"listen"` // sidecar inbound or queue address; "" otherwise
	Trust     TrustState `json:"trust,omitzero"`
	Forgot    uint64     `json:"forgot,omitempty"` // highest Forget.ID that this plane and its service carried out
	Edge      []EdgeCert `json:"edge,omitempty"`   // gateway: how its public certificates stand; at most MaxEdgeCerts
	Bans      Bans       `json:"bans,omitzero"`    // gateway: who is turned away
	Health    EdgeHealth `json:"health,omitzero"`  // gateway: how it fares with what stands behind it
	AuditSeq  uint64     `json:"audit_seq"`
	AuditHead []byte     `json:"audit_head"` // hash of the newest durable audit record
}

// Bounds of what a heartbeat says of refused bundles.
const (
	MaxRefused    = 2
	MaxReason     = 400 // bytes
	MaxReasonCode = 64  // bytes
)

// Refused says why a plane does not decide by a bundle.
type Refused struct {
	Version uint64 `json:"version"` // as the bundle claims; 0: it cannot be read
	Code    string `json:"code"`    // a bundle.Code
	Reason  string `json:"reason,omitempty"`
}

// Shadow tells how the bundle that a plane tries beside its own would decide.
type Shadow struct {
	Version  uint64 `json:"version"` // 0: none is tried
	Compared int    `json:"compared"`
	Allows   int    `json:"allows"` // the active bundle denies
	Denies   int    `json:"denies"` // the active bundle allows
}

// ResolveRequest asks who a credential stands for.
type ResolveRequest struct {
	Type  string `json:"type"` // TypeSession | TypeAPIKey
	Value string `json:"value"`
	IP    string `json:"ip"`
}

// SubjectRequest asks what the directory knows of a subject, "user:ID" or
// "client:ID". Unknown is a 404.
type SubjectRequest struct {
	Subject string `json:"subject"`
}

// Resolved answers a ResolveRequest. An unknown credential is a 401.
type Resolved struct {
	Principal rampart.Principal `json:"principal"`
	Declared  string            `json:"declared"` // key of principals in rampart.yaml, "" for any human
	Plan      string            `json:"plan,omitempty"`
	KeyID     string            `json:"key_id,omitempty"`
	Issued    time.Time         `json:"issued"` // when the credential itself was made: what a cut-off is measured against
	Expires   time.Time         `json:"expires"`
}

// Vouched is whom a plane let in, as it says under the pattern gateway, and what
// a revocation of the credential would name.
type Vouched struct {
	rampart.Principal
	Issued  time.Time `json:"issued,omitzero"` // when the credential was made; zero: before every cut-off
	TokenID string    `json:"jti,omitzero"`
	KeyID   string    `json:"key_id,omitzero"`
}

// Exchanged is the RFC 8693 answer.
type Exchanged struct {
	AccessToken     string `json:"access_token"`
	IssuedTokenType string `json:"issued_token_type"`
	TokenType       string `json:"token_type"`
	ExpiresIn       int    `json:"expires_in"` // seconds
	Scope           string `json:"scope,omitempty"`
}
