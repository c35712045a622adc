package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/rampart-security/rampart/internal/wire"
)

// printGateways says how each gateway fares: services that are left alone or full,
// where limits are counted, and how many addresses are turned away.
func printGateways(w io.Writer, st wire.Status, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	head := "\nGATEWAY\tSERVICES\tLIMITS ARE COUNTED\tBANS\n"
	for _, p := range st.Planes {
		if !strings.HasPrefix(p.Plane, "gateway/") {
			continue
		}
		fmt.Fprint(t, head)
		head = ""
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\n", p.Plane, servicesHealth(p.Health, now), storeHealth(p.Health.Store, now), p.Bans.InForce)
	}
	return t.Flush()
}

func servicesHealth(h wire.EdgeHealth, now time.Time) string {
	var out []string
	for _, s := range h.Services {
		var says []string
		if !s.Open.IsZero() {
			says = append(says, "BREAKER OPEN for "+span(max(0, now.Sub(s.Open))))
		}
		if s.AtLimit {
			says = append(says, fmt.Sprintf("AT ITS LIMIT of %d", s.Limit))
		}
		out = append(out, s.Name+": "+strings.Join(says, ", "))
	}
	if h.More > 0 {
		out = append(out, fmt.Sprintf("and %d more", h.More))
	}
	return cmp.Or(strings.Join(out, "; "), "all are asked as usual")
}

// storeHealth: while the store is away each gateway admits its share.
func storeHealth(s *wire.StoreHealth, now time.Time) string {
	switch {
	case s == nil:
		return "by this gateway"
	case !s.Away.IsZero():
		return "BY SHARE: the store is away for " + span(max(0, now.Sub(s.Away)))
	case s.Alone:
		return "by share: the store is just back"
	}
	return "in the store"
}
