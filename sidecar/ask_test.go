package sidecar

import (
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/authzen"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/planelink"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
)

// asked is the shop with types, of which the stock may ask about one.
var asked = append(slices.Clone(related),
	"{ id: 6, from: shop, to: stock", "{ id: 11, from: stock, to: shop, carries: [order], authn: exchange, authz: { ask: [order] } }\n  - { id: 6, from: shop, to: stock")

// TestAuthZEN: the service asks about everybody, a caller as far as its flow
// says, and anybody else not at all.
func TestAuthZEN(t *testing.T) {
	h := open(t, []string{"shop", "stock"}, asked...)
	h.serve(func(w http.ResponseWriter, _ *http.Request) { // the stock knows of no attributes
		w.Header().Set("Content-Type", "application/json")
		w.Write([]byte("{}"))
	})
	reset := agent.TuplesPush{Source: "db1", Reset: true, To: 1, Changes: []agent.TupleWrite{shares("o2", "user:ann")}}
	if h.post("shop", agent.PathTuples, reset, nil) != 200 {
		t.Fatal("the relations were not taken")
	}
	question := func(who, id, owner string) string {
		return fmt.Sprintf(`{"subject":{"type":"user","id":%q},"action":{"name":"read"},"resource":{"type":"order","id":%q,"properties":{"owner":%q,"tenant":"acme"}}}`, who, id, owner)
	}
	onSocket := func(path, body string) (int, string) {
		res := h.do(h.of["shop"].sock.Transport, "POST", "http://sidecar"+path, body)
		return res.StatusCode, res.body
	}
	stock, edge := h.as("service/stock"), h.as("gateway/edge")
	over := func(link *planelink.Link) func(path, body string) (int, string) {
		return func(path, body string) (int, string) {
			res := h.call(link, "shop", "POST", pdpPrefix+path, body)
			return res.StatusCode, res.body
		}
	}
	batch := `{"evaluations":[` + question("ann", "o1", "user:ann") + `]}`
	search := `{"subject":{"type":"user"},"action":{"name":"read"},"resource":{"type":"order","id":"o2","properties":{"owner":"user:bob","tenant":"acme"}}}`
	for name, row := range map[string]struct {
		by         func(path, body string) (int, string)
		path, body string
		status     int
		want       string
	}{
		"the service: her own":                {onSocket, authzen.PathEvaluation, question("ann", "o1", "user:ann"), 200, `"decision":true`},
		"the service: shared with her":        {onSocket, authzen.PathEvaluation, question("ann", "o2", "user:bob"), 200, `"decision":true`},
		"the service: another's":              {onSocket, authzen.PathEvaluation, question("ann", "o3", "user:bob"), 200, `"decision":false`},
		"the service: nobody's":               {onSocket, authzen.PathEvaluation, question("zoe", "o1", "user:zoe"), 200, `"decision":false`},
		"the service: who sees it":            {onSocket, authzen.PathSearchSubject, search, 200, `{"type":"user","id":"ann"}`},
		"the service: rows of its own":        {onSocket, authzen.PathSearchResource, `{"subject":{"type":"user","id":"ann"},"action":{"name":"read"},"resource":{"type":"order"}}`, 400, "only shop knows"},
		"a caller whose flow opens it":        {over(stock), authzen.PathEvaluation, question("ann", "o1", "user:ann"), 200, `"decision":true`},
		"the same, many at once":              {over(stock), authzen.PathEvaluations, batch, 200, `"decision":true`},
		"the same, a search":                  {over(stock), authzen.PathSearchSubject, search, 403, "may not search"},
		"a caller whose flow does not":        {over(edge), authzen.PathEvaluation, question("ann", "o1", "user:ann"), 404, "no such resource"},
		"without a reason for administrators": {onSocket, authzen.PathEvaluation, question("ann", "o3", "user:bob"), 200, `"code":"no_permit"`},
	} {
		t.Run(name, func(t *testing.T) {
			status, body := row.by(row.path, row.body)
			if status != row.status || !strings.Contains(body, row.want) || strings.Contains(body, "shop.cedar") {
				t.Errorf("got %d %s, want %d %s", status, body, row.status, row.want)
			}
		})
	}
	over(stock)(authzen.PathSearchSubject, search)
	if e := h.newest("shop"); e.Class != "authz_deny" || e.Actor != h.System.ServiceID("stock") || !strings.Contains(e.Detail["error"], "may not search") {
		t.Errorf("a question without the right, on record: %+v", e)
	}
	h.of["shop"].asks = newAsks(2, time.Now)
	three := `{"evaluations":[` + strings.Repeat(question("ann", "o1", "user:ann")+",", 2) + question("ann", "o1", "user:ann") + `]}`
	if status, body := over(stock)(authzen.PathEvaluations, three); status != 429 || !strings.Contains(body, "2 decisions a second") {
		t.Errorf("more than a caller gets: %d %s", status, body)
	}
	if e := h.newest("shop"); e.Class != audit.ClassLimit || e.Actor != h.System.ServiceID("stock") {
		t.Errorf("too many questions, on record: %+v", e)
	}
	_, _ = onSocket(authzen.PathEvaluation, question("ann", "o3", "user:bob"))
	if e := h.newest("shop"); e.Class != "authz_deny" || e.Subject != "user:ann" || e.Actor != h.System.ServiceID("shop") || e.Detail["reason"] == "" {
		t.Errorf("on record: %+v", e)
	}
}

// TestEnvoy: what Envoy may let pass is what the sidecar lets pass itself, and
// the service learns from whom.
func TestEnvoy(t *testing.T) {
	h := open(t, []string{"shop"}, "openapi: shop.openapi.yaml, policy: shop.cedar", "openapi: shop.openapi.yaml, policy: shop.cedar, envoy: true")
	edge := h.as("gateway/edge")
	token, err := edge.Now().Token(t.Context(), wire.TypeSession, h.session(edge), h.System.ServiceID("shop"))
	must(t, err)
	conn, err := grpc.NewClient("unix:"+EnvoySocket(h.of["shop"].opt.Socket), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	client := auth.NewAuthorizationClient(conn)
	own, other := certificateOf(t, edge), certificateOf(t, h.as("service/stock"))
	for name, row := range map[string]struct {
		method, path, token, certificate, body string
		status                                 int
	}{
		"as it should be":          {"GET", "/orders/o1", token, own, "", 200},
		"no certificate":           {"GET", "/orders/o1", token, "", "", 401},
		"no token":                 {"GET", "/orders/o1", "", own, "", 401},
		"a token of another's":     {"GET", "/orders/o1", token, other, "", 403}, // no flow leads from there
		"a path of two readings":   {"GET", "/orders/%2e%2e/orders/o1", token, own, "", 400},
		"a path that is nobody's":  {"GET", "/_rampart/messages/x", token, own, "", 404},
		"no operation":             {"GET", "/things", token, own, "", 404},
		"a body that does not fit": {"POST", "/orders", token, own, `{"org":"acme"}`, 400},
		"another organization":     {"POST", "/orders", token, own, `{"org":"globex","item":"mug","count":1}`, 403},
		"an order for her own":     {"POST", "/orders", token, own, `{"org":"acme","item":"mug","count":1}`, 200},
	} {
		t.Run(name, func(t *testing.T) {
			q := &auth.CheckRequest{Attributes: &auth.AttributeContext{
				Source: &auth.AttributeContext_Peer{Certificate: row.certificate},
				Request: &auth.AttributeContext_Request{Http: &auth.AttributeContext_HttpRequest{
					Method: row.method, Path: row.path, Host: "shop", Protocol: "HTTP/1.1", Body: row.body, Size: int64(len(row.body)),
					Headers: map[string]string{"rampart-identity": "forged", "x-secret": "1", "x-request-source": "web", "content-type": "application/json"},
				}},
			}}
			if row.token != "" {
				q.Attributes.Request.Http.Headers["authorization"] = "Bearer " + row.token
			}
			if row.body == "" {
				delete(q.Attributes.Request.Http.Headers, "content-type")
			}
			res, err := client.Check(t.Context(), q)
			must(t, err)
			status := 200
			if d := res.GetDeniedResponse(); d != nil {
				status = int(d.GetStatus().GetCode())
			}
			if status != row.status {
				t.Fatalf("status %d, want %d: %v", status, row.status, res)
			}
			if status == 200 {
				h.passed(t, res.GetOkResponse(), row.method == "GET")
			}
		})
	}
}

// passed looks at what Envoy is told to send to the service; declared says that
// the operation takes X-Request-Source.
func (h *house) passed(t *testing.T, ok *auth.OkHttpResponse, declared bool) {
	t.Helper()
	set := http.Header{}
	for _, o := range ok.GetHeaders() {
		set.Add(o.GetHeader().GetKey(), o.GetHeader().GetValue())
	}
	id, err := h.of["shop"].identified(set.Get(agent.HeaderIdentity))
	if err != nil || id.Principal.Subject != "user:ann" {
		t.Errorf("the identity is %+v, %v", id, err)
	}
	removed := ok.GetHeadersToRemove()
	if !slices.Contains(removed, "X-Secret") || slices.Contains(removed, "X-Request-Source") == declared {
		t.Errorf("removed are %q", ok.GetHeadersToRemove())
	}
}

// certificateOf is a plane's certificate as Envoy tells it.
func certificateOf(t *testing.T, link *planelink.Link) string {
	t.Helper()
	snap, err := link.Now().Pinned().Current()
	must(t, err)
	der := snap.Certificate.Certificate[0]
	return url.PathEscape(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
}

// TestClockJump: after a jump that nobody vouched for, nothing is allowed, and
// the record says why.
func TestClockJump(t *testing.T) {
	h := open(t, []string{"shop"})
	edge := h.as("gateway/edge")
	ann := h.identity(edge, h.session(edge))
	ask := agent.CheckRequest{Identity: ann, Action: "shop:read", Resource: orderOf("o1", "user:ann")}
	if allowed, status := h.check("shop", ask); !allowed || status != 200 {
		t.Fatalf("before: %v %d", allowed, status)
	}
	h.jump(errors.New("the clock went back an hour"))
	if allowed, _ := h.check("shop", ask); allowed {
		t.Error("allowed by a clock that jumped")
	}
	if e := h.newest("shop"); e.Class != "authz_deny" || e.Code != string(rampart.CodeClock) {
		t.Errorf("on record: %+v", e)
	}
	h.jump(nil)
	if allowed, _ := h.check("shop", ask); !allowed {
		t.Error("denied by a clock that agrees again")
	}
}
