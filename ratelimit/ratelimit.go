// Package ratelimit answers "Is this too much, too fast?". It holds the
// contract and how a verdict is told to clients; the leaves hold the mechanisms:
// ring bounds requests per key, pool bounds work on a database.
package ratelimit

import (
	"net/http"
	"net/netip"
	"strconv"
	"time"
)

// Limiter decides whether a key may spend cost now. A refused request is not
// counted. A cost below 1 counts as 1. Implementations are safe for concurrent
// use and never block on the network.
type Limiter interface {
	Allow(key string, cost int) Verdict
}

// Verdict is one decision, with the numbers it was taken from. The zero Verdict
// refuses.
type Verdict struct {
	OK         bool
	Limit      int           // admitted per Window at most
	Remaining  int           // what the key may still spend now
	Window     time.Duration // length of the window
	Reset      time.Duration // until the whole limit is free again if nothing more is spent
	RetryAfter time.Duration // refused: until this cost may be admitted; 0 when admitted
}

// Headers tells v to the client as the limit named name, a plain token such as
// "ip". It adds one item to RateLimit-Policy and to RateLimit
// (draft-ietf-httpapi-ratelimit-headers-10), so that several limits may apply,
// and sets Retry-After when v refuses.
func Headers(h http.Header, v Verdict, name string) {
	var room *Lines
	if h["Ratelimit-Policy"] == nil && h["Ratelimit"] == nil {
		room = new(Lines)
	}
	room.Headers(h, v, name)
}

// Lines is the room for what a request's limits are told in, which its owner may have
// as a part of something else. The zero value is ready. It serves one header, for as
// long as that is in use, and is not safe for concurrent use.
type Lines struct{ policy, rest [2]string } // most requests meet no more than two

// Headers is the package's Headers.
func (l *Lines) Headers(h http.Header, v Verdict, name string) {
	policy, rest := items(v, name)
	before, left := h["Ratelimit-Policy"], h["Ratelimit"]
	if before == nil && left == nil {
		before, left = l.policy[:0], l.rest[:0]
	}
	h["Ratelimit-Policy"], h["Ratelimit"] = append(before, policy), append(left, rest)
	if !v.OK {
		h.Set("Retry-After", strconv.FormatInt(max(1, seconds(v.RetryAfter)), 10))
	}
}

// AtOnce tells the limit of requests in flight that refused one: at most most of
// them, counted as the draft names them.
func AtOnce(h http.Header, most int, name string) {
	h["Ratelimit-Policy"] = append(h["Ratelimit-Policy"], `"`+name+`";q=`+strconv.Itoa(most)+`;qu="concurrent-requests"`)
	h["Ratelimit"] = append(h["Ratelimit"], `"`+name+`";r=0`)
}

// items returns what Headers adds: two parts of one string.
func items(v Verdict, name string) (policy, rest string) {
	text := appendItem(make([]byte, 0, 128), name, ";q=", int64(v.Limit), ";w=", seconds(v.Window))
	cut := len(text)
	both := string(appendItem(text, name, ";r=", int64(v.Remaining), ";t=", seconds(v.Reset)))
	return both[:cut], both[cut:]
}

// appendItem writes a quoted name with two integer parameters (RFC 9651, section 3.3).
func appendItem(text []byte, name, first string, a int64, second string, b int64) []byte {
	text = append(append(append(text, '"'), name...), '"')
	text = strconv.AppendInt(append(text, first...), a, 10)
	return strconv.AppendInt(append(text, second...), b, 10)
}

// seconds rounds up: a client that waits this long must not be refused again.
func seconds(d time.Duration) int64 {
	return int64((d + time.Second - 1) / time.Second)
}

// IPKey returns the key under which an address is limited: the address for
// IPv4, its /64 for IPv6, since a single host owns at least that much.
func IPKey(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	if !a.Is6() {
		return a.String() // the zero Addr too: one key for all who have no address
	}
	return netip.PrefixFrom(a, 64).Masked().String()
}
