package guide

import (
	"fmt"
	"testing"
)

// typedKinds write the n-th value of a type that schemas have.
var typedKinds = map[string]func(n int) string{
	"integer": func(n int) string { return fmt.Sprint(n*n*7919 - 500) },
	"number":  func(n int) string { return fmt.Sprintf("%d.%02de%d", n, n%100, n%9) },
	"boolean": func(n int) string { return fmt.Sprint(n%2 == 0) },
	"enum":    func(n int) string { return `"` + [...]string{"EUR", "open", "in_review", "express"}[n%4] + `"` },
	"uuid": func(n int) string {
		return fmt.Sprintf(`"%08x-d9cb-469f-a165-70867728%04x"`, n*2654435761%(1<<32), n*7919%(1<<16))
	},
	"date":      func(n int) string { return fmt.Sprintf(`"20%02d-%02d-%02d"`, n%100, 1+n%12, 1+n%28) },
	"date-time": func(n int) string { return fmt.Sprintf(`"20%02d-%02d-%02dT%02d:30:00Z"`, n%100, 1+n%12, 1+n%28, n%24) },
	"email":     func(n int) string { return fmt.Sprintf(`"anna.miller%d@example.com"`, n) },
	"iban":      func(n int) string { return fmt.Sprintf(`"DE%020d"`, n*982451653) },
}

// TestLevels: at every level all rules are understood, and requests of typed
// values that the engine would find nothing in are not sent to it. That it finds
// something is the rules' own strictness: at level 4, two hyphens are too many.
func TestLevels(t *testing.T) {
	found := map[int]map[string]bool{4: {"uuid": true, "date": true, "date-time": true, "email": true}}
	for paranoia := 1; paranoia <= 4; paranoia++ {
		e, g := guides[paranoia]()
		for id, why := range g.Report().Unknown {
			t.Errorf("level %d: rule %d is unknown: %s", paranoia, id, why)
		}
		for kind, value := range typedKinds {
			clean, first := 0, ""
			for n := range 100 {
				r := typed()
				r.Body = fmt.Appendf(nil, `{"a":%s,"b":{"c":[%s,%s]}}`, value(n), value(n+100), value(n+200))
				if g.Clean(r) {
					clean++
				} else if first == "" {
					v, err := e.Inspect(t.Context(), r)
					first = fmt.Sprint(summary(v), " ", err)
				}
			}
			if (clean == 100) == found[paranoia][kind] {
				t.Errorf("level %d: %d of 100 requests of %ss are clean; the engine found%s", paranoia, clean, kind, first)
			}
		}
	}
}
