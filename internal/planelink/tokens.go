package planelink

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/rampart-security/rampart/internal/wire"
)

const (
	maxTokens   = 10_000           // cached exchanges of one generation
	tokenMargin = 20 * time.Second // a cached token must live this long yet
)

// tokens caches exchanged tokens by (subject credential, audience, scope).
type tokens struct {
	tmu    sync.Mutex
	byKey  map[tokenKey]cachedToken
	epoch  uint64
	flight singleflight.Group
}

type tokenKey [sha256.Size]byte

type cachedToken struct {
	text    string
	bearer  []string // as the value of Authorization
	expires time.Time
}

// Token exchanges a subject credential for an internal token whose audience is
// the SPIFFE ID aud (RFC 8693), with no more than the permissions of scope; none
// asks for what credential and flow have in common. One exchange runs per
// (credential, audience, scope); a revocation voids everything cached.
func (g *Generation) Token(ctx context.Context, subjectType, subject, aud string, scope ...string) (string, error) {
	t, err := g.token(ctx, subjectType, subject, aud, scope)
	return t.text, err
}

// Bearer is Token as the value of the header Authorization. Requests share it: it is
// set, and never changed in place.
func (g *Generation) Bearer(ctx context.Context, subjectType, subject, aud string, scope ...string) ([]string, error) {
	t, err := g.token(ctx, subjectType, subject, aud, scope)
	return t.bearer, err
}

func (g *Generation) token(ctx context.Context, subjectType, subject, aud string, scope []string) (cachedToken, error) {
	epoch := g.link.State().Epoch
	narrow := strings.Join(scope, " ")
	key := keyOf(subjectType, subject, aud, narrow)
	if t, ok := g.cached(key, epoch); ok {
		return t, nil
	}
	// The epoch is part of the flight's name: an exchange that began before a
	// revocation must not answer, or be kept for, who asks after it.
	// What it brings is kept before the flight ends: who comes after it finds it.
	v, err, _ := g.flight.Do(string(binary.BigEndian.AppendUint64(key[:], epoch)), func() (any, error) {
		if t, ok := g.cached(key, epoch); ok {
			return t, nil
		}
		t, err := g.exchange(ctx, url.Values{
			"grant_type": {wire.GrantExchange}, "audience": {aud}, "subject_token_type": {subjectType}, "subject_token": {subject}, "scope": {narrow},
		})
		if err != nil {
			return nil, err
		}
		g.keep(key, epoch, t)
		return t, nil
	})
	if err != nil {
		return cachedToken{}, err
	}
	return v.(cachedToken), nil
}

func keyOf(subjectType, subject, aud, scope string) tokenKey {
	b := make([]byte, 0, 2048) // stays on the stack for the tokens that are usual
	b = append(append(b, subjectType...), 0)
	b = append(append(b, subject...), 0)
	b = append(append(b, aud...), 0)
	return sha256.Sum256(append(b, scope...))
}

func (g *Generation) cached(key tokenKey, epoch uint64) (cachedToken, bool) {
	g.tmu.Lock()
	defer g.tmu.Unlock()
	if g.epoch != epoch {
		g.byKey, g.epoch = nil, epoch
		return cachedToken{}, false
	}
	t, ok := g.byKey[key]
	if !ok || g.link.opt.Now().Add(tokenMargin).After(t.expires) {
		return cachedToken{}, false
	}
	return t, true
}

func (g *Generation) keep(key tokenKey, epoch uint64, t cachedToken) {
	g.tmu.Lock()
	defer g.tmu.Unlock()
	if g.epoch != epoch {
		return // minted before a revocation arrived: good for this request's own checks only
	}
	if g.byKey == nil || len(g.byKey) >= maxTokens {
		g.byKey = map[tokenKey]cachedToken{} // rare; a full cache refills in one token life
	}
	g.byKey[key] = t
}

func (g *Generation) exchange(ctx context.Context, form url.Values) (cachedToken, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+g.link.opt.Control+wire.PathToken, strings.NewReader(form.Encode()))
	if err != nil {
		return cachedToken{}, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := g.send(req)
	if err != nil {
		return cachedToken{}, err
	}
	defer drain(res.Body)
	var x wire.Exchanged
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(&x); err != nil || x.AccessToken == "" {
		return cachedToken{}, fmt.Errorf("planelink: bad exchange answer: %w", cmpErr(err, io.ErrUnexpectedEOF))
	}
	return cachedToken{text: x.AccessToken, bearer: []string{"Bearer " + x.AccessToken}, expires: g.link.opt.Now().Add(time.Duration(x.ExpiresIn) * time.Second)}, nil
}

// jitter returns a number in [0, 1).
func jitter() float64 {
	var b [8]byte
	rand.Read(b[:])
	return float64(binary.BigEndian.Uint64(b[:])>>11) / (1 << 53)
}
