package gateway

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/spec"
)

const controlCORS = "edge.cors"

// cors marks an answer as readable by pages of an origin that the flow names
// (Fetch standard, section 3.2). It comes before everything that refuses, so that
// such pages can read refusals too. Pages of other origins are not refused here:
// who reads what is the browser's to hold to, and who acts is that of csrf.
type cors struct{}

func (cors) check(c *call) error {
	origin := first(c.r.Header["Origin"])
	if origin == "" && !c.table.hasCORS {
		return nil
	}
	method := c.r.Method
	if m := first(c.r.Header["Access-Control-Request-Method"]); method == http.MethodOptions && m != "" {
		method = m
	}
	tg, _, _, err := c.table.find(method, c.path)
	if err != nil || tg.flow.CORS == nil {
		return nil // the router says no in a moment
	}
	c.cors = tg
	share(c.w.Header(), &tg.flow, origin)
	return nil
}

// preflight answers a browser that asks whether a page may send a request, before
// anybody could say who asks: such a question carries no credential.
type preflight struct{}

func (preflight) check(c *call) error {
	if c.r.Method != http.MethodOptions {
		return nil
	}
	h := c.r.Header
	method := h.Get("Access-Control-Request-Method")
	if h.Get("Origin") == "" || method == "" || c.cors == nil {
		return nil
	}
	rule := c.cors.flow.CORS
	if !slices.Contains(rule.Origins, h.Get("Origin")) {
		return rampart.Errorf(rampart.Denied, controlCORS, "pages of this origin may not call this service")
	}
	out := c.w.Header()
	out["Vary"] = []string{"Origin, Access-Control-Request-Method, Access-Control-Request-Headers"}
	out.Set("Access-Control-Allow-Methods", method) // the router knows it
	out.Set("Access-Control-Allow-Headers", strings.Join(c.cors.asked(), ", "))
	out.Set("Access-Control-Max-Age", strconv.Itoa(int(time.Duration(rule.MaxAge).Seconds())))
	harden(out, c.table)
	c.w.WriteHeader(http.StatusNoContent)
	return errAnswered
}

// names reports whether the file names origin for the flow.
func names(f *spec.Flow, origin string) bool {
	return f.CORS != nil && origin != "" && slices.Contains(f.CORS.Origins, origin)
}

// share tells a browser that pages of origin may read the answer, if the flow says
// so, and every cache that it is not for all.
func share(h http.Header, f *spec.Flow, origin string) {
	if f.CORS == nil {
		return
	}
	h["Vary"] = []string{"Origin"}
	if !names(f, origin) {
		return
	}
	h["Access-Control-Allow-Origin"] = []string{origin}
	h["Access-Control-Expose-Headers"] = []string{strings.Join(append([]string{"Retry-After"}, f.CORS.Expose...), ", ")}
	if f.CORS.Credentials {
		h["Access-Control-Allow-Credentials"] = []string{"true"}
	}
}

// varies tells caches that an answer of tg is not for every origin, beside what its
// service tells them.
func varies(h http.Header, tg *target) {
	if tg == nil {
		return
	}
	h["Vary"] = append(slices.Clip(h["Vary"]), "Origin")
}

// asked are the headers that a page may send: what callers here authenticate and
// repeat with, and what the flow names.
func (t *target) asked() []string {
	out := []string{"Accept", "Accept-Language", "Authorization", "Content-Type", "DPoP", "If-Match", "If-None-Match", "Range", "X-API-Key"}
	if t.flow.Idempotency != nil {
		out = append(out, t.flow.Idempotency.Header)
	}
	if t.flow.Nonce != nil {
		out = append(out, t.flow.Nonce.Header)
	}
	return append(out, t.flow.CORS.Headers...)
}

// actsForUser reports whether a page of another origin may act with the session of
// who looks at it: the file names the origin, and says so.
func (c *call) actsForUser() bool {
	f := &c.target.flow
	return c.cors == c.target && names(f, c.r.Header.Get("Origin")) && f.CORS.Credentials
}
