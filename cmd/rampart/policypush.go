package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/rampart-security/rampart/internal/wire"
)

const (
	pushWait = 15 * time.Second
	pushLook = 500 * time.Millisecond
	// silentAfter is the age of a heartbeat, in seconds, from which on a plane is
	// not waited for: it takes the policies over when it is back.
	silentAfter = 10
)

// arrival is a version on its way to the planes.
type arrival struct {
	version uint64
	trial   bool
}

// at reports whether a plane has what was pushed.
func (a arrival) at(p wire.PlanePolicies) bool {
	if a.trial {
		return p.Shadow.Version == a.version
	}
	return p.Version >= a.version
}

// refusedBy returns why a plane does not take over a version, if it said so.
func refusedBy(p wire.PlanePolicies, version uint64) (wire.Refused, bool) {
	for _, r := range p.Refused {
		if r.Version == version {
			return r, true
		}
	}
	return wire.Refused{}, false
}

// pending names the planes that have said neither yes nor no.
func (a arrival) pending(st wire.PolicyStatus) []string {
	var out []string
	for _, p := range st.Planes {
		if _, refused := refusedBy(p, a.version); !refused && !a.at(p) && p.SeenSeconds < silentAfter {
			out = append(out, p.Plane)
		}
	}
	return out
}

// verdict is the error of a push: nil when every plane that lives has it.
func (a arrival) verdict(st wire.PolicyStatus) error {
	var refused []string
	for _, p := range st.Planes {
		if _, ok := refusedBy(p, a.version); ok && !a.at(p) {
			refused = append(refused, p.Plane)
		}
	}
	if len(refused) > 0 {
		return &exitError{exitFailed, fmt.Errorf("version %d is refused by %s, where the last good policies go on deciding; push what they accept", a.version, strings.Join(refused, ", "))}
	}
	if late := a.pending(st); len(late) > 0 {
		return &exitError{exitFailed, fmt.Errorf("version %d has not arrived at %s within %s; look again with: rampart policy status", a.version, strings.Join(late, ", "), pushWait)}
	}
	return nil
}

// pushed waits until what was pushed has arrived everywhere, or was refused.
func pushed(cmd *cobra.Command, admin *adminClient, a arrival, st wire.PolicyStatus) (wire.PolicyStatus, error) {
	ctx, cancel := context.WithTimeout(cmd.Context(), pushWait)
	defer cancel()
	tick := time.NewTicker(pushLook)
	defer tick.Stop()
	tell := progress(cmd.ErrOrStderr())
	defer tell("")
	for waiting := a.pending(st); len(waiting) > 0; waiting = a.pending(st) {
		tell(fmt.Sprintf("waiting for %s", strings.Join(waiting, ", ")))
		select {
		case <-tick.C:
		case <-ctx.Done():
			return st, cmd.Context().Err()
		}
		var next wire.PolicyStatus
		if err := admin.call(ctx, http.MethodGet, wire.AdminPolicies, nil, &next); err != nil && ctx.Err() == nil {
			return st, err
		} else if err == nil {
			st = next
		}
	}
	return st, nil
}

// progress writes one line over the last, on a terminal alone; "" removes it.
func progress(w io.Writer) func(string) {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return func(string) {}
	}
	return func(text string) { fmt.Fprintf(f, "\r\x1b[K%s", text) }
}

// refusals prints why planes are behind.
func refusals(w io.Writer, st wire.PolicyStatus) {
	for _, p := range st.Planes {
		for _, r := range p.Refused {
			what := "a bundle"
			if r.Version > 0 {
				what = fmt.Sprintf("version %d", r.Version)
			}
			fmt.Fprintf(w, "%s refused %s (%s): %s\n", p.Plane, what, plainText(r.Code), plainText(r.Reason))
		}
	}
}

// plainText makes what came from outside unable to steer a terminal.
func plainText(s string) string {
	quoted := strconv.QuoteToGraphic(s)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}
