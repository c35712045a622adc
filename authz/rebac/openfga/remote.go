package openfga

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

const maxAnswer = 8 << 20 // bytes of one answer

// Remote is where a server listens.
type Remote struct {
	Address string      // host:port of its gRPC listener
	TLS     *tls.Config // from tls/profile; nil, without TLS, for a server on loopback only
	// Token returns the pre-shared key at each call; nil sends none. It must be
	// safe for concurrent use.
	Token func(context.Context) (string, error)
}

// Dial prepares a connection; the first question opens it. A server without TLS
// must be on loopback.
func Dial(r Remote) (*grpc.ClientConn, error) {
	creds, err := r.credentials()
	if err != nil {
		return nil, fmt.Errorf("openfga: %w", err)
	}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), // neither environment nor DNS says where questions go
		// A server that comes back is asked again soon, and a dead connection is
		// given up when what was sent stays unconfirmed.
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second}, MinConnectTimeout: 2 * time.Second}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 6 * time.Minute, Timeout: 5 * time.Second}),
	}
	if r.Token != nil {
		opts = append(opts, grpc.WithPerRPCCredentials(bearer{r.Token, r.TLS != nil}))
	}
	conn, err := grpc.NewClient(r.Address, opts...)
	if err != nil {
		return nil, fmt.Errorf("openfga: %w", err)
	}
	return conn, nil
}

func (r Remote) credentials() (credentials.TransportCredentials, error) {
	host, _, err := net.SplitHostPort(r.Address)
	if err != nil {
		return nil, fmt.Errorf("address %q is not host:port", r.Address)
	}
	if r.TLS != nil {
		return credentials.NewTLS(r.TLS), nil
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("%s is not on loopback: name the CA that vouches for it", r.Address)
	}
	return insecure.NewCredentials(), nil
}

// bearer sends the pre-shared key.
type bearer struct {
	token  func(context.Context) (string, error)
	secure bool
}

func (b bearer) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	t, err := b.token(ctx)
	return map[string]string{"authorization": "Bearer " + t}, err
}

func (b bearer) RequireTransportSecurity() bool { return b.secure }
