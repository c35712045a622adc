package gateway

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/planelink"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/spec"
)

// The cookie of browser sessions; the prefix makes browsers insist on HTTPS,
// the path / and no Domain.
const sessionCookie = "__Host-rampart_sid"

const (
	sessionKind = wire.TypeSession
	maxShown    = 8 << 10 // bytes of one credential
)

// authenticate answers "who is this request from?" by the one entry flow whose
// set of credentials equals the set that was shown.
type authenticate struct{ g *Gateway }

func (s authenticate) check(c *call) error {
	shown, err := credentials(c.r)
	if err != nil {
		return err
	}
	flow, err := entryFor(c.table, shown)
	if err != nil {
		return err
	}
	c.entry = flow
	for _, method := range []string{"api_key", "jwt", "session"} {
		value, ok := shown[method]
		if !ok {
			continue
		}
		if err := s.verify(c, method, value); err != nil {
			return err
		}
	}
	if c.principal.IsZero() {
		return rampart.Errorf(rampart.Unauthenticated, "authn.session", "authentication is required")
	}
	return nil
}

// credentials collects what the caller shows, by method.
func credentials(r *http.Request) (map[string]string, error) {
	shown := map[string]string{}
	if v := r.Header.Get("X-Api-Key"); v != "" {
		shown["api_key"] = v
	}
	if v := r.Header.Get("Authorization"); v != "" {
		scheme, token, _ := strings.Cut(v, " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return nil, rampart.Errorf(rampart.Unauthenticated, "authn.jwt", "the Authorization scheme must be Bearer")
		}
		shown["jwt"] = strings.TrimSpace(token)
	}
	cookies := r.CookiesNamed(sessionCookie)
	if len(cookies) > 1 {
		return nil, rampart.Errorf(rampart.Unauthenticated, "authn.session", "two session cookies were sent")
	}
	if len(cookies) == 1 {
		shown["session"] = cookies[0].Value
	}
	for method, v := range shown {
		if len(v) > maxShown {
			return nil, rampart.Errorf(rampart.Unauthenticated, "authn."+method, "the credential is too long")
		}
	}
	return shown, nil
}

// entryFor picks the flow by which such a caller may come in.
func entryFor(t *table, shown map[string]string) (spec.Flow, error) {
	missing := ""
	for _, f := range t.entries {
		need := required(t, f)
		lacks := slices.DeleteFunc(slices.Clone(need), func(m string) bool { _, ok := shown[m]; return ok })
		if len(lacks) == 0 && len(need) == len(shown) && len(need) > 0 {
			return f, nil
		}
		if len(lacks) == 1 && len(need) > 1 && len(shown) > 0 {
			missing = lacks[0]
		}
	}
	if missing != "" {
		return spec.Flow{}, rampart.Errorf(rampart.Unauthenticated, "authn."+missing, "this credential alone is not enough")
	}
	if len(shown) > 1 {
		return spec.Flow{}, rampart.Errorf(rampart.Unauthenticated, "authn.session", "this mix of credentials is not accepted")
	}
	return spec.Flow{}, rampart.Errorf(rampart.Unauthenticated, "authn.session", "authentication is required")
}

// required is the flow's set of methods. A throw-away system may drop one of
// several, never the last.
func required(t *table, f spec.Flow) []string {
	need := slices.DeleteFunc(slices.Clone(f.Authn.All), func(m string) bool { return t.sys.Off("authn." + m) })
	if len(need) == 0 {
		return f.Authn.All
	}
	return need
}

func (s authenticate) verify(c *call, method, value string) error {
	switch method {
	case "api_key":
		return s.apiKey(c, value)
	case "jwt":
		return s.bearer(c, value)
	default:
		return s.session(c, value)
	}
}

func (s authenticate) session(c *call, value string) error {
	r, err := s.g.sessions.resolve(c.r.Context(), s.g.opt.Link, wire.ResolveRequest{Type: wire.TypeSession, Value: value, IP: c.ip.String()})
	if err != nil {
		return withControl(err, "authn.session", "the session is not valid; log in again")
	}
	c.principal, c.cred = r.Principal, credential{wire.TypeSession, value}
	return nil
}

// apiKey names the client and its plan. Used alone it is the subject too.
func (s authenticate) apiKey(c *call, value string) error {
	r, err := s.g.sessions.resolve(c.r.Context(), s.g.opt.Link, wire.ResolveRequest{Type: wire.TypeAPIKey, Value: value, IP: c.ip.String()})
	if err != nil {
		return withControl(err, "authn.api_key", "the API key is not valid")
	}
	if r.Declared != c.entry.From {
		return rampart.Errorf(rampart.Unauthenticated, "authn.api_key", "the API key is not valid here")
	}
	c.principal, c.plan, c.keyID, c.cred = r.Principal, r.Plan, r.KeyID, credential{wire.TypeAPIKey, value}
	return nil
}

// bearer verifies an edge token. Beside an API key the token names the person,
// and must have been issued to the key's own client: else a thief of one
// client's key could ride on a token that another client obtained.
func (s authenticate) bearer(c *call, value string) error {
	v, err := s.g.edgeVerifier()
	if err != nil {
		return err
	}
	claims, err := v.Verify(value)
	if err != nil {
		return err
	}
	p := claims.Principal()
	if st := s.g.opt.Link.State(); st.PrincipalRevoked(p, time.Unix(claims.IssuedAt, 0)) || st.Revoked("jti", claims.ID, time.Unix(claims.IssuedAt, 0)) {
		return rampart.Errorf(rampart.Unauthenticated, "authn.jwt", "the token was revoked")
	}
	if c.entry.Authn.Bind != "" && p.Client != c.principal.Client && !c.table.sys.Off("authn.api_key_bound_to_jwt") {
		return rampart.Errorf(rampart.Unauthenticated, "authn.api_key_bound_to_jwt", "the token was not issued to this API key's client")
	}
	c.principal, c.cred = p, credential{wire.TypeAccess, value}
	return nil
}

// withControl turns the control plane's answer into what the caller may see.
func withControl(err error, control, msg string) error {
	if rampart.KindOf(err) == rampart.Unavailable {
		return &rampart.Error{Kind: rampart.Unavailable, Control: control, Msg: "authentication is not possible right now", Err: err}
	}
	return &rampart.Error{Kind: rampart.Unauthenticated, Control: control, Msg: msg, Err: err}
}

// loginRedirect sends a person's browser that lacks a session to the login
// page instead of showing it a problem document.
func loginRedirect(c *call, err error) (string, bool) {
	navigates := c.r.Method == http.MethodGet && strings.Contains(c.r.Header.Get("Accept"), "text/html") && c.r.Header.Get("Authorization") == ""
	hasSessions := slices.ContainsFunc(c.table.entries, func(f spec.Flow) bool { return slices.Contains(f.Authn.All, "session") })
	if rampart.KindOf(err) != rampart.Unauthenticated || !navigates || !hasSessions {
		return "", false
	}
	return "/login?next=" + url.QueryEscape(c.r.URL.RequestURI()), true
}

const (
	resolveFresh = 10 * time.Second // a resolved credential is asked for again after this; revocations void it at once
	maxResolved  = 50_000
)

// resolveCache keeps what the control plane said of sessions and API keys. The
// zero value is ready but for now.
type resolveCache struct {
	now   func() time.Time
	mu    sync.Mutex // guards byKey and epoch
	byKey map[[sha256.Size]byte]resolved
	epoch uint64
}

type resolved struct {
	wire.Resolved
	until time.Time
}

func cacheKey(q wire.ResolveRequest) [sha256.Size]byte {
	return sha256.Sum256([]byte(q.Type + "\x00" + q.Value))
}

func (rc *resolveCache) resolve(ctx context.Context, link *planelink.Link, q wire.ResolveRequest) (wire.Resolved, error) {
	key, epoch := cacheKey(q), link.State().Epoch
	if r, ok := rc.get(key, epoch); ok {
		return r, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	var r wire.Resolved
	if err := link.Call(ctx, http.MethodPost, wire.PathResolve, q, &r); err != nil {
		return wire.Resolved{}, err
	}
	if r.Principal.IsZero() {
		return wire.Resolved{}, errors.New("gateway: the control plane resolved a credential to nobody")
	}
	rc.put(key, epoch, r)
	return r, nil
}

func (rc *resolveCache) get(key [sha256.Size]byte, epoch uint64) (wire.Resolved, bool) {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	if rc.epoch != epoch {
		rc.byKey, rc.epoch = nil, epoch
	}
	r, ok := rc.byKey[key]
	if !ok || rc.now().After(r.until) {
		return wire.Resolved{}, false
	}
	return r.Resolved, true
}

func (rc *resolveCache) put(key [sha256.Size]byte, epoch uint64, r wire.Resolved) {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	if rc.epoch != epoch {
		return
	}
	if rc.byKey == nil || len(rc.byKey) >= maxResolved {
		rc.byKey = map[[sha256.Size]byte]resolved{}
	}
	until := rc.now().Add(resolveFresh)
	if r.Expires.Before(until) {
		until = r.Expires
	}
	rc.byKey[key] = resolved{r, until}
}

// forget drops one credential, for the logout that passes through here.
func (rc *resolveCache) forget(q wire.ResolveRequest) {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	delete(rc.byKey, cacheKey(q))
}
