package apikey_test

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/apikey"
	"github.com/rampart-security/rampart/store/sqlite"
	"github.com/rampart-security/rampart/token"
)

func setup(t testing.TB) *apikey.Manager {
	t.Helper()
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "k.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if err := db.PutClient(t.Context(), token.Client{ID: "shop", Principal: "merchant"}); err != nil {
		t.Fatal(err)
	}
	return apikey.New(apikey.Options{Store: db, Key: make([]byte, 32)})
}

func TestVerify(t *testing.T) {
	m := setup(t)
	text, made, err := m.Create(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^rk_[0-9a-f]{16}_[0-9A-Za-z]{49}$`).MatchString(text) {
		t.Errorf("key has the form %q", text)
	}
	got, err := m.Verify(t.Context(), text)
	if err != nil || got.ID != made.ID || got.Client != "shop" {
		t.Errorf("got %+v, %v", got, err)
	}
	other, _, err := m.Create(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	foreign, _, err := setup(t).Create(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{
		"a key of another system": foreign,
		"nothing":                 "",
		"the id of another key":   text[:19] + other[19:],
		"one digit changed":       flip(text, 30),
		"a wrong checksum":        flip(text, len(text)-1),
		"cut short":               text[:len(text)-1],
		"and more":                text + "0",
		"another prefix":          "sk" + text[2:],
		"upper-case id":           text[:3] + strings.ToUpper(text[3:19]) + text[19:],
		"an unknown id":           "rk_0000000000000000" + text[19:],
		"a store of bytes":        strings.Repeat("\xff", len(text)),
		"leading space":           " " + text,
	} {
		if bad == text {
			continue // an id without letters has no upper case
		}
		if _, err := m.Verify(t.Context(), bad); err == nil || rampart.KindOf(err) != rampart.Unauthenticated {
			t.Errorf("%s: %v, want unauthenticated", name, err)
		}
	}
}

func flip(s string, i int) string {
	c := byte('0')
	if s[i] == c {
		c = '1'
	}
	return s[:i] + string(c) + s[i+1:]
}

func TestDisabledKeyIsRefused(t *testing.T) {
	m := setup(t)
	text, k, err := m.Create(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := m.Disable(t.Context(), k.ID); !ok || err != nil {
		t.Fatalf("disable: %v, %v", ok, err)
	}
	if _, err := m.Verify(t.Context(), text); err == nil {
		t.Error("a disabled key was accepted")
	}
}

func FuzzVerify(f *testing.F) {
	m := setup(f)
	text, _, err := m.Create(f.Context(), "shop")
	if err != nil {
		f.Fatal(err)
	}
	f.Add("rk_")
	f.Add(text[:len(text)-1])
	f.Add("rk_0123456789abcdef_")
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := m.Verify(t.Context(), s); err == nil && s != text {
			t.Errorf("%q was accepted", s)
		}
	})
}

func BenchmarkAPIKeyVerify(b *testing.B) {
	m := setup(b)
	text, _, err := m.Create(b.Context(), "shop")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Verify(b.Context(), text); err != nil {
			b.Fatal(err)
		}
	}
}
