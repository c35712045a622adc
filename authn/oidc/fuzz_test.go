package oidc

import (
	"strings"
	"testing"
)

// FuzzMetadata: whatever a configuration document holds, what comes out of it
// names the issuer that was asked and leads to https addresses.
func FuzzMetadata(f *testing.F) {
	const issuer = "https://idp.example"
	good := `{"issuer":"https://idp.example","authorization_endpoint":"https://idp.example/a","token_endpoint":"https://idp.example/t","jwks_uri":"https://idp.example/k"}`
	for _, doc := range []string{
		good, `{}`, `[]`, ``, strings.Replace(good, "https://idp.example/k", "http://idp.example/k", 1),
		strings.Replace(good, `{`, `{"issuer":"https://evil.example",`, 1), strings.Replace(good, `{`, `{"Issuer":"https://evil.example",`, 1),
		strings.Replace(good, `}`, `,"code_challenge_methods_supported":null}`, 1), strings.Repeat("[", 100),
	} {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		m, err := parseMetadata(doc, issuer)
		if err != nil {
			return
		}
		if m.Issuer != issuer {
			t.Errorf("issuer %q", m.Issuer)
		}
		for _, address := range []string{m.Authorization, m.Token, m.Keys} {
			if !strings.HasPrefix(strings.ToLower(address), "https://") {
				t.Errorf("address %q", address)
			}
		}
	})
}

// FuzzCallback: whatever a query holds, each parameter that counts is one
// bounded value.
func FuzzCallback(f *testing.F) {
	for _, q := range []string{
		"state=a&code=b", "state=a&code=b&iss=https%3A%2F%2Fidp.example", "state=a&state=b", "state=&code=", "state=a;code=b", "%zz", "state=a&error=access_denied",
		"state=" + strings.Repeat("a", 100), "code=b",
	} {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, query string) {
		c, err := parseCallback(query)
		if err != nil {
			if Rule(err) == "" {
				t.Errorf("no rule refused it: %v", err)
			}
			return
		}
		if c.state == "" || len(c.state) > maxStateLen || len(c.code) > maxCode || len(c.iss) > maxURL || len(c.refusal) > maxStateLen {
			t.Errorf("%+v", c)
		}
		if strings.Count(query, "state=") == 2 && strings.HasPrefix(query, "state=") && strings.Contains(query, "&state=") {
			t.Error("two states passed")
		}
	})
}

// FuzzUserInfo: a document is about somebody, or it is refused or about nobody.
func FuzzUserInfo(f *testing.F) {
	for _, doc := range []string{`{"sub":"a","email":"a@b","email_verified":true,"groups":["x"]}`, `{"sub":"a","sub":"b"}`, `{"email_verified":"true"}`, `null`} {
		f.Add([]byte(doc))
	}
	rp := &RelyingParty{opt: Options{Roles: map[string]string{"x": "admin"}}}
	f.Fuzz(func(t *testing.T, doc []byte) {
		u, err := parseUserInfo(doc)
		if err != nil {
			return
		}
		if roles := rp.roles(u.rest["groups"]); len(roles) > 1 || len(roles) == 1 && roles[0] != "admin" {
			t.Errorf("roles %q", roles)
		}
	})
}
