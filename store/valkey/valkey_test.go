package valkey

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/guess"
	"github.com/rampart-security/rampart/authn/session"
	"github.com/rampart-security/rampart/authn/ticket"
	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/store"
	"github.com/rampart-security/rampart/store/storetest"
	"github.com/rampart-security/rampart/test/pgtest"
	"github.com/rampart-security/rampart/test/valkeytest"
)

func password(context.Context) (secrets.Secret, error) {
	return secrets.New([]byte(valkeytest.Password), 1), nil
}

func options(s *valkeytest.Server) Options {
	return Options{URL: s.URL, CA: s.CA, Password: password}
}

func open(t *testing.T, opt Options) *Store {
	t.Helper()
	st, err := Open(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

// TestStore runs every contract with two clients of one server, as two control
// planes hold it; and no test sees another's keys.
func TestStore(t *testing.T) {
	opt := options(valkeytest.Start(t))
	var n atomic.Int32
	storetest.TestShared(t, func(t *testing.T) (a, b store.Shared) {
		mine := opt
		mine.Prefix = fmt.Sprint("test", n.Add(1), ":")
		return open(t, mine), open(t, mine)
	})
	everythingExpires(t, open(t, opt))
}

// everythingExpires asks for the life of every key that the tests left.
func everythingExpires(t *testing.T, st *Store) {
	var keys int
	for it := st.db.Scan(t.Context(), 0, "*", 1000).Iterator(); it.Next(t.Context()); keys++ {
		if !strings.HasPrefix(it.Val(), "test") {
			t.Errorf("%q is outside of the prefix", it.Val())
		}
		life, err := st.db.PTTL(t.Context(), it.Val()).Result()
		if err != nil || life <= 0 || life > 48*time.Hour {
			t.Errorf("%q lives for %s, %v", it.Val(), life, err)
		}
	}
	if keys == 0 {
		t.Error("the tests left nothing")
	}
}

// TestIndexesShrink: what expired by the server's clock leaves no trace behind
// in the indexes that named it.
func TestIndexesShrink(t *testing.T) {
	st := open(t, options(valkeytest.Start(t)))
	at := time.Now()
	for i := range byte(3) {
		s := session.Session{Key: session.Key{i}, SID: fmt.Sprint("s", i), Subject: "user:ann", Created: at, LastSeen: at, Expires: at.Add(time.Hour)}
		if err := st.PutSession(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"s:" + name(session.Key{0}), "i:s0"} {
		st.db.Del(t.Context(), st.prefix+key) // as its expiry would
	}
	list, err := st.Sessions(t.Context(), "user:ann")
	if err != nil || len(list) != 2 {
		t.Errorf("%d sessions, %v; want 2", len(list), err)
	}
	if n := st.db.SCard(t.Context(), st.prefix+ofSubject("user:ann")).Val(); n != 2 {
		t.Errorf("the index names %d sessions, want 2", n)
	}
	if err := st.SweepSessions(t.Context(), at, at.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if n := st.db.DBSize(t.Context()).Val(); n != 0 {
		t.Errorf("%d keys are left: %v", n, st.db.Keys(t.Context(), "*").Val())
	}
}

// TestOutage: a server that is gone is an outage, never a "no", and what it had
// taken is there when it is back.
func TestOutage(t *testing.T) {
	server := valkeytest.Start(t)
	st, ctx, at := open(t, options(server)), t.Context(), time.Now().UTC()
	if durable, err := st.Durable(ctx); !durable || err != nil {
		t.Errorf("durable is %v, %v", durable, err)
	}
	m := session.New(session.Options{Store: st, Key: make([]byte, 32)})
	id, s, err := m.Create(ctx, session.Login{Subject: "user:ann"})
	if err != nil {
		t.Fatal(err)
	}
	if err := st.PutTicket(ctx, "mark", ticket.Hash{1}, nil, at, at.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	server.Kill()
	for name, call := range map[string]func() error{
		"resolve":      func() error { _, err := m.Resolve(ctx, id); return err },
		"put ticket":   func() error { return st.PutTicket(ctx, "mark", ticket.Hash{1}, nil, at, at.Add(time.Hour)) },
		"take ticket":  func() error { _, err := st.TakeTicket(ctx, "mark", ticket.Hash{1}, at); return err },
		"tries":        func() error { _, err := st.Tries(ctx, []guess.Key{{}}); return err },
		"swap tries":   func() error { _, err := st.SwapTries(ctx, []guess.Change{{}}); return err },
		"end session":  func() error { _, err := m.End(ctx, s.SID); return err },
		"end sessions": func() error { _, err := m.EndAll(ctx, "user:ann"); return err },
	} {
		if err := call(); err == nil || rampart.KindOf(err) != rampart.Unavailable {
			t.Errorf("%s: %v, want unavailable", name, err)
		}
	}
	server.Run()
	if got, err := m.Resolve(ctx, id); err != nil || got.SID != s.SID {
		t.Errorf("after the crash the session is %+v, %v", got, err)
	}
	var wg sync.WaitGroup
	for range 8 { // several connections lie in the pool
		wg.Go(func() { m.Resolve(ctx, id) })
	}
	wg.Wait()
	server.Kill()
	server.Run()
	for range 8 {
		if _, err := m.Resolve(ctx, id); err != nil {
			t.Errorf("a crash while nobody asked is seen by somebody: %v", err)
		}
	}
	if err := st.PutTicket(ctx, "mark", ticket.Hash{1}, nil, at, at.Add(time.Hour)); !errors.Is(err, ticket.ErrExists) {
		t.Errorf("after the crash a replay is %v, want ticket.ErrExists", err)
	}
}

// TestConnection: who the server is, and who we are, is proven; and a server
// that would forget on its own is refused.
func TestConnection(t *testing.T) {
	plain, mutual := valkeytest.Start(t), valkeytest.Start(t, "tls-auth-clients yes")
	certificate := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &mutual.Certificate, nil }
	withCertificate := options(mutual)
	withCertificate.Certificate = certificate
	open(t, withCertificate)
	open(t, options(plain))
	_, otherCA := pgtest.Certificate(t, "localhost")
	for name, change := range map[string]func(*Options){
		"no certificate":        func(o *Options) { *o = options(mutual) },
		"another CA":            func(o *Options) { o.CA = otherCA },
		"no CA":                 func(o *Options) { o.CA = nil },
		"another name":          func(o *Options) { o.URL = strings.Replace(o.URL, "localhost", "127.0.0.1", 1) },
		"plain text":            func(o *Options) { o.URL = strings.Replace(o.URL, "rediss", "redis", 1) },
		"a password in the URL": func(o *Options) { o.URL = strings.Replace(o.URL, "//", "//:"+valkeytest.Password+"@", 1) },
		"a user that is none":   func(o *Options) { o.URL = strings.Replace(o.URL, "//", "//eve@", 1) },
		"no password":           func(o *Options) { o.Password = nil },
		"a wrong password": func(o *Options) {
			o.Password = func(context.Context) (secrets.Secret, error) { return secrets.New([]byte("wrong"), 1), nil }
		},
		"a server that evicts":      func(o *Options) { *o = options(valkeytest.Start(t, "maxmemory-policy allkeys-lru")) },
		"a server that is a member": func(o *Options) { *o = options(valkeytest.Start(t, "cluster-enabled yes")) },
	} {
		opt := options(plain)
		change(&opt)
		st, err := Open(t.Context(), opt)
		if err == nil {
			st.Close()
			t.Errorf("%s was accepted", name)
			continue
		}
		if strings.Contains(err.Error(), valkeytest.Password) {
			t.Errorf("%s: the error tells the password: %v", name, err)
		}
	}
	notDurable := open(t, options(valkeytest.Start(t, "appendonly no")))
	if durable, err := notDurable.Durable(t.Context()); durable || err != nil {
		t.Errorf("without a log, durable is %v, %v", durable, err)
	}
}
