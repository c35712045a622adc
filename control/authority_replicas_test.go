package control_test

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rampart-security/rampart/control"
	"github.com/rampart-security/rampart/internal/planelink"
	"github.com/rampart-security/rampart/store"
	"github.com/rampart-security/rampart/test/pgtest"
	"github.com/rampart-security/rampart/tls/svid"
)

// dying is a store whose process is killed right after it has changed what is
// sealed: the change is stored, and whoever made it does nothing more.
type dying struct {
	store.Store
	armed *atomic.Bool
}

var errKilled = errors.New("killed")

func (d dying) SwapSealed(ctx context.Context, name string, old, next []byte) (bool, error) {
	if done, err := d.Store.SwapSealed(ctx, name, old, next); err != nil || !d.armed.Load() {
		return done, err
	}
	return false, errKilled
}

// pairInRotation are two control planes on one database, and a plane at each.
type pairInRotation struct {
	t     *testing.T
	a, b  *house
	at    map[*house]*planelink.Link
	dying atomic.Bool // a, at its next change
}

func newPairInRotation(t *testing.T) *pairInRotation {
	t.Helper()
	db := onPostgres(pgtest.Start(t))
	r := &pairInRotation{t: t}
	r.a, r.b = replicas(t, db)
	r.a.stop()
	r.a.openDB = func(ctx context.Context) (store.Store, error) {
		st, err := db(ctx)
		return dying{st, &r.dying}, err
	}
	r.a.start()
	r.at = map[*house]*planelink.Link{r.b: r.b.link()} // a is killed, and its planes with it
	return r
}

// killedIn kills a within a step, and starts it again.
func (r *pairInRotation) killedIn(to string) {
	r.t.Helper()
	r.dying.Store(true)
	if err := r.a.step(to); err == nil {
		r.t.Errorf("%s was answered by a process that is dead", to)
	}
	r.a.stop()
	r.dying.Store(false)
}

// issues has both control planes issue, and everybody believe what they did: the
// files of both, and the plane that listens. It returns the issuers' key ids.
func (r *pairInRotation) issues(step string, houses ...*house) (by []string) {
	r.t.Helper()
	for _, h := range houses {
		until(r.t, "it stands at "+step, func() bool { return h.caStatus().Step == step })
		chain := h.issued()
		by = append(by, hex.EncodeToString(chain[0].AuthorityKeyId))
		for _, other := range houses {
			roots, err := os.ReadFile(other.state.Path("ca.pem"))
			must(r.t, err)
			verify(r.t, step, chain, roots)
		}
		for _, link := range r.at {
			verify(r.t, step, chain, link.State().Trust.Roots)
		}
	}
	return by
}

// issued is a certificate of the service orders with what lies above it.
func (h *house) issued() []*x509.Certificate {
	h.t.Helper()
	_, csr, err := svid.NewKeyAndCSR()
	must(h.t, err)
	id, err := control.IssueIdentity(h.plane, csr)
	must(h.t, err)
	chain, err := svid.ParseChain(id.Chain)
	must(h.t, err)
	return chain
}

// signingRoot is the key id of the root that new certificates chain to.
func (h *house) signingRoot() string {
	for _, root := range h.caStatus().Roots {
		if root.Signs {
			return root.KeyID
		}
	}
	return ""
}

func verify(t *testing.T, step string, chain []*x509.Certificate, rootsPEM []byte) {
	t.Helper()
	roots, above := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(rootsPEM)
	for _, c := range chain[1:] {
		above.AddCert(c)
	}
	opt := x509.VerifyOptions{Roots: roots, Intermediates: above, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, CurrentTime: chain[0].NotBefore.Add(2 * time.Minute)}
	if _, err := chain[0].Verify(opt); err != nil {
		t.Errorf("at step %q somebody does not believe: %v", step, err)
	}
}

// both takes one step at both at once, and demands that one of them took it.
func (r *pairInRotation) both(to string) {
	r.t.Helper()
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for i, h := range []*house{r.a, r.b} {
		wg.Go(func() { errs[i] = h.step(to) })
	}
	wg.Wait()
	if (errs[0] == nil) == (errs[1] == nil) {
		r.t.Fatalf("%s was taken by both or none: %v", to, errs)
	}
}

// settled waits until both stand at a step and have told everybody.
func (r *pairInRotation) settled(step string, roots int) {
	r.t.Helper()
	until(r.t, "both stand at "+step, func() bool {
		ready := r.a.caStatus().Step == step && r.b.caStatus().Step == step && r.a.rootsOnDisk() == roots && r.b.rootsOnDisk() == roots
		for _, link := range r.at {
			ready = ready && link.State().Trust.Version == r.b.caStatus().Version
		}
		return ready
	})
}

// TestRotationAcrossReplicas: one control plane begins to replace the root and dies
// right after each of its steps is stored; the other goes on, both issue, and
// everybody believes what they issue, at every step.
func TestRotationAcrossReplicas(t *testing.T) {
	r := newPairInRotation(t)
	old := r.issues("", r.a, r.b)[0]
	r.killedIn("prepare")
	r.issues("prepare", r.b)
	r.a.start()
	r.issues("prepare", r.a, r.b)

	r.killedIn("publish") // stored, and told nobody
	until(t, "the other tells of both roots", func() bool { return r.b.rootsOnDisk() == 2 })
	r.issues("publish", r.b)
	r.a.start()
	r.settled("publish", 2)
	if by := r.issues("publish", r.a, r.b); by[0] != old || by[1] != old {
		t.Errorf("before the new root counts %q sign, want %s", by, old)
	}
	until(t, "the plane has acknowledged", func() bool { return len(r.b.caStatus().Waiting) == 0 })
	r.both("activate")
	if by := r.issues("activate", r.a, r.b); by[0] == old || by[0] != by[1] { // at once: whoever was slower has overtaken nobody
		t.Errorf("%q sign after the step, and %s before it", by, old)
	}
	refusedWith(t, r.b.step("retire"), r.b.sys.ServiceID("orders"))
	until(t, "both have certificates of their own from the new root", func() bool {
		list, err := r.b.db.LiveIssued(t.Context(), r.b.signingRoot(), time.Now(), 100)
		own := slices.DeleteFunc(list, func(c store.Certificate) bool { return c.Kind != "own" })
		return err == nil && len(own) == 2
	})
	r.a.pass(time.Hour + time.Minute)
	r.b.pass(time.Hour + time.Minute)
	r.at = nil // its own clock stands where it did
	until(t, "nothing needs the old root", func() bool { return len(r.a.caStatus().Waiting) == 0 })
	r.both("retire")
	r.settled("", 1)
	r.issues("", r.a, r.b)
}
