// Package agent holds the messages between a sidecar and the service behind it.
// It is apart from wire so that the SDK links nothing but the vocabulary.
package agent

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
)

// Paths of a sidecar's socket (HTTP over a Unix socket, mode 0600), for the
// SDK and for services in any language.
const (
	PathService = "/v1/service"          // GET -> ServiceInfo
	PathCheck   = "/v1/authz/check"      // POST CheckRequest -> rampart.Decision (domain layer)
	PathMany    = "/v1/authz/check-many" // POST ManyRequest -> ManyAnswer
	PathFilter  = "/v1/authz/filter"     // POST FilterRequest -> FilterAnswer
	PathTuples  = "/v1/authz/relations"  // GET -> TuplesState; POST TuplesPush -> TuplesState: the relations that this service keeps
	PathSecret  = "/v1/secrets/"         // GET /v1/secrets/{store:NAME or credential} -> SecretValue, of a store of its own or one that it may hold; each is put on record. ?refused=VERSION: that one does not work, ask for it anew
	PathDEK     = "/v1/dek"              // POST DEKRequest -> DEK
	PathForget  = "/v1/forget"           // GET ?after=ID -> ForgetAnswer: waits up to 25 s for something to forget; asking again says that all up to after is forgotten
	PathInUse   = "/v1/secrets-in-use"   // POST SecretsInUse -> 204
	PathDBCert  = "/v1/db-cert/"         // POST /v1/db-cert/{store} DBCertRequest -> DBCert
	PathAudit   = "/v1/audit"            // POST AuditRequest -> 204 once durable
	PathOut     = "/out/"                // any method, /out/{service or external}/PATH: the outbound side
	PathSign    = "/sign/"               // POST /sign/{store}/{topic}: JSON payload -> the signed message (application/jose), for an outbox
	PathPublish = "/publish/"            // POST /publish/{store}/{topic}: a signed message (application/jose) or a JSON payload -> 204 once stored
)

// Environment variables that the runner gives to a service. None is secret.
const (
	EnvService = "RAMPART_SERVICE"    // its name in rampart.yaml
	EnvSocket  = "RAMPART_SOCKET"     // path of its sidecar's socket
	EnvOut     = "RAMPART_OUT"        // http://127.0.0.1:PORT: /out/ and /publish/ over TCP, for any language
	EnvPort    = "PORT"               // loopback port to listen on
	EnvData    = "RAMPART_DATA"       // folder for the service's own files
	EnvSecrets = "RAMPART_SECRETS"    // folder in memory of the credentials that rampart.yaml delivers by file
	EnvStandIn = "RAMPART_STANDIN_CA" // stand-ins of externals: file to write the PEM of their CA to
)

// EnvWorkload is where a service with workload: true finds the SPIFFE Workload
// API, unix://PATH, under the name that the standard gives it (SPIFFE Workload
// Endpoint section 4).
const EnvWorkload = "SPIFFE_ENDPOINT_SOCKET"

// ServiceInfo is what a service may know of its own configuration.
type ServiceInfo struct {
	Name        string                       `json:"name"`
	IdentityKey []byte                       `json:"identity_key"` // Ed25519 public key that verifies Rampart-Identity headers, new at each start of the sidecar; the private one stays there
	Stores      map[string]StoreInfo         `json:"stores"`
	ServerOwned map[string]ServerOwned       `json:"server_owned"` // flow id -> rule, for flows that reach this service
	Encrypt     map[string][]string          `json:"encrypt"`      // data item -> pii fields that must be enveloped
	Shred       map[string]string            `json:"shred"`        // data item -> tenant | subject
	Search      map[string]map[string]string `json:"search"`       // data item -> pii field -> how it is normalised for equality search
	Secrets     map[string]string            `json:"secrets"`      // credentials that the service holds itself -> socket | file
	RowMAC      []string                     `json:"row_mac"`      // data items whose rows carry a MAC
	Relations   map[string][]string          `json:"relations"`    // object type -> relations that the service may write; null when the file has no model of relations
	Off         []string                     `json:"off"`          // controls that the file disables (throw-away systems only)
}

// StoreInfo tells how to open a store.
type StoreInfo struct {
	Kind       string `json:"kind"` // sqlite | postgres
	Path       string `json:"path,omitempty"`
	URL        string `json:"url,omitempty"`         // postgres, no password
	Password   string `json:"password,omitempty"`    // name to ask PathSecret for: "store:NAME"; its user, if it has one, replaces that of URL
	Owner      string `json:"owner,omitempty"`       // role that sessions act as; "": the one that logged in
	Pooler     bool   `json:"pooler,omitempty"`      // PgBouncer with transaction pooling stands there
	ClientCert bool   `json:"client_cert,omitempty"` // show the certificate of PathDBCert
	CA         []byte `json:"ca,omitempty"`          // PEM
	Pool       int    `json:"pool"`

	Timeout    time.Duration `json:"timeout,omitempty"` // of a statement; 0: none
	AuditTable string        `json:"audit_table,omitempty"`
}

// ServerOwned mirrors spec.ServerOwned.
type ServerOwned struct {
	Fields []string `json:"fields"`
	Mode   string   `json:"mode"`
}

// HeaderIdentity carries the verified caller from the sidecar to the service.
const HeaderIdentity = "Rampart-Identity"

// HeaderIdem carries a client's idempotency key from the gateway to the
// service; it is present only after the control ran.
const HeaderIdem = "Rampart-Idempotency-Key"

// MessagePath is where a service takes messages: POST MessagePath + TOPIC.
// 2xx acknowledges; anything else is tried again.
const MessagePath = "/_rampart/messages/"

// IsReserved reports whether a service's path is at or below /_rampart/, in any
// case: some routers fold it. Such paths belong to the sidecar, which posts
// messages there after it judged them; no caller reaches them.
func IsReserved(path string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return strings.EqualFold(first, "_rampart")
}

// SecretValue is a secret on its way to a service that must hold it itself.
type SecretValue struct {
	Value   []byte    `json:"value"`
	Version int       `json:"version"`
	User    string    `json:"user,omitempty"` // that goes with the value
	Until   time.Time `json:"until,omitzero"` // the value ends then
}

// ForgetAnswer tells a service what its caches must not serve any more.
type ForgetAnswer struct {
	ID      uint64       `json:"id"` // to be named as after in the next call
	Secrets []string     `json:"secrets,omitempty"`
	DEKs    []DEKRequest `json:"deks,omitempty"` // without versions: all of them
	All     bool         `json:"all,omitempty"`  // the sidecar is new, or the call came too late: forget everything
}

// SecretsInUse tells the oldest version of each credential with which the
// service still holds a connection.
type SecretsInUse struct {
	Process  string         `json:"process"`  // random per process of the service; one that is silent for a minute counts as ended
	Versions map[string]int `json:"versions"` // by the name at PathSecret
}

// DBCertRequest asks for a client certificate of a database.
type DBCertRequest struct {
	CSR []byte `json:"csr"` // DER; its public key and proof of possession alone count
}

// DBCert is one, leaf first.
type DBCert struct {
	Chain    [][]byte  `json:"chain"` // DER
	NotAfter time.Time `json:"not_after"`
}

// DEKRequest asks for a data encryption key of one data item; version 0 is the
// active one.
type DEKRequest struct {
	Item    string `json:"item"` // key of data in rampart.yaml
	Tenant  string `json:"tenant"`
	Subject string `json:"subject,omitempty"` // the person, of an item with shred: subject
	Version uint32 `json:"version"`
	Search  bool   `json:"search,omitempty"` // the key of blind indexes instead; it has one version until it is rekeyed

	// Messages is how many values the asker will seal at most with an active key
	// before it asks again; at most MaxMessages.
	Messages int64 `json:"messages,omitempty"`
}

// MaxMessages bounds DEKRequest.Messages.
const MaxMessages = 1 << 20

// SubjectKey is set in the versions of a person's keys: who opens a value reads in
// it whether the tenant's key or the person's sealed it.
const SubjectKey = 1 << 31

// DEK is an unwrapped data encryption key.
type DEK struct {
	Key     []byte `json:"key"` // 32 bytes
	Version uint32 `json:"version"`
}

// Identified is the content of HeaderIdentity. The sidecar sets the header to
// "v1." + base64url(JSON of Identified) + "." + base64url(Ed25519 signature of
// the text before the last dot), unpadded. ServiceInfo.IdentityKey verifies it.
type Identified struct {
	Principal rampart.Principal `json:"principal"`
	Caller    string            `json:"caller"` // SPIFFE ID of the direct caller
	Flow      string            `json:"flow"`
	Topic     string            `json:"topic,omitempty"` // of the message that is delivered; "" for a request
	Trace     string            `json:"trace"`
	Expires   time.Time         `json:"exp"`
}

// CheckRequest asks the sidecar's PDP about one object. The subject comes from
// Identity, never from the service.
type CheckRequest struct {
	Identity  string           `json:"identity"` // the HeaderIdentity value as received
	Action    rampart.Action   `json:"action"`
	Resource  rampart.Resource `json:"resource"`
	Context   map[string]any   `json:"context,omitempty"`   // facts of the request that policies may use
	AtLeast   uint64           `json:"at_least,omitempty"`  // revision of the relations that must have been seen
	Supported []string         `json:"supported,omitempty"` // obligation types that the asker can carry out
}

// ManyRequest asks about many objects at once, at most MaxMany. Identity of
// each check is left out.
type ManyRequest struct {
	Identity string         `json:"identity"`
	Checks   []CheckRequest `json:"checks"`
}

// MaxMany bounds a ManyRequest.
const MaxMany = 1000

// ManyAnswer holds one decision for each check, in order.
type ManyAnswer struct {
	Decisions []rampart.Decision `json:"decisions"`
}

// FilterRequest asks which resources of a type the caller may do something to.
type FilterRequest struct {
	Identity  string         `json:"identity"`
	Action    rampart.Action `json:"action"`
	Type      string         `json:"type"`
	Tenant    string         `json:"tenant,omitempty"` // of all rows asked for; "" when it is a column
	Context   map[string]any `json:"context,omitempty"`
	AtLeast   uint64         `json:"at_least,omitempty"`
	Supported []string       `json:"supported,omitempty"` // obligation types that the asker can carry out
}

// FilterAnswer holds a filter.Filter as JSON. A decision that denies comes with
// a filter that keeps nothing.
type FilterAnswer struct {
	Decision rampart.Decision `json:"decision"`
	Filter   json.RawMessage  `json:"filter"`
	Table    json.RawMessage  `json:"table"` // filter.Table: the columns of the attributes
}

// TuplesPush brings the sidecar's relation graph from one revision to the next.
// One whose From is not the graph's revision is a Conflict, and the service
// starts anew with Reset.
type TuplesPush struct {
	Source  string       `json:"source"` // database that the relations live in; a sidecar follows each by itself
	Reset   bool         `json:"reset"`  // Changes are all there is
	More    bool         `json:"more"`   // of a Reset: further parts follow, and the graph is not used until the last
	From    uint64       `json:"from"`   // of a Reset: how many parts came before this one
	To      uint64       `json:"to"`
	Changes []TupleWrite `json:"changes"`
}

// TuplesStale is for how long a graph answers after a push; one without changes,
// From and To alike, says that nothing happened.
const TuplesStale = 10 * time.Second

// TupleWrite is one change of a relation.
type TupleWrite struct {
	Delete    bool           `json:"delete,omitempty"`
	Object    string         `json:"object"`
	Relation  string         `json:"relation"`
	Subject   string         `json:"subject"`
	Condition string         `json:"condition,omitempty"`
	Context   map[string]any `json:"context,omitempty"`
}

// TuplesState tells how far the sidecar's graph has come.
type TuplesState struct {
	Revision uint64 `json:"revision"`
	Ready    bool   `json:"ready"` // false until the first Reset is whole

	Rejected *TuplesRejected `json:"rejected,omitempty"` // of the changes just pushed; nil when all count
}

// TuplesRejected tells which changes of one push do not count, because the model
// has no place for them or a token alone says them. The others do.
type TuplesRejected struct {
	Count int             `json:"count"`
	First []TupleRejected `json:"first"` // at most MaxRejected
}

// MaxRejected bounds how many changes TuplesRejected tells of.
const MaxRejected = 20

// TupleRejected is one of them; long texts are cut.
type TupleRejected struct {
	Object   string `json:"object"`
	Relation string `json:"relation"`
	Subject  string `json:"subject"`
	Reason   string `json:"reason"`
}

// Add notes one more.
func (r *TuplesRejected) Add(t TupleRejected) {
	if r.Count++; len(r.First) < MaxRejected {
		r.First = append(r.First, t)
	}
}

// AuditRequest records an event of the service's own, for example a booking.
// Subject, flow and trace come from Identity, never from the service; without
// one the service did it for itself.
type AuditRequest struct {
	Identity string            `json:"identity"` // the HeaderIdentity value as received, or ""
	Class    string            `json:"class"`    // money | admin | api_read
	Action   string            `json:"action"`
	Outcome  string            `json:"outcome"` // allowed | refused | error
	Control  string            `json:"control"` // one that a service enforces, or "": see MayClaim
	Resource string            `json:"resource"`
	Detail   map[string]string `json:"detail"`
}

// MayClaim reports whether a service may say that this control decided: those
// that work inside services, and "". What planes enforce planes record.
func MayClaim(control string) bool {
	switch control {
	case "", "field.server_owned", "db.row_mac", "db.audit_log", "db.check", "data.envelope", "limit.pool":
		return true
	}
	return false
}
