package authzen

import (
	"github.com/rampart-security/rampart"
)

// MaxWeight bounds what all questions of one request hold together, in bytes:
// each of them is put on record with its own copy of the context and the
// properties that they share.
const MaxWeight = 1 << 20

// bounded refuses a batch that is small as it arrives and large as it is asked.
func bounded(q *question) error {
	defaults, sum := q.member.weights(), 0
	for _, item := range q.Evaluations {
		w := item.weights()
		if item.Context == nil {
			w.context = defaults.context
		}
		if item.Resource == nil {
			w.resource = defaults.resource
		}
		sum += w.context + w.resource
	}
	if sum > MaxWeight {
		return rampart.Errorf(rampart.Invalid, "", "the context and the resource properties of all %d evaluations are %d bytes together, each with the defaults that it takes over; "+
			"%d is the most: ask fewer at once, or leave out of the defaults what not every evaluation needs", len(q.Evaluations), sum, MaxWeight)
	}
	return nil
}

// scanned is how many candidates one page of a search may look at: each is a
// question with the context and the properties of the search.
func scanned(q *question) int {
	w := q.member.weights()
	return max(1, MaxWeight/max(1, w.context+w.resource))
}

// weights are the sizes of the values of unknown form in one evaluation.
type weights struct{ context, resource int }

func (m member) weights() weights {
	w := weights{context: weigh(m.Context)}
	if m.Resource != nil {
		w.resource = weigh(m.Resource.Properties)
	}
	return w
}

// weigh returns about as many bytes as a value has as JSON. Its depth was bounded
// when it was read.
func weigh(v any) int {
	switch v := v.(type) {
	case string:
		return len(v) + 3
	case map[string]any:
		n := 2
		for name, e := range v {
			n += len(name) + 4 + weigh(e)
		}
		return n
	case []any:
		n := 2
		for _, e := range v {
			n += weigh(e)
		}
		return n
	}
	return 8
}
