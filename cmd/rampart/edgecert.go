package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/rampart-security/rampart/internal/wire"
)

// printEdgeCerts shows how the public certificates stand, if a gateway said so.
func printEdgeCerts(w io.Writer, st wire.Status) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	head := "\nPUBLIC CERTIFICATE\tPLANE\tFROM\tENDS\tLAST ATTEMPT\n"
	for _, p := range st.Planes {
		for _, c := range p.Edge {
			fmt.Fprint(t, head)
			head = ""
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", c.Name, p.Plane, c.Source, certEnd(c, time.Now()), attempt(c))
		}
	}
	return t.Flush()
}

func certEnd(c wire.EdgeCert, now time.Time) string {
	switch left := c.NotAfter.Sub(now); {
	case c.NotAfter.IsZero():
		return "NONE: HANDSHAKES FAIL"
	case left < 0:
		return "EXPIRED: HANDSHAKES FAIL"
	case c.Late(now):
		return "SOON, in " + span(left)
	default:
		return "in " + span(left)
	}
}

func attempt(c wire.EdgeCert) string {
	if c.Error == "" {
		return "ok"
	}
	return c.Error
}

// span is a time in days, or less where days are too coarse.
func span(d time.Duration) string {
	if d >= 48*time.Hour {
		return fmt.Sprintf("%d days", int(d.Hours()/24))
	}
	return d.Round(time.Second).String()
}
