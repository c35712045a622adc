package rego

import (
	"fmt"
	"strings"
	"testing"

	"github.com/rampart-security/rampart/authz"
)

// manyRules returns the seed with rules that begin with a condition on the
// action, which OPA's rule index passes over, in one package or one for each.
func manyRules(n int) string {
	var b strings.Builder
	b.WriteString(seed)
	for i := range n {
		fmt.Fprintf(&b, "allow {\n\tinput.action_full == \"t%d:read\"\n\tinput.user.role == \"r%d\"\n}\n", i, i)
	}
	return b.String()
}

func benchmark(b *testing.B, e *Engine, r authz.Request) {
	b.Helper()
	b.ReportAllocs()
	for b.Loop() {
		if v := e.Evaluate(b.Context(), r); len(v.Permits) != 1 {
			b.Fatalf("denied: %+v", v)
		}
	}
}

// BenchmarkEvaluate: the cost of a decision does not grow with rules that are
// indexed.
func BenchmarkEvaluate(b *testing.B) {
	r := order(map[string]any{"owner": "user:alice", "team_id": "blue"})
	for _, n := range []int{10, 1_000, 10_000} {
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) { benchmark(b, load(b, manyRules(n)), r) })
	}
	b.Run("full", func(b *testing.B) {
		src := seed + "deny[{\"code\": \"x\"}] { input.resource.frozen }\nmask[\"card\"] { input.user.role != \"admin\" }\n" +
			"obligations[{\"type\": \"step-up\", \"acr\": \"aal2\"}] { input.action == \"read\" }\n"
		full := order(map[string]any{"owner": "user:alice", "team_id": "blue", "frozen": false})
		full.Relations = map[string]bool{"viewer": true}
		benchmark(b, load(b, src), full)
	})
}

func BenchmarkInput(b *testing.B) {
	r := order(map[string]any{"owner": "user:alice", "team_id": "blue"})
	b.ReportAllocs()
	for b.Loop() {
		input(r)
	}
}

func BenchmarkResidual(b *testing.B) {
	e, err := New(map[string][]byte{"orders.rego": []byte(seed)}, shop())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.Residual(b.Context(), filterRequest(alice())); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkNew(b *testing.B) {
	files := map[string][]byte{"orders.rego": []byte(manyRules(1_000))}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := New(files, nil); err != nil {
			b.Fatal(err)
		}
	}
}
