package spec

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
)

// Bounds of step_up and revocation.
const (
	minStepUpAge = 30 * time.Second // a person needs that long to prove something and come back
	maxStepUpAge = 24 * time.Hour
	maxStepUps   = 64 // per flow, each with at most as many routes
)

// routeForm is "METHOD /path"; * stands for any method, and in a path for one
// whole segment, or at its end for all that follows.
var routeForm = regexp.MustCompile(`^(\*|GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) /(([A-Za-z0-9._~!$&'()+,;=:@%-]+|\*)(/([A-Za-z0-9._~!$&'()+,;=:@%-]+|\*))*/?)?$`)

// assurance lists the levels of a login, weakest first.
var assurance = []string{"aal1", "aal2"}

// AssuranceMeets reports whether a login of level has is at least of level
// wants. An unknown level, "" included, is below every known one; wanting ""
// wants nothing, and wanting an unknown level is never met.
func AssuranceMeets(has, wants string) bool {
	if wants == "" {
		return true
	}
	level := slices.Index(assurance, wants)
	return level >= 0 && slices.Index(assurance, has) >= level
}

// Covers reports whether a request of this method and canonical path, as the
// service sees it, needs the step-up. Where readings differ it covers more
// rather than less: letter case and a slash at the end do not count, and a rule
// for GET is one for HEAD.
func (s StepUp) Covers(method, path string) bool {
	return len(s.Routes) == 0 || slices.ContainsFunc(s.Routes, func(route string) bool {
		m, pattern, _ := strings.Cut(route, " ")
		sameMethod := m == "*" || m == method || m == http.MethodGet && method == http.MethodHead
		return sameMethod && coversPath(pattern, path)
	})
}

func coversPath(pattern, path string) bool {
	want, got := segments(pattern), segments(path)
	for i, w := range want {
		switch {
		case w == "*" && i == len(want)-1:
			return len(got) > i
		case i >= len(got) || w != "*" && !strings.EqualFold(w, got[i]):
			return false
		}
	}
	return len(want) == len(got)
}

func segments(path string) []string {
	path = strings.Trim(path, "/")
	if path == "" {
		return nil
	}
	return strings.Split(path, "/")
}

// Sensitive reports whether a flow carries data of class confidential or secret
// or of critical integrity: planes that no longer hear the control plane close
// it first.
func (s *System) Sensitive(f Flow) bool {
	return slices.ContainsFunc(f.Carries, func(item string) bool {
		d := s.Data[item]
		return d.Class == "confidential" || d.Class == "secret" || d.Integrity == "critical"
	})
}

// StaleAfter is how old a plane's view of revocations may be on a flow before
// the flow closes.
func (s *System) StaleAfter(f Flow) time.Duration {
	if s.Sensitive(f) {
		return time.Duration(s.Revocation.Sensitive)
	}
	return time.Duration(s.Revocation.Other)
}

func (c *checker) stepUp(key string, f Flow) {
	if len(f.StepUp) > maxStepUps {
		c.bad(key+".step_up", fmt.Sprintf("more than %d entries", maxStepUps), "put routes of one demand into one entry")
		return
	}
	for i, s := range f.StepUp {
		at := index(key+".step_up", i)
		if s.ACR == "" && s.MaxAge == 0 {
			c.bad(at, "says neither how strong nor how fresh the login must be", "add acr: aal2, or max_age: 5m")
		}
		c.among(at+".acr", s.ACR, assurance...)
		if s.MaxAge != 0 {
			c.within(at+".max_age", s.MaxAge, minStepUpAge, maxStepUpAge)
		}
		if len(s.Routes) > maxStepUps {
			c.bad(at+".routes", fmt.Sprintf("more than %d entries", maxStepUps), `use * for a whole segment, such as "POST /payments/*/refund"`)
			continue
		}
		for j, r := range s.Routes {
			c.match(index(at+".routes", j), r, routeForm, `write "METHOD /path", such as "POST /payments/*/refund"; * is one segment, or at the end all that follows`)
		}
	}
}

func (c *checker) scope(key string, scope []string) {
	for i, p := range scope {
		c.match(index(key, i), p, permissionForm, `write "type:verb" or "type:*"`)
		if slices.Contains(scope[:i], p) {
			c.bad(index(key, i), fmt.Sprintf("%q stands twice", p), "remove one")
		}
	}
}

func (c *checker) revocation(r Revocation) {
	c.within("revocation.sensitive", r.Sensitive, 2*time.Second, time.Minute) // the control plane is heard once a second
	c.within("revocation.other", r.Other, 5*time.Second, 10*time.Minute)
	if r.Other < r.Sensitive {
		c.bad("revocation.other", fmt.Sprintf("shorter than the %s of sensitive flows", r.Sensitive), "raise it, or shorten sensitive")
	}
}

// within reports a duration that is out of bounds.
func (c *checker) within(key string, d Duration, least, most time.Duration) {
	if d < Duration(least) || d > Duration(most) {
		c.bad(key, fmt.Sprintf("%s is out of bounds", d), fmt.Sprintf("write %s to %s", Duration(least), Duration(most)))
	}
}

// Demand is what all step-ups of a flow together ask of one request. The zero
// Demand asks for nothing.
type Demand struct {
	ACR    string
	MaxAge time.Duration // since the newest proof; 0: any
}

// clockSkew is how far the clocks of planes may be apart.
const clockSkew = 5 * time.Second

// Demand joins the step-ups that cover a request: the strongest level, the
// shortest age. The path is the one that the service sees.
func (f *Flow) Demand(method, path string) Demand {
	var d Demand
	for _, s := range f.StepUp {
		if !s.Covers(method, path) {
			continue
		}
		if !AssuranceMeets(d.ACR, s.ACR) {
			d.ACR = s.ACR
		}
		if age := time.Duration(s.MaxAge); age > 0 && (d.MaxAge == 0 || age < d.MaxAge) {
			d.MaxAge = age
		}
	}
	return d
}

// MetBy reports whether p logged in well enough and recently enough. Who never
// logged in, a service or an API key used alone, meets no demand.
func (d Demand) MetBy(p rampart.Principal, now time.Time) bool {
	return AssuranceMeets(p.ACR, d.ACR) && (d.MaxAge == 0 || now.Sub(p.AuthTime) <= d.MaxAge+clockSkew)
}
