package guide

import (
	"regexp/syntax"
	"slices"
	"strings"
	"testing"
)

// FuzzJoint: a joint matches where one of its expressions does, and nowhere else.
func FuzzJoint(f *testing.F) {
	joints := map[*joint][]*check{}
	for _, level := range []int{1, 3} {
		_, g := guides[level]()
		for _, k := range g.checks {
			if k.joint != nil {
				joints[k.joint] = append(joints[k.joint], k)
			}
		}
	}
	if len(joints) < 2 {
		f.Fatalf("%d joints: this tests nothing", len(joints))
	}
	seed(f)
	f.Fuzz(func(t *testing.T, s string) {
		for j, members := range joints {
			steps, one := 1<<20, false
			for _, k := range members {
				matched, sure := k.op.matches(s, &steps)
				if !sure {
					return
				}
				one = one || matched
			}
			if got, sure := j.dfa.match(s, &steps); got != one || !sure {
				t.Errorf("the joint matches %q: %t, for sure: %t, one of its expressions: %t", s, got, sure, one)
			}
			if one && j.misses(s, newScratch()) {
				t.Errorf("the joint misses %q, which one of its expressions matches", s)
			}
		}
	})
}

// TestJointBudget: what joints have built for a request is bounded, however many
// texts it has; then they leave texts to the single expressions.
func TestJointBudget(t *testing.T) {
	_, g := fixture()
	at := slices.IndexFunc(g.checks, func(k *check) bool { return k.joint != nil })
	j, st, left := g.checks[at].joint, newScratch(), 0
	c := newCorpus(t, 12)
	for range 100 {
		left = st.joints
		j.misses(c.value(), st)
		if built := left - st.joints; built < 0 || built > maxJointSteps {
			t.Fatalf("%d transitions were built for one text", built)
		}
	}
	st.joints = 0
	if j = (&joint{newUnion([]*dfa{g.checks[at].op.wordless})}); j.misses("a text of which nothing is known yet", st) || st.joints != 0 {
		t.Error("a joint without a budget was sure")
	}
}

// TestGenerations: a counter that has gone all around forgets what was met before.
func TestGenerations(t *testing.T) {
	re, err := syntax.Parse("ab|cd", syntax.Perl)
	if err != nil {
		t.Fatal(err)
	}
	d, budget := newDFA(re, false), 100
	d.gen = 1<<32 - 1
	if matched, sure := d.match("ab", &budget); !matched || !sure {
		t.Errorf("matched %t, sure %t", matched, sure)
	}
}

// TestJoined: the joint that stands for checks of a plan is theirs. At the
// higher levels, no one automaton has room for all expressions.
func TestJoined(t *testing.T) {
	for level := 1; level <= 4; level++ {
		_, g := guides[level]()
		joints := map[*joint]bool{}
		for i, step := range g.post.base.newPlan(everything()).steps {
			for _, j := range step.joined {
				joints[j.joint] = true
				for _, k := range j.checks {
					if k.joint != j.joint {
						t.Errorf("level %d, step %d: rule %d is looked for in a joint that is not its own", level, i, k.rule)
					}
				}
			}
		}
		if len(joints) == 0 || level > 2 && len(joints) < 2 {
			t.Errorf("level %d: %d joints: this tests nothing", level, len(joints))
		}
	}
}

// FuzzWords: the numbers found are those of the words that a text holds.
func FuzzWords(f *testing.F) {
	_, g := fixture()
	seed(f)
	f.Fuzz(func(t *testing.T, s string) {
		var got bitset
		g.words.find(s, &got)
		low := lowered(s)
		for _, k := range g.checks {
			want := false
			for _, w := range k.op.gate {
				want = want || strings.Contains(low, w)
			}
			if got.has(k.number) != want {
				t.Errorf("rule %d has a word in %q: %t, want %t", k.rule, s, got.has(k.number), want)
			}
		}
	})
}

// lowered has the letters of ASCII in lower case and the other bytes as they are.
func lowered(s string) string {
	out := []byte(s)
	for i, c := range out {
		out[i] = lower(c)
	}
	return string(out)
}

func seed(f *testing.F) {
	for _, s := range prose {
		f.Add(s)
	}
	c := newCorpus(f, 11)
	for range 200 {
		f.Add(c.value())
	}
}
