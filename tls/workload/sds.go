package workload

import (
	"context"
	"encoding/pem"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	xds "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secret "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/rampart-security/rampart"
)

// Names of secrets beside SPIFFE IDs and trust domains.
const (
	SecretDefault = "default" // the certificate of the service
	SecretRoots   = "ROOTCA"  // the roots of the service's own trust domain
	SecretAll     = "ALL"     // the roots of every trust domain, each for its own names
)

// Bounds on what an Envoy asks.
const (
	maxNames  = 64
	maxName   = 2048
	maxReason = 400
)

const (
	typeSecret      = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
	spiffeValidator = "envoy.tls.cert_validator.spiffe"
)

// discovery is Envoy's secret discovery service, version 3. A client that
// refuses what it was sent is put on record, and is sent nothing more until there
// is something new.
type discovery struct {
	secret.UnimplementedSecretDiscoveryServiceServer
	server *Server
}

// FetchSecrets answers once.
func (d *discovery) FetchSecrets(ctx context.Context, q *xds.DiscoveryRequest) (*xds.DiscoveryResponse, error) {
	if err := asked(q.GetTypeUrl(), q.GetResourceNames()); err != nil {
		return nil, err
	}
	snap, err := d.server.opt.Source.Snapshot()
	if err != nil {
		return nil, asStatus(err)
	}
	return d.respond(ctx, snap, q.GetResourceNames())
}

// StreamSecrets answers at each change of the state or of what is asked for.
func (d *discovery) StreamSecrets(stream grpc.BidiStreamingServer[xds.DiscoveryRequest, xds.DiscoveryResponse]) error {
	c := &conversation{discovery: d, ctx: stream.Context(), send: stream.Send}
	requests, ended := receive(stream.Context(), stream.Recv)
	for {
		changed := d.server.opt.Source.Changed()
		if err := c.tell(); err != nil {
			return err
		}
		select {
		case q := <-requests:
			if err := c.take(q); err != nil {
				return err
			}
		case err := <-ended:
			return err
		case <-changed:
		}
	}
}

// receive reads a stream of requests in a goroutine of its own, which ends with
// the stream. The error is nil at its proper end.
func receive[Q any](ctx context.Context, recv func() (*Q, error)) (<-chan *Q, <-chan error) {
	requests, ended := make(chan *Q), make(chan error, 1)
	go func() {
		for {
			q, err := recv()
			if err != nil {
				ended <- nil // the client has gone, or says no more
				return
			}
			select {
			case requests <- q:
			case <-ctx.Done():
				ended <- status.FromContextError(ctx.Err()).Err()
				return
			}
		}
	}()
	return requests, ended
}

// conversation is one stream with an Envoy.
type conversation struct {
	*discovery
	ctx  context.Context
	send func(*xds.DiscoveryResponse) error

	begun   bool
	names   []string
	version uint64 // told last
	pending bool   // the names changed since
	nonce   uint64 // of what was told last
}

// take reads a request: the first, an acknowledgement, a refusal, or other names.
func (c *conversation) take(q *xds.DiscoveryRequest) error {
	if err := asked(q.GetTypeUrl(), q.GetResourceNames()); err != nil {
		return err
	}
	if n := q.GetResponseNonce(); c.begun && n != "" && n != strconv.FormatUint(c.nonce, 10) {
		return nil // about what has been superseded
	}
	if e := q.GetErrorDetail(); e != nil {
		return c.server.nack(c.ctx, q.GetResourceNames(), e.GetMessage())
	}
	names := slices.Sorted(slices.Values(q.GetResourceNames()))
	c.pending = c.pending || !c.begun || !slices.Equal(names, c.names)
	c.begun, c.names = true, names
	return nil
}

// nack records that a client refuses what it was sent.
func (s *Server) nack(ctx context.Context, names []string, reason string) error {
	err := s.opt.Record(ctx, Event{Action: ActionNACK, Caller: callerOf(ctx), Resource: strings.Join(names, " "), Err: errors.New(reason[:min(len(reason), maxReason)])})
	if err != nil {
		return asStatus(err)
	}
	return nil
}

// tell sends the state if the client does not have it.
func (c *conversation) tell() error {
	if !c.begun {
		return nil
	}
	snap, err := c.server.opt.Source.Snapshot()
	if err != nil {
		return asStatus(err)
	}
	if snap.Version == c.version && !c.pending {
		return nil
	}
	res, err := c.respond(c.ctx, snap, c.names)
	if err != nil {
		return err
	}
	c.nonce++
	c.version, c.pending = snap.Version, false
	res.Nonce = strconv.FormatUint(c.nonce, 10)
	return c.send(res)
}

// asked bounds what a client asks for.
func asked(typ string, names []string) error {
	if typ != "" && typ != typeSecret {
		return status.Error(codes.InvalidArgument, "this server has secrets only: "+typeSecret)
	}
	if len(names) > maxNames {
		return status.Errorf(codes.InvalidArgument, "more than %d names", maxNames)
	}
	if slices.ContainsFunc(names, func(n string) bool { return len(n) > maxName }) {
		return status.Errorf(codes.InvalidArgument, "a name is longer than %d bytes", maxName)
	}
	return nil
}

// respond makes the answer to names, and records it first if there is a key in
// it.
func (d *discovery) respond(ctx context.Context, snap *Snapshot, names []string) (*xds.DiscoveryResponse, error) {
	found, err := d.find(ctx, snap, names)
	if err != nil {
		return nil, err
	}
	res := &xds.DiscoveryResponse{VersionInfo: strconv.FormatUint(snap.Version, 10), TypeUrl: typeSecret}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		res.Resources = append(res.Resources, found[name])
	}
	return res, nil
}

// find returns the secrets of these names; no names ask for the certificate and
// the roots. Names that mean nothing here are left out, as xDS has it, and put
// on record when they are somebody else's.
func (d *discovery) find(ctx context.Context, snap *Snapshot, names []string) (map[string]*anypb.Any, error) {
	if len(names) == 0 {
		names = []string{SecretDefault, SecretRoots}
	}
	out, keys := map[string]*anypb.Any{}, []string(nil)
	for _, name := range names {
		s, err := snap.secret(name)
		if err != nil {
			return nil, asStatus(err)
		}
		if s == nil {
			if err := d.unknown(ctx, name); err != nil {
				return nil, err
			}
			continue
		}
		if s.GetTlsCertificate() != nil {
			keys = append(keys, name)
		}
		if out[name], err = anypb.New(s); err != nil {
			return nil, asStatus(err)
		}
	}
	if len(keys) == 0 {
		return out, nil
	}
	if err := d.server.opt.Record(ctx, Event{Action: ActionSecret, Caller: callerOf(ctx), Resource: strings.Join(keys, " ")}); err != nil {
		return nil, asStatus(err)
	}
	return out, nil
}

// unknown records that somebody else's certificate was asked for.
func (d *discovery) unknown(ctx context.Context, name string) error {
	if !strings.HasPrefix(name, "spiffe://") {
		return nil
	}
	refusal := rampart.Errorf(rampart.Denied, "mtls.required", "workload: this service is not %.200q, nor is that a trust domain that is believed", name)
	if err := d.server.opt.Record(ctx, Event{Action: ActionRefuse, Caller: callerOf(ctx), Resource: name, Err: refusal}); err != nil {
		return asStatus(err)
	}
	return nil
}

// secret returns the secret of a name, nil if there is none.
func (s *Snapshot) secret(name string) (*tls.Secret, error) {
	own := s.domain()
	domain := strings.TrimPrefix(name, "spiffe://")
	switch {
	case name == SecretDefault || name == s.ID:
		return s.certificate(name)
	case name == SecretRoots || domain == own:
		// Roots of our own, whose name constraints keep them to our own names.
		// No matcher of names goes with them: Envoy would join it to the user's,
		// of which one is enough.
		return validation(name, &tls.CertificateValidationContext{TrustedCa: inline(s.Roots[own])}), nil
	case name == SecretAll:
		return s.validators(name, slices.Sorted(maps.Keys(s.Roots)))
	case s.Roots[domain] != nil:
		return s.validators(name, []string{domain})
	}
	return nil, nil
}

func (s *Snapshot) certificate(name string) (*tls.Secret, error) {
	key, err := s.keyDER()
	if err != nil {
		return nil, err
	}
	var chain []byte
	for _, der := range s.Chain {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return &tls.Secret{Name: name, Type: &tls.Secret_TlsCertificate{TlsCertificate: &tls.TlsCertificate{
		CertificateChain: inline(chain),
		PrivateKey:       inline(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})),
	}}}, nil
}

// validators makes Envoy use the roots of each trust domain for its own names
// alone: in one pool a partner's root could vouch for ours.
func (s *Snapshot) validators(name string, domains []string) (*tls.Secret, error) {
	config := &tls.SPIFFECertValidatorConfig{}
	for _, d := range domains {
		config.TrustDomains = append(config.TrustDomains, &tls.SPIFFECertValidatorConfig_TrustDomain{Name: d, TrustBundle: inline(s.Roots[d])})
	}
	packed, err := anypb.New(proto.Message(config))
	if err != nil {
		return nil, err
	}
	return validation(name, &tls.CertificateValidationContext{
		CustomValidatorConfig: &core.TypedExtensionConfig{Name: spiffeValidator, TypedConfig: packed},
	}), nil
}

func validation(name string, c *tls.CertificateValidationContext) *tls.Secret {
	return &tls.Secret{Name: name, Type: &tls.Secret_ValidationContext{ValidationContext: c}}
}

func inline(b []byte) *core.DataSource {
	return &core.DataSource{Specifier: &core.DataSource_InlineBytes{InlineBytes: b}}
}
