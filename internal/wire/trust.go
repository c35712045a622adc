package wire

import (
	"encoding/json"
	"time"
)

// Paths of what a plane asks the authority and the stores of keys for, beside
// those of wire.go.
const (
	PathJWTSVID   = "/v1/jwt-svid"   // POST JWTSVIDRequest -> JWTSVID; of the calling service itself
	PathDBCert    = "/v1/db-cert/"   // POST /v1/db-cert/{store} RenewRequest -> Identity; a client certificate for a database, its common name the role
	PathEdgeStore = "/v1/edge-store" // POST EdgeStoreRequest -> EdgeStoreAnswer; the gateway's ACME account and certificates, sealed by the KEK
	PathAttest    = "/v1/attest"     // POST AttestRequest -> Identity; as PathJoin, by proof of another kind than a token
)

// Trust is whom to believe about peers, as of one version. Each root vouches for
// one trust domain alone.
type Trust struct {
	Version   uint64            `json:"version"`             // grows with every change
	Roots     []byte            `json:"roots"`               // PEM of our own roots: the old and the new while the authority rotates
	Signs     string            `json:"signs,omitempty"`     // key id, hex, of the root that new certificates chain to; "": nobody says
	Federated map[string][]byte `json:"federated,omitempty"` // other trust domain -> PEM of its roots
	JWT       map[string][]byte `json:"jwt,omitempty"`       // trust domain, ours among them -> JWK set of its JWT-SVIDs
	Sequence  map[string]uint64 `json:"sequence,omitempty"`  // trust domain -> sequence number of its bundle
}

// Kinds of Revocation that void certificates, beside "svid". Their ids are
// lower-case hex.
const (
	RevokedSerial = "serial" // "SKI.SERIAL": one certificate, by the key id of its issuer; whatever its date
	RevokedIssuer = "issuer" // "SKI": all that the authority with this key id signed
)

// TrustState is what a heartbeat says of certificates.
type TrustState struct {
	Version uint64    `json:"version,omitempty"` // of the Trust in force
	Root    string    `json:"root,omitempty"`    // key id, hex, of the root that the plane's own SVID chains to
	Until   time.Time `json:"until,omitzero"`    // end of that SVID
	// Secrets are the versions that the plane and its service use now, by the name
	// at PathSecret: an older one may be revoked once nobody names it.
	Secrets map[string]int `json:"secrets,omitempty"`
}

// Proofs by which a plane may join beside a token.
const (
	ProofKubernetes = "kubernetes" // a projected service-account token, audience "rampart"
	ProofUnix       = "unix"       // only at the control plane's own socket: the kernel says who is at the other end
)

// AttestRequest asks for an SVID by proof of another kind.
type AttestRequest struct {
	Kind     string `json:"kind"`
	Evidence string `json:"evidence,omitempty"` // kubernetes: the token
	Identity string `json:"identity,omitempty"` // unix: "service/orders"; the file says which uid and program that is
	CSR      []byte `json:"csr"`
}

// JWTSVIDRequest asks for a JWT-SVID.
type JWTSVIDRequest struct {
	Audience []string `json:"audience"` // one at least
}

// JWTSVID is a signed JWT-SVID and its end.
type JWTSVID struct {
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`
}

// Operations of an EdgeStoreRequest.
const (
	EdgeLoad   = "load"
	EdgeStore  = "store"
	EdgeDelete = "delete" // with what lies below; what is not there is no error
	EdgeList   = "list"
	EdgeStat   = "stat"
	EdgeLock   = "lock" // by the owner who has it already: until later
	EdgeUnlock = "unlock"
)

// EdgeStoreRequest is one operation on the store that all gateways share.
type EdgeStoreRequest struct {
	Op     string    `json:"op"`
	Key    string    `json:"key"`              // words between slashes; a lock guards its key and what lies below
	Value  []byte    `json:"value,omitempty"`  // store
	Owner  string    `json:"owner,omitempty"`  // lock, unlock: random per attempt
	Until  time.Time `json:"until,omitzero"`   // lock: it lapses then
	Fence  uint64    `json:"fence,omitempty"`  // store, delete: the lock's; an older one than the newest lock of the key is refused, and none while somebody holds it
	Deeper bool      `json:"deeper,omitempty"` // list: also what lies below what lies below
}

// EdgeStoreAnswer answers it.
type EdgeStoreAnswer struct {
	Value    []byte    `json:"value,omitempty"`
	Keys     []string  `json:"keys,omitempty"` // list; stat: of a folder, one that lies in it
	Modified time.Time `json:"modified,omitzero"`
	Size     int64     `json:"size,omitempty"`
	Fence    uint64    `json:"fence,omitempty"` // lock; 0: somebody else holds it
}

// MaxEdgeCerts bounds what a heartbeat says of public certificates.
const MaxEdgeCerts = 100

// EdgeCert is how one public certificate of a gateway stands.
type EdgeCert struct {
	Name      string    `json:"name"`
	Source    string    `json:"source"` // acme | files | local CA
	NotBefore time.Time `json:"not_before,omitzero"`
	NotAfter  time.Time `json:"not_after,omitzero"` // zero: there is none, and handshakes fail
	Error     string    `json:"error,omitempty"`    // of the last attempt at a new one
}

// Late reports whether the certificate should have been renewed by now: less
// than a fifth of its life is left.
func (c EdgeCert) Late(now time.Time) bool {
	return !now.Before(c.NotAfter.Add(-c.NotAfter.Sub(c.NotBefore) / 5))
}

// Paths of the admin socket for the authority, keys of data, and secrets.
const (
	AdminCA      = "/admin/ca"           // GET -> CAStatus; POST CAStep -> CAStatus
	AdminCASign  = "/admin/ca/sign"      // GET -> PEM, the pending request of the issuing certificate; POST PEM of the chain -> CAStatus, for an offline root
	AdminCARoot  = "/admin/ca/root"      // POST ExportRoot -> ExportedRoot
	AdminDEKs    = "/admin/deks"         // GET ?item=&tenant=&after_item=&after_tenant= -> []DEKInfo: some of them, after one, until there are none
	AdminRewrap  = "/admin/deks/rewrap"  // POST -> Rewrapped: some of them, until Left is 0
	AdminRekey   = "/admin/deks/rekey"   // POST DEKTarget -> DEKInfo: a new version seals from now on
	AdminShred   = "/admin/deks/shred"   // POST DEKTarget -> Shredded; without Item all of them
	AdminReopen  = "/admin/deks/reopen"  // POST DEKTarget -> 204: keys may be made again for whom was shredded; without Item all of them
	AdminBackup  = "/admin/deks/backup"  // POST DEKPageHead -> DEKPage, the one after it; of a zero head the first
	AdminRestore = "/admin/deks/restore" // POST DEKPage -> Restored
	AdminKEK     = "/admin/kek"          // GET -> KEKInfo; POST -> KEKInfo, a new version of a key file
	AdminRotate  = "/admin/rotations"    // GET -> []Rotation; POST RotateNow -> Rotation, begins now or goes on
	AdminIssuing = "/admin/ca/issued"    // GET ?root= -> []Issued, what is alive
	AdminCAWrite = "/admin/ca/write"     // POST CAWrite -> Identity: a server's certificate for a file
	AdminCRL     = "/admin/ca/crl"       // GET -> PEM, for those outside who read one
)

// CAStatus is the state of the authority.
type CAStatus struct {
	Domain  string    `json:"domain"`
	Kind    string    `json:"kind"`           // embedded | offline | upstream
	Step    string    `json:"step"`           // "" (nothing under way) | prepare | publish | activate
	Version uint64    `json:"version"`        // of the trust that planes should have
	Since   time.Time `json:"since,omitzero"` // of the step
	Roots   []Cert    `json:"roots"`
	Issuing Cert      `json:"issuing"`
	Live    int       `json:"live"`              // certificates that are not expired
	Waiting []string  `json:"waiting,omitempty"` // why the next step cannot be taken yet, a line each
	Broken  []string  `json:"broken,omitempty"`  // what a forced step did not wait for, a line each
	Planes  []PlaneCA `json:"planes,omitempty"`
}

// Cert describes a certificate of the authority.
type Cert struct {
	Subject   string    `json:"subject"`
	KeyID     string    `json:"key_id"` // hex
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	Signs     bool      `json:"signs"`         // new certificates chain to it
	Key       bool      `json:"key"`           // its private key is here
	PEM       string    `json:"pem,omitempty"` // the certificate
}

// PlaneCA is what one plane said of its certificates last.
type PlaneCA struct {
	Plane string `json:"plane"`
	TrustState
	SeenSeconds float64 `json:"seen_seconds"`
}

// PEM is an answer in PEM.
type PEM struct {
	PEM string `json:"pem"`
}

// CRL is revocation lists in PEM, and what is revoked and stands on none: the key
// that would have to sign its list is gone.
type CRL struct {
	PEM      string   `json:"pem"`
	Unlisted []Issued `json:"unlisted,omitempty"`
}

// CAWrite asks for the certificate of a server that is no workload, such as a
// database of the house.
type CAWrite struct {
	Names []string `json:"names"` // localhost, names below it or the trust domain, loopback addresses
	CSR   []byte   `json:"csr"`   // DER; its public key and proof of possession alone count
}

// CAStep moves a rotation of the root on.
type CAStep struct {
	To     string `json:"to"` // prepare | publish | activate | retire | rollback
	Force  bool   `json:"force,omitempty"`
	Reason string `json:"reason,omitempty"` // of Force
}

// ExportRoot takes the root key out, for an offline root.
type ExportRoot struct {
	Recipient string `json:"recipient"` // age public key
	Remove    bool   `json:"remove"`    // the key here is destroyed
}

// ExportedRoot is the root certificate and its key, encrypted with age.
type ExportedRoot struct {
	Encrypted []byte `json:"encrypted"`
	Cert      Cert   `json:"cert"`
	Removed   bool   `json:"removed"`
}

// Issued is one live certificate.
type Issued struct {
	ID       string    `json:"id"`     // SPIFFE ID, or a common name
	Issuer   string    `json:"issuer"` // key id of the certificate that signed it, hex
	Root     string    `json:"root"`   // key id of the root
	Serial   string    `json:"serial"` // hex
	Kind     string    `json:"kind"`   // join | renew | kubernetes | unix | edge | database | own
	NotAfter time.Time `json:"not_after"`

	Revoked   time.Time `json:"revoked,omitzero"`     // since when it is void
	RevokedBy string    `json:"revoked_by,omitempty"` // "serial", "issuer" or "id": what of it was revoked
}

// OwnItem is the data item of Rampart's own stores. Its tenants are "queue/NAME",
// whose key goes to that store's queue alone. No item of a file has its name.
const OwnItem = "_rampart"

// DEKTarget names data keys: of one item and tenant, or of one person of it.
type DEKTarget struct {
	Item    string `json:"item"`
	Tenant  string `json:"tenant"`
	Subject string `json:"subject,omitempty"`
}

// DEKInfo describes a data key; its versions, never the key.
type DEKInfo struct {
	DEKTarget
	Versions []DEKVersion `json:"versions"`
	Shredded time.Time    `json:"shredded,omitzero"`
}

// DEKVersion is one version of a data key.
type DEKVersion struct {
	Version uint32    `json:"version"`
	State   string    `json:"state"` // active | decrypt
	KEK     string    `json:"kek"`   // what wraps it
	Created time.Time `json:"created"`

	Messages int64 `json:"messages"` // that may have been sealed with it; at 2^30 the next version is made
}

// Rewrapped is how far moving data keys to the newest KEK has come. Who is cut
// off asks again: what is done is done.
type Rewrapped struct {
	KEK  string `json:"kek"`
	Done int    `json:"done"` // by this call
	Left int    `json:"left"`
}

// DEKPageHead is what a page of a backup of the data keys says of itself.
type DEKPageHead struct {
	ID      string    `json:"id"` // of the backup
	N       int       `json:"n"`  // from 1
	Taken   time.Time `json:"taken"`
	Expires time.Time `json:"expires"`        // it is not restored from then on, and must be deleted
	Stage   string    `json:"stage"`          // sets | deks | subkeys
	Digest  []byte    `json:"digest"`         // SHA-256 of the rows
	Last    bool      `json:"last,omitempty"` // no page follows
	Cursor  []byte    `json:"cursor,omitempty"`
	MAC     []byte    `json:"mac"`
}

// DEKPage is one page. Keys in it are wrapped, as they are in the database.
type DEKPage struct {
	DEKPageHead
	Rows json.RawMessage `json:"rows"`
}

// Restored counts what a page brought back.
type Restored struct {
	Restored int `json:"restored"`
	Present  int `json:"present"`  // were there
	Shredded int `json:"shredded"` // stay gone: they were destroyed after the backup was taken
}

// Shredded says what a shred did.
type Shredded struct {
	Keys          int       `json:"keys"`
	Planes        int       `json:"planes"`          // that forgot the key
	Waiting       []string  `json:"waiting"`         // planes that did not say so in time; they forget it by themselves, within the cache time
	Irrecoverable time.Time `json:"irrecoverable"`   // when the last backup of the keys has lapsed
	Certificate   string    `json:"event,omitempty"` // id of the audit event
}

// KEKInfo describes the key encryption key.
type KEKInfo struct {
	Kind   string         `json:"kind"`
	ID     string         `json:"id"`
	Wraps  map[string]int `json:"wraps"`            // id -> data keys and seals under it
	Left   int            `json:"left"`             // of them that are not under ID
	Before string         `json:"before,omitempty"` // key that must stay until nothing is left; "": none
}

// KEKOp is what an administrator does to it.
type KEKOp struct {
	Op string `json:"op"` // rotate (a key file) | rewrap, for as long as one call may take
}

// RotateNow names a rotation that begins now, or goes on.
type RotateNow struct {
	Name string `json:"name"`
}

// Rotation is the state of a credential with two roles that take turns.
type Rotation struct {
	Name    string    `json:"name"`         // "store:payments_db"
	Step    string    `json:"step"`         // idle | create | test | publish | drain | revoke
	Current string    `json:"current"`      // role in use
	Next    string    `json:"next"`         // role that is prepared, "" when idle
	Version int       `json:"version"`      // of the credential in use
	Since   time.Time `json:"since"`        // of the step
	Due     time.Time `json:"due,omitzero"` // of the next rotation
	Error   string    `json:"error,omitempty"`
	Waiting []string  `json:"waiting,omitempty"` // planes that still use the old one
}

// SecretOp is an administrator's call on one secret.
type SecretOp struct {
	Op      string `json:"op"`   // put | get | list | destroy | generate: see AdminSecrets
	Path    string `json:"path"` // secret://BACKEND/PATH#FIELD, or a path of the embedded store; list: a prefix; generate: a credential of the file
	Value   []byte `json:"value,omitempty"`
	After   *int   `json:"after,omitempty"`   // put only after this version
	Version int    `json:"version,omitempty"` // get, destroy; 0: the newest, all of them
}

// SecretAnswer answers it.
type SecretAnswer struct {
	Value   []byte       `json:"value,omitempty"`   // get
	Version int          `json:"version,omitempty"` // get, put, generate
	List    []SecretMeta `json:"list,omitempty"`    // list
}
