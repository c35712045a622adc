package ca_test

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/tls/ca"
)

// authority is what Marshal keeps, for tests that steal or spoil it.
type authority struct {
	Format     int        `json:"format"`
	Domain     string     `json:"domain"`
	Kind       ca.Kind    `json:"kind"`
	Version    uint64     `json:"version"`
	Step       ca.Step    `json:"step"`
	Since      time.Time  `json:"since"`
	Published  uint64     `json:"published,omitempty"`
	Roots      []tier     `json:"roots"`
	Issuing    *tier      `json:"issuing,omitempty"`
	Previous   *tier      `json:"previous,omitempty"`
	Next       *tier      `json:"next,omitempty"`
	Request    []byte     `json:"request,omitempty"`
	Past       []any      `json:"past,omitempty"`
	Unrecorded *time.Time `json:"unrecorded,omitempty"`
}

type tier struct {
	Cert  []byte   `json:"cert"`
	Key   []byte   `json:"key,omitempty"`
	Above [][]byte `json:"above,omitempty"`
}

func kept(t testing.TB, a *ca.Authority) authority {
	t.Helper()
	data, err := a.Marshal()
	ok(t, err)
	var s authority
	ok(t, json.Unmarshal(data, &s))
	return s
}

// firstRelease writes an authority as the first release did.
func firstRelease(s authority) []byte {
	var out []byte
	for _, tier := range []tier{s.Roots[0], *s.Issuing} {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: tier.Cert})...)
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: tier.Key})...)
	}
	return out
}

func TestMarshalRoundTrip(t *testing.T) {
	a := newAuthority(t, nil)
	data, err := a.Marshal()
	ok(t, err)
	b, err := ca.Parse(data, nil)
	ok(t, err)
	if b.TrustDomain() != "shop.internal" || string(b.BundlePEM()) != string(a.BundlePEM()) || b.Version() != 1 {
		t.Error("another authority came back")
	}
	chain, _, err := b.Issue(request(t), orders, ca.IssueOptions{})
	ok(t, err)
	verifyByGo(t, a, parse(t, chain), ca.IssueOptions{})
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		if got := fmt.Sprintf(verb, a); got != "ca.Authority(shop.internal)" {
			t.Errorf("%s prints %s", verb, got)
		}
	}
}

// TestFirstRelease: what the first release stored is read, and stored anew.
func TestFirstRelease(t *testing.T) {
	a := newAuthority(t, nil)
	data := firstRelease(kept(t, a))
	b, err := ca.Parse(data, nil)
	ok(t, err)
	if !bytes.Equal(a.BundlePEM(), b.BundlePEM()) || b.Kind() != ca.Embedded || b.Version() != 1 {
		t.Error("another authority came back")
	}
	chain, _, err := b.Issue(request(t), orders, ca.IssueOptions{})
	ok(t, err)
	verifyByGo(t, a, parse(t, chain), ca.IssueOptions{})
	again, err := b.Marshal()
	ok(t, err)
	_, err = ca.Parse(again, nil)
	ok(t, err)

	// Nobody wrote down what that release issued: its root is not retired early.
	ok(t, b.Prepare())
	ok(t, b.Publish())
	ok(t, b.Activate(ca.Facts{}, false))
	if err := b.Retire(ca.Facts{}, false); err == nil || !strings.Contains(err.Error(), "not on record") {
		t.Errorf("retired with %v", err)
	}

	other := firstRelease(kept(t, newAuthority(t, nil)))
	cut := bytes.Index(data, []byte("-----BEGIN PRIVATE"))
	for name, bad := range map[string][]byte{
		"without the issuing tier":   data[:len(data)/2],
		"key of another authority":   append(bytes.Clone(data[:cut]), other[bytes.Index(other, []byte("-----BEGIN PRIVATE")):]...),
		"data after the end":         append(bytes.Clone(data), 'x'),
		"issuing tier of a stranger": append(bytes.Clone(data[:tierEnd(data)]), other[tierEnd(other):]...),
	} {
		if _, err := ca.Parse(bad, nil); err == nil {
			t.Errorf("%s: parsed", name)
		}
	}
}

// tierEnd is where the root's tier ends in data of the first release.
func tierEnd(data []byte) int {
	const end = "-----END PRIVATE KEY-----\n"
	return strings.Index(string(data), end) + len(end)
}

// TestSpoiledAuthority: what was stored is not believed blindly.
func TestSpoiledAuthority(t *testing.T) {
	stranger := kept(t, newAuthority(t, nil))
	for name, spoil := range map[string]func(*authority){
		"another format":                  func(s *authority) { s.Format = 3 },
		"no trust domain":                 func(s *authority) { s.Domain = "" },
		"unknown kind":                    func(s *authority) { s.Kind = "cloud" },
		"unknown step":                    func(s *authority) { s.Step = "retire" },
		"version zero":                    func(s *authority) { s.Version = 0 },
		"no root":                         func(s *authority) { s.Roots = nil },
		"two roots and no rotation":       func(s *authority) { s.Roots = append(s.Roots, stranger.Roots[0]) },
		"a rotation with one root":        func(s *authority) { s.Step = ca.StepPublish },
		"activated with nothing before":   func(s *authority) { s.Step, s.Roots = ca.StepActivate, append(s.Roots, stranger.Roots[0]) },
		"no issuing certificate":          func(s *authority) { s.Issuing = nil },
		"issuing certificate of another":  func(s *authority) { s.Issuing = stranger.Issuing },
		"issuing certificate without key": func(s *authority) { s.Issuing.Key = nil },
		"key of another":                  func(s *authority) { s.Roots[0].Key = stranger.Roots[0].Key },
		"key that is none":                func(s *authority) { s.Request = []byte("x") },
		"certificate that is none":        func(s *authority) { s.Roots[0].Cert = []byte("x") },
		"leaf as a root":                  func(s *authority) { s.Roots[0] = tier{Cert: leafDER(t)} },
		"long way up":                     func(s *authority) { s.Issuing.Above = make([][]byte, 9) },
		"nonsense above":                  func(s *authority) { s.Issuing.Above = [][]byte{{1}} },
	} {
		t.Run(name, func(t *testing.T) {
			s := kept(t, newAuthority(t, nil))
			spoil(&s)
			data, err := json.Marshal(s)
			ok(t, err)
			if _, err := ca.Parse(data, nil); err == nil {
				t.Error("parsed")
			}
		})
	}
	for name, data := range map[string]string{"nothing": "", "no JSON": "x", "more": "{} {}", "a member nobody knows": `{"format":2,"x":1}`, "huge": strings.Repeat(" ", 2<<20)} {
		if _, err := ca.Parse([]byte(data), nil); err == nil {
			t.Errorf("%s: parsed", name)
		}
	}
}

func leafDER(t testing.TB) []byte {
	t.Helper()
	chain, _, err := newAuthority(t, nil).Issue(request(t), orders, ca.IssueOptions{})
	ok(t, err)
	return chain[0]
}

func FuzzParse(f *testing.F) {
	a := newAuthority(f, nil)
	data, err := a.Marshal()
	ok(f, err)
	f.Add(data)
	f.Add(firstRelease(kept(f, a)))
	ok(f, a.Prepare())
	data, err = a.Marshal()
	ok(f, err)
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := ca.Parse(data, nil)
		if err != nil {
			return
		}
		again, err := a.Marshal()
		ok(t, err)
		if _, err := ca.Parse(again, nil); err != nil {
			t.Fatalf("what was read is not read again: %v", err)
		}
		a.Waiting(ca.Facts{})
		a.Due()
	})
}
