package gateway

import (
	"net/http"
	"strings"
	"testing"
)

// TestSessionOf: the quick reading of a plain Cookie header finds what net/http finds.
func TestSessionOf(t *testing.T) {
	const own = sessionCookie + "="
	for name, lines := range map[string][]string{
		"none":               nil,
		"ours":               {own + "abc-_.9"},
		"beside others":      {"a=b; " + own + "abc; c=d"},
		"twice":              {own + "abc; " + own + "def"},
		"twice, two lines":   {own + "abc", own + "def"},
		"empty":              {own},
		"quoted":             {own + `"abc"`},
		"with a space":       {own + "a b"},
		"before the equals":  {sessionCookie + " =abc"},
		"without a space":    {"a=b;" + own + "abc"},
		"two spaces":         {"a=b;  " + own + "abc"},
		"tab":                {"a=b;\t" + own + "abc"},
		"equals in it":       {own + "a=b"},
		"bytes of no cookie": {own + "a\x01b"},
		"a name of no token": {"a,b=c; " + own + "abc"},
		"no pair before":     {"x; " + own + "abc"},
		"semicolon last":     {own + "abc;"},
		"another's case":     {strings.ToLower(own) + "abc"},
		"thousands":          {strings.Repeat("a=b; ", 3500) + own + "abc"},
		"fits a line":        {strings.Repeat("a=b; ", 700) + own + "abc"},
		"our name is longer": {own[:len(own)-1] + "x=abc"},
	} {
		t.Run(name, func(t *testing.T) {
			r := &http.Request{Header: http.Header{"Cookie": lines}}
			want := r.CookiesNamed(sessionCookie)
			value, n := sessionOf(r)
			if n != len(want) || n > 0 && value != want[0].Value {
				t.Errorf("got %q, %d times, want %v", value, n, want)
			}
		})
	}
}
