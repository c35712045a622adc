package acme

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/mholt/acmez/v3"
	acmeproto "github.com/mholt/acmez/v3/acme"

	"github.com/rampart-security/rampart"
)

// remembered is how long what the store said of a challenge counts. Anybody may
// ask for one by a handshake, so the store is not asked each time.
const remembered = time.Second

// challenges are those that the authority may ask for now: this gateway's own,
// and those of others, which the store has. The authority comes to any gateway.
type challenges struct {
	store *storage
	root  string // folder of the store
	now   func() time.Time

	mu    sync.Mutex // guards below
	own   map[string]acmeproto.Challenge
	known map[string]answer
}

type answer struct {
	challenge acmeproto.Challenge
	ok        bool
	until     time.Time
}

func newChallenges(store *storage, root string, now func() time.Time) *challenges {
	return &challenges{store: store, root: root, now: now, own: map[string]acmeproto.Challenge{}, known: map[string]answer{}}
}

func (c *challenges) key(kind, name string) string { return c.root + "/" + kind + "/" + name }

// Present implements acmez.Solver.
func (c *challenges) Present(ctx context.Context, ch acmeproto.Challenge) error {
	b, err := json.Marshal(ch)
	if err != nil {
		return err
	}
	key := c.key(ch.Type, strings.ToLower(ch.Identifier.Value))
	c.mu.Lock()
	c.own[key] = ch
	c.mu.Unlock()
	return c.store.Store(ctx, key, b)
}

// CleanUp implements acmez.Solver.
func (c *challenges) CleanUp(ctx context.Context, ch acmeproto.Challenge) error {
	key := c.key(ch.Type, strings.ToLower(ch.Identifier.Value))
	c.mu.Lock()
	delete(c.own, key)
	c.mu.Unlock()
	return c.store.Delete(context.WithoutCancel(ctx), key)
}

var _ acmez.Solver = (*challenges)(nil)

// find returns the challenge of a kind for a name of ours.
func (c *challenges) find(ctx context.Context, kind, name string) (acmeproto.Challenge, bool) {
	key := c.key(kind, name)
	c.mu.Lock()
	own, mine := c.own[key]
	a := c.known[key]
	c.mu.Unlock()
	if mine {
		return own, true
	}
	if c.now().Before(a.until) {
		return a.challenge, a.ok
	}
	b, err := c.store.Load(ctx, key)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return acmeproto.Challenge{}, false
	}
	a = answer{until: c.now().Add(remembered)}
	a.ok = err == nil && json.Unmarshal(b, &a.challenge) == nil
	c.mu.Lock()
	c.known[key] = a // as many as there are names and kinds
	c.mu.Unlock()
	return a.challenge, a.ok
}

// certificate answers TLS-ALPN-01 (RFC 8737 section 3).
func (c *challenges) certificate(ctx context.Context, name string) (*tls.Certificate, error) {
	ch, ok := c.find(ctx, acmeproto.ChallengeTypeTLSALPN01, name)
	if !ok {
		return nil, rampart.Errorf(rampart.NotFound, "", "tls: nobody asked for this name to be proved")
	}
	return acmez.TLSALPN01ChallengeCert(ch)
}

// serve answers HTTP-01 (RFC 8555 section 8.3) for a name of ours.
func (c *challenges) serve(w http.ResponseWriter, r *http.Request, name string) {
	ch, ok := c.find(r.Context(), acmeproto.ChallengeTypeHTTP01, name)
	if !ok || r.URL.Path != ch.HTTP01ResourcePath() {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Write([]byte(ch.KeyAuthorization))
}
