package token

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/authn/ticket"
)

// clientControl is the control of everything that a client proves.
const clientControl = "token.client_auth"

// Ways for a client to prove itself (RFC 7591 section 2).
const (
	authNone = "none"            // a public client: PKCE and rotation protect its grants
	authJWT  = "private_key_jwt" // RFC 7523 section 2.2
	authTLS  = "tls_client_auth" // RFC 8705 section 2.1, by the SPIFFE ID
)

// assertionType is the only client_assertion_type there is (RFC 7523 section 2.2).
const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// assertionGrace outlasts the leeway that an expired assertion still has.
const assertionGrace = 10 * time.Second

// Request is a client's call of the token, introspection or revocation endpoint.
type Request struct {
	Form   url.Values
	Proofs []string // values of the DPoP header
	Caller *Caller  // by mutual TLS; nil: through the gateway, where nobody has a certificate
	Peer   string   // "ip:port" of the client
}

// public reports whether c has nothing to prove itself with.
func (c Client) public() bool { return c.Auth == "" || c.Auth == authNone }

// Self returns the client as who it is when it acts for nobody: with its own
// roles, in its own organizations, and limited to no permission yet.
func (c Client) Self() rampart.Principal {
	p := rampart.Principal{Kind: rampart.KindClient, Subject: "client:" + c.ID, Client: c.ID, Roles: c.Roles, Organizations: c.Orgs}
	if len(c.Orgs) > 0 {
		p.Tenant = c.Orgs[0]
	}
	return p
}

// Permits returns those permissions of a scope that c is registered for. Nil is
// all of them; a scope that shares none with the registration leaves an empty one.
func (c Client) Permits(scope []string) []string {
	return rampart.MeetScopes(scope, permissionsOf(c.Scopes))
}

// may reports whether c is registered for a grant_type.
func (c Client) may(grant string) bool {
	if c.Grants == nil {
		return grant == "authorization_code" || grant == "refresh_token"
	}
	return slices.Contains(c.Grants, grant)
}

// client returns a registered client that is not disabled, of a principal that there is.
func (s *Service) client(ctx context.Context, id string) (Client, error) {
	unknown := refuse("invalid_client", "client is not registered")
	if id == "" || len(id) > maxID {
		return Client{}, unknown
	}
	c, err := s.opt.Store.Client(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return Client{}, unknown
	}
	if err != nil {
		return Client{}, unavailable(err)
	}
	if c.Disabled {
		return Client{}, refuse("invalid_client", "client is disabled")
	}
	if _, ok := s.system().Principals[c.Principal]; !ok && c.Principal != "" { // the file in force may have dropped it
		return Client{}, refuse("invalid_client", "the client's principal is no longer in rampart.yaml")
	}
	return c, nil
}

// authenticate returns the client that a request is from, proved by the one
// way it is registered for: a weaker one is not taken instead, and a second one
// beside it is refused (RFC 6749 section 2.3).
func (s *Service) authenticate(ctx context.Context, r Request) (Client, error) {
	if err := once(r.Form); err != nil {
		return Client{}, err
	}
	if r.Form.Get("client_secret") != "" {
		return Client{}, refuseClient("client secrets are not supported")
	}
	if r.Form.Get("client_assertion") != "" || r.Form.Get("client_assertion_type") != "" {
		return s.assertion(ctx, r.Form)
	}
	client, err := s.client(ctx, r.Form.Get("client_id"))
	switch {
	case err != nil:
		return Client{}, err
	case client.Auth == authTLS:
		return client, s.certificate(client, r.Caller)
	case !client.public():
		return Client{}, refuseClient("the client must prove itself by %s", client.Auth)
	}
	return client, nil
}

// assertion judges private_key_jwt. Each assertion counts once, whichever
// replica it is shown to.
func (s *Service) assertion(ctx context.Context, form url.Values) (Client, error) {
	if form.Get("client_assertion_type") != assertionType {
		return Client{}, refuseClient("client_assertion_type is not supported")
	}
	var client Client
	claims, err := s.assertions.Verify(form.Get("client_assertion"), func(id string) (*jwt.KeySet, error) {
		var err error
		if client, err = s.client(ctx, id); err != nil {
			return nil, err
		}
		if client.Auth != authJWT {
			return nil, refuseClient("this client does not prove itself by %s", authJWT)
		}
		return jwt.ParseClientKeySet(client.Keys)
	})
	if rampart.KindOf(err) == rampart.Unavailable && err != nil {
		return Client{}, err
	}
	if err != nil {
		return Client{}, &Refusal{Code: "invalid_client", Err: err}
	}
	if id := form.Get("client_id"); id != "" && id != client.ID {
		return Client{}, refuseClient("client_id is not the client of the assertion")
	}
	ends := time.Unix(claims.Expires, 0).Add(assertionGrace)
	return client, s.spend(ctx, "assertion", client.ID+"\n"+claims.ID, ends, refuseClient("client_assertion was used before"))
}

// spend lets what is named count once until it ends; the second time is used.
func (s *Service) spend(ctx context.Context, kind, name string, ends time.Time, used error) error {
	err := s.opt.Tickets.PutTicket(ctx, kind, ticket.Hash(s.sum(kind+"\n"+name)), []byte{}, s.opt.Now(), ends)
	if errors.Is(err, ticket.ErrExists) {
		return used
	}
	return unavailable(err)
}

// certificate judges tls_client_auth.
func (s *Service) certificate(client Client, c *Caller) error {
	if c == nil || client.Identity == "" || c.ID != client.Identity {
		return refuseClient("the connection shows no certificate of this client")
	}
	if s.revoked.svid(c.ID, c.Issued) {
		return refuseClient("the client's certificate was revoked")
	}
	return nil
}

func refuseClient(format string, args ...any) error {
	return refuseBy(clientControl, "invalid_client", format, args...)
}
