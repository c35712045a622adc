package token_test

import (
	"context"
	"crypto/sha256"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/authn/ticket"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/store/sqlite"
	"github.com/rampart-security/rampart/token"
)

// between is the house's database with something happening just before a code
// is spent, and a count of what is remembered.
type between struct {
	*sqlite.Store
	use   func(*token.Family)
	marks int
}

func (b *between) UseCode(ctx context.Context, hash [sha256.Size]byte, f token.Family) error {
	if b.use != nil {
		b.use(&f)
	}
	return b.Store.UseCode(ctx, hash, f)
}

func (b *between) PutTicket(ctx context.Context, kind string, hash ticket.Hash, value []byte, now, ends time.Time) error {
	b.marks++
	return b.Store.PutTicket(ctx, kind, hash, value, now, ends)
}

const shopBack = "https://shop.example/cb"

// code asks for a code of the shop with a scope.
func (h *house) code(scope string) string {
	h.t.Helper()
	q := authorization("shop", shopBack)
	q.Set("scope", scope)
	back, err := h.authorize(q)
	if err != nil || back.Get("code") == "" {
		h.t.Fatalf("%v, %v", back, err)
	}
	return back.Get("code")
}

func (h *house) mustRedeem(code string) token.Granted {
	h.t.Helper()
	g, err := h.redeem("shop", shopBack, code, verifier)
	if err != nil {
		h.t.Fatal(err)
	}
	return g
}

// signOut ends the session as the control plane does: its row first.
func (h *house) signOut() {
	h.t.Helper()
	if err := h.EndSession(h.t.Context(), "sid-ann"); err != nil {
		h.t.Fatal(err)
	}
	if _, err := h.Revoke(h.t.Context(), "sid", "sid-ann"); err != nil {
		h.t.Fatal(err)
	}
}

// signIn opens the session anew.
func (h *house) signIn() {
	h.clock = h.clock.Add(time.Millisecond)
	h.started, h.over = h.clock, nil
}

// TestCodeOfAnEndedSession: what a person ended begins nothing any more, not
// even what would have outlived it.
func TestCodeOfAnEndedSession(t *testing.T) {
	for _, scope := range []string{"orders:read", "offline_access orders:read"} {
		for name, end := range map[string]func(*house){
			"it was signed out":    (*house).signOut,
			"another ended it all": func(h *house) { h.Revoke(h.t.Context(), "sub", "user:ann") },
			"it idled away":        func(h *house) { h.ends = h.clock },
			"it was signed out as the code was spent": func(h *house) {
				h.store.use = func(*token.Family) { h.signOut() }
			},
		} {
			h := newHouse(t, "")
			code := h.code(scope)
			end(h)
			if _, err := h.redeem("shop", shopBack, code, verifier); token.CodeOf(err) != "invalid_grant" {
				t.Errorf("%s, %s: %v, want invalid_grant", scope, name, err)
			}
			if left, err := h.db.Families(t.Context(), "user:ann"); err != nil || len(left) != 0 {
				t.Errorf("%s, %s: %d families are left, %v", scope, name, len(left), err)
			}
		}
	}
}

// TestFamilyEndsWithItsSession: a client without offline_access is let in for
// as long as the person is signed in, however that ends.
func TestFamilyEndsWithItsSession(t *testing.T) {
	for name, tc := range map[string]struct {
		scope    string
		end      func(*house)
		survives bool
	}{
		"at its bound":               {"orders:read", func(h *house) { h.clock = h.ends }, false},
		"idle":                       {"orders:read", func(h *house) { h.over = []string{"sid-ann"} }, false},
		"not yet":                    {"orders:read", func(h *house) { h.clock = h.ends.Add(-1) }, true},
		"at its bound, but it stays": {"offline_access orders:read", func(h *house) { h.clock = h.ends.Add(time.Hour) }, true},
	} {
		h := newHouse(t, "")
		h.ends = h.clock.Add(2 * time.Hour)
		g := h.mustRedeem(h.code(tc.scope))
		families, err := h.db.Families(t.Context(), "user:ann")
		if err != nil || len(families) != 1 {
			t.Fatal(families, err)
		}
		if f := families[0]; (f.SID != "") != (f.Absolute.Equal(h.ends) && f.Expires.Equal(h.ends)) {
			t.Errorf("%s: session %q ends at %v, the family at %v", name, f.SID, h.ends, f.Absolute)
		}
		tc.end(h)
		if _, err := h.refresh("shop", g.RefreshToken); (err == nil) != tc.survives {
			t.Errorf("%s: refresh: %v", name, err)
		}
	}
}

// TestProofFromBeforeACutoff: a provider may have seen the person long before
// we opened the session. A cut-off voids what we issued before it, and a
// session of ours that began after it lives, with all that hangs on it.
func TestProofFromBeforeACutoff(t *testing.T) {
	h := newHouse(t, "")
	if _, err := h.Revoke(t.Context(), "sub", "user:ann"); err != nil {
		t.Fatal(err)
	}
	h.proved = h.clock.Add(-10 * time.Minute)
	h.signIn()
	g := h.mustRedeem(h.code("openid orders:read"))
	next, err := h.refresh("shop", g.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	got, err := h.read(h.mustExchange("edge", wire.TypeAccess, next.AccessToken, "a"), "edge", "a")
	if err != nil || got.AuthTime != h.proved.Unix() {
		t.Errorf("auth_time is %d, want the provider's; %v", got.AuthTime, err)
	}

	// Rows from before there was a time of issue go by the proof.
	h.proved = time.Time{}
	h.store.use = func(f *token.Family) { f.Issued = time.Time{} }
	g = h.mustRedeem(h.code("orders:read"))
	if _, err := h.refresh("shop", g.RefreshToken); err != nil {
		t.Errorf("a row without time of issue: %v", err)
	}
}

// TestNarrowedClient: what a client may have is asked again whenever it uses
// what it has.
func TestNarrowedClient(t *testing.T) {
	const (
		read, write = "orders:read", "orders:write"
		stay        = "offline_access"
	)
	ask := func(h *house, text, scope string) (token.Granted, error) {
		form := url.Values{"grant_type": {"refresh_token"}, "client_id": {"shop"}, "refresh_token": {text}}
		if scope != "" {
			form.Set("scope", scope)
		}
		return h.grant(form)
	}
	for name, tc := range map[string]struct {
		before, after []string
		granted, ask  string
		want, code    string
	}{
		"as it was":                         {[]string{read, write, stay}, []string{read, write, stay}, "offline_access orders:read orders:write", "", "offline_access orders:read orders:write", ""},
		"a permission less":                 {[]string{read, write}, []string{read}, "orders:read orders:write", "", read, ""},
		"one of all":                        {nil, []string{read}, "orders:read orders:write", "", read, ""},
		"all were its user's":               {nil, []string{read, stay}, "", "", read, ""},
		"none that was granted":             {[]string{read, write}, []string{write}, read, "", "", "invalid_grant"},
		"none at all":                       {[]string{read}, []string{"openid"}, read, "", "", "invalid_grant"},
		"asks for what it lost":             {[]string{read, write}, []string{read}, "orders:read orders:write", write, "", "invalid_scope"},
		"asks for both":                     {[]string{read, write}, []string{read}, "orders:read orders:write", "orders:read orders:write", read, ""},
		"may stay no longer":                {[]string{read, stay}, []string{read}, "offline_access orders:read", "", "", "invalid_grant"},
		"may stay no longer, asks for less": {[]string{read, stay}, []string{read}, "offline_access orders:read", read, "", "invalid_grant"},
		"only ever asked who it is":         {[]string{read, "openid"}, []string{"openid"}, "openid", "", "openid", ""},
	} {
		h := newHouse(t, "")
		shop := token.Client{ID: "shop", Principal: "users", Redirects: []string{shopBack}, Scopes: tc.before}
		h.register(shop)
		g, late := h.mustRedeem(h.code(tc.granted)), h.code(tc.granted)
		shop.Scopes = tc.after
		h.register(shop)
		next, err := ask(h, g.RefreshToken, tc.ask)
		if token.CodeOf(err) != tc.code && err != nil || (err == nil) != (tc.code == "") || next.Scope != tc.want {
			t.Errorf("%s: refresh: %q, %v; want %q, %q", name, next.Scope, err, tc.want, tc.code)
		}
		if tc.ask != "" {
			continue
		}
		next, err = h.redeem("shop", shopBack, late, verifier)
		if (err == nil) != (tc.code == "") || next.Scope != tc.want {
			t.Errorf("%s: a code from before: %q, %v; want %q", name, next.Scope, err, tc.want)
		}
	}
}

// TestAccessTokenOfANarrowedClient: neither the gateway nor whoever introspects
// gets more of it than its client is registered for.
func TestAccessTokenOfANarrowedClient(t *testing.T) {
	h := newHouse(t, "")
	shop := token.Client{ID: "shop", Principal: "users", Redirects: []string{shopBack}}
	g := h.mustRedeem(h.code("openid orders:read orders:write"))
	all := h.login("shop")
	own := h.caller("own")
	for _, tc := range []struct {
		scopes     []string
		text, says string
		may        []string
	}{
		{nil, g.AccessToken, "openid orders:read orders:write", []string{"orders:read", "orders:write"}},
		{[]string{"orders:read"}, g.AccessToken, "openid orders:read", []string{"orders:read"}},
		{[]string{"orders:read"}, all.AccessToken, "orders:read", []string{"orders:read"}},
		{[]string{"payments:read"}, g.AccessToken, "", nil},
	} {
		shop.Scopes = tc.scopes
		h.register(shop)
		sub, err := h.AccessToken(t.Context(), tc.text)
		if (err == nil) != (tc.may != nil) || !slices.Equal(sub.Principal.Scope, tc.may) {
			t.Errorf("registered for %v: it may %v, %v; want %v", tc.scopes, sub.Principal.Scope, err, tc.may)
		}
		said, err := h.introspect(&own, url.Values{}, tc.text)
		want := map[string]any{"active": false}
		if tc.may != nil {
			want = payload(t, tc.text)
			want["active"], want["token_type"], want["scope"] = true, "Bearer", tc.says
		}
		if diff := cmp.Diff(want, said); diff != "" || err != nil {
			t.Errorf("registered for %v: %v, introspection -want +got\n%s", tc.scopes, err, diff)
		}
	}
}

// TestProofsOfStrangersLeaveNoMark: a proof is remembered for what is good
// alone, and then it counts once.
func TestProofsOfStrangersLeaveNoMark(t *testing.T) {
	h := newHouse(t, "")
	mine := newKey(t, "")
	form := func(change ...string) url.Values {
		f := url.Values{"grant_type": {"authorization_code"}, "client_id": {"shop"}, "redirect_uri": {shopBack}, "code": {"rac_x"}, "code_verifier": {verifier}}
		for i := 0; i+1 < len(change); i += 2 {
			f.Set(change[i], change[i+1])
		}
		return f
	}
	code, here := h.code("openid"), issuer+"oauth2/userinfo"
	seen := func(text, proof string) error {
		_, err := h.UserInfo(t.Context(), token.Presented{Scheme: "DPoP", Token: text, Proofs: []string{proof}, Method: "GET", URL: here})
		return err
	}
	for _, f := range []url.Values{
		form(), form("code", code, "code_verifier", verifier+"x"), form("code", code, "client_id", "other"),
		form("grant_type", "refresh_token", "refresh_token", "rrt_x.0.y"), form("grant_type", "client_credentials"),
	} {
		if _, err := h.grant(f, mine.proof(h)); err == nil {
			t.Errorf("%v was accepted", f)
		}
	}
	if err := seen("x.y.z", mine.proof(h, set("htm", "GET"), set("htu", here), set("ath", hash("x.y.z")))); err == nil {
		t.Error("a made-up access token was accepted")
	}
	if h.store.marks != 0 {
		t.Errorf("%d marks of what was refused", h.store.marks)
	}
	proof := mine.proof(h)
	g, err := h.grant(form("code", code), proof)
	if err != nil {
		t.Fatal(err)
	}
	again := form("grant_type", "refresh_token", "refresh_token", g.RefreshToken)
	if _, err := h.grant(again, proof); token.CodeOf(err) != "invalid_dpop_proof" {
		t.Errorf("the proof once more: %v", err)
	}
	if _, err := h.grant(again, mine.proof(h)); err != nil {
		t.Errorf("another proof: %v", err)
	}
	proof = mine.proof(h, set("htm", "GET"), set("htu", here), set("ath", hash(g.AccessToken)))
	if err := seen(g.AccessToken, proof); err != nil {
		t.Error(err)
	}
	if err := seen(g.AccessToken, proof); token.CodeOf(err) != "invalid_dpop_proof" {
		t.Errorf("the proof of an access token once more: %v", err)
	}
}
