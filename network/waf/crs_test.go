package waf_test

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/rampart-security/rampart/network/waf"
	"github.com/rampart-security/rampart/network/waf/waftest"
)

// notOurs are the tests of the rule set that do not hold here, and why. Those of
// RESPONSE files are beside them: no rule about answers is loaded.
var notOurs = map[string]string{
	"920180-4":  "HTTP/2 in a request line of HTTP/1: net/http refuses it before any rule",
	"920290-4":  "HTTP/1.0 with an empty Host header, which net/http does not tell from none",
	"920430-4":  "HTTP/2 in a request line of HTTP/1: net/http refuses it before any rule",
	"920430-8":  "HTTP/4.0: net/http refuses it before any rule",
	"920620-1":  "is content with a server that joins two Content-Type headers; here they are two, and the rule finds them",
	"932207-7":  "asks for the matched value in the log, and no value is kept",
	"932300-10": "asks for the matched value in the log, and no value is kept",
	"933120-2":  "asks for the matched value in the log, and no value is kept",
}

// corpus is every test of the rule set with RAMPART_LONG=1, else each tenth.
func corpus(t *testing.T) []waftest.Test {
	t.Helper()
	list, err := waftest.Tests()
	if err != nil {
		t.Fatal(err)
	}
	var out []waftest.Test
	for i, tt := range list {
		if !strings.HasPrefix(tt.File, "RESPONSE-") && (os.Getenv("RAMPART_LONG") != "" || i%10 == 0) {
			out = append(out, tt)
		}
	}
	t.Logf("%d of %d tests", len(out), len(list))
	return out
}

// run returns what each test that is not content has to say, by its id.
func run(t *testing.T, list []waftest.Test, inspect waftest.Inspect) map[string]error {
	t.Helper()
	failed, next := map[string]error{}, make(chan waftest.Test)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			r := waftest.NewRunner(inspect)
			defer r.Close()
			for tt := range next {
				if err := r.Run(tt); err != nil {
					mu.Lock()
					failed[tt.ID] = err
					mu.Unlock()
				}
			}
		})
	}
	for _, tt := range list {
		next <- tt
	}
	close(next)
	wg.Wait()
	return failed
}

// standalone is the engine as the tests are written for: all rules, nothing in
// front of them.
func standalone(t *testing.T) *waf.Engine {
	t.Helper()
	e, err := waf.New(waf.Options{Paranoia: 4, Standalone: true, Setup: waftest.Setup()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

// The engine finds what the Core Rule Set's own tests say. Beside each verdict,
// our score must be that of the rule set: exclusions are judged by ours.
func TestCoreRuleSet(t *testing.T) {
	e := standalone(t)
	failed := run(t, corpus(t), func(r *waf.Request) (waf.Verdict, error) {
		v, err := e.Inspect(t.Context(), r)
		if err != nil {
			return v, err
		}
		if want, err := waf.CoreScore(e, r); err != nil || want != v.Score {
			return v, fmt.Errorf("score %d, the rule set's own sum is %d (%v)", v.Score, want, err)
		}
		return v, nil
	})
	for id, err := range failed {
		if notOurs[id] == "" {
			t.Error(err)
		}
	}
	for id := range notOurs {
		if failed[id] == nil && os.Getenv("RAMPART_LONG") != "" {
			t.Errorf("%s holds: take it off the list", id)
		}
	}
}

// What asks nobody finds nothing: a runner that is content with that proves
// nothing.
func TestCoreRuleSetWithoutEngine(t *testing.T) {
	list := corpus(t)
	failed := run(t, list, nil)
	for _, tt := range list {
		for _, s := range tt.Stages {
			if len(s.Output.Log.Expect) > 0 && !s.Output.Error && failed[tt.ID] == nil {
				t.Errorf("%s holds without an engine", tt.ID)
			}
		}
	}
}
