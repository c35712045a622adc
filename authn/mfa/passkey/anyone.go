package passkey

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"time"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"

	"github.com/rampart-security/rampart/authn/ticket"
)

// A login that names nobody may be begun by anybody. If its question were
// remembered, strangers could fill the store; so its challenge says by itself
// that it is ours, of when and for what. Only that it was answered well is
// remembered.

const (
	spentKind = "webauthn-spent"
	spentFor  = 2 * ceremonyFor // outlasts the challenge where replicas' clocks differ
	nonceSize = 16
	datedSize = nonceSize + 8 // with the second of its making
)

// beginForAnyone returns a question that any person's passkey may answer.
func (m *Manager) beginForAnyone(binding string) (*protocol.CredentialAssertion, error) {
	challenge := make([]byte, nonceSize, datedSize+sha256.Size)
	rand.Read(challenge)
	challenge = binary.BigEndian.AppendUint64(challenge, uint64(m.opt.Now().Unix()))
	options, _, err := m.lib.BeginDiscoverableLogin(asking(append(challenge, m.tag(challenge, binding)...)))
	return options, err
}

// asking sets the challenge of a question.
func asking(challenge []byte) webauthn.LoginOption {
	return func(o *protocol.PublicKeyCredentialRequestOptions) error {
		o.Challenge = challenge
		return nil
	}
}

func (m *Manager) tag(dated []byte, binding string) []byte {
	mac := hmac.New(sha256.New, m.opt.Key)
	mac.Write([]byte("rampart-webauthn-challenge-v1\n"))
	mac.Write(dated) // has a fixed length
	mac.Write([]byte(binding))
	return mac.Sum(nil)
}

// reopen returns the question that a challenge of ours was in.
func (m *Manager) reopen(challenge, binding string) (webauthn.SessionData, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(challenge)
	if err != nil || len(b) != datedSize+sha256.Size || !hmac.Equal(b[datedSize:], m.tag(b[:datedSize], binding)) {
		return webauthn.SessionData{}, refused("the challenge is not of such a login")
	}
	made := time.Unix(int64(binary.BigEndian.Uint64(b[nonceSize:datedSize])), 0)
	if !m.opt.Now().Before(made.Add(ceremonyFor)) {
		return webauthn.SessionData{}, refused("the challenge is older than five minutes")
	}
	_, session, err := m.lib.BeginDiscoverableLogin(asking(b))
	if err != nil {
		return webauthn.SessionData{}, err
	}
	return *session, nil
}

// spend makes a good answer the only one that its challenge gets.
func (m *Manager) spend(ctx context.Context, challenge string) error {
	now := m.opt.Now()
	err := m.opt.Tickets.PutTicket(ctx, spentKind, named(challenge), nil, now, now.Add(spentFor))
	if errors.Is(err, ticket.ErrExists) {
		return refused("the challenge is used")
	}
	return unavailable(err)
}
