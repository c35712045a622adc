package token

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
)

// Caller is the plane that asks, as its verified certificate says.
type Caller struct {
	Name        string    // key of services
	ID          string    // SPIFFE ID
	Fingerprint [32]byte  // SHA-256 of the leaf's DER
	Issued      time.Time // of the certificate
	Peer        string    // "ip:port"
}

// request is an exchange as asked for.
type request struct {
	kind     string // subject_token_type
	value    string // subject_token
	audience string
	scope    string
	actor    string // actor_token; "": the certificate says it all
}

// Exchange trades the subject token in form for an internal token that only
// the caller can present, and only to the audience (RFC 8693). The caller
// becomes the current actor, whatever the form says. Scope, audience, life and
// assurance only ever narrow. Errors carry an OAuth code, see CodeOf.
func (s *Service) Exchange(ctx context.Context, c Caller, form url.Values) (wire.Exchanged, error) {
	req, err := parse(form)
	if err != nil {
		return wire.Exchanged{}, s.refused(ctx, c, req, Subject{}, err)
	}
	flow, sub, claims, err := s.trade(ctx, c, req)
	if err != nil {
		return wire.Exchanged{}, s.refused(ctx, c, req, sub, err)
	}
	text, err := s.internalSigner().SignInternal(claims)
	if err != nil {
		return wire.Exchanged{}, s.refused(ctx, c, req, sub, err)
	}
	e := s.event(c, req, sub, audit.Allowed)
	e.Flow = flow.id
	e.Detail["jti"], e.Detail["txn"] = claims.ID, claims.Transaction
	if claims.Scope != nil {
		e.Detail["scope"] = cut(strings.Join(claims.Scope, " "))
	}
	if err := s.opt.Audit.Record(ctx, e); err != nil {
		return wire.Exchanged{}, err
	}
	return wire.Exchanged{
		AccessToken:     text,
		IssuedTokenType: wire.TypeAccess,
		TokenType:       "Bearer", // as tokens bound to a certificate are presented, RFC 8705 section 3
		ExpiresIn:       int(claims.Expires - s.opt.Now().Unix()),
		Scope:           strings.Join(claims.Scope, " "),
	}, nil
}

// trade applies every rule of an exchange, those first that need no look at
// the subject.
func (s *Service) trade(ctx context.Context, c Caller, req request) (flow, Subject, jwt.InternalClaims, error) {
	f, err := s.hop(c, req.audience)
	if err != nil {
		return flow{}, Subject{}, jwt.InternalClaims{}, err
	}
	if err := s.actorToken(ctx, c, req.actor); err != nil {
		return flow{}, Subject{}, jwt.InternalClaims{}, err
	}
	sub, err := s.subject(ctx, c, req)
	if err != nil {
		return flow{}, sub, jwt.InternalClaims{}, err
	}
	if err := s.actors(c, sub); err != nil {
		return flow{}, sub, jwt.InternalClaims{}, err
	}
	if sub.Principal.Scope, err = narrow(rampart.MeetScopes(sub.Principal.Scope, f.scope), req.scope); err != nil {
		return flow{}, sub, jwt.InternalClaims{}, err
	}
	claims, err := s.claims(c, req, sub)
	return f, sub, claims, err
}

// parse reads the form. Every parameter may come once (RFC 6749 section 3.2);
// what we do not support is refused, not ignored, for ignoring a narrowing
// would widen.
func parse(form url.Values) (request, error) {
	if err := once(form); err != nil {
		return request{}, err
	}
	if form.Get("resource") != "" {
		return request{}, refuse("invalid_request", "resource is not supported; name the audience")
	}
	if t := form.Get("requested_token_type"); t != "" && t != wire.TypeAccess && t != wire.TypeJWT {
		return request{}, refuse("invalid_request", "only access tokens are issued")
	}
	req := request{
		kind: form.Get("subject_token_type"), value: form.Get("subject_token"), audience: form.Get("audience"),
		scope: form.Get("scope"), actor: form.Get("actor_token"),
	}
	t := form.Get("actor_token_type")
	switch {
	case req.audience == "":
		return req, refuse("invalid_target", "audience is required")
	case (req.value == "") != (req.kind == wire.TypeSVIDOnly):
		return req, refuse("invalid_request", "subject_token is required, except for a service as itself")
	case (req.actor == "") != (t == ""), t != "" && t != wire.TypeAccess && t != wire.TypeJWT:
		return req, refuse("invalid_request", "an actor_token is an access token and has its type named")
	}
	return req, nil
}

// once holds that every parameter came once, and within bounds.
func once(form url.Values) error {
	for name, values := range form {
		if len(values) != 1 || len(values[0]) > maxValue {
			return refuse("invalid_request", "%.64q must come once, with at most %d bytes", name, maxValue)
		}
	}
	return nil
}

// hop returns the flow by which the caller reaches the audience.
func (s *Service) hop(c Caller, audience string) (flow, error) {
	now := s.file.Load()
	f, ok := now.flows[hop{c.ID, audience}]
	if ok {
		return f, nil
	}
	if now.sys.Off(control) && s.presented[audience] != nil {
		return flow{}, nil
	}
	return flow{}, refuse("invalid_target", "no declared flow from %s to this audience", c.Name)
}

// actorToken judges an actor_token, which nobody needs: the actor is whom the
// certificate names. If there is one it must be the caller's own service token.
func (s *Service) actorToken(ctx context.Context, c Caller, text string) error {
	if text == "" {
		return nil
	}
	other := refuse("invalid_request", "actor_token is not the caller's own")
	claims, err := s.edge.VerifyBound(text, jwt.Confirm(c.Fingerprint))
	if err != nil {
		return other
	}
	client, err := s.client(ctx, claims.Client)
	if err != nil {
		return err
	}
	if client.Identity != c.ID || claims.Subject != "client:"+client.ID {
		return other
	}
	return nil
}

// actors checks the chain that the subject came through, and the caller that
// is to go on top: every link is a service that the file still has and nobody
// has revoked, none follows on itself, and whom the token names alone may act.
func (s *Service) actors(c Caller, sub Subject) error {
	chain := sub.Principal.Actors
	switch {
	case len(chain) >= maxActors:
		return refuse("invalid_grant", "the act chain is %d long already", maxActors)
	case len(chain) > 0 && chain[0] == c.ID:
		return refuse("invalid_grant", "%s is the current actor already", c.Name)
	case sub.MayAct != "" && sub.MayAct != c.ID:
		return refuse("invalid_grant", "the subject token may be traded by another actor only")
	case s.revoked.svid(c.ID, c.Issued):
		return refuse("invalid_client", "%s is disabled: its certificate was revoked", c.Name)
	}
	for _, id := range chain {
		if s.presented[id] == nil {
			return refuse("invalid_grant", "disabled actor in the act chain: %.200s is no service of this system", id)
		}
		if s.revoked.svid(id, sub.Issued) {
			return refuse("invalid_grant", "disabled actor in the act chain: %.200s was revoked", id)
		}
	}
	return nil
}

// subject finds whom the subject token stands for. Which check runs is decided
// by where the credential came from, not by what the form claims: a plane that
// may not see credentials of the outside cannot hand one in.
func (s *Service) subject(ctx context.Context, c Caller, req request) (Subject, error) {
	switch req.kind {
	case wire.TypeSVIDOnly:
		now := s.opt.Now()
		p := rampart.Principal{Kind: rampart.KindService, Subject: c.ID}
		issued := now
		if c.Issued.After(now) { // it came back in the seconds that its cut-off is ahead
			issued = c.Issued
		}
		return Subject{Principal: p, Issued: issued, Expires: now.Add(internalLife)}, nil
	case wire.TypeSession, wire.TypeAPIKey:
		if !s.file.Load().external[c.Name] {
			return Subject{}, refuse("unauthorized_client", "%s may not show credentials of the outside", c.Name)
		}
		if req.kind == wire.TypeSession {
			return s.opt.Directory.Session(ctx, req.value)
		}
		return s.opt.Directory.APIKey(ctx, req.value)
	case wire.TypeAccess, wire.TypeJWT:
		return s.tokenSubject(ctx, c, req.value)
	}
	return Subject{}, refuse("invalid_request", "subject_token_type is not supported")
}

// tokenSubject takes the gateway's token as a client's, everybody else's as an
// internal one, and a client's only where the file says per_service.
func (s *Service) tokenSubject(ctx context.Context, c Caller, value string) (Subject, error) {
	if c.Name == s.system().Gateway() {
		return s.AccessToken(ctx, value)
	}
	sub, err := s.overheard(c, value)
	if err != nil && s.file.Load().external[c.Name] && slices.Contains([]string{"alg", "kid"}, jwt.Rule(err)) {
		return s.AccessToken(ctx, value)
	}
	return sub, err
}

// overheard applies the presenter rule: only the audience of an internal
// token may trade it, so that a token overheard is worth nothing.
func (s *Service) overheard(c Caller, value string) (Subject, error) {
	err := refuse("invalid_grant", "%s takes no tokens", c.Name)
	for _, v := range s.presentable(c) {
		var claims jwt.InternalClaims
		if claims, err = v.VerifySubject(value); err == nil {
			return internalSubject(claims), nil
		}
	}
	return Subject{}, err
}

func internalSubject(c jwt.InternalClaims) Subject {
	sub := Subject{Principal: c.Principal(), Issued: time.Unix(c.IssuedAt, 0), Expires: time.Unix(c.Expires, 0), txn: c.Transaction}
	if c.MayAct != nil {
		sub.MayAct = c.MayAct.Subject
	}
	return sub
}

// presentable returns the verifiers of the audiences whose tokens c may trade:
// its own. Where the file switches the control off, anybody's.
func (s *Service) presentable(c Caller) []*jwt.Internal {
	if s.system().Off(control) {
		return slices.Collect(maps.Values(s.presented))
	}
	if v, ok := s.presented[c.ID]; ok {
		return []*jwt.Internal{v}
	}
	return nil
}

// AccessToken returns whom a client's access token stands for, with the facts
// as they are now: a role that was taken away is gone at the next request.
// What the token is bound to the caller has judged already.
func (s *Service) AccessToken(ctx context.Context, text string) (Subject, error) {
	claims, err := s.edge.VerifySubject(text)
	if err != nil {
		return Subject{}, err
	}
	return s.holder(ctx, claims)
}

// holder returns whom verified claims stand for now.
func (s *Service) holder(ctx context.Context, claims jwt.EdgeClaims) (Subject, error) {
	client, err := s.client(ctx, claims.Client)
	if err != nil {
		return Subject{}, err
	}
	p, err := s.facts(ctx, client, claims.Subject)
	if err != nil {
		return Subject{}, err
	}
	then := claims.Principal()
	p.Client, p.Session = then.Client, then.Session
	p.AuthTime, p.ACR, p.AMR = then.AuthTime, then.ACR, then.AMR
	if p.Scope, err = client.still(then.Scope); err != nil {
		return Subject{}, err
	}
	sub := Subject{Principal: p, Issued: time.Unix(claims.IssuedAt, 0), Expires: time.Unix(claims.Expires, 0)}
	_, err = s.revoked.issuedAt(p, sub.Issued, s.opt.Now())
	return sub, err
}

// facts returns the facts of a token's subject: a person, or the client itself.
func (s *Service) facts(ctx context.Context, client Client, subject string) (rampart.Principal, error) {
	if subject == "client:"+client.ID {
		return client.Self(), nil
	}
	return s.opt.Directory.Facts(ctx, subject)
}

// claims builds the new token: the subject unchanged, the caller on top of the
// act chain, bound to the caller's certificate, never longer than the subject.
func (s *Service) claims(c Caller, req request, sub Subject) (jwt.InternalClaims, error) {
	now, p := s.opt.Now(), sub.Principal
	iat, err := s.revoked.issuedAt(p, sub.Issued, now)
	if err != nil {
		return jwt.InternalClaims{}, err
	}
	p.Actors = append([]string{c.ID}, p.Actors...)
	claims := jwt.InternalFor(p)
	claims.Issuer = s.opt.Issuer
	claims.Audience = req.audience
	claims.ID = random(16)
	claims.Transaction = cmp.Or(sub.txn, claims.ID)
	claims.IssuedAt = s.revoked.after(iat, c.ID).Unix()
	claims.Expires = min(now.Add(internalLife).Unix(), sub.Expires.Unix())
	claims.Confirm = jwt.Confirm(c.Fingerprint)
	if claims.Expires <= claims.IssuedAt {
		return jwt.InternalClaims{}, refuse("invalid_grant", "the subject token has expired")
	}
	return claims, nil
}

func (s *Service) event(c Caller, req request, sub Subject, outcome audit.Outcome) audit.Event {
	return audit.Event{
		Class: audit.ClassAuthentication, Action: "token.exchange", Outcome: outcome, Control: control,
		Subject: sub.Principal.Subject, Actor: c.ID, Resource: cut(req.audience), Peer: c.Peer,
		Detail: map[string]string{"subject_token_type": cut(req.kind)},
	}
}

// refused records why and returns the refusal. If even that fails, the caller
// learns of the failure: it is a denial either way.
func (s *Service) refused(ctx context.Context, c Caller, req request, sub Subject, err error) error {
	e := s.event(c, req, sub, audit.Refused)
	if k := rampart.KindOf(err); k == rampart.Internal || k == rampart.Unavailable {
		e.Outcome = audit.Failed
	}
	if inner, ok := errors.AsType[*rampart.Error](err); ok && inner.Control != "" {
		e.Control = inner.Control
	}
	e.Code = CodeOf(err)
	e.Detail["error"] = err.Error()
	if rerr := s.opt.Audit.Record(ctx, e); rerr != nil {
		return rerr
	}
	return err
}

func cut(text string) string { return text[:min(len(text), maxID)] }
