package guide

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/rampart-security/rampart/network/waf"
	"github.com/rampart-security/rampart/network/waf/waftest"
)

// TestGuidedOnCRS sends the rule set's own tests through engine and guide:
// what the guide calls clean, the engine must find nothing in. One test in
// eight at level 1, or all at every level with RAMPART_LONG=1.
func TestGuidedOnCRS(t *testing.T) {
	for paranoia := 1; paranoia <= 4; paranoia++ {
		if paranoia == 1 || os.Getenv("RAMPART_LONG") != "" {
			t.Run(fmt.Sprint("level ", paranoia), func(t *testing.T) { guidedOnCRS(t, paranoia) })
		}
	}
}

func guidedOnCRS(t *testing.T, paranoia int) {
	e, g := guides[paranoia]()
	tests, err := waftest.Tests()
	if err != nil {
		t.Fatal(err)
	}
	clean, full, without, differ := 0, 0, 0, 0
	run := waftest.NewRunner(func(r *waf.Request) (waf.Verdict, error) {
		v, err := e.Inspect(context.Background(), r)
		if err != nil {
			return v, err
		}
		full++
		if len(v.Findings) == 0 {
			without++
		}
		if !g.Clean(r) {
			return v, nil
		}
		clean++
		if len(v.Findings) > 0 || v.Refuse {
			differ++
			t.Errorf("clean for the guide, but the engine found %s", summary(v))
		}
		return v, nil
	})
	defer run.Close()
	for i, test := range tests {
		if os.Getenv("RAMPART_LONG") == "" && i%8 != 0 {
			continue
		}
		before := differ
		if err := run.Run(test); err != nil && errors.Is(err, waftest.ErrNotServed) {
			continue
		}
		if differ > before {
			t.Logf("in test %s", test.ID)
		}
	}
	t.Logf("%d requests, the engine found nothing in %d, %d of them clean for the guide", full, without, clean)
	if clean == 0 && paranoia < 3 { // the tests' User-Agent is too much for the others
		t.Error("the guide spares nothing")
	}
}

func summary(v waf.Verdict) string {
	s := ""
	for _, f := range v.Findings {
		s += fmt.Sprintf(" %d %s", f.Rule, f.Variable)
	}
	return s
}
