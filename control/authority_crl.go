package control

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/store"
	"github.com/rampart-security/rampart/tls/ca"
)

// maxListed bounds the live certificates that a CRL is made from. A list that may
// lack one is refused: whoever reads it takes what is not on it for good.
const maxListed = 100_000

// denyList is what is revoked of certificates: since when, by what the entry names.
type denyList struct {
	serials, issuers, ids map[string]time.Time
	now                   time.Time
}

// denyList reads what any control plane has revoked.
func (p *Plane) denyList(ctx context.Context) (denyList, error) {
	all, err := p.tokens.Revocations(ctx)
	if err != nil {
		return denyList{}, err
	}
	d := denyList{map[string]time.Time{}, map[string]time.Time{}, map[string]time.Time{}, p.opt.Now()}
	by := map[string]map[string]time.Time{wire.RevokedSerial: d.serials, wire.RevokedIssuer: d.issuers, "svid": d.ids}
	for _, v := range all {
		if m := by[v.Kind]; m != nil && v.NotBefore.After(m[v.ID]) {
			m[v.ID] = v.NotBefore
		}
	}
	return d, nil
}

// voids reports since when a certificate is void, and what of it was revoked; ""
// if it counts. One of which no date is on record is older than any cut-off.
func (d denyList) voids(c store.Certificate) (since time.Time, by string) {
	if at, ok := d.serials[c.Issuer+"."+c.Serial]; ok {
		return d.past(at), "serial"
	}
	for _, key := range []string{c.Issuer, c.Root} {
		if at, ok := d.issuers[key]; ok {
			return d.past(at), "issuer"
		}
	}
	if at, ok := d.ids[c.ID]; ok && !c.Issued.After(at) {
		return d.past(at), "id"
	}
	return time.Time{}, ""
}

// past is a cut-off as a date for people: those of services lie some seconds ahead
// of every clock.
func (d denyList) past(at time.Time) time.Time {
	if at.After(d.now) {
		return d.now.UTC()
	}
	return at.UTC()
}

// issued is a row of the store as an administrator sees it.
func (d denyList) issued(c store.Certificate) wire.Issued {
	out := wire.Issued{ID: c.ID, Issuer: c.Issuer, Root: c.Root, Serial: c.Serial, Kind: c.Kind, NotAfter: c.NotAfter}
	out.Revoked, out.RevokedBy = d.voids(c)
	return out
}

// adminIssued lists what is alive, at most maxLive.
func (p *Plane) adminIssued(r *http.Request, _ *audit.Event) (any, error) {
	list, err := p.opt.Store.LiveIssued(r.Context(), r.URL.Query().Get("root"), p.opt.Now(), maxLive)
	if err != nil {
		return nil, unavailable(err)
	}
	deny, err := p.denyList(r.Context())
	if err != nil {
		return nil, err
	}
	out := make([]wire.Issued, len(list))
	for i, c := range list {
		out[i] = deny.issued(c)
	}
	return out, nil
}

// adminCRL signs lists of what is revoked, for those outside who read them.
func (p *Plane) adminCRL(r *http.Request, e *audit.Event) (any, error) {
	e.Class = audit.ClassKey
	deny, err := p.denyList(r.Context())
	if err != nil {
		return nil, err
	}
	live, err := p.opt.Store.LiveIssued(r.Context(), "", p.opt.Now(), maxListed+1)
	if err != nil {
		return nil, unavailable(err)
	}
	if len(live) > maxListed {
		return nil, rampart.Errorf(rampart.Conflict, authorityControl, "control: more than %d certificates are alive, and a list that may lack one is none", maxListed)
	}
	held := p.ca()
	lists := deny.lists(held.Authority, live)
	signed := map[string]bool{} // key ids of those who have a list
	text, err := held.CRL(func(keyID string) []ca.Voided { signed[keyID] = true; return lists[keyID].entries() })
	return wire.CRL{PEM: string(text), Unlisted: deny.unlisted(live, signed)}, err
}

// revokedSerials is what one issuer's list has, by serial.
type revokedSerials map[string]time.Time

func (l revokedSerials) entries() []ca.Voided {
	var out []ca.Voided
	for serial, at := range l {
		out = append(out, ca.Voided{Serial: serial, At: at})
	}
	return out
}

// lists is what is revoked, by the key id of who signed it: certificates on record,
// those that only an entry names, and, of roots, issuing certificates.
func (d denyList) lists(a *ca.Authority, live []store.Certificate) map[string]revokedSerials {
	out := map[string]revokedSerials{}
	add := func(issuer, serial string, at time.Time) {
		if out[issuer] == nil {
			out[issuer] = revokedSerials{}
		}
		out[issuer][serial] = d.past(at)
	}
	for id, at := range d.serials {
		if issuer, serial, ok := strings.Cut(id, "."); ok {
			add(issuer, serial, at)
		}
	}
	for _, c := range live {
		if at, by := d.voids(c); by != "" {
			add(c.Issuer, c.Serial, at)
		}
	}
	for _, i := range a.Issuers() {
		if at, ok := d.issuers[i.KeyID]; ok {
			add(i.Root, i.Serial, at)
		}
	}
	return out
}

// unlisted is what is void and stands on no list, since the key that signed it is
// gone: an issuing certificate's is dropped when another takes its place. Below an
// issuing certificate that is itself on its root's list everything is refused.
func (d denyList) unlisted(live []store.Certificate, signed map[string]bool) []wire.Issued {
	var out []wire.Issued
	for _, c := range live {
		_, above := d.issuers[c.Issuer]
		if _, by := d.voids(c); by == "" || signed[c.Issuer] || above && signed[c.Root] {
			continue
		}
		out = append(out, d.issued(c))
	}
	return out
}
