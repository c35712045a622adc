package vault

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
)

const (
	// settled is the age from which on a refused token is replaced without
	// asking whether it lives. Younger ones are looked up first: a secret id
	// may be good for a few logins only, and a path that is forbidden for
	// good would use them all. So are those with which something is leased,
	// which would end with them.
	settled   = time.Minute
	soonest   = time.Second // between two renewals
	wrappedBy = "wrapped:"
)

// token is what a login gave. The zero token is none.
type token struct {
	value     secrets.Secret
	number    int  // of the login, from 1
	lessor    int  // number of the login that first had this value: leases belong to it
	given     bool // it came in a file: it is not ours to revoke
	renewable bool
	got       time.Time
	life      time.Duration // from got on; 0: it does not end by itself
	first     time.Duration // life when it was new
}

func (t token) ended(now time.Time) bool { return t.life > 0 && !now.Before(t.got.Add(t.life)) }

// session holds the token.
type session struct {
	now  func() time.Time
	base context.Context // of logins and renewals; ended by close
	stop context.CancelFunc
	work sync.WaitGroup

	mu      sync.Mutex
	tok     token
	logins  int
	current *login // under way
	timer   *time.Timer
	closed  bool
	lent    map[string]lent // by lease

	// What a response-wrapped secret held, and the hash of the text that
	// stood in the file: it can be unwrapped once. Used by the login under way.
	unwrapped secrets.Secret
	wrappedAs [sha256.Size]byte
}

// lent is a lease that we hold. Vault ends it with the token that it was made with,
// whatever is left of it.
type lent struct {
	lessor int
	until  time.Time
}

// lend notes a lease, or its new end.
func (s *session) lend(id string, l lent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lent == nil {
		s.lent = map[string]lent{}
	}
	now := s.now()
	maps.DeleteFunc(s.lent, func(_ string, l lent) bool { return !now.Before(l.until) })
	s.lent[id] = l
}

// lessor is the login that a lease was made with; 0: it is none of ours.
func (s *session) lessor(id string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lent[id].lessor
}

func (s *session) returned(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.lent, id)
}

// orphaned reports whether the token that a lease was made with is not ours any
// more: nobody renews it, if it lives at all.
func (s *session) orphaned(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.lent[id]
	return ok && (l.lessor != s.tok.lessor || s.tok.ended(s.now()))
}

// lendsLocked reports whether leases that have not ended depend on a token.
func (s *session) lendsLocked(tok token) bool {
	now := s.now()
	for _, l := range s.lent {
		if l.lessor == tok.lessor && now.Before(l.until) {
			return true
		}
	}
	return false
}

// login is one login and those who wait for it.
type login struct {
	done chan struct{} // closed when the rest is set
	tok  token
	err  error
}

// token returns one that is not number refused, which may take a login.
func (c *Client) token(ctx context.Context, refused int) (token, error) {
	tok, l, err := c.look(refused)
	if l == nil {
		return tok, err
	}
	select {
	case <-l.done:
		return l.tok, l.err
	case <-ctx.Done():
		return token{}, c.fail(rampart.Unavailable, "auth/"+c.opt.Login.Mount, context.Cause(ctx))
	}
}

// look returns the token at hand, or the login to wait for.
func (c *Client) look(refused int) (token, *login, error) {
	s := &c.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return token{}, nil, c.fail(rampart.Unavailable, "auth/"+c.opt.Login.Mount, errors.New("the client is closed"))
	}
	if s.tok.number > refused && !s.tok.ended(s.now()) {
		return s.tok, nil, nil
	}
	if s.current == nil {
		s.current = &login{done: make(chan struct{})}
		s.work.Go(c.enter)
	}
	return token{}, s.current, nil
}

// enter logs in, on its own time: whoever started it may hang up while others wait.
func (c *Client) enter() {
	s := &c.session
	ctx, cancel := context.WithTimeoutCause(s.base, deadline, errSlow)
	defer cancel()
	tok, err := c.login(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.current
	if s.current = nil; err == nil {
		s.logins++
		tok.number, tok.lessor, tok.first = s.logins, s.logins, tok.life
		if tok.given && s.tok.given && text(tok.value) == text(s.tok.value) {
			tok.lessor = s.tok.lessor
		}
		s.tok = tok
		c.planLocked(tok.life / 2)
	}
	l.tok, l.err = tok, err
	close(l.done)
}

// planLocked sets the clock for the next renewal, if the token can be renewed.
func (c *Client) planLocked(in time.Duration) {
	s := &c.session
	if s.timer != nil {
		s.timer.Stop()
	}
	if s.closed || !s.tok.renewable || s.tok.life <= 0 {
		return
	}
	s.timer = time.AfterFunc(max(in, soonest), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.closed {
			s.work.Go(c.renew)
		}
	})
}

// renew prolongs the token. A server that is away is asked again while the
// token lives; a token that is refused, or nears the most that it may have, is
// dropped, and the next request logs in.
func (c *Client) renew() {
	s := &c.session
	ctx, cancel := context.WithTimeoutCause(s.base, deadline, errSlow)
	defer cancel()
	s.mu.Lock()
	tok := s.tok
	s.mu.Unlock()
	at := s.now()
	auth, err := c.renewSelf(ctx, tok)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tok.number != tok.number {
		return
	}
	kind := rampart.KindOf(err)
	switch {
	case err != nil && (kind == rampart.Unavailable || kind == rampart.Limited):
		c.planLocked(tok.life / 20)
	case err != nil || !tok.given && auth.life() < tok.first/2:
		s.tok = token{}
	default:
		s.tok.got, s.tok.life, s.tok.renewable = at, auth.life(), auth.Renewable
		c.planLocked(s.tok.life / 2)
	}
}

// fresh reports whether a refused token is so young, or so needed, that it is
// looked up, and lives: then the refusal is meant.
func (c *Client) fresh(ctx context.Context, tok token) bool {
	s := &c.session
	s.mu.Lock()
	needed := s.lendsLocked(tok)
	s.mu.Unlock()
	if !needed && s.now().Sub(tok.got) >= settled {
		return false
	}
	rep, err := c.exchange(ctx, request{method: http.MethodGet, path: "auth/token/lookup-self"}, tok.value)
	defer rep.wipe()
	return err == nil && rep.status == http.StatusOK
}

// close ends the session and returns the token that is left to revoke. One with
// which something is leased is not: services work on with that while we restart,
// and Vault ends both when nobody renews them.
func (s *session) close() token {
	s.mu.Lock()
	s.closed = true
	if s.timer != nil {
		s.timer.Stop()
	}
	s.mu.Unlock()
	s.stop()
	s.work.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	tok := s.tok
	if s.lendsLocked(tok) {
		tok = token{}
	}
	s.tok, s.unwrapped = token{}, secrets.Secret{}
	return tok
}

// auth is the part of a reply that gives a token.
type auth struct {
	Token     string `json:"client_token"`
	Seconds   int64  `json:"lease_duration"`
	Renewable bool   `json:"renewable"`
}

func (a auth) life() time.Duration { return seconds(a.Seconds) }

// seconds is a duration as replies give it. One that makes no sense is 0, and
// what is longer than ten years ten years.
func seconds(n int64) time.Duration {
	const most = 10 * 365 * 24 * 3600
	return time.Duration(min(max(n, 0), most)) * time.Second
}

// login asks for a token in the way of the options.
func (c *Client) login(ctx context.Context) (token, error) {
	l, path := c.opt.Login, "auth/"+c.opt.Login.Mount+"/login"
	body := map[string]string{}
	switch l.Method {
	case "token":
		return c.given(ctx)
	case "approle":
		id, err := c.secret(ctx)
		if err != nil {
			return token{}, err
		}
		body["role_id"], body["secret_id"] = l.Role, text(id)
	case "kubernetes":
		jwt, err := readFile(l.TokenFile, true)
		if err != nil {
			return token{}, c.fail(rampart.Unavailable, path, err)
		}
		body["role"], body["jwt"] = l.Role, string(jwt)
	case "cert":
		body["name"] = l.Role
	}
	at := c.session.now()
	a, err := c.tokenOf(ctx, request{method: http.MethodPost, path: path, body: body}, secrets.Secret{})
	if err != nil {
		return token{}, refusedLogin(c, path, err)
	}
	return token{value: secrets.New([]byte(a.Token), 0), renewable: a.Renewable, got: at, life: a.life()}, nil
}

// refusedLogin says that a login was refused, where it was not kept from the server.
func refusedLogin(c *Client, path string, err error) error {
	switch rampart.KindOf(err) {
	case rampart.Unavailable, rampart.Limited:
		return err
	}
	return c.fail(rampart.Unauthenticated, path, errors.Unwrap(err))
}

// tokenOf sends a request whose reply holds a token.
func (c *Client) tokenOf(ctx context.Context, r request, with secrets.Secret) (auth, error) {
	rep, err := c.exchange(ctx, r, with)
	defer rep.wipe()
	if err == nil {
		err = c.verdict(r.path, rep)
	}
	var out struct {
		Auth auth `json:"auth"`
	}
	if err == nil {
		err = c.decode(r.path, rep, &out)
	}
	if err == nil && out.Auth.Token == "" {
		err = c.fail(rampart.Unavailable, r.path, errors.New("the reply holds no token"))
	}
	return out.Auth, err
}

// given looks up the token that stands in a file.
func (c *Client) given(ctx context.Context) (token, error) {
	const path = "auth/token/lookup-self"
	value, err := c.secret(ctx)
	if err != nil {
		return token{}, err
	}
	at := c.session.now()
	rep, err := c.exchange(ctx, request{method: http.MethodGet, path: path}, value)
	defer rep.wipe()
	if err == nil {
		err = c.verdict(path, rep)
	}
	var out struct {
		Data struct {
			TTL       int64 `json:"ttl"`
			Renewable bool  `json:"renewable"`
		} `json:"data"`
	}
	if err == nil {
		err = c.decode(path, rep, &out)
	}
	if err != nil {
		return token{}, refusedLogin(c, path, err)
	}
	return token{value: value, given: true, renewable: out.Data.Renewable, got: at, life: seconds(out.Data.TTL)}, nil
}

func (c *Client) renewSelf(ctx context.Context, tok token) (auth, error) {
	return c.tokenOf(ctx, request{method: http.MethodPost, path: "auth/token/renew-self", body: struct{}{}}, tok.value)
}

func (c *Client) revokeSelf(ctx context.Context, tok token) error {
	ctx, cancel := context.WithTimeoutCause(ctx, deadline, errSlow)
	defer cancel()
	r := request{method: http.MethodPost, path: "auth/token/revoke-self"}
	rep, err := c.exchange(ctx, r, tok.value)
	if err != nil {
		return err
	}
	defer rep.wipe()
	return c.verdict(r.path, rep)
}

// secret reads the secret file. A file that cannot be read is an outage: nobody
// refused us, and whoever mends it finds the cache as it was.
func (c *Client) secret(ctx context.Context) (secrets.Secret, error) {
	content, err := readFile(c.opt.Login.SecretFile, false)
	if err != nil {
		return secrets.Secret{}, c.fail(rampart.Unavailable, "auth/"+c.opt.Login.Mount, err)
	}
	defer clear(content)
	wrapping, ok := bytes.CutPrefix(content, []byte(wrappedBy))
	if !ok {
		return secrets.New(content, 0), nil
	}
	as := sha256.Sum256(content)
	if s := &c.session; !s.unwrapped.IsZero() && s.wrappedAs == as {
		return s.unwrapped, nil
	}
	got, err := c.unwrap(ctx, secrets.New(wrapping, 0))
	if err != nil {
		return secrets.Secret{}, err
	}
	c.session.unwrapped, c.session.wrappedAs = got, as
	return got, nil
}

// unwrap opens a response-wrapped secret id or token. It can be done once: when
// somebody else was faster, they have it.
func (c *Client) unwrap(ctx context.Context, wrapping secrets.Secret) (secrets.Secret, error) {
	const path = "sys/wrapping/unwrap"
	rep, err := c.exchange(ctx, request{method: http.MethodPost, path: path}, wrapping)
	defer rep.wipe()
	if err == nil {
		err = c.verdict(path, rep)
	}
	switch rampart.KindOf(err) {
	case rampart.Invalid, rampart.Denied, rampart.NotFound:
		return secrets.Secret{}, c.fail(rampart.Unauthenticated, path,
			errors.New("the wrapping token was used before, or ended: if it was not by you, revoke what it wrapped and issue another"))
	}
	var out struct {
		Auth auth `json:"auth"`
		Data struct {
			SecretID string `json:"secret_id"`
		} `json:"data"`
	}
	if err == nil {
		err = c.decode(path, rep, &out)
	}
	if err != nil {
		return secrets.Secret{}, err
	}
	value := out.Data.SecretID + out.Auth.Token // it has one of them
	if value == "" || strings.ContainsAny(value, "\r\n") {
		return secrets.Secret{}, c.fail(rampart.Unauthenticated, path, errors.New("it wraps neither a secret id nor a token"))
	}
	return secrets.New([]byte(value), 0), nil
}

// text is a secret as a string, for what json and net/http want.
func text(s secrets.Secret) string {
	var out string
	_ = s.Use(func(b []byte) error { out = string(b); return nil })
	return out
}
