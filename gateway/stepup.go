package gateway

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/spec"
)

// stepUp asks for a stronger or fresher login where the file does (RFC 9470). It
// runs after authorization: who may not do it anyway need not prove more first.
type stepUp struct{ now func() time.Time }

func (s stepUp) check(c *call) error {
	f := &c.target.flow
	if len(f.StepUp) == 0 {
		return nil
	}
	path, _ := c.target.strip(c.path)
	d := f.Demand(c.r.Method, path)
	if d.MetBy(c.principal, s.now()) {
		return nil
	}
	return stepUpOf(c, d)
}

// stepUpOf is the refusal, in the words of the credential that was shown: only a
// session has a page to be sent to, and a token that is bound to a key has a scheme
// of its own (RFC 9449, section 7.1).
func stepUpOf(c *call, d spec.Demand) error {
	if c.cred.kind == wire.TypeSession {
		return problem.StepUp(d.ACR, d.MaxAge, comeBack(c.r))
	}
	err := problem.StepUp(d.ACR, d.MaxAge, "")
	if details, ok := errors.AsType[*problem.Details](err); ok && c.bound {
		details.Challenge = "DPoP" + strings.TrimPrefix(details.Challenge, "Bearer")
	}
	return err
}

// comeBack is where a person goes on after the step-up: to the page that was
// asked for, or to the one that sent the request.
func comeBack(r *http.Request) string {
	if !unsafeMethod(r.Method) {
		return r.URL.RequestURI()
	}
	from, err := url.Parse(r.Referer())
	if err != nil || from.Host != r.Host || from.Path == "" {
		return "/"
	}
	return from.RequestURI()
}
