// Package extauthz lets an Envoy proxy (or Istio) enforce what Rampart decides:
// it speaks envoy.service.auth.v3.Authorization/Check over gRPC and hands each
// call to the same stages that judge a request which comes without Envoy.
//
// Envoy must be set up with failure_mode_allow: false, include_peer_certificate
// and, for services with a document, with_request_body. A body that was cut off
// or withheld is not judged by half: the request is denied. Calls may repeat; a
// decision has no side effects but its record.
package extauthz

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	types "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"
)

// Bounds of one call.
const (
	MaxMessage = 1 << 20 // bytes of a call, body and certificate included
	maxHeaders = 200
	maxStreams = 256 // calls at once on one connection
)

// Answer is what the decider says of one request. The zero Answer denies with
// 403.
type Answer struct {
	Allowed bool
	Header  http.Header // of an allowed request: set for the service, in place of what the client sent
	Remove  []string    // of an allowed request: the client's headers that the service does not get, beside every Rampart-*
	Status  int         // of a denial; 0 means 403
	Reply   http.Header // of a denial
	Body    string      // of a denial
	// About the decision, for Envoy's log and later filters.
	ID, Layer, Code, Policy string
}

// Decide judges a request that has come over mutual TLS from peer; peer is nil
// when Envoy told no certificate. It must be safe for concurrent use.
type Decide func(r *http.Request, peer *x509.Certificate) Answer

// NewServer returns a gRPC server with the service registered. Who may connect
// is the listener's to say. It panics when decide is nil.
func NewServer(decide Decide) *grpc.Server {
	if decide == nil {
		panic("extauthz: a decider is required")
	}
	s := grpc.NewServer(grpc.MaxRecvMsgSize(MaxMessage), grpc.MaxConcurrentStreams(maxStreams))
	auth.RegisterAuthorizationServer(s, &server{decide: decide})
	return s
}

type server struct {
	auth.UnimplementedAuthorizationServer
	decide Decide
}

// Check implements the service. What cannot be read as one request is denied,
// never an error of the call: an error would leave the outcome to Envoy's
// failure mode.
func (s *server) Check(ctx context.Context, q *auth.CheckRequest) (*auth.CheckResponse, error) {
	r, peer, why := read(ctx, q.GetAttributes())
	if why != "" {
		return denied(Answer{Status: http.StatusBadRequest, Body: why + "\n"}), nil
	}
	a := s.decide(r, peer)
	if !a.Allowed {
		return denied(a), nil
	}
	return allowed(r, a), nil
}

// read rebuilds the request that Envoy holds; why is what makes that impossible.
func read(ctx context.Context, a *auth.AttributeContext) (r *http.Request, peer *x509.Certificate, why string) {
	h := a.GetRequest().GetHttp()
	if h == nil {
		return nil, nil, "the call describes no HTTP request"
	}
	target, err := url.ParseRequestURI(h.GetPath())
	if err != nil || !strings.HasPrefix(h.GetPath(), "/") {
		return nil, nil, "the path is not one"
	}
	header, why := headers(h)
	if why != "" {
		return nil, nil, why
	}
	body := h.GetRawBody()
	if len(body) == 0 {
		body = []byte(h.GetBody())
	}
	if !whole(header, h.GetSize(), len(body)) {
		return nil, nil, "the body was not handed over whole: set with_request_body, large enough and without allow_partial_message"
	}
	if peer, why = certificate(a.GetSource().GetCertificate()); why != "" {
		return nil, nil, why
	}
	r = &http.Request{
		Method: h.GetMethod(), URL: target, Host: h.GetHost(), RequestURI: h.GetPath(), Header: header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Body: io.NopCloser(strings.NewReader(string(body))), ContentLength: int64(len(body)),
		RemoteAddr: a.GetSource().GetAddress().GetSocketAddress().GetAddress(),
	}
	return r.WithContext(ctx), peer, ""
}

// whole reports whether got bytes are the body that the client announced. Envoy
// says a size of 0 or -1 when it withholds the body, so the client's own framing
// counts too. A body over HTTP/2 need not be announced: there the operator's
// with_request_body is all there is.
func whole(h http.Header, size int64, got int) bool {
	if size > int64(got) || h.Get("X-Envoy-Auth-Partial-Body") == "true" {
		return false
	}
	if len(h.Values("Transfer-Encoding")) > 0 && got == 0 {
		return false
	}
	announced := h.Values("Content-Length")
	return len(announced) == 0 || len(announced) == 1 && announced[0] == strconv.Itoa(got)
}

// headers takes both forms in which Envoy tells them; pseudo-headers are said
// elsewhere.
func headers(h *auth.AttributeContext_HttpRequest) (http.Header, string) {
	raw := h.GetHeaderMap().GetHeaders()
	if len(h.GetHeaders())+len(raw) > maxHeaders {
		return nil, "there are too many headers"
	}
	out := http.Header{}
	for name, value := range h.GetHeaders() {
		if !strings.HasPrefix(name, ":") {
			out.Add(name, value)
		}
	}
	for _, v := range raw {
		text := v.GetValue()
		if text == "" {
			text = string(v.GetRawValue())
		}
		if !strings.HasPrefix(v.GetKey(), ":") {
			out.Add(v.GetKey(), text)
		}
	}
	return out, ""
}

// certificate reads the peer's certificate, URL-encoded PEM. Envoy has verified
// it; the decider judges whose it is.
func certificate(text string) (*x509.Certificate, string) {
	if text == "" {
		return nil, ""
	}
	const wrong = "the certificate of the peer cannot be read"
	decoded, err := url.PathUnescape(text) // a plus is a plus
	if err != nil {
		return nil, wrong
	}
	block, _ := pem.Decode([]byte(decoded))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, wrong
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, wrong
	}
	return cert, ""
}

// allowed lets the request pass with our headers in place of the client's.
func allowed(r *http.Request, a Answer) *auth.CheckResponse {
	ok := &auth.OkHttpResponse{Headers: options(a.Header), HeadersToRemove: a.Remove}
	for name := range r.Header {
		if _, replaced := a.Header[name]; strings.HasPrefix(name, "Rampart-") && !replaced && !slices.Contains(a.Remove, name) {
			ok.HeadersToRemove = append(ok.HeadersToRemove, name)
		}
	}
	return &auth.CheckResponse{
		Status:          &status.Status{Code: int32(codes.OK)},
		HttpResponse:    &auth.CheckResponse_OkResponse{OkResponse: ok},
		DynamicMetadata: about(a),
	}
}

func denied(a Answer) *auth.CheckResponse {
	if a.Status < 400 || a.Status > 599 {
		a.Status = http.StatusForbidden
	}
	code := codes.PermissionDenied
	if a.Status == http.StatusUnauthorized {
		code = codes.Unauthenticated
	}
	return &auth.CheckResponse{
		Status: &status.Status{Code: int32(code), Message: a.Code},
		HttpResponse: &auth.CheckResponse_DeniedResponse{DeniedResponse: &auth.DeniedHttpResponse{
			Status:  &types.HttpStatus{Code: types.StatusCode(a.Status)},
			Headers: options(a.Reply),
			Body:    a.Body,
		}},
		DynamicMetadata: about(a),
	}
}

func options(h http.Header) []*core.HeaderValueOption {
	var out []*core.HeaderValueOption
	for name, values := range h {
		for i, v := range values {
			action := core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD
			if i > 0 {
				action = core.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD
			}
			out = append(out, &core.HeaderValueOption{
				Header:       &core.HeaderValue{Key: strings.ToLower(name), Value: v},
				AppendAction: action,
			})
		}
	}
	return out
}

// about is the decision as dynamic metadata.
func about(a Answer) *structpb.Struct {
	fields := map[string]*structpb.Value{}
	for name, value := range map[string]string{"decision_id": a.ID, "layer": a.Layer, "code": a.Code, "policy": a.Policy} {
		if value != "" {
			fields[name] = structpb.NewStringValue(value)
		}
	}
	return &structpb.Struct{Fields: fields}
}
