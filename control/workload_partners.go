package control

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/network/egress"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/tls/profile"
	"github.com/rampart-security/rampart/tls/svid"
	"github.com/rampart-security/rampart/tls/workload/trustbundle"
)

// How partners' bundles are followed.
const (
	partnerTime  = 15 * time.Second // of one fetch
	partnerSoon  = 5 * time.Second  // after the first failure; it doubles
	partnerHint  = 5 * time.Minute  // where a bundle gives no hint (Trust Domain and Bundle section 6.1)
	partnerLeast = 10 * time.Second // whatever the hint
	partnerMost  = time.Hour

	profileSPIFFE = "https_spiffe"
)

// sealedBundle is the name under which the last good bundle of a partner is kept.
func sealedBundle(domain string) string { return "bundle:" + domain }

// partner is another trust domain whose bundle is followed. Its bundle is never
// joined with another's, and its name is the file's: nothing that it publishes
// can say that it is somebody else.
type partner struct {
	domain string
	spec.Federation
	client *http.Client
	begin  trustbundle.Bundle // https_spiffe: the one of the file

	mu    sync.Mutex // guards below
	held  heldBundle
	lost  bool // the last fetch failed: it is on record
	ended bool // held is too old: it is on record
}

// heldBundle is the last good bundle and when it was fetched, as it is stored.
type heldBundle struct {
	Document []byte    `json:"document"`
	Fetched  time.Time `json:"fetched"`
	From     string    `json:"from"` // endpoint

	bundle trustbundle.Bundle
}

// fresh reports whether the bundle counts: its domain is believed until it is as
// old as the file allows, and then not at all.
func (h heldBundle) fresh(f spec.Federation, now time.Time) bool {
	return len(h.Document) > 0 && now.Sub(h.Fetched) < time.Duration(f.MaxAge)
}

// openPartners takes in what was known at the last run, so that a restart while a
// partner is away changes nothing.
func (p *Plane) openPartners(ctx context.Context) (map[string]*partner, error) {
	out := map[string]*partner{}
	for domain, f := range p.system().Trust.Federate {
		at := &partner{domain: domain, Federation: f}
		if err := p.connectPartner(at); err != nil {
			return nil, fmt.Errorf("trust.federate.%s: %w", domain, err)
		}
		held, err := p.storedBundle(ctx, at)
		if err != nil {
			return nil, fmt.Errorf("trust.federate.%s: %w", domain, err)
		}
		at.held = held
		out[domain] = at
	}
	return out, nil
}

// connectPartner makes the way to a bundle endpoint: one host, no redirect, no
// proxy.
func (p *Plane) connectPartner(at *partner) error {
	u, err := url.Parse(at.Endpoint)
	if err != nil {
		return err
	}
	at.client = &http.Client{
		Timeout:       partnerTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	if at.Profile == profileSPIFFE {
		return p.connectSPIFFE(at)
	}
	roots, err := providerRoots(p.system(), at.CA)
	if err != nil {
		return err
	}
	at.client.Transport, err = egress.New(egress.Options{
		Host: u.Host, Methods: []string{http.MethodGet}, Paths: []string{"/*"}, Resolver: p.opt.Resolver,
		TLS: func(name string) (*tls.Config, error) { return profile.External(name, roots, tls.VersionTLS12), nil },
		// A partner with a CA of its own is one of the house, and lives at an
		// address of the house; only it can show such a certificate.
		AnyAddress: roots != nil || p.system().Off("egress.private_ip"),
	})
	return err
}

// connectSPIFFE verifies the endpoint by the newest bundle there is of its trust
// domain (SPIFFE Federation section 5.2.2.4): an address proves nothing, so any
// will do.
func (p *Plane) connectSPIFFE(at *partner) error {
	text, ok := p.system().Resource(at.Bundle)
	if !ok {
		return fmt.Errorf("%s is not in the bundle", at.Bundle)
	}
	var err error
	if at.begin, err = trustbundle.Parse(at.domain, text); err != nil {
		return err
	}
	at.client.Transport = &http.Transport{
		TLSClientConfig: profile.Federated(at.Identity, at.endpointTrust), Proxy: nil, ForceAttemptHTTP2: true, DisableCompression: true,
		TLSHandshakeTimeout: partnerTime, ResponseHeaderTimeout: partnerTime, MaxResponseHeaderBytes: 64 << 10, DisableKeepAlives: true,
	}
	return nil
}

// endpointTrust is whom to believe about the endpoint: the bundle fetched last,
// or that of the file if it is newer, as when a person brings it because the
// partner has changed all its keys.
func (at *partner) endpointTrust() *svid.Trust {
	at.mu.Lock()
	b := at.held.bundle
	if len(at.held.Document) == 0 || at.begin.Sequence > b.Sequence {
		b = at.begin
	}
	at.mu.Unlock()
	t, err := svid.NewTrust(0, at.domain, b.Roots, nil)
	if err != nil {
		return nil // refuses
	}
	return t
}

// storedBundle reads what was kept of a partner. What came from another endpoint
// than the file names now says nothing.
func (p *Plane) storedBundle(ctx context.Context, at *partner) (heldBundle, error) {
	plain, err := p.unsealed(ctx, sealedBundle(at.domain))
	if err != nil {
		return heldBundle{}, err
	}
	var held heldBundle
	if err := json.Unmarshal(plain, &held); err != nil || held.From != at.Endpoint {
		return heldBundle{}, nil
	}
	if held.bundle, err = trustbundle.Parse(at.domain, held.Document); err != nil {
		return heldBundle{}, nil // this version reads more strictly: it is fetched anew
	}
	return held, nil
}

func (p *Plane) storeBundle(ctx context.Context, at *partner, held heldBundle) error {
	plain, err := json.Marshal(held)
	if err != nil {
		return err
	}
	return p.reseal(ctx, sealedBundle(at.domain), plain)
}

// add puts into the trust what a partner published, while it is fresh. A domain
// without roots is not told of: nobody of it is believed (Trust Domain and Bundle
// section 4.1.3).
func (at *partner) add(domain string, t *wire.Trust, now time.Time) {
	at.mu.Lock()
	defer at.mu.Unlock()
	if !at.held.fresh(at.Federation, now) {
		return
	}
	b := at.held.bundle
	t.Sequence[domain] = b.Sequence
	if len(b.Roots) > 0 {
		if t.Federated == nil {
			t.Federated = map[string][]byte{}
		}
		t.Federated[domain] = b.Roots
	}
	t.JWT[domain] = b.JWT
}

// followPartners fetches the bundles of partners until ctx ends.
func (p *Plane) followPartners(ctx context.Context) {
	p.tendWorkloads(ctx)
	var all sync.WaitGroup
	for _, at := range p.workloads.partners {
		all.Go(func() { p.followPartner(ctx, at) })
	}
	all.Wait()
}

func (p *Plane) followPartner(ctx context.Context, at *partner) {
	for failures := 0; ctx.Err() == nil; {
		next := at.hint()
		if err := p.fetchPartner(ctx, at); err != nil {
			next = min(partnerSoon<<min(failures, 10), next)
			failures++
			p.partnerLost(ctx, at, err)
		} else {
			failures = 0
		}
		// Its end comes in between, perhaps.
		for wait := next; wait > 0 && ctx.Err() == nil; wait -= partnerSoon {
			p.endPartner(ctx, at)
			sleepFor(ctx, min(wait, partnerSoon))
		}
	}
}

func sleepFor(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// hint is how long to wait after a success.
func (at *partner) hint() time.Duration {
	at.mu.Lock()
	defer at.mu.Unlock()
	d := at.held.bundle.Hint
	if d == 0 {
		d = partnerHint
	}
	return min(max(d, partnerLeast), partnerMost, max(time.Duration(at.MaxAge)/4, partnerLeast))
}

// fetchPartner fetches a bundle once, keeps it, and tells planes if it is new.
func (p *Plane) fetchPartner(ctx context.Context, at *partner) error {
	document, err := at.fetch(ctx)
	if err != nil {
		return err
	}
	now := p.opt.Now()
	next := heldBundle{Document: document, Fetched: now.UTC(), From: at.Endpoint}
	if next.bundle, err = trustbundle.Parse(at.domain, document); err != nil {
		return err
	}
	at.mu.Lock()
	old := at.held
	at.mu.Unlock()
	fresh := old.fresh(at.Federation, now)
	if err := follows(old, next, fresh); err != nil {
		return err
	}
	if err := p.storeBundle(ctx, at, next); err != nil {
		return err
	}
	if !fresh || !same(old.bundle, next.bundle) {
		if err := p.opt.Audit.Record(ctx, at.event(audit.Allowed, next.bundle, nil)); err != nil {
			return err
		}
	}
	at.mu.Lock()
	at.held, at.lost, at.ended = next, false, false
	at.mu.Unlock()
	return p.tellWorkloads(ctx)
}

// fetch makes the one call of SPIFFE Federation sections 5.2.1.4 and 5.2.2.4.
func (at *partner) fetch(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, partnerTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.Endpoint, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	res, err := at.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the endpoint answers %d", res.StatusCode)
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, trustbundle.MaxSize+1))
	if err == nil && len(text) > trustbundle.MaxSize {
		err = fmt.Errorf("the bundle is longer than %d bytes", trustbundle.MaxSize)
	}
	return text, err
}

// follows refuses a bundle that is older than the one before. What had lapsed
// does not count any more: a partner that began anew is heard again then.
func follows(old, next heldBundle, binding bool) error {
	if binding && next.bundle.Sequence < old.bundle.Sequence {
		return rampart.Errorf(rampart.Denied, authorityControl, "control: the bundle went back from sequence %d to %d", old.bundle.Sequence, next.bundle.Sequence)
	}
	return nil
}

func same(a, b trustbundle.Bundle) bool {
	return bytes.Equal(a.Roots, b.Roots) && bytes.Equal(a.JWT, b.JWT) && a.Sequence == b.Sequence
}

// partnerLost records that a bundle could not be fetched, once until it can.
func (p *Plane) partnerLost(ctx context.Context, at *partner, cause error) {
	if ctx.Err() != nil {
		return
	}
	at.mu.Lock()
	known := at.lost
	at.lost = true
	b := at.held.bundle
	at.mu.Unlock()
	p.opt.Logger.LogAttrs(ctx, slog.LevelWarn, "a partner's bundle cannot be fetched, the last good one stays", slog.String("trust_domain", at.domain), slog.Any("error", cause))
	if !known {
		p.note(at.event(audit.Failed, b, cause))
	}
}

// endPartner stops believing a partner whose bundle has become too old.
func (p *Plane) endPartner(ctx context.Context, at *partner) {
	at.mu.Lock()
	ended := len(at.held.Document) > 0 && !at.ended && !at.held.fresh(at.Federation, p.opt.Now())
	at.ended = at.ended || ended
	b := at.held.bundle
	at.mu.Unlock()
	if ended {
		p.opt.Logger.LogAttrs(ctx, slog.LevelError, "a partner is believed no more: its bundle is too old", slog.String("trust_domain", at.domain))
		p.note(at.event(audit.Refused, b, errors.New("the bundle is older than max_age")))
	}
	p.tendWorkloads(ctx)
}

func (at *partner) event(outcome audit.Outcome, b trustbundle.Bundle, cause error) audit.Event {
	e := audit.Event{Class: audit.ClassKey, Action: "federation.bundle", Outcome: outcome, Control: authorityControl, Resource: "trust_domain:" + at.domain,
		Detail: map[string]string{"sequence": fmt.Sprint(b.Sequence), "endpoint": at.Endpoint}}
	if cause != nil {
		e.Control = controlOf(cause, authorityControl)
		e.Detail["error"] = cause.Error()
	}
	return e
}
