package workload

import (
	"context"
	"slices"
	"strings"
	"testing"

	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	xds "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpc "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rampart-security/rampart/tls/ca"
	"github.com/rampart-security/rampart/tls/svid"
)

// fixed is a state that does not change.
type fixed struct{ snap *Snapshot }

func (f fixed) Snapshot() (*Snapshot, error) { return f.snap, nil }

func (f fixed) Changed() <-chan struct{} { return nil }

func fixedServer(t testing.TB) *Server {
	t.Helper()
	a, err := ca.New("shop.internal", nil)
	if err != nil {
		t.Fatal(err)
	}
	key, csr, err := svid.NewKeyAndCSR()
	if err != nil {
		t.Fatal(err)
	}
	const id = "spiffe://shop.internal/service/orders"
	chain, _, err := a.Issue(csr, id, ca.IssueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return NewServer(Options{
		Source: fixed{&Snapshot{Version: 1, ID: id, Chain: chain, Key: key, Roots: map[string][]byte{"shop.internal": a.BundlePEM(), "partner.example": a.BundlePEM()}}},
		Allow:  func(uint32) bool { return true },
		Record: func(context.Context, Event) error { return nil },
	})
}

// FuzzSDS: whatever an Envoy asks ends in an answer that has what was asked for
// alone, or in a refusal; and a conversation goes on after anything.
func FuzzSDS(f *testing.F) {
	s := fixedServer(f)
	for _, names := range []string{"default", "ROOTCA\nALL", "spiffe://shop.internal/service/orders", "partner.example", "spiffe://", "\xff", ""} {
		f.Add(names, typeSecret, "1", "")
	}
	f.Add("default", "type.googleapis.com/other", "", "refused")
	f.Fuzz(func(t *testing.T, names, typ, nonce, refusal string) {
		q := &xds.DiscoveryRequest{ResourceNames: strings.Split(names, "\n"), TypeUrl: typ, ResponseNonce: nonce}
		if refusal != "" {
			q.ErrorDetail = &rpc.Status{Message: refusal}
		}
		d := &discovery{server: s}
		c := &conversation{discovery: d, ctx: t.Context(), send: func(res *xds.DiscoveryResponse) error { return only(res, q.ResourceNames) }}
		for range 2 {
			if err := c.take(q); err != nil && status.Code(err) != codes.InvalidArgument {
				t.Fatal(err)
			}
			if err := c.tell(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// only holds that an answer has what was asked for alone.
func only(res *xds.DiscoveryResponse, asked []string) error {
	for _, packed := range res.Resources {
		s := new(tls.Secret)
		if err := packed.UnmarshalTo(s); err != nil {
			return err
		}
		if !slices.Contains(asked, s.Name) {
			return status.Errorf(codes.Internal, "asked for %q, got %q", asked, s.Name)
		}
	}
	return nil
}
