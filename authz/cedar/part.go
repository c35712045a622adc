package cedar

import (
	"strings"

	"github.com/cedar-policy/cedar-go"
	printed "github.com/cedar-policy/cedar-go/ast"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/eval"
)

// part is one condition of a policy that must hold, or, of an `unless`, must
// not. An `unless` stays whole.
type part struct {
	ast.ConditionType
	text   string // as the file has it, without comments and line breaks
	line   int    // 0 when unknown
	clause int    // which when or unless of the policy it is in
}

// eval returns the value of a condition's body; false, false when it fails.
func (c part) eval(env eval.Env) (value, ok bool) {
	v, err := eval.Eval(c.Body, env)
	b, isBool := v.(cedar.Boolean)
	return bool(b), err == nil && isBool
}

// parts takes a policy's conditions apart at the && that join them. st is
// where the policy stands in src, or nil when that is unknown.
func parts(tree *ast.Policy, src source, st *statement) []part {
	var out []part
	for i, c := range tree.Conditions {
		nodes := conjuncts(c)
		if st == nil || len(st.clauses) != len(tree.Conditions) {
			out = append(out, unplaced(nodes, 0, i)...)
			continue
		}
		cl := st.clauses[i]
		spans := []span{cl.body}
		if c.Condition == ast.ConditionWhen {
			spans = align(src, src.conjuncts(cl.body), len(nodes))
		}
		if len(spans) != len(nodes) {
			out = append(out, unplaced(nodes, src.line(cl.word), i)...)
			continue
		}
		for j, n := range nodes {
			out = append(out, part{n, src.cut(spans[j]), src.line(spans[j].from), i})
		}
	}
	return out
}

// unplaced renders conditions whose place in the text was not found.
func unplaced(nodes []ast.ConditionType, line, clause int) []part {
	out := make([]part, len(nodes))
	for i, n := range nodes {
		out[i] = part{n, text(n), line, clause}
	}
	return out
}

// align repeats the spans that mean several conditions: `resource has a.b`
// stands for `resource has a && resource.a has b`.
func align(src source, spans []span, want int) []span {
	if len(spans) == want {
		return spans
	}
	var out []span
	for _, e := range spans {
		var p cedar.Policy
		if p.UnmarshalCedar([]byte("permit (principal, action, resource) when { "+src.cut(e)+" };")) != nil {
			return nil
		}
		for range conjuncts((*ast.Policy)(p.AST()).Conditions[0]) {
			out = append(out, e)
		}
	}
	return out
}

// conjuncts splits a condition of the AST.
func conjuncts(c ast.ConditionType) []ast.ConditionType {
	if c.Condition == ast.ConditionUnless {
		return []ast.ConditionType{c}
	}
	return split(nil, c.Body)
}

func split(list []ast.ConditionType, n ast.IsNode) []ast.ConditionType {
	and, ok := n.(ast.NodeTypeAnd)
	if !ok {
		return append(list, ast.ConditionType{Condition: ast.ConditionWhen, Body: n})
	}
	return split(split(list, and.Left), and.Right)
}

// fromTree compiles a policy of the AST.
func fromTree(p *ast.Policy) *cedar.Policy {
	return cedar.NewPolicyFromAST((*printed.Policy)(p))
}

// text renders one condition as Cedar prints it, on one line.
func text(c ast.ConditionType) string {
	p := ast.Permit()
	p.Conditions = []ast.ConditionType{c}
	rendered := string(fromTree(p).MarshalCedar())
	_, body, _ := strings.Cut(rendered, "{")
	body = body[:max(0, strings.LastIndexByte(body, '}'))]
	return strings.Join(strings.Fields(body), " ")
}

// maxChain bounds how deep a condition may be nested, and how many && or ||
// may follow each other: those who walk it, walk it recursively.
const maxChain = 1000

// tooDeep reports whether n is nested deeper than left.
func tooDeep(n ast.IsNode, left int) bool {
	if left == 0 {
		return true
	}
	for _, child := range children(n) {
		if tooDeep(child, left-1) {
			return true
		}
	}
	return false
}

// children returns the nodes right below n.
func children(n ast.IsNode) []ast.IsNode {
	var out []ast.IsNode
	self := true
	ast.Inspect(ast.NewNode(n), func(child ast.IsNode) bool {
		if self {
			self = false
			return true
		}
		out = append(out, child)
		return false
	})
	return out
}
