package sidecar

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	api "github.com/openfga/api/proto/openfga/v1"
	"github.com/openfga/language/pkg/go/transformer"
	"google.golang.org/grpc"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/rebac/openfga"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/wire"
)

const fgaKey = "pre-shared-of-the-test"

// fga is a real OpenFGA server with one store, whose model is the shop's.
type fga struct {
	address, store string
	kill           func()
}

// startFGA runs the server that RAMPART_OPENFGA names.
func startFGA(t *testing.T) fga {
	t.Helper()
	binary := os.Getenv("RAMPART_OPENFGA")
	if binary == "" {
		t.Skip("RAMPART_OPENFGA names no OpenFGA server: make conformance-server builds one")
	}
	f := fga{address: freeAddress(t)}
	cmd := exec.Command(binary, "run", "--datastore-engine", "memory", "--playground-enabled=false", "--metrics-enabled=false", "--log-level", "error",
		"--authn-method", "preshared", "--authn-preshared-keys", fgaKey, "--http-addr", freeAddress(t), "--grpc-addr", f.address)
	cmd.Stdout, cmd.Stderr = io.Discard, os.Stderr
	must(t, cmd.Start())
	f.kill = sync.OnceFunc(func() { cmd.Process.Kill(); cmd.Wait() })
	t.Cleanup(f.kill)
	conn, err := openfga.Dial(openfga.Remote{Address: f.address, Token: func(context.Context) (string, error) { return fgaKey, nil }})
	must(t, err)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client := api.NewOpenFGAServiceClient(conn)
	store, err := client.CreateStore(ctx, &api.CreateStoreRequest{Name: "shop"}, grpc.WaitForReady(true))
	must(t, err)
	text, err := os.ReadFile("../control/controltest/testdata/shop.fga")
	must(t, err)
	m, err := transformer.TransformDSLToProto(string(text))
	must(t, err)
	_, err = client.WriteAuthorizationModel(ctx, &api.WriteAuthorizationModelRequest{StoreId: store.GetId(), SchemaVersion: m.GetSchemaVersion(), TypeDefinitions: m.GetTypeDefinitions()})
	must(t, err)
	f.store = store.GetId()
	return f
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}

// TestOpenFGA: the server answers, and learns what the service tells.
func TestOpenFGA(t *testing.T) {
	f := startFGA(t)
	change := append(slices.Clone(related), "  model: shop.fga\n",
		"  model: shop.fga\n  openfga: { address: \""+f.address+"\", store: "+f.store+", token: secret://embedded/prod/fga }\n")
	h := open(t, []string{"shop"}, change...)
	edge := h.as("gateway/edge")
	ann := h.identity(edge, h.session(edge))
	ask := func(id string, atLeast uint64) rampart.Decision {
		var d rampart.Decision
		h.post("shop", agent.PathCheck, agent.CheckRequest{Identity: ann, Action: "shop:read", Resource: orderOf(id, "user:bob"), AtLeast: atLeast}, &d)
		return d
	}
	want := func(name string, d rampart.Decision, effect rampart.Effect, code rampart.Code) {
		t.Helper()
		if d.Effect != effect || d.Code != code {
			t.Errorf("%s: %+v, want %v %s", name, d, effect, code)
		}
	}
	eventually := func(name, id string, effect rampart.Effect) { // a decision has 50 ms, and this machine may be busy
		t.Helper()
		h.Until(name, func() bool {
			d := ask(id, 0)
			return d.Effect == effect && (effect == rampart.Allow || d.Code == rampart.CodeNoPermit)
		})
	}
	want("without the key", ask("o1", 0), rampart.Deny, rampart.CodeSource)
	h.Admin(wire.AdminSecrets, wire.SecretOp{Op: "put", Path: "prod/fga", Value: []byte(fgaKey)}, nil)
	eventually("nobody told anything yet", "o1", rampart.Deny)

	var info agent.ServiceInfo
	res, err := h.of["shop"].sock.Get("http://sidecar" + agent.PathService)
	must(t, err)
	must(t, json.NewDecoder(res.Body).Decode(&info))
	res.Body.Close()
	if !slices.Equal(info.Relations["order"], []string{"viewer"}) {
		t.Errorf("the service may write %v", info.Relations)
	}
	push := func(p agent.TuplesPush) (state agent.TuplesState) {
		t.Helper()
		p.Source = "db1"
		if status := h.post("shop", agent.PathTuples, p, &state); status != 200 {
			t.Fatalf("status %d", status)
		}
		return state
	}
	push(agent.TuplesPush{Reset: true, More: true, Changes: []agent.TupleWrite{shares("o1", "user:ann")}})
	if got := push(agent.TuplesPush{Reset: true, From: 1, To: 7, Changes: []agent.TupleWrite{shares("o2", "team:red#member")}}); got != (agent.TuplesState{Revision: 7, Ready: true}) {
		t.Errorf("after the reset: %+v", got)
	}
	eventually("by name", "o1", rampart.Allow)
	eventually("by the team that the token names", "o2", rampart.Allow)
	want("what is not relayed yet", ask("o1", 8), rampart.Deny, rampart.CodeStale)
	push(agent.TuplesPush{From: 7, To: 8, Changes: []agent.TupleWrite{{Delete: true, Object: "order:o1", Relation: "viewer", Subject: "user:ann"}}})
	eventually("not any more", "o1", rampart.Deny)

	h.pass(agent.TuplesStale + time.Second)
	want("after silence", ask("o2", 0), rampart.Deny, rampart.CodeStale)
	push(agent.TuplesPush{From: 8, To: 8})
	eventually("after a word", "o2", rampart.Allow)
	f.kill()
	want("the server is down", ask("o2", 0), rampart.Deny, rampart.CodeSource)
	if got := h.post("shop", agent.PathTuples, agent.TuplesPush{Source: "db1", From: 8, To: 9, Changes: []agent.TupleWrite{shares("o9", "user:ann")}}, nil); got != 503 {
		t.Errorf("told to a server that is down: %d", got)
	}
}
