package relay

import (
	"net/http"
	"slices"
	"strings"
)

// Inbound returns which of a caller's headers reach a service: what negotiation,
// conditions, ranges and caching need, and what the service declares. A list of
// headers to stop would have to know what every framework takes for identity,
// for its own address or for another method; this one need not. Names are in
// canonical form.
func Inbound(declared ...[]string) func(name string) bool {
	return func(name string) bool { return isInbound(name, declared) }
}

func isInbound(name string, declared [][]string) bool {
	if isHarmless(name) {
		return true
	}
	for _, list := range declared {
		if slices.Contains(list, name) {
			return Declarable(name)
		}
	}
	return false
}

func isHarmless(name string) bool {
	switch name {
	case "Accept", "Accept-Language", "Accept-Encoding", "Content-Type", "Content-Language", "User-Agent", "Cache-Control",
		"If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range", "Range":
		return true
	}
	return false
}

// Declarable reports whether a service may ask for this header of its callers:
// a well-formed name that is not the planes' own, no credential, and no way to
// mean another request than the one that was judged.
func Declarable(name string) bool {
	name = http.CanonicalHeaderKey(name)
	switch name {
	case "X-Api-Key", "Dpop", "Host", "Content-Length", "Content-Encoding":
		return false
	}
	return isPlain(name) && !isHopByHop(name) && Outbound(name)
}

// isPlain admits letters, digits and dashes: what some servers fold into one
// another, "_" above all, no request has.
func isPlain(name string) bool {
	odd := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-'
	}
	return name != "" && !strings.ContainsFunc(name, odd)
}

// Outbound reports whether a header that a service sends may leave it. What it
// sends is its own to choose, but for what the planes say and what would make
// the other side see another request than the one that was judged. The name is
// in canonical form.
func Outbound(name string) bool {
	switch name {
	case "Authorization", "Cookie", "Forwarded", "Traceparent", "Tracestate",
		"Proxy", // CGI makes it HTTP_PROXY
		"X-Http-Method-Override", "X-Http-Method", "X-Method-Override", "X-Original-Url", "X-Rewrite-Url":
		return false
	}
	return !strings.HasPrefix(name, "Rampart-") && !strings.HasPrefix(name, "X-Forwarded-")
}
