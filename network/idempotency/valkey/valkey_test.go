package valkey

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/fairshare"
	"github.com/rampart-security/rampart/network/idempotency"
	"github.com/rampart-security/rampart/network/idempotency/idempotencytest"
	"github.com/rampart-security/rampart/test/valkeytest"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func config(url string, ca []byte, own tls.Certificate) Options {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return Options{URL: url, TLS: &tls.Config{MinVersion: tls.VersionTLS13, ServerName: "localhost", RootCAs: roots, Certificates: []tls.Certificate{own}}}
}

func open(t testing.TB, s *valkeytest.Server, change ...func(*Options)) *Store {
	t.Helper()
	opt := config(s.URL, s.CA, s.Certificate)
	for _, f := range change {
		f(&opt)
	}
	store, err := New(opt)
	must(t, err)
	t.Cleanup(func() { store.Close() })
	return store
}

func request(key string) idempotency.Request {
	return idempotency.Request{ID: sha256.Sum256([]byte(key)), Hash: sha256.Sum256([]byte("body")), Keep: time.Hour}
}

// finished begins and finishes a key.
func finished(s *Store, r idempotency.Request, at time.Time, resp idempotency.Response) error {
	c, err := s.Begin(context.Background(), r, at)
	if err != nil {
		return err
	}
	if c.State != idempotency.New {
		return fmt.Errorf("state %d, want new", c.State)
	}
	return s.Finish(context.Background(), c, resp)
}

func stateOf(t testing.TB, s *Store, r idempotency.Request, at time.Time) idempotency.State {
	t.Helper()
	c, err := s.Begin(t.Context(), r, at)
	must(t, err)
	return c.State
}

// TestStore runs the suite, whose time is told.
func TestStore(t *testing.T) {
	server := valkeytest.Start(t, valkeytest.CertificatesAlone()...)
	idempotencytest.Test(t, func(t *testing.T) idempotency.Store {
		s := open(t, server, func(o *Options) { o.Prefix = t.Name() + ":" })
		s.byCaller = true
		return s
	})
}

// TestServersClock: the lease and the time that an answer is kept are counted by the
// server, whatever the gateways' clocks show.
func TestServersClock(t *testing.T) {
	s := open(t, valkeytest.Start(t, valkeytest.CertificatesAlone()...))
	wrong := time.Now().Add(1000 * time.Hour)
	r := request("k")
	r.Lease = time.Minute
	if got := stateOf(t, s, r, time.Now()); got != idempotency.New {
		t.Fatalf("state %d, want new", got)
	}
	if got := stateOf(t, s, r, wrong); got != idempotency.InFlight {
		t.Errorf("state %d by a clock that is ahead, want in flight", got)
	}
	short := request("short")
	short.Lease = 50 * time.Millisecond
	stateOf(t, s, short, time.Now())
	for end := time.Now().Add(20 * time.Second); stateOf(t, s, short, time.Now()) == idempotency.InFlight; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the lease does not end")
		}
	}
}

// TestAskedAgain: scripts are sent again when their answers are lost.
func TestAskedAgain(t *testing.T) {
	s := open(t, valkeytest.Start(t, valkeytest.CertificatesAlone()...))
	args, lease, err := s.beginning(request("k"), time.Now())
	must(t, err)
	for range 2 {
		got, err := s.run(t.Context(), s.begin, args...).StringSlice()
		if err != nil || len(got) != 1 || got[0] != "new" {
			t.Fatalf("got %q, %v, want new", got, err)
		}
	}
	if got := stateOf(t, s, request("k"), time.Now()); got != idempotency.InFlight {
		t.Errorf("state %d for another holder, want in flight", got)
	}
	c := idempotency.Claim{State: idempotency.New, ID: request("k").ID, Lease: lease}
	must(t, s.Finish(t.Context(), c, idempotency.Response{Status: 201}))
	must(t, s.Finish(t.Context(), c, idempotency.Response{Status: 202}))
	must(t, s.Abandon(t.Context(), c))
	if c, err := s.Begin(t.Context(), request("k"), time.Now()); err != nil || c.State != idempotency.Done || c.Response.Status != 201 {
		t.Errorf("state %d, status %d, %v, want the first answer", c.State, c.Response.Status, err)
	}
}

// TestBounds: who fills their own part is refused, and nobody else; a full store
// refuses everybody, forgets nothing, and has room when answers have expired.
func TestBounds(t *testing.T) {
	server := valkeytest.Start(t, valkeytest.CertificatesAlone()...)
	for name, tc := range map[string]struct {
		limits  limits
		refused rampart.Kind
		others  bool // may still begin
	}{
		"keys of an owner":  {limits{18, 1 << 20, 1, 1 << 20}, rampart.Limited, true},
		"bytes of an owner": {limits{100, 20_000, 100, 1}, rampart.Limited, true},
		"keys":              {limits{5, 1 << 20, 100, 1 << 20}, rampart.Unavailable, false},
		"bytes":             {limits{100, 5000, 100, 1 << 20}, rampart.Unavailable, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, server, func(o *Options) { o.Prefix = t.Name() + ":" })
			s.byCaller, s.limits = true, tc.limits
			now := time.Unix(1_700_000_000, 0)
			of := func(owner byte, i int) idempotency.Request {
				r := request(fmt.Sprint(owner, i))
				r.Owner[0] = owner
				return r
			}
			n, err := 0, error(nil)
			for ; err == nil && n < 50; n++ {
				err = finished(s, of(1, n), now, idempotency.Response{Status: 200, Body: make([]byte, 700)})
			}
			if n--; rampart.KindOf(err) != tc.refused || n < 4 || n > 5 {
				t.Fatalf("%v after %d keys, want %v after 4 or 5", err, n, tc.refused)
			}
			for i := range n {
				if got := stateOf(t, s, of(1, i), now); got != idempotency.Done {
					t.Errorf("state %d: a full store forgot a key", got)
				}
			}
			if _, err := s.Begin(t.Context(), of(2, 0), now); (err == nil) != tc.others {
				t.Errorf("another owner: %v, want let in %v", err, tc.others)
			}
			now = now.Add(2 * time.Hour)
			c, err := s.Begin(t.Context(), of(1, 0), now)
			if err != nil || c.State != idempotency.New {
				t.Fatalf("state %d, %v: no room although all has expired", c.State, err)
			}
			must(t, s.Abandon(t.Context(), c))
			if keys, err := s.db.Keys(t.Context(), s.prefix+"*").Result(); err != nil || len(keys) > 0 {
				t.Errorf("%q is left when nothing is held, %v", keys, err)
			}
		})
	}
}

// TestShares: the scripts give one owner what package fairshare does, so that a few who
// take what they can leave room for who comes next; and answers that come at once take
// no more than the share either.
func TestShares(t *testing.T) {
	s := open(t, valkeytest.Start(t, valkeytest.CertificatesAlone()...))
	s.byCaller, s.limits = true, limits{keys: 100, bytes: 40_000, few: 3, fewBytes: 100}
	now, held := time.Unix(1_700_000_000, 0), int64(0)
	var claims []idempotency.Claim
	for owner := range byte(12) {
		for own := int64(0); ; own++ {
			r := request(fmt.Sprint(owner, own))
			r.Owner[0] = owner
			c, err := s.Begin(t.Context(), r, now)
			if share := fairshare.Of(100, held, 3); (err == nil) != (own < share) || err != nil && rampart.KindOf(err) != rampart.Limited {
				t.Fatalf("owner %d with %d keys, of %d held: %v; its share is %d", owner, own, held, err, share)
			}
			if err != nil {
				break
			}
			if held++; owner == 0 {
				claims = append(claims, c)
			}
		}
	}
	whole := 0
	for i, c := range claims {
		must(t, s.Finish(t.Context(), c, idempotency.Response{Status: 200, Body: make([]byte, 3000)}))
		r := request(fmt.Sprint(0, i))
		again, err := s.Begin(t.Context(), r, now)
		if err != nil || again.State != idempotency.Done {
			t.Errorf("key %d: state %d, %v, want done", i, again.State, err)
		}
		if !again.Response.TooLarge {
			whole++
		}
	}
	if len(claims) < 20 || whole != 3 {
		t.Errorf("of %d answers %d are kept, want 3 of at least 20", len(claims), whole)
	}
}

// TestCountsHold: what is counted is what is held, however keys end: answered,
// abandoned, left behind, or taken over after an entry has expired by itself.
func TestCountsHold(t *testing.T) {
	s := open(t, valkeytest.Start(t, valkeytest.CertificatesAlone()...))
	s.byCaller = true
	now := time.Unix(1_700_000_000, 0)
	for round := range 40 {
		for i := range 12 {
			r := request(fmt.Sprint(i % 5))
			r.Owner[0], r.Keep, r.Lease = byte(i%2), time.Duration(i%4)*time.Minute, 30*time.Second
			c, err := s.Begin(t.Context(), r, now)
			must(t, err)
			switch {
			case c.State != idempotency.New || (round+i)%4 == 0:
			case (round+i)%4 == 1:
				must(t, s.Abandon(t.Context(), c))
			default:
				must(t, s.Finish(t.Context(), c, idempotency.Response{Status: 200, Body: make([]byte, i)}))
			}
			if i == 7 { // as if it had expired by itself
				name, _ := nameOf(r.ID)
				must(t, s.db.Del(t.Context(), s.prefix+"e:"+name).Err())
			}
			now = now.Add(7 * time.Second)
		}
		members, err := s.db.ZRange(t.Context(), s.prefix+"ends", 0, -1).Result()
		must(t, err)
		want := map[string]int{}
		for _, m := range members {
			var owner string
			var n int
			parts := strings.Split(m, ".")
			owner = parts[1]
			fmt.Sscan(parts[2], &n)
			for field, by := range map[string]int{"n": 1, "n" + owner: 1, "b": n, "b" + owner: n} {
				want[field] += by
			}
		}
		got, err := s.db.HGetAll(t.Context(), s.prefix+"counts").Result()
		must(t, err)
		for field, n := range want {
			if g := got[field]; g != fmt.Sprint(n) && (n != 0 || g != "") {
				t.Fatalf("round %d: %s is counted as %q, want %d", round, field, g, n)
			}
		}
	}
}

// TestServerLost: closed while the server is away or silent; what was reported before
// it crashed is there afterwards, and no connection of before fails anybody.
func TestServerLost(t *testing.T) {
	server := valkeytest.Start(t, valkeytest.CertificatesAlone()...)
	s := open(t, server)
	held, err := s.Begin(t.Context(), request("in flight"), time.Now())
	must(t, err)
	done := make(chan error)
	for i := range conns { // as many connections as there are
		go func() {
			done <- finished(s, request(fmt.Sprint(i)), time.Now(), idempotency.Response{Status: 200, Body: []byte("paid")})
		}()
	}
	for range conns {
		must(t, <-done)
	}
	s.insist = time.Second
	closed := func(what string) {
		t.Helper()
		c, err := s.Begin(t.Context(), request("new"), time.Now())
		if rampart.KindOf(err) != rampart.Unavailable || c.State == idempotency.New {
			t.Errorf("%s: state %d, %v, want unavailable", what, c.State, err)
		}
		if err := s.Finish(t.Context(), held, idempotency.Response{}); rampart.KindOf(err) != rampart.Unavailable {
			t.Errorf("%s: finish: %v, want unavailable", what, err)
		}
	}
	server.Freeze()
	closed("silent")
	server.Thaw()
	server.Kill()
	closed("killed")
	server.Run()
	var state idempotency.State
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, err := s.Begin(t.Context(), request("in flight"), time.Now())
		if state = c.State; err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	// The frozen server may have heard the Finish that nobody waited for any more.
	if state != idempotency.InFlight && state != idempotency.Done {
		t.Errorf("state %d of the key in flight: the crash freed it", state)
	}
	for i := range conns {
		if c, err := s.Begin(t.Context(), request(fmt.Sprint(i)), time.Now()); err != nil || c.State != idempotency.Done || string(c.Response.Body) != "paid" {
			t.Errorf("after the crash: state %d, %q, %v", c.State, c.Response.Body, err)
		}
	}
}

// TestRestart: the answer of what was carried out is recorded, although the server is
// away at that moment.
func TestRestart(t *testing.T) {
	server := valkeytest.Start(t, valkeytest.CertificatesAlone()...)
	s := open(t, server)
	s.insist = time.Minute
	c, err := s.Begin(t.Context(), request("k"), time.Now())
	must(t, err)
	server.Kill()
	done := make(chan error, 1)
	go func() { done <- s.Finish(t.Context(), c, idempotency.Response{Status: 201}) }()
	time.Sleep(time.Second) // longer than the tries of one command
	server.Run()
	must(t, <-done)
	if got := stateOf(t, s, request("k"), time.Now()); got != idempotency.Done {
		t.Errorf("state %d, want done", got)
	}
}

// TestOldMember: an entry that expired by itself left its member; when that leaves, the
// entry of who holds the key by then stays.
func TestOldMember(t *testing.T) {
	s := open(t, valkeytest.Start(t, valkeytest.CertificatesAlone()...))
	s.byCaller = true
	now := time.Unix(1_700_000_000, 0)
	r := request("k")
	r.Lease = 2 * time.Hour
	must(t, finished(s, r, now, idempotency.Response{Status: 201}))
	name, err := nameOf(r.ID)
	must(t, err)
	must(t, s.db.Del(t.Context(), s.prefix+"e:"+name).Err())
	if got := stateOf(t, s, r, now.Add(time.Minute)); got != idempotency.New {
		t.Fatalf("state %d, want new", got)
	}
	if got := stateOf(t, s, r, now.Add(time.Hour+time.Minute)); got != idempotency.InFlight {
		t.Errorf("state %d, want in flight", got)
	}
}

// TestFullMemory: a server without memory refuses new keys, takes the answers of those
// that run, and repeats.
func TestFullMemory(t *testing.T) {
	server := valkeytest.Start(t, valkeytest.CertificatesAlone()...)
	s := open(t, server)
	c, err := s.Begin(t.Context(), request("k"), time.Now())
	must(t, err)
	must(t, s.db.ConfigSet(t.Context(), "maxmemory", "1").Err())
	if _, err := s.Begin(t.Context(), request("other"), time.Now()); rampart.KindOf(err) != rampart.Unavailable {
		t.Errorf("a new key: %v, want unavailable", err)
	}
	must(t, s.Finish(t.Context(), c, idempotency.Response{Status: 201}))
	if got := stateOf(t, s, request("k"), time.Now()); got != idempotency.Done {
		t.Errorf("state %d, want done", got)
	}
}

// TestJudge: a server that would forget while it runs is refused, one that would in a
// crash is complained of.
func TestJudge(t *testing.T) {
	for name, tc := range map[string]struct {
		settings []string
		refused  string
		said     string
	}{
		"as it should be": {nil, "", ""},
		"evicts":          {[]string{"maxmemory-policy allkeys-lru"}, "set maxmemory-policy noeviction", ""},
		"keeps no log":    {[]string{"appendonly no"}, "", "set appendonly yes"},
		"keeps it late":   {[]string{"appendfsync everysec"}, "", "set appendfsync always"},
		"does not say":    {[]string{"appendfsync everysec", `rename-command CONFIG ""`}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			s := open(t, valkeytest.Start(t, append(valkeytest.CertificatesAlone(), tc.settings...)...), func(o *Options) {
				o.Logger = slog.New(slog.NewTextHandler(&log, nil))
			})
			err := s.Check(t.Context())
			if (err != nil) != (tc.refused != "") || err != nil && !strings.Contains(err.Error(), tc.refused) {
				t.Errorf("got %v, want %q", err, tc.refused)
			}
			if _, err := s.Begin(t.Context(), request("k"), time.Now()); (err != nil) != (tc.refused != "") {
				t.Errorf("begin: %v", err)
			}
			if got := log.String(); (got != "") != (tc.said != "") || !strings.Contains(got, tc.said) {
				t.Errorf("logged %q, want %q", got, tc.said)
			}
		})
	}
}

// TestNothingToRead: nothing of a request or its answer can be read in the store, or
// compared with a guess.
func TestNothingToRead(t *testing.T) {
	s := open(t, valkeytest.Start(t, valkeytest.CertificatesAlone()...))
	r := request("k")
	must(t, finished(s, r, time.Now(), idempotency.Response{Status: 201, Header: http.Header{"Location": {"/people/alice"}}, Body: []byte("alice@example.com")}))
	var all strings.Builder
	keys, err := s.db.Keys(t.Context(), "*").Result()
	must(t, err)
	for _, key := range keys {
		b, err := s.db.Dump(t.Context(), key).Result()
		must(t, err)
		all.WriteString(key + b)
	}
	if name, _ := nameOf(r.ID); !strings.Contains(all.String(), name) {
		t.Fatal("the entry is not among what was read")
	}
	hash := sha256.Sum256([]byte("body"))
	for _, secret := range []string{"alice", "Location", string(r.ID[:]), fmt.Sprintf("%x", r.ID), string(hash[:]), fmt.Sprintf("%x", hash)} {
		if strings.Contains(all.String(), secret) {
			t.Errorf("%q stands in the store", secret)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for name, o := range map[string]Options{
		"plain text": {URL: "redis://h:1", TLS: &tls.Config{}},
		"a password": {URL: "rediss://u:p@h:1", TLS: &tls.Config{}},
		"options":    {URL: "rediss://h:1?db=1", TLS: &tls.Config{}},
		"no TLS":     {URL: "rediss://h:1"},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
