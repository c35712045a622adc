package gateway

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpctls "google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding/gzip"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/rampart-security/rampart/control/controltest"
)

// caller is the service of calls: it sends back what it gets.
type caller struct {
	testpb.UnimplementedTestServiceServer
	token string             // of a client
	begun chan time.Duration // of each bidirectional call, what is left until its deadline; 0: it has none
	over  chan error         // why it ended, here
}

func (s *caller) UnaryCall(ctx context.Context, in *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if len(md["rampart-identity"]) != 1 || slices.Contains(md["authorization"], s.token) || len(md["x-secret"]) > 0 {
		return nil, status.Error(codes.Internal, "the caller is nobody, or brings more than it may")
	}
	_ = grpc.SetHeader(ctx, metadata.Pairs("x-kept", strings.Join(md["x-kept"], ","), "rampart-identity", "forged"))
	_ = grpc.SetTrailer(ctx, metadata.Pairs("x-note", "one", "x-note", "two", "x-raw-bin", "\x00\xff", "rampart-identity", "forged", "set-cookie", "a=b"))
	if want := in.GetResponseStatus(); want.GetCode() != 0 {
		st, err := status.New(codes.Code(want.GetCode()), want.GetMessage()).WithDetails(want)
		if err != nil {
			return nil, err
		}
		return nil, st.Err()
	}
	return &testpb.SimpleResponse{Payload: in.GetPayload()}, nil
}

func (s *caller) StreamingOutputCall(in *testpb.StreamingOutputCallRequest, out grpc.ServerStreamingServer[testpb.StreamingOutputCallResponse]) error {
	for _, p := range in.GetResponseParameters() {
		if err := out.Send(&testpb.StreamingOutputCallResponse{Payload: &testpb.Payload{Body: make([]byte, p.GetSize())}}); err != nil {
			return err
		}
	}
	return nil
}

func (s *caller) StreamingInputCall(in grpc.ClientStreamingServer[testpb.StreamingInputCallRequest, testpb.StreamingInputCallResponse]) error {
	sum := 0
	for {
		m, err := in.Recv()
		if err == io.EOF {
			return in.SendAndClose(&testpb.StreamingInputCallResponse{AggregatedPayloadSize: int32(sum)})
		}
		if err != nil {
			return err
		}
		sum += len(m.GetPayload().GetBody())
	}
}

func (s *caller) FullDuplexCall(both grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error {
	left := time.Duration(0)
	if at, ok := both.Context().Deadline(); ok {
		left = time.Until(at)
	}
	s.begun <- left
	for {
		m, err := both.Recv()
		if err == io.EOF {
			s.over <- nil
			return nil
		}
		if err != nil {
			s.over <- err
			return err
		}
		if err := both.Send(&testpb.StreamingOutputCallResponse{Payload: m.GetPayload()}); err != nil {
			return err
		}
	}
}

// below calls methods below a service's mount, as no client does by itself.
type below struct {
	grpc.ClientConnInterface
	mount string
}

func (b below) Invoke(ctx context.Context, method string, in, out any, opts ...grpc.CallOption) error {
	return b.ClientConnInterface.Invoke(ctx, b.mount+method, in, out, opts...)
}

func (b below) NewStream(ctx context.Context, d *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return b.ClientConnInterface.NewStream(ctx, d, b.mount+method, opts...)
}

// callsFile changes the shop so that its stock is a service of gRPC.
func callsFile(flow string) []string {
	return []string{
		"headers: [X-Kept]", "headers: [X-Kept], methods: [POST]",
		`"stock:read"]`, `"stock:read", "stock:create"]`,
		"to: stock, carries: [order], authn: gateway }", "to: stock, carries: [order], authn: gateway" + flow + " }",
	}
}

const grpcFlow = ", stream: grpc, validate: { max_body: 64KiB, opaque: grpc }"

// openCalls starts a house whose stock speaks gRPC, and returns clients of it.
func openCalls(t *testing.T, change ...string) (*house, *caller, testpb.TestServiceClient) {
	t.Helper()
	h := &house{House: controltest.Start(t, controltest.File(t, append(callsFile(grpcFlow), change...)...)), t: t}
	up := httptest.NewServer(h)
	t.Cleanup(up.Close)
	h.up = up.URL
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	service := &caller{begun: make(chan time.Duration, 16), over: make(chan error, 16)}
	srv := grpc.NewServer()
	testpb.RegisterTestServiceServer(srv, service)
	go srv.Serve(l)
	t.Cleanup(srv.Stop)
	h.sidecar("shop", up.URL)
	h.sidecar("stock", "http://"+l.Addr().String())
	h.edge("shop", "stock")
	conn, err := grpc.NewClient(h.gw.Addr(), grpc.WithTransportCredentials(grpctls.NewTLS(h.client.Transport.(*http.Transport).TLSClientConfig.Clone())), grpc.WithNoProxy())
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	return h, service, testpb.NewTestServiceClient(below{conn, "/stock"})
}

// as is a context of who shows a token, bounded.
func as(t *testing.T, token string, more ...string) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), more...), 30*time.Second)
	t.Cleanup(cancel)
	if token == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", token)
}

func payload(n int) *testpb.Payload { return &testpb.Payload{Body: make([]byte, n)} }

// TestGRPC: each kind of call passes whole, with its status and its trailers, and
// what may not begin ends with a status too.
func TestGRPC(t *testing.T) {
	h, service, client := openCalls(t)
	ann, vic := h.token("ann", "app"), h.token("vic", "app")
	service.token = ann
	t.Run("unary", func(t *testing.T) {
		var head, trailer metadata.MD
		res, err := client.UnaryCall(as(t, ann, "x-kept", "a", "x-secret", "b"), &testpb.SimpleRequest{Payload: payload(1000)}, grpc.Header(&head), grpc.Trailer(&trailer))
		if err != nil || len(res.GetPayload().GetBody()) != 1000 {
			t.Fatalf("%v, %v", res, err)
		}
		if diff := cmp.Diff(metadata.MD{"x-note": {"one", "two"}, "x-raw-bin": {"\x00\xff"}}, trailer); diff != "" {
			t.Errorf("trailers (-want +got):\n%s", diff)
		}
		if head.Get("x-kept")[0] != "a" || len(head.Get("rampart-identity")) > 0 || len(head.Get("x-content-type-options")) != 1 {
			t.Errorf("head %v", head)
		}
	})
	t.Run("an error with details", func(t *testing.T) {
		var trailer metadata.MD
		want := &testpb.EchoStatus{Code: int32(codes.FailedPrecondition), Message: "not yet: 100% ünready"}
		_, err := client.UnaryCall(as(t, ann), &testpb.SimpleRequest{ResponseStatus: want}, grpc.Trailer(&trailer))
		st := status.Convert(err)
		if st.Code() != codes.FailedPrecondition || st.Message() != want.GetMessage() || len(st.Details()) != 1 || len(trailer["x-note"]) != 2 {
			t.Errorf("%v, details %v, trailers %v", err, st.Details(), trailer)
		}
	})
	t.Run("from the service", func(t *testing.T) {
		in, err := client.StreamingOutputCall(as(t, ann), &testpb.StreamingOutputCallRequest{ResponseParameters: []*testpb.ResponseParameters{{Size: 1}, {Size: 300_000}, {Size: 0}}})
		must(t, err)
		for _, want := range []int{1, 300_000, 0} {
			if m, err := in.Recv(); err != nil || len(m.GetPayload().GetBody()) != want {
				t.Fatalf("%d bytes, want %d: %v", len(m.GetPayload().GetBody()), want, err)
			}
		}
		if _, err := in.Recv(); err != io.EOF {
			t.Errorf("it ends with %v", err)
		}
	})
	t.Run("from the client", func(t *testing.T) {
		out, err := client.StreamingInputCall(as(t, ann))
		must(t, err)
		for range 10 { // more than a message may have, in messages that may be
			must(t, out.Send(&testpb.StreamingInputCallRequest{Payload: payload(60 << 10)}))
		}
		if m, err := out.CloseAndRecv(); err != nil || m.GetAggregatedPayloadSize() != 600<<10 {
			t.Errorf("%v, %v", m, err)
		}
	})
	t.Run("both ways", func(t *testing.T) {
		both, err := client.FullDuplexCall(as(t, ann))
		must(t, err)
		for n := range 5 { // the next is not sent before the last has come back
			must(t, both.Send(&testpb.StreamingOutputCallRequest{Payload: payload(n)}))
			if m, err := both.Recv(); err != nil || len(m.GetPayload().GetBody()) != n {
				t.Fatalf("%v, %v", m, err)
			}
		}
		must(t, both.CloseSend())
		if _, err := both.Recv(); err != io.EOF {
			t.Errorf("it ends with %v", err)
		}
		if left := <-service.begun; left <= 0 || left > 30*time.Second {
			t.Errorf("the service has %v", left)
		}
		<-service.over
		h.Until("it is on record", func() bool { e := h.newest(); return e.Code == "closed" && e.Detail["bytes_in"] != "0" })
	})
	t.Run("a message that is too long", func(t *testing.T) {
		both, err := client.FullDuplexCall(as(t, ann))
		must(t, err)
		<-service.begun
		_ = both.Send(&testpb.StreamingOutputCallRequest{Payload: payload(65 << 10)})
		if _, err := both.Recv(); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "at most 65536 bytes") {
			t.Error(err)
		}
		<-service.over
	})
	t.Run("the client's deadline", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(as(t, ann), 500*time.Millisecond)
		defer cancel()
		both, err := client.FullDuplexCall(ctx)
		must(t, err)
		if _, err := both.Recv(); status.Code(err) != codes.DeadlineExceeded {
			t.Error(err)
		}
		if left := <-service.begun; left <= 0 || left > 500*time.Millisecond {
			t.Errorf("the service has %v", left)
		}
		<-service.over
	})
	t.Run("the client takes it back", func(t *testing.T) {
		ctx, cancel := context.WithCancel(as(t, ann))
		_, err := client.FullDuplexCall(ctx)
		must(t, err)
		<-service.begun
		cancel()
		select {
		case err := <-service.over:
			if status.Code(err) != codes.Canceled {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Error("the service does not hear of it")
		}
	})
	refused := func(name string, ctx context.Context, want codes.Code, opt ...grpc.CallOption) {
		t.Run(name, func(t *testing.T) {
			if _, err := client.UnaryCall(ctx, &testpb.SimpleRequest{}, opt...); status.Code(err) != want {
				t.Errorf("%v, want %v", err, want)
			}
		})
	}
	refused("nobody", as(t, ""), codes.Unauthenticated)
	refused("who may not", as(t, vic), codes.PermissionDenied)
	refused("compressed messages", as(t, ann), codes.Unimplemented, grpc.UseCompressor(gzip.Name))
	refused("a header with two readings", as(t, ann, "x_kept", "a"), codes.InvalidArgument)
	if e := h.newest(); e.Control != "edge.route" {
		t.Errorf("on record by %q", e.Control)
	}
	if res := h.do("POST", "/stock/grpc.testing.TestService/UnaryCall", "x", "Content-Type", "application/grpc", "Authorization", ann); res.StatusCode != 415 {
		t.Errorf("without TE: %s", res.Status)
	}
	h.enforce(callsFile(", validate: { opaque: grpc }")...)
	refused("where the flow allows none", as(t, ann), codes.Unimplemented)
}
