package control

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/ratelimit"
	"github.com/rampart-security/rampart/ratelimit/ring"
	"github.com/rampart-security/rampart/store"
	"github.com/rampart-security/rampart/tls/workload/trustbundle"
)

// Names of what the store keeps sealed.
const (
	sealedSVID = "key:jwt-svid" // the ring of keys that sign JWT-SVIDs
	sealedTold = "trust-told:"  // and the replica: digest of what planes were told
)

// Bounds of JWT-SVIDs.
const (
	svidAudiences  = 4                // a token for many is one that many can replay
	svidAudience   = 2048             // bytes
	svidsPerSecond = 200              // of one service
	svidKeyAhead   = 25 * time.Minute // five times the hint: partners know a key before it signs (SPIFFE Federation section 4.1)
)

// bundleHint is how often others should fetch our bundle.
const bundleHint = 5 * time.Minute

// bundlePath is where other trust domains find our bundle, at the edge.
const bundlePath = "/.well-known/spiffe/bundle"

// workloads are what the control plane does for clients and trust domains that
// are not ours: it signs JWT-SVIDs, publishes our bundle and follows partners'.
type workloads struct {
	asks ratelimit.Limiter // JWT-SVIDs by service

	partners map[string]*partner // by trust domain; set before Run

	telling sync.Mutex // held while planes are told
	told    []byte     // digest of what they were told last; nil: not known

	mu   sync.Mutex // guards below
	ring *jwt.Ring  // nil: trust.jwt is off
}

// openWorkloads opens the ring, if the file asks for JWT-SVIDs, and what is known
// of partners. It is called before Run.
func (p *Plane) openWorkloads(ctx context.Context) error {
	w := &p.workloads
	w.asks = ring.New(svidsPerSecond, time.Second, ring.Options{Now: p.opt.Now})
	if p.system().Trust.JWT {
		opened, err := p.openSVIDRing(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", sealedSVID, err)
		}
		w.ring = opened
	}
	var err error
	if w.partners, err = p.openPartners(ctx); err != nil {
		return err
	}
	p.authority.parts = append(p.authority.parts, p.addWorkloads)
	return nil
}

func (p *Plane) openSVIDRing(ctx context.Context) (*jwt.Ring, error) {
	plain, err := p.keys.open(ctx, p.opt, sealedSVID, func() ([]byte, error) {
		made, err := jwt.NewRing(ringOptions(sealedSVID), nil, p.opt.Now())
		if err != nil {
			return nil, err
		}
		return made.Marshal()
	})
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	return parseRing(sealedSVID, plain, p.opt.Now())
}

// addWorkloads adds to the trust the keys of JWT-SVIDs, ours and partners', and
// the partners' roots.
func (p *Plane) addWorkloads(t *wire.Trust) {
	w := &p.workloads
	w.mu.Lock()
	defer w.mu.Unlock()
	own := p.system().Info.TrustDomain
	t.JWT, t.Sequence = map[string][]byte{}, map[string]uint64{own: t.Version}
	if w.ring != nil {
		if public, err := w.ring.PublicSVIDs(); err == nil { // of keys that were made or parsed here
			t.JWT[own] = public
		}
	}
	for domain, at := range w.partners {
		at.add(domain, t, p.opt.Now())
	}
}

// tellWorkloads gives the trust a new version if what is added to it here is not
// what planes were told last. It is stored what that was: of a crash in between
// they hear at the next start. Each replica tells its own planes.
func (p *Plane) tellWorkloads(ctx context.Context) error {
	w := &p.workloads
	w.telling.Lock()
	defer w.telling.Unlock()
	now, err := p.digestWorkloads()
	if err != nil {
		return err
	}
	name := sealedTold + p.opt.Replica
	if w.told == nil {
		if w.told, err = p.unsealed(ctx, name); err != nil {
			return err
		}
	}
	if bytes.Equal(w.told, now) {
		return nil
	}
	if err := p.trustChanged(ctx); err != nil {
		return err
	}
	if err := p.reseal(ctx, name, now); err != nil {
		return err
	}
	w.told = now
	return nil
}

// digestWorkloads is empty when nothing is added, as in a system that asks for
// none of this.
func (p *Plane) digestWorkloads() ([]byte, error) {
	var t wire.Trust
	p.addWorkloads(&t)
	if len(t.JWT) == 0 && len(t.Federated) == 0 {
		return []byte{}, nil
	}
	text, err := json.Marshal(t) // maps in order
	sum := sha256.Sum256(text)
	return sum[:], err
}

// unsealed opens a value of the store; one that is not there is empty.
func (p *Plane) unsealed(ctx context.Context, name string) ([]byte, error) {
	sealed, err := p.opt.Store.Sealed(ctx, name)
	if errors.Is(err, store.ErrNotFound) {
		return []byte{}, nil
	}
	if err != nil {
		return nil, unavailable(err)
	}
	return p.keys.kek.Unwrap(ctx, sealed, sealAAD(name))
}

// reseal stores a value, in place of the one that is there.
func (p *Plane) reseal(ctx context.Context, name string, plain []byte) error {
	sealed, err := p.keys.kek.Wrap(ctx, plain, sealAAD(name))
	if err != nil {
		return err
	}
	err = p.opt.Store.PutSealed(ctx, name, sealed)
	if errors.Is(err, store.ErrExists) {
		err = p.opt.Store.ReplaceSealed(ctx, name, sealed)
	}
	return unavailable(err)
}

// tendWorkloads tells planes what could not be told before.
func (p *Plane) tendWorkloads(ctx context.Context) {
	if err := p.tellWorkloads(ctx); err != nil && ctx.Err() == nil {
		p.opt.Logger.LogAttrs(ctx, slog.LevelError, "planes are not told of keys and partners; will try again", slog.Any("error", err))
	}
}

// changeSVIDRing applies change to the ring of JWT-SVID keys as the store has it,
// and tells planes if it is another than they know, whoever changed it.
func (p *Plane) changeSVIDRing(ctx context.Context, action string, change func(*jwt.Ring) (bool, error)) error {
	w := &p.workloads
	w.mu.Lock()
	off := w.ring == nil
	w.mu.Unlock()
	if off {
		return nil
	}
	next, changed, err := p.keys.changeRing(ctx, sealedSVID, p.opt.Now(), change)
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.ring = next
	w.mu.Unlock()
	if changed {
		err = p.opt.Audit.Record(ctx, audit.Event{
			Class: audit.ClassKey, Action: action, Outcome: audit.Allowed, Control: authorityControl, Resource: sealedSVID,
			Detail: map[string]string{"active": next.Signer(p.opt.Now()).KeyID()},
		})
	}
	return errors.Join(err, p.tellWorkloads(ctx))
}

// serveJWTSVID mints a JWT-SVID for the service that calls: about itself, for an
// audience that a flow leads to or that is outside.
func (p *Plane) serveJWTSVID(w http.ResponseWriter, r *http.Request, id identity) error {
	var q wire.JWTSVIDRequest
	if err := readJSON(r, &q); err != nil {
		return err
	}
	e := audit.Event{Class: audit.ClassKey, Action: "svid.jwt", Control: authorityControl, Subject: id.id, Peer: r.RemoteAddr}
	if !p.workloads.asks.Allow(id.id, 1).OK {
		return p.refuse(r.Context(), e, rampart.Errorf(rampart.Limited, "limit.pool", "control: more than %d JWT-SVIDs a second", svidsPerSecond))
	}
	if err := p.mayHaveJWT(r.Context(), id, q.Audience); err != nil {
		return p.refuse(r.Context(), e, err)
	}
	p.workloads.mu.Lock()
	keys := p.workloads.ring
	p.workloads.mu.Unlock()
	now := p.opt.Now()
	expires := now.Add(jwt.SVIDLife).Truncate(time.Second)
	signer := keys.Signer(now)
	token, err := signer.SignSVID(jwt.SVIDClaims{Subject: id.id, Audience: q.Audience, Expires: expires.Unix(), IssuedAt: now.Unix()})
	if err != nil {
		return p.refuse(r.Context(), e, rampart.Errorf(rampart.Invalid, "token.audience", "control: a JWT-SVID for this audience cannot be made"))
	}
	e.Outcome = audit.Allowed
	e.Detail = map[string]string{"audience": strings.Join(q.Audience, " "), "kid": signer.KeyID(), "not_after": expires.UTC().Format(time.RFC3339)}
	if err := p.opt.Audit.Record(r.Context(), e); err != nil {
		return err
	}
	return writeJSON(w, wire.JWTSVID{Token: token, Expires: expires})
}

// mayHaveJWT decides whether a plane gets a JWT-SVID: the file must ask for them,
// and for this service's workload API, and an audience among us must be one that
// it has a flow to.
func (p *Plane) mayHaveJWT(ctx context.Context, id identity, audience []string) error {
	sys := p.system()
	if id.kind != "service" || !sys.Trust.JWT || !sys.Services[id.name].Workload {
		return rampart.Errorf(rampart.Denied, authorityControl, "control: rampart.yaml gives no JWT-SVID to %s: it takes trust.jwt, and workload of the service", id.path())
	}
	if len(audience) == 0 || len(audience) > svidAudiences {
		return rampart.Errorf(rampart.Invalid, "token.audience", "control: a JWT-SVID has 1 to %d audiences", svidAudiences)
	}
	for _, to := range audience {
		if to == "" || len(to) > svidAudience {
			return rampart.Errorf(rampart.Invalid, "token.audience", "control: an audience has 1 to %d bytes", svidAudience)
		}
		if p.isOurs(to) && !slices.Contains(p.reached(id.name), to) {
			return rampart.Errorf(rampart.Denied, "token.audience", "control: no flow leads from %s to %.200q", id.name, to)
		}
	}
	return p.mayAct(ctx, id)
}

// isOurs reports whether an audience is a name of our trust domain.
func (p *Plane) isOurs(audience string) bool {
	domain := "spiffe://" + p.system().Info.TrustDomain
	return strings.EqualFold(audience, domain) || len(audience) > len(domain) && strings.EqualFold(audience[:len(domain)+1], domain+"/")
}

// reached are the SPIFFE IDs that flows of a service lead to.
func (p *Plane) reached(service string) []string {
	var out []string
	for _, f := range p.system().FlowsFrom(service) {
		if _, ok := p.system().Services[f.To]; ok {
			out = append(out, p.system().ServiceID(f.To))
		}
	}
	return out
}

// bundleRoutes is what other trust domains reach: our bundle, for everybody who
// asks (SPIFFE Federation section 5.2.1.3). The edge's own certificate says whose
// it is.
func (p *Plane) bundleRoutes() map[string]handlerFunc {
	if !p.system().Trust.Serve {
		return nil
	}
	return map[string]handlerFunc{"GET " + bundlePath: p.serveBundle}
}

func (p *Plane) serveBundle(w http.ResponseWriter, _ *http.Request) error {
	t, domain := p.trust(), p.system().Info.TrustDomain
	text, err := trustbundle.Bundle{Roots: t.Roots, JWT: t.JWT[domain], Sequence: t.Version, Hint: bundleHint}.Marshal(domain)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-cache") // what was taken back must not live on in between
	h.Set("X-Content-Type-Options", "nosniff")
	_, err = w.Write(text)
	return gone(err)
}
