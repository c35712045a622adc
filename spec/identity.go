package spec

import (
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// Identity says who else may vouch for people.
type Identity struct {
	Providers map[string]IdentityProvider `yaml:"providers"`
}

// IdentityProvider is an OpenID provider at which people may sign in. The name
// is part of its redirect address, https://EDGE/oidc/NAME/callback, so that
// each provider has one of its own (RFC 9700 section 4.4).
type IdentityProvider struct {
	Title        string            `yaml:"title"`         // on the login page; default the name
	Issuer       string            `yaml:"issuer"`        // as its tokens say it, byte for byte
	ClientID     string            `yaml:"client_id"`     // ours, at the provider
	ClientSecret string            `yaml:"client_secret"` // key of data, kind credential; "" is a public client
	Scopes       []string          `yaml:"scopes"`        // default openid, email, profile
	Algorithms   []string          `yaml:"algorithms"`    // of its ID tokens; default RS256
	Link         string            `yaml:"link"`          // linked_only | create; default linked_only: a person links while signed in
	Domains      []string          `yaml:"domains"`       // create: an account is made only for a verified e-mail address in one of these
	Roles        ClaimRoles        `yaml:"roles"`
	ACR          map[string]string `yaml:"acr"`      // acr of the provider -> aal1 | aal2; what is not here is aal1
	Hosts        []string          `yaml:"hosts"`    // HOST or HOST:PORT of its endpoints, where they are not the issuer's
	CA           string            `yaml:"ca"`       // PEM file of the provider's own CA, relative to rampart.yaml; it may then be at a private address
	StandIn      string            `yaml:"stand_in"` // 127.0.0.1:PORT that plays the provider on a developer's machine; TLS is still verified, against ca
}

// ClaimRoles turns values of one claim into roles, at each login.
type ClaimRoles struct {
	Claim string            `yaml:"claim"` // a string or a list of strings, such as groups
	Map   map[string]string `yaml:"map"`   // value -> role; other values give nothing
}

// The ways an account comes to a provider's identity.
const (
	LinkedOnly    = "linked_only"
	LinkCreate    = "create"
	maxProviders  = 16
	maxClaimRoles = 256
)

var (
	scopeForm = regexp.MustCompile(`^[\x21\x23-\x5B\x5D-\x7E]{1,128}$`) // RFC 6749 section 3.3
	claimForm = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_:./-]{0,127}$`)
	signers   = []string{"RS256", "PS256", "ES256", "EdDSA"}
)

func fillProvider(name string, p *IdentityProvider) {
	or(&p.Title, name)
	or(&p.Link, LinkedOnly)
	if p.Scopes == nil {
		p.Scopes = []string{"openid", "email", "profile"}
	}
	if p.Algorithms == nil {
		p.Algorithms = []string{"RS256"}
	}
}

// identity checks the providers. Their names are names of elements too, as
// they stand in addresses and in the audit log.
func (c *checker) identity() {
	if len(c.s.Identity.Providers) > maxProviders {
		c.bad("identity.providers", fmt.Sprintf("more than %d entries", maxProviders), "put one provider in front of the others")
		return
	}
	issuers := map[string]string{}
	for _, name := range inOrder(c, "identity.providers", c.s.Identity.Providers) {
		p, key := c.s.Identity.Providers[name], join("identity.providers", name)
		c.provider(key, p)
		c.providerAddress(key, p)
		c.providerRights(key, p)
		if first, taken := issuers[p.Issuer]; taken && p.Issuer != "" {
			c.bad(key+".issuer", fmt.Sprintf("%q already has this issuer, so its answers could be taken for this one's", first), "remove one of the two")
		}
		issuers[p.Issuer] = name
	}
}

// provider checks who we are there, and what tokens must look like.
func (c *checker) provider(key string, p IdentityProvider) {
	if len(p.Title) > 60 || strings.ContainsAny(p.Title, "\n\t") {
		c.bad(key+".title", "a title is one line of at most 60 bytes", "shorten it")
	}
	c.need(key, "client_id", p.ClientID != "", "ID, as the provider registered it")
	if p.ClientSecret != "" && !c.credentials[p.ClientSecret] {
		// The value is not repeated: a secret pasted here must not reach a log.
		c.unknown(key+".client_secret", "want the name of a data item of kind credential", p.ClientSecret, c.credentials, "the credentials are")
	}
	for i, s := range p.Scopes {
		c.match(index(key+".scopes", i), s, scopeForm, "write one scope per entry, such as email")
	}
	if !slices.Contains(p.Scopes, "openid") {
		c.bad(key+".scopes", "without the scope openid the provider issues no ID token", "add openid")
	}
	for i, alg := range p.Algorithms {
		c.among(index(key+".algorithms", i), alg, signers...)
	}
}

// providerAddress checks where the provider is: its issuer is the one address
// in the file that leads to all others.
func (c *checker) providerAddress(key string, p IdentityProvider) {
	if c.need(key, "issuer", p.Issuer != "", "https://HOST") {
		c.issuer(key+".issuer", p.Issuer)
	}
	for i, h := range p.Hosts {
		c.providerHost(index(key+".hosts", i), h)
	}
	c.checkResource(key+".ca", p.CA, ".pem", ".crt")
	if p.StandIn != "" && !loopback(p.StandIn) {
		c.bad(key+".stand_in", fmt.Sprintf("%q is not on this machine", shorten(p.StandIn)), "write 127.0.0.1:PORT or [::1]:PORT")
	}
	if p.StandIn != "" && p.CA == "" {
		c.bad(key+".stand_in", "nothing says whose certificate the stand-in shows", "add ca: FILE.pem")
	}
}

// issuer demands what OpenID Connect Discovery section 3 and RFC 8414 section
// 2 do, in one spelling.
func (c *checker) issuer(key, text string) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.User != nil || strings.ContainsAny(text, "?#") || u.EscapedPath() != u.Path || strings.Contains(u.Path, "//") || strings.Contains(u.Path, "/.") {
		c.bad(key, fmt.Sprintf("%q is no issuer", shorten(text)), "write https://HOST or https://HOST/PATH, exactly as in the provider's tokens")
		return
	}
	c.providerHost(key, u.Host)
}

// providerHost demands a name: an address proves nothing in a certificate.
func (c *checker) providerHost(key, hostport string) {
	u, ok := plainURL("https://"+hostport, "https")
	if ok && !privateHost(u.Hostname()) {
		_, err := netip.ParseAddr(u.Hostname())
		ok = err != nil
	}
	if !ok {
		c.bad(key, fmt.Sprintf("%q is no HOST or HOST:PORT", shorten(hostport)), "write the provider's host by name")
		return
	}
	c.externalURL(key, "https://"+hostport)
}

// providerRights checks who gets in, and with which roles and assurance.
func (c *checker) providerRights(key string, p IdentityProvider) {
	c.oneOf(key+".link", p.Link, LinkedOnly, LinkCreate)
	if p.Link == LinkedOnly {
		c.only(key, "only with link: create does a login make an account", "domains")
	}
	for i, d := range p.Domains {
		if !hostName(d) || !strings.Contains(d, ".") {
			c.bad(index(key+".domains", i), fmt.Sprintf("%q is no domain of e-mail addresses", shorten(d)), "write it in lower case, such as example.com")
		}
	}
	at := key + ".roles"
	if len(p.Roles.Map) > 0 || p.Roles.Claim != "" {
		c.need(at, "claim", p.Roles.Claim != "", "groups")
		c.need(at, "map", len(p.Roles.Map) > 0, "{ VALUE: ROLE }")
	}
	c.match(at+".claim", p.Roles.Claim, claimForm, "write the name of a claim, such as groups")
	if len(p.Roles.Map) > maxClaimRoles {
		c.bad(at+".map", fmt.Sprintf("more than %d entries", maxClaimRoles), "map fewer values")
	}
	for _, value := range sortedNames(p.Roles.Map) {
		c.ref(join(at+".map", value), p.Roles.Map[value], "role", c.roles)
	}
	for _, acr := range sortedNames(p.ACR) {
		c.among(join(key+".acr", acr), p.ACR[acr], assurance...)
	}
}
