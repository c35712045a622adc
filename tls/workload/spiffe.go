package workload

import (
	"bytes"
	"context"
	"maps"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/rampart-security/rampart"
)

// Bounds on what a caller asks of JWT-SVIDs.
const (
	maxAudiences = 4 // a token for many is a token that many can replay
	maxAudience  = 2048
	maxToken     = 8 << 10
)

// FetchX509SVID streams the service's certificate and key, and whom to believe.
// Each delivery of a key is on record first.
func (s *Server) FetchX509SVID(_ *workload.X509SVIDRequest, out grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	var last *workload.X509SVIDResponse
	return s.follow(out.Context(), func(snap *Snapshot) error {
		res, err := x509Response(snap)
		if err != nil {
			return asStatus(err)
		}
		if last != nil && proto.Equal(res, last) {
			return nil
		}
		if err := s.opt.Record(out.Context(), Event{Action: ActionSVID, Caller: callerOf(out.Context()), Resource: snap.ID}); err != nil {
			return asStatus(err)
		}
		last = res
		return out.Send(res)
	})
}

func x509Response(snap *Snapshot) (*workload.X509SVIDResponse, error) {
	key, err := snap.keyDER()
	if err != nil {
		return nil, err
	}
	roots, err := snap.rootsDER()
	if err != nil {
		return nil, err
	}
	own := domainID(snap.domain())
	svid := &workload.X509SVID{SpiffeId: snap.ID, X509Svid: bytes.Join(snap.Chain, nil), X509SvidKey: key, Bundle: roots[own]}
	maps.DeleteFunc(roots, func(domain string, _ []byte) bool { return domain == own })
	return &workload.X509SVIDResponse{Svids: []*workload.X509SVID{svid}, FederatedBundles: roots}, nil
}

// FetchX509Bundles streams the roots of every trust domain that is believed.
func (s *Server) FetchX509Bundles(_ *workload.X509BundlesRequest, out grpc.ServerStreamingServer[workload.X509BundlesResponse]) error {
	var last *workload.X509BundlesResponse
	return s.follow(out.Context(), func(snap *Snapshot) error {
		roots, err := snap.rootsDER()
		if err != nil {
			return asStatus(err)
		}
		res := &workload.X509BundlesResponse{Bundles: roots}
		if last != nil && proto.Equal(res, last) {
			return nil
		}
		last = res
		return out.Send(res)
	})
}

// errNoTokens answers the JWT-SVID profile when it is off.
func errNoTokens() error {
	return status.Error(codes.Unimplemented, "JWT-SVIDs are off: they are bearer tokens; ask for X.509-SVIDs, or say trust.jwt in rampart.yaml")
}

// FetchJWTSVID mints a token for an audience. It is on record where it is signed.
func (s *Server) FetchJWTSVID(ctx context.Context, q *workload.JWTSVIDRequest) (*workload.JWTSVIDResponse, error) {
	if s.opt.Tokens == nil {
		return nil, errNoTokens()
	}
	if err := audiences(q.GetAudience()); err != nil {
		return nil, asStatus(err)
	}
	snap, err := s.opt.Source.Snapshot()
	if err != nil {
		return nil, asStatus(err)
	}
	if err := s.entitled(ctx, q.GetSpiffeId(), snap.ID); err != nil {
		return nil, err
	}
	token, err := s.opt.Tokens.Sign(ctx, q.GetAudience())
	if rampart.KindOf(err) == rampart.Denied && err != nil {
		return nil, s.refuse(ctx, snap.ID, err)
	}
	if err != nil {
		return nil, asStatus(err)
	}
	return &workload.JWTSVIDResponse{Svids: []*workload.JWTSVID{{SpiffeId: snap.ID, Svid: token}}}, nil
}

// audiences holds that there is one at least, and none without a name.
func audiences(list []string) error {
	if len(list) == 0 || len(list) > maxAudiences {
		return rampart.Errorf(rampart.Invalid, "token.audience", "workload: audience must have 1 to %d values", maxAudiences)
	}
	for _, a := range list {
		if a == "" || len(a) > maxAudience {
			return rampart.Errorf(rampart.Invalid, "token.audience", "workload: an audience has 1 to %d bytes", maxAudience)
		}
	}
	return nil
}

// entitled refuses a token of somebody else; "" asks for all there are.
func (s *Server) entitled(ctx context.Context, asked, own string) error {
	if asked == "" || asked == own {
		return nil
	}
	if _, err := spiffeid.FromString(asked); err != nil {
		return status.Error(codes.InvalidArgument, "spiffe_id is not a SPIFFE ID")
	}
	return s.refuse(ctx, asked[:min(len(asked), maxAudience)], rampart.Errorf(rampart.Denied, "mtls.required", "workload: this service is not %.200q", asked))
}

// FetchJWTBundles streams the keys by which JWT-SVIDs of each trust domain are
// verified.
func (s *Server) FetchJWTBundles(_ *workload.JWTBundlesRequest, out grpc.ServerStreamingServer[workload.JWTBundlesResponse]) error {
	if s.opt.Tokens == nil {
		return errNoTokens()
	}
	var last *workload.JWTBundlesResponse
	return s.follow(out.Context(), func(snap *Snapshot) error {
		res := &workload.JWTBundlesResponse{Bundles: map[string][]byte{}}
		for domain, set := range snap.JWT {
			res.Bundles[domainID(domain)] = set
		}
		if last != nil && proto.Equal(res, last) {
			return nil
		}
		last = res
		return out.Send(res)
	})
}

// ValidateJWTSVID verifies a token for a caller that would rather not.
func (s *Server) ValidateJWTSVID(_ context.Context, q *workload.ValidateJWTSVIDRequest) (*workload.ValidateJWTSVIDResponse, error) {
	if s.opt.Tokens == nil {
		return nil, errNoTokens()
	}
	if err := audiences([]string{q.GetAudience()}); err != nil {
		return nil, asStatus(err)
	}
	if len(q.GetSvid()) == 0 || len(q.GetSvid()) > maxToken {
		return nil, status.Errorf(codes.InvalidArgument, "svid must have 1 to %d bytes", maxToken)
	}
	if _, err := s.opt.Source.Snapshot(); err != nil { // a disabled service judges nothing
		return nil, asStatus(err)
	}
	subject, all, err := s.opt.Tokens.Verify(q.GetSvid(), q.GetAudience())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	claims, err := structpb.NewStruct(all)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, "the claims cannot be told")
	}
	return &workload.ValidateJWTSVIDResponse{SpiffeId: subject, Claims: claims}, nil
}
