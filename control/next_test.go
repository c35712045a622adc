package control

import (
	"net/url"
	"strings"
	"testing"
)

// FuzzSafeNext: whatever the form says, the browser stays on this host.
func FuzzSafeNext(f *testing.F) {
	for _, s := range []string{"", "/", "/orders?a=b#c", "//evil.example", `/\evil.example`, "/\t/evil.example", "https://evil.example", "/%2f/evil.example", "/..//evil.example"} {
		f.Add(s)
	}
	base := &url.URL{Scheme: "https", Host: "localhost:8443", Path: "/login"}
	f.Fuzz(func(t *testing.T, next string) {
		got := safeNext(next)
		// Browsers take "\" for "/" and drop tabs and newlines (WHATWG URL, 4.4).
		seen := strings.NewReplacer("\\", "/", "\t", "", "\n", "", "\r", "").Replace(got)
		u, err := base.Parse(seen)
		if err != nil || u.Host != base.Host || u.Scheme != base.Scheme || strings.HasPrefix(seen, "//") {
			t.Errorf("%q leads to %q, read as %v (%v)", next, got, u, err)
		}
	})
}
