//go:build server

package conformance

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	api "github.com/openfga/api/proto/openfga/v1"
	"github.com/openfga/language/pkg/go/transformer"
	"github.com/openfga/openfga/assets"
	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc"

	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/rebac"
	"github.com/rampart-security/rampart/authz/rebac/openfga"
)

// envServer names a server that was built before; without it this module builds
// the one that its go.mod names.
const envServer = "RAMPART_OPENFGA"

// TestServer holds the client against the same assertions, asked of the real
// server.
func TestServer(t *testing.T) {
	conn := startServer(t)
	run(t, "known_server.txt", func(t *testing.T, model []byte, tuples []authz.Tuple) (authz.Graph, error) {
		m, err := rebac.ParseModel("model.fga", model)
		if err != nil {
			return nil, err
		}
		// A server takes no tuple that the model does not allow; one that is left
		// from an earlier model counts for nothing there either.
		tuples = slices.DeleteFunc(slices.Clone(tuples), func(t authz.Tuple) bool { return m.Validate(t) != nil })
		return remote(conn, string(model), tuples)
	})
}

// TestIndexAgreesWithServer asks both the same at random, over every model of
// the suite: whatever either allows, the other does not deny.
func TestIndexAgreesWithServer(t *testing.T) {
	conn := startServer(t)
	rnd := rand.New(rand.NewPCG(1, 2))
	var n tally
	for _, s := range stages(t) {
		tuples := convert(s.Tuples)
		m, err := rebac.ParseModel("model.fga", []byte(s.Model))
		if err != nil || len(tuples) == 0 || slices.ContainsFunc(tuples, func(t authz.Tuple) bool { return m.Validate(t) != nil }) {
			continue
		}
		x := rebac.NewIndex(m, rebac.Options{})
		if err := x.Reset(1, slices.Values(tuples)); err != nil {
			t.Fatal(err)
		}
		g, err := remote(conn, s.Model, tuples)
		if err != nil {
			t.Fatal(err)
		}
		for range 40 {
			n.compare(t, x, g, randomQuestion(rnd, m, tuples))
		}
	}
	fmt.Printf("asked of both: %d, allowed by both %d, an error of either %d\n", n.asked, n.allowed, n.errors)
	if n.allowed < n.asked/20 || n.errors > n.asked/10 {
		t.Error("the questions are too dull")
	}
}

type tally struct{ asked, allowed, errors int }

func (n *tally) compare(t *testing.T, x, g authz.Graph, q authz.RelationQuery) {
	t.Helper()
	ours, err := x.Related(t.Context(), q, false)
	theirs, err2 := g.Related(t.Context(), q, false)
	n.asked++
	switch {
	case err == nil && err2 == nil && ours.Holds != theirs.Holds, err != nil && theirs.Holds:
		t.Errorf("%+v: ours %v %v, theirs %v %v", q, ours.Holds, err, theirs.Holds, err2)
	case err != nil || err2 != nil:
		n.errors++
	case ours.Holds:
		n.allowed++
	}
}

// stages are those of the suite whose tuples we can write.
func stages(t *testing.T) []stage {
	t.Helper()
	var out []stage
	for _, name := range []string{"tests/consolidated_1_1_tests.yaml", "tests/abac_tests.yaml"} {
		text, err := assets.EmbedTests.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var s suite
		if err := yaml.Unmarshal(text, &s); err != nil {
			t.Fatal(err)
		}
		for _, test := range s.Tests {
			if !strings.HasPrefix(test.Name, "inline_expression") {
				out = append(out, test.Stages...)
			}
		}
	}
	return out
}

// randomQuestion is about names that the tuples know, and strangers.
func randomQuestion(r *rand.Rand, m *rebac.Model, tuples []authz.Tuple) authz.RelationQuery {
	types := slices.DeleteFunc(slices.Clone(m.Types()), func(typ string) bool { return len(m.Relations(typ)) == 0 })
	subjects, objects := []string{"user:stranger"}, map[string][]string{}
	for _, t := range tuples {
		subjects = append(subjects, t.Subject)
		for _, name := range []string{t.Object, t.Subject} {
			typ, id, _ := strings.Cut(name, ":")
			if !strings.ContainsAny(id, "#*") {
				objects[typ] = append(objects[typ], id)
			}
		}
	}
	typ := types[r.IntN(len(types))]
	ids := append(objects[typ], "stranger")
	relations := m.Relations(typ)
	return authz.RelationQuery{Subject: subjects[r.IntN(len(subjects))], Relation: relations[r.IntN(len(relations))], Type: typ, ID: ids[r.IntN(len(ids))],
		Context: map[string]any{"x": float64(r.IntN(200)), "y": float64(r.IntN(200))}}
}

// remote makes a store of its own for one model and its tuples.
func remote(conn *grpc.ClientConn, model string, tuples []authz.Tuple) (authz.Graph, error) {
	ctx := context.Background()
	client := api.NewOpenFGAServiceClient(conn)
	m, err := transformer.TransformDSLToProto(model)
	if err != nil {
		return nil, err
	}
	store, err := client.CreateStore(ctx, &api.CreateStoreRequest{Name: "conformance"})
	if err != nil {
		return nil, err
	}
	_, err = client.WriteAuthorizationModel(ctx, &api.WriteAuthorizationModelRequest{StoreId: store.GetId(), SchemaVersion: m.GetSchemaVersion(),
		TypeDefinitions: m.GetTypeDefinitions(), Conditions: m.GetConditions()})
	if err != nil {
		return nil, err
	}
	g := openfga.New(conn, store.GetId(), "", 30*time.Second)
	return g, g.Reset(ctx, 1, slices.Values(tuples))
}

func startServer(t *testing.T) *grpc.ClientConn {
	t.Helper()
	grpcAddr, httpAddr := freeAddr(t), freeAddr(t)
	cmd := exec.Command(serverBinary(t), "run", "--datastore-engine", "memory", "--playground-enabled=false", "--metrics-enabled=false",
		"--log-level", "error", "--http-addr", httpAddr, "--grpc-addr", grpcAddr)
	cmd.Stdout, cmd.Stderr = io.Discard, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	conn, err := openfga.Dial(openfga.Remote{Address: grpcAddr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := api.NewOpenFGAServiceClient(conn).ListStores(ctx, &api.ListStoresRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Fatalf("the server does not answer: %v", err)
	}
	return conn
}

// serverBinary asks the go command for the tool that go.mod names: it builds
// it, which takes minutes the first time, and keeps it in its cache.
func serverBinary(t *testing.T) string {
	t.Helper()
	if path := os.Getenv(envServer); path != "" {
		return path
	}
	out, err := exec.Command("go", "tool", "-n", "openfga").Output()
	if err != nil {
		t.Fatalf("the server cannot be built: %v", err)
	}
	return strings.TrimSpace(string(out))
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
