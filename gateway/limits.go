package gateway

import (
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/ratelimit"
	"github.com/rampart-security/rampart/spec"
)

// ipLimit is the first of the four layers: by network address, before anything
// that costs.
type ipLimit struct{ limiter ratelimit.Limiter }

func (s ipLimit) check(c *call) error {
	key := c.addr() // which is the key already, as IPKey says
	if !c.ip.Is4() {
		key = ratelimit.IPKey(c.ip)
	}
	return limited(c, s.limiter.Allow(key, 1), limitIP)
}

// limitKind is one limit that the edge counts: its name in RateLimit-Policy and in
// the problem, its control, and who met it. It says nothing that the caller does
// not know of itself.
type limitKind struct{ name, control, of string }

// The limits.
var (
	limitIP    = limitKind{"ip", "limit.ip", "too many requests from this address"}
	limitPlan  = limitKind{"plan", "limit.api_key", "too many requests with this API key"}
	limitQuota = limitKind{"quota", "limit.api_key", "the quota of this API key is used up"}
	limitUser  = limitKind{"user", "limit.user", "too many requests of this user"}
)

func limited(c *call, v ratelimit.Verdict, k limitKind) error {
	c.lines.Headers(c.w.Header(), v, k.name)
	if v.OK {
		return nil
	}
	return problem.With(rampart.Errorf(rampart.Limited, k.control, "%s; try again in %d seconds", k.of, max(1, int(v.RetryAfter.Seconds()+0.999))), problem.Details{Limit: k.name})
}

// limitedAtOnce is limited for requests in flight, of which there may be most.
func limitedAtOnce(c *call, most int) error {
	ratelimit.AtOnce(c.w.Header(), most, nameAtOnce)
	return problem.With(rampart.Errorf(rampart.Limited, "limit.api_key", "more than %d requests of this API key at once", most), problem.Details{Limit: nameAtOnce, RetryAfter: time.Second})
}

const nameAtOnce = "concurrency"

// planLimit is the second layer: what the API key's plan allows, at once, by the
// rate and by the quota. What one of them refuses costs nothing of the next.
type planLimit struct{ flight *inflight }

func (s planLimit) check(c *call) error {
	if c.keyID == "" {
		return nil
	}
	p, ok := c.table.plans[c.plan]
	if !ok {
		return rampart.Errorf(rampart.Denied, "limit.api_key", "the API key has no plan")
	}
	key := heldBy{key: c.keyID}
	if !s.flight.enter(key, p.atOnce) {
		return limitedAtOnce(c, p.atOnce)
	}
	c.onEnd(func() { s.flight.leave(key) })
	if err := limited(c, p.rate.Allow(c.keyID, 1), limitPlan); err != nil || p.quota == nil {
		return err
	}
	return limited(c, p.quota.Allow(c.keyID, 1), limitQuota)
}

// plan is what one plan allows an API key.
type plan struct {
	rate   ratelimit.Limiter
	quota  ratelimit.Limiter // nil: none
	atOnce int
}

// inflight counts requests in flight by API key and by subject. Both exist and were
// looked up, and those in flight are bounded: so is this.
type inflight struct {
	mu sync.Mutex
	n  map[heldBy]int
}

// heldBy is whose requests are counted: an API key, or a subject.
type heldBy struct{ key, subject string }

func newInflight() *inflight { return &inflight{n: map[heldBy]int{}} }

func (f *inflight) enter(who heldBy, most int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.n[who]
	if n >= most {
		return false
	}
	f.n[who] = n + 1
	return true
}

func (f *inflight) leave(who heldBy) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := f.n[who] - 1; n > 0 {
		f.n[who] = n
		return
	}
	delete(f.n, who)
}

// userShare is how many requests of one subject may be in flight: of all places a
// quarter. Streams hold one for an hour, and answers that are read slowly for
// minutes, so nobody may come to hold them all.
const userShare = maxConcurrent / 4

// userLimit is the third layer: by the subject itself, whatever addresses, keys
// and ways in it uses. What the widest way in allows bounds all of them
// together; each is bounded by its own rate besides. What is in flight of an API
// key its plan bounds.
type userLimit struct{ flight *inflight }

func (s userLimit) check(c *call) error {
	if v := c.table.user.Allow(c.principal.Subject, 1); !v.OK {
		return limited(c, v, limitUser)
	}
	if err := limited(c, c.entry.users.Allow(c.principal.Subject, 1), limitUser); err != nil || c.keyID != "" {
		return err
	}
	return s.enter(c)
}

// enter answers 503 as a full edge does: it is no sign of an attack.
func (s userLimit) enter(c *call) error {
	who := heldBy{subject: c.principal.Subject}
	if !s.flight.enter(who, userShare) {
		return problem.With(rampart.Errorf(rampart.Unavailable, "limit.user", "more than %d requests of this user at once", userShare), problem.Details{RetryAfter: time.Second, Limit: nameAtOnce})
	}
	c.hold(place{of: s.flight, who: who})
	return nil
}

// limits has one limiter per layer: by address, by plan, by user, and by user and
// flow.
func (t *table) limits(flows []spec.Flow, pick picker) {
	var ip, user spec.Rate
	for _, f := range flows {
		ip = wider(ip, f.Limit.IP) // the address is counted before the flow is known: the widest declared rate
		user = wider(user, f.Limit.User)
		need := required(t.sys, f)
		t.entries = append(t.entries, entry{flow: f, need: need, users: pick(layerUser, f.ID, f.Limit.User)})
		if need == byAPIKey|byJWT {
			t.keyed[f.From] = true
		}
	}
	t.ip, t.user = pick(layerIP, "", ip), pick(layerUser, "", user)
	for name, p := range t.sys.Plans {
		t.plans[name] = t.plan(name, p, pick)
	}
}

func (t *table) plan(name string, p spec.Plan, pick picker) plan {
	out := plan{rate: pick(layerPlan, name, p.APIKey), atOnce: p.Concurrency}
	if l := t.sys.Limits; l != nil {
		out.atOnce = max(1, p.Concurrency/l.Gateways) // each counts its own: so they hold to it together
	}
	if p.Quota != (spec.Rate{}) {
		out.quota = pick(layerQuota, name, p.Quota)
	}
	return out
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
