package control

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/store"
	"github.com/rampart-security/rampart/tls/ca"
)

// issueTries bounds how often a certificate is signed anew because the
// authority changed meanwhile.
const issueTries = 3

// certify signs a certificate and writes it down: the row precedes the record
// and the delivery, which are the caller's. If another replica has changed who
// signs since, what was signed is dropped: whoever retires a root must have seen
// every certificate below it.
func (p *Plane) certify(ctx context.Context, kind, id string, sign func(*ca.Authority) (ca.Certificate, error)) (ca.Certificate, error) {
	for range issueTries {
		held := p.ca()
		c, err := sign(held.Authority)
		if err != nil {
			return ca.Certificate{}, err
		}
		row := store.Certificate{Issuer: c.Issuer, Serial: c.Serial, Root: c.Root, ID: id, Kind: kind, Issued: c.Issued, NotAfter: c.NotAfter}
		if err := p.authority.rows.put(ctx, row); err != nil {
			return ca.Certificate{}, unavailable(err)
		}
		stored, err := p.opt.Store.Sealed(ctx, sealedCA)
		if err != nil {
			return ca.Certificate{}, unavailable(err)
		}
		if bytes.Equal(stored, held.sealed) {
			return c, nil
		}
		if err := p.reloadAuthority(ctx); err != nil {
			return ca.Certificate{}, err
		}
		if now := p.ca().Issuers(); len(now) > 0 && now[0].KeyID == c.Issuer {
			return c, nil // something else changed
		}
	}
	return ca.Certificate{}, rampart.Errorf(rampart.Unavailable, authorityControl, "control: the authority is being changed; try again")
}

// issuedRows writes rows of many callers in one transaction: a flush to disk
// costs more than all signatures that wait for it. The zero value needs a store.
type issuedRows struct {
	store store.Issued

	mu      sync.Mutex
	waiting []issuedRow
	writing bool
}

type issuedRow struct {
	row  store.Certificate
	done chan error
}

// maxIssuedRows is how many rows one transaction has.
const maxIssuedRows = 256

// put returns once the row is durable.
func (b *issuedRows) put(ctx context.Context, row store.Certificate) error {
	r := issuedRow{row, make(chan error, 1)}
	b.mu.Lock()
	b.waiting = append(b.waiting, r)
	if !b.writing {
		b.writing = true
		go b.write() // ends when nobody waits any more
	}
	b.mu.Unlock()
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return ctx.Err() // the row may be written still; a certificate too many on record hurts nobody
	}
}

func (b *issuedRows) write() {
	for {
		b.mu.Lock()
		n := min(len(b.waiting), maxIssuedRows)
		batch := b.waiting[:n:n]
		b.waiting = b.waiting[n:]
		if n == 0 {
			b.writing, b.waiting = false, nil
			b.mu.Unlock()
			return
		}
		b.mu.Unlock()
		err := b.flush(batch)
		for _, r := range batch {
			r.done <- err
		}
	}
}

func (b *issuedRows) flush(batch []issuedRow) error {
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	rows := make([]store.Certificate, len(batch))
	for i, r := range batch {
		rows[i] = r.row
	}
	return b.store.PutIssued(ctx, rows)
}

// issue signs a workload's certificate, writes it down, records it and delivers
// it, in this order. The action of the event says by what proof: "svid.join",
// "svid.renew", "svid.kubernetes" or "svid.unix".
func (p *Plane) issue(w http.ResponseWriter, r *http.Request, csr []byte, id identity, e audit.Event) error {
	e.Subject = id.id
	if err := p.mayAct(r.Context(), id); err != nil {
		return p.refuse(r.Context(), e, err)
	}
	if err := p.catchUp(r.Context()); err != nil {
		return p.refuse(r.Context(), e, err)
	}
	return p.deliver(w, r, strings.TrimPrefix(e.Action, "svid."), id.id, e, func(a *ca.Authority) (ca.Certificate, error) {
		opt := p.issueOptions()
		opt.After = p.tokens.Cutoff(id.id) // whoever proves anew is past it at once; what is renewed is judged again
		return a.Sign(csr, id.id, opt)
	})
}

// stillWelcome judges, once a certificate is signed and before anybody has it,
// whoever asked for it and the certificate itself, by all that any control plane
// has revoked. What is revoked after that has a cut-off past the date of this
// certificate. Without the store it is not known, and nothing is delivered.
func (p *Plane) stillWelcome(w http.ResponseWriter, r *http.Request, e audit.Event, c ca.Certificate) error {
	if err := p.catchUp(r.Context()); err != nil {
		return err
	}
	if a, ok := w.(*answering); ok { // who joins shows no certificate
		if err := a.judge(); err != nil {
			return err
		}
	}
	id := p.ids[e.Subject]
	if err := p.mayAct(r.Context(), id); err != nil {
		return err
	}
	if p.tokens.Voided(wire.RevokedIssuer, c.Issuer) || p.tokens.Voided(wire.RevokedIssuer, c.Root) {
		return rampart.Errorf(rampart.Unavailable, authorityControl, "control: the authority was revoked meanwhile; try again")
	}
	if strings.HasPrefix(e.Action, "svid.") && p.tokens.Disabled(id.id, c.Issued) {
		return rampart.Errorf(rampart.Unauthenticated, "mtls.peer_declared", "control: %s was revoked meanwhile; join anew", id.path())
	}
	return nil
}

// deliver certifies, judges again, records and answers.
func (p *Plane) deliver(w http.ResponseWriter, r *http.Request, kind, name string, e audit.Event, sign func(*ca.Authority) (ca.Certificate, error)) error {
	c, err := p.certify(r.Context(), kind, name, sign)
	if err == nil {
		err = p.stillWelcome(w, r, e, c)
	}
	if err != nil {
		return p.refuse(r.Context(), e, err)
	}
	e.Outcome = audit.Allowed
	detail := certDetail(c)
	for k, v := range e.Detail {
		detail[k] = v
	}
	e.Detail = detail
	if err := p.opt.Audit.Record(r.Context(), e); err != nil {
		return err
	}
	id := wire.Identity{Chain: c.Chain, Bundle: p.ca().BundlePEM(), NotAfter: c.NotAfter}
	if strings.HasPrefix(name, "spiffe://") {
		id.ID = name
	}
	return writeJSON(w, id)
}

func (p *Plane) issueOptions() ca.IssueOptions { return ca.IssueOptions{TTL: p.leafLife()} }

// leafLife is the life of a workload's certificate.
func (p *Plane) leafLife() time.Duration {
	if p.opt.SVIDTTL > 0 {
		return p.opt.SVIDTTL
	}
	return time.Duration(p.system().Trust.Leaf)
}

func certDetail(c ca.Certificate) map[string]string {
	sum := sha256.Sum256(c.Chain[0])
	return map[string]string{
		"x5t#S256": base64.RawURLEncoding.EncodeToString(sum[:]), "not_after": c.NotAfter.UTC().Format(time.RFC3339),
		"serial": c.Serial, "issuer": c.Issuer,
	}
}

// serveEdgeCert gives the gateway its public certificate for localhost.
func (p *Plane) serveEdgeCert(w http.ResponseWriter, r *http.Request, id identity) error {
	var q wire.RenewRequest
	if err := readJSON(r, &q); err != nil {
		return err
	}
	e := audit.Event{Class: audit.ClassKey, Action: "edge_cert.issue", Control: "tls.min13", Subject: id.id, Peer: r.RemoteAddr}
	if id.kind != "gateway" {
		return p.refuse(r.Context(), e, rampart.Errorf(rampart.Denied, "mtls.peer_declared", "control: only the gateway has a public certificate"))
	}
	return p.deliver(w, r, "edge", "localhost", e, func(a *ca.Authority) (ca.Certificate, error) {
		// No longer than a workload's: a root cannot retire while this one lives.
		return a.Sign(q.CSR, "", ca.IssueOptions{DNS: localNames(p.system()), IPs: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, ServerOnly: true, TTL: p.leafLife()})
	})
}
