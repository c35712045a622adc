package control

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/apikey"
	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/token"
)

// Bounds of a client.
const (
	maxRedirects  = 16
	maxScopes     = 32
	maxClientName = 64 // bytes
)

var scopeForm = regexp.MustCompile(`^([a-z][a-z0-9_-]{0,62}:[a-z][a-z0-9_-]{0,62}|openid|offline_access)$`)

func (p *Plane) adminClientRoutes() map[string]adminCall {
	const one, keys = wire.AdminClients + "/{name}", wire.AdminAPIKeys
	return map[string]adminCall{
		"GET " + wire.AdminClients:                 p.adminListClients,
		"POST " + wire.AdminClients:                p.adminPutClient,
		"GET " + one:                               p.adminShowClient,
		"DELETE " + one:                            p.adminDeleteClient,
		"POST " + one + wire.SubDisable:            p.adminDisableClient,
		"POST " + one + wire.SubEnable:             p.adminEnableClient,
		"GET " + keys:                              p.adminListKeys,
		"POST " + keys:                             p.adminCreateKey,
		"POST " + keys + "/{id}" + wire.SubDisable: p.adminDisableKey,
		"POST " + one + wire.SubRotate:             p.adminRotateKey,
	}
}

func (p *Plane) adminListClients(r *http.Request, _ *audit.Event) (any, error) {
	all, err := p.opt.Store.Clients(r.Context())
	if err != nil {
		return nil, unavailable(err)
	}
	out := make([]wire.Client, len(all))
	for i, c := range all {
		out[i] = clientFrom(c)
	}
	return out, nil
}

func clientFrom(c token.Client) wire.Client {
	return wire.Client{
		ID: c.ID, Principal: c.Principal, Name: c.Name, Redirects: append([]string{}, c.Redirects...), Auth: c.Auth, JWKS: json.RawMessage(c.Keys),
		Identity: c.Identity, Grants: c.Grants, Scopes: c.Scopes, Roles: c.Roles, Orgs: c.Orgs, DPoP: c.DPoP, IDAlg: c.IDAlg, Disabled: c.Disabled, Tag: c.Tag,
	}
}

func (p *Plane) adminShowClient(r *http.Request, e *audit.Event) (any, error) {
	c, err := p.application(r, e, r.PathValue("name"))
	return clientFrom(c), err
}

// application is the registered client of an id. Of an unknown one the nearest
// is told.
func (p *Plane) application(r *http.Request, e *audit.Event, id string) (token.Client, error) {
	e.Resource = "client:" + id[:min(len(id), maxName)]
	c, err := p.opt.Store.Client(r.Context(), id)
	if !errors.Is(err, token.ErrNotFound) {
		return c, unavailable(err)
	}
	all, err := p.opt.Store.Clients(r.Context())
	if err != nil {
		return c, unavailable(err)
	}
	ids := make([]string, len(all))
	for i, other := range all {
		ids[i] = other.ID
	}
	return c, unknown("client", id, ids)
}

// adminPutClient registers a client or changes it. What it holds of people
// stays good: whoever changes a client over keeps its users signed in. What it
// may ask for is looked at again with every token.
func (p *Plane) adminPutClient(r *http.Request, e *audit.Event) (any, error) {
	var q wire.Client
	if err := readJSON(r, &q); err != nil {
		return nil, err
	}
	e.Resource = "client:" + q.ID[:min(len(q.ID), maxName)]
	if err := p.checkClient(q); err != nil {
		return nil, err
	}
	old, err := p.opt.Store.Client(r.Context(), q.ID)
	if err != nil && !errors.Is(err, token.ErrNotFound) {
		return nil, unavailable(err)
	}
	return nil, unavailable(p.opt.Store.PutClient(r.Context(), token.Client{
		ID: q.ID, Principal: q.Principal, Name: q.Name, Redirects: q.Redirects, Auth: q.Auth, Keys: []byte(q.JWKS), Identity: q.Identity,
		Grants: q.Grants, Scopes: q.Scopes, Roles: q.Roles, Orgs: q.Orgs, DPoP: q.DPoP, IDAlg: q.IDAlg, Disabled: old.Disabled, Tag: q.Tag,
	}))
}

func (p *Plane) checkClient(q wire.Client) error {
	if !nameForm.MatchString(q.ID) {
		return invalid("a client id is up to 64 of a-z, 0-9 and . _ -, starting with a letter or digit")
	}
	if _, ok := p.system().Principals[q.Principal]; !ok {
		return invalid("%.64q is not in principals; there are: %s", q.Principal, strings.Join(slices.Sorted(maps.Keys(p.system().Principals)), ", "))
	}
	if len(q.Name) > maxClientName {
		return invalid("a client's name has at most %d bytes", maxClientName)
	}
	if err := checkRedirects(q.Redirects); err != nil {
		return err
	}
	if err := p.checkScopes(q.Scopes); err != nil {
		return err
	}
	if err := errors.Join(p.checkRoles(q.Roles, q.Orgs), checkOrganizations(q.Orgs)); err != nil {
		return err
	}
	if q.IDAlg != "" && q.IDAlg != "RS256" && q.IDAlg != "ES256" {
		return invalid("%.16q is no algorithm of ID tokens; use RS256 or ES256", q.IDAlg)
	}
	if err := p.checkProof(q); err != nil {
		return err
	}
	return checkGrants(q)
}

func checkRedirects(list []string) error {
	if len(list) > maxRedirects {
		return invalid("a client has at most %d redirects", maxRedirects)
	}
	for _, text := range list {
		if strings.Contains(text, "*") {
			return invalid("the redirect %.256q has a *, and redirects are compared byte for byte; name each address", text)
		}
		if token.CheckRedirect(text) != nil {
			return invalid("%.256q is refused; a redirect is an https address, or http on a loopback address such as http://127.0.0.1/cb, without fragment", text)
		}
	}
	return nil
}

// checkScopes refuses a scope that no operation and no role knows: most likely
// a typing error, which would open nothing.
func (p *Plane) checkScopes(scopes []string) error {
	if len(scopes) > maxScopes {
		return invalid("at most %d scopes", maxScopes)
	}
	for _, s := range scopes {
		if !scopeForm.MatchString(s) {
			return invalid(`%.64q is no scope; scopes are permissions of the form "type:verb", roles as "role:NAME", openid and offline_access`, s)
		}
		if role, ok := strings.CutPrefix(s, "role:"); ok { // the role to act with
			if err := p.checkRole(role); err != nil {
				return err
			}
			continue
		}
		known := p.living().permissions
		if len(known) == 0 || slices.Contains(known, s) || protocolScope(s) {
			continue
		}
		if near, ok := spec.Nearest(s, known); ok {
			return invalid("no operation asks for the permission %q and no role names it; did you mean %q?", s, near)
		}
		return invalid("no operation asks for the permission %q and no role names it; the permissions are: %s", s, some(known))
	}
	return nil
}

func protocolScope(s string) bool { return s == "openid" || s == "offline_access" }

// some lists the first names of many.
func some(names []string) string {
	const most = 24
	if len(names) > most {
		return strings.Join(names[:most], ", ") + " and more"
	}
	return strings.Join(names, ", ")
}

// checkProof judges how a client proves that it is itself: with exactly what
// its method needs.
func (p *Plane) checkProof(q wire.Client) error {
	methods := []string{"none", "private_key_jwt", "tls_client_auth"}
	if q.Auth != "" && !slices.Contains(methods, q.Auth) {
		return invalid("there is no way to prove itself called %.32q%s; there are: %s", q.Auth, meant(q.Auth, methods), strings.Join(methods, ", "))
	}
	if (q.Auth == "private_key_jwt") != (len(q.JWKS) > 0) {
		return invalid("private_key_jwt needs the client's public keys (a JWK set), and nothing else does")
	}
	if (q.Auth == "tls_client_auth") != (q.Identity != "") {
		return invalid("tls_client_auth needs the client's SPIFFE ID, and nothing else does")
	}
	switch q.Auth {
	case "", "none":
	case "private_key_jwt":
		if _, err := jwt.ParseClientKeySet(q.JWKS); err != nil {
			return invalid("the client's keys are refused: %v", err)
		}
	case "tls_client_auth":
		if _, ok := p.ids[q.Identity]; !ok {
			return invalid("%.256q is no identity of rampart.yaml; write %s/service/NAME", q.Identity, "spiffe://"+p.system().Info.TrustDomain)
		}
	}
	return nil
}

// checkGrants refuses what a client could never use.
func checkGrants(q wire.Client) error {
	known := []string{"authorization_code", "refresh_token", "client_credentials"}
	for _, g := range q.Grants {
		if !slices.Contains(known, g) {
			return invalid("%.64q is no grant%s; there are: %s", g, meant(g, known), strings.Join(known, ", "))
		}
	}
	public := q.Auth == "" || q.Auth == "none"
	codes := q.Grants == nil || slices.Contains(q.Grants, "authorization_code")
	if q.Grants != nil && codes && len(q.Redirects) == 0 {
		return invalid("authorization_code needs an address to send people back to: --redirect https://HOST/PATH")
	}
	if public && slices.Contains(q.Grants, "client_credentials") {
		return invalid("client_credentials needs a client that proves itself: private_key_jwt or tls_client_auth")
	}
	return nil
}

func invalid(format string, args ...any) error {
	return rampart.Errorf(rampart.Invalid, "", "control: "+format, args...)
}

// adminDeleteClient removes a client, after everything that it holds.
func (p *Plane) adminDeleteClient(r *http.Request, e *audit.Event) (any, error) {
	c, err := p.application(r, e, r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	ended, err := p.disableClient(r, c)
	if err != nil {
		return nil, err
	}
	if _, err := p.opt.Store.DeleteClient(r.Context(), c.ID); err != nil {
		return nil, unavailable(err)
	}
	return told(e, ended), nil
}

func (p *Plane) adminDisableClient(r *http.Request, e *audit.Event) (any, error) {
	c, err := p.application(r, e, r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	ended, err := p.disableClient(r, c)
	return told(e, ended), err
}

// disableClient lets a client do nothing more and voids what it holds: its API
// keys, the logins that people made through it, its tokens.
func (p *Plane) disableClient(r *http.Request, c token.Client) (wire.Ended, error) {
	var ended wire.Ended
	c.Disabled = true
	if err := p.opt.Store.PutClient(r.Context(), c); err != nil {
		return ended, unavailable(err)
	}
	keys, err := p.apikeys.List(r.Context(), c.ID)
	if err != nil {
		return ended, err
	}
	for _, k := range keys {
		if k.Live(p.opt.Now()) {
			ended.Keys++
		}
	}
	return ended, p.revoke(r.Context(), "client", c.ID)
}

// adminEnableClient lets a client work again. Its keys stay void: whoever
// disabled it may have had a reason that lies in them.
func (p *Plane) adminEnableClient(r *http.Request, e *audit.Event) (any, error) {
	c, err := p.application(r, e, r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	c.Disabled = false
	return nil, unavailable(p.opt.Store.PutClient(r.Context(), c))
}

// adminCreateKey makes an API key of a client. It is shown once.
func (p *Plane) adminCreateKey(r *http.Request, e *audit.Event) (any, error) {
	var q wire.APIKeyRequest
	if err := readJSON(r, &q); err != nil {
		return nil, err
	}
	c, err := p.application(r, e, q.Client)
	if err != nil {
		return nil, err
	}
	if err := p.checkKeyScopes(c, q.Scopes); err != nil {
		return nil, err
	}
	text, k, err := p.apikeys.Create(r.Context(), c.ID, apikey.Limits{Label: q.Label, Scopes: q.Scopes, IPs: q.IPs, Expires: q.Expires})
	if err != nil {
		return nil, err
	}
	e.Detail["key"] = k.ID
	return wire.APIKey{ID: k.ID, Key: text}, nil
}

// checkKeyScopes refuses what would make a key open nothing, or less than it
// says.
func (p *Plane) checkKeyScopes(c token.Client, scopes []string) error {
	if bad := slices.IndexFunc(scopes, protocolScope); bad >= 0 {
		return invalid("%q asks for something of a login, and an API key has none", scopes[bad])
	}
	if err := p.checkScopes(scopes); err != nil {
		return err
	}
	for _, s := range scopes {
		if !slices.Contains(c.Permits([]string{s}), s) {
			return invalid("client %s is not registered for %q; its scopes are: %s", c.ID, s, strings.Join(c.Scopes, ", "))
		}
	}
	return nil
}

// adminRotateKey makes the successor of a client's key.
func (p *Plane) adminRotateKey(r *http.Request, e *audit.Event) (any, error) {
	c, err := p.application(r, e, r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	var q wire.RotateKey
	if err := readJSON(r, &q); err != nil {
		return nil, err
	}
	const most = 90 // days, as the manager has it; here it keeps the conversion from overflowing
	if !(q.Overlap >= 0 && q.Overlap <= most*24*3600) {
		return nil, invalid("the old key works on for 0 to %d days", most)
	}
	text, k, err := p.apikeys.Rotate(r.Context(), c.ID, time.Duration(q.Overlap*float64(time.Second)))
	if err != nil {
		return nil, err
	}
	e.Detail["key"] = k.ID
	return wire.APIKey{ID: k.ID, Key: text}, nil
}

// adminListKeys lists the keys of one client, or of all.
func (p *Plane) adminListKeys(r *http.Request, e *audit.Event) (any, error) {
	var clients []token.Client
	var err error
	if id := r.URL.Query().Get("client"); id != "" {
		clients = make([]token.Client, 1)
		clients[0], err = p.application(r, e, id)
	} else if clients, err = p.opt.Store.Clients(r.Context()); err != nil {
		err = unavailable(err)
	}
	if err != nil {
		return nil, err
	}
	out := []wire.APIKeyInfo{}
	for _, c := range clients {
		keys, err := p.apikeys.List(r.Context(), c.ID)
		if err != nil {
			return nil, err
		}
		for _, k := range keys {
			out = append(out, p.keyInfo(k))
		}
	}
	return out, nil
}

func (p *Plane) keyInfo(k apikey.Key) wire.APIKeyInfo {
	state := "live"
	switch {
	case k.Disabled:
		state = "disabled"
	case !k.Live(p.opt.Now()):
		state = "expired"
	}
	return wire.APIKeyInfo{
		ID: k.ID, Client: k.Client, Label: k.Label, State: state, Scopes: k.Scopes, IPs: k.IPs, Created: k.Created, Expires: k.Expires, LastUsed: k.LastUsed,
	}
}

// adminDisableKey voids one key in every plane, for good.
func (p *Plane) adminDisableKey(r *http.Request, e *audit.Event) (any, error) {
	id := r.PathValue("id")
	e.Resource = "api_key:" + id[:min(len(id), maxName)]
	_, err := p.opt.Store.APIKey(r.Context(), id)
	if errors.Is(err, apikey.ErrNotFound) {
		return nil, rampart.Errorf(rampart.NotFound, "", "control: there is no API key %.64q; rampart key list shows their ids", id)
	}
	if err != nil {
		return nil, unavailable(err)
	}
	return told(e, wire.Ended{Keys: 1}), p.revoke(r.Context(), "key", id)
}
