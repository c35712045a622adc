package vault_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/secrets/vault"
)

// ours is Rampart's client. What it binds a wrapped key to is the text of
// which the others' context is the hash.
type ours struct {
	t  *testing.T
	c  *vault.Client
	at place
	// secrets that leases belong to
	held map[string]secrets.Secret
}

func newOurs(t *testing.T, at place) *ours {
	t.Helper()
	return &ours{t, open(t, at, vault.Login{Method: "token", SecretFile: write(t, at.token)}), at, map[string]secrets.Secret{}}
}

func open(t *testing.T, at place, login vault.Login) *vault.Client {
	t.Helper()
	c, err := vault.New(vault.Options{Address: at.url, HTTP: at.client(), Login: login})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(context.Background()) })
	return c
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "proof")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func word(err error) string {
	if err == nil {
		return "ok"
	}
	return rampart.KindOf(err).String()
}

func text(s secrets.Secret) string {
	var out string
	_ = s.Use(func(b []byte) error { out = string(b); return nil })
	return out
}

func (o *ours) read(ctx context.Context, path string, version int) string {
	s, err := o.c.KV(o.at.kv).FetchVersion(ctx, secrets.Ref{Path: path}, version)
	if err != nil {
		return word(err)
	}
	return fmt.Sprintf("v%d %s", s.Version(), text(s))
}

func (o *ours) put(ctx context.Context, path, value string, after int) string {
	v, err := o.c.KV(o.at.kv).Put(ctx, path, []byte(value), after)
	if err != nil {
		return word(err)
	}
	return "v" + strconv.Itoa(v)
}

func (o *ours) list(ctx context.Context, folder string) string {
	list, err := o.c.KV(o.at.kv).List(ctx, folder)
	if err != nil {
		return word(err)
	}
	var out []string
	for _, l := range list {
		out = append(out, fmt.Sprintf("%s@%d", l.Path, l.Version))
	}
	return strings.Join(out, " ")
}

func (o *ours) destroy(ctx context.Context, path string, version int) string {
	return word(o.c.KV(o.at.kv).Destroy(ctx, path, version))
}

// hashed is the context of a derived key for what our client binds to.
func hashed(bind string) string {
	sum := sha256.Sum256([]byte(bind))
	return base64.StdEncoding.EncodeToString(sum[:])
}

func (o *ours) transit(ctx context.Context, verb, key, in, bind string) string {
	k := o.c.Transit(o.at.transit, key)
	do := map[string]func(context.Context, []byte, []byte) ([]byte, error){"encrypt": k.Wrap, "decrypt": k.Unwrap, "rewrap": k.Rewrap}[verb]
	out, err := do(ctx, []byte(in), []byte(bind))
	if rampart.KindOf(err) == rampart.Internal && err != nil {
		return "invalid" // a KEK has two kinds of error; this is the one that stays
	}
	if err != nil {
		return word(err)
	}
	return string(out)
}

func (o *ours) creds(ctx context.Context, role string) (leased, string) {
	s, err := o.c.Database(o.at.database).Fetch(ctx, secrets.Ref{Path: "creds/" + role})
	if err != nil {
		return leased{}, word(err)
	}
	return o.lease(s), "ok"
}

func (o *ours) lease(s secrets.Secret) leased {
	o.held[s.Lease()] = s
	return leased{id: s.Lease(), seconds: int(time.Until(s.Until()).Round(time.Second) / time.Second), user: s.User()}
}

func (o *ours) renew(ctx context.Context, l leased, seconds int) (leased, string) {
	s, err := o.c.Database(o.at.database).Renew(ctx, o.held[l.id], time.Duration(seconds)*time.Second)
	if err != nil {
		return leased{}, word(err)
	}
	return o.lease(s), "ok"
}

func (o *ours) revoke(ctx context.Context, l leased) string {
	return word(o.c.Database(o.at.database).Revoke(ctx, o.held[l.id]))
}

// login logs in as whoever holds the secret id. Without a right to anything, a
// login that succeeds shows itself by the kind of the refusal that follows.
func (o *ours) login(ctx context.Context, role, secretID string) string {
	c := open(o.t, o.at, vault.Login{Method: "approle", Mount: o.at.approle, Role: role, SecretFile: write(o.t, secretID)})
	_, err := c.KV(o.at.kv).Fetch(ctx, secrets.Ref{Path: "nothing/of/ours"})
	if kind := word(err); kind != "denied" && kind != "not_found" {
		return kind
	}
	return word(c.Close(ctx))
}

func (o *ours) sign(ctx context.Context, csr string) string {
	block, _ := pem.Decode([]byte(csr))
	chain, err := o.c.PKI(o.at.pki).SignIntermediate(ctx, block.Bytes, 168*time.Hour)
	if err != nil {
		return word(err)
	}
	return about(inPEM(chain[0]), inPEM(chain[1]))
}

func inPEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
