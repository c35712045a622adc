// Package vault is the client of HashiCorp Vault and OpenBao: secrets of the KV
// engine (version 2), users of the database engine with their leases, keys of
// the transit engine, intermediate certificates of the PKI engine. It speaks
// their REST API over an http.Client of its caller and needs nothing else.
//
// How each failure is told, so that a cache knows what may be served stale:
//
//	no network, no answer in time, 412, 472, 473, 5xx (503: sealed)  Unavailable
//	a reply that is not Vault's, a redirect to elsewhere             Unavailable
//	429                                                              Limited, with secrets.RetryAfter
//	403 twice, the second time with a token that lives               Denied
//	a login that is refused                                          Unauthenticated
//	404, a deleted or destroyed version, a field that is not there   NotFound
//	a version that is not the newest any more                        Conflict
//	400 otherwise                                                    Invalid
package vault

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"time"

	"github.com/rampart-security/rampart"
)

// control is the id of this control in rampart.yaml and in errors.
const control = "secret.manager"

// Bounds of one Client.
const (
	maxBody     = 1 << 20 // bytes of a reply
	maxValue    = 512 << 10
	maxInFlight = 4
	deadline    = 2 * time.Second // of one operation, with the login it may need
)

// Options of a Client. Address, HTTP and Login are needed.
type Options struct {
	Name      string // of the backend in rampart.yaml, for errors; if "", vault
	Address   string // https://HOST[:PORT]
	Namespace string // "": the root

	// HTTP trusts the server's CA and, for the login by certificate, shows a
	// client certificate. Its redirects and its cookies are not used.
	HTTP  *http.Client
	Login Login

	Now func() time.Time // if nil, time.Now
}

// Login says how the client proves itself. Its files are absolute paths of
// regular files that this user alone may read, at most 16 KiB; they are read
// again at each login.
type Login struct {
	Method string // approle, kubernetes, cert or token
	Mount  string // of the method; if "", its name
	Role   string // id of the role for approle, name of the role otherwise; token: not used

	// SecretFile holds the secret id (approle) or the token (token). A text
	// of the form wrapped:TOKEN is the token of a response-wrapped one,
	// which is unwrapped once and then kept in memory only.
	SecretFile string

	// TokenFile holds the token of the service account (kubernetes). As
	// Kubernetes mounts it, others may read it.
	TokenFile string
}

// Client is a connection to one Vault or OpenBao. It logs in when it is first
// asked, renews its token at half of its life for as long as it lives, and logs
// in again when it does not. A refusal (403) may only mean that the token ended:
// one login, shared by all who wait, and one more try tell. Five failures in a
// row stop it from asking for five seconds, then one request tries. Its methods
// may be called concurrently.
type Client struct {
	opt     Options
	base    *url.URL
	http    *http.Client
	slots   chan struct{} // one for each request in flight
	session session
	breaker breaker
}

var mountForm = regexp.MustCompile(`^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+){0,7}$`)

// New returns a client. It asks nothing: Health and Check of a Transit do.
// Errors are of kind Invalid.
func New(opt Options) (*Client, error) {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Name == "" {
		opt.Name = "vault"
	}
	if opt.Login.Mount == "" {
		opt.Login.Mount = opt.Login.Method
	}
	base, err := url.Parse(opt.Address)
	if err != nil || base.Scheme != "https" || base.Hostname() == "" || base.User != nil || base.Path != "" && base.Path != "/" || base.RawQuery != "" {
		return nil, invalid("the address of %s is not https://HOST[:PORT]", opt.Name)
	}
	if opt.HTTP == nil {
		return nil, invalid("%s has no http client", opt.Name)
	}
	if opt.Namespace != "" && !mountForm.MatchString(opt.Namespace) {
		return nil, invalid("the namespace of %s is not words between slashes", opt.Name)
	}
	if err := opt.Login.check(); err != nil {
		return nil, err
	}
	c := &Client{opt: opt, base: &url.URL{Scheme: "https", Host: base.Host}, slots: make(chan struct{}, maxInFlight)}
	c.http = &http.Client{Transport: opt.HTTP.Transport, Timeout: opt.HTTP.Timeout, CheckRedirect: stay}
	c.breaker.now, c.session.now = opt.Now, opt.Now
	c.session.base, c.session.stop = context.WithCancel(context.Background())
	return c, nil
}

// stay leaves redirects to exchange, which does not carry a token elsewhere.
func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

func (l Login) check() error {
	if !mountForm.MatchString(l.Mount) {
		return invalid("the mount of the login is not words between slashes")
	}
	switch {
	case l.Method == "approle" && l.Role != "" && l.SecretFile != "":
	case l.Method == "kubernetes" && l.Role != "" && l.TokenFile != "":
	case l.Method == "cert" && l.Role != "":
	case l.Method == "token" && l.SecretFile != "":
	default:
		return invalid("want a login by approle (role, secret file), kubernetes (role, token file), cert (role) or token (secret file)")
	}
	return nil
}

// Close ends the renewal of the token and revokes the token if the client got
// it by a login; one that came in a file is its giver's. The client answers
// Unavailable afterwards. An error says that the token lives until it expires.
func (c *Client) Close(ctx context.Context) error {
	tok := c.session.close()
	if tok.value.IsZero() || tok.given {
		return nil
	}
	if err := c.revokeSelf(ctx, tok); err != nil {
		return fmt.Errorf("vault: %s: revoking our token: %w", c.opt.Name, err)
	}
	return nil
}

// String names the client and shows nothing of its session.
func (c *Client) String() string { return "vault " + c.opt.Name }

// GoString is String.
func (c *Client) GoString() string { return c.String() }

// KV returns the secrets of a KV engine, version 2, such as secret. The usual
// field of a secret is value.
func (c *Client) KV(mount string) *KV { return &KV{c, mount} }

// Database returns the users of a database engine, such as database. A
// reference has the path creds/ROLE, which makes a new user with a lease at
// each Fetch, or static-creds/ROLE.
func (c *Client) Database(mount string) *Database { return &Database{c, mount} }

// Transit returns a key of a transit engine, such as transit. The key must be
// derived (vault write MOUNT/keys/KEY derived=true): the aad goes into its
// context, which rewrap takes, too. A key that is not derived would ignore it,
// so nothing is wrapped before that was tried.
func (c *Client) Transit(mount, key string) *Transit { return &Transit{c: c, mount: mount, key: key} }

// PKI returns an authority, such as pki.
func (c *Client) PKI(mount string) *PKI { return &PKI{c, mount} }

func invalid(format string, args ...any) error {
	return rampart.Errorf(rampart.Invalid, control, format, args...)
}
