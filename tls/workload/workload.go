// Package workload gives the certificate of a service to clients that are not
// ours: it serves the SPIFFE Workload API, so that any SPIFFE library works
// unchanged, and Envoy's secret discovery, both on one Unix socket.
//
// Here, and only here, a key is made for somebody else: both protocols return
// private keys. Who may have them the kernel says (SO_PEERCRED), never the
// caller.
//
// Every stream begins with the whole state and repeats it whole when it changes.
// New certificates are for new handshakes; no client closes a connection for one.
package workload

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"time"

	secret "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/tls/workload/trustbundle"
)

// Bounds of a server.
const (
	maxMessage = 64 << 10 // bytes of a request; a JWT-SVID to validate is the largest
	maxConns   = 128      // open at once
	maxStreams = 64       // calls at once on one connection
	maxCalls   = 256      // calls at once altogether
	maxHeaders = 8 << 10  // bytes
	shakeTime  = 5 * time.Second
	pingEvery  = 10 * time.Second // a client may ask so often whether we live
)

// Snapshot is what a service is given at one moment. It is read-only.
type Snapshot struct {
	Version uint64        // grows with every change
	ID      string        // SPIFFE ID
	Chain   [][]byte      // DER, leaf first, without the root
	Key     crypto.Signer // of the leaf: made for the service, and used by nobody else

	Roots map[string][]byte // trust domain, the service's own among them -> PEM of its roots
	JWT   map[string][]byte // trust domain -> JWK set of its JWT-SVIDs
}

// Source knows the state. It must be safe for concurrent use.
type Source interface {
	// Snapshot returns what is to be given out now. An error of kind Denied ends
	// every stream with PermissionDenied, any other with Unavailable.
	Snapshot() (*Snapshot, error)
	// Changed returns a channel that is closed at the next change. It is taken
	// before Snapshot is asked.
	Changed() <-chan struct{}
}

// Tokens mints and verifies JWT-SVIDs. It must be safe for concurrent use.
type Tokens interface {
	// Sign returns a JWT-SVID of the service for these audiences, one at least.
	Sign(ctx context.Context, audience []string) (token string, err error)
	// Verify returns the subject and all claims of a JWT-SVID that names audience.
	Verify(token, audience string) (subject string, claims map[string]any, err error)
}

// Caller is the process at the other end of the socket, as the kernel knew it
// when it connected.
type Caller struct {
	UID uint32
	PID int32

	known bool
}

// Actions of an Event.
const (
	ActionSVID   = "workload.svid"   // a certificate with its key is about to be given out
	ActionSecret = "workload.secret" // the same, to an Envoy
	ActionRefuse = "workload.refuse" // a call was refused; Err says why
	ActionNACK   = "workload.nack"   // an Envoy does not take what it was sent; Err says why
)

// Event is something that belongs on record.
type Event struct {
	Action   string
	Caller   Caller
	Resource string // SPIFFE ID, name of a secret, or method
	Err      error  // nil: it is allowed
}

// Options configure a Server. All but Tokens are required.
type Options struct {
	Source Source
	Allow  func(uid uint32) bool // who may call
	Tokens Tokens                // nil: the JWT-SVID profile is off, its calls are Unimplemented
	// Record puts an event on record. What it cannot record is not given out.
	Record func(ctx context.Context, e Event) error
}

// Server serves both protocols. Safe for concurrent use.
type Server struct {
	workload.UnimplementedSpiffeWorkloadAPIServer // WIT-SVIDs are optional and not here
	opt                                           Options
	calls                                         chan struct{} // one per running call
	grpc                                          *grpc.Server
}

// NewServer returns a server. It panics when a required option is missing.
func NewServer(opt Options) *Server {
	if opt.Source == nil || opt.Allow == nil || opt.Record == nil {
		panic("workload: a source, who may call, and a record are required")
	}
	s := &Server{opt: opt, calls: make(chan struct{}, maxCalls)}
	s.grpc = grpc.NewServer(
		grpc.Creds(peerCredentials{}),
		grpc.UnaryInterceptor(s.unary), grpc.StreamInterceptor(s.stream),
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxConcurrentStreams(maxStreams), grpc.MaxHeaderListSize(maxHeaders),
		grpc.ConnectionTimeout(shakeTime),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingEvery, PermitWithoutStream: true}),
	)
	workload.RegisterSpiffeWorkloadAPIServer(s.grpc, s)
	secret.RegisterSecretDiscoveryServiceServer(s.grpc, &discovery{server: s})
	return s
}

// Serve answers on l, a Unix socket, until ctx ends; then it breaks all streams
// off, for they would never end by themselves.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, s.grpc.Stop)
	defer stop()
	err := s.grpc.Serve(&bounded{Listener: l, open: make(chan struct{}, maxConns)})
	if ctx.Err() != nil || errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}

// header is what a caller of the Workload API must send: what a forged web
// request cannot (SPIFFE Workload Endpoint section 3).
const header = "workload.spiffe.io"

// admit judges a call before it is served, and counts it in; leave counts it
// out.
func (s *Server) admit(ctx context.Context, method string) (leave func(), err error) {
	if strings.HasPrefix(method, "/"+workload.SpiffeWorkloadAPI_ServiceDesc.ServiceName+"/") {
		md, _ := metadata.FromIncomingContext(ctx)
		if v := md.Get(header); len(v) != 1 || v[0] != "true" {
			return nil, status.Error(codes.InvalidArgument, "security header missing from request: send "+header+": true")
		}
	}
	who := callerOf(ctx)
	if !who.known || !s.opt.Allow(who.UID) {
		err := rampart.Errorf(rampart.Denied, "mtls.required", "workload: user %d is not given this service's identity", who.UID)
		return nil, s.refuse(ctx, method, err)
	}
	select {
	case s.calls <- struct{}{}:
		return func() { <-s.calls }, nil
	default:
		return nil, status.Errorf(codes.Unavailable, "more than %d calls at once", maxCalls)
	}
}

// refuse records a denial and returns it as the caller sees it.
func (s *Server) refuse(ctx context.Context, resource string, err error) error {
	if rerr := s.opt.Record(ctx, Event{Action: ActionRefuse, Caller: callerOf(ctx), Resource: resource, Err: err}); rerr != nil {
		return asStatus(rerr)
	}
	return asStatus(err)
}

func (s *Server) unary(ctx context.Context, q any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	leave, err := s.admit(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	defer leave()
	return next(ctx, q)
}

func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	leave, err := s.admit(ss.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	defer leave()
	return next(srv, ss)
}

// asStatus words an error for a caller. What is wrong inside stays inside.
func asStatus(err error) error {
	switch rampart.KindOf(err) {
	case rampart.Denied:
		return status.Error(codes.PermissionDenied, "no identity issued")
	case rampart.Invalid:
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return status.Error(codes.Unavailable, "no identity available right now")
}

// follow calls send with the state now and after each change, until ctx ends or
// the state is that nothing may be given out.
func (s *Server) follow(ctx context.Context, send func(*Snapshot) error) error {
	for {
		changed := s.opt.Source.Changed()
		snap, err := s.opt.Source.Snapshot()
		if err != nil {
			return asStatus(err)
		}
		if err := send(snap); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

// keyDER is the key in PKCS #8, as both protocols want it.
func (s *Snapshot) keyDER() ([]byte, error) { return x509.MarshalPKCS8PrivateKey(s.Key) }

// rootsDER returns the roots of each trust domain in DER, one after the other,
// by the SPIFFE ID of the domain.
func (s *Snapshot) rootsDER() (map[string][]byte, error) {
	out := map[string][]byte{}
	for domain, text := range s.Roots {
		certs, err := trustbundle.Certificates(text)
		if err != nil {
			return nil, err
		}
		var der bytes.Buffer
		for _, cert := range certs {
			der.Write(cert.Raw)
		}
		out[domainID(domain)] = der.Bytes()
	}
	return out, nil
}

// domainID is the SPIFFE ID of a trust domain.
func domainID(domain string) string { return "spiffe://" + domain }

// domain returns the trust domain of the SVID.
func (s *Snapshot) domain() string {
	name, _, _ := strings.Cut(strings.TrimPrefix(s.ID, "spiffe://"), "/")
	return name
}
