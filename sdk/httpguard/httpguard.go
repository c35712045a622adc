// Package httpguard answers, inside a service, "did this request come through
// my sidecar, and for whom?"
//
// The sidecar signs who the caller is into the Rampart-Identity header. The
// guard refuses everything else, so that a process which finds the service's
// loopback port gains nothing. The service has the public key alone: what it can
// check it cannot forge.
package httpguard

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/sdk"
	"github.com/rampart-security/rampart/sdk/internal/inbound"
)

const (
	control   = "mtls.required" // whoever evades the sidecar evades its mutual TLS
	version   = "v1."
	maxHeader = 16 << 10         // bytes of a Rampart-Identity header
	maxAhead  = 10 * time.Minute // a header that claims to live longer was not made by a sidecar
)

// Guard verifies the identity header. It is safe for concurrent use.
type Guard struct {
	svc *sdk.Service
	now func() time.Time
}

// New returns a guard for svc. It panics when svc is nil: a guard without a
// sidecar could only let everything in.
func New(svc *sdk.Service) *Guard {
	if svc == nil {
		panic("httpguard: nil service")
	}
	return &Guard{svc: svc, now: time.Now}
}

// Wrap returns a handler that calls next for requests from the sidecar, with
// the caller's Principal and the trace id in the context, and answers 401
// (RFC 9457) to all others, 403 to a request in the place of a message.
func (g *Guard) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header, err := one(r.Header[agent.HeaderIdentity])
		if err != nil {
			problem.Write(w, err, "")
			return
		}
		info := g.svc.Info()
		id, err := parse(header, info.IdentityKey, g.now())
		if rampart.KindOf(err) == rampart.Unauthenticated && g.svc.Refetch(r.Context(), info) {
			id, err = parse(header, g.svc.Info().IdentityKey, g.now())
		}
		if err == nil {
			err = delivered(id, r.URL.Path)
		}
		if err != nil {
			problem.Write(w, err, "")
			return
		}
		ctx := rampart.WithPrincipal(r.Context(), id.Principal)
		ctx = rampart.WithTrace(ctx, id.Trace)
		ctx = inbound.With(ctx, inbound.Inbound{
			Identity:      header,
			Authorization: r.Header.Get("Authorization"),
			Caller:        id.Caller,
			Flow:          id.Flow,
		})
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// delivered keeps messages and requests apart: what arrives where messages do is
// a delivery of that very topic, which the sidecar judged, and a delivery's
// identity opens nothing else.
func delivered(id agent.Identified, path string) error {
	if id.Topic == "" && !agent.IsReserved(path) || id.Topic != "" && path == agent.MessagePath+id.Topic {
		return nil
	}
	return rampart.Errorf(rampart.Denied, "message.signature", "the path is for messages that the sidecar delivers, and messages have no other")
}

// one refuses a missing header and a second one, which some proxies would
// append to a forged first.
func one(values []string) (string, error) {
	if len(values) != 1 {
		return "", refuse("the request did not come through the sidecar")
	}
	return values[0], nil
}

// parse verifies the signature before it reads anything else.
func parse(header string, key ed25519.PublicKey, now time.Time) (agent.Identified, error) {
	signed, content, signature, ok := split(header)
	if !ok || !ed25519.Verify(key, []byte(signed), signature) {
		return agent.Identified{}, refuse("the caller's identity is not signed by the sidecar")
	}
	var id agent.Identified
	if err := json.Unmarshal(content, &id); err != nil {
		return agent.Identified{}, refuse("the caller's identity is not readable")
	}
	switch {
	case !now.Before(id.Expires):
		return agent.Identified{}, refuse("the caller's identity has expired")
	case id.Expires.Sub(now) > maxAhead:
		return agent.Identified{}, refuse("the caller's identity lives too long")
	case id.Flow == "":
		return agent.Identified{}, refuse("the caller's identity names no flow")
	case id.Principal.IsZero():
		return agent.Identified{}, refuse("the caller's identity is nobody")
	}
	return id, nil
}

// split takes "v1.CONTENT.SIGNATURE" apart. Decoding is strict, so that no two texts
// mean the same.
func split(header string) (signed string, content, signature []byte, ok bool) {
	if len(header) > maxHeader || !strings.HasPrefix(header, version) {
		return "", nil, nil, false
	}
	dot := strings.LastIndexByte(header, '.')
	if dot < len(version) {
		return "", nil, nil, false
	}
	b64 := base64.RawURLEncoding.Strict()
	content, err := b64.DecodeString(header[len(version):dot])
	if err != nil {
		return "", nil, nil, false
	}
	signature, err = b64.DecodeString(header[dot+1:])
	return header[:dot], content, signature, err == nil
}

func refuse(msg string) error {
	return rampart.Errorf(rampart.Unauthenticated, control, "%s", msg)
}
