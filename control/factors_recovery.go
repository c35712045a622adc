package control

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/mfa"
	"github.com/rampart-security/rampart/authn/ticket"
)

// New recovery codes wait, sealed, for the page that shows them once: the
// answer to the form must not have them, or a reload would make others.
const (
	ticketCodes = "codes" // kind of their ticket
	codesFor    = 5 * time.Minute
)

type recoveryPageBody struct {
	Strong  bool
	Left    int
	Replace bool // ask whether the codes that there are may go
	Codes   []string
}

// serveRecoveryPage shows codes that were just made, once, or says how many
// are left.
func (p *Plane) serveRecoveryPage(w http.ResponseWriter, r *http.Request, m member) error {
	codes, err := p.takeCodes(r.Context(), m)
	if err != nil {
		return err
	}
	has, err := p.waysOf(r.Context(), m.Subject)
	if err != nil {
		return err
	}
	left, err := p.codes.RecoveryLeft(r.Context(), m.Subject)
	if err != nil {
		return err
	}
	body := recoveryPageBody{Strong: has.strong(), Left: left, Replace: left > 0 && r.URL.Query().Get("replace") == "yes", Codes: codes}
	return p.showAccount(w, r, m, "recovery", view{Title: "Recovery codes", Nav: recoveryPath, Body: body})
}

// serveRecovery makes new codes. Those that there are become void, which is
// asked for by name.
func (p *Plane) serveRecovery(w http.ResponseWriter, r *http.Request, m member) error {
	ok, err := p.mayChange(w, r, m, "mfa.enrol")
	if !ok || err != nil {
		return err
	}
	has, err := p.waysOf(r.Context(), m.Subject)
	if err != nil {
		return err
	}
	if !has.strong() {
		return p.redirect(w, pageOf(r))
	}
	left, err := p.codes.RecoveryLeft(r.Context(), m.Subject)
	if err != nil {
		return err
	}
	if left > 0 && r.PostForm.Get("replace") != "yes" {
		return p.redirect(w, onPage(r, "replace", "yes"))
	}
	if err := p.changed(r, m, "mfa.enrol", mfa.Factor{ID: "recovery", Kind: mfa.KindRecovery, Label: "Recovery codes"}); err != nil {
		return err
	}
	codes, err := p.codes.NewRecoveryCodes(r.Context(), m.Subject)
	if err != nil {
		return err
	}
	if err := p.keepCodes(r.Context(), m, codes); err != nil {
		return err
	}
	if _, err := p.endOthers(r.Context(), m.Subject, m.SID); err != nil {
		return err
	}
	return p.redirect(w, did(r, "codes"))
}

// codesHash names the codes that wait for a session.
func codesHash(m member) ticket.Hash { return sha256.Sum256([]byte("codes:" + m.SID)) }

func codesAAD(m member) []byte { return []byte("rampart recovery codes of " + m.Subject) }

func (p *Plane) keepCodes(ctx context.Context, m member, codes []string) error {
	text, err := json.Marshal(codes)
	if err != nil {
		return err
	}
	sealed, err := p.keys.kek.Wrap(ctx, text, codesAAD(m))
	if err != nil {
		return unavailable(err)
	}
	now := p.opt.Now()
	if _, err := p.tickets.TakeTicket(ctx, ticketCodes, codesHash(m), now); err != nil && !errors.Is(err, ticket.ErrNotFound) {
		return unavailable(err)
	}
	return unavailable(p.tickets.PutTicket(ctx, ticketCodes, codesHash(m), sealed, now, now.Add(codesFor)))
}

// takeCodes returns the codes that wait for the session, and forgets them; none
// is no error.
func (p *Plane) takeCodes(ctx context.Context, m member) (codes []string, err error) {
	sealed, err := p.tickets.TakeTicket(ctx, ticketCodes, codesHash(m), p.opt.Now())
	if errors.Is(err, ticket.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, unavailable(err)
	}
	text, err := p.keys.kek.Unwrap(ctx, sealed, codesAAD(m))
	if err != nil {
		return nil, unavailable(err)
	}
	if err := json.Unmarshal(text, &codes); err != nil {
		return nil, &rampart.Error{Kind: rampart.Internal, Control: "authn.mfa", Msg: "recovery codes do not parse", Err: err}
	}
	return codes, nil
}
