package wire

import "github.com/rampart-security/rampart/spec"

// Paths of the control plane's admin socket (HTTP over a Unix socket, mode
// 0600, peer must be the same user or root). Every call is an audit event.
const (
	AdminStatus    = "/admin/status"      // GET -> Status
	AdminJoinToken = "/admin/join-tokens" // POST JoinTokenRequest -> JoinToken
	AdminUsers     = "/admin/users"       // POST User -> 204, GET -> []User
	AdminClients   = "/admin/clients"     // POST Client -> 204
	AdminAPIKeys   = "/admin/api-keys"    // POST APIKeyRequest -> APIKey
	AdminSecrets   = "/admin/secrets"     // POST SetSecret -> 204, GET -> []SecretMeta
	AdminRevoke    = "/admin/revoke"      // POST Revocation (kind, id) -> 204
)

// JoinTokenRequest names who may join with the token, as the SPIFFE ID's path:
// "service/orders", "gateway/edge", "store/events".
type JoinTokenRequest struct {
	Identity string `json:"identity"`
}

// JoinToken is good once, for ten minutes.
type JoinToken struct {
	Token string `json:"token"`
}

// User is a local account. Subject is "user:" + Name.
type User struct {
	Name     string        `json:"name"`
	Password string        `json:"password,omitempty"`
	Facts    spec.DemoUser `json:"facts"`
	Tag      string        `json:"tag,omitempty"` // "verify" for probe identities
}

// Client is an application that may ask for tokens (authorization code + PKCE)
// or hold API keys.
type Client struct {
	ID        string   `json:"id"`
	Principal string   `json:"principal"` // key of principals in rampart.yaml
	Redirects []string `json:"redirects"` // exact; loopback ports are free (RFC 8252)
	Tag       string   `json:"tag,omitempty"`
}

// APIKeyRequest asks for a new key of a client.
type APIKeyRequest struct {
	Client string `json:"client"`
}

// APIKey is shown once.
type APIKey struct {
	ID  string `json:"id"`
	Key string `json:"key"`
}

// SetSecret stores a new version of a secret.
type SetSecret struct {
	Path  string `json:"path"` // "prod/stripe/api-key"
	Value []byte `json:"value"`
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
	Planes []PlaneStatus `json:"planes"`
}

// PlaneStatus is the last heartbeat of one plane.
type PlaneStatus struct {
	Heartbeat
	SeenSeconds float64 `json:"seen_seconds"` // age of the heartbeat
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
