package cedar

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cedar-policy/cedar-go"

	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/filter"
)

// manyPolicies are those of payments among n that concern other things.
func manyPolicies(n int) string {
	var src strings.Builder
	src.WriteString(payments)
	for i := range n - 3 {
		fmt.Fprintf(&src, "@id(\"x%d\") permit (principal is User, action == Action::\"t%d:read\", resource is T%d) when { resource.owner == principal.id };\n", i, i%500, i%500)
	}
	return src.String()
}

func loadMany(b *testing.B, n int) *Engine {
	b.Helper()
	files := map[string][]byte{}
	text := manyPolicies(n)
	for i := 0; len(text) > 0; i++ {
		cut := min(len(text), authz.MaxSourceBytes/2)
		if end := strings.Index(text[cut:], "\n"); end >= 0 {
			cut += end + 1
		}
		files[fmt.Sprintf("p%d.cedar", i)] = []byte(text[:cut])
		text = text[cut:]
	}
	e, err := New(files, nil)
	if err != nil {
		b.Fatal(err)
	}
	return e
}

// BenchmarkDecision compares a decision among many policies with one among
// ten, and with cedar-go itself, which looks at each policy: "x" is how many
// times the cost among ten.
func BenchmarkDecision(b *testing.B) {
	r := payment(map[string]any{"owner": "user:alice", "team_id": "red"})
	r.Context["caller"] = "gateway"
	cost := map[string]time.Duration{}
	for _, n := range []int{10, 1000, 10_000} {
		e := loadMany(b, n)
		all := cedar.NewPolicySet()
		for id, p := range e.byID {
			all.Add(id, fromTree(p.tree))
		}
		for who, decide := range map[string]func() bool{
			"rampart": func() bool { return len(e.Evaluate(b.Context(), r).Permits) == 1 },
			"bare": func() bool {
				q, err := e.question(r)
				if err != nil {
					return false
				}
				d, _ := cedar.Authorize(all, q, q.request)
				return d == cedar.Allow
			},
		} {
			b.Run(fmt.Sprintf("%s/policies=%d", who, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if !decide() {
						b.Fatal("denied")
					}
				}
				each := b.Elapsed() / time.Duration(b.N)
				if n == 10 {
					cost[who] = each
				}
				if base := cost[who]; base > 0 {
					b.ReportMetric(float64(each)/float64(base), "x")
				}
			})
		}
	}
}

func BenchmarkResidual(b *testing.B) {
	e, err := New(map[string][]byte{"p.cedar": []byte(onOrders + `
when { resource.owner == principal.id || resource has tenant && principal.organizations.contains(resource.tenant) }
unless { resource has frozen && resource.frozen };`)}, orders())
	if err != nil {
		b.Fatal(err)
	}
	r := payment(nil)
	r.Action, r.Resource.Type = "orders:read", "order"
	b.ReportAllocs()
	for b.Loop() {
		left, err := e.Residual(b.Context(), r)
		if err != nil || len(left.Permits) != 1 || filter.Combine(left).IsNone() {
			b.Fatal(left, err)
		}
	}
}

func BenchmarkRelations(b *testing.B) {
	e := load(b, payments+`@id("r") permit (principal, action == Action::"payments:read", resource is Payment) when { context.relation.viewer };`)
	b.ReportAllocs()
	for b.Loop() {
		if len(e.Relations("payments:read", "payment")) != 1 {
			b.Fatal("no relation")
		}
	}
}

// BenchmarkLoad is the price of a start: parsing, checking against the schema,
// and finding each condition's place.
func BenchmarkLoad(b *testing.B) {
	var src strings.Builder
	for i := range 1000 {
		src.WriteString(strings.Replace(onOrders, `"x"`, fmt.Sprintf(`"x%d"`, i), 1) + " when { resource has team && resource.team == principal.id };\n")
	}
	for b.Loop() {
		if _, err := New(map[string][]byte{"p.cedar": []byte(src.String())}, orders()); err != nil {
			b.Fatal(err)
		}
	}
}
