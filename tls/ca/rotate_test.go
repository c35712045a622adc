package ca_test

import (
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/tls/ca"
	"github.com/rampart-security/rampart/tls/svid"
)

// clock is a time that tests move.
type clock struct{ at time.Time }

func newClock() *clock { return &clock{time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time                 { return c.at }
func (c *clock) pass(d time.Duration)           { c.at = c.at.Add(d) }
func (c *clock) days(n int)                     { c.at = c.at.AddDate(0, 0, n) }
func bundle(a *ca.Authority) int                { return strings.Count(string(a.BundlePEM()), "BEGIN") }
func stepOf(a *ca.Authority) ca.Step            { s, _ := a.Step(); return s }
func newest(a *ca.Authority) ca.Cert            { return a.Roots()[len(a.Roots())-1] }
func (c *clock) new(t testing.TB) *ca.Authority { t.Helper(); return newAuthority(t, c.now) }

// steps leads an authority to where a rotation stands.
var steps = []struct {
	at ca.Step
	do func(*ca.Authority) error
}{
	{ca.StepPrepare, (*ca.Authority).Prepare},
	{ca.StepPublish, (*ca.Authority).Publish},
	{ca.StepActivate, func(a *ca.Authority) error { return a.Activate(ca.Facts{}, false) }},
}

func authorityAt(t testing.TB, c *clock, want ca.Step) *ca.Authority {
	t.Helper()
	a := c.new(t)
	for _, s := range steps {
		if stepOf(a) == want {
			break
		}
		ok(t, s.do(a))
	}
	if stepOf(a) != want {
		t.Fatalf("at %q, want %q", stepOf(a), want)
	}
	return a
}

// TestEveryStepFromEveryState: what each state allows, and what peers believe
// and who signs afterwards.
func TestEveryStepFromEveryState(t *testing.T) {
	verbs := map[string]func(*ca.Authority) error{
		"prepare":  (*ca.Authority).Prepare,
		"publish":  (*ca.Authority).Publish,
		"activate": func(a *ca.Authority) error { return a.Activate(ca.Facts{}, false) },
		"retire":   func(a *ca.Authority) error { return a.Retire(ca.Facts{}, false) },
		"rollback": func(a *ca.Authority) error { return a.Rollback(ca.Facts{}, false) },
	}
	type result struct {
		step   ca.Step
		bundle int    // roots that peers believe
		signs  string // which root
		moved  bool   // the bundle has a new version
	}
	allowed := map[ca.Step]map[string]result{
		ca.StepNone:     {"prepare": {ca.StepPrepare, 1, "old", false}},
		ca.StepPrepare:  {"publish": {ca.StepPublish, 2, "old", true}, "rollback": {ca.StepNone, 1, "old", false}},
		ca.StepPublish:  {"activate": {ca.StepActivate, 2, "new", true}, "rollback": {ca.StepNone, 1, "old", true}},
		ca.StepActivate: {"retire": {ca.StepNone, 1, "new", true}, "rollback": {ca.StepPublish, 2, "old", true}},
	}
	for from, want := range allowed {
		for verb, do := range verbs {
			t.Run(string(from)+" "+verb, func(t *testing.T) {
				a := authorityAt(t, &clock{time.Now()}, from)
				roots, version := a.Roots(), a.Version()
				names := map[string]string{svid.KeyID(roots[0].Certificate): "old"}
				if len(roots) == 2 {
					names[svid.KeyID(roots[1].Certificate)] = "new"
				}
				// A crash: what was stored is what goes on.
				a = reopened(t, a)
				err := do(a)
				r, can := want[verb]
				if !can {
					if rampart.KindOf(err) != rampart.Conflict || stepOf(a) != from {
						t.Fatalf("%v, and it is at %q", err, stepOf(a))
					}
					return
				}
				ok(t, err)
				a = reopened(t, a)
				c, err := a.Sign(request(t), orders, ca.IssueOptions{})
				ok(t, err)
				got := result{stepOf(a), bundle(a), names[c.Root], a.Version() > version}
				if got != r {
					t.Errorf("got %+v, want %+v", got, r)
				}
				verifyByGo(t, a, parse(t, c.Chain), ca.IssueOptions{})
			})
		}
	}
}

// reopened is the authority as the next process finds it.
func reopened(t testing.TB, a *ca.Authority) *ca.Authority {
	t.Helper()
	data, err := a.Marshal()
	ok(t, err)
	b, err := ca.Parse(data, nil)
	ok(t, err)
	return b
}

func TestCloneLeavesTheOriginal(t *testing.T) {
	a := newAuthority(t, nil)
	b := a.Clone()
	ok(t, b.Prepare())
	ok(t, b.Publish())
	ok(t, b.Activate(ca.Facts{}, true))
	if stepOf(a) != ca.StepNone || a.Version() != 1 || len(a.Roots()) != 1 || len(a.Issuers()) != 1 {
		t.Error("changing a clone changed the authority in force")
	}
}

func TestActivateWaitsForPeers(t *testing.T) {
	c := newClock()
	a := authorityAt(t, c, ca.StepPublish)
	waits := func(f ca.Facts, want string) {
		t.Helper()
		err := a.Clone().Activate(f, false)
		if want == "" {
			ok(t, err)
			return
		}
		if rampart.KindOf(err) != rampart.Conflict || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want a refusal that names %q", err, want)
		}
		if len(a.Waiting(f)) == 0 {
			t.Error("status does not say what it waits for")
		}
	}
	waits(ca.Facts{Behind: []string{"sidecar/orders"}}, "sidecar/orders has not acknowledged")
	waits(ca.Facts{Silent: true, Leaf: time.Minute}, "2026-01-01T00:25:00Z")
	waits(ca.Facts{Silent: true, Leaf: time.Hour}, "2026-01-01T01:00:00Z")
	waits(ca.Facts{Leaf: time.Hour}, "")
	ok(t, a.Clone().Activate(ca.Facts{Behind: []string{"sidecar/orders"}, Silent: true, Leaf: time.Hour}, true))
	c.pass(time.Hour)
	waits(ca.Facts{Silent: true, Leaf: time.Hour}, "")
}

// TestGuardedRetire: an old root stays as long as one live certificate needs it,
// and the refusal says whose.
func TestGuardedRetire(t *testing.T) {
	c := newClock()
	a := authorityAt(t, c, ca.StepPublish)
	leaf, err := a.Sign(request(t), orders, ca.IssueOptions{})
	ok(t, err)
	ok(t, a.Activate(ca.Facts{}, false))
	young, err := a.Sign(request(t), orders, ca.IssueOptions{})
	ok(t, err)
	rows := []ca.Live{{orders, leaf.Serial, leaf.Root, leaf.NotAfter}, {orders, young.Serial, young.Root, young.NotAfter}}
	err = a.Clone().Retire(ca.Facts{Live: rows}, false)
	if rampart.KindOf(err) != rampart.Conflict || !strings.Contains(err.Error(), leaf.Serial) || !strings.Contains(err.Error(), orders) || strings.Contains(err.Error(), young.Serial) {
		t.Errorf("refused with %v, want the old certificate named and that alone", err)
	}
	for range 100 {
		rows = append(rows, rows[0])
	}
	if err := a.Clone().Retire(ca.Facts{Live: rows}, false); !strings.Contains(err.Error(), "and 81 more") {
		t.Errorf("a refusal without end: %.200v", err)
	}
	forced := a.Clone()
	ok(t, forced.Retire(ca.Facts{Live: rows}, true))
	if bundle(forced) != 1 {
		t.Error("the old root is still believed")
	}
	ok(t, a.Retire(ca.Facts{Live: rows[1:2]}, false))
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.BundlePEM())
	chain, inter := parse(t, leaf.Chain), x509.NewCertPool()
	inter.AddCert(chain[1])
	if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: inter, CurrentTime: c.now()}); err == nil {
		t.Error("a certificate of the retired root still verifies")
	}
	if err := a.Rollback(ca.Facts{}, true); rampart.KindOf(err) != rampart.Conflict {
		t.Errorf("a retired root came back: %v", err)
	}
}

// TestRollbackIsGuardedToo: once the new root has signed, its certificates keep
// it in the bundle.
func TestRollbackIsGuardedToo(t *testing.T) {
	a := authorityAt(t, newClock(), ca.StepActivate)
	leaf, err := a.Sign(request(t), orders, ca.IssueOptions{})
	ok(t, err)
	rows := ca.Facts{Live: []ca.Live{{orders, leaf.Serial, leaf.Root, leaf.NotAfter}}}
	ok(t, a.Rollback(rows, false))
	if err := a.Rollback(rows, false); rampart.KindOf(err) != rampart.Conflict || !strings.Contains(err.Error(), leaf.Serial) {
		t.Errorf("the new root was dropped: %v", err)
	}
	ok(t, a.Rollback(ca.Facts{}, false))
	if bundle(a) != 1 || stepOf(a) != ca.StepNone {
		t.Error("not back where it began")
	}
}

// TestRevokedIssuersDoNotComeBack: what is rolled back to signs with a new key, or
// not at all.
func TestRevokedIssuersDoNotComeBack(t *testing.T) {
	a := authorityAt(t, newClock(), ca.StepPublish)
	old, _ := a.Issuing()
	ok(t, a.Activate(ca.Facts{}, false))
	revoked := ca.Facts{Revoked: []string{svid.KeyID(old.Certificate)}}
	ok(t, a.Rollback(revoked, false))
	if now, _ := a.Issuing(); svid.KeyID(now.Certificate) == svid.KeyID(old.Certificate) {
		t.Error("the issuing certificate from before signs again")
	}
}

// TestRaise: a version that a peer has seen in another life is passed, and a root
// that is under way has to be acknowledged anew.
func TestRaise(t *testing.T) {
	a := authorityAt(t, newClock(), ca.StepPublish)
	if a.Raise(a.Version()) || a.Raise(1) {
		t.Error("a version that was given out already moves us")
	}
	if !a.Raise(99) || a.Version() != 100 || a.Published() != 100 {
		t.Errorf("version %d, published with %d; want 100 and 100", a.Version(), a.Published())
	}
}

// TestIssuedAfter: who comes back while its cut-off is ahead is dated past it, and
// good at once.
func TestIssuedAfter(t *testing.T) {
	c := newClock()
	c.pass(300 * time.Millisecond)
	a := c.new(t)
	for ahead, dated := range map[time.Duration]time.Duration{
		-time.Hour: 0, -time.Millisecond: time.Second, 0: time.Second, 7 * time.Second: 8 * time.Second,
	} {
		cutoff := c.now().Add(ahead)
		got, err := a.Sign(request(t), orders, ca.IssueOptions{After: cutoff})
		ok(t, err)
		leaf := parse(t, got.Chain)[0]
		if want := c.now().Add(dated).Truncate(time.Second); !got.Issued.Equal(want) || !leaf.NotBefore.Equal(want.Add(-ca.Skew)) || !got.Issued.After(cutoff) {
			t.Errorf("cut-off %v ahead: dated %v, begins %v; want %v", ahead, got.Issued, leaf.NotBefore, want)
		}
		if leaf.NotBefore.After(c.now()) {
			t.Errorf("cut-off %v ahead: not good yet", ahead)
		}
	}
	if _, err := a.Sign(request(t), orders, ca.IssueOptions{After: c.now().Add(2 * time.Minute)}); rampart.KindOf(err) != rampart.Unavailable {
		t.Errorf("a cut-off that no clock of ours can have set: %v", err)
	}
}

// TestTimers: half the life, two thirds of it, and no step early.
func TestTimers(t *testing.T) {
	c := newClock()
	a := c.new(t)
	for _, tc := range []struct {
		day  int
		want ca.Step
		do   func() error
	}{
		{181, ca.StepNone, nil},
		{183, ca.StepPrepare, a.Prepare},
		{183, ca.StepPublish, a.Publish},
		{183, ca.StepNone, nil},
		{242, ca.StepNone, nil},
		{244, ca.StepActivate, func() error { return a.Activate(ca.Facts{}, false) }},
		{244, "retire", func() error { return a.Retire(ca.Facts{}, false) }},
		{244, ca.StepNone, nil}, // the new root is young
	} {
		c.at = newClock().at.AddDate(0, 0, tc.day)
		if got := a.Due(); got != tc.want {
			t.Fatalf("day %d: due is %q, want %q", tc.day, got, tc.want)
		}
		if tc.do != nil {
			ok(t, tc.do())
		}
	}
	early := authorityAt(t, newClock(), ca.StepPublish)
	if got := early.Due(); got != ca.StepNone {
		t.Errorf("a rotation begun by hand went on by itself: %q", got)
	}
}

func TestCRL(t *testing.T) {
	a := newAuthority(t, nil)
	leaf, err := a.Sign(request(t), orders, ca.IssueOptions{})
	ok(t, err)
	text, err := a.CRL(func(keyID string) []ca.Voided {
		if keyID != leaf.Issuer {
			return nil
		}
		return []ca.Voided{{Serial: leaf.Serial, At: time.Now()}}
	})
	ok(t, err)
	block, rest := pem.Decode(text)
	list, err := x509.ParseRevocationList(block.Bytes)
	ok(t, err)
	issuing, _ := a.Issuing()
	ok(t, list.CheckSignatureFrom(issuing.Certificate))
	if n := len(list.RevokedCertificateEntries); n != 1 || list.RevokedCertificateEntries[0].SerialNumber.Text(16) != leaf.Serial {
		t.Errorf("%d entries", n)
	}
	if block, _ = pem.Decode(rest); block == nil {
		t.Error("the root's own list is missing")
	}
}
