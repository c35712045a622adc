package gateway

import (
	"bufio"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rampart-security/rampart/authz/pap"
	"github.com/rampart-security/rampart/control/controltest"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/spec"
)

// streamsOf are one stream of each kind, each opened by who shows the token.
func streamsOf(t *testing.T, h *house, open func(token string) <-chan error, token string) map[string]<-chan error {
	t.Helper()
	conn, in, res := h.dial("/orders/o1", "Authorization", token)
	if res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("a WebSocket: %s", res.Status)
	}
	must(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	return map[string]<-chan error{
		"WebSocket":          ending(in),
		"server-sent events": h.stream("Authorization", token),
		"gRPC":               open(token),
	}
}

func ending(in *bufio.Reader) <-chan error {
	end := make(chan error, 1)
	go func() { _, err := in.ReadByte(); end <- err }()
	return end
}

// TestJudgedAgain: what stays open ends when it would be refused now: by a revoked
// credential, by other policies, or by a file that takes its flow away.
func TestJudgedAgain(t *testing.T) {
	const stay = "    stream: [websocket, sse]\n"
	h, service, client := openCalls(t, shopFlow(stay)...)
	h.serve(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			echo(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	call := func(token string) <-chan error {
		both, err := client.FullDuplexCall(as(t, token))
		must(t, err)
		<-service.begun
		end := make(chan error, 1)
		go func() { _, err := both.Recv(); end <- err }()
		return end
	}
	file := func(change ...string) []string {
		return append(append(callsFile(grpcFlow), shopFlow(stay)...), change...)
	}
	push := func(change ...string) {
		t.Helper()
		sys, err := spec.Load(controltest.File(t, file(change...)...))
		must(t, err)
		set := pap.FromSystem(sys)
		text, err := json.Marshal(set)
		must(t, err)
		h.Admin(wire.AdminPolicies, wire.PolicyPush{Set: text, Files: set.Files}, nil)
	}
	all := func(name string, user string, change func(), want codes.Code) {
		t.Run(name, func(t *testing.T) {
			streams := streamsOf(t, h, call, h.token(user, "app"))
			for kind, end := range streams {
				select {
				case err := <-end:
					t.Fatalf("%s ended before: %v", kind, err)
				default:
				}
			}
			change()
			for kind, end := range streams {
				select {
				case err := <-end:
					if err == nil && kind != "server-sent events" || kind == "gRPC" && status.Code(err) != want {
						t.Errorf("%s ends with %v", kind, err)
					}
				case <-time.After(20 * time.Second):
					t.Errorf("%s stays open", kind)
				}
			}
		})
	}
	all("revoked", "gone", func() { h.Revoke("sub", "user:gone") }, codes.Unauthenticated)
	all("policies that deny", "ann", func() {
		push(`customer: ["shop:read", "shop:write", "stock:read", "stock:create"]`, `customer: ["stock:read"]`)
	}, codes.PermissionDenied)
	denied := 0
	for _, e := range h.Events("gateway_edge") {
		if e.Control == "authz.gateway" && strings.Contains(e.Detail["error"], "any more") {
			denied++
		}
	}
	if denied != 3 {
		t.Errorf("%d streams are on record as denied, want 3", denied)
	}
	before := h.gw.policies.PDP()
	push()
	h.Until("the policies are back", func() bool { return h.gw.policies.PDP() != before })
	all("a file without the way in", "ann", func() {
		h.enforce(file("  - { id: 3, from: customer, to: edge, carries: [order], authn: jwt, limit: { ip: 100000/m, user: 100000/m } }\n", "")...)
	}, codes.PermissionDenied)
	h.enforce(file()...)
	all("a file without the streams", "ann", func() {
		h.enforce("headers: [X-Kept]", "headers: [X-Kept], methods: [POST]", `"stock:read"]`, `"stock:read", "stock:create"]`)
	}, codes.PermissionDenied)
}
