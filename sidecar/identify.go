package sidecar

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/planelink"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/network/canonical"
	"github.com/rampart-security/rampart/validate/openapi"
	"github.com/rampart-security/rampart/validate/strictjson"
)

// identify settles who the request is from, by the flow's pattern. A request
// that carries another pattern's proof is refused, not guessed at.
func (s *Sidecar) identify(a *arrival) error {
	switch a.flow.Authn.Pattern {
	case "gateway":
		return s.fromGateway(a)
	case "per_service":
		return s.fromCredential(a)
	default:
		return s.fromToken(a)
	}
}

// fromToken verifies an internal token: audience is this service, and it is
// bound to the very certificate of this connection.
func (s *Sidecar) fromToken(a *arrival) error {
	text, ok := strings.CutPrefix(a.r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return rampart.Errorf(rampart.Unauthenticated, "token.exchange", "an internal token is required")
	}
	peer := sha256.Sum256(a.r.TLS.PeerCertificates[0].Raw)
	claims, err := s.tokens.internal(s.opt.Link.State().Keys, a.table.id, text, peer, !a.table.sys.Off("token.binding"))
	if err != nil {
		return err
	}
	c := planelink.Credential{Principal: claims.Principal(), Issued: time.Unix(claims.IssuedAt, 0), TokenID: claims.ID, Token: text}
	a.forward = text
	return s.admit(a, c, "token.exchange")
}

// fromGateway trusts the caller's word, because mutual TLS says who speaks and
// the flow says that it may.
func (s *Sidecar) fromGateway(a *arrival) error {
	refused := rampart.Errorf(rampart.Unauthenticated, "token.exchange", "the caller names no principal")
	b, err := base64.RawURLEncoding.Strict().DecodeString(a.r.Header.Get(wire.HeaderPrinc))
	if err != nil || len(b) == 0 || len(b) > 8<<10 {
		return refused
	}
	var v wire.Vouched
	if err := json.Unmarshal(b, &v); err != nil || v.IsZero() {
		return refused
	}
	c := planelink.Credential{Principal: v.Principal, Issued: v.Issued, TokenID: v.TokenID, KeyID: v.KeyID}
	c.Principal.Actors = append([]string{a.caller}, v.Actors...)
	if err := s.admit(a, c, "authn.session"); err != nil {
		return err
	}
	a.forward = s.handles.put(handle{by: a.by})
	return nil
}

// fromCredential verifies the external credential again, here. The service
// behind gets a handle in its place, never the credential.
func (s *Sidecar) fromCredential(a *arrival) error {
	kind, value, _ := strings.Cut(a.r.Header.Get(wire.HeaderCred), " ")
	ip := a.r.Header.Get(wire.HeaderClientIP)
	var c planelink.Credential
	var err error
	control := "authn.session"
	switch kind {
	case wire.TypeAccess:
		control = "authn.jwt"
		c, err = s.edgeToken(value)
	case wire.TypeSession, wire.TypeAPIKey:
		c, err = s.resolve(a.r.Context(), wire.ResolveRequest{Type: kind, Value: value, IP: ip})
	default:
		err = rampart.Errorf(rampart.Unauthenticated, "authn.session", "the caller passed no credential on")
	}
	if err != nil {
		return err
	}
	c.Principal.Actors = []string{a.caller}
	if err := s.admit(a, c, control); err != nil {
		return err
	}
	a.forward = s.handles.put(handle{by: a.by, kind: kind, value: value, ip: ip})
	return nil
}

// admit takes the request as one of c's, within the scope of the flow, unless c
// was revoked.
func (s *Sidecar) admit(a *arrival, c planelink.Credential, control string) error {
	if s.opt.Link.State().CredentialRevoked(c) {
		return rampart.Errorf(rampart.Unauthenticated, control, "the credential was revoked")
	}
	c.Principal.Scope = rampart.MeetScopes(c.Principal.Scope, a.flow.Scope)
	a.by, a.principal = c, c.Principal
	return nil
}

func (s *Sidecar) edgeToken(text string) (planelink.Credential, error) {
	claims, err := s.tokens.external(s.opt.Link.State().Keys, s.table.Load().id, text)
	if err != nil {
		return planelink.Credential{}, err
	}
	return planelink.Credential{Principal: claims.Principal(), Issued: time.Unix(claims.IssuedAt, 0), TokenID: claims.ID, Token: text}, nil
}

func (s *Sidecar) resolve(ctx context.Context, q wire.ResolveRequest) (planelink.Credential, error) {
	r, err := s.opt.Link.Resolve(ctx, q)
	if err != nil {
		return planelink.Credential{}, &rampart.Error{Kind: kindOr(err, rampart.Unauthenticated), Control: "authn.session", Msg: "the credential is not valid", Err: err}
	}
	return planelink.Credential{Principal: r.Principal, Issued: r.Issued, KeyID: r.KeyID}, nil
}

func kindOr(err error, fallback rampart.Kind) rampart.Kind {
	if rampart.KindOf(err) == rampart.Unavailable {
		return rampart.Unavailable
	}
	return fallback
}

// operation finds what is asked for, checks it against the document once more
// (the gateway is not the only caller), and says which permission and which
// organization it needs.
func (s *Sidecar) operation(a *arrival) (permission, tenant string, err error) {
	if !a.grpc {
		if err := s.readBody(a); err != nil {
			return "", "", err
		}
	}
	if a.table.api == nil {
		if err := canonical.Body(a.r, false); err != nil {
			return "", "", err
		}
		return s.opt.Service + ":" + openapi.Verb(a.r.Method), "", nil
	}
	op, params, err := a.table.api.Route(a.r.Method, a.path)
	if err != nil {
		return "", "", err
	}
	a.op = op
	if err := canonical.Body(a.r, op.Body); err != nil {
		return "", "", err
	}
	doc, err := a.judge(params)
	if err != nil {
		return "", "", err
	}
	return op.Permission, op.TenantOf(params, doc), nil
}

// judge reads and checks the request as the gateway does, by the same table, and
// returns what the body says. The service gets the body as it was read.
func (a *arrival) judge(params openapi.Params) (doc any, err error) {
	if a.grpc {
		return a.judgeCall(params)
	}
	if a.table.sys.Off("validate.openapi") {
		if len(a.body) > 0 {
			return strictjson.DecodeBody(a.body)
		}
		return nil, nil
	}
	if len(a.body) > 0 {
		b, err := a.op.Read(a.r.Header.Get("Content-Type"), a.body, openapi.ReadOptions{Opaque: a.flow.Validate.Opaque})
		if err != nil {
			return nil, err
		}
		doc, a.body = b.Doc, b.Raw
		a.r.Header["Content-Type"] = []string{b.Type}
	}
	return doc, a.op.Check(params, a.r.URL.Query(), a.r.Header, doc)
}

// readBody takes the whole body, bounded by the flow, before anything is
// judged by it.
func (s *Sidecar) readBody(a *arrival) error {
	limit := int64(a.flow.Validate.MaxBody)
	if limit <= 0 || a.table.sys.Off("validate.max_body") {
		limit = 64 << 20
	}
	b, err := io.ReadAll(io.LimitReader(a.r.Body, limit+1))
	if err != nil {
		return &rampart.Error{Kind: rampart.Invalid, Control: "validate.max_body", Msg: "the body could not be read", Err: err}
	}
	if int64(len(b)) > limit {
		return &problem.Details{Status: http.StatusRequestEntityTooLarge,
			Err: rampart.Errorf(rampart.Invalid, "validate.max_body", "the body may have at most %d bytes", limit)}
	}
	a.body = b
	return nil
}

// setBody gives the forwarded request the bytes that were checked.
func (a *arrival) setBody(out *http.Request) {
	out.Body, out.ContentLength = http.NoBody, int64(len(a.body))
	if len(a.body) > 0 {
		out.Body = io.NopCloser(bytes.NewReader(a.body))
	}
}

// handles stand in for credentials that a service must not see. One lives as
// long as an identity. Two generations are kept and the older is dropped whole,
// so that forgetting costs no search and no credential stays behind.
type handles struct {
	now        func() time.Time
	mu         sync.Mutex // guards below
	young, old map[string]handle
	began      time.Time // of young
}

type handle struct {
	by          planelink.Credential
	kind, value string // external credential; "" under the pattern gateway
	ip          string // of the client, as the gateway saw it
	expires     time.Time
}

// maxHandles bounds a generation; beyond it new requests lose their onward
// calls, never their identity.
const maxHandles = 20_000

const handlePrefix = "rh_"

func (h *handles) put(v handle) string {
	b := make([]byte, 16)
	rand.Read(b)
	id := handlePrefix + hex.EncodeToString(b)
	now := h.now()
	v.expires = now.Add(identityLife)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.turnLocked(now)
	if len(h.young) < maxHandles {
		h.young[id] = v
	}
	return id
}

// turnLocked begins a new generation when the young one is old enough that all
// of the old one has expired.
func (h *handles) turnLocked(now time.Time) {
	if h.young != nil && now.Sub(h.began) <= identityLife {
		return
	}
	h.old = h.young
	if now.Sub(h.began) > 2*identityLife {
		h.old = nil
	}
	h.young, h.began = map[string]handle{}, now
}

func (h *handles) get(id string) (handle, bool) {
	now := h.now()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.turnLocked(now)
	v, ok := h.young[id]
	if !ok {
		v, ok = h.old[id]
	}
	if !ok || now.After(v.expires) {
		return handle{}, false
	}
	return v, true
}
