package planelink

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/tls/ca"
	"github.com/rampart-security/rampart/tls/svid"
)

// joined is a link with a certificate of a, as after joining.
func joined(t testing.TB, a *ca.Authority) (l *Link, logged *strings.Builder) {
	t.Helper()
	logged = &strings.Builder{}
	l = &Link{opt: Options{Domain: "shop.example", Now: time.Now, Logger: slog.New(slog.NewTextHandler(logged, nil))}}
	l.renewal.wake = make(chan struct{}, 1)
	l.state.Store(&State{})
	l.source.Deny(l.denied)
	renewed(t, l, a)
	return l, logged
}

// renewed gives a link a certificate of a.
func renewed(t testing.TB, l *Link, a *ca.Authority) {
	t.Helper()
	key, csr, err := svid.NewKeyAndCSR()
	must(t, err)
	chain, notAfter, err := a.Issue(csr, "spiffe://shop.example/service/shop", ca.IssueOptions{})
	must(t, err)
	must(t, l.adopt(wire.Identity{Chain: chain, Bundle: a.BundlePEM(), NotAfter: notAfter}, key))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newCA(t testing.TB, domain string) *ca.Authority {
	t.Helper()
	a, err := ca.New(domain, nil)
	must(t, err)
	return a
}

func send(t testing.TB, l *Link, u wire.Update) {
	t.Helper()
	must(t, l.apply(u))
}

func signed(t *wire.Trust, root string) *wire.Trust {
	t.Signs = root
	return t
}

func rootID(t testing.TB, a *ca.Authority) string {
	t.Helper()
	return svid.KeyID(a.Roots()[0].Certificate)
}

// TestTrustIntake: versions only go forward, every generation believes the newest
// at once, and what would cut the plane off is refused, on the log, and waits for a
// certificate that fits.
func TestTrustIntake(t *testing.T) {
	old, fresh, partner := newCA(t, "shop.example"), newCA(t, "shop.example"), newCA(t, "partner.example")
	l, logged := joined(t, old)
	first := l.Now()
	due := l.renewal.due.Load()
	trust := func(version uint64, roots ...[]byte) *wire.Trust {
		return &wire.Trust{Version: version, Roots: slices.Concat(roots...), Federated: map[string][]byte{"partner.example": partner.BundlePEM()}}
	}
	renewed(t, l, old) // there are two generations
	for _, row := range []struct {
		name  string
		trust *wire.Trust
		want  uint64
		log   string
	}{
		{"the first", trust(4, old.BundlePEM()), 4, ""},
		{"the new root beside the old", trust(5, old.BundlePEM(), fresh.BundlePEM()), 5, ""},
		{"the new root signs", signed(trust(6, old.BundlePEM(), fresh.BundlePEM()), rootID(t, fresh)), 6, ""},
		{"an older one", trust(5, old.BundlePEM()), 6, ""},
		{"the same again", trust(6, old.BundlePEM()), 6, ""},
		{"rubbish", &wire.Trust{Version: 7, Roots: []byte("x")}, 6, "trust refused"},
		{"no roots", &wire.Trust{Version: 7}, 6, "trust refused"},
		{"a partner of our name", &wire.Trust{Version: 7, Roots: old.BundlePEM(), Federated: map[string][]byte{"shop.example": partner.BundlePEM()}}, 6, "trust refused"},
		{"without our own root", trust(8, fresh.BundlePEM()), 6, "no root of the certificate in use"},
	} {
		logged.Reset()
		send(t, l, wire.Update{Kind: "trust", Trust: row.trust})
		for i, src := range []*svid.Source{l.Source(), first.Pinned(), l.Now().Pinned()} {
			if got := src.Trust().Version(); got != row.want {
				t.Errorf("%s: source %d believes version %d, want %d", row.name, i, got, row.want)
			}
		}
		if got := l.trustState(); got.Version != row.want || got.Root != l.Now().cert.Proof.Root || l.State().Trust.Version != row.want {
			t.Errorf("%s: heartbeats say %+v", row.name, got)
		}
		if !strings.Contains(logged.String(), row.log) || row.log == "" && logged.Len() > 0 {
			t.Errorf("%s: on the log is %q", row.name, logged)
		}
		soon := l.renewal.due.Load() <= time.Now().Add(l.Now().life()/10).UnixNano()
		if want := row.want >= 6; soon != want {
			t.Errorf("%s: renews at %v, first %v; want soon: %v", row.name, time.Unix(0, l.renewal.due.Load()), time.Unix(0, due), want)
		}
	}
	if l.renewal.due.Load() > time.Now().UnixNano() {
		t.Error("a certificate that fits is not asked for at once")
	}
	renewed(t, l, old) // it does not fit yet
	if at := time.Unix(0, l.renewal.due.Load()); !at.After(time.Now()) || at.After(time.Now().Add(askAgain)) {
		t.Errorf("the next is asked for at %v", at)
	}
	renewed(t, l, fresh)
	if got := l.Source().Trust(); got.Version() != 8 || !slices.Equal(got.Domains(), []string{"partner.example", "shop.example"}) {
		t.Errorf("with it the plane believes version %d, %v", got.Version(), got.Domains())
	}
	if err := l.apply(wire.Update{Kind: "trust"}); err == nil {
		t.Error("an empty update was taken")
	}
}

// TestDenied: by certificate and by authority, peers and the plane itself; new
// epochs begin for certificates and flows, not for people.
func TestDenied(t *testing.T) {
	a, b := newCA(t, "shop.example"), newCA(t, "shop.example")
	l, _ := joined(t, a)
	peer := func(from *ca.Authority) svid.Verified {
		other, _ := joined(t, from)
		return other.Now().cert.Proof
	}
	mine, victim, stranger := l.Now().cert.Proof, peer(a), peer(b)
	revoke := func(kind, id string) {
		t.Helper()
		send(t, l, wire.Update{Kind: "revoked", Revoked: []wire.Revocation{{Kind: kind, ID: id, NotBefore: time.Unix(1, 0), Expires: time.Now().Add(time.Hour)}}})
	}
	for _, row := range []struct {
		kind, id                 string
		epochs                   uint64
		victim, stranger, itself bool
	}{
		{"sub", "user:ann", 0, false, false, false},
		{"jti", victim.Serial(), 0, false, false, false},
		{wire.RevokedSerial, stranger.Issuer() + "." + victim.Serial(), 1, false, false, false},
		{wire.RevokedSerial, victim.Issuer() + "." + victim.Serial(), 1, true, false, false},
		{wire.RevokedIssuer, stranger.Root, 1, true, true, false},
		{wire.RevokedIssuer, mine.Issuer(), 1, true, true, true},
	} {
		before := l.Source().Epoch()
		revoke(row.kind, row.id)
		if got := l.Source().Epoch() - before; got != row.epochs {
			t.Errorf("%s: %d epochs began", row.kind, got)
		}
		for name, is := range map[string]struct{ got, want bool }{
			"victim": {l.denied(victim) != nil, row.victim}, "stranger": {l.denied(stranger) != nil, row.stranger}, "itself": {l.Disabled() != nil, row.itself},
		} {
			if is.got != is.want {
				t.Errorf("%s %s: %s denied %v", row.kind, row.id, name, is.got)
			}
		}
	}
	if err := l.denied(victim); rampart.KindOf(err) != rampart.Denied || !l.State().PeerRevoked(victim.ID, victim.Leaf) {
		t.Errorf("%v", err)
	}
}

// FuzzTrustIntake: whatever comes, the plane goes on believing in its own root.
func FuzzTrustIntake(f *testing.F) {
	a := newCA(f, "shop.example")
	f.Add(uint64(1), a.BundlePEM(), "partner.example", a.BundlePEM())
	f.Add(uint64(0), []byte{}, "", []byte("x"))
	f.Fuzz(func(t *testing.T, version uint64, roots []byte, domain string, federated []byte) {
		l, _ := joined(t, a)
		must(t, l.believe(&wire.Trust{Version: version, Roots: roots, Federated: map[string][]byte{domain: federated}}))
		if l.Source().Trust().Roots("shop.example") == nil {
			t.Fatal("nobody is believed")
		}
	})
}
