package passkey

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/mfa"
	"github.com/rampart-security/rampart/authn/ticket"
)

const control = "authn.mfa"

// MaxResponse bounds what a browser may answer, in bytes of JSON.
const MaxResponse = 12 << 10

// MaxLabel bounds the name that a person gives a passkey, in bytes.
const MaxLabel = 64

const (
	ceremonyKind = "webauthn"
	ceremonyFor  = 5 * time.Minute
)

// ErrNoDomain says that passkeys cannot work under an issuer: they are bound
// to a host name, and an IP address is none (WebAuthn, section 5.1.2).
var ErrNoDomain = errors.New("passkey: the issuer has no host name")

// Options configure a Manager. All but Now are required.
type Options struct {
	Issuer  string // https://HOST[:PORT]/ of the edge: the host is the relying party, scheme, host and port are the origin
	System  string // how a browser names it
	Key     []byte // HMAC key of user handles and of challenges to anybody, 32 bytes or more
	Store   mfa.Store
	Tickets ticket.Store
	Sealer  mfa.Sealer
	Now     func() time.Time // nil: time.Now
}

// Manager runs the ceremonies. Safe for concurrent use.
type Manager struct {
	opt Options
	lib *webauthn.WebAuthn
}

// New returns a Manager. An issuer that passkeys cannot be bound to is
// ErrNoDomain. It panics when another part is missing, which is an error of
// the program.
func New(opt Options) (*Manager, error) {
	if opt.Store == nil || opt.Tickets == nil || opt.Sealer == nil || opt.System == "" || len(opt.Key) < sha256.Size {
		panic("passkey: stores, a sealer, a name and a 32-byte key are required")
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	u, err := url.Parse(opt.Issuer)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || net.ParseIP(u.Hostname()) != nil {
		return nil, ErrNoDomain
	}
	lib, err := webauthn.New(&webauthn.Config{
		RPID:                  u.Hostname(),
		RPDisplayName:         opt.System,
		RPOrigins:             []string{"https://" + u.Host},
		AttestationPreference: protocol.PreferNoAttestation, // whose make it is, is not asked
		AuthenticatorSelection: protocol.AuthenticatorSelection{
			ResidentKey:        protocol.ResidentKeyRequirementRequired,
			RequireResidentKey: protocol.ResidentKeyRequired(),
			UserVerification:   protocol.VerificationRequired,
		},
		// No extension is asked for and no output is read; some password
		// managers send one all the same.
		ExtensionsUnsolicitedOutputPolicy: protocol.UnsolicitedOutputPolicyIgnore,
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrNoDomain, err)
	}
	return &Manager{opt: opt, lib: lib}, nil
}

// Person is who registers.
type Person struct {
	Subject string // "user:NAME"
	Name    string // as the browser shows it
}

// ceremony is what is remembered between the question and the answer. The
// challenge names it, so that an answer can be given to its own question only,
// and once.
type ceremony struct {
	Subject string               `json:"sub"`
	Binding string               `json:"binding"` // the session or pending login that it belongs to
	Create  bool                 `json:"create"`
	Session webauthn.SessionData `json:"session"`
}

func (m *Manager) remember(ctx context.Context, c ceremony) error {
	value, err := json.Marshal(c)
	if err != nil {
		return err
	}
	now := m.opt.Now()
	return unavailable(m.opt.Tickets.PutTicket(ctx, ceremonyKind, named(c.Session.Challenge), value, now, now.Add(ceremonyFor)))
}

// recall returns and forgets the ceremony that a challenge belongs to, if it is
// the one that the caller is in.
func (m *Manager) recall(ctx context.Context, challenge string, want ceremony) (webauthn.SessionData, error) {
	value, err := m.opt.Tickets.TakeTicket(ctx, ceremonyKind, named(challenge), m.opt.Now())
	if errors.Is(err, ticket.ErrNotFound) {
		return webauthn.SessionData{}, refused("the challenge is unknown, used or older than five minutes")
	}
	if err != nil {
		return webauthn.SessionData{}, unavailable(err)
	}
	var c ceremony
	if err := json.Unmarshal(value, &c); err != nil {
		return webauthn.SessionData{}, unavailable(err)
	}
	if c.Subject != want.Subject || c.Binding != want.Binding || c.Create != want.Create {
		return webauthn.SessionData{}, refused("the challenge belongs to another ceremony")
	}
	return c.Session, nil
}

func named(challenge string) ticket.Hash {
	return sha256.Sum256([]byte("rampart-webauthn-v1\n" + challenge))
}

// handle is how authenticators know the subject: it says nothing to who finds
// one (WebAuthn, section 14.6.1).
func (m *Manager) handle(subject string) []byte {
	mac := hmac.New(sha256.New, m.opt.Key)
	mac.Write([]byte("rampart-webauthn-user-v1\n" + subject))
	return mac.Sum(nil)
}

// refused is what a browser's bad answer gets. why is for the audit log.
func refused(why string) error {
	return &rampart.Error{Kind: rampart.Unauthenticated, Control: control, Msg: "passkey: not accepted", Err: errors.New(why)}
}

// refusedBy tells the library's reason to the audit log.
func refusedBy(err error) error {
	why := err.Error()
	if e, ok := errors.AsType[*protocol.Error](err); ok {
		why = e.Details
		if e.DevInfo != "" {
			why += ": " + e.DevInfo
		}
	}
	return refused(why[:min(len(why), 300)])
}

func unavailable(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*rampart.Error](err); ok {
		return err
	}
	return &rampart.Error{Kind: rampart.Unavailable, Control: control, Msg: "passkey: not available right now", Err: fmt.Errorf("passkey: %w", err)}
}
