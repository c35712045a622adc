package acme

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	acmeproto "github.com/mholt/acmez/v3/acme"
)

const (
	orderLimit = 5 * time.Minute
	userAgent  = "rampart"
)

// issuer gets certificates from the authority. certmagic's own would open
// listeners and build TLS configurations of its own, read the environment and
// keep challenges in package variables; the protocol is the same.
type issuer struct {
	opt        Options
	key        string // names the authority in the store
	store      *storage
	challenges *challenges
}

var (
	_ certmagic.Issuer            = (*issuer)(nil)
	_ certmagic.RenewalInfoGetter = (*issuer)(nil)
)

// issuerKey names an authority in keys of the store.
func issuerKey(directory string) string {
	u, err := url.Parse(directory)
	if err != nil {
		return "unknown"
	}
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' || r == '-' {
			return r
		}
		return '-'
	}, strings.ToLower(strings.TrimRight(u.Host+u.Path, "/")))
}

// IssuerKey implements certmagic.Issuer.
func (i *issuer) IssuerKey() string { return i.key }

func (i *issuer) client() *acmez.Client {
	c := &acmez.Client{
		Client: &acmeproto.Client{
			Directory: i.opt.Directory, HTTPClient: i.opt.Client, UserAgent: userAgent, PollTimeout: orderLimit,
		},
		ChallengeSolvers: map[string]acmez.Solver{acmeproto.ChallengeTypeTLSALPN01: i.challenges},
	}
	if i.opt.HTTP {
		c.ChallengeSolvers[acmeproto.ChallengeTypeHTTP01] = i.challenges
	}
	return c
}

// Issue implements certmagic.Issuer: one order.
func (i *issuer) Issue(ctx context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	ctx, cancel := context.WithTimeout(ctx, orderLimit)
	defer cancel()
	chains, err := i.order(ctx, csr, i.stored(ctx, csr))
	if problem(err, acmeproto.ProblemTypeAccountDoesNotExist) {
		// The authority forgot the account, as one that was set up anew does.
		if err = i.store.Delete(ctx, i.accountKey()); err == nil {
			chains, err = i.order(ctx, csr, nil)
		}
	}
	if err != nil {
		return nil, err
	}
	if len(chains) == 0 {
		return nil, errors.New("the authority sent no certificate")
	}
	return &certmagic.IssuedCertificate{Certificate: chains[0].ChainPEM, Metadata: chains[0]}, nil
}

// order asks for a certificate in place of an older one, which spares the
// authority's limits (RFC 9773 section 5). An authority that does not accept the
// older one, perhaps as another account's, is asked again without it.
func (i *issuer) order(ctx context.Context, csr *x509.CertificateRequest, replaces *x509.Certificate) ([]acmeproto.Certificate, error) {
	client := i.client()
	account, err := i.account(ctx, client)
	if err != nil {
		return nil, err
	}
	params, err := acmez.OrderParametersFromCSR(account, csr)
	if err != nil {
		return nil, err
	}
	params.Profile, params.Replaces = i.opt.Profile, replaces
	chains, err := client.ObtainCertificate(ctx, params)
	if replaces != nil && problem(err, acmeproto.ProblemTypeMalformed, acmeproto.ProblemTypeUnauthorized) {
		params.Replaces = nil
		return client.ObtainCertificate(ctx, params)
	}
	return chains, err
}

// stored is the newest certificate of the name that is asked for, nil if there
// is none.
func (i *issuer) stored(ctx context.Context, csr *x509.CertificateRequest) *x509.Certificate {
	if len(csr.DNSNames) == 0 {
		return nil
	}
	b, err := i.store.Load(ctx, certmagic.StorageKeys.SiteCert(i.key, csr.DNSNames[0]))
	if err != nil {
		return nil
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil || len(leaf.AuthorityKeyId) == 0 {
		return nil // without it the certificate has no name (RFC 9773 section 4.1)
	}
	return leaf
}

// GetRenewalInfo implements certmagic.RenewalInfoGetter (RFC 9773).
func (i *issuer) GetRenewalInfo(ctx context.Context, cert certmagic.Certificate) (acmeproto.RenewalInfo, error) {
	return i.client().GetRenewalInfo(ctx, cert.Leaf)
}

// problem reports whether err is one of these problems of the authority's.
func problem(err error, types ...string) bool {
	p, ok := errors.AsType[acmeproto.Problem](err)
	if !ok {
		return false
	}
	for _, t := range types {
		if p.Type == t {
			return true
		}
	}
	return false
}

// account of all gateways at the authority.
type account struct {
	Account acmeproto.Account `json:"account"`
	Key     []byte            `json:"key"` // PKCS #8
}

func (i *issuer) accountKey() string { return "acme/" + i.key + "/account" }

// account loads the account, or registers one under the lock that all gateways
// share. That rampart.yaml names the authority is the agreement to its terms.
func (i *issuer) account(ctx context.Context, client *acmez.Client) (acmeproto.Account, error) {
	a, err := i.loadAccount(ctx)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return a, err
	}
	if err := i.store.Lock(ctx, i.accountKey()); err != nil {
		return a, err
	}
	defer i.store.Unlock(ctx, i.accountKey())
	if a, err := i.loadAccount(ctx); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return a, err // another gateway was faster
	}
	return i.register(ctx, client)
}

func (i *issuer) register(ctx context.Context, client *acmez.Client) (acmeproto.Account, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return acmeproto.Account{}, err
	}
	want := acmeproto.Account{TermsOfServiceAgreed: true, PrivateKey: key}
	if i.opt.Email != "" {
		want.Contact = []string{"mailto:" + i.opt.Email}
	}
	got, err := client.NewAccount(ctx, want)
	if err != nil {
		return got, fmt.Errorf("registering with the authority: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return got, err
	}
	b, err := json.Marshal(account{got, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})})
	if err != nil {
		return got, err
	}
	return got, i.store.Store(ctx, i.accountKey(), b)
}

func (i *issuer) loadAccount(ctx context.Context) (acmeproto.Account, error) {
	b, err := i.store.Load(ctx, i.accountKey())
	if err != nil {
		return acmeproto.Account{}, err
	}
	return parseAccount(b)
}

func parseAccount(b []byte) (acmeproto.Account, error) {
	var a account
	if err := json.Unmarshal(b, &a); err != nil {
		return acmeproto.Account{}, errors.New("the stored account does not parse")
	}
	block, _ := pem.Decode(a.Key)
	if block == nil {
		return acmeproto.Account{}, errors.New("the stored account has no key")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return acmeproto.Account{}, errors.New("the stored account's key does not parse")
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return acmeproto.Account{}, errors.New("the stored account's key cannot sign")
	}
	a.Account.PrivateKey = signer
	return a.Account, nil
}
