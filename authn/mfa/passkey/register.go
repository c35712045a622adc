package passkey

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"strings"
	"unicode"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/mfa"
)

// BeginRegistration returns the options for navigator.credentials.create as
// JSON. binding, such as a session's handle, names who may answer, within five
// minutes. A person with mfa.MaxFactors factors gets Conflict.
func (m *Manager) BeginRegistration(ctx context.Context, p Person, binding string) ([]byte, error) {
	o, err := m.owner(ctx, p)
	if err != nil {
		return nil, err
	}
	if len(o.credentials) >= mfa.MaxFactors {
		return nil, rampart.Errorf(rampart.Conflict, control, "passkey: a person has at most %d; remove one first", mfa.MaxFactors)
	}
	// One authenticator holds one passkey of a person: it would replace the
	// other, and the list would show one that is gone.
	known := webauthn.WithExclusions(webauthn.Credentials(o.credentials).CredentialDescriptors())
	options, session, err := m.lib.BeginRegistration(o, known)
	if err != nil {
		return nil, err
	}
	if err := m.remember(ctx, ceremony{Subject: p.Subject, Binding: binding, Create: true, Session: *session}); err != nil {
		return nil, err
	}
	return json.Marshal(options)
}

// FinishRegistration checks the browser's answer and keeps the new passkey
// under label. A bad answer is Unauthenticated, a passkey that is registered
// already is Conflict.
func (m *Manager) FinishRegistration(ctx context.Context, p Person, binding, label string, answer []byte) (mfa.Factor, error) {
	if len(answer) > MaxResponse {
		return mfa.Factor{}, refused("the answer is too large")
	}
	parsed, err := protocol.ParseCredentialCreationResponseBytes(answer)
	if err != nil {
		return mfa.Factor{}, refusedBy(err)
	}
	session, err := m.recall(ctx, parsed.Response.CollectedClientData.Challenge, ceremony{Subject: p.Subject, Binding: binding, Create: true})
	if err != nil {
		return mfa.Factor{}, err
	}
	c, err := m.lib.CreateCredential(owner{handle: m.handle(p.Subject), name: p.Name}, session, parsed)
	if err != nil {
		return mfa.Factor{}, refusedBy(err)
	}
	f := mfa.Factor{
		ID: mfa.NewID(), Subject: p.Subject, Kind: mfa.KindPasskey, Label: Label(label),
		Credential: sha256.Sum256(c.ID), Created: m.opt.Now(),
	}
	if _, _, err := m.find(ctx, c.ID); rampart.KindOf(err) != rampart.Unauthenticated {
		if err != nil {
			return mfa.Factor{}, err
		}
		return mfa.Factor{}, rampart.Errorf(rampart.Conflict, control, "passkey: this one is registered already")
	}
	if err := m.seal(ctx, &f, recordOf(c)); err != nil {
		return mfa.Factor{}, err
	}
	err = m.opt.Store.PutFactor(ctx, f)
	if errors.Is(err, mfa.ErrNotFound) {
		return mfa.Factor{}, rampart.Errorf(rampart.Denied, control, "passkey: this account is gone")
	}
	return f, unavailable(err)
}

// Rename gives one of the subject's passkeys another name. One that is not
// there, or somebody else's, is NotFound.
func (m *Manager) Rename(ctx context.Context, subject, id, label string) error {
	for range swaps {
		f, err := m.opt.Store.Factor(ctx, id)
		if err != nil || f.Subject != subject || f.Kind != mfa.KindPasskey {
			return notFound(err)
		}
		f.Label = Label(label)
		ok, err := m.opt.Store.SwapFactor(ctx, f)
		if ok || err != nil {
			return unavailable(err)
		}
	}
	return contended()
}

// Label returns a name as it is kept: printable, one line, at most MaxLabel
// bytes, and never empty.
func Label(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > MaxLabel {
		s = strings.TrimSpace(strings.ToValidUTF8(s[:MaxLabel], ""))
	}
	if s == "" {
		return "Passkey"
	}
	return s
}
