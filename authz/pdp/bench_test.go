package pdp

import (
	"context"
	"fmt"
	"testing"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
)

func BenchmarkDecide(b *testing.B) {
	d := example(b)
	alice := people()["alice"]
	for name, r := range map[string]authz.Request{
		"gateway":       {Layer: rampart.LayerGateway, Principal: alice, Action: "orders:read"},
		"service":       {Layer: rampart.LayerService, Principal: alice, Action: "orders:read", Resource: object("orders:", "alice/red")},
		"domain":        {Layer: rampart.LayerDomain, Principal: alice, Action: "orders:read", Resource: object("orders:", "alice/red")},
		"domain-denied": {Layer: rampart.LayerDomain, Principal: alice, Action: "orders:read", Resource: object("orders:", "bob/blue")},
		"domain-cedar":  {Layer: rampart.LayerDomain, Principal: alice, Action: "payments:read", Resource: object("payments:", "alice/red")},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if d.Decide(b.Context(), r).Code == rampart.CodeError {
					b.Fatal("no answer")
				}
			}
		})
	}
}

// TestRolesAllocateNothing: what roles and the flow's rules allow at the first
// two layers costs no memory.
func TestRolesAllocateNothing(t *testing.T) {
	d, alice, rule := example(t), people()["alice"], Route{Allow: []string{"any"}, Flow: "list"}
	for name, decide := range map[string]func() rampart.Decision{
		"permission": func() rampart.Decision { return d.DecideRoute(t.Context(), alice, Route{Permission: "orders:read"}) },
		"rule":       func() rampart.Decision { return d.DecideRoute(t.Context(), alice, rule) },
		"organization": func() rampart.Decision {
			return d.DecideService(t.Context(), alice, "", Route{Permission: "orders:read"})
		},
		"gateway": func() rampart.Decision {
			return d.Decide(t.Context(), authz.Request{Layer: rampart.LayerGateway, Principal: alice, Action: "orders:read"})
		},
	} {
		if n := testing.AllocsPerRun(100, func() {
			if got := decide(); !got.Allowed() {
				t.Fatal(name, got.Reason)
			}
		}); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}

// BenchmarkFacts is the price of the schema, the graph and the record.
func BenchmarkFacts(b *testing.B) {
	recorded := func(o *Options) { o.Observe = func(context.Context, Question, rampart.Decision) error { return nil } }
	cedarOnly := func(o *Options) { delete(o.Policies, "orders.rego") }
	r := about(person("alice", "approver", ""), "orders:approve", "o1")
	for name, d := range map[string]*PDP{
		"cedar-relation":          build(b, cedarOnly),
		"cedar-relation-recorded": build(b, cedarOnly, recorded),
		"cedar-and-rego-relation": build(b),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !d.Decide(b.Context(), r).Allowed() {
					b.Fatal("denied")
				}
			}
		})
	}
}

// BenchmarkFilter makes a list for somebody with roles in several organizations.
func BenchmarkFilter(b *testing.B) {
	d := build(b, func(o *Options) { delete(o.Policies, "orders.rego") })
	for name, roles := range map[string]string{"one-part": "clerk", "by-organization": "clerk@acme help@globex"} {
		r := authz.Request{Principal: person("alice", roles, ""), Action: "orders:note", Resource: rampart.Resource{Type: "order"}}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, got := d.Filter(b.Context(), r); !got.Allowed() {
					b.Fatal(got.Reason)
				}
			}
		})
	}
}

// BenchmarkFlat demands nothing; it shows that 10,000 policies of other types
// cost what none cost.
func BenchmarkFlat(b *testing.B) {
	for _, extra := range []int{0, 10_000} {
		policies := map[string][]byte{"own.cedar": []byte(`@id("own") permit (principal, action == Action::"orders:read", resource is Order) when { resource.owner == principal.id };`)}
		for i := range extra {
			name := fmt.Sprintf("x%d.cedar", i%10) // one file takes no more than a megabyte
			policies[name] = fmt.Appendf(policies[name], `@id("x%d") permit (principal, action == Action::"things:v%d", resource is Thing) when { principal.id == "nobody" };`+"\n", i, i)
		}
		d, err := New(Options{Policies: policies, Timeout: patient})
		if err != nil {
			b.Fatal(err)
		}
		r := authz.Request{
			Layer: rampart.LayerDomain, Principal: person("alice", "", ""), Action: "orders:read",
			Resource: rampart.Resource{Type: "order", ID: "o1", Attrs: map[string]any{"owner": "user:alice"}},
		}
		b.Run(fmt.Sprintf("extra=%d", extra), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !d.Decide(b.Context(), r).Allowed() {
					b.Fatal("denied")
				}
			}
		})
	}
}
