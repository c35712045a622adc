package gateway

import (
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/ratelimit"
	"github.com/rampart-security/rampart/ratelimit/ring"
	"github.com/rampart-security/rampart/spec"
)

// ipLimit is the first of the four layers: by network address, before anything
// that costs.
type ipLimit struct{ limiter ratelimit.Limiter }

func (s ipLimit) check(c *call) error {
	return limited(c, s.limiter.Allow(ratelimit.IPKey(c.ip), 1), "ip", "limit.ip")
}

func limited(c *call, v ratelimit.Verdict, name, control string) error {
	ratelimit.Headers(c.w.Header(), v, name)
	if v.OK {
		return nil
	}
	return rampart.Errorf(rampart.Limited, control, "too many requests; try again in %d seconds", max(1, int(v.RetryAfter.Seconds()+0.999)))
}

// planLimit is the second layer: what the API key's plan allows.
type planLimit struct{}

func (planLimit) check(c *call) error {
	if c.keyID == "" {
		return nil
	}
	l, ok := c.table.plans[c.plan]
	if !ok {
		return rampart.Errorf(rampart.Denied, "limit.api_key", "the API key has no plan")
	}
	return limited(c, l.Allow(c.keyID, 1), "plan", "limit.api_key")
}

// userLimit is the third layer: by the subject itself, whatever addresses, keys
// and ways in it uses. What the widest way in allows bounds all of them
// together; each is bounded by its own rate besides.
type userLimit struct{}

func (userLimit) check(c *call) error {
	if v := c.table.user.Allow(c.principal.Subject, 1); !v.OK {
		return limited(c, v, "user", "limit.user")
	}
	return limited(c, c.entry.users.Allow(c.principal.Subject, 1), "user", "limit.user")
}

// limits builds one ring per layer: by address, by plan, by user, and by user
// and flow.
func (t *table) limits(flows []spec.Flow, now func() time.Time) {
	var ip, user spec.Rate
	for _, f := range flows {
		ip = wider(ip, f.Limit.IP) // the address is counted before the flow is known: the widest declared rate
		user = wider(user, f.Limit.User)
		need := required(t.sys, f)
		t.entries = append(t.entries, entry{flow: f, need: need, users: newRing(f.Limit.User, now)})
		if need == byAPIKey|byJWT {
			t.keyed[f.From] = true
		}
	}
	t.ip, t.user = newRing(ip, now), newRing(user, now)
	for name, p := range t.sys.Plans {
		t.plans[name] = newRing(p.APIKey, now)
	}
}

// wider returns the rate that lets more through; a zero Rate lets nothing.
func wider(a, b spec.Rate) spec.Rate {
	if perSecond(b) > perSecond(a) {
		return b
	}
	return a
}

func perSecond(r spec.Rate) float64 {
	if r.Per <= 0 {
		return 0
	}
	return float64(r.N) / r.Per.Seconds()
}

func newRing(r spec.Rate, now func() time.Time) ratelimit.Limiter {
	return ring.New(r.N, r.Per, ring.Options{Now: now})
}
