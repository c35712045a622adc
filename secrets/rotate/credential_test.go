package rotate

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/rampart-security/rampart/secrets"
)

func TestParseCredential(t *testing.T) {
	for name, tc := range map[string]struct {
		text, user, password string
	}{
		"a role and its password":      {"app_a:secret", "app_a", "secret"},
		"a password may have colons":   {"_x9:a:b", "_x9", "a:b"},
		"no user":                      {":secret", "", ""},
		"no password":                  {"app_a:", "", ""},
		"a value from somewhere else":  {"secret", "", ""},
		"capitals are no role":         {"App:secret", "", ""},
		"a digit does not begin one":   {"9a:secret", "", ""},
		"a quote does not get through": {`a"; DROP ROLE b; --:secret`, "", ""},
		"longer than a name can be":    {strings.Repeat("a", 64) + ":secret", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := ParseCredential(secrets.New([]byte(tc.text), 7))
			if (err == nil) != (tc.user != "") || err != nil && strings.Contains(err.Error(), "secret\"") {
				t.Fatalf("%v", err)
			}
			if err != nil {
				return
			}
			s.Use(func(b []byte) error {
				if s.User() != tc.user || string(b) != tc.password || s.Version() != 7 {
					t.Errorf("%s %q, version %d", s.User(), b, s.Version())
				}
				return nil
			})
		})
	}
}

func TestACredentialDoesNotPrint(t *testing.T) {
	c := Credential{"app_a", secrets.New([]byte("canary"), 1)}
	j, err := json.Marshal(c)
	for _, text := range []string{fmt.Sprintf("%v %+v %#v %s %d %x", c, c, c, c, c, c), fmt.Sprintf("%+v %#v", struct{ c Credential }{c}, &c), string(j)} {
		if err != nil || strings.Contains(text, "canary") || strings.Contains(text, "63616e617279") {
			t.Errorf("printed as %s: %v", text, err)
		}
	}
}

func FuzzParseCredential(f *testing.F) {
	for _, seed := range []string{"app_a:secret", ":", "a:", "a", "", "_:\x00", "ä:b"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseCredential(secrets.New(b, 1))
		if err != nil {
			return
		}
		again, err := Credential{s.User(), s}.encode()
		if err != nil || string(again) != string(b) {
			t.Errorf("%q became %q: %v", b, again, err)
		}
	})
}
