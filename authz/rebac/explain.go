package rebac

import "slices"

// maxFrontier bounds how much of a search that found nothing is told.
const maxFrontier = 50

// An explanation is the chain of tuples that makes the answer yes. For a no it
// is what was looked at: the relations whose tuples might have named the
// subject, or the tuples of a "but not" that took the relation away.

func (a *question) nodeText(n node) string {
	if n.relation() == 0 {
		return a.entity(n.id()).name
	}
	return a.entity(n.id()).name + "#" + a.m.relations[n.relation()].name
}

// tupleText writes a tuple of an object.
func (a *question) tupleText(obj uint32, forward uint64) string {
	return a.nodeText(nodeOf(obj, keyA(forward))) + "@" + a.nodeText(nodeOf(keyID(forward), keyB(forward)))
}

func (a *question) noteTuple(obj uint32, forward uint64) {
	if a.explain {
		a.path = append(a.path, a.tupleText(obj, forward))
	}
}

func (a *question) noteNode(n node) {
	if a.explain && len(a.frontier) < maxFrontier && !slices.Contains(a.frontier, n) {
		a.frontier = append(a.frontier, n)
	}
}

// notePath writes the path that reach found: down from the object, then from
// where the ends met down to the subject.
func (a *question) notePath(m meeting) {
	if !a.explain {
		return
	}
	mark := len(a.path)
	for i := m.down; a.down.items[i].parent >= 0; i = int(a.down.items[i].parent) {
		it := a.down.items[i]
		a.noteStep(a.down.items[it.parent].node, it.node, it.via)
	}
	slices.Reverse(a.path[mark:])
	if m.up < 0 {
		if m.grant != 0 {
			a.noteTuple(a.down.items[m.down].node.id(), m.grant)
		}
		return
	}
	for i := m.up; a.up.items[i].parent >= 0; i = int(a.up.items[i].parent) {
		it := a.up.items[i]
		a.noteStep(it.node, a.up.items[it.parent].node, it.via)
	}
}

// noteStep writes the tuple between two neighbours: none for "define a: b",
// whose name it has via for a userset, and the tupleset for "x from y".
func (a *question) noteStep(above, below node, via uint16) {
	switch via {
	case 0:
	case above.relation():
		a.noteTuple(above.id(), key(via, below.relation(), below.id()))
	default:
		a.noteTuple(above.id(), key(via, 0, below.id()))
	}
}

func (a *question) noteFrontier() {
	if !a.explain {
		return
	}
	for _, it := range a.down.items {
		a.noteNode(it.node)
	}
}

// notePathOf keeps the path of an answer that may be used again.
func (a *question) notePathOf(n node, v value, mark int) {
	if !a.explain || !v.yes {
		return
	}
	if a.paths == nil {
		a.paths = map[node][]string{}
	}
	a.paths[n] = slices.Clone(a.path[mark:])
}

// noteExclusion turns the path of what takes away, from mark, into a reason, and
// drops that of what it was taken from, from start.
func (a *question) noteExclusion(start, mark int) {
	for i := mark; i < len(a.path); i++ {
		a.excluded = append(a.excluded, "but not "+a.path[i])
	}
	a.path = a.path[:start]
}

func (a *question) pathText(yes bool) []string {
	switch {
	case !a.explain:
		return nil
	case yes:
		return a.path
	}
	out := a.excluded
	for _, n := range a.frontier {
		out = append(out, a.nodeText(n))
	}
	return out
}
