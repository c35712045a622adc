package spec

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const corp = `identity:
  providers:
    corp: { issuer: "https://idp.example/t1", client_id: rampart, client_secret: key, link: create, domains: [example.com], roles: { claim: groups, map: { "cn=admins,dc=x": member } }, acr: { "urn:x:mfa": aal2 }, ca: idp.pem, stand_in: "127.0.0.1:9443" }
    plain: { issuer: "https://accounts.example", client_id: rampart }
flows:
`

// TestProvidersAreAMap: a list is told to be one, before its client_secret is
// taken for a secret.
func TestProvidersAreAMap(t *testing.T) {
	list := "identity:\n  providers:\n    - { name: corp, issuer: \"https://idp.example\", client_id: rampart, client_secret: key }\nflows:\n"
	_, err := parse("rampart.yaml", []byte(strings.Replace(whole, "flows:\n", list, 1)))
	if err == nil || !strings.Contains(err.Error(), "identity.providers: ") || !strings.Contains(err.Error(), "map of names") || strings.Contains(err.Error(), "literal secret") {
		t.Errorf("%v", err)
	}
}

// TestProviderRefused changes one thing of a good provider at a time. Each
// must be refused with exactly one line.
func TestProviderRefused(t *testing.T) {
	file := strings.Replace(whole, "flows:\n", corp, 1)
	if _, err := parse("rampart.yaml", []byte(file)); err != nil {
		t.Fatalf("the good file is refused: %v", err)
	}
	for _, tc := range []struct{ name, old, new, want string }{
		{"plain http", `https://idp.example/t1`, `http://idp.example/t1`, `23:13: identity.providers.corp.issuer: "http://idp.example/t1" is no issuer; write https://HOST or https://HOST/PATH, exactly as in the provider's tokens`},
		{"issuer with a query", `https://idp.example/t1`, `https://idp.example/t1?x=1`, `23:13: identity.providers.corp.issuer: "https://idp.example/t1?x=1" is no issuer; write https://HOST or https://HOST/PATH, exactly as in the provider's tokens`},
		{"issuer by address", `https://idp.example/t1`, `https://203.0.113.7`, `23:13: identity.providers.corp.issuer: "203.0.113.7" is no HOST or HOST:PORT; write the provider's host by name`},
		{"private issuer", `https://idp.example/t1`, `https://169.254.169.254`, `23:13: identity.providers.corp.issuer: "169.254.169.254" is a private address, and egress never reaches those; name a public host; to play the party locally, add stand_in: 127.0.0.1:PORT`},
		{"no issuer", `issuer: "https://accounts.example", `, ``, `24:5: identity.providers.plain.issuer: the key is missing; write issuer: https://HOST`},
		{"one issuer twice", `https://accounts.example`, `https://idp.example/t1`, `24:14: identity.providers.plain.issuer: "corp" already has this issuer, so its answers could be taken for this one's; remove one of the two`},
		{"no client", `client_id: rampart }`, `}`, `24:5: identity.providers.plain.client_id: the key is missing; write client_id: ID, as the provider registered it`},
		{"a pasted secret", `client_secret: key`, `client_secret: hunter2hunter2`, `23:67: identity.providers.corp.client_secret: want the name of a data item of kind credential; the credentials are: key`},
		{"a data item that is no secret", `client_secret: key`, `client_secret: card`, `23:67: identity.providers.corp.client_secret: want the name of a data item of kind credential; the credentials are: key`},
		{"not OpenID", `client_id: rampart }`, `client_id: rampart, scopes: [email] }`, `24:70: identity.providers.plain.scopes: without the scope openid the provider issues no ID token; add openid`},
		{"a shared secret as signature", `client_id: rampart }`, `client_id: rampart, algorithms: [HS256] }`, `24:83: identity.providers.plain.algorithms[0]: "HS256" is not accepted here; the values are: RS256, PS256, ES256, EdDSA`},
		{"link by mail", `link: create`, `link: email`, `23:87: identity.providers.corp.link: "email" is not accepted here; the values are: create, linked_only`},
		{"domains without accounts", `client_id: rampart }`, `client_id: rampart, domains: [example.com] }`, `24:70: identity.providers.plain.domains: only with link: create does a login make an account; remove the key`},
		{"a domain that is none", `[example.com]`, `["@example.com"]`, `23:111: identity.providers.corp.domains[0]: "@example.com" is no domain of e-mail addresses; write it in lower case, such as example.com`},
		{"unknown role", `: member }`, `: boss }`, `23:156: identity.providers.corp.roles.map."cn=admins,dc=x": role "boss" is not declared; declared are: member`},
		{"roles of no claim", `claim: groups, `, ``, `23:125: identity.providers.corp.roles.claim: the key is missing; write claim: groups`},
		{"assurance that is none", `aal2 }, ca`, `aal3 }, ca`, `23:193: identity.providers.corp.acr."urn:x:mfa": "aal3" is not accepted here; the values are: aal1, aal2`},
		{"hosts with a path", `client_id: rampart }`, `client_id: rampart, hosts: [a.example/x] }`, `24:78: identity.providers.plain.hosts[0]: "a.example/x" is no HOST or HOST:PORT; write the provider's host by name`},
		{"stand-in elsewhere", `127.0.0.1:9443`, `10.0.0.7:9443`, `23:227: identity.providers.corp.stand_in: "10.0.0.7:9443" is not on this machine; write 127.0.0.1:PORT or [::1]:PORT`},
		{"stand-in of any authority", `ca: idp.pem, `, ``, `23:214: identity.providers.corp.stand_in: nothing says whose certificate the stand-in shows; add ca: FILE.pem`},
		{"name", `plain: {`, `Plain: {`, `24:5: identity.providers.Plain: a name starts with a letter and holds lower-case letters, digits, _ and -, at most 63; rename it`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if !strings.Contains(file, tc.old) {
				t.Fatalf("the file has no %q", tc.old)
			}
			_, err := parse("rampart.yaml", []byte(strings.Replace(file, tc.old, tc.new, 1)))
			if err == nil {
				t.Fatal("accepted")
			}
			if diff := cmp.Diff("rampart.yaml:"+tc.want, err.Error()); diff != "" {
				t.Error(diff)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Error("the secret is repeated")
			}
		})
	}
}

// TestProviderDefaults: what a file leaves out is the careful choice.
func TestProviderDefaults(t *testing.T) {
	s, err := parse("rampart.yaml", []byte(strings.Replace(whole, "flows:\n", corp, 1)))
	if err != nil {
		t.Fatal(err)
	}
	want := IdentityProvider{
		Title: "plain", Issuer: "https://accounts.example", ClientID: "rampart", Link: LinkedOnly,
		Scopes: []string{"openid", "email", "profile"}, Algorithms: []string{"RS256"},
	}
	if diff := cmp.Diff(want, s.Identity.Providers["plain"]); diff != "" {
		t.Error(diff)
	}
	text, err := s.Effective()
	if err != nil {
		t.Fatal(err)
	}
	again, err := parse("rampart.yaml", text)
	if err != nil {
		t.Fatalf("the effective file is refused: %v", err)
	}
	if diff := cmp.Diff(s.Identity, again.Identity); diff != "" {
		t.Error(diff)
	}
}
