package token

import (
	"context"
	"crypto/sha256"
	"errors"
	"time"

	"github.com/rampart-security/rampart/internal/wire"
)

// Answers of a Store that the service tells apart.
var (
	ErrNotFound = errors.New("token: not found")
	ErrUsed     = errors.New("token: authorization code used before")
)

// Client is an application that may ask for tokens.
type Client struct {
	ID        string
	Principal string   // key of principals in rampart.yaml
	Name      string   // for people; "" is the ID
	Redirects []string // exact
	Auth      string   // how it proves itself: "" or "none" (public: PKCE), "private_key_jwt", "tls_client_auth"
	Keys      []byte   // private_key_jwt: its JWK set
	Identity  string   // tls_client_auth: its SPIFFE ID
	Grants    []string // nil: authorization_code and refresh_token
	Scopes    []string // permissions it may ask for; nil: all that its user has
	Roles     []string // of the client itself, where it acts for nobody
	Orgs      []string // organizations that it acts in then; the first is its tenant
	DPoP      bool     // gets sender-constrained tokens alone
	IDAlg     string   // of its ID tokens: "" or RS256, or ES256
	Disabled  bool
	Tag       string
}

// Code is an authorization code as the store knows it.
type Code struct {
	Hash      [sha256.Size]byte // HMAC-SHA256 of the code
	Client    string
	Redirect  string
	Challenge string // PKCE S256
	Subject   string
	SID       string    // the browser session that it was issued from
	Issued    time.Time // when that session began: what a cut-off is measured against
	AuthTime  time.Time // of the newest proof, which may be a provider's and older than the session
	ACR       string
	AMR       []string
	Scope     []string // permissions; nil: all
	OpenID    bool     // an ID token is asked for
	Offline   bool     // what it is traded for outlives the session
	Nonce     string   // OpenID Connect
	JKT       string   // RFC 7638 thumbprint of the DPoP key; "" if none
	Expires   time.Time
	Family    string // refresh family issued for it; "" until used
}

// Family is a chain of refresh tokens: one login of one client. The tokens
// themselves are derived from it and never stored.
type Family struct {
	ID         string
	Generation int       // of the newest token
	Rotated    time.Time // when that token was first issued
	Client     string
	Subject    string
	SID        string    // browser session that it ends with; "": none, it was begun with offline_access
	Issued     time.Time // when the session behind it began; zero in rows from before it was kept: AuthTime
	AuthTime   time.Time
	ACR        string
	AMR        []string
	Scope      []string  // permissions; nil: all
	OpenID     bool      // was begun with the scope openid
	JKT        string    // RFC 7638 thumbprint of the DPoP key; "" if none
	Expires    time.Time // idle bound, moves with each rotation
	Absolute   time.Time
	Revoked    bool
}

// Store keeps clients, codes, refresh families and revocations. Every change
// is durable when its method returns. Implementations are judged by
// tokentest.Test.
type Store interface {
	// Client returns a registered client, or ErrNotFound.
	Client(ctx context.Context, id string) (Client, error)

	// PutCode inserts a code.
	PutCode(ctx context.Context, c Code) error
	// Code returns a code, used or not, or ErrNotFound.
	Code(ctx context.Context, hash [sha256.Size]byte) (Code, error)
	// UseCode marks the code used and inserts f, in one step. ErrUsed when
	// somebody was faster.
	UseCode(ctx context.Context, hash [sha256.Size]byte, f Family) error

	// Family returns a refresh family, or ErrNotFound.
	Family(ctx context.Context, id string) (Family, error)
	// Families returns the subject's families that are not revoked, newest first.
	Families(ctx context.Context, subject string) ([]Family, error)
	// RotateFamily moves a live family from one generation to the next, and
	// reports false when it was no longer at that generation or is revoked.
	RotateFamily(ctx context.Context, id string, from int, at, expires time.Time) (bool, error)
	// RevokeFamilies ends the live families of a "family", "sid", "sub" or
	// "client" and returns their ids.
	RevokeFamilies(ctx context.Context, kind, id string) ([]string, error)

	// PutRevocation appends r and returns it with its Seq.
	PutRevocation(ctx context.Context, r wire.Revocation) (wire.Revocation, error)
	// Revocations returns those that expire after now, by Seq.
	Revocations(ctx context.Context, now time.Time) ([]wire.Revocation, error)
	// RevocationsAfter is Revocations of those above seq. Revocations become
	// visible in their order: who asks for what is above the last one seen
	// misses none, whoever wrote it.
	RevocationsAfter(ctx context.Context, seq uint64, now time.Time) ([]wire.Revocation, error)

	// SweepTokens forgets codes, families and revocations that expired before now.
	SweepTokens(ctx context.Context, now time.Time) error
}
