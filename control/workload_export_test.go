package control

import "context"

// FetchPartner fetches a partner's bundle now, and drops one that is too old, as
// the plane does by itself from time to time.
func (p *Plane) FetchPartner(ctx context.Context, domain string) error {
	at := p.workloads.partners[domain]
	err := p.fetchPartner(ctx, at)
	if err != nil {
		p.partnerLost(ctx, at, err)
	}
	p.endPartner(ctx, at)
	return err
}
