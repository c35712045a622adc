// Decisions beside peers, in one run: our decision point, each library bare in
// the same process, and the servers that one would run instead, on loopback.
//
// Times over loopback hold a network hop that a sidecar's decision has not:
// read them as what an answer costs whoever asks, never as engine against
// engine. `make bench-authz` builds the servers and names them in the
// environment; without them their rows are left out, and say so.
package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/cedar-policy/cedar-go"
	"github.com/open-policy-agent/opa/v1/rego"
	api "github.com/openfga/api/proto/openfga/v1"
	"github.com/openfga/language/pkg/go/transformer"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/pdp"
	"github.com/rampart-security/rampart/authz/rebac"
	"github.com/rampart-security/rampart/authz/rebac/openfga"
)

// policies is how many are loaded beside the ones that decide.
const policies = 10_000

func alice() rampart.Principal {
	return rampart.Principal{Kind: rampart.KindHuman, Subject: "user:alice", Roles: []string{"customer"}, Organizations: []string{"acme"}, Team: "red"}
}

func question() authz.Request {
	return authz.Request{Layer: rampart.LayerDomain, Principal: alice(), Action: "orders:read",
		Resource: rampart.Resource{Type: "order", ID: "17", Tenant: "acme", Attrs: map[string]any{"owner": "user:alice", "team_id": "red"}}}
}

func cedarText() string {
	var b strings.Builder
	b.WriteString(`@id("owner") permit (principal is User, action == Action::"orders:read", resource is Order) when { resource.owner == principal.id };
@id("team") permit (principal is User, action == Action::"orders:read", resource is Order) when { resource has team_id && principal.managedTeams.contains(resource.team_id) };
@id("frozen") forbid (principal, action, resource is Order) when { resource has frozen && resource.frozen };
`)
	for i := range policies {
		fmt.Fprintf(&b, "@id(\"p%d\") permit (principal is User, action == Action::\"things%d:read\", resource is Thing%d) when { resource.owner == principal.id };\n", i, i, i)
	}
	return b.String()
}

func regoText() string {
	var b strings.Builder
	b.WriteString(`package orders
allow if {
	input.action_full == "orders:read"
	input.resource.type == "order"
	input.resource.owner == input.user.id
}
`)
	for i := range policies {
		fmt.Fprintf(&b, "allow if {\n\tinput.action_full == \"things%d:read\"\n\tinput.resource.owner == input.user.id\n}\n", i)
	}
	return b.String()
}

// parts cuts a text into files below the size that a policy file may have.
func parts(name, ext, header, text, sep string) map[string][]byte {
	const most = 900 << 10
	out := map[string][]byte{}
	b := bytes.NewBufferString("")
	for piece := range strings.SplitAfterSeq(text, sep) {
		if b.Len()+len(piece) > most {
			out[fmt.Sprintf("%s%d%s", name, len(out), ext)] = []byte(b.String())
			b = bytes.NewBufferString(header)
		}
		b.WriteString(piece)
	}
	out[fmt.Sprintf("%s%d%s", name, len(out), ext)] = []byte(b.String())
	return out
}

func point(b *testing.B, o pdp.Options) *pdp.PDP {
	b.Helper()
	o.Timeout = 10 * time.Second
	d, err := pdp.New(o)
	if err != nil {
		b.Fatal(err)
	}
	return d
}

func BenchmarkCedar(b *testing.B) {
	text := cedarText()
	b.Run("rampart-decision-point", func(b *testing.B) {
		decide(b, point(b, pdp.Options{Policies: parts("p", ".cedar", "", text, ";\n")}))
	})
	b.Run("cedar-go-bare", func(b *testing.B) {
		set, err := cedar.NewPolicySetFromBytes("p.cedar", []byte(text))
		if err != nil {
			b.Fatal(err)
		}
		user, order := cedar.NewEntityUID("User", "user:alice"), cedar.NewEntityUID("Order", "17")
		entities := cedar.EntityMap{
			user:  {UID: user, Attributes: cedar.NewRecord(cedar.RecordMap{"id": cedar.String("user:alice"), "managedTeams": cedar.NewSet()})},
			order: {UID: order, Attributes: cedar.NewRecord(cedar.RecordMap{"owner": cedar.String("user:alice"), "team_id": cedar.String("red")})},
		}
		q := cedar.Request{Principal: user, Action: cedar.NewEntityUID("Action", "orders:read"), Resource: order, Context: cedar.NewRecord(nil)}
		b.ReportAllocs()
		for b.Loop() {
			if d, _ := cedar.Authorize(set, entities, q); d != cedar.Allow {
				b.Fatal("denied")
			}
		}
	})
}

func decide(b *testing.B, d *pdp.PDP) {
	b.Helper()
	q := question()
	b.ReportAllocs()
	for b.Loop() {
		if got := d.Decide(b.Context(), q); !got.Allowed() {
			b.Fatal(got.Reason)
		}
	}
}

// document is the question as OPA's users write it.
func document() map[string]any {
	return map[string]any{
		"action_full": "orders:read", "action": "read",
		"user":     map[string]any{"id": "user:alice", "role": "customer", "roles": []any{"customer"}},
		"resource": map[string]any{"type": "order", "id": "17", "owner": "user:alice", "team_id": "red"},
	}
}

func BenchmarkRego(b *testing.B) {
	text := regoText()
	b.Run("rampart-decision-point", func(b *testing.B) {
		decide(b, point(b, pdp.Options{Policies: parts("p", ".rego", "package orders\n", text, "}\n")}))
	})
	b.Run("opa-library-bare", func(b *testing.B) {
		prepared, err := rego.New(rego.Query("data.orders.allow"), rego.Module("p.rego", text)).PrepareForEval(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		doc := document()
		b.ReportAllocs()
		for b.Loop() {
			if rs, err := prepared.Eval(b.Context(), rego.EvalInput(doc)); err != nil || !rs.Allowed() {
				b.Fatal("denied", err)
			}
		}
	})
	b.Run("opa-server-loopback", func(b *testing.B) {
		addr := free(b)
		serve(b, "RAMPART_BENCH_OPA", addr, "run", "--server", "--disable-telemetry", "--log-level", "error", "--addr", addr)
		put(b, "http://"+addr+"/v1/policies/p", text)
		body, err := json.Marshal(map[string]any{"input": document()})
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			res, err := http.Post("http://"+addr+"/v1/data/orders/allow", "application/json", bytes.NewReader(body))
			if err != nil {
				b.Fatal(err)
			}
			answer, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil || !bytes.Contains(answer, []byte("true")) {
				b.Fatalf("%s %v", answer, err)
			}
		}
	})
}

// serve starts a peer that was built before, waits until it listens on addr, and
// ends it with the benchmark.
func serve(b *testing.B, env, addr string, args ...string) {
	b.Helper()
	binary := os.Getenv(env)
	if binary == "" {
		b.Skipf("%s names no server: run make bench-authz", env)
	}
	cmd := exec.CommandContext(context.Background(), binary, args...)
	cmd.Stdout, cmd.Stderr = io.Discard, os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	await(b, addr)
}

func free(b *testing.B) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func await(b *testing.B, addr string) {
	b.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return
		}
	}
	b.Fatalf("%s does not listen", addr)
}

func put(b *testing.B, url, text string) {
	b.Helper()
	r, err := http.NewRequestWithContext(b.Context(), "PUT", url, strings.NewReader(text))
	if err != nil {
		b.Fatal(err)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		b.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != 200 {
		answer, _ := io.ReadAll(res.Body)
		b.Fatalf("%s: %s", res.Status, answer)
	}
}

// model: five levels of teams stand between a person and an order.
const model = `model
  schema 1.1
type user
type team
  relations
    define member: [user, team#member]
type order
  relations
    define viewer: [user, team#member]
`

// chain is n orders, each seen by one chain of five teams with alice at its
// end; a thousand of them are hers, the others end at somebody else.
func chain(n int) func(yield func(authz.Tuple) bool) {
	return func(yield func(authz.Tuple) bool) {
		for i := range n / 6 {
			who := "user:alice"
			if i >= 1000 {
				who = fmt.Sprintf("user:u%d", i)
			}
			ok := yield(authz.Tuple{Object: fmt.Sprintf("order:%d", i), Relation: "viewer", Subject: fmt.Sprintf("team:%d-0#member", i)})
			for level := range 4 {
				ok = ok && yield(authz.Tuple{Object: fmt.Sprintf("team:%d-%d", i, level), Relation: "member", Subject: fmt.Sprintf("team:%d-%d#member", i, level+1)})
			}
			if ok = ok && yield(authz.Tuple{Object: fmt.Sprintf("team:%d-4", i), Relation: "member", Subject: who}); !ok {
				return
			}
		}
	}
}

// own and other are orders that alice may see and may not.
const own, other = "5", "1100"

func BenchmarkRelations(b *testing.B) {
	b.Run("rampart-index-1000000-tuples", func(b *testing.B) {
		m, err := rebac.ParseModel("model.fga", []byte(model))
		if err != nil {
			b.Fatal(err)
		}
		x := rebac.NewIndex(m, rebac.Options{})
		if err := x.Reset(1, chain(1_000_000)); err != nil {
			b.Fatal(err)
		}
		questions(b, x, 1000)
	})
	b.Run("openfga-server-loopback-12000-tuples", func(b *testing.B) { questions(b, server(b, 12_000), 0) })
}

// questions asks the same of both. list is how many objects a list must hold;
// 0 leaves the list out.
func questions(b *testing.B, g authz.Graph, list int) {
	ask := func(id string, want bool) func(b *testing.B) {
		return func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r, err := g.Related(b.Context(), authz.RelationQuery{Subject: "user:alice", Relation: "viewer", Type: "order", ID: id}, false)
				if err != nil || r.Holds != want {
					b.Fatal(r, err)
				}
			}
		}
	}
	b.Run("allow-5-deep", ask(own, true))
	b.Run("deny-5-deep", ask(other, false))
	if list == 0 {
		return
	}
	b.Run(fmt.Sprintf("list-%d", list), func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			ids, _, err := g.Objects(b.Context(), authz.RelationQuery{Subject: "user:alice", Relation: "viewer", Type: "order"})
			if err != nil || len(ids) != list {
				b.Fatal(len(ids), err)
			}
		}
	})
}

// server is an OpenFGA server with its memory store, loaded over its own API.
// It holds few tuples: its memory store scans a list, so that a million cannot
// be loaded in reasonable time.
func server(b *testing.B, tuples int) authz.Graph {
	b.Helper()
	addr := free(b)
	serve(b, "RAMPART_BENCH_OPENFGA", addr, "run", "--datastore-engine", "memory", "--playground-enabled=false", "--metrics-enabled=false",
		"--log-level", "error", "--http-addr", free(b), "--grpc-addr", addr)
	conn, err := openfga.Dial(openfga.Remote{Address: addr})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	ctx := context.Background()
	client := api.NewOpenFGAServiceClient(conn)
	store, err := client.CreateStore(ctx, &api.CreateStoreRequest{Name: "bench"})
	if err != nil {
		b.Fatal(err)
	}
	proto, err := transformer.TransformDSLToProto(model)
	if err != nil {
		b.Fatal(err)
	}
	_, err = client.WriteAuthorizationModel(ctx, &api.WriteAuthorizationModelRequest{StoreId: store.Id, SchemaVersion: proto.SchemaVersion, TypeDefinitions: proto.TypeDefinitions})
	if err != nil {
		b.Fatal(err)
	}
	g := openfga.New(conn, store.Id, "", 30*time.Second)
	var changes []rebac.Change
	for t := range chain(tuples) {
		changes = append(changes, rebac.Change{Tuple: t})
	}
	if err := g.Apply(ctx, 0, 1, changes); err != nil {
		b.Fatal(errors.Join(err, errors.New("loading")))
	}
	return g
}
