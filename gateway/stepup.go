package gateway

import (
	"net/http"
	"net/url"
	"time"

	"github.com/rampart-security/rampart/internal/problem"
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
	return problem.StepUp(d.ACR, d.MaxAge, comeBack(c.r))
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
