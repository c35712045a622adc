package control

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"strings"

	"github.com/rampart-security/rampart/authn/session"
)

// sealedSessionData names the key of atRest in the store.
const sealedSessionData = "aes:session"

// atRest keeps sessions so that a copy of the database, or of the shared store,
// does not say from where people sign in. What sessions are looked up by stays as
// it is: the key of one is an HMAC already.
type atRest struct {
	session.Store
	aead cipher.AEAD
}

var _ session.Store = atRest{}

func newAtRest(st session.Store, key []byte) (atRest, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return atRest{}, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return atRest{st, aead}, err
}

// sealedMark begins a sealed text; one without it is of before.
const sealedMark = "v1."

func (a atRest) seal(s session.Session) session.Session {
	for _, text := range []*string{&s.IP, &s.Agent} {
		if *text != "" {
			*text = sealedMark + base64.RawURLEncoding.EncodeToString(a.aead.Seal(nil, nil, []byte(*text), []byte(s.SID)))
		}
	}
	return s
}

// open makes texts readable. One that was changed, or moved from another session,
// is nothing: it is shown to people, and nothing is decided by it.
func (a atRest) open(s session.Session) session.Session {
	for _, text := range []*string{&s.IP, &s.Agent} {
		sealed, ok := strings.CutPrefix(*text, sealedMark)
		if !ok {
			continue
		}
		*text = ""
		raw, err := base64.RawURLEncoding.DecodeString(sealed)
		if err != nil {
			continue
		}
		if plain, err := a.aead.Open(nil, nil, raw, []byte(s.SID)); err == nil {
			*text = string(plain)
		}
	}
	return s
}

func (a atRest) openAll(list []session.Session, err error) ([]session.Session, error) {
	for i := range list {
		list[i] = a.open(list[i])
	}
	return list, err
}

// PutSession implements session.Store, as the methods below.
func (a atRest) PutSession(ctx context.Context, s session.Session) error {
	return a.Store.PutSession(ctx, a.seal(s))
}

func (a atRest) RekeySession(ctx context.Context, old session.Key, s session.Session) (bool, error) {
	return a.Store.RekeySession(ctx, old, a.seal(s))
}

func (a atRest) Session(ctx context.Context, key session.Key) (session.Session, error) {
	s, err := a.Store.Session(ctx, key)
	return a.open(s), err
}

func (a atRest) Sessions(ctx context.Context, subject string) ([]session.Session, error) {
	return a.openAll(a.Store.Sessions(ctx, subject))
}

func (a atRest) UpstreamSessions(ctx context.Context, issuer, subject, sid string) ([]session.Session, error) {
	return a.openAll(a.Store.UpstreamSessions(ctx, issuer, subject, sid))
}
