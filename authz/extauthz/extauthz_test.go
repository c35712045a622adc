package extauthz

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// dial starts a server on a Unix socket, as a sidecar does, and returns a
// client of it.
func dial(t *testing.T, decide Decide) auth.AuthorizationClient {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(decide)
	go s.Serve(l)
	t.Cleanup(s.Stop)
	conn, err := grpc.NewClient("unix:"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return auth.NewAuthorizationClient(conn)
}

// recorded is a call as Envoy makes it for a GET with a query and a client that
// tries to pass for somebody.
const recorded = `{"attributes": {
	"source": {"address": {"socketAddress": {"address": "10.0.0.7", "portValue": 40100}}, "principal": "spiffe://pay.example/gateway/gateway"},
	"destination": {"address": {"socketAddress": {"address": "10.0.0.8", "portValue": 8443}}},
	"request": {"time": "2026-11-29T12:00:00Z", "http": {
		"id": "17", "method": "GET", "path": "/orders/17?full=1", "host": "orders.internal", "scheme": "https", "protocol": "HTTP/1.1",
		"headers": {":authority": "orders.internal", ":method": "GET", ":path": "/orders/17?full=1", "authorization": "Bearer abc", "rampart-identity": "forged", "accept": "application/json"}}},
	"contextExtensions": {}}}`

func call(t *testing.T, text string) *auth.CheckRequest {
	t.Helper()
	var q auth.CheckRequest
	if err := protojson.Unmarshal([]byte(text), &q); err != nil {
		t.Fatal(err)
	}
	return &q
}

func TestAllowed(t *testing.T) {
	var got *http.Request
	client := dial(t, func(r *http.Request, peer *x509.Certificate) Answer {
		got = r
		if peer != nil {
			t.Error("a certificate came from nowhere")
		}
		return Answer{Allowed: true, Header: http.Header{"Traceparent": {"00-1"}}, ID: "d1", Layer: "service"}
	})
	res, err := client.Check(t.Context(), call(t, recorded))
	if err != nil {
		t.Fatal(err)
	}
	want := http.Header{"Authorization": {"Bearer abc"}, "Rampart-Identity": {"forged"}, "Accept": {"application/json"}}
	if diff := cmp.Diff(want, got.Header); diff != "" || got.Method != "GET" || got.URL.String() != "/orders/17?full=1" || got.Host != "orders.internal" {
		t.Errorf("the decider saw %s %s of %s: %s", got.Method, got.URL, got.Host, diff)
	}
	ok := res.GetOkResponse()
	if res.GetStatus().GetCode() != 0 || !slices.Equal(ok.GetHeadersToRemove(), []string{"Rampart-Identity"}) {
		t.Errorf("status %v, removed %q: the client's identity must go", res.GetStatus(), ok.GetHeadersToRemove())
	}
	if h := ok.GetHeaders(); len(h) != 1 || h[0].GetHeader().GetKey() != "traceparent" || h[0].GetAppendAction() != core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD {
		t.Errorf("headers %v", h)
	}
	if m := res.GetDynamicMetadata().AsMap(); !cmp.Equal(m, map[string]any{"decision_id": "d1", "layer": "service"}) {
		t.Errorf("metadata %v", m)
	}
}

// TestOursReplacesTheirs: a header that the decider sets takes the place of the
// client's and is not removed as well.
func TestOursReplacesTheirs(t *testing.T) {
	client := dial(t, func(*http.Request, *x509.Certificate) Answer {
		return Answer{Allowed: true, Header: http.Header{"Rampart-Identity": {"signed"}}}
	})
	res, err := client.Check(t.Context(), call(t, recorded))
	if err != nil {
		t.Fatal(err)
	}
	ok := res.GetOkResponse()
	if len(ok.GetHeadersToRemove()) != 0 || len(ok.GetHeaders()) != 1 || ok.GetHeaders()[0].GetHeader().GetValue() != "signed" {
		t.Errorf("got %v", ok)
	}
}

func TestDenied(t *testing.T) {
	for name, row := range map[string]struct {
		answer Answer
		http   int
		grpc   int32
	}{
		"nothing said is a denial": {Answer{}, 403, 7},
		"nobody":                   {Answer{Status: 401}, 401, 16},
		"a step up":                {Answer{Status: 401, Reply: http.Header{"Www-Authenticate": {"Bearer"}}}, 401, 16},
		"unavailable":              {Answer{Status: 503}, 503, 7},
		"no status of a denial":    {Answer{Status: 200}, 403, 7},
	} {
		t.Run(name, func(t *testing.T) {
			client := dial(t, func(*http.Request, *x509.Certificate) Answer { return row.answer })
			res, err := client.Check(t.Context(), call(t, recorded))
			if err != nil {
				t.Fatal(err)
			}
			d := res.GetDeniedResponse()
			if int(d.GetStatus().GetCode()) != row.http || res.GetStatus().GetCode() != row.grpc || len(d.GetHeaders()) != len(row.answer.Reply) {
				t.Errorf("got %v", res)
			}
		})
	}
}

// TestUnreadable: what is no whole request reaches no decider.
func TestUnreadable(t *testing.T) {
	client := dial(t, func(*http.Request, *x509.Certificate) Answer {
		t.Error("the decider was asked")
		return Answer{Allowed: true}
	})
	for name, spoil := range map[string]func(*auth.AttributeContext){
		"no request":            func(a *auth.AttributeContext) { a.Request = nil },
		"no path":               func(a *auth.AttributeContext) { a.Request.Http.Path = "" },
		"another scheme's path": func(a *auth.AttributeContext) { a.Request.Http.Path = "http://elsewhere/" },
		"a body withheld":       func(a *auth.AttributeContext) { a.Request.Http.Size = 10 },
		"a body cut off": func(a *auth.AttributeContext) {
			a.Request.Http.Body, a.Request.Http.Headers["x-envoy-auth-partial-body"] = "{", "true"
		},
		"a body announced and withheld": func(a *auth.AttributeContext) { a.Request.Http.Headers["content-length"] = "57" },
		"a stream withheld": func(a *auth.AttributeContext) {
			a.Request.Http.Headers["transfer-encoding"], a.Request.Http.Size = "chunked", -1
		},
		"another length than announced": func(a *auth.AttributeContext) {
			a.Request.Http.Headers["content-length"], a.Request.Http.Body = "57", "{}"
		},
		"two lengths":    func(a *auth.AttributeContext) { a.Request.Http.Headers["content-length"] = "0,0" },
		"no certificate": func(a *auth.AttributeContext) { a.Source.Certificate = "-----BEGIN" },
		"many headers": func(a *auth.AttributeContext) {
			for i := range maxHeaders {
				a.Request.Http.Headers["x-"+big.NewInt(int64(i)).String()] = "x"
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			q := call(t, recorded)
			spoil(q.Attributes)
			res, err := client.Check(t.Context(), q)
			if err != nil || res.GetDeniedResponse().GetStatus().GetCode() != 400 {
				t.Errorf("got %v %v, want a denial", res, err)
			}
		})
	}
	if res, err := client.Check(t.Context(), &auth.CheckRequest{}); err != nil || res.GetDeniedResponse() == nil {
		t.Errorf("an empty call: %v %v", res, err)
	}
}

func TestBodyAndCertificate(t *testing.T) {
	cert, text := selfSigned(t)
	client := dial(t, func(r *http.Request, peer *x509.Certificate) Answer {
		body, err := io.ReadAll(r.Body)
		if err != nil || string(body) != `{"a":1}` || r.ContentLength != 7 || !peer.Equal(cert) {
			t.Errorf("the decider got %q of %d bytes", body, r.ContentLength)
		}
		return Answer{Allowed: true}
	})
	q := call(t, recorded)
	q.Attributes.Request.Http.RawBody, q.Attributes.Request.Http.Size = []byte(`{"a":1}`), 7
	q.Attributes.Source.Certificate = text
	if res, err := client.Check(t.Context(), q); err != nil || res.GetOkResponse() == nil {
		t.Fatalf("got %v %v, want it allowed", res, err)
	}
}

func selfSigned(t *testing.T) (*x509.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, url.PathEscape(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
}

// FuzzCheck: whatever a call holds, the answer is a decision.
func FuzzCheck(f *testing.F) {
	var q auth.CheckRequest
	if err := protojson.Unmarshal([]byte(recorded), &q); err != nil {
		f.Fatal(err)
	}
	seed, err := proto.Marshal(&q)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte{})
	s := &server{decide: func(r *http.Request, _ *x509.Certificate) Answer {
		return Answer{Allowed: r.Header.Get("Authorization") != ""}
	}}
	f.Fuzz(func(t *testing.T, wire []byte) {
		var q auth.CheckRequest
		if proto.Unmarshal(wire, &q) != nil {
			return
		}
		res, err := s.Check(context.Background(), &q)
		if err != nil || (res.GetOkResponse() == nil) == (res.GetDeniedResponse() == nil) {
			t.Errorf("got %v %v", res, err)
		}
	})
}
