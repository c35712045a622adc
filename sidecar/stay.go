package sidecar

import (
	"reflect"
	"slices"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz/pdp"
)

// streamCheck is how often what stays open is judged anew, if what it was judged by
// has changed.
const streamCheck = 2 * time.Second

// mayStay has end called when the file or the policies in force would let what stays
// open in no more. The edge asks for itself, and asks less: it knows no organization.
func (s *Sidecar) mayStay(a *arrival, end func(error)) (stop func()) {
	if len(a.flow.Stream) == 0 {
		return func() {} // whatever it is, it is over in a minute
	}
	done := make(chan struct{})
	go func() {
		tick := time.NewTicker(streamCheck)
		defer tick.Stop()
		for by := a.table; ; {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			now := s.table.Load()
			if now == by {
				continue
			}
			by = now
			if err := s.judgeAgain(a, now); err != nil {
				end(err)
				return
			}
		}
	}()
	return func() { close(done) }
}

// judgeAgain asks whether the request would be let in by t. A step-up is asked for
// anew only where the file asks for another: its proof ages, and was good enough.
func (s *Sidecar) judgeAgain(a *arrival, t *table) error {
	again := *a
	again.table = t
	if f, ok := t.callers[a.caller]; ok {
		again.flow = f
	} else if !t.sys.Off("mtls.peer_declared") {
		return rampart.Errorf(rampart.Denied, "mtls.peer_declared", "no flow leads from the caller to this service any more")
	}
	if !slices.Equal(again.flow.Stream, a.flow.Stream) {
		return rampart.Errorf(rampart.Denied, "edge.route", "the file allows no such stream any more")
	}
	if err := s.permitted(&again); err != nil {
		return err
	}
	if reflect.DeepEqual(again.flow.StepUp, a.flow.StepUp) {
		return nil
	}
	return s.stepUp(&again)
}

// permitted decides by the table of a for what a asked, as its document says now.
func (s *Sidecar) permitted(a *arrival) error {
	if a.action == "" || a.table.sys.Off("authz.service") {
		return nil
	}
	if a.table.api != nil {
		op, _, err := a.table.api.Route(a.r.Method, a.path)
		if err != nil {
			return err
		}
		a.action = op.Permission
	}
	p := a.principal
	p.Scope = rampart.MeetScopes(p.Scope, a.flow.Scope)
	d := a.table.pdp.DecideService(a.r.Context(), p, a.tenant, pdp.Route{Permission: a.action, Allow: a.flow.Allow, Require: a.flow.Authz.Require, Flow: a.flow.ID})
	if d.Allowed() {
		return nil
	}
	return &rampart.Error{Kind: rampart.Denied, Control: "authz.service", Msg: "you may not do this any more", Err: decided{d}}
}
