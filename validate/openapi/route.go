package openapi

import (
	"net/http"
	"slices"
	"strings"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
)

// Params are the path parameters of a request, decoded text by name.
type Params map[string]string

// node is one segment of the path trie.
type node struct {
	fixed    map[string]*node
	variable *node
	path     string // template that ends here, "" if none does
	names    []string
	methods  map[string]*Operation
}

// insert adds op and returns why it cannot, "" if it can.
func (n *node) insert(op *Operation) string {
	var names []string
	for segment := range strings.SplitSeq(op.Path[1:], "/") {
		if isTemplate(segment) {
			names = append(names, segment[1:len(segment)-1])
			if n.variable == nil {
				n.variable = &node{}
			}
			n = n.variable
			continue
		}
		if n.fixed == nil {
			n.fixed = map[string]*node{}
		}
		if n.fixed[segment] == nil {
			n.fixed[segment] = &node{}
		}
		n = n.fixed[segment]
	}
	if n.path != "" && n.path != op.Path {
		return "path " + op.Path + " is the same as " + n.path + "; name the parameters alike"
	}
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			return "parameter " + name + " is twice in the path; give each its own name"
		}
	}
	if n.methods == nil {
		n.path, n.names, n.methods = op.Path, names, map[string]*Operation{}
	}
	n.methods[op.Method] = op
	return ""
}

// find walks the trie, fixed segments before variable ones. A variable matches
// no empty segment. values collects what the variables matched.
func (n *node) find(path string, values []string) (*node, []string) {
	segment, rest, more := strings.Cut(path, "/")
	for _, next := range [2]*node{n.fixed[segment], n.variable} {
		if next == nil || next == n.variable && segment == "" {
			continue
		}
		taken := values
		if next == n.variable {
			taken = append(values, segment)
		}
		if more {
			if end, all := next.find(rest, taken); end != nil {
				return end, all
			}
			continue
		}
		if next.methods != nil {
			return next, taken
		}
	}
	return nil, nil
}

// Route finds the operation for a method and a canonical, decoded path. HEAD is
// answered by GET where the document declares no HEAD. Errors carry control
// edge.route: NotFound, or Invalid with status 405 and the allowed methods.
func (a *API) Route(method, path string) (*Operation, Params, error) {
	if !strings.HasPrefix(path, "/") || strings.Count(path, "/") > maxDepth {
		return nil, nil, notFound()
	}
	end, values := a.root.find(path[1:], nil)
	if end == nil {
		return nil, nil, notFound()
	}
	op := end.methods[method]
	if op == nil && method == http.MethodHead {
		op = end.methods[http.MethodGet]
	}
	if op == nil {
		return nil, nil, end.notAllowed()
	}
	if len(values) == 0 {
		return op, nil, nil
	}
	params := make(Params, len(values))
	for i, name := range end.names {
		params[name] = values[i]
	}
	return op, params, nil
}

func notFound() error {
	return rampart.Errorf(rampart.NotFound, "edge.route", "no such resource")
}

func (n *node) notAllowed() error {
	allow := make([]string, 0, len(n.methods)+1)
	for method := range n.methods {
		allow = append(allow, method)
	}
	if n.methods[http.MethodGet] != nil && n.methods[http.MethodHead] == nil {
		allow = append(allow, http.MethodHead)
	}
	slices.Sort(allow)
	return problem.With(rampart.Errorf(rampart.Invalid, "edge.route", "method not allowed here"),
		problem.Details{Status: http.StatusMethodNotAllowed, Allow: allow})
}
