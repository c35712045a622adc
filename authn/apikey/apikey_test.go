package apikey_test

import (
	"errors"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/apikey"
	"github.com/rampart-security/rampart/store/sqlite"
	"github.com/rampart-security/rampart/token"
)

func setup(t testing.TB) *apikey.Manager {
	t.Helper()
	return setupAt(t, nil)
}

func setupAt(t testing.TB, now func() time.Time) *apikey.Manager {
	t.Helper()
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "k.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if err := db.PutClient(t.Context(), token.Client{ID: "shop", Principal: "merchant"}); err != nil {
		t.Fatal(err)
	}
	return apikey.New(apikey.Options{Store: db, Key: make([]byte, 32), Now: now})
}

func TestVerify(t *testing.T) {
	m := setup(t)
	text, made, err := m.Create(t.Context(), "shop", apikey.Limits{})
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
	other, _, err := m.Create(t.Context(), "shop", apikey.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	foreign, _, err := setup(t).Create(t.Context(), "shop", apikey.Limits{})
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
	text, k, err := m.Create(t.Context(), "shop", apikey.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := m.Disable(t.Context(), k.ID); !ok || err != nil {
		t.Fatalf("disable: %v, %v", ok, err)
	}
	_, err = m.Verify(t.Context(), text)
	refusal, ok := errors.AsType[*rampart.Error](err)
	if !ok || refusal.Msg != "api key: not accepted" || err.Error() != "api key: not accepted: key "+k.ID+" is disabled" {
		t.Errorf("a disabled key: %v; the caller must not learn why, and the log must", err)
	}
}

// TestLimits: what a maker of keys may write, and what comes of it.
func TestLimits(t *testing.T) {
	m := setup(t)
	soon := time.Now().Add(time.Hour)
	for name, tc := range map[string]struct {
		in   apikey.Limits
		ips  []string // as stored
		ok   []string
		no   []string
		want rampart.Kind // of the refusal; Internal: none
	}{
		"anywhere":             {in: apikey.Limits{Label: "till 3"}, ok: []string{"192.0.2.1", "2001:db8::1", "192.0.2.1:4711", ""}},
		"one address":          {in: apikey.Limits{IPs: []string{"192.0.2.7"}}, ips: []string{"192.0.2.7/32"}, ok: []string{"192.0.2.7:80", "::ffff:192.0.2.7"}, no: []string{"192.0.2.8", "", "nonsense"}},
		"two networks":         {in: apikey.Limits{IPs: []string{"2001:db8::/32", "192.0.2.0/24", "192.0.2.0/24"}, Expires: soon}, ips: []string{"192.0.2.0/24", "2001:db8::/32"}, ok: []string{"[2001:db8::9]:1", "192.0.2.255"}, no: []string{"192.0.3.0", "2001:db9::"}},
		"bits outside":         {in: apikey.Limits{IPs: []string{"192.0.2.1/24"}}, want: rampart.Invalid},
		"a mapped network":     {in: apikey.Limits{IPs: []string{"::ffff:192.0.2.0/120"}}, want: rampart.Invalid},
		"a host name":          {in: apikey.Limits{IPs: []string{"shop.example"}}, want: rampart.Invalid},
		"an address of a link": {in: apikey.Limits{IPs: []string{"fe80::1%eth0"}}, want: rampart.Invalid},
		"too many addresses":   {in: apikey.Limits{IPs: slices.Repeat([]string{"192.0.2.1"}, 33)}, want: rampart.Invalid},
		"a wild scope":         {in: apikey.Limits{Scopes: []string{"orders:*"}}, want: rampart.Invalid},
		"a word as scope":      {in: apikey.Limits{Scopes: []string{"openid"}}, want: rampart.Invalid},
		"an end in the past":   {in: apikey.Limits{Expires: time.Now().Add(-time.Minute)}, want: rampart.Invalid},
		"a label with a bell":  {in: apikey.Limits{Label: "a\ab"}, want: rampart.Invalid},
		"a long label":         {in: apikey.Limits{Label: strings.Repeat("a", 65)}, want: rampart.Invalid},
	} {
		text, k, err := m.Create(t.Context(), "shop", tc.in)
		if tc.want != rampart.Internal {
			if err == nil || rampart.KindOf(err) != tc.want {
				t.Errorf("%s: %v, want %s", name, err, tc.want)
			}
			continue
		}
		if err != nil || !slices.Equal(k.IPs, tc.ips) {
			t.Errorf("%s: addresses %q, %v; want %q", name, k.IPs, err, tc.ips)
			continue
		}
		if _, err := m.Verify(t.Context(), text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, addr := range tc.ok {
			if err := m.Admit(t.Context(), k, addr); err != nil {
				t.Errorf("%s: from %q: %v", name, addr, err)
			}
		}
		for _, addr := range tc.no {
			if err := m.Admit(t.Context(), k, addr); err == nil || rampart.KindOf(err) != rampart.Unauthenticated {
				t.Errorf("%s: from %q: %v, want unauthenticated", name, addr, err)
			}
		}
		if _, err := m.Disable(t.Context(), k.ID); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTwoLiveKeys: the pair lets a client change over; a third is refused until
// one of them is gone.
func TestTwoLiveKeys(t *testing.T) {
	m := setup(t)
	first, a, err := m.Create(t.Context(), "shop", apikey.Limits{Label: "till", Scopes: []string{"orders:read"}})
	if err != nil {
		t.Fatal(err)
	}
	second, b, err := m.Rotate(t.Context(), "shop", time.Hour)
	if err != nil || b.Label != "till" || !slices.Equal(b.Scopes, a.Scopes) || !b.Expires.IsZero() {
		t.Fatalf("successor is %+v, %v", b, err)
	}
	for name, text := range map[string]string{"old": first, "new": second} {
		if _, err := m.Verify(t.Context(), text); err != nil {
			t.Errorf("during the change-over the %s key: %v", name, err)
		}
	}
	for name, err := range map[string]error{
		"a third key":       third(m.Create(t.Context(), "shop", apikey.Limits{})),
		"a second rotation": third(m.Rotate(t.Context(), "shop", time.Hour)),
	} {
		if err == nil || rampart.KindOf(err) != rampart.Conflict || !strings.Contains(err.Error(), a.ID) {
			t.Errorf("%s: %v, want a conflict that names the live keys", name, err)
		}
	}
	list, err := m.List(t.Context(), "shop")
	if err != nil || len(list) != 2 || list[0].ID != b.ID || list[1].Expires.IsZero() {
		t.Errorf("listed %+v, %v", list, err)
	}
	if _, err := m.Disable(t.Context(), a.ID); err != nil {
		t.Fatal(err)
	}
	if _, _, err := m.Rotate(t.Context(), "shop", 0); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Verify(t.Context(), second); err == nil {
		t.Error("after a rotation without overlap the old key is accepted")
	}
}

func third(_ string, _ apikey.Key, err error) error { return err }

// TestKeysAtOnce: however many ask at once, a client never has three keys.
func TestKeysAtOnce(t *testing.T) {
	m := setup(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { m.Create(t.Context(), "shop", apikey.Limits{}) })
	}
	wg.Wait()
	list, err := m.List(t.Context(), "shop")
	live := 0
	for _, k := range list {
		if k.Live(time.Now()) {
			live++
		}
	}
	if err != nil || live > 2 {
		t.Errorf("%d live keys, %v", live, err)
	}
}

func TestExpiredKeyIsRefused(t *testing.T) {
	now := time.Now()
	m := setupAt(t, func() time.Time { return now })
	text, k, err := m.Create(t.Context(), "shop", apikey.Limits{Expires: now.Add(time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Admit(t.Context(), k, "192.0.2.1"); err != nil {
		t.Fatal(err)
	}
	if k, err = m.Verify(t.Context(), text); err != nil || !k.LastUsed.Equal(now) {
		t.Errorf("last used %v, %v; want %v", k.LastUsed, err, now)
	}
	now = now.Add(time.Minute)
	if _, err := m.Verify(t.Context(), text); err == nil {
		t.Error("an expired key was accepted")
	}
}

func FuzzLimits(f *testing.F) {
	m := setup(f)
	f.Add("192.0.2.0/24", "orders:read", "till")
	f.Add("::ffff:1.2.3.4", "", "\x00")
	f.Fuzz(func(t *testing.T, ip, scope, label string) {
		_, k, err := m.Create(t.Context(), "shop", apikey.Limits{IPs: []string{ip}, Scopes: []string{scope}, Label: label})
		if err != nil {
			if kind := rampart.KindOf(err); kind != rampart.Invalid {
				t.Errorf("refused with %v", err)
			}
			return
		}
		host, _, _ := strings.Cut(k.IPs[0], "/")
		if !k.From(host) {
			t.Errorf("%q does not admit %q", k.IPs, host)
		}
		m.Disable(t.Context(), k.ID)
	})
}

func FuzzVerify(f *testing.F) {
	m := setup(f)
	text, _, err := m.Create(f.Context(), "shop", apikey.Limits{})
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
	text, _, err := m.Create(b.Context(), "shop", apikey.Limits{})
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
