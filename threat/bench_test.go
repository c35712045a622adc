package threat

import (
	"fmt"
	"strings"
	"testing"

	"github.com/rampart-security/rampart/spec"
)

// large returns a system of so many services, a tenth of them with a
// database, and so many flows.
func large(t testing.TB, services, flows int) *spec.System {
	t.Helper()
	var b strings.Builder
	b.WriteString("rampart: v1\nsystem: { name: large }\ndata:\n  money: { class: confidential, integrity: critical, pii: [email], encrypt: envelope, row_mac: true }\n  note: { class: internal }\nservices:\n  gateway: { role: gateway }\n")
	for i := range services {
		fmt.Fprintf(&b, "  s%d: { upstream: \"http://127.0.0.1:%d\", methods: [GET, POST] }\n", i, 10000+i)
	}
	b.WriteString("stores:\n")
	for i := range services / 10 {
		fmt.Fprintf(&b, "  db%d: { kind: sqlite, holds: [money], at_rest: encrypted }\n", i)
	}
	b.WriteString("flows:\n  - { from: users, to: gateway, carries: [money, note] }\n")
	n := 1
	for i := 0; i < services && n < flows; i++ {
		fmt.Fprintf(&b, "  - { from: gateway, to: s%d, carries: [money] }\n", i)
		n++
	}
	for i := 0; i < services/10 && n < flows; i++ {
		fmt.Fprintf(&b, "  - { from: s%d, to: db%d, carries: [money] }\n", i, i)
		n++
	}
	for step := 1; n < flows; step++ {
		for i := 0; i < services && n < flows; i++ {
			fmt.Fprintf(&b, "  - { from: s%d, to: s%d, carries: [note] }\n", i, (i+step)%services)
			n++
		}
	}
	return parse(t, b.String(), nil)
}

func BenchmarkAnalyze(b *testing.B) {
	for _, size := range []struct{ services, flows int }{{10, 30}, {100, 1000}} {
		b.Run(fmt.Sprintf("services=%d/flows=%d", size.services, size.flows), func(b *testing.B) {
			sys := large(b, size.services, size.flows)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Analyze(sys, Evidence{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
