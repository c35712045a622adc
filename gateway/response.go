package gateway

import (
	"errors"
	"net/http"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
)

// judge puts the check of the answer between a service and whoever relays its
// answers.
func (g *Gateway) judge(_ *call, rt http.RoundTripper) http.RoundTripper { return rt }

// answerError says why there is no answer to relay: it was withheld, or none
// came.
func answerError(c *call, err error) error {
	if withheld, ok := errors.AsType[*problem.Details](err); ok {
		return withheld
	}
	return &rampart.Error{Kind: rampart.Unavailable, Control: controlOf(err, ""), Msg: c.target.name + " does not answer; try again", Err: err}
}
