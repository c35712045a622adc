package vault

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
)

// Database is the backend of a database engine. It is also a secrets.Leaser.
type Database struct {
	c     *Client
	mount string
}

var (
	_ secrets.Backend = (*Database)(nil)
	_ secrets.Leaser  = (*Database)(nil)
)

// lease is the part of a reply that says how long it is good.
type lease struct {
	ID        string `json:"lease_id"`
	Seconds   int64  `json:"lease_duration"`
	Renewable bool   `json:"renewable"`
}

// until is when a lease that was asked for at that time ends. A duration of 0
// means that nothing is leased, not that it is over.
func (l lease) until(at time.Time) time.Time {
	if l.Seconds <= 0 {
		return time.Time{}
	}
	return at.Add(seconds(l.Seconds))
}

// Fetch returns the password of a role; the user is its User. creds/ROLE makes a
// new user, dropped when its lease ends. static-creds/ROLE is a user whose
// password Vault changes: Until is when. The field username is the user.
func (d *Database) Fetch(ctx context.Context, ref secrets.Ref) (secrets.Secret, error) {
	kind, role, _ := strings.Cut(ref.Path, "/")
	if err := checkPath(role); err != nil || kind != "creds" && kind != "static-creds" {
		return secrets.Secret{}, invalid("a path in the database engine of %s is creds/ROLE or static-creds/ROLE", d.c.opt.Name)
	}
	at, path := d.c.opt.Now(), d.mount+"/"+ref.Path // before the request: better too short than too long
	if ref.Field != "" && ref.Field != "password" && ref.Field != "username" {
		return secrets.Secret{}, d.c.fail(rampart.NotFound, path, errors.New("the fields are password and username"))
	}
	var out struct {
		lease
		Data struct {
			User     string `json:"username"`
			Password string `json:"password"`
			TTL      int64  `json:"ttl"` // static: seconds to the next password
		} `json:"data"`
	}
	lessor, err := d.c.fetchAs(ctx, request{method: http.MethodGet, path: path}, &out)
	if err != nil {
		return secrets.Secret{}, err
	}
	if out.Data.User == "" || out.Data.Password == "" {
		return secrets.Secret{}, d.c.fail(rampart.Unavailable, path, errors.New("the reply holds no user with a password"))
	}
	value := out.Data.Password
	if ref.Field == "username" {
		value = out.Data.User
	}
	meta := secrets.Meta{User: out.Data.User, Lease: out.ID, Until: out.until(at)}
	if out.ID != "" && !meta.Until.IsZero() {
		d.c.session.lend(out.ID, lent{lessor, meta.Until})
	}
	if kind == "static-creds" {
		meta.Until = lease{Seconds: out.Data.TTL}.until(at)
	}
	return secrets.Make([]byte(value), meta), nil
}

// Orphaned reports whether a lease ends before its Until, as the login that it was
// made with is over, or near its end and given up: fetch a new one.
func (d *Database) Orphaned(s secrets.Secret) bool { return d.c.session.orphaned(s.Lease()) }

// Renew prolongs the lease; by 0 is as long as its role says. A lease that is
// over, or orphaned, or cannot be renewed, is NotFound: fetch a new one.
func (d *Database) Renew(ctx context.Context, s secrets.Secret, by time.Duration) (secrets.Secret, error) {
	const path = "sys/leases/renew"
	if s.Lease() == "" {
		return secrets.Secret{}, invalid("the secret has no lease")
	}
	if d.Orphaned(s) {
		return secrets.Secret{}, d.c.fail(rampart.NotFound, path, errors.New("the login that the lease was made with is over"))
	}
	body := map[string]any{"lease_id": s.Lease()}
	if by > 0 {
		body["increment"] = int64(by / time.Second)
	}
	at := d.c.opt.Now()
	var out lease
	if err := d.c.fetch(ctx, request{method: http.MethodPost, path: path, body: body}, &out); err != nil {
		return secrets.Secret{}, d.over(err)
	}
	meta := secrets.Meta{Version: s.Version(), User: s.User(), Lease: s.Lease(), Until: out.until(at)}
	if by := d.c.session.lessor(s.Lease()); by != 0 && !meta.Until.IsZero() {
		d.c.session.lend(s.Lease(), lent{by, meta.Until})
	}
	var renewed secrets.Secret
	err := s.Use(func(b []byte) error { renewed = secrets.Make(b, meta); return nil })
	return renewed, err
}

// over turns what Vault says of leases that ended (400) into NotFound.
func (d *Database) over(err error) error {
	if rampart.KindOf(err) == rampart.Invalid {
		return &rampart.Error{Kind: rampart.NotFound, Control: control, Msg: "the lease of " + d.c.opt.Name + " has ended, or cannot be renewed", Err: errors.Unwrap(err)}
	}
	return err
}

// Revoke ends the lease, and with it the user. One that is over is no error.
func (d *Database) Revoke(ctx context.Context, s secrets.Secret) error {
	const path = "sys/leases/revoke"
	if s.Lease() == "" {
		return invalid("the secret has no lease")
	}
	err := d.c.fetch(ctx, request{method: http.MethodPost, path: path, body: map[string]string{"lease_id": s.Lease()}}, nil)
	if err := d.over(err); err != nil && rampart.KindOf(err) != rampart.NotFound {
		return err
	}
	d.c.session.returned(s.Lease())
	return nil
}
