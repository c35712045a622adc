package egress

import (
	"net/netip"

	"code.dny.dev/ssrf"
)

// special names the ranges that matter to an attacker, so that a refusal can
// say what was tried. It is not what protects: everything outside global
// unicast and in the IANA special-purpose registries is denied by the guard.
// Two entries are ours alone: cloud services on public addresses.
var special = []struct {
	prefix netip.Prefix
	what   string
}{
	{netip.MustParsePrefix("169.254.169.254/32"), "cloud metadata"},
	{netip.MustParsePrefix("fd00:ec2::254/128"), "cloud metadata"},
	{netip.MustParsePrefix("100.100.100.200/32"), "cloud metadata"},
	{netip.MustParsePrefix("168.63.129.16/32"), "cloud metadata"}, // a public address
	{netip.MustParsePrefix("192.0.0.192/32"), "cloud metadata"},
	{netip.MustParsePrefix("0.0.0.0/8"), "this host"},
	{netip.MustParsePrefix("::/128"), "this host"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("::1/128"), "loopback"},
	{netip.MustParsePrefix("10.0.0.0/8"), "private"},
	{netip.MustParsePrefix("172.16.0.0/12"), "private"},
	{netip.MustParsePrefix("192.168.0.0/16"), "private"},
	{netip.MustParsePrefix("fc00::/7"), "private"},
	{netip.MustParsePrefix("100.64.0.0/10"), "carrier-grade NAT"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local"},
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
	{netip.MustParsePrefix("::ffff:0:0/96"), "embedded IPv4"},
	{netip.MustParsePrefix("64:ff9b::/96"), "embedded IPv4"},   // NAT64
	{netip.MustParsePrefix("64:ff9b:1::/48"), "embedded IPv4"}, // NAT64, local use
	{netip.MustParsePrefix("2002::/16"), "embedded IPv4"},      // 6to4
	{netip.MustParsePrefix("2001::/32"), "embedded IPv4"},      // Teredo
}

// classify returns why an address may not be dialled, or "" if it may. Ports
// are of no account here.
func classify(guard *ssrf.Guardian, a netip.Addr) string {
	if !a.IsValid() || a.Zone() != "" {
		return "not an address"
	}
	for _, s := range special {
		if s.prefix.Contains(a) {
			return s.what
		}
	}
	if guard.SafeAddr(a) != nil {
		return "special purpose"
	}
	return ""
}
