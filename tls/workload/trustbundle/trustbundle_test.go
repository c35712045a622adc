package trustbundle_test

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rampart-security/rampart/authn/jwt"
	"github.com/rampart-security/rampart/tls/ca"
	"github.com/rampart-security/rampart/tls/svid"
	"github.com/rampart-security/rampart/tls/workload/trustbundle"
)

const domain = "shop.internal"

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func authority(t testing.TB, name string) *ca.Authority {
	t.Helper()
	a, err := ca.New(name, nil)
	must(t, err)
	return a
}

// published is the bundle of a trust domain with one root and one key.
func published(t testing.TB) trustbundle.Bundle {
	t.Helper()
	ring, err := jwt.NewRing(jwt.RingOptions{Generate: jwt.GenerateEdge, MaxLife: jwt.SVIDLife}, nil, time.Now())
	must(t, err)
	keys, err := ring.PublicSVIDs()
	must(t, err)
	return trustbundle.Bundle{Roots: authority(t, domain).BundlePEM(), JWT: keys, Sequence: 7, Hint: 5 * time.Minute}
}

func marshal(t testing.TB, b trustbundle.Bundle) []byte {
	t.Helper()
	text, err := b.Marshal(domain)
	must(t, err)
	return text
}

// TestPublish: what we publish has the form that the standard demands, go-spiffe
// reads it, and so do we.
func TestPublish(t *testing.T) {
	b := published(t)
	text := marshal(t, b)
	var doc struct {
		Keys     []map[string]any `json:"keys"`
		Sequence uint64           `json:"spiffe_sequence"`
		Hint     int              `json:"spiffe_refresh_hint"`
	}
	must(t, json.Unmarshal(text, &doc))
	if len(doc.Keys) != 2 || doc.Sequence != 7 || doc.Hint != 300 {
		t.Fatalf("published %s", text)
	}
	x509Key, jwtKey := doc.Keys[0], doc.Keys[1]
	if x5c, _ := x509Key["x5c"].([]any); len(x5c) != 1 || x509Key["use"] != "x509-svid" || x509Key["kid"] != nil {
		t.Errorf("X509-SVID 6.1: %v", x509Key)
	}
	if jwtKey["use"] != "jwt-svid" || jwtKey["kid"] == "" || jwtKey["kid"] == nil || jwtKey["d"] != nil {
		t.Errorf("JWT-SVID 6.1: %v", jwtKey)
	}
	read, err := spiffebundle.Parse(spiffeid.RequireTrustDomainFromString(domain), text)
	must(t, err)
	if len(read.X509Authorities()) != 1 || len(read.JWTAuthorities()) != 1 {
		t.Errorf("go-spiffe reads %d roots, %d keys", len(read.X509Authorities()), len(read.JWTAuthorities()))
	}
	again, err := trustbundle.Parse(domain, text)
	must(t, err)
	if !bytes.Equal(again.Roots, b.Roots) || again.Sequence != 7 || again.Hint != 5*time.Minute {
		t.Errorf("read back %+v", again)
	}
	set, err := jwt.ParseSVIDKeySet(again.JWT)
	must(t, err)
	if kid, _ := jwtKey["kid"].(string); !set.Has(kid) {
		t.Error("the key of JWT-SVIDs is lost")
	}
}

// TestIntake holds what the standards demand of whoever reads a bundle; a row is
// named after its section of Trust Domain and Bundle, or of the standard named.
func TestIntake(t *testing.T) {
	text := string(marshal(t, published(t)))
	var doc struct{ Keys []json.RawMessage }
	must(t, json.Unmarshal([]byte(text), &doc))
	x509Key, jwtKey := string(doc.Keys[0]), string(doc.Keys[1])
	keys := func(list ...string) string { return `{"keys":[` + strings.Join(list, ",") + `]}` }
	workload := leafAsRoot(t)
	for _, tc := range []struct {
		name, text  string
		roots, keys int // -1: refused
	}{
		{"4.1.3 keys is there", `{"spiffe_sequence":1}`, -1, 0},
		{"4.1.3 keys is not null", `{"keys":null}`, -1, 0},
		{"4.1.3 keys may be empty: nobody is believed", `{"keys":[]}`, 0, 0},
		{"4.1.1 sequence is a number", `{"keys":[],"spiffe_sequence":"1"}`, -1, 0},
		{"4.1.2 hint is a number", `{"keys":[],"spiffe_refresh_hint":-1}`, -1, 0},
		{"4.2.1 unknown kty is passed over", keys(x509Key, strings.Replace(jwtKey, `"EC"`, `"AKP"`, 1)), 1, 0},
		{"4.2.1 no kty is passed over", keys(x509Key, strings.Replace(jwtKey, `"kty":"EC"`, `"k1":"EC"`, 1)), 1, 0},
		{"4.2.2 unknown use is passed over", keys(x509Key, strings.Replace(jwtKey, "jwt-svid", "tea-svid", 1)), 1, 0},
		{"4.2.2 no use is passed over", keys(strings.Replace(x509Key, `"use"`, `"us"`, 1), jwtKey), 0, 1},
		{"unknown members are passed over", keys(x509Key, strings.Replace(jwtKey, "{", `{"ext":true,`, 1)), 1, 1},
		{"X509-SVID 6.2 the first certificate counts", keys(strings.Replace(x509Key, `"]`, `","AA=="]`, 1)), 1, 0},
		{"X509-SVID 6.2 without one it is passed over", keys(strings.Replace(x509Key, `"x5c"`, `"x5d"`, 1), jwtKey), 0, 1},
		{"X509-SVID 6.2 it is a certificate", keys(strings.Replace(x509Key, `"x5c":["`, `"x5c":["AA`, 1)), -1, 0},
		{"X509-SVID 3.2 an authority is no workload", string(workload), -1, 0},
		{"JWT-SVID 6.1 kid is there", keys(strings.Replace(jwtKey, `"kid"`, `"kit"`, 1)), -1, 0},
		{"JWT-SVID 6.1 kid is of one key", keys(jwtKey, jwtKey), -1, 0},
		{"no private key", keys(strings.Replace(jwtKey, "{", `{"d":"AAAA",`, 1)), -1, 0},
		{"no duplicate members", strings.Replace(text, `{"keys"`, `{"keys":[],"keys"`, 1), -1, 0},
		{"nothing after the document", text + "{}", -1, 0},
		{"not too long", text + strings.Repeat(" ", trustbundle.MaxSize), -1, 0},
		{"not too many keys", keys(strings.Split(strings.Repeat(`{} `, 65), " ")[:65]...), -1, 0},
		{"X.509 and JWT", text, 1, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b, err := trustbundle.Parse(domain, []byte(tc.text))
			if tc.roots < 0 {
				if err == nil {
					t.Fatal("accepted")
				}
				return
			}
			must(t, err)
			if roots, n := strings.Count(string(b.Roots), "BEGIN"), strings.Count(string(b.JWT), `"kid"`); roots != tc.roots || n != tc.keys {
				t.Errorf("%d roots and %d keys, want %d and %d", roots, n, tc.roots, tc.keys)
			}
		})
	}
}

// leafAsRoot is a bundle whose authority is a workload.
func leafAsRoot(t testing.TB) []byte {
	t.Helper()
	_, csr, err := svid.NewKeyAndCSR()
	must(t, err)
	chain, _, err := authority(t, domain).Issue(csr, "spiffe://"+domain+"/service/orders", ca.IssueOptions{})
	must(t, err)
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: chain[0]})
	return marshal(t, trustbundle.Bundle{Roots: root})
}

// TestForeignSamples reads the samples of the library of the standard where they
// are. That the first of several certificates counts the standard says, the
// library does not.
func TestForeignSamples(t *testing.T) {
	folder := samples(t)
	for name, good := range map[string]bool{
		"spiffebundle_valid_1": true, "spiffebundle_valid_2": true, "spiffebundle_valid_with_wit": true,
		"spiffebundle_missing_kid": false, "spiffebundle_no_keys": false, "spiffebundle_multiple_x509": true,
	} {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join(folder, name+".json"))
			must(t, err)
			if _, err := trustbundle.Parse("domain.test", text); (err == nil) != good {
				t.Errorf("error %v, want good %v", err, good)
			}
		})
	}
}

// samples finds the library's own test data in the module cache.
func samples(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/spiffe/go-spiffe/v2").Output()
	must(t, err)
	return filepath.Join(strings.TrimSpace(string(out)), "bundle", "spiffebundle", "testdata")
}

// FuzzParse: whatever a partner publishes ends in an error or in a bundle that
// reads the same again and fits the bounds.
func FuzzParse(f *testing.F) {
	good := marshal(f, published(f))
	f.Add(good)
	f.Add([]byte(`{"keys":[{"kty":"EC","use":"jwt-svid","kid":"a","crv":"P-256","x":"","y":""}]}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA","use":"x509-svid","x5c":["AAAA"]}],"spiffe_sequence":18446744073709551615,"spiffe_refresh_hint":9223372036854775807}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := trustbundle.Parse(domain, text)
		if err != nil {
			return
		}
		if b.Hint < 0 || len(b.JWT) > len(text)+trustbundle.MaxSize {
			t.Fatalf("read %+v", b)
		}
		if _, err := jwt.ParseSVIDKeySet(b.JWT); err != nil {
			return // a key that go-spiffe takes and our verifier is too strict for
		}
		again, err := trustbundle.Parse(domain, marshal(t, b))
		must(t, err)
		if diff := cmp.Diff(b, again); diff != "" {
			t.Fatal(diff)
		}
	})
}
