package spec

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Trust is the internal certificate authority, and whom else it believes.
type Trust struct {
	Root     string                `yaml:"root"`     // embedded (default) | offline: its key was taken out, issuing certificates are signed by hand
	Leaf     Duration              `yaml:"leaf"`     // life of workload certificates; 10m to 24h, default 1h
	Upstream *Upstream             `yaml:"upstream"` // who signs our issuing certificates; nil: our own root
	JWT      bool                  `yaml:"jwt"`      // JWT-SVIDs are given out by the Workload API too; they are bearer tokens
	Serve    bool                  `yaml:"serve"`    // our bundle stands at https://EDGE/.well-known/spiffe/bundle for other trust domains
	Federate map[string]Federation `yaml:"federate"` // other trust domain -> where its bundle is
	Join     Join                  `yaml:"join"`     // proofs by which planes may join beside one-time tokens
}

// Upstream is another authority above ours.
type Upstream struct {
	Backend string `yaml:"backend"` // key of secrets, kind vault
	Mount   string `yaml:"mount"`   // of its PKI engine, default pki
	Roots   string `yaml:"roots"`   // PEM file of its roots, relative to rampart.yaml
}

// Federation is another trust domain whose bundle is followed. Its roots vouch
// for its own names alone.
type Federation struct {
	Endpoint string   `yaml:"endpoint"` // https://HOST/PATH of its bundle (SPIFFE Federation section 5)
	Profile  string   `yaml:"profile"`  // https_web (default) | https_spiffe
	Identity string   `yaml:"identity"` // https_spiffe: SPIFFE ID of the endpoint
	Bundle   string   `yaml:"bundle"`   // https_spiffe: JWK set to begin with, *.json relative to rampart.yaml
	CA       string   `yaml:"ca"`       // https_web: PEM file of its CA where that is not public; it may then be at a private address
	MaxAge   Duration `yaml:"max_age"`  // how long a bundle counts that cannot be refreshed, default 24h
}

// ACME says where the edge gets its certificates (RFC 8555).
type ACME struct {
	Directory string `yaml:"directory"` // default https://acme-v02.api.letsencrypt.org/directory
	Email     string `yaml:"email"`
	CA        string `yaml:"ca"`      // PEM file of the authority's own web server, where that is not public; relative to rampart.yaml
	Profile   string `yaml:"profile"` // of certificates, where the authority has several
}

// Files are PEM files on the machine of the plane that reads them, by absolute
// paths; the key must be this user's alone.
type Files struct {
	Chain string `yaml:"chain"`
	Key   string `yaml:"key"`
}

// Backend is a store of secrets beside the embedded one.
type Backend struct {
	Kind      string   `yaml:"kind"`      // vault (also OpenBao) | aws | file
	Address   string   `yaml:"address"`   // vault: https://HOST[:PORT]
	CA        string   `yaml:"ca"`        // vault, aws: PEM file of the server's CA, relative to rampart.yaml; "": public
	Namespace string   `yaml:"namespace"` // vault
	Mount     string   `yaml:"mount"`     // vault: of its KV version 2 engine, default secret
	Login     *Login   `yaml:"login"`     // vault
	Region    string   `yaml:"region"`    // aws
	Endpoint  string   `yaml:"endpoint"`  // aws: https://HOST[:PORT] instead of the region's
	Path      string   `yaml:"path"`      // file: absolute folder that something else fills (Kubernetes, systemd)
	Stale     Duration `yaml:"stale"`     // how old a value may become when the backend is away; 1s to 24h, default 1h
}

// Login says how the control plane proves itself to Vault. Files are on its
// machine, by absolute path, and this user's alone.
type Login struct {
	Method     string `yaml:"method"`      // approle | kubernetes | cert (our own SVID) | token
	Mount      string `yaml:"mount"`       // default the method
	Role       string `yaml:"role"`        // approle: the role id
	SecretFile string `yaml:"secret_file"` // approle: holds the secret id; token: holds the token
	TokenFile  string `yaml:"token_file"`  // kubernetes: default /var/run/secrets/kubernetes.io/serviceaccount/token
}

// KEK is where the key encryption key lives.
type KEK struct {
	Kind    string `yaml:"kind"`    // file (default) | vault | aws | pkcs11
	Backend string `yaml:"backend"` // vault, aws: key of secrets
	Key     string `yaml:"key"`     // vault: name in transit; aws: id or ARN; pkcs11: label
	Mount   string `yaml:"mount"`   // vault: of its transit engine, default transit
	Module  string `yaml:"module"`  // pkcs11: absolute path of the library
	Token   string `yaml:"slot"`    // pkcs11: label of the token
	PINFile string `yaml:"pin_file"`
}

// Rotate makes two roles of one database take turns: while the one is used, the
// other gets a new password.
type Rotate struct {
	Every    Duration `yaml:"every"`    // default 30d
	Roles    []string `yaml:"roles"`    // two login roles, members of Owner
	Owner    string   `yaml:"owner"`    // role that owns the tables; sessions act as it
	Admin    string   `yaml:"admin"`    // postgres://ROLE@HOST:PORT/DB of a role that may change the two
	Password string   `yaml:"password"` // secret://BACKEND/PATH of the admin's
}

// Dynamic gets users of a database from Vault's database engine.
type Dynamic struct {
	Backend string `yaml:"backend"` // key of secrets, kind vault
	Mount   string `yaml:"mount"`   // default database
	Role    string `yaml:"role"`
	Owner   string `yaml:"owner"` // role that owns the tables; sessions act as it
}

// Ways in which a service gets a secret that it must hold itself.
const (
	DeliverSocket = "socket"
	DeliverFile   = "file"
)

// ShredSubject is the value of Data.Shred by which one person's data can be
// made unreadable.
const ShredSubject = "subject"

// EmbeddedBackend is the name of the store of secrets that is always there.
const EmbeddedBackend = "embedded"

// Bounds of this part.
const (
	minLeaf      = Duration(10 * time.Minute)
	maxLeaf      = Duration(24 * time.Hour)
	maxBackends  = 32
	maxFederated = 32
	maxNames     = 100
)

var (
	mountPathForm = regexp.MustCompile(`^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+){0,7}$`)
	roleNameForm  = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`)
	plainWordForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,255}$`)
	emailForm     = regexp.MustCompile(`^[^@\s]{1,64}@[A-Za-z0-9.-]{1,253}$`)
	publicName    = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
)

func (s *System) fillTrust() {
	s.Trust.Join.fill()
	or(&s.Trust.Root, "embedded")
	or(&s.Trust.Leaf, Duration(time.Hour))
	if u := s.Trust.Upstream; u != nil {
		or(&u.Mount, "pki")
	}
	each(s.Trust.Federate, func(_ string, f *Federation) {
		or(&f.Profile, "https_web")
		or(&f.MaxAge, Duration(24*time.Hour))
	})
	or(&s.KEK.Kind, "file")
	if s.KEK.Kind == "vault" {
		or(&s.KEK.Mount, "transit")
	}
	each(s.Secrets, func(_ string, b *Backend) { b.fill() })
	each(s.Stores, func(_ string, st *Store) {
		if st.Rotate != nil {
			or(&st.Rotate.Every, Duration(30*24*time.Hour))
		}
		if st.Dynamic != nil {
			or(&st.Dynamic.Mount, "database")
		}
	})
	each(s.Services, func(_ string, svc *Service) {
		if svc.ACME != nil {
			or(&svc.ACME.Directory, "https://acme-v02.api.letsencrypt.org/directory")
		}
	})
	each(s.Data, func(_ string, d *Data) {
		if d.Encrypt != "" {
			or(&d.Shred, "tenant")
		}
	})
}

func (b *Backend) fill() {
	or(&b.Stale, Duration(time.Hour))
	if b.Kind != "vault" {
		return
	}
	or(&b.Mount, "secret")
	if b.Login == nil {
		return
	}
	or(&b.Login.Mount, b.Login.Method)
	if b.Login.Method == "kubernetes" {
		or(&b.Login.TokenFile, "/var/run/secrets/kubernetes.io/serviceaccount/token")
	}
}

// trust checks the authority, federation, and where keys and secrets live.
func (c *checker) trust() {
	t := c.s.Trust
	c.join("trust.join", t.Join)
	c.oneOf("trust.root", t.Root, "embedded", "offline")
	if t.Leaf < minLeaf || t.Leaf > maxLeaf {
		c.bad("trust.leaf", fmt.Sprintf("%s is not from %s to %s", t.Leaf, minLeaf, maxLeaf), "leave it out for 1h")
	}
	if u := t.Upstream; u != nil {
		c.vault("trust.upstream.backend", u.Backend)
		c.match("trust.upstream.mount", u.Mount, mountPathForm, "write the mount as Vault does, such as pki")
		if c.need("trust.upstream", "roots", u.Roots != "", "upstream.pem") {
			c.checkResource("trust.upstream.roots", u.Roots, ".pem", ".crt")
		}
		if t.Root == "offline" {
			c.bad("trust.root", "the upstream authority has the root", "remove one of root and upstream")
		}
	}
	for name, f := range t.Federate {
		c.federation(join("trust.federate", name), name, f)
	}
	for name, b := range c.s.Secrets {
		c.backend(join("secrets", name), name, b)
	}
	c.kek()
	c.turnsApart()
}

func (c *checker) federation(key, domain string, f Federation) {
	if !domainForm.MatchString(domain) || domain == c.s.Info.TrustDomain {
		c.bad(key, "want another trust domain", "write a SPIFFE trust domain such as partner.example")
	}
	if c.need(key, "endpoint", f.Endpoint != "", "https://HOST/PATH") {
		c.httpsURL(key+".endpoint", f.Endpoint)
	}
	c.oneOf(key+".profile", f.Profile, "https_web", "https_spiffe")
	if f.MaxAge < Duration(time.Minute) || f.MaxAge > Duration(30*24*time.Hour) {
		c.bad(key+".max_age", "want 1m to 30d", "leave it out for 24h")
	}
	if f.Profile != "https_spiffe" {
		if u, err := url.Parse(f.Endpoint); err == nil && f.CA == "" && (privateHost(u.Hostname()) || net.ParseIP(u.Hostname()) != nil) {
			c.bad(key+".endpoint", fmt.Sprintf("%q is no public host by name", shorten(f.Endpoint)), "write the partner's name, or, for one inside this network, add ca: FILE.pem")
		}
		c.only(key, "only the profile https_spiffe needs it", "identity", "bundle")
		c.checkResource(key+".ca", f.CA, ".pem", ".crt")
		return
	}
	c.only(key, "the bundle says whom to believe", "ca")
	if c.need(key, "identity", f.Identity != "", "spiffe://"+domain+"/PATH") && !strings.HasPrefix(f.Identity, "spiffe://"+domain+"/") {
		c.bad(key+".identity", "the endpoint is of another trust domain", "write spiffe://"+domain+"/PATH")
	}
	if c.need(key, "bundle", f.Bundle != "", "partner.json") {
		c.checkResource(key+".bundle", f.Bundle, ".json")
	}
}

// portOf reports whether the port of an address, if it has one, is one.
func portOf(u *url.URL) bool {
	return !strings.HasSuffix(u.Host, ":") && (u.Port() == "" || portNumber(u.Port(), 1))
}

// httpsURL demands https to a host, a path allowed.
func (c *checker) httpsURL(key, text string) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || strings.ContainsAny(text, "?#") || !portOf(u) {
		c.bad(key, fmt.Sprintf("%q is not https to one host", shorten(text)), "write https://HOST[:PORT], without user, query and fragment; a port is from 1 to 65535")
	}
}

func (c *checker) backend(key, name string, b Backend) {
	if name == EmbeddedBackend {
		c.bad(key, "embedded is the store that is always there", "take another name")
	}
	if !c.need(key, "kind", b.Kind != "", "vault") {
		return
	}
	c.oneOf(key+".kind", b.Kind, "vault", "aws", "file")
	if b.Stale < Duration(time.Second) || b.Stale > Duration(24*time.Hour) {
		c.bad(key+".stale", "want 1s to 24h", "leave it out for 1h")
	}
	c.checkResource(key+".ca", b.CA, ".pem", ".crt")
	switch b.Kind {
	case "vault":
		c.only(key, "it belongs to another kind", "region", "endpoint", "path")
		if c.need(key, "address", b.Address != "", "https://HOST:8200") {
			c.httpsURL(key+".address", b.Address)
		}
		c.match(key+".mount", b.Mount, mountPathForm, "write the mount as Vault does, such as secret")
		c.match(key+".namespace", b.Namespace, mountPathForm, "write the namespace without slashes at its ends")
		if c.need(key, "login", b.Login != nil, "{ method: approle, role: ROLE_ID, secret_file: /etc/rampart/vault-secret-id }") {
			c.login(key+".login", *b.Login)
		}
	case "aws":
		c.only(key, "it belongs to another kind", "address", "namespace", "mount", "login", "path")
		c.need(key, "region", b.Region != "", "eu-central-1")
		if b.Endpoint != "" {
			c.httpsURL(key+".endpoint", b.Endpoint)
		}
	case "file":
		c.only(key, "it belongs to another kind", "address", "ca", "namespace", "mount", "login", "region", "endpoint")
		if c.need(key, "path", b.Path != "", "/var/run/secrets/app") {
			c.absolute(key+".path", b.Path)
		}
	}
}

func (c *checker) login(key string, l Login) {
	if !c.need(key, "method", l.Method != "", "approle") {
		return
	}
	c.oneOf(key+".method", l.Method, "approle", "kubernetes", "cert", "token")
	c.match(key+".mount", l.Mount, mountPathForm, "write the mount as Vault does, such as approle")
	if l.Method != "token" {
		c.need(key, "role", l.Role != "", "ROLE")
	}
	switch l.Method {
	case "approle", "token":
		c.need(key, "secret_file", l.SecretFile != "", "/etc/rampart/vault-secret")
		c.only(key, "only kubernetes has a token file", "token_file")
	case "cert":
		c.only(key, "the control plane shows its own certificate", "secret_file", "token_file")
	}
	c.absolute(key+".secret_file", l.SecretFile)
	c.absolute(key+".token_file", l.TokenFile)
}

func (c *checker) absolute(key, path string) {
	if path != "" && (!filepath.IsAbs(path) || filepath.Clean(path) != path) {
		c.bad(key, fmt.Sprintf("%q is no absolute path", shorten(path)), "write it from the root, without .. or a slash at its end")
	}
}

func (c *checker) kek() {
	k := c.s.KEK
	c.oneOf("kek.kind", k.Kind, "file", "vault", "aws", "pkcs11")
	switch k.Kind {
	case "file":
		c.only("kek", "the key file is kek in the state folder", "backend", "key", "mount", "module", "slot", "pin_file")
	case "vault", "aws":
		c.only("kek", "it belongs to a PKCS #11 module", "module", "slot", "pin_file")
		c.backendOf("kek.backend", k.Backend, k.Kind)
		if c.need("kek", "key", k.Key != "", "rampart") {
			c.match("kek.key", k.Key, plainWordForm, "write its name, id or ARN")
		}
	case "pkcs11":
		c.only("kek", "a PKCS #11 module is no backend", "backend", "mount")
		c.need("kek", "module", k.Module != "", "/usr/lib/softhsm/libsofthsm2.so")
		c.need("kek", "slot", k.Token != "", "LABEL of the token")
		c.need("kek", "key", k.Key != "", "LABEL of the key")
		c.need("kek", "pin_file", k.PINFile != "", "/etc/rampart/pin")
		c.absolute("kek.module", k.Module)
		c.absolute("kek.pin_file", k.PINFile)
	}
}

func (c *checker) vault(key, name string) { c.backendOf(key, name, "vault") }

// backendOf demands the name of a declared backend of this kind.
func (c *checker) backendOf(key, name, kind string) {
	if b, ok := c.s.Secrets[name]; !ok || b.Kind != kind {
		c.bad(key, fmt.Sprintf("%q is no backend of kind %s", shorten(name), kind), "declare it in secrets")
	}
}

// secretRef demands a reference whose backend is declared. What was written is
// not repeated: it may be the secret itself.
func (c *checker) secretRef(key, text string) {
	m := secretRefForm.FindStringSubmatch(text)
	if m == nil {
		c.bad(key, "want a reference to a secret store", "write secret://embedded/PATH, or secret://BACKEND/PATH#FIELD; letters, digits, - and _ between slashes")
		return
	}
	if _, ok := c.s.Secrets[m[1]]; !ok && m[1] != EmbeddedBackend {
		c.unknown(key, fmt.Sprintf("backend %q is not declared", m[1]), m[1], words(append(names(c.s.Secrets), EmbeddedBackend)...), "declared are")
	}
	if m[1] == EmbeddedBackend && strings.Contains(text, "#") {
		c.bad(key, "a secret of the embedded store has no fields", "remove what follows the #")
	}
}

// edge checks what the gateway shows to the outside.
func (c *checker) edge(key string, svc Service) {
	if len(svc.Names) > maxNames {
		c.bad(key+".names", fmt.Sprintf("more than %d names", maxNames), "a certificate holds no more")
	}
	for i, n := range svc.Names {
		if len(n) > 253 || !publicName.MatchString(n) {
			c.bad(index(key+".names", i), fmt.Sprintf("%q is no host name", shorten(n)), "write it in lower case, in ASCII, without wildcards")
		}
	}
	if svc.ACME != nil && svc.Cert != nil {
		c.bad(key+".acme", "the certificate comes from files", "remove one of acme and certificate")
	}
	if (svc.ACME != nil || svc.Cert != nil) && len(svc.Names) == 0 {
		c.bad(key, "nothing says for which names the certificate is", "add names: [HOST]")
	}
	if a := svc.ACME; a != nil {
		c.httpsURL(key+".acme.directory", a.Directory)
		c.match(key+".acme.email", a.Email, emailForm, "write one address")
		c.checkResource(key+".acme.ca", a.CA, ".pem", ".crt")
		c.match(key+".acme.profile", a.Profile, plainWordForm, "write one word, as the authority names it")
	}
	if f := svc.Cert; f != nil {
		c.need(key+".certificate", "chain", f.Chain != "", "/etc/rampart/edge.pem")
		c.need(key+".certificate", "key", f.Key != "", "/etc/rampart/edge.key")
		c.absolute(key+".certificate.chain", f.Chain)
		c.absolute(key+".certificate.key", f.Key)
	}
}

// held checks the credentials that a service holds itself.
func (c *checker) held(key string, svc Service) {
	for name, how := range svc.Secrets {
		if !c.credentials[name] {
			c.unknown(join(key+".secrets", name), fmt.Sprintf("%q is no credential", shorten(name)), name, c.credentials, "the credentials are")
		}
		c.oneOf(join(key+".secrets", name), how, DeliverSocket, DeliverFile)
	}
}

// access checks how services come to be let into a database.
func (c *checker) access(key string, st Store) {
	if r := st.Rotate; r != nil {
		c.rotation(key+".rotate", *r)
	}
	if d := st.Dynamic; d != nil {
		c.vault(key+".dynamic.backend", d.Backend)
		c.match(key+".dynamic.mount", d.Mount, mountPathForm, "write the mount as Vault does, such as database")
		if c.need(key+".dynamic", "role", d.Role != "", "NAME") {
			c.match(key+".dynamic.role", d.Role, plainWordForm, "write its name in Vault")
		}
		c.match(key+".dynamic.owner", d.Owner, roleNameForm, "write the name of a database role")
	}
	ways := 0
	for _, given := range []bool{st.Password != "", st.Rotate != nil, st.Dynamic != nil} {
		if given {
			ways++
		}
	}
	switch {
	case ways > 1:
		c.bad(key, "password, rotate and dynamic are three ways to be let in", "keep one")
	case ways == 0 && !st.ClientCert:
		c.need(key, "password", false, "secret://embedded/PATH")
	}
	if st.Password != "" {
		c.secretRef(key+".password", st.Password)
	}
}

func (c *checker) rotation(key string, r Rotate) {
	if r.Every < Duration(time.Minute) {
		c.bad(key+".every", "want 1m at least", "leave it out for 30d")
	}
	if len(r.Roles) != 2 || r.Roles[0] == r.Roles[1] {
		c.bad(key+".roles", "want two roles that take turns", "write roles: [app_a, app_b]")
	}
	for i, role := range slices.Concat(r.Roles, []string{r.Owner}) {
		if !roleNameForm.MatchString(role) {
			c.bad(key, fmt.Sprintf("%q is no name of a database role", shorten(role)), map[bool]string{true: "write roles: [app_a, app_b]", false: "write owner: app"}[i < len(r.Roles)])
		}
	}
	if slices.Contains(r.Roles, r.Owner) {
		c.bad(key+".owner", fmt.Sprintf("%q is one of the roles that take turns", shorten(r.Owner)), "name a third role, which owns the tables and does not log in")
	}
	if c.need(key, "admin", r.Admin != "", "postgres://ROLE@HOST:PORT/DB") {
		c.databaseURL(key+".admin", r.Admin)
	}
	if c.need(key, "password", r.Password != "", "secret://embedded/PATH") {
		c.secretRef(key+".password", r.Password)
	}
}

func (c *checker) databaseURL(key, text string) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "postgres" || u.Hostname() == "" || u.User.Username() == "" || len(u.Path) < 2 || u.RawQuery != "" || u.Fragment != "" || !portOf(u) {
		c.bad(key, "want the address of a database, without password and options", "write postgres://USER@HOST:PORT/DB, with a port from 1 to 65535")
	}
}
