package jwt

import (
	"context"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// Bounds on logout tokens.
const (
	maxLogoutLife     = 10 * time.Minute
	defaultLogoutLife = 2 * time.Minute // of a token without exp
)

// LogoutClaims are the claims of a logout token (OpenID Connect Back-Channel
// Logout section 2.4). One of Subject and Session is never empty. Times are
// seconds since 1970.
type LogoutClaims struct {
	Issuer   string   `json:"iss"`
	Subject  string   `json:"sub,omitzero"`
	Audience Audience `json:"aud"`
	Expires  int64    `json:"exp"`
	IssuedAt int64    `json:"iat"`
	ID       string   `json:"jti"` // the caller lets no one come twice
	Session  string   `json:"sid,omitzero"`
}

type logoutText struct {
	LogoutClaims
	Nonce  jsontext.Value `json:"nonce"`
	Events struct {
		Logout jsontext.Value `json:"http://schemas.openid.net/event/backchannel-logout"`
	} `json:"events"`
}

func (c LogoutClaims) period() period {
	return period{issued: c.IssuedAt, expires: c.Expires, most: maxLogoutLife}
}

func (c logoutText) wellFormed() error {
	if err := checkNames(
		named{"iss", c.Issuer, false}, named{"jti", c.ID, false},
		named{"sub", c.Subject, true}, named{"sid", c.Session, true},
	); err != nil {
		return err
	}
	if c.Subject == "" && c.Session == "" {
		return refuse("sid", "sid or sub is required")
	}
	if c.Events.Logout.Kind() != '{' {
		return refuse("events", "events must hold the logout event")
	}
	if err := unexpected("nonce", c.Nonce); err != nil {
		return err
	}
	return c.period().wellFormed()
}

// LogoutToken verifies logout tokens of one provider: typ logout+jwt or none.
// Safe for concurrent use.
type LogoutToken struct {
	door foreignDoor
	opt  ForeignOptions
}

// NewLogoutToken returns a verifier. It panics when a required option is
// missing.
func NewLogoutToken(opt ForeignOptions) *LogoutToken {
	opt = opt.withDefaults("NewLogoutToken")
	return &LogoutToken{newForeignDoor(opt.Algorithms, "logout+jwt", ""), opt}
}

// Verify returns the claims of a logout token. A provider of before exp was
// required may leave it out; the token is then good for 2 min.
func (v *LogoutToken) Verify(ctx context.Context, token string) (LogoutClaims, error) {
	var c logoutText
	_, err := v.door.open(token, &c, func() error {
		if c.Expires == 0 && c.IssuedAt > 0 {
			c.Expires = c.IssuedAt + int64(defaultLogoutLife/time.Second)
		}
		if err := c.wellFormed(); err != nil {
			return err
		}
		if c.Issuer != v.opt.Issuer {
			return refuse("iss", "issuer is not accepted")
		}
		if !slices.Contains(c.Audience, v.opt.Audience) {
			return refuse("aud", "token is for another client")
		}
		return c.period().covers(v.opt.Now())
	}, v.opt.keysFor(ctx))
	if err != nil {
		return LogoutClaims{}, under(controlFederation, err)
	}
	return c.LogoutClaims, nil
}
