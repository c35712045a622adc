package literal

import (
	"slices"
	"strings"
	"testing"
)

// Each row is put together here, so that no credential stands in this file.
func TestLine(t *testing.T) {
	f := New()
	for name, c := range map[string]struct {
		line string
		want []string
	}{
		"a Stripe key":            {"key: sk_" + "live_abc123", []string{"stripe-key"}},
		"an AWS key":              {`id = "AKIA` + `ABCDEFGHIJKL"`, []string{"aws-access-key"}},
		"a GitHub token":          {"ghp_" + "0123456789", []string{"github-token"}},
		"a Vault token":           {"hvs." + "CAESIabcdefgh", []string{"vault-token"}},
		"a private key":           {"-----BEGIN EC " + "PRIVATE KEY-----", []string{"private-key"}},
		"a URL with a password":   {"postgres://app:" + "hunter2@db/x", []string{"url-password"}},
		"a URL without":           {"postgres://app@db/x", nil},
		"a random value, named":   {`api_key = "` + "q8Zr2Lk9vTx4Wm7BsY1c" + `"`, []string{"named-secret"}},
		"in hex":                  {`"token": "` + "9f86d081884c7d659a2feaa0c55ad015" + `"`, []string{"named-secret"}},
		"in YAML":                 {"  client_secret: " + "q8Zr2Lk9vTx4Wm7BsY1c", []string{"named-secret"}},
		"a word, named":           {`password = "correct-horse-battery-staple"`, nil},
		"a path, named":           {"secret: /var/run/secrets/kubernetes.io/serviceaccount", nil},
		"a reference":             {"password: secret://embedded/prod/db-password-2", nil},
		"an identifier in code":   {"token := newTokenFromHeaderOrQuery2(r)", nil},
		"a random value, unnamed": {`sum = "` + "q8Zr2Lk9vTx4Wm7BsY1c" + `"`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, h := range f.Line([]byte(c.line)) {
				got = append(got, h.Rule.ID)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%v, want %v", got, c.want)
			}
			if c.want != nil && c.want[0] != named && (!f.Match(c.line) || f.Index([]byte(c.line)) < 0) {
				t.Error("Match and Index see another thing")
			}
		})
	}
}

func FuzzLine(f *testing.F) {
	forms := New()
	f.Add([]byte("token = \"" + strings.Repeat("a1", 30) + "\""))
	f.Add([]byte("a://:b@"))
	f.Fuzz(func(t *testing.T, line []byte) {
		for _, h := range forms.Line(line) {
			if h.Start < 0 || h.Start >= len(line) {
				t.Errorf("%s at %d of %d", h.Rule.ID, h.Start, len(line))
			}
		}
	})
}
