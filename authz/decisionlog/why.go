package decisionlog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/pap"
	"github.com/rampart-security/rampart/authz/pdp"
)

// Replayed is a logged decision that was made again.
type Replayed struct {
	Entry
	Again    rampart.Decision
	Same     bool   // the two are the same JSON, byte for byte
	Was, Now []byte // the JSON of both
}

// Why makes a logged decision again from the policies that made it: set must be
// that of the bundle which Entry.Decision.Revision names, and service whose
// decision point it was, "" for the gateway. It asks nobody: every fact is in
// the question.
func Why(ctx context.Context, e Entry, set pap.Set, service string) (Replayed, error) {
	o := set.Options(service)
	o.Policy = e.Decision.Revision.Policy
	p, err := pdp.New(o)
	if err != nil {
		return Replayed{}, fmt.Errorf("decisionlog: the policies of that time do not load: %w", err)
	}
	again, err := answer(ctx, p, e.Question)
	if err != nil {
		return Replayed{}, err
	}
	r := Replayed{Entry: e, Again: again}
	var errs [2]error
	r.Was, errs[0] = json.Marshal(e.Decision)
	r.Now, errs[1] = json.Marshal(again)
	r.Same = bytes.Equal(r.Was, r.Now)
	return r, errors.Join(errs[:]...)
}

// answer asks the pure core of a decision point.
func answer(ctx context.Context, p *pdp.PDP, q pdp.Question) (rampart.Decision, error) {
	pure, ok := any(p).(interface {
		Answer(context.Context, pdp.Question) rampart.Decision
	})
	if !ok {
		return rampart.Decision{}, errors.New("decisionlog: this decision point cannot answer a logged question")
	}
	return pure.Answer(ctx, q), nil
}
