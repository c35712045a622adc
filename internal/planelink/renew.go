package planelink

import (
	"context"
	"crypto"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/tls/profile"
	"github.com/rampart-security/rampart/tls/svid"
)

// errExpired ends a plane whose SVID ran out and that has no proof which lasts:
// the runner starts it anew with a fresh join token.
var errExpired = errors.New("planelink: the SVID expired before the control plane came back")

// Proof lets a plane in, again and again: unlike a join token it lasts. So a plane
// that slept past the end of its certificate comes back by itself.
type Proof struct {
	Kind     string                 // wire.ProofKubernetes or wire.ProofUnix
	Identity string                 // unix: "service/orders"
	Socket   string                 // unix: path of the control plane's socket
	Evidence func() (string, error) // kubernetes: the token of this moment
	Roots    func() ([]byte, error) // PEM of whom to believe then; nil: whom the plane believed last
}

// renewal says when to ask for the next certificate.
type renewal struct {
	due  atomic.Int64  // unix nanoseconds
	wake chan struct{} // of the loop; nil: there is none

	mu      sync.Mutex // guards below
	waiting *wire.Trust
}

// now has the loop ask at once.
func (r *renewal) now() { r.soon(time.Unix(0, 0)) }

// soon has the loop ask at that time, unless it would sooner.
func (r *renewal) soon(at time.Time) {
	for {
		old := r.due.Load()
		if old <= at.UnixNano() {
			break
		}
		if r.due.CompareAndSwap(old, at.UnixNano()) {
			break
		}
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// wait keeps a trust that comes into force with the next certificate, and has the
// loop ask for that: at once, and then at intervals if it did not fit.
func (r *renewal) wait(t *wire.Trust, now time.Time) {
	if old := r.waits(t); old == nil || old.Version < t.Version {
		r.now()
		return
	}
	r.soon(now.Add(askAgain))
}

// waits replaces the trust that waits, and returns the one that did.
func (r *renewal) waits(t *wire.Trust) (old *wire.Trust) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old, r.waiting = r.waiting, t
	return old
}

// pending is the trust that waits.
func (r *renewal) pending() *wire.Trust {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.waiting
}

func (l *Link) controlID() string { return "spiffe://" + l.opt.Domain + "/control" }

// enter gets the first certificate.
func (l *Link) enter(ctx context.Context) error {
	switch {
	case l.opt.Join != "":
		return l.asStranger(ctx, l.opt.Roots, wire.PathJoin, func(csr []byte) any {
			return wire.JoinRequest{Token: l.opt.Join, CSR: csr}
		})
	case l.opt.Proof != nil:
		return l.attest(ctx)
	}
	return errors.New("neither a join token nor another proof")
}

// attest gets a certificate by the proof that lasts.
func (l *Link) attest(ctx context.Context) error {
	proof := l.opt.Proof
	roots, err := l.rootsNow()
	if err != nil {
		return fmt.Errorf("planelink: roots: %w", err)
	}
	evidence := ""
	if proof.Evidence != nil {
		if evidence, err = proof.Evidence(); err != nil {
			return fmt.Errorf("planelink: proof: %w", err)
		}
	}
	return l.asStranger(ctx, roots, wire.PathAttest, func(csr []byte) any {
		return wire.AttestRequest{Kind: proof.Kind, Evidence: evidence, Identity: proof.Identity, CSR: csr}
	})
}

// rootsNow is whom to believe about the control plane after a long sleep.
func (l *Link) rootsNow() ([]byte, error) {
	if l.opt.Proof.Roots != nil {
		return l.opt.Proof.Roots()
	}
	if t := l.State().Trust; t.Version != 0 {
		return t.Roots, nil
	}
	return l.opt.Roots, nil
}

// asStranger makes a call without a certificate, over TLS to a control plane that
// roots vouch for or over its socket, and adopts the certificate it answers with.
// roots must vouch for that too: who listens at a socket proves nothing.
func (l *Link) asStranger(ctx context.Context, roots []byte, path string, request func(csr []byte) any) error {
	key, csr, err := svid.NewKeyAndCSR()
	if err != nil {
		return err
	}
	transport, host, err := l.unproven(roots, path)
	if err != nil {
		return err
	}
	once := &Generation{link: l, host: host, control: &http.Client{Transport: transport}}
	defer once.control.CloseIdleConnections()
	id, err := once.identity(ctx, path, request(csr))
	if err != nil {
		return err
	}
	if _, err := svid.NewSnapshot(id.Chain, key, roots); err != nil {
		return fmt.Errorf("planelink: the answer is of another authority: %w", err)
	}
	return l.adopt(id, key)
}

// unproven is how a plane without a certificate reaches the control plane.
func (l *Link) unproven(roots []byte, path string) (t *http.Transport, base string, err error) {
	if p := l.opt.Proof; path == wire.PathAttest && p.Kind == wire.ProofUnix {
		t = newTransport(nil, controlWait)
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", p.Socket)
		}
		return t, "http://control", nil
	}
	cfg, err := profile.Bootstrap(roots, l.controlID())
	if err != nil {
		return nil, "", err
	}
	return newTransport(cfg, controlWait), "https://" + l.opt.Control, nil
}

func (l *Link) renew(ctx context.Context) error {
	key, csr, err := svid.NewKeyAndCSR()
	if err != nil {
		return err
	}
	id, err := l.Now().identity(ctx, wire.PathRenew, wire.RenewRequest{CSR: csr})
	if err != nil {
		return err
	}
	return l.adopt(id, key)
}

// identity asks for a certificate.
func (g *Generation) identity(ctx context.Context, path string, in any) (wire.Identity, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	res, err := g.request(ctx, http.MethodPost, path, in)
	if err != nil {
		return wire.Identity{}, err
	}
	defer drain(res.Body)
	var id wire.Identity
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(&id); err != nil {
		return wire.Identity{}, fmt.Errorf("planelink: bad identity: %w", err)
	}
	return id, nil
}

// adopt begins a generation, and takes over a trust that waited for it.
func (l *Link) adopt(id wire.Identity, key crypto.Signer) error {
	if _, err := l.newGeneration(id, key); err != nil {
		return err
	}
	if t := l.renewal.pending(); t != nil {
		return l.believe(t)
	}
	return nil
}

// askAgain is how often a plane whose service was disabled asks whether it may
// act again.
const askAgain = 10 * time.Second

// renewLoop renews at half life, ten percent early or late so that a fleet
// does not come at once, and retries until the certificate is dead. One that
// was voided, as its service was disabled, is dead once the service is enabled.
// A plane with a proof that lasts then attests anew, for as long as it takes;
// without one it takes a join token to come back, and the plane ends.
func (l *Link) renewLoop(ctx context.Context) error {
	for ctx.Err() == nil {
		l.untilRenewal(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if l.opt.Now().UnixNano() < l.renewal.due.Load() && l.Disabled() == nil {
			continue
		}
		err := l.renewOrAttest(ctx)
		if err == nil || ctx.Err() != nil {
			continue
		}
		if l.opt.Proof == nil && rampart.KindOf(err) == rampart.Unauthenticated {
			return err
		}
		if l.opt.Proof == nil && l.expired() {
			return errExpired
		}
		l.opt.Logger.LogAttrs(ctx, slog.LevelWarn, "SVID not renewed; will try again", slog.Any("error", err))
		sleep(ctx, min(max(l.Now().life()/20, 100*time.Millisecond), askAgain))
	}
	return nil
}

// untilRenewal waits until the certificate may be due; a clock that jumps is
// noticed within ten seconds.
func (l *Link) untilRenewal(ctx context.Context) {
	life := l.Now().life()
	until := time.Unix(0, l.renewal.due.Load()).Sub(l.opt.Now())
	if l.Disabled() != nil {
		until = max(until, askAgain)
	}
	t := time.NewTimer(min(max(until, 0), max(life/20, time.Second), askAgain))
	defer t.Stop()
	select {
	case <-t.C:
	case <-l.renewal.wake:
	case <-ctx.Done():
	}
}

func (l *Link) expired() bool { return l.opt.Now().UnixNano() > l.notAfter.Load() }

// renewOrAttest shows the certificate while it counts, and the proof that lasts
// when it does not.
func (l *Link) renewOrAttest(ctx context.Context) error {
	if l.opt.Proof == nil || !l.expired() {
		err := l.renew(ctx)
		if rampart.KindOf(err) == rampart.Unavailable && l.turnedAway(ctx) {
			err = rampart.Errorf(rampart.Unauthenticated, controlRevoked, "planelink: the control plane takes this certificate no more")
		}
		if err == nil || l.opt.Proof == nil || rampart.KindOf(err) != rampart.Unauthenticated {
			return err
		}
	}
	return l.attest(ctx)
}

// turnedAway reports whether the control plane answers, and refuses the
// certificate in the handshake: it, its issuer or its root was revoked. A call
// cannot tell that from an outage, as in TLS 1.3 the refusal comes after the
// client is done, and HTTP/2 swallows it. The alert is under the keys of a
// connection that the control plane has proved itself on, so nobody else makes
// planes believe it.
func (l *Link) turnedAway(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	d := tls.Dialer{Config: profile.MTLSClient(l.Now().pinned, l.controlID())}
	conn, err := d.DialContext(ctx, "tcp", l.opt.Control)
	if err == nil {
		defer conn.Close()
		conn.SetReadDeadline(time.Now().Add(time.Second)) // who took it waits for us to speak, or says nothing of an alert
		_, err = conn.Read(make([]byte, 1))
	}
	alert, ok := errors.AsType[*net.OpError](err) // as crypto/tls reports an alert of the other end
	return ok && alert.Op == "remote error"
}

// renewalDue is when to renew the certificate.
func (g *Generation) renewalDue() time.Time {
	return g.issued().Add(g.life()/2 + time.Duration((jitter()-0.5)*0.2*float64(g.life())))
}
