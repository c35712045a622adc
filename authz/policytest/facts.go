package policytest

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/pap"
	"github.com/rampart-security/rampart/authz/rebac"
)

// graphOf is the relation graph of one test file; nil without a model.
func graphOf(s pap.Set, f *File) (*rebac.Index, error) {
	if s.Model == "" {
		if len(f.Relations) > 0 {
			return nil, Problems{{f.name, f.Relations[0].line, f.Relations[0].col, "relations", "rampart.yaml names no model of relations", "write authz: { model: model.fga }"}}
		}
		return nil, nil
	}
	m, err := rebac.ParseModel(s.Model, s.Files[s.Model])
	if err != nil {
		return nil, err
	}
	tuples, err := f.tuples(m)
	if err != nil {
		return nil, err
	}
	x := rebac.NewIndex(m, rebac.Options{})
	if err := x.Reset(1, slices.Values(tuples)); err != nil {
		return nil, err
	}
	return x, nil
}

func (f *File) tuples(m *rebac.Model) ([]authz.Tuple, error) {
	var out []authz.Tuple
	var problems Problems
	for i, r := range f.Relations {
		tuple, err := r.tuple()
		if err == nil {
			err = m.Validate(tuple)
		}
		if err != nil {
			problems = append(problems, Problem{f.name, r.line, r.col, fmt.Sprintf("relations[%d]", i), err.Error(), "write a tuple that " + m.Name() + " allows"})
			continue
		}
		out = append(out, tuple)
	}
	if problems != nil {
		return nil, problems
	}
	return out, nil
}

// provider stands in for the services that supply attributes: it knows what the
// test file says of a resource.
type provider struct{ file *File }

// Attributes implements authz.Provider.
func (p provider) Attributes(_ context.Context, typ, id string, names []string) (map[string]any, error) {
	out := map[string]any{}
	for name, r := range p.file.Resources {
		res := r.resource(name)
		if res.Type != typ || res.ID != id {
			continue
		}
		for _, attr := range names {
			if v, ok := res.Attrs[attr]; ok {
				out[attr] = v
			}
		}
	}
	return out, nil
}

// providers answers for every provider that the schema names.
func providers(s *authz.Schema, f *File) map[string]authz.Provider {
	out := map[string]authz.Provider{}
	if s == nil {
		return out
	}
	for _, typ := range s.Types {
		for _, attr := range typ.Attrs {
			if attr.Provider != "" {
				out[attr.Provider] = provider{f}
			}
		}
	}
	return out
}

// asked is a resource as the service asks about it: without what providers
// supply.
func asked(s *authz.Schema, r rampart.Resource) rampart.Resource {
	if s == nil {
		return r
	}
	r.Attrs = maps.Clone(r.Attrs)
	for name, attr := range s.Types[r.Type].Attrs {
		if attr.Provider != "" {
			delete(r.Attrs, name)
		}
	}
	return r
}
