package apikey

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/rampart-security/rampart"
)

// Bounds of what limits a key.
const (
	maxLabel  = 64 // bytes
	maxScopes = 32
	maxIPs    = 32
)

// Limits are what the maker of a key chooses. The zero Limits make a key that
// can do what its client can, from anywhere, until it is disabled.
type Limits struct {
	Label   string    // for people
	Scopes  []string  // permissions "type:verb"; nil: all that the client has
	IPs     []string  // addresses or CIDR prefixes; nil: anywhere
	Expires time.Time // zero: never
}

// LimitsOf returns the limits of k, as a successor takes them over.
func LimitsOf(k Key) Limits {
	return Limits{Label: k.Label, Scopes: k.Scopes, IPs: k.IPs, Expires: k.Expires}
}

var scopeForm = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}:[a-z][a-z0-9_-]{0,62}$`)

// check returns l in canonical form: scopes and prefixes sorted, without
// doubles, and a single address as the prefix of its whole length.
func (l Limits) check(now time.Time) (Limits, error) {
	if len(l.Label) > maxLabel || !utf8.ValidString(l.Label) || strings.ContainsFunc(l.Label, unicode.IsControl) {
		return l, invalid("a label is up to %d bytes of printable text", maxLabel)
	}
	if !l.Expires.IsZero() && !l.Expires.After(now) {
		return l, invalid("the expiry %s is past", l.Expires.UTC().Format(time.RFC3339))
	}
	if len(l.Scopes) > maxScopes {
		return l, invalid("a key has at most %d scopes", maxScopes)
	}
	for _, s := range l.Scopes {
		if !scopeForm.MatchString(s) {
			return l, invalid(`scope %.64q is no permission of the form "type:verb"`, s)
		}
	}
	ips, err := prefixes(l.IPs)
	if err != nil {
		return l, err
	}
	l.Scopes, l.IPs = sorted(l.Scopes), sorted(ips)
	return l, nil
}

func prefixes(texts []string) ([]string, error) {
	if len(texts) > maxIPs {
		return nil, invalid("a key has at most %d address ranges", maxIPs)
	}
	var out []string
	for _, text := range texts {
		p, err := prefixOf(text)
		if err != nil {
			return nil, invalid("%.64q is neither an address nor a range such as 192.0.2.0/24 or 2001:db8::/32", text)
		}
		if p.Addr() != p.Masked().Addr() {
			return nil, invalid("%q has bits outside its mask; write %s", text, p.Masked())
		}
		out = append(out, p.String())
	}
	return out, nil
}

// prefixOf reads a prefix, or an address as the prefix of its whole length. An
// IPv4 address in IPv6 form is the IPv4 address: a list with one form must not
// miss a caller who shows up in the other.
func prefixOf(text string) (netip.Prefix, error) {
	if !strings.Contains(text, "/") {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("no address: %q", text)
		}
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("no prefix: %q", text)
	}
	return p, nil
}

// sorted returns a sorted copy without doubles; nil for none.
func sorted(list []string) []string {
	if len(list) == 0 {
		return nil
	}
	out := slices.Clone(list)
	slices.Sort(out)
	return slices.Compact(out)
}

// From reports whether k may be used from an address, "ip" or "ip:port". A key
// that is bound to addresses is refused from one that does not parse.
func (k Key) From(addr string) bool {
	if len(k.IPs) == 0 {
		return true
	}
	a, err := netip.ParseAddr(addr)
	if err != nil {
		ap, perr := netip.ParseAddrPort(addr)
		if perr != nil {
			return false
		}
		a = ap.Addr()
	}
	a = a.Unmap().WithZone("")
	return slices.ContainsFunc(k.IPs, func(text string) bool {
		p, err := prefixOf(text)
		return err == nil && p.Contains(a)
	})
}

// Live reports whether k is neither disabled nor expired.
func (k Key) Live(now time.Time) bool {
	return !k.Disabled && (k.Expires.IsZero() || now.Before(k.Expires))
}

func invalid(format string, args ...any) error {
	return rampart.Errorf(rampart.Invalid, "", "api key: "+format, args...)
}
