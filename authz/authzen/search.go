package authzen

import (
	"slices"

	"github.com/rampart-security/rampart/authz"
)

// found is one result of a search.
type found struct {
	Type string `json:"type,omitempty"`
	ID   string `json:"id,omitempty"`
	Name string `json:"name,omitempty"`
}

// results is the response of every search (section 8.2).
type results struct {
	Page    *nextPage `json:"page,omitempty"`
	Results []found   `json:"results"`
}

// searchSubject is section 8.3: who may do this? An id of the subject that was
// sent anyway is ignored. Each result evaluates to true, because it was asked.
func (s *Server) searchSubject(c call, q *question) (any, error) {
	err := need(required{"subject.type", q.Subject.kind()}, required{"action.name", q.Action.name()},
		required{"resource.type", q.Resource.kind()}, required{"resource.id", q.Resource.id()})
	if err == nil {
		err = allowed(c.rights.Search, *q.Resource.Type, "search")
	}
	if err != nil {
		return nil, err
	}
	ids, err := s.opt.Subjects(c.ctx, *q.Subject.Type)
	if err != nil {
		return nil, err
	}
	slices.Sort(ids)
	return s.paged(c, q, len(ids), func(i int) (found, bool, error) {
		m := q.member
		m.Subject = &entity{Type: q.Subject.Type, ID: &ids[i]}
		r, err := s.request(c, m)
		if err != nil {
			return found{}, false, err
		}
		return found{Type: *q.Subject.Type, ID: ids[i]}, s.holds(c, r), nil
	})
}

// searchResource is section 8.4: what may this subject do it to?
func (s *Server) searchResource(c call, q *question) (any, error) {
	err := need(required{"subject.type", q.Subject.kind()}, required{"subject.id", q.Subject.id()},
		required{"action.name", q.Action.name()}, required{"resource.type", q.Resource.kind()})
	if err == nil {
		err = allowed(c.rights.Search, *q.Resource.Type, "search")
	}
	if err != nil {
		return nil, err
	}
	m := q.member
	m.Resource = &entity{Type: q.Resource.Type, Properties: q.Resource.Properties}
	r, err := s.request(c, m)
	if err != nil {
		return nil, err
	}
	list, err := s.opt.Objects(c.ctx, r)
	if err != nil {
		return nil, err
	}
	return s.paged(c, q, len(list), func(i int) (found, bool, error) {
		one := r
		one.Resource = list[i]
		return found{Type: list[i].Type, ID: list[i].ID}, s.holds(c, one), nil
	})
}

// searchAction is section 8.5: what may this subject do to this resource?
func (s *Server) searchAction(c call, q *question) (any, error) {
	err := need(required{"subject.type", q.Subject.kind()}, required{"subject.id", q.Subject.id()},
		required{"resource.type", q.Resource.kind()}, required{"resource.id", q.Resource.id()})
	if err == nil {
		err = allowed(c.rights.Search, *q.Resource.Type, "search")
	}
	if err != nil {
		return nil, err
	}
	m := q.member
	m.Action = nil
	r, err := s.request(c, m)
	if err != nil {
		return nil, err
	}
	actions := s.actions(r.Resource.Type)
	return s.paged(c, q, len(actions), func(i int) (found, bool, error) {
		one := r
		one.Action = actions[i]
		return found{Name: string(actions[i])}, s.holds(c, one), nil
	})
}

// holds asks one candidate. A result that calls for an obligation which the
// caller cannot carry out is dropped, as the decision point denies it.
func (s *Server) holds(c call, r authz.Request) bool {
	return s.opt.Decide(c.ctx, r).Allowed()
}

// paged walks n candidates from where the page begins and stops when the page
// is full. A page may end before that, when the candidates together are too large
// or the caller has asked too much for now: its token goes on from there.
func (s *Server) paged(c call, q *question, n int, candidate func(i int) (found, bool, error)) (any, error) {
	at, limit, err := s.begin(c, q)
	if err != nil {
		return nil, err
	}
	out := results{Results: []found{}}
	begin, most := at, scanned(q)
	for ; at < n && at-begin < most && len(out.Results) < limit; at++ {
		if err := c.alive(); err != nil {
			return nil, err
		}
		if err := s.opt.Spend(c.ctx, 1); err != nil && at == begin {
			return nil, err
		} else if err != nil {
			break
		}
		f, ok, err := candidate(at)
		if err != nil {
			return nil, err
		}
		if ok {
			out.Results = append(out.Results, f)
		}
	}
	out.Page = &nextPage{}
	if at < n {
		out.Page.NextToken = s.token(c, q, at)
	}
	return out, nil
}
