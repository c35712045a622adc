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
	r := Replayed{Entry: e, Again: p.Answer(ctx, e.Question)}
	var errs [2]error
	r.Was, errs[0] = json.Marshal(e.Decision)
	r.Now, errs[1] = json.Marshal(r.Again)
	r.Same = bytes.Equal(r.Was, r.Now)
	return r, errors.Join(errs[:]...)
}
