package sidecar

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/extauthz"
	"github.com/rampart-security/rampart/internal/trace"
)

// EnvoySocket returns where an Envoy beside the service finds external
// authorization, when the service declares one: beside the service's own socket.
func EnvoySocket(socket string) string { return strings.TrimSuffix(socket, ".sock") + "-envoy.sock" }

func (s *Sidecar) serveEnvoy(ctx context.Context) error {
	l, err := listenUnix(EnvoySocket(s.opt.Socket))
	if err != nil {
		return fmt.Errorf("sidecar: %w", err)
	}
	server := extauthz.NewServer(s.judge)
	stop := context.AfterFunc(ctx, server.GracefulStop)
	defer stop()
	if err := server.Serve(l); ctx.Err() == nil {
		return fmt.Errorf("sidecar: external authorization: %w", err)
	}
	return nil
}

// judge answers an Envoy beside the service: the stages of inbound, up to the
// service itself, which Envoy reaches. The socket is open to this user alone,
// and whoever can open it could claim another's certificate. So only a token
// that is bound to that certificate counts, never a peer's word (pattern
// gateway).
func (s *Sidecar) judge(r *http.Request, peer *x509.Certificate) extauthz.Answer {
	a := &arrival{table: s.table.Load(), trace: trace.Of(r.Header)}
	a.r = r.WithContext(rampart.WithTrace(r.Context(), a.trace))
	if peer != nil {
		a.r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{peer}}
	}
	if err := a.through(s.peer, s.fresh, s.canonicalize, s.bound, s.identify, s.route, s.stepUp); err != nil {
		return s.refusal(a, err)
	}
	if err := s.opt.Audit.Record(a.r.Context(), a.event()); err != nil {
		return s.refusal(a, &rampart.Error{Kind: rampart.Unavailable, Control: "audit.log", Msg: "the request cannot be recorded, so it is not carried out", Err: err})
	}
	return s.passed(a)
}

// bound refuses what is not proven by a token of the peer's own.
func (s *Sidecar) bound(a *arrival) error {
	if p := a.flow.Authn.Pattern; p == "gateway" || p == "per_service" {
		return rampart.Errorf(rampart.Denied, "token.exchange", "behind Envoy a flow is of the pattern exchange")
	}
	return nil
}

// refusal records a denial and renders it as for any other caller.
func (s *Sidecar) refusal(a *arrival, err error) extauthz.Answer {
	w := &kept{header: http.Header{}}
	s.refuse(w, a, err)
	out := extauthz.Answer{Status: w.status, Reply: w.header, Body: w.body.String(), Layer: string(rampart.LayerService)}
	out.Code = rampart.KindOf(err).String()
	return out
}

// passed hands the service what it would get from this process: the headers on
// the list, with a signed identity.
func (s *Sidecar) passed(a *arrival) extauthz.Answer {
	ours := s.request(a).Header
	out := extauthz.Answer{Allowed: true, Header: http.Header{}, Layer: string(rampart.LayerService)}
	for name, values := range ours {
		if !slices.Equal(values, a.r.Header[name]) {
			out.Header[name] = values
		}
	}
	for name := range a.r.Header {
		if _, kept := ours[name]; !kept && !framesMessage(name) {
			out.Remove = append(out.Remove, name)
		}
	}
	slices.Sort(out.Remove)
	return out
}

// framesMessage names headers by which Envoy frames the message.
func framesMessage(name string) bool {
	switch name {
	case "Host", "Content-Length", "Content-Type", "Transfer-Encoding", "Te", "Connection", "Upgrade":
		return true
	}
	return false
}

// kept keeps an answer that is written to it.
type kept struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (k *kept) Header() http.Header { return k.header }

func (k *kept) WriteHeader(status int) { k.status = status }

func (k *kept) Write(b []byte) (int, error) { return k.body.Write(b) }
