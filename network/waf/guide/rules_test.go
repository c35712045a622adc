package guide

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/corazawaf/coraza/v3"
)

// ruleOracle is one Coraza with every rule that the guide looks for, all on
// one argument and each on its own. It tells which match.
type ruleOracle struct {
	waf    coraza.WAF
	checks []*check
}

func newRuleOracle(t testing.TB, g *Guide) *ruleOracle {
	o := &ruleOracle{}
	var text strings.Builder
	text.WriteString("SecRuleEngine DetectionOnly\n")
	for _, k := range g.checks {
		l := g.link(k)
		if l == nil || strings.Contains(l.Arg, "%{") {
			continue
		}
		o.checks = append(o.checks, k)
		fmt.Fprintf(&text, "SecRule ARGS:v \"%s\" \"id:%d,phase:1,log,pass,t:none", strings.ReplaceAll(l.operatorText(), `"`, `\"`), k.rule)
		for _, name := range l.Trans {
			text.WriteString(",t:" + name)
		}
		if l.Multi {
			text.WriteString(",multiMatch")
		}
		text.WriteString("\"\n")
	}
	w, err := coraza.NewWAF(coraza.NewWAFConfig().WithRootFS(g.set.Data()).WithDirectives(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	o.waf = w
	return o
}

// link is the link whose operator k runs.
func (g *Guide) link(k *check) *link {
	for _, j := range g.rules {
		if j.ID == k.rule && j.ID != 922110 && (len(j.open) == 1 || len(j.open[0].SetVars) == 0) {
			return j.open[0]
		}
	}
	return nil
}

func (l *link) operatorText() string {
	s := "@" + l.Op + " " + l.Arg
	switch l.Op {
	case "pmfromfile":
		s = "@pmFromFile " + l.Arg
	case "detectsqli":
		s = "@detectSQLi"
	case "detectxss":
		s = "@detectXSS"
	case "validatebyterange":
		s = "@validateByteRange " + l.Arg
	}
	if l.Neg {
		return "!" + s
	}
	return s
}

func (o *ruleOracle) matches(s string) map[int]bool {
	tx := o.waf.NewTransaction()
	tx.AddGetRequestArgument("v", s)
	tx.ProcessRequestHeaders()
	out := map[int]bool{}
	for _, m := range tx.MatchedRules() {
		out[m.Rule().ID()] = true
	}
	_ = tx.Close()
	return out
}

// alphabets that schemas give, to which fuzzed values are cut down.
var schemaAlphabets = map[string]string{
	"digits": "0123456789", "number": "0123456789eE.+-", "uuid": "0123456789abcdef-", "date-time": "0123456789TZ:.+-",
	"slug":  "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-",
	"email": "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@._+-",
	"text":  "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,-'!?:",
}

// FuzzRule: what the guide calls clean for one rule, that rule does not match
// in Coraza. With a value cut down to a schema's alphabet, the rules that the
// alphabet alone rules out do not match either. The same for all rules together.
func FuzzRule(f *testing.F) {
	_, g := fixture()
	oracle := newRuleOracle(f, g)
	single := map[int]*class{}
	for _, k := range oracle.checks {
		single[k.number] = &class{checks: []*check{k}}
	}
	all := &class{checks: oracle.checks}
	c, names := newCorpus(f, 7), slices.Sorted(maps.Keys(schemaAlphabets))
	for range 60 {
		f.Add(c.value())
	}
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > 250 {
			return
		}
		sigma := schemaAlphabets[names[len(s)%len(names)]]
		values := map[string]alphabet{s: alphabetOf(s), keep(s, sigma): runes(sigma)}
		for v, a := range values {
			matched := oracle.matches(v)
			if g.clean(all, v, newScratch()) && len(matched) > 0 {
				t.Errorf("%v match %q, in which the guide finds nothing", matched, v)
			}
			for _, k := range oracle.checks {
				st := newScratch()
				if g.clean(single[k.number], v, st) && matched[k.rule] {
					t.Errorf("rule %d matches %q, which the guide calls clean", k.rule, v)
				}
				if p := single[k.number].newPlan(a); len(p.steps) == 0 && matched[k.rule] {
					t.Errorf("rule %d matches %q, but is impossible over %s", k.rule, v, a)
				}
			}
		}
	})
}

func keep(s, sigma string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(sigma, r) {
			return r
		}
		return -1
	}, s)
}
