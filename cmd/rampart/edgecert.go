package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
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

// edgeWait is how long a start waits for the edge's certificates, which come from
// elsewhere. The system runs on without them: they may come later.
const edgeWait = 10 * time.Second

// edgeIsLocal reports whether the edge shows a certificate of the local CA.
func (u *up) edgeIsLocal() bool {
	svc := u.sys.Services[u.sys.Gateway()]
	return svc.ACME == nil && svc.Cert == nil
}

// uncovered lists the names of the edge for which the local CA gives no
// certificate.
func (u *up) uncovered() []string {
	return slices.DeleteFunc(slices.Clone(u.sys.Services[u.sys.Gateway()].Names), func(name string) bool {
		return name == "localhost" || strings.HasSuffix(name, ".localhost") || name == u.sys.Info.TrustDomain || strings.HasSuffix(name, "."+u.sys.Info.TrustDomain)
	})
}

// edgeTrouble says, a line each, for which public names no client gets through.
func (u *up) edgeTrouble(ctx context.Context) []string {
	if u.edgeIsLocal() {
		if names := u.uncovered(); len(names) > 0 {
			return []string{fmt.Sprintf("the certificate is of the local CA, for localhost and names below %s: no client accepts it for %s; add acme or certificate to the gateway", u.sys.Info.TrustDomain, words(names, ""))}
		}
		return nil
	}
	for deadline := time.Now().Add(edgeWait); ; {
		lines := u.unusable(ctx)
		if len(lines) == 0 || time.Now().After(deadline) || pause(ctx, time.Second) != nil {
			return lines
		}
	}
}

// unusable lists the certificates that the gateway said it does not have.
func (u *up) unusable(ctx context.Context) []string {
	st, err := u.admin.status(ctx)
	if err != nil {
		return []string{"the control plane does not say how the certificates stand: " + err.Error()}
	}
	var lines []string
	said := false
	for _, p := range st.Planes {
		for _, c := range p.Edge {
			said = true
			if usable := time.Now().Before(c.NotAfter); !usable || c.Error != "" {
				lines = append(lines, edgeLine(c, usable))
			}
		}
	}
	if !said {
		return []string{"the gateway has not said yet how its certificates stand; look at: rampart status"}
	}
	return lines
}

func edgeLine(c wire.EdgeCert, usable bool) string {
	state := "has no usable certificate, and every handshake for it fails"
	if usable {
		state = "is served until " + when(c.NotAfter, "-") + ", and a new certificate does not come"
	}
	return fmt.Sprintf("%s %s (%s): %s", c.Name, state, c.Source, firstText(c.Error, "none has come yet; rampart status says when it has"))
}

// span is a time in days, or less where days are too coarse.
func span(d time.Duration) string {
	if d >= 48*time.Hour {
		return fmt.Sprintf("%d days", int(d.Hours()/24))
	}
	return d.Round(time.Second).String()
}
