package token

import (
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/rampart-security/rampart"
)

// sameRedirect compares byte for byte, but for the port of a native client's
// loopback address, which it cannot know in advance (RFC 8252 section 7.3).
func sameRedirect(registered, got string) bool {
	if registered == got {
		return true
	}
	a, errA := parseRedirect(registered)
	b, errB := parseRedirect(got)
	return errA == nil && errB == nil && a.scheme == "http" && b.port != "" && a.scheme == b.scheme && a.host == b.host && a.rest == b.rest
}

// CheckRedirect says whether an address may be registered: https, or http on a
// loopback address, absolute and without fragment (RFC 6749 section 3.1.2), in
// the one spelling that is compared.
func CheckRedirect(text string) error {
	_, err := parseRedirect(text)
	return err
}

// redirect is an address cut into pieces that nothing has been done to: a
// parser that lower-cases, decodes or drops would find two addresses equal that
// a browser tells apart.
type redirect struct {
	scheme string // "https", or "http" for a loopback address
	host   string
	port   string // "" or 1 to 65535
	rest   string // path and query
}

func parseRedirect(text string) (redirect, error) {
	bad := rampart.Errorf(rampart.Invalid, control, "token: a redirect is https, or http on a loopback address, without fragment")
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || strings.Contains(text, "#") {
		return redirect{}, bad
	}
	r := redirect{scheme: u.Scheme, host: u.Host}
	if i := strings.LastIndexByte(u.Host, ':'); i > strings.LastIndexByte(u.Host, ']') {
		r.host, r.port = u.Host[:i], u.Host[i+1:]
		if n, err := strconv.ParseUint(r.port, 10, 16); err != nil || n == 0 || strconv.FormatUint(n, 10) != r.port {
			return redirect{}, bad
		}
	}
	var whole bool
	if r.rest, whole = strings.CutPrefix(text, u.Scheme+"://"+u.Host); !whole || r.host == "" {
		return redirect{}, bad // another spelling of scheme or host
	}
	if r.scheme == "https" {
		return r, nil
	}
	ip, err := netip.ParseAddr(u.Hostname())
	if r.scheme != "http" || err != nil || !ip.IsLoopback() {
		return redirect{}, bad
	}
	return r, nil
}
