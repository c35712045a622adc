package wire

import (
	"encoding/json"
	"time"

	"github.com/rampart-security/rampart/spec"
)

// Paths of the control plane's admin socket (HTTP over a Unix socket, mode
// 0600, peer must be the same user or root). Every call is an audit event that
// is recorded before its answer. Names in a path are the caller's to escape.
const (
	AdminStatus    = "/admin/status"       // GET -> Status
	AdminConfig    = "/admin/config"       // POST Apply -> Applied
	AdminJoinToken = "/admin/join-tokens"  // POST JoinTokenRequest -> JoinToken
	AdminUsers     = "/admin/users"        // POST User -> 204, creates or changes; GET -> []User
	AdminClients   = "/admin/clients"      // POST Client -> 204, creates or changes; GET -> []Client
	AdminAPIKeys   = "/admin/api-keys"     // POST APIKeyRequest -> APIKey; GET ?client=ID -> []APIKeyInfo
	AdminSecrets   = "/admin/secrets"      // POST SecretOp -> SecretAnswer, GET -> []SecretMeta of the embedded store
	AdminRevoke    = "/admin/revoke"       // POST Revocation (kind, id) -> 204
	AdminSigning   = "/admin/signing-keys" // GET -> []SigningKey, of each ring in the order in which they sign
	AdminServices  = "/admin/services"     // GET -> []ServiceState
	AdminPolicies  = "/admin/policies"     // POST PolicyPush -> PolicyStatus; GET -> PolicyStatus
)

// Parts of one account, client, key or service: the path of the collection,
// "/", its name, and one of these.
const (
	SubPassword = "/password" // of a user: POST SetPassword -> Ended
	SubEnable   = "/enable"   // POST -> 204
	SubDisable  = "/disable"  // POST -> Ended; of a service 204
	SubFactors  = "/factors"  // of a user: DELETE -> Ended, all of them; or one, "/factors/ID"
	SubLinks    = "/links"    // of a user: DELETE ?issuer=&upstream= -> Ended; without a query all
	SubSessions = "/sessions" // of a user: GET -> []Session; DELETE -> Ended, all but ?except=SID; or one, "/sessions/SID"
	SubApps     = "/apps"     // of a user: GET -> []App; DELETE one, "/apps/ID" -> Ended
	SubRotate   = "/rotate"   // of a client's API key: POST RotateKey -> APIKey; of all signing keys: POST -> []SigningKey
	SubRevoke   = "/revoke"   // of a signing key: POST -> 204
)

// Apply asks for a configuration to be put in force.
type Apply struct {
	Bundle spec.Bundle `json:"bundle"`
	File   string      `json:"file"`              // where it was read, for people
	DryRun bool        `json:"dry_run,omitempty"` // say what would change, and change nothing
}

// Applied is what an Apply changed, or would.
type Applied struct {
	Old     string        `json:"old"` // digests
	New     string        `json:"new"` // in force from now on; of a dry run what would be
	Changes []spec.Change `json:"changes"`
	Policy  uint64        `json:"policy,omitempty"` // version of the policies that came with it; 0: they are as before
}

// JoinTokenRequest names who may join with the token, as the SPIFFE ID's path:
// "service/orders", "gateway/edge", "store/events".
type JoinTokenRequest struct {
	Identity string `json:"identity"`
}

// JoinToken is good once, for ten minutes.
type JoinToken struct {
	Token string `json:"token"`
}

// User is a local account. Subject is "user:" + Name. Disabled, Changed,
// Factors and Links are answers: what is put leaves them alone.
type User struct {
	Name     string        `json:"name"`
	Password string        `json:"password,omitempty"`
	Hash     string        `json:"hash,omitempty"` // instead of a password: argon2id, bcrypt, scrypt or PBKDF2 of another system
	Facts    spec.DemoUser `json:"facts"`
	Tag      string        `json:"tag,omitempty"` // "verify" for probe identities
	Disabled bool          `json:"disabled,omitempty"`
	Changed  time.Time     `json:"changed,omitzero"`
	Factors  []Factor      `json:"factors,omitempty"` // of one account asked for by name
	Links    []Link        `json:"links,omitempty"`   // likewise
}

// Factor is an enrolled second factor or passkey.
type Factor struct {
	ID       string    `json:"id"`
	Kind     string    `json:"kind"` // totp | passkey | recovery
	Label    string    `json:"label,omitempty"`
	Created  time.Time `json:"created"`
	LastUsed time.Time `json:"last_used,omitzero"`
}

// Link ties an account to one at an identity provider.
type Link struct {
	Issuer    string    `json:"issuer"`
	Upstream  string    `json:"upstream"` // the provider's sub
	Created   time.Time `json:"created"`
	LastLogin time.Time `json:"last_login,omitzero"`
}

// SetPassword sets an account's password, or the hash of it that another
// system kept. One of the two.
type SetPassword struct {
	Password string `json:"password,omitempty"`
	Hash     string `json:"hash,omitempty"`
}

// Ended counts what a call put an end to.
type Ended struct {
	Sessions int `json:"sessions"`
	Apps     int `json:"apps"`
	Keys     int `json:"keys"`
	Factors  int `json:"factors"`
	Links    int `json:"links"`
}

// Session is one login of one browser.
type Session struct {
	SID      string    `json:"sid"`
	Device   string    `json:"device"` // "Firefox on Linux"
	IP       string    `json:"ip"`     // at login
	Created  time.Time `json:"created"`
	LastSeen time.Time `json:"last_seen"` // at most a minute behind
	Expires  time.Time `json:"expires"`
	ACR      string    `json:"acr,omitempty"`
	AMR      []string  `json:"amr,omitempty"`      // factors used
	Upstream string    `json:"upstream,omitempty"` // issuer that vouched for the login
	This     bool      `json:"this,omitempty"`     // the one that asks
}

// App is a client that holds refresh tokens of a person.
type App struct {
	ID      string    `json:"id"` // of the refresh family
	Client  string    `json:"client"`
	Name    string    `json:"name"`
	Since   time.Time `json:"since"` // when the person logged in for it
	Used    time.Time `json:"used"`  // newest rotation
	Expires time.Time `json:"expires"`
	Scope   []string  `json:"scope,omitempty"`
}

// Client is an application that may ask for tokens (authorization code + PKCE,
// client credentials) or hold API keys.
type Client struct {
	ID        string          `json:"id"`
	Principal string          `json:"principal"`          // key of principals in rampart.yaml
	Name      string          `json:"name,omitempty"`     // for people; "" is the ID
	Redirects []string        `json:"redirects"`          // exact; loopback ports are free (RFC 8252)
	Auth      string          `json:"auth,omitempty"`     // "" or none (public, PKCE) | private_key_jwt | tls_client_auth
	JWKS      json.RawMessage `json:"jwks,omitempty"`     // private_key_jwt: its public keys (RFC 7517)
	Identity  string          `json:"identity,omitempty"` // tls_client_auth: its SPIFFE ID
	Grants    []string        `json:"grants,omitempty"`   // none: authorization_code and refresh_token
	Scopes    []string        `json:"scopes,omitempty"`   // permissions; none: all that its user has
	Roles     []string        `json:"roles,omitempty"`    // of the client itself, where it acts for nobody
	Orgs      []string        `json:"organizations,omitempty"`
	DPoP      bool            `json:"dpop,omitempty"`   // gets sender-constrained tokens alone
	IDAlg     string          `json:"id_alg,omitempty"` // of its ID tokens: "" or RS256, or ES256
	Disabled  bool            `json:"disabled,omitempty"`
	Tag       string          `json:"tag,omitempty"`
}

// APIKeyRequest asks for a new key of a client, within limits.
type APIKeyRequest struct {
	Client  string    `json:"client"`
	Label   string    `json:"label,omitempty"`
	Scopes  []string  `json:"scopes,omitempty"` // none: all that the client has
	IPs     []string  `json:"ips,omitempty"`    // addresses and CIDR prefixes; none: anywhere
	Expires time.Time `json:"expires,omitzero"` // zero: never
}

// RotateKey asks for the successor of a client's key.
type RotateKey struct {
	Overlap float64 `json:"overlap_seconds"` // how long the old key works on
}

// APIKey is shown once.
type APIKey struct {
	ID  string `json:"id"`
	Key string `json:"key"`
}

// APIKeyInfo is what is known of a key: all but the key.
type APIKeyInfo struct {
	ID       string    `json:"id"`
	Client   string    `json:"client"`
	Label    string    `json:"label,omitempty"`
	State    string    `json:"state"` // live | expired | disabled
	Scopes   []string  `json:"scopes,omitempty"`
	IPs      []string  `json:"ips,omitempty"`
	Created  time.Time `json:"created"`
	Expires  time.Time `json:"expires,omitzero"`
	LastUsed time.Time `json:"last_used,omitzero"` // at most a minute behind
}

// SigningKey is a key of the token service.
type SigningKey struct {
	KID       string    `json:"kid"`
	Ring      string    `json:"ring"` // internal | edge | id | policy
	Algorithm string    `json:"algorithm"`
	State     string    `json:"state"`     // pending | active | retired
	Published time.Time `json:"published"` // planes and clients know it since
	From      time.Time `json:"from"`      // when it signs first
}

// ServiceState says whether a service may act.
type ServiceState struct {
	Name     string `json:"name"`
	ID       string `json:"id"` // SPIFFE ID
	Disabled bool   `json:"disabled"`
}

// PolicyPush brings policies. One of Bundle, Set and Rollback is given.
type PolicyPush struct {
	Bundle   []byte            `json:"bundle,omitempty"`   // signed by a key of authz.bundle.keys
	Set      json.RawMessage   `json:"set,omitempty"`      // pap.Set, for the control plane to sign
	Files    map[string][]byte `json:"files,omitempty"`    // of Set
	Rollback uint64            `json:"rollback,omitempty"` // version whose content is shipped again, under a new version
	Shadow   bool              `json:"shadow,omitempty"`   // try it beside the active one instead; Set, Bundle or neither, which ends the trial
}

// PolicyStatus says which policies the control plane ships, and who runs what.
type PolicyStatus struct {
	Version uint64          `json:"version"` // 0: there are none
	Digest  string          `json:"digest,omitempty"`
	Created time.Time       `json:"created,omitzero"`
	Expires time.Time       `json:"expires,omitzero"`
	Key     string          `json:"key,omitempty"`  // kid of the signature
	From    string          `json:"from,omitempty"` // "rampart.yaml", "push", "rollback of N"
	Own     bool            `json:"own"`            // the control plane signs; otherwise whoever has a key of authz.bundle.keys
	Shadow  uint64          `json:"shadow,omitempty"`
	Keys    []string        `json:"keys,omitempty"` // kids of the keys whose signatures count
	Kept    []uint64        `json:"kept,omitempty"` // versions to which Rollback can go, newest first
	Planes  []PlanePolicies `json:"planes"`
}

// PlanePolicies is what one plane decides by.
type PlanePolicies struct {
	Plane       string    `json:"plane"`
	Version     uint64    `json:"version"`
	Shadow      Shadow    `json:"shadow,omitzero"`
	Refused     []Refused `json:"refused,omitempty"` // what it was offered last and did not take over
	SeenSeconds float64   `json:"seen_seconds"`
}

// SecretMeta describes a stored secret.
type SecretMeta struct {
	Path    string `json:"path"`
	Version int    `json:"version"`
	Created string `json:"created"`
}

// Status is the control plane's view of the system.
type Status struct {
	System string        `json:"system"`
	Digest string        `json:"digest"`
	File   string        `json:"file,omitempty"` // where the configuration was read that is in force; "": not known
	Planes []PlaneStatus `json:"planes"`
	// Backends are those behind a network, and the key encryption keys that are not
	// in a file, as the control plane that answers found them last.
	Backends []BackendStatus `json:"backends,omitempty"`
}

// BackendStatus is whether a backend of secrets, or a key encryption key, is there.
type BackendStatus struct {
	Name  string    `json:"name"`            // "backend:NAME" or "kek:KEY"
	Away  bool      `json:"away"`            // or sealed
	Since time.Time `json:"since"`           // that it is away, or was found there
	Error string    `json:"error,omitempty"` // of the last failure
}

// PlaneStatus is the last heartbeat of one plane.
type PlaneStatus struct {
	Heartbeat
	SeenSeconds float64 `json:"seen_seconds"` // age of the heartbeat
	// CertificateSeconds is how long the plane's own certificate holds, by its
	// heartbeat; 0: it has expired, or the plane did not say.
	CertificateSeconds float64 `json:"certificate_seconds"`
	// Ready says that the plane was heard in the last ten seconds and that its
	// certificate holds.
	Ready bool `json:"ready"`
}

// Running describes a system started by `rampart up`; it is the file
// run/system.json of the state folder.
type Running struct {
	PID      int               `json:"pid"` // of the runner
	Edge     string            `json:"edge"`
	Control  string            `json:"control"`  // host:port, mutual TLS
	Admin    string            `json:"admin"`    // path of the admin socket
	Sidecars map[string]string `json:"sidecars"` // service -> host:port, inbound
	Out      map[string]string `json:"out"`      // service -> host:port, outbound
	Sockets  map[string]string `json:"sockets"`  // service -> path of the sidecar's socket
	Queues   map[string]string `json:"queues"`
	Upstream map[string]string `json:"upstream"` // service -> http://127.0.0.1:PORT as it runs now
	PIDs     map[string]int    `json:"pids"`     // child name -> pid
	StandIns map[string]string `json:"standins"`
}
