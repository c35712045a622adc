package vault_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/secrets/vault/vaulttest"
)

// driver is a client that does what the scenarios say, and tells what it saw in
// words that all have in common: a value, or the kind of the error.
type driver interface {
	read(ctx context.Context, path string, version int) string
	put(ctx context.Context, path, value string, after int) string
	list(ctx context.Context, folder string) string
	destroy(ctx context.Context, path string, version int) string
	transit(ctx context.Context, verb, key, in, bind string) string
	creds(ctx context.Context, role string) (leased, string)
	renew(ctx context.Context, l leased, seconds int) (leased, string)
	revoke(ctx context.Context, l leased) string
	login(ctx context.Context, role, secretID string) string
	sign(ctx context.Context, csr string) string
}

// leased is a user of a database, as long as its lease is.
type leased struct {
	id, user string
	seconds  int
}

// place is a server and the mounts on it that are ours.
type place struct {
	url, token                       string
	ca                               []byte
	kv, transit, database, pki, auth string
	approle                          string
	fake                             *vaulttest.Server // nil: a real one
}

func (p place) client() *http.Client {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(p.ca)
	config := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	if p.ca == nil {
		config.RootCAs = nil
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}, Timeout: 10 * time.Second}
}

// kindOf says in our words what a status means.
func kindOf(status int, why string) string {
	switch {
	case status == 403:
		return "denied"
	case status == 404 || status == 400 && strings.Contains(why, "unknown role"):
		return "not_found"
	case status == 400 && strings.Contains(why, "check-and-set"):
		return "conflict"
	case status == 429:
		return "limited"
	case status >= 400 && status < 500 && status != 412 && status != 472 && status != 473:
		return "invalid"
	}
	return "unavailable"
}

// lost is a refusal to renew, and refused one of a login.
func lost(kind string) string {
	if kind == "invalid" {
		return "not_found"
	}
	return kind
}

func refused(kind string) string {
	if kind == "invalid" || kind == "denied" {
		return "unauthenticated"
	}
	return kind
}

// where returns the server of the test: a user's own if its address is given,
// else the fake.
func where(t *testing.T) place {
	t.Helper()
	random := make([]byte, 6)
	if _, err := rand.Read(random); err != nil {
		t.Fatal(err)
	}
	at := "rampart-test-" + hex.EncodeToString(random)
	p := place{kv: at + "/kv", transit: at + "/transit", database: at + "/database", pki: at + "/pki", approle: at + "/approle", auth: at}
	if p.url = os.Getenv("RAMPART_TEST_VAULT_ADDR"); p.url == "" {
		p.fake = vaulttest.Start(t)
		p.url, p.token, p.ca = p.fake.URL, p.fake.Root(), p.fake.CA()
		return p
	}
	p.token = strings.TrimSpace(contents(t, os.Getenv("RAMPART_TEST_VAULT_TOKEN_FILE")))
	if ca := os.Getenv("RAMPART_TEST_VAULT_CACERT"); ca != "" {
		p.ca = []byte(contents(t, ca))
	}
	return p
}

func contents(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("make test-vault needs VAULT_ADDR, VAULT_TOKEN_FILE and, for a private authority, VAULT_CACERT: %v", err)
	}
	return string(b)
}

// operator sets up the mounts with an official client and removes them again.
type operator struct {
	t *testing.T
	hashi
}

func (o operator) do(method, path string, body map[string]any) map[string]any {
	o.t.Helper()
	out, err := o.admin(context.Background(), method, path, body)
	if err != nil {
		o.t.Fatal(err)
	}
	return out
}

func setUp(t *testing.T, p place) operator {
	t.Helper()
	d, err := newHashi(p)
	if err != nil {
		t.Fatal(err)
	}
	o := operator{t, d.(hashi)}
	mount := func(at, kind string, body map[string]any) {
		body["type"] = kind
		o.do(http.MethodPut, at, body)
		t.Cleanup(func() { o.do(http.MethodDelete, at, nil) })
	}
	mount("sys/mounts/"+p.kv, "kv", map[string]any{"options": map[string]string{"version": "2"}})
	mount("sys/mounts/"+p.transit, "transit", map[string]any{})
	mount("sys/mounts/"+p.pki, "pki", map[string]any{"config": map[string]string{"max_lease_ttl": "8760h"}})
	mount("sys/auth/"+p.approle, "approle", map[string]any{})
	// A real engine is not ready at once.
	for tries := 0; ; tries++ {
		if _, err = o.admin(t.Context(), http.MethodGet, p.kv+"/config", nil); err == nil {
			return o
		}
		if tries > 100 {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// drivers are the clients that are compared.
func drivers(t *testing.T, p place) map[string]driver {
	t.Helper()
	h, err := newHashi(p)
	if err != nil {
		t.Fatal(err)
	}
	b, err := newBao(p)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]driver{"hashicorp": h, "openbao": b, "rampart": newOurs(t, p)}
}

// each runs a scenario with every client and demands the same words of all.
func each(t *testing.T, ds map[string]driver, want []string, scenario func(name string, d driver) []string) {
	t.Helper()
	for name, d := range ds {
		if got := scenario(name, d); !slices.Equal(got, want) {
			t.Errorf("%s saw\n  %s\nwant\n  %s", name, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
		}
	}
}

func TestSecrets(t *testing.T) {
	p := where(t)
	o := setUp(t, p)
	ctx := t.Context()
	each(t, drivers(t, p), []string{
		"missing: not_found", "first: v1", "first again: conflict", "second, after the first: v2", "after one that is not there: conflict",
		"without minding: v3", "newest: v3 c", "first version: v1 a", "version that never was: not_found",
		"destroyed: ok", "destroyed version: not_found", "others stay: v2 b", "deleted: not_found", "first after a deleted one: conflict", "next: v4",
		"another: v1", "list: NAME/key@4 NAME/more@1", "list of nothing: ", "all destroyed: ok", "gone: not_found", "counts anew: v1",
	}, func(name string, d driver) []string {
		key := name + "/key"
		seen := []string{
			"missing: " + d.read(ctx, key, 0),
			"first: " + d.put(ctx, key, "a", 0), "first again: " + d.put(ctx, key, "x", 0),
			"second, after the first: " + d.put(ctx, key, "b", 1), "after one that is not there: " + d.put(ctx, key, "x", 7),
			"without minding: " + d.put(ctx, key, "c", -1),
			"newest: " + d.read(ctx, key, 0), "first version: " + d.read(ctx, key, 1), "version that never was: " + d.read(ctx, key, 9),
			"destroyed: " + d.destroy(ctx, key, 1), "destroyed version: " + d.read(ctx, key, 1), "others stay: " + d.read(ctx, key, 2),
		}
		o.do(http.MethodDelete, p.kv+"/data/"+key, nil)
		return append(seen,
			"deleted: "+d.read(ctx, key, 0), "first after a deleted one: "+d.put(ctx, key, "x", 0), "next: "+d.put(ctx, key, "d", 3),
			"another: "+d.put(ctx, name+"/more", "e", -1), strings.ReplaceAll("list: "+d.list(ctx, name), name+"/", "NAME/"), "list of nothing: "+d.list(ctx, name+"-nothing"),
			"all destroyed: "+d.destroy(ctx, key, 0), "gone: "+d.read(ctx, key, 0), "counts anew: "+d.put(ctx, key, "f", 0),
		)
	})
}

// TestRefused: a token that may not is told so, whether the path exists or not.
func TestRefused(t *testing.T) {
	p := where(t)
	o := setUp(t, p)
	o.do(http.MethodPut, p.kv+"/data/there", map[string]any{"data": map[string]string{"value": "v"}})
	o.do(http.MethodPut, "sys/policies/acl/"+p.auth, map[string]any{"policy": fmt.Sprintf(`{"path":{"%s/data/open/*":{"capabilities":["read"]}}}`, p.kv)})
	t.Cleanup(func() { o.do(http.MethodDelete, "sys/policies/acl/"+p.auth, nil) })
	narrow := p
	narrow.token = o.do(http.MethodPost, "auth/token/create", map[string]any{"policies": []string{p.auth}, "ttl": "10m"})["token"].(string)
	ctx := t.Context()
	each(t, drivers(t, narrow), []string{"denied", "denied", "not_found", "denied", "denied"}, func(_ string, d driver) []string {
		return []string{d.read(ctx, "there", 0), d.read(ctx, "not-there", 0), d.read(ctx, "open/nothing", 0), d.put(ctx, "there", "x", -1), d.destroy(ctx, "there", 1)}
	})
	ended := p
	ended.token = "hvs.never-was"
	each(t, drivers(t, ended), []string{"denied"}, func(_ string, d driver) []string {
		return []string{strings.Replace(d.read(ctx, "there", 0), "unauthenticated", "denied", 1)} // ours knows that its login was refused
	})
}

func TestLogins(t *testing.T) {
	p := where(t)
	o := setUp(t, p)
	role := "auth/" + p.approle + "/role/"
	o.do(http.MethodPut, role+"control", map[string]any{"token_ttl": "10m", "token_max_ttl": "20m", "secret_id_num_uses": 1})
	id := o.do(http.MethodGet, role+"control/role-id", nil)["role_id"].(string)
	ctx := t.Context()
	each(t, drivers(t, p), []string{"with it: ok", "its uses are over: unauthenticated", "wrong secret id: unauthenticated", "wrong role: unauthenticated"}, func(_ string, d driver) []string {
		secret := o.do(http.MethodPut, role+"control/secret-id", nil)["secret_id"].(string)
		return []string{
			"with it: " + d.login(ctx, id, secret), "its uses are over: " + d.login(ctx, id, secret),
			"wrong secret id: " + d.login(ctx, id, "00000000-0000-0000-0000-000000000000"), "wrong role: " + d.login(ctx, "00000000-0000-0000-0000-000000000000", secret),
		}
	})
	wrapping := func() string { return o.do("WRAP", role+"control/secret-id", nil)["token"].(string) }
	for name, unwrap := range map[string]func(context.Context, string) string{"hashicorp": o.unwrap, "openbao": mustBao(t, p).unwrap} {
		w := wrapping()
		if got := newOurs(t, p).login(ctx, id, unwrap(ctx, w)); got != "ok" {
			t.Errorf("with what %s unwrapped: %s", name, got)
		}
		if got := unwrap(ctx, w); got != "unauthenticated" {
			t.Errorf("%s unwrapped twice: %s", name, got)
		}
	}
	if got := newOurs(t, p).login(ctx, id, "wrapped:"+wrapping()); got != "ok" {
		t.Errorf("with a wrapped secret id: %s", got)
	}
}

// TestTransit has each client open what the others wrapped.
func TestTransit(t *testing.T) {
	p := where(t)
	o := setUp(t, p)
	o.do(http.MethodPut, p.transit+"/keys/k", map[string]any{"derived": true})
	ctx, ds, old := t.Context(), drivers(t, p), map[string]string{}
	bind := func(name, to string) string {
		if name == "rampart" {
			return to
		}
		return hashed(to)
	}
	for name, d := range ds {
		if old[name] = d.transit(ctx, "encrypt", "k", "a key", bind(name, "tenant-1")); !strings.HasPrefix(old[name], "vault:v1:") {
			t.Fatalf("%s wrapped %s", name, old[name])
		}
	}
	opens := func(wrapped map[string]string) {
		t.Helper()
		each(t, ds, []string{"a key", "invalid", "a key", "invalid", "a key", "invalid"}, func(name string, d driver) (seen []string) {
			for _, by := range []string{"hashicorp", "openbao", "rampart"} {
				seen = append(seen, d.transit(ctx, "decrypt", "k", wrapped[by], bind(name, "tenant-1")), d.transit(ctx, "decrypt", "k", wrapped[by], bind(name, "tenant-2")))
			}
			return seen
		})
	}
	opens(old)
	o.do(http.MethodPut, p.transit+"/keys/k/rotate", nil)
	moved := map[string]string{}
	for name, d := range ds {
		if moved[name] = d.transit(ctx, "rewrap", "k", old[name], bind(name, "tenant-1")); !strings.HasPrefix(moved[name], "vault:v2:") {
			t.Errorf("%s moved to %s", name, moved[name])
		}
		if got := d.transit(ctx, "rewrap", "k", old[name], bind(name, "tenant-2")); got != "invalid" {
			t.Errorf("%s moved what belongs elsewhere: %s", name, got)
		}
	}
	opens(moved)
	o.do(http.MethodPut, p.transit+"/keys/k/config", map[string]any{"min_decryption_version": 2})
	each(t, ds, []string{"invalid", "a key", "invalid"}, func(name string, d driver) []string {
		return []string{d.transit(ctx, "decrypt", "k", old[name], bind(name, "tenant-1")), d.transit(ctx, "decrypt", "k", moved[name], bind(name, "tenant-1")), d.transit(ctx, "rewrap", "k", old[name], bind(name, "tenant-1"))}
	})
}

// TestRewrapTakesNoAssociatedData is why the binding is in the context.
func TestRewrapTakesNoAssociatedData(t *testing.T) {
	p := where(t)
	o := setUp(t, p)
	o.do(http.MethodPut, p.transit+"/keys/plain", nil)
	made := o.do(http.MethodPut, p.transit+"/encrypt/plain", map[string]any{"plaintext": "YQ==", "associated_data": "dGVuYW50"})["ciphertext"]
	o.do(http.MethodPut, p.transit+"/decrypt/plain", map[string]any{"ciphertext": made, "associated_data": "dGVuYW50"})
	if _, err := o.admin(t.Context(), http.MethodPut, p.transit+"/rewrap/plain", map[string]any{"ciphertext": made, "associated_data": "dGVuYW50"}); err == nil {
		t.Error("this server rewraps with associated data: the fake is behind it")
	}
}

func TestLeases(t *testing.T) {
	p := where(t)
	o := setUp(t, p)
	config := map[string]any{"plugin_name": "postgresql-database-plugin", "allowed_roles": "app"}
	if p.fake == nil {
		file := os.Getenv("RAMPART_TEST_VAULT_DATABASE_FILE")
		if file == "" {
			t.Skip("a real database engine needs a PostgreSQL: VAULT_DATABASE_FILE names none")
		}
		config["connection_url"] = strings.TrimSpace(contents(t, file))
	}
	o.do(http.MethodPut, "sys/mounts/"+p.database, map[string]any{"type": "database"})
	t.Cleanup(func() {
		o.do(http.MethodPut, "sys/leases/revoke-prefix/"+p.database, nil)
		o.do(http.MethodDelete, "sys/mounts/"+p.database, nil)
	})
	o.do(http.MethodPut, p.database+"/config/pg", config)
	o.do(http.MethodPut, p.database+"/roles/app", map[string]any{
		"db_name": "pg", "default_ttl": "1h", "max_ttl": "90m",
		"creation_statements": []string{`CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'`},
	})
	ctx := t.Context()
	each(t, drivers(t, p), []string{"ok 1h0m0s", "another user", "renewed ok 1h20m0s", "capped ok 1h30m0s", "revoked ok", "then not_found", "unknown not_found"}, func(_ string, d driver) []string {
		a, how := d.creds(ctx, "app")
		b, _ := d.creds(ctx, "app")
		seen := []string{how + " " + (time.Duration(a.seconds) * time.Second).String(), "another user"}
		if a.user == b.user || a.id == b.id {
			seen[1] = "the same user"
		}
		m, how := d.renew(ctx, a, 80*60)
		n, capped := d.renew(ctx, a, 100*60)
		_, unknown := d.creds(ctx, "nobody")
		seen = append(seen, "renewed "+how+" "+(time.Duration(m.seconds)*time.Second).String(), "capped "+capped+" "+(time.Duration(n.seconds)*time.Second).Round(5*time.Second).String(), "revoked "+d.revoke(ctx, a))
		_, how = d.renew(ctx, a, 60)
		return append(seen, "then "+how, "unknown "+unknown)
	})
}

func TestPKI(t *testing.T) {
	p := where(t)
	o := setUp(t, p)
	o.do(http.MethodPut, p.pki+"/root/generate/internal", map[string]any{"common_name": "a root", "ttl": "720h"})
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "issuing"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	csr := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	each(t, drivers(t, p), []string{"issuing: CA true, path 0, by a root, 168h0m0s"}, func(_ string, d driver) []string { return []string{d.sign(t.Context(), csr)} })
}

// about says what a certificate is, if its issuer signed it.
func about(cert, issuer string) string {
	parse := func(text string) *x509.Certificate {
		block, _ := pem.Decode([]byte(text))
		if block == nil {
			return &x509.Certificate{}
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return &x509.Certificate{}
		}
		return c
	}
	c, ca := parse(cert), parse(issuer)
	if err := c.CheckSignatureFrom(ca); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s: CA %v, path %d, by %s, %v", c.Subject.CommonName, c.IsCA, c.MaxPathLen, ca.Subject.CommonName, time.Until(c.NotAfter).Round(time.Hour))
}

// TestFaults compares what all make of a server in trouble.
func TestFaults(t *testing.T) {
	p := where(t)
	if p.fake == nil {
		t.Skip("faults are not made on a server of somebody's: left out")
	}
	o := setUp(t, p)
	o.do(http.MethodPut, p.kv+"/data/key", map[string]any{"data": map[string]string{"value": "v"}})
	for name, c := range map[string]struct {
		fault vaulttest.Faults
		want  string
	}{
		"none":        {vaulttest.Faults{}, "v1 v"},
		"sealed":      {vaulttest.Faults{Sealed: true}, "unavailable"},
		"down":        {vaulttest.Faults{Down: true}, "unavailable"},
		"busy":        {vaulttest.Faults{Status: 429}, "limited"},
		"standby 472": {vaulttest.Faults{Status: 472}, "unavailable"},
		"standby 473": {vaulttest.Faults{Status: 473}, "unavailable"},
		"gateway 502": {vaulttest.Faults{Status: 502}, "unavailable"},
		"behind 412":  {vaulttest.Faults{Status: 412}, "unavailable"},
	} {
		t.Run(name, func(t *testing.T) {
			ds := drivers(t, p)
			each(t, ds, []string{"v1 v"}, func(_ string, d driver) []string { return []string{d.read(t.Context(), "key", 0)} })
			p.fake.Fault(c.fault)
			defer p.fake.Fault(vaulttest.Faults{})
			each(t, ds, []string{c.want}, func(_ string, d driver) []string { return []string{d.read(t.Context(), "key", 0)} })
		})
	}
}
