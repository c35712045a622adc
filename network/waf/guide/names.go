package guide

import (
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/rampart-security/rampart/network/waf"
)

// The counters that an earlier rule keeps of the names of arguments.
const counter, counted = "paramcounter_", "%{matched_var_name}"

// distinctNames is rule 921180: it matches when one of the counters that rule
// 921170 keeps passes one. The two are one predicate, that no two arguments have
// one name; what else can set a variable of such a name must not set a number.
func (c *compiler) distinctNames(j *judged) error {
	l := j.Links[0]
	if len(j.Links) != 1 || l.Op != "gt" || l.Arg != "1" || l.Neg || len(l.Trans) > 0 ||
		len(l.Targets) != 1 || l.Targets[0].Var != "TX" || l.Targets[0].Key != counter+".*" || !l.Targets[0].Regex {
		return errNoNative
	}
	counters := 0
	for _, other := range c.fold.out {
		for i, link := range other.Links {
			if slices.ContainsFunc(other.Links[:i+1], absent) {
				break // it and what follows sets nothing
			}
			for _, s := range link.SetVars {
				switch {
				case countsNames(other, s):
					counters++
				case setsNumber(s):
					return fmt.Errorf("rule %d sets counters in a way that is not known to the guide", other.ID)
				}
			}
		}
	}
	if counters != 1 {
		return fmt.Errorf("%d rules count names, want one", counters)
	}
	c.distinct, j.kind = true, kindStructural
	return nil
}

// countsNames reports whether r adds one to a counter for each argument, and
// does so by s. That it may pass over empty names, or not run, makes no name
// count more.
func countsNames(r *judged, s string) bool {
	l := r.Links[0]
	return len(r.Links) == 1 && strings.EqualFold(s, "tx."+counter+counted+"=+1") && !l.Multi && len(l.Trans) == 0 &&
		len(l.Targets) == 1 && l.Targets[0].Var == "ARGS_NAMES" && l.Targets[0].Key == "" && !l.Targets[0].Count
}

// setsNumber reports whether s may give a number to a variable that could be
// taken for a counter.
func setsNumber(s string) bool {
	name, val, _ := strings.Cut(s, "=")
	name = strings.ToLower(name)
	return strings.Contains(name, counter) || strings.Contains(name, "%{") && (val == "" || strings.IndexByte("+-%0123456789", val[0]) >= 0)
}

// nameSet tells which names came before, as Coraza tells them apart: without
// regard to case. It keeps keyed hashes; two names of one hash count as one.
type nameSet struct {
	seed maphash.Seed
	seen map[uint64]struct{}
	low  []byte
}

func newNameSet() *nameSet {
	return &nameSet{seed: maphash.MakeSeed(), seen: map[uint64]struct{}{}}
}

// add reports whether name is new. Rules see no empty name.
func (n *nameSet) add(name []byte) bool {
	if len(name) == 0 {
		return true
	}
	h := maphash.Bytes(n.seed, n.lower(name))
	if _, ok := n.seen[h]; ok {
		return false
	}
	n.seen[h] = struct{}{}
	return true
}

func (n *nameSet) lower(name []byte) []byte {
	n.low = n.low[:0]
	for _, c := range name {
		if c >= utf8.RuneSelf {
			return []byte(strings.ToLower(string(name)))
		}
		n.low = append(n.low, lower(c))
	}
	return n.low
}

// cleanNames reports whether no two names of v's query, path and form are one.
// Those of JSON are added where they are walked.
func (g *Guide) cleanNames(v *view, st *scratch) bool {
	if !g.distinct {
		return true
	}
	if st.names == nil {
		st.names = newNameSet()
	}
	clear(st.names.seen)
	_, query, _ := strings.Cut(v.Target, "?")
	if !st.names.addPairs(query) || v.BodyKind == waf.FormBody && !st.names.addPairs(string(v.Body)) {
		return false
	}
	for _, a := range v.Path {
		if !st.names.add([]byte(a.Name)) {
			return false
		}
	}
	return true
}

// addPairs stops at as many as the guide does.
func (n *nameSet) addPairs(s string) bool {
	for name := range pairs(s) {
		if len(n.seen) > maxArguments || !n.add([]byte(name)) {
			return false
		}
	}
	return true
}
