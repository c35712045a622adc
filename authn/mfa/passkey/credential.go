package passkey

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"

	"github.com/rampart-security/rampart/authn/mfa"
)

// record is the sealed part of a passkey. It is ours and not the library's, so
// that no version of that can change what is stored.
type record struct {
	ID         []byte   `json:"id"`
	PublicKey  []byte   `json:"public_key"` // COSE
	Format     string   `json:"format"`     // of the attestation
	Transports []string `json:"transports"`
	Flags      uint8    `json:"flags"` // of the authenticator data: UP, UV, BE, BS
	Count      uint32   `json:"count"` // of signatures
	AAGUID     []byte   `json:"aaguid"`
}

func recordOf(c *webauthn.Credential) record {
	r := record{
		ID: c.ID, PublicKey: c.PublicKey, Format: c.AttestationFormat,
		Flags: uint8(c.Flags.ProtocolValue()), Count: c.Authenticator.SignCount, AAGUID: c.Authenticator.AAGUID,
	}
	for _, t := range c.Transport {
		r.Transports = append(r.Transports, string(t))
	}
	return r
}

func (r record) credential() webauthn.Credential {
	c := webauthn.Credential{
		ID: r.ID, PublicKey: r.PublicKey, AttestationFormat: r.Format,
		Flags:         webauthn.NewCredentialFlags(protocol.AuthenticatorFlags(r.Flags)),
		Authenticator: webauthn.Authenticator{AAGUID: r.AAGUID, SignCount: r.Count},
	}
	for _, t := range r.Transports {
		c.Transport = append(c.Transport, protocol.AuthenticatorTransport(t))
	}
	return c
}

// owner is a person as the library asks for one.
type owner struct {
	handle      []byte
	name        string
	credentials []webauthn.Credential
}

func (o owner) WebAuthnID() []byte                         { return o.handle }
func (o owner) WebAuthnName() string                       { return o.name }
func (o owner) WebAuthnDisplayName() string                { return o.name }
func (o owner) WebAuthnCredentials() []webauthn.Credential { return o.credentials }

// owner returns the subject with all passkeys.
func (m *Manager) owner(ctx context.Context, p Person) (owner, error) {
	o := owner{handle: m.handle(p.Subject), name: p.Name}
	all, err := m.opt.Store.Factors(ctx, p.Subject)
	if err != nil {
		return o, unavailable(err)
	}
	for _, f := range all {
		if f.Kind != mfa.KindPasskey {
			continue
		}
		r, err := m.open(ctx, f)
		if err != nil {
			return o, err
		}
		o.credentials = append(o.credentials, r.credential())
	}
	return o, nil
}

// find returns the factor of a credential id.
func (m *Manager) find(ctx context.Context, id []byte) (mfa.Factor, record, error) {
	f, err := m.opt.Store.FactorByCredential(ctx, sha256.Sum256(id))
	if errors.Is(err, mfa.ErrNotFound) {
		return f, record{}, refused("the passkey is not registered")
	}
	if err != nil {
		return f, record{}, unavailable(err)
	}
	r, err := m.open(ctx, f)
	return f, r, err
}

func (m *Manager) open(ctx context.Context, f mfa.Factor) (record, error) {
	var r record
	plain, err := m.opt.Sealer.Unwrap(ctx, f.Data, f.Row())
	if err != nil {
		return r, unavailable(err)
	}
	return r, unavailable(json.Unmarshal(plain, &r))
}

func (m *Manager) seal(ctx context.Context, f *mfa.Factor, r record) error {
	plain, err := json.Marshal(r)
	if err != nil {
		return err
	}
	f.Data, err = m.opt.Sealer.Wrap(ctx, plain, f.Row())
	return unavailable(err)
}
