package guide

// joint is one automaton for expressions of several rules that have no words to
// look for first, and so are run over every text: it matches where one of them
// does. What it does not match, none of them matches, so in most texts one pass
// stands for all of theirs; where it matches, or is not sure, they are run one by
// one.
type joint struct{ dfa *dfa }

// maxJointSteps bounds the transitions that joints have built for one text: their
// states are larger than those of one expression. Those of a whole request have a
// budget of their own, as large as that of the single ones. Beyond either, the text
// is for the single ones.
const maxJointSteps = 200

// join gives the checks that look for an expression in values as they come their
// joints: as few as maxProgram allows.
func join(checks []*check) {
	var members []*check
	size := 0
	for _, k := range checks {
		if k.op.wordless == nil || len(k.trans) > 0 {
			continue
		}
		n := len(k.op.wordless.prog.Inst)
		if size += n; size > maxProgram {
			share(members)
			members, size = nil, n
		}
		members = append(members, k)
	}
	share(members)
}

func share(members []*check) {
	if len(members) < 2 {
		return
	}
	var list []*dfa
	for _, k := range members {
		list = append(list, k.op.wordless)
	}
	d := newUnion(list)
	if d == nil {
		return
	}
	j := &joint{d}
	for _, k := range members {
		k.joint = j
	}
}

// misses reports whether none of the joint's expressions matches text, for sure.
func (j *joint) misses(text string, st *scratch) bool {
	budget := min(maxJointSteps, st.joints)
	st.joints -= budget
	matched, sure := j.dfa.match(text, &budget)
	st.joints += budget
	return !matched && sure
}

// joined are the checks of one joint that a plan has.
type joined struct {
	joint  *joint
	checks []*check
}

func addJoined(list []joined, k *check) []joined {
	for i := range list {
		if list[i].joint == k.joint {
			list[i].checks = append(list[i].checks, k)
			return list
		}
	}
	return append(list, joined{k.joint, []*check{k}})
}

// miss reports whether none of the checks matches text. One alone needs no joint.
func (j *joined) miss(text string, st *scratch) bool {
	return len(j.checks) > 1 && j.joint.misses(text, st) || allMiss(j.checks, text, st)
}
