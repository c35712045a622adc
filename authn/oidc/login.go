package oidc

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"encoding/json"
	"golang.org/x/oauth2"

	"github.com/rampart-security/rampart/authn/ticket"
)

// CookieName carries the browser's half of a login. The __Host- prefix keeps
// sibling hosts and plain HTTP from planting one.
const CookieName = "__Host-rampart_oidc"

const (
	ticketKind  = "oidc"
	loginLife   = 10 * time.Minute
	secretSize  = 32
	maxQuery    = 8 << 10 // bytes of a callback
	maxCode     = 4 << 10 // bytes
	maxStateLen = 64      // bytes
)

// Start says what a login is for. It comes back from Finish as it was.
type Start struct {
	Next    string        `json:"next,omitzero"`    // where the person goes afterwards; at most 2 KiB
	Session string        `json:"session,omitzero"` // handle of the session that asks to link; "": a login
	MaxAge  time.Duration `json:"max_age,omitzero"` // the proof may be this old, whole seconds; 0: any age
	ACR     string        `json:"acr,omitzero"`     // assurance to ask for, aal1 or aal2; Identity.ACR says what came of it
}

// half is a login's two secrets: state travels in the address, secret in the
// cookie.
type half struct {
	state  string
	secret []byte
}

func newHalf() half {
	raw := make([]byte, 2*secretSize)
	rand.Read(raw)
	return half{base64.RawURLEncoding.EncodeToString(raw[:secretSize]), raw[secretSize:]}
}

// derive makes a value that only both halves together give.
func (h half) derive(purpose, issuer string) [sha256.Size]byte {
	mac := hmac.New(sha256.New, h.secret)
	mac.Write([]byte("rampart-oidc-" + purpose + "\n" + h.state + "\n" + issuer))
	return [sha256.Size]byte(mac.Sum(nil))
}

func (h half) text(purpose, issuer string) string {
	sum := h.derive(purpose, issuer)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// Begin starts a login: the address to send the browser to, and the cookie
// that it must bring back.
func (rp *RelyingParty) Begin(ctx context.Context, s Start) (address string, cookie *http.Cookie, err error) {
	p, err := rp.provider(ctx)
	if err != nil {
		return "", nil, err
	}
	value, err := json.Marshal(s)
	if err != nil {
		return "", nil, err
	}
	h, now := newHalf(), rp.opt.Now()
	name := ticket.Hash(h.derive("ticket", rp.opt.Issuer))
	if err := rp.opt.Tickets.PutTicket(ctx, ticketKind, name, value, now, now.Add(loginLife)); err != nil {
		return "", nil, unavailable("store not available", err)
	}
	options := []oauth2.AuthCodeOption{
		oauth2.S256ChallengeOption(h.text("pkce", rp.opt.Issuer)),
		oauth2.SetAuthURLParam("nonce", h.text("nonce", rp.opt.Issuer)),
		oauth2.SetAuthURLParam("max_age", strconv.FormatInt(int64(cmp.Or(s.MaxAge, oldestProof)/time.Second), 10)),
	}
	if wanted := rp.acrsFor(s.ACR); len(wanted) > 0 {
		options = append(options, oauth2.SetAuthURLParam("acr_values", strings.Join(wanted, " ")))
	}
	return rp.client(p, "").AuthCodeURL(h.state, options...), loginCookie(base64.RawURLEncoding.EncodeToString(h.secret), int(loginLife/time.Second)), nil
}

// acrsFor returns what the provider calls an assurance, in a fixed order.
func (rp *RelyingParty) acrsFor(acr string) []string {
	var out []string
	for theirs, ours := range rp.opt.ACR {
		if ours == acr {
			out = append(out, theirs)
		}
	}
	slices.Sort(out)
	return out
}

// ClearCookie makes a browser forget its half of a login.
func ClearCookie() *http.Cookie { return loginCookie("", -1) }

// loginCookie is Lax: the provider sends the browser back by a top-level GET
// from another site.
func loginCookie(value string, age int) *http.Cookie {
	return &http.Cookie{Name: CookieName, Value: value, Path: "/", MaxAge: age, Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode}
}

// FromRequest returns the browser's half of a login, or "". Two cookies of the
// name are nobody's.
func FromRequest(r *http.Request) string {
	found := r.CookiesNamed(CookieName)
	if len(found) != 1 {
		return ""
	}
	return found[0].Value
}

// Finish ends the login that query, the raw query of a callback, and cookie
// belong to. A login has one end: whatever the outcome, the same query is
// refused afterwards.
func (rp *RelyingParty) Finish(ctx context.Context, query, cookie string) (Identity, Start, error) {
	back, err := parseCallback(query)
	if err != nil {
		return Identity{}, Start{}, err
	}
	h, start, err := rp.take(ctx, back.state, cookie)
	if err != nil {
		return Identity{}, Start{}, err
	}
	p, err := rp.provider(ctx)
	if err != nil {
		return Identity{}, start, err
	}
	if back.iss != rp.opt.Issuer && (back.iss != "" || p.IssInResponse) {
		return Identity{}, start, refuse("iss", "answer comes from another issuer")
	}
	if back.refusal != "" {
		return Identity{}, start, refuse("upstream", "provider did not sign the person in (%.40q)", back.refusal)
	}
	if back.code == "" {
		return Identity{}, start, refuse("code", "answer has no code")
	}
	id, err := rp.redeem(ctx, p, h, back.code, start)
	return id, start, err
}

// take finds the login of both halves and removes it.
func (rp *RelyingParty) take(ctx context.Context, state, cookie string) (half, Start, error) {
	secret, err := base64.RawURLEncoding.Strict().DecodeString(cookie)
	if err != nil || len(secret) != secretSize {
		return half{}, Start{}, refuse("cookie", "login was not begun in this browser")
	}
	h := half{state, secret}
	value, err := rp.opt.Tickets.TakeTicket(ctx, ticketKind, ticket.Hash(h.derive("ticket", rp.opt.Issuer)), rp.opt.Now())
	if errors.Is(err, ticket.ErrNotFound) {
		return half{}, Start{}, refuse("state", "login is not known, is over, or was begun elsewhere")
	}
	if err != nil {
		return half{}, Start{}, unavailable("store not available", err)
	}
	var start Start
	if err := json.Unmarshal(value, &start); err != nil {
		return half{}, Start{}, err
	}
	return h, start, nil
}

// callback is what a provider sends the browser back with.
type callback struct{ state, code, iss, refusal string }

// parseCallback reads a callback's query. A parameter that counts comes once:
// of two, each reader would take another.
func parseCallback(query string) (callback, error) {
	if len(query) > maxQuery {
		return callback{}, refuse("query", "answer is too long")
	}
	q, err := url.ParseQuery(query)
	if err != nil {
		return callback{}, refuse("query", "answer does not parse")
	}
	var c callback
	for _, p := range []struct {
		name string
		most int
		to   *string
	}{{"state", maxStateLen, &c.state}, {"code", maxCode, &c.code}, {"iss", maxURL, &c.iss}, {"error", maxStateLen, &c.refusal}} {
		values := q[p.name]
		if len(values) > 1 || len(values) == 1 && (len(values[0]) > p.most || values[0] == "") {
			return callback{}, refuse("query", "answer needs one %s", p.name)
		}
		if len(values) == 1 {
			*p.to = values[0]
		}
	}
	if c.state == "" {
		return callback{}, refuse("state", "answer has no state")
	}
	return c, nil
}
