package control

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/network/egress"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/tls/profile"
)

// providerExit is the way out to one identity provider: the hosts that the
// file names, by the guard that services' calls pass too. What the provider's
// own documents say leads nowhere else.
type providerExit map[string]*egress.Transport // by HOST[:PORT] as in the address

func newProviderExit(sys *spec.System, p spec.IdentityProvider) (providerExit, error) {
	issuer, err := url.Parse(p.Issuer)
	if err != nil {
		return nil, err
	}
	roots, err := providerRoots(sys, p.CA)
	if err != nil {
		return nil, err
	}
	out := providerExit{}
	for _, host := range append([]string{issuer.Host}, p.Hosts...) {
		out[host], err = egress.New(egress.Options{
			Host: host, Methods: []string{http.MethodGet, http.MethodPost}, Paths: []string{"/*"}, StandIn: p.StandIn,
			TLS:     func(name string) (*tls.Config, error) { return profile.External(name, roots, tls.VersionTLS12), nil },
			AnyPath: sys.Off("egress.allow"),
			// A provider with a CA of its own is one of the house, and lives at
			// an address of the house; only it can show such a certificate.
			AnyAddress: roots != nil || sys.Off("egress.private_ip"),
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// providerRoots reads a provider's own CA; nil means the system's roots.
func providerRoots(sys *spec.System, file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	text, ok := sys.Resource(file)
	if !ok {
		return nil, fmt.Errorf("%s is not in the bundle", file)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, errors.New(file + " holds no certificate")
	}
	return roots, nil
}

// RoundTrip implements http.RoundTripper.
func (e providerExit) RoundTrip(r *http.Request) (*http.Response, error) {
	if t, ok := e[r.URL.Host]; ok {
		return t.RoundTrip(r)
	}
	if r.Body != nil {
		r.Body.Close()
	}
	return nil, rampart.Errorf(rampart.Denied, "egress.allow", "control: the provider's document leads to %.100q, which is not in hosts", r.URL.Host)
}
