// Package oidc answers "who is this, according to a provider that we trust?".
// It is the relying party of OpenID Connect Core 1.0: authorization code flow
// with PKCE, state and nonce, and back-channel logout.
//
// Nothing that a browser carries is believed by itself. A login lives in one
// single-use ticket that is named by two secrets together, one in the address
// and one in a cookie of the browser that began it; the nonce and the PKCE
// verifier are derived from both, so that neither a copy of the database nor a
// copied address continues a login. The provider's answer is taken only over a
// connection that we opened, and its tokens only from authn/jwt.
//
// A person is (issuer, subject). An e-mail address is never an identity: who
// controls a mailbox is for the provider to know, and changes.
package oidc

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/authn/session"
	"github.com/rampart-security/rampart/authn/ticket"
)

const control = "authn.federation"

// Options declare one provider. Issuer, ClientID, Redirect, Scopes, Algorithms,
// Transport, Tickets and Log are required.
type Options struct {
	Issuer     string                                // https address, compared byte for byte
	ClientID   string                                // ours, at the provider
	Secret     func(context.Context) (string, error) // nil: a public client
	Redirect   string                                // our callback, exactly as registered; no other provider has it
	Scopes     []string                              // with openid
	Algorithms []jwt.Algorithm                       // of ID tokens and logout tokens
	RoleClaim  string                                // claim that Roles reads; "": none
	Roles      map[string]string                     // value of RoleClaim -> role
	ACR        map[string]string                     // acr of the provider -> aal1 or aal2
	NeedEmail  bool                                  // ask userinfo where the ID token has no e-mail address
	Transport  http.RoundTripper                     // verifies TLS and reaches the provider's hosts alone
	Tickets    ticket.Store
	Log        *slog.Logger
	Now        func() time.Time // nil: time.Now
}

// RelyingParty talks to one provider. Safe for concurrent use.
type RelyingParty struct {
	opt  Options
	http *http.Client

	mu     sync.Mutex // guards below
	known  *provider
	flight *flight   // the fetch under way; nil: none is
	tried  time.Time // end of the last fetch
}

// New returns the relying party of one provider. It makes no connection. It
// panics when a required option is missing, which is an error of the program.
func New(opt Options) *RelyingParty {
	if opt.Issuer == "" || opt.ClientID == "" || opt.Redirect == "" || len(opt.Algorithms) == 0 || opt.Transport == nil || opt.Tickets == nil || opt.Log == nil {
		panic("oidc: issuer, client, redirect, algorithms, transport, tickets and log are required")
	}
	if !slices.Contains(opt.Scopes, "openid") {
		panic("oidc: the scope openid is required")
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	return &RelyingParty{opt: opt, http: bounded(opt.Transport)}
}

// Identity is what a provider said of a person, after every check.
type Identity struct {
	session.Upstream           // who: (Issuer, Subject); SID of the provider's session
	Email            string    // "" unless the provider says that it verified it
	Roles            []string  // mapped by Options.Roles, sorted
	ACR              string    // "aal1", or what Options.ACR makes of the provider's
	AuthTime         time.Time // of the proof; where the provider does not say, a day before the token
}

// broken names the rule that an answer broke; it is the inner error of a
// refusal.
type broken struct {
	rule string
	err  error
}

func (b *broken) Error() string {
	if b.err == nil {
		return "rule " + b.rule
	}
	return "rule " + b.rule + ": " + b.err.Error()
}

func (b *broken) Unwrap() error { return b.err }

// refuse is an answer that is not believed. Why is for the log alone.
func refuse(rule, format string, args ...any) error {
	e := rampart.Errorf(rampart.Unauthenticated, control, "oidc: "+format, args...)
	e.Err = &broken{rule: rule}
	return e
}

// because adds the reason of a refusal.
func because(rule, msg string, err error) error {
	e := rampart.Errorf(rampart.Unauthenticated, control, "oidc: %s", msg)
	e.Err = &broken{rule, err}
	return e
}

// unavailable is a provider, or a store, that gives no answer.
func unavailable(msg string, err error) error {
	return &rampart.Error{Kind: rampart.Unavailable, Control: control, Msg: "oidc: " + msg, Err: err}
}

// endpoint reports whether text is an https address that names one resource.
func endpoint(text string) bool {
	u, err := url.Parse(text)
	return err == nil && len(text) <= maxURL && u.Scheme == "https" && u.Hostname() != "" && u.User == nil && u.Fragment == "" && u.Opaque == ""
}

// errTooLarge is what reading more than maxBody bytes ends with.
var errTooLarge = errors.New("answer is larger than 256 KiB")

// Rule returns the short, stable name of the rule that an answer of a provider
// or browser broke, for audit and tests: query, cookie, state, iss, upstream,
// code, id_token, auth_time, userinfo, discovery, jti, or a rule of
// authn/jwt. It returns "" when err is not a refusal of this package.
func Rule(err error) string {
	if b, ok := errors.AsType[*broken](err); ok {
		return b.rule
	}
	return ""
}
