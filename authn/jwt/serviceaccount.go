package jwt

import (
	"context"
	"strings"
	"time"
)

// maxAccountLife bounds a projected service-account token; a cluster gives one
// hour unless it is told otherwise, and renews it at four fifths.
const maxAccountLife = 24 * time.Hour

// accountClaims are the claims of a projected service-account token of Kubernetes
// that are read. Times are seconds since 1970.
type accountClaims struct {
	Issuer    string   `json:"iss"`
	Subject   string   `json:"sub"` // system:serviceaccount:NAMESPACE:NAME
	Audience  Audience `json:"aud"`
	Expires   int64    `json:"exp"`
	IssuedAt  int64    `json:"iat"`
	NotBefore int64    `json:"nbf,omitzero"`
	Cluster   struct {
		Namespace string `json:"namespace"`
		Account   struct {
			Name string `json:"name"`
		} `json:"serviceaccount"`
	} `json:"kubernetes.io"`
}

func (c accountClaims) period() period {
	return period{issued: c.IssuedAt, notBefore: c.NotBefore, expires: c.Expires, most: maxAccountLife}
}

// account is NAMESPACE/NAME, which the token says twice.
func (c accountClaims) account() (string, error) {
	rest, ok := strings.CutPrefix(c.Subject, "system:serviceaccount:")
	namespace, name, both := strings.Cut(rest, ":")
	if !ok || !both || namespace == "" || name == "" || strings.ContainsAny(rest, "/") || strings.Contains(name, ":") {
		return "", refuse("sub", "sub must be system:serviceaccount:NAMESPACE:NAME")
	}
	if c.Cluster.Namespace != namespace || c.Cluster.Account.Name != name {
		return "", refuse("kubernetes.io", "kubernetes.io and sub name different accounts")
	}
	return namespace + "/" + name, nil
}

// ServiceAccount verifies projected service-account tokens of one Kubernetes
// cluster for one audience. Tokens of the old kind, which never expire and have no
// audience, are refused. Safe for concurrent use.
type ServiceAccount struct {
	door foreignDoor
	opt  ForeignOptions
}

// NewServiceAccount returns a verifier. It panics when a required option is
// missing.
func NewServiceAccount(opt ForeignOptions) *ServiceAccount {
	opt = opt.withDefaults("NewServiceAccount")
	return &ServiceAccount{newForeignDoor(opt.Algorithms, typePlain()...), opt}
}

// Verify returns the account of a token as NAMESPACE/NAME.
func (v *ServiceAccount) Verify(ctx context.Context, token string) (string, error) {
	var c accountClaims
	account := ""
	_, err := v.door.open(token, &c, func() (err error) {
		if c.Issuer != v.opt.Issuer {
			return refuse("iss", "issuer is not accepted")
		}
		if err := c.Audience.only(v.opt.Audience); err != nil {
			return err
		}
		if err := c.period().wellFormed(); err != nil {
			return err
		}
		if account, err = c.account(); err != nil {
			return err
		}
		return c.period().covers(v.opt.Now())
	}, v.opt.keysFor(ctx))
	if err != nil {
		return "", err
	}
	return account, nil
}
