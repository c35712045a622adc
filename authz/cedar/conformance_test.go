package cedar

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"hash/fnv"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/eval"
	"github.com/cedar-policy/cedar-go/x/exp/schema"
	exptypes "github.com/cedar-policy/cedar-go/x/exp/types"

	"github.com/rampart-security/rampart"
)

// world of one file of the Cedar corpus: what holds, and what is asked.
type corpusCase struct {
	Schema, Policies, Entities string
	Requests                   []struct {
		Principal, Action, Resource cedar.EntityUID
		Context                     cedar.Record
		Decision                    cedar.Decision
		Reason, Errors              []cedar.PolicyID
	}
}

// corpus is the archive inside the Cedar module, by file name.
func corpus(t testing.TB) map[string][]byte {
	t.Helper()
	if testing.Short() {
		t.Skip("the Cedar corpus takes seconds")
	}
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/cedar-policy/cedar-go").Output()
	if err != nil {
		t.Fatal("the go command does not tell where the Cedar corpus is: ", err)
	}
	f, err := os.Open(filepath.Join(strings.TrimSpace(string(dir)), "corpus-tests.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for archive := tar.NewReader(z); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(archive); err != nil {
			t.Fatal(err)
		}
	}
}

// cases calls check for each case, on both cores.
func cases(t *testing.T, files map[string][]byte, check func(name string, c corpusCase)) int {
	var names []string
	for name := range files {
		if strings.HasSuffix(name, ".json") && !strings.HasSuffix(name, ".entities.json") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var wg sync.WaitGroup
	work := make(chan string)
	for range 2 {
		wg.Go(func() {
			for name := range work {
				var c corpusCase
				if err := json.Unmarshal(files[name], &c); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				check(name, c)
			}
		})
	}
	for _, name := range names {
		work <- name
	}
	close(work)
	wg.Wait()
	return len(names)
}

// entities reads what holds in a case, and the members of its groups of actions.
func entities(t *testing.T, files map[string][]byte, c corpusCase) (types.EntityMap, map[cedar.EntityUID][]cedar.EntityUID) {
	var s schema.Schema
	if err := s.UnmarshalCedar(files[c.Schema]); err != nil {
		t.Fatal(err)
	}
	resolved, err := s.Resolve()
	if err != nil {
		t.Fatal(err)
	}
	var m exptypes.EntityMap
	if err := m.UnmarshalJSONWithSchema(files[c.Entities], resolved); err != nil {
		t.Fatal(err)
	}
	store := types.EntityMap(m)
	members := map[cedar.EntityUID][]cedar.EntityUID{}
	for uid := range store {
		for group := range ancestors(store, uid, map[cedar.EntityUID]bool{}) {
			members[group] = append(members[group], uid)
		}
	}
	return store, members
}

func ancestors(store types.EntityMap, uid cedar.EntityUID, seen map[cedar.EntityUID]bool) map[cedar.EntityUID]bool {
	for parent := range store[uid].Parents.All() {
		if !seen[parent] {
			seen[parent] = true
			ancestors(store, parent, seen)
		}
	}
	return seen
}

// indexed is an engine over policies that bear the names given, not an @id.
func indexed(t *testing.T, policies map[cedar.PolicyID]*cedar.Policy, members map[cedar.EntityUID][]cedar.EntityUID) *Engine {
	e := newEngine(nil)
	e.index.members = members
	for _, id := range slices.Sorted(maps.Keys(policies)) {
		tree := (*ast.Policy)(policies[id].AST())
		p := &policy{tree: tree, run: afterIndex(tree), ref: rampart.PolicyRef{ID: string(id)}}
		if policies[id].Effect() == cedar.Permit {
			p.ref.Effect = rampart.Allow
		}
		p.ruling.Policy = p.ref
		if _, err := e.add(p); err != nil {
			t.Error(err)
		}
	}
	return e
}

// answer is a decision with its policies in order.
type answer struct {
	decision        cedar.Decision
	reasons, errors string
}

func answerOf(d cedar.Decision, diag cedar.Diagnostic) answer {
	var reasons, errs []cedar.PolicyID
	for _, r := range diag.Reasons {
		reasons = append(reasons, r.PolicyID)
	}
	for _, e := range diag.Errors {
		errs = append(errs, e.PolicyID)
	}
	return answer{d, join(reasons), join(errs)}
}

func join(ids []cedar.PolicyID) string {
	var words []string
	for _, id := range slices.Sorted(slices.Values(ids)) {
		words = append(words, string(id))
	}
	return strings.Join(words, " ")
}

// tally counts from several goroutines.
type tally struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *tally) add(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int{}
	}
	c.n[what]++
}

// TestCorpus: every request that Cedar ships agrees in decision, reasons and
// errors, with the index and without; and what we add to Cedar, that a forbid
// which fails denies, changes nothing but that.
func TestCorpus(t *testing.T) {
	files := corpus(t)
	var count tally
	n := cases(t, files, func(name string, c corpusCase) {
		list, err := cedar.NewPolicySetFromBytes("p.cedar", files[c.Policies])
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		store, members := entities(t, files, c)
		e := indexed(t, list.Map(), members)
		for i, r := range c.Requests {
			req := cedar.Request{Principal: r.Principal, Action: r.Action, Resource: r.Resource, Context: r.Context}
			want := answer{r.Decision, join(r.Reason), join(r.Errors)}
			bare, diag := cedar.Authorize(list, store, req)
			if got := answerOf(bare, diag); got != want {
				t.Errorf("%s %d: without index %+v, want %+v", name, i, got, want)
			}
			s := e.index.slice(req)
			d, diag := cedar.Authorize(&s, store, req)
			if got := answerOf(d, diag); got != want {
				t.Errorf("%s %d: with index %+v, want %+v", name, i, got, want)
			}
			overlay(t, &count, e, d, diag)
		}
	})
	t.Logf("%d cases, %d requests agree, index on and off; a forbid that failed denied %d of them, and nothing else changed",
		n, count.n["requests"], count.n["overlaid"])
	if n != 7750 || count.n["requests"] != 62_000 {
		t.Error("the corpus has 7,750 cases with 62,000 requests")
	}
}

// overlay checks how our verdict differs from Cedar's decision.
func overlay(t *testing.T, count *tally, e *Engine, d cedar.Decision, diag cedar.Diagnostic) {
	count.add("requests")
	v := e.verdict(diag, 0)
	failed := slices.ContainsFunc(diag.Errors, func(err cedar.DiagnosticError) bool {
		return e.byID[err.PolicyID].ref.Effect == rampart.Deny
	})
	ours := allowed(v)
	if want := d == cedar.Allow && !failed; ours != want {
		t.Errorf("we say %v where Cedar says %v, forbid failed: %v", ours, d, failed)
	}
	if bool(d) != ours {
		count.add("overlaid")
	}
}

// TestManyPolicies: the corpus has one policy a file, so policies of many files
// are merged over the entities of one. Plain Cedar over all of them is the
// oracle for the index, and for policies that were evaluated in part before
// the resource was known.
func TestManyPolicies(t *testing.T) {
	files := corpus(t)
	pool := policiesOf(t, files)
	seed := rand.Uint64()
	var count tally
	cases(t, files, func(name string, c corpusCase) {
		rng := rand.New(rand.NewPCG(seed, hash(name)))
		if rng.IntN(3) != 0 {
			return
		}
		merged := map[cedar.PolicyID]*cedar.Policy{}
		all := cedar.NewPolicySet()
		for range 2 + rng.IntN(49) {
			id := pool.ids[rng.IntN(len(pool.ids))]
			merged[id] = pool.policies[id]
			all.Add(id, pool.policies[id])
		}
		own := cedar.PolicyID(c.Policies)
		merged[own] = pool.policies[own]
		all.Add(own, merged[own])
		store, members := entities(t, files, c)
		e := indexed(t, merged, members)
		for _, r := range c.Requests {
			req := cedar.Request{Principal: r.Principal, Action: r.Action, Resource: r.Resource, Context: r.Context}
			d, diag := cedar.Authorize(all, store, req)
			want := answerOf(d, diag)
			s := e.index.slice(req)
			sd, sdiag := cedar.Authorize(&s, store, req)
			if got := answerOf(sd, sdiag); got != want {
				t.Errorf("%s, seed %d: with index %+v, want %+v", name, seed, got, want)
			}
			overlay(t, &count, e, sd, sdiag)
			completed(t, &count, merged, store, req, want)
			if want.reasons != "" || want.errors != "" {
				count.add("told")
			}
		}
		count.add("sets")
	})
	t.Logf("%d sets of up to 51 policies, %d requests agree, %d of them with reasons or errors; a forbid that failed denied %d; %d policies evaluated in part and completed",
		count.n["sets"], count.n["requests"], count.n["told"], count.n["overlaid"], count.n["partial"])
	if count.n["sets"] < 2000 || count.n["overlaid"] == 0 {
		t.Error("too few sets")
	}
}

func hash(name string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	return h.Sum64()
}

type pool struct {
	ids      []cedar.PolicyID
	policies map[cedar.PolicyID]*cedar.Policy
}

// policiesOf returns the one policy of each file, by the file's name.
func policiesOf(t *testing.T, files map[string][]byte) pool {
	p := pool{policies: map[cedar.PolicyID]*cedar.Policy{}}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if !strings.HasSuffix(name, ".cedar") {
			continue
		}
		list, err := cedar.NewPolicyListFromBytes(name, files[name])
		if err != nil || len(list) != 1 {
			t.Fatalf("%s: %d policies, %v", name, len(list), err)
		}
		p.ids = append(p.ids, cedar.PolicyID(name))
		p.policies[cedar.PolicyID(name)] = list[0]
	}
	return p
}

// completed evaluates each policy without the resource, what is left of it
// with the resource, and expects the same.
func completed(t *testing.T, count *tally, policies map[cedar.PolicyID]*cedar.Policy, store types.EntityGetter, req cedar.Request, want answer) {
	env := eval.Env{Entities: store, Principal: req.Principal, Action: req.Action, Resource: eval.Variable("resource"), Context: req.Context}
	left := cedar.NewPolicySet()
	for id, p := range policies {
		rest, keep := eval.PartialPolicy(env, (*ast.Policy)(p.AST()))
		count.add("partial")
		if keep {
			left.Add(id, fromTree(rest))
		}
	}
	d, diag := cedar.Authorize(left, store, req)
	if got := answerOf(d, diag); got != want {
		t.Errorf("completed %+v, want %+v", got, want)
	}
}
