package token_test

import (
	"net"
	"net/url"
	"strings"
	"testing"

	"github.com/rampart-security/rampart/token"
)

func TestCheckRedirect(t *testing.T) {
	for text, ok := range map[string]bool{
		"https://shop.example/cb":               true,
		"https://shop.example:8443/cb?a=b":      true,
		"http://127.0.0.1/cb":                   true,
		"http://127.0.0.1:65535/cb":             true,
		"http://[::1]:4000/cb":                  true,
		"http://[::1]/":                         true,
		"":                                      false,
		"https:shop.example":                    false,
		"https://":                              false,
		"https://:443/cb":                       false,
		"Https://shop.example/cb":               false,
		"https://shop.example/cb#":              false,
		"https://shop.example/cb#x":             false,
		"https://shop.example:/cb":              false,
		"https://shop.example:0/cb":             false,
		"https://shop.example:65536/cb":         false,
		"https://shop.example:0443/cb":          false,
		"https://user@shop.example/cb":          false,
		"http://shop.example/cb":                false,
		"http://localhost/cb":                   false,
		"http://[::1%25lo]/cb":                  false,
		"http://127.0.0.1:80:80/cb":             false,
		"com.example.app://127.0.0.1/cb":        false,
		"//127.0.0.1/cb":                        false,
		"http://127.0.0.1:4000@evil.example/":   false,
		"http://127.0.0.1:4000\\@evil.example/": false,
	} {
		if err := token.CheckRedirect(text); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// FuzzRedirect: what is let in is https or loopback to every other reader too,
// and has no fragment.
func FuzzRedirect(f *testing.F) {
	for _, text := range []string{"https://shop.example/cb", "http://[::1]:4000/cb?x", "HTTP://127.0.0.1:0/#", "http://127.0.0.1:4000@evil/"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if token.CheckRedirect(text) != nil {
			return
		}
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		ip := net.ParseIP(u.Hostname())
		loopback := strings.HasPrefix(text, "http://") && ip != nil && ip.IsLoopback()
		if !loopback && !strings.HasPrefix(text, "https://") || strings.Contains(text, "#") || u.User != nil {
			t.Errorf("let in %q", text)
		}
	})
}
