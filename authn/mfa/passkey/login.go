package passkey

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/mfa"
)

// swaps bounds how often a change that lost against another is tried again.
const swaps = 8

// Assertion is a passkey that was shown. The zero Assertion is nobody's.
type Assertion struct {
	Subject   string // "user:NAME"
	Factor    string // its ID
	Migrated  bool   // backup-eligible since now: audit it, once per passkey
	Regressed bool   // the signature counter went back: perhaps there are two of it; alert, do not lock
}

// BeginLogin returns the options for navigator.credentials.get as JSON. With
// subject "" any person's passkey may answer, and nothing is stored. binding
// names who may answer, within five minutes. A subject without a passkey gets
// NotFound.
func (m *Manager) BeginLogin(ctx context.Context, subject, binding string) ([]byte, error) {
	if subject == "" {
		options, err := m.beginForAnyone(binding)
		if err != nil {
			return nil, err
		}
		return json.Marshal(options)
	}
	options, session, err := m.beginFor(ctx, subject)
	if err != nil {
		return nil, err
	}
	if err := m.remember(ctx, ceremony{Subject: subject, Binding: binding, Session: *session}); err != nil {
		return nil, err
	}
	return json.Marshal(options)
}

func (m *Manager) beginFor(ctx context.Context, subject string) (*protocol.CredentialAssertion, *webauthn.SessionData, error) {
	o, err := m.owner(ctx, Person{Subject: subject})
	if err != nil {
		return nil, nil, err
	}
	if len(o.credentials) == 0 {
		return nil, nil, notFound(nil)
	}
	return m.lib.BeginLogin(o)
}

// FinishLogin checks the browser's answer to BeginLogin of the same subject and
// binding. A bad answer is Unauthenticated. User verification is demanded.
func (m *Manager) FinishLogin(ctx context.Context, subject, binding string, answer []byte) (Assertion, error) {
	if len(answer) > MaxResponse {
		return Assertion{}, refused("the answer is too large")
	}
	parsed, err := protocol.ParseCredentialRequestResponseBytes(answer)
	if err != nil {
		return Assertion{}, refusedBy(err)
	}
	challenge := parsed.Response.CollectedClientData.Challenge
	session, err := m.question(ctx, subject, binding, challenge)
	if err != nil {
		return Assertion{}, err
	}
	a, err := m.settle(ctx, subject, session, parsed)
	if err == nil && subject == "" {
		err = m.spend(ctx, challenge)
	}
	if err != nil {
		return Assertion{}, err
	}
	return a, nil
}

// question returns what the challenge was in. One that names a subject is spent
// by any answer.
func (m *Manager) question(ctx context.Context, subject, binding, challenge string) (webauthn.SessionData, error) {
	if subject == "" {
		return m.reopen(challenge, binding)
	}
	return m.recall(ctx, challenge, ceremony{Subject: subject, Binding: binding})
}

// settle finds the passkey that answers and judges the answer.
func (m *Manager) settle(ctx context.Context, subject string, session webauthn.SessionData, parsed *protocol.ParsedCredentialAssertionData) (Assertion, error) {
	for range swaps {
		f, r, err := m.find(ctx, parsed.RawID)
		if err != nil {
			return Assertion{}, err
		}
		if subject != "" && f.Subject != subject {
			return Assertion{}, refused("the passkey is another person's")
		}
		a, ok, err := m.judge(ctx, f, r, session, parsed)
		if ok || err != nil {
			return a, err
		}
	}
	return Assertion{}, contended()
}

// judge checks the answer against one state of the passkey and keeps what it
// tells about it. It reports false when that state has gone meanwhile.
func (m *Manager) judge(ctx context.Context, f mfa.Factor, r record, session webauthn.SessionData, parsed *protocol.ParsedCredentialAssertionData) (Assertion, bool, error) {
	a := Assertion{Subject: f.Subject, Factor: f.ID}
	c := r.credential()
	flags := parsed.Response.AuthenticatorData.Flags
	if !c.Flags.BackupEligible && flags.HasBackupEligible() {
		// Providers that start to sync make passkeys eligible that were not.
		// The library takes that for an attack; once is allowed, since after
		// it the passkey is eligible for good. The signature covers the flag.
		c.Flags = webauthn.NewCredentialFlags(c.Flags.ProtocolValue() | protocol.FlagBackupEligible)
		a.Migrated = true
	}
	seen, err := m.validate(ctx, f, c, session, parsed)
	if err != nil {
		return Assertion{}, false, err
	}
	a.Regressed = seen.Authenticator.CloneWarning
	f.LastUsed = m.opt.Now()
	r.Flags, r.Count = uint8(seen.Flags.ProtocolValue()), seen.Authenticator.SignCount
	if err := m.seal(ctx, &f, r); err != nil {
		return Assertion{}, false, err
	}
	ok, err := m.opt.Store.SwapFactor(ctx, f)
	if err != nil || !ok {
		return Assertion{}, false, unavailable(err)
	}
	return a, true, nil
}

// validate runs the library's check of an answer for the owner of f.
func (m *Manager) validate(ctx context.Context, f mfa.Factor, c webauthn.Credential, session webauthn.SessionData, parsed *protocol.ParsedCredentialAssertionData) (*webauthn.Credential, error) {
	o := owner{handle: m.handle(f.Subject), credentials: []webauthn.Credential{c}}
	if len(session.UserID) == 0 {
		_, seen, err := m.lib.ValidatePasskeyLogin(func(_, handle []byte) (webauthn.User, error) {
			if !bytes.Equal(handle, o.handle) {
				return nil, errors.New("the user handle is not the owner's")
			}
			return o, nil
		}, session, parsed)
		return seen, refusedUnlessNil(err)
	}
	// The library wants all passkeys of the list it was begun with to be there;
	// that one which was removed meanwhile is no reason to refuse another.
	session.AllowedCredentialIDs = [][]byte{c.ID}
	seen, err := m.lib.ValidateLogin(o, session, parsed)
	return seen, refusedUnlessNil(err)
}

func refusedUnlessNil(err error) error {
	if err == nil {
		return nil
	}
	return refusedBy(err)
}

func notFound(err error) error {
	if err == nil || errors.Is(err, mfa.ErrNotFound) {
		return rampart.Errorf(rampart.NotFound, control, "passkey: there is none of that name")
	}
	return unavailable(err)
}

func contended() error {
	return rampart.Errorf(rampart.Unavailable, control, "passkey: too many changes at once; try again")
}
