package sidecar

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/relay"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/validate/openapi"
)

// streams bounds what one connection of a peer may hold here: as much for all its
// streams as they can have together, so that a service which leaves one unread holds
// up no other.
func streams() *http.HTTP2Config {
	const atOnce, each = 128, 128 << 10
	return &http.HTTP2Config{MaxConcurrentStreams: atOnce, MaxReceiveBufferPerStream: each, MaxReceiveBufferPerConnection: atOnce * each}
}

// calls reaches the service itself by HTTP/2 without TLS (RFC 9113, section 3.3), as
// servers of gRPC speak it: never a proxy.
var calls = &http.Transport{
	Proxy: nil, Protocols: priorKnowledge(), IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10, DisableCompression: true,
	HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 256 << 10},
}

func priorKnowledge() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}

// judgeCall checks all of a call but its messages, which nobody reads.
func (a *arrival) judgeCall(params openapi.Params) (doc any, err error) {
	if err := a.op.Accepts(a.r.Header.Get("Content-Type"), openapi.ReadOptions{Opaque: a.flow.Validate.Opaque}); err != nil {
		return nil, err
	}
	doc = openapi.Opaque(spec.OpaqueGRPC)
	return doc, a.op.Check(params, a.r.URL.Query(), a.r.Header, doc)
}

// call passes a gRPC call on. It ends when what it was let in with is
// revoked, and when it would be refused now.
func (s *Sidecar) call(w http.ResponseWriter, a *arrival) {
	ctx, cancel := context.WithCancelCause(a.r.Context())
	defer cancel(nil)
	revoked := rampart.Errorf(rampart.Unauthenticated, "", "the credential is no longer valid")
	defer s.opt.Link.WhileValid(a.by, func() { cancel(revoked) })()
	defer s.mayStay(a, func(err error) { cancel(err) })()
	_, err := relay.GRPC(w, a.r, s.request(a).WithContext(ctx), calls, relay.GRPCOptions{MaxMessage: s.maxMessage(a), Bounds: streamBounds, Head: dropOurs, Trailer: dropOurs})
	if err == nil {
		return
	}
	if _, said := errors.AsType[*rampart.Error](err); !said {
		err = noAnswer(s.opt.Service, err)
	}
	s.refuse(w, a, err)
}

// maxMessage is what bounds other bodies.
func (s *Sidecar) maxMessage(a *arrival) int64 {
	if limit := int64(a.flow.Validate.MaxBody); limit > 0 && !a.table.sys.Off("validate.max_body") {
		return limit
	}
	return 64 << 20
}
