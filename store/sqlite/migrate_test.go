package sqlite

import (
	"embed"
	"io/fs"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pressly/goose/v3"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/apikey"
	"github.com/rampart-security/rampart/authn/session"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/store"
	"github.com/rampart-security/rampart/token"
)

//go:embed testdata/first.sql
var first embed.FS

// old makes a database as the first release left it, with a row in each table
// that has changed since.
func old(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "control.db")
	db, err := connect(path, 1, "_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		t.Fatal(err)
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	rows, err := first.ReadFile("testdata/first.sql")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(string(rows)); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestMigration: nobody is logged out, loses a key or a right, or wins one, by
// a newer program.
func TestMigration(t *testing.T) {
	st, ctx := open(t, old(t)), t.Context()
	at := func(n int64) time.Time { return time.Unix(1767225600, n).UTC() }
	want := func(want any, got any, err error) {
		t.Helper()
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%v, -want +got\n%s", err, diff)
		}
	}
	u, err := st.User(ctx, "ann")
	want(store.User{
		Name: "ann", Hash: "$argon2id$x", Tag: "verify", Changed: at(1), Version: 1,
		Facts: rampart.Principal{Kind: rampart.KindHuman, Subject: "user:ann", Roles: []string{"admin"}},
	}, u, err)
	u.Disabled = true
	swapped, err := st.SwapUser(ctx, u)
	want(true, swapped, err)
	s, err := st.Session(ctx, session.Key{1})
	want(session.Session{
		Key: session.Key{1}, SID: "s1", Subject: "user:ann", Created: at(3), LastSeen: at(4), Expires: at(5), IP: "192.0.2.1", Agent: `curl "8"`,
		AuthTime: at(3), ACR: "aal1", AMR: []string{"pwd"},
	}, s, err)
	c, err := st.Client(ctx, "shop")
	want(token.Client{ID: "shop", Principal: "merchant", Redirects: []string{"https://shop.example/cb"}, Tag: "verify"}, c, err)
	k, err := st.APIKey(ctx, "k1")
	want(apikey.Key{ID: "k1", Hash: [32]byte{2}, Client: "shop", Disabled: true, Created: at(6)}, k, err)
	f, err := st.Family(ctx, "f1")
	want(token.Family{
		ID: "f1", Generation: 3, Rotated: at(7), Client: "shop", Subject: "user:ann", SID: "s1", AuthTime: at(8), Expires: at(9), Absolute: at(10),
		ACR: "aal1", AMR: []string{"pwd"},
	}, f, err)
	code, err := st.Code(ctx, [32]byte{3})
	want(token.Code{
		Hash: [32]byte{3}, Client: "shop", Redirect: "https://shop.example/cb", Challenge: "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM",
		Subject: "user:ann", SID: "s1", AuthTime: at(11), Expires: at(12), Family: "f1", ACR: "aal1", AMR: []string{"pwd"},
	}, code, err)
	next, err := st.PutRevocation(ctx, wire.Revocation{Kind: "sub", ID: "user:ann", NotBefore: at(1), Expires: at(20)})
	want(uint64(8), next.Seq, err) // numbers go on: a plane that has seen 7 must see this one
	all, err := st.Revocations(ctx, at(0))
	want([]wire.Revocation{{Seq: 7, Kind: "sid", ID: "s0", NotBefore: at(13), Expires: at(14)}, next}, all, err)
	gone, err := st.DeleteClient(ctx, "shop")
	want(true, gone, err) // whose key, code and family go along: the foreign keys stand
}
