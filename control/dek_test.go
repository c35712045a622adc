package control_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/spec"
)

// personal is a house whose payments can be searched by e-mail, and forgotten
// person by person.
func personal(t *testing.T) *house {
	h := found(t, "")
	d := h.sys.Data["payment"]
	d.Shred, d.Search = spec.ShredSubject, map[string]string{"email": "email"}
	h.sys.Data["payment"] = d
	h.start()
	t.Cleanup(func() { h.stop() })
	return h
}

// dek asks as the service that keeps payments.
func (h *house) dek(q agent.DEKRequest) (agent.DEK, error) {
	var k agent.DEK
	q.Item = "payment"
	err := h.call("service/payments", http.MethodPost, wire.PathDEK, q, &k)
	return k, err
}

func (h *house) mustDEK(q agent.DEKRequest) agent.DEK {
	h.t.Helper()
	k, err := h.dek(q)
	must(h.t, err)
	if len(k.Key) != 32 {
		h.t.Fatalf("a key of %d bytes", len(k.Key))
	}
	return k
}

var (
	acme    = agent.DEKRequest{Tenant: "acme"}
	search  = agent.DEKRequest{Tenant: "acme", Search: true}
	alice   = agent.DEKRequest{Tenant: "acme", Subject: "user:alice"}
	bob     = agent.DEKRequest{Tenant: "acme", Subject: "user:bob"}
	tenant  = wire.DEKTarget{Item: "payment", Tenant: "acme"}
	oneself = wire.DEKTarget{Item: "payment", Tenant: "acme", Subject: "user:alice"}
)

func version(q agent.DEKRequest, v uint32) agent.DEKRequest {
	q.Version = v
	return q
}

func TestKeysBelowATenant(t *testing.T) {
	h := personal(t)
	seen := map[string]agent.DEKRequest{}
	for _, q := range []agent.DEKRequest{acme, search, alice, bob, {Tenant: "globex", Subject: "user:alice"}, {Tenant: "globex", Search: true}} {
		k := h.mustDEK(q)
		if again := h.mustDEK(q); !bytes.Equal(k.Key, again.Key) || k.Version != again.Version {
			t.Errorf("%+v has two keys", q)
		}
		if same := h.mustDEK(version(q, k.Version)); !bytes.Equal(k.Key, same.Key) {
			t.Errorf("%+v by version has another key", q)
		}
		if (k.Version&agent.SubjectKey != 0) != (q.Subject != "") {
			t.Errorf("%+v has version %x", q, k.Version)
		}
		if twin, ok := seen[string(k.Key)]; ok {
			t.Errorf("%+v and %+v share a key", q, twin)
		}
		seen[string(k.Key)] = q
	}
	for name, tc := range map[string]struct {
		q      agent.DEKRequest
		status int
	}{
		"a person's key by a tenant's version":   {version(alice, 1), http.StatusBadRequest},
		"a person's version that was never made": {version(alice, agent.SubjectKey|9), http.StatusNotFound},
		"a search key of one person":             {agent.DEKRequest{Tenant: "acme", Subject: "user:alice", Search: true}, http.StatusBadRequest},
		"more than may be reserved":              {agent.DEKRequest{Tenant: "acme", Messages: agent.MaxMessages + 1}, http.StatusBadRequest},
		"a negative number":                      {agent.DEKRequest{Tenant: "acme", Messages: -1}, http.StatusBadRequest},
	} {
		if _, err := h.dek(tc.q); statusOf(err) != tc.status {
			t.Errorf("%s: %v, want %d", name, err, tc.status)
		}
	}
	if file, err := os.ReadFile(h.state.Path("control.db-wal")); err != nil || bytes.Contains(file, []byte("user:alice")) {
		t.Errorf("the table of keys names people: %v", err)
	}
}

// TestWithoutPromise: a file that promises neither gets neither.
func TestWithoutPromise(t *testing.T) {
	h := open(t, "")
	for _, q := range []agent.DEKRequest{search, alice} {
		if _, err := h.dek(q); statusOf(err) != http.StatusForbidden {
			t.Errorf("%+v: %v, want 403", q, err)
		}
	}
	if err := h.admin(http.MethodPost, wire.AdminShred, oneself, nil); statusOf(err) != http.StatusBadRequest {
		t.Errorf("one person of an item without keys for people: %v", err)
	}
}

func TestRekey(t *testing.T) {
	h := personal(t)
	before := []agent.DEK{h.mustDEK(acme), h.mustDEK(alice), h.mustDEK(search)}
	heard, _ := h.notices()
	var info wire.DEKInfo
	h.mustAdmin(wire.AdminRekey, tenant, &info)
	if got := states(info); !slices.Equal(got, []string{"decrypt", "active"}) {
		t.Errorf("versions are %v", got)
	}
	if f := next(t, heard, "forget").Forget; !slices.Equal(f.DEKs, []wire.DEKTarget{tenant}) || f.ID == 0 {
		t.Errorf("planes heard %+v", f)
	}
	for i, q := range []agent.DEKRequest{acme, alice, search} {
		now, then := h.mustDEK(q), h.mustDEK(version(q, before[i].Version))
		if now.Version != before[i].Version+1 || bytes.Equal(now.Key, before[i].Key) || !bytes.Equal(then.Key, before[i].Key) {
			t.Errorf("%+v: version %x became %x", q, before[i].Version, now.Version)
		}
	}
	h.mustAdmin(wire.AdminRekey, oneself, nil)
	if now := h.mustDEK(alice); now.Version != agent.SubjectKey|3 {
		t.Errorf("a person's key has version %x", now.Version)
	}
	if now := h.mustDEK(acme); now.Version != 2 {
		t.Errorf("the tenant's key has version %d", now.Version)
	}
	for name, target := range map[string]wire.DEKTarget{"a tenant": {Item: "payment", Tenant: "amce"}, "a person": {Item: "payment", Tenant: "acme", Subject: "user:nobody"}} {
		if err := h.admin(http.MethodPost, wire.AdminRekey, target, nil); statusOf(err) != http.StatusNotFound {
			t.Errorf("%s that has no keys: %v", name, err)
		}
	}
}

func states(info wire.DEKInfo) (out []string) {
	for _, v := range info.Versions {
		out = append(out, v.State)
	}
	return out
}

// TestKeysWearOut: a key that has sealed enough is followed by the next, by
// itself.
func TestKeysWearOut(t *testing.T) {
	h := open(t, "")
	q := acme
	q.Messages = agent.MaxMessages
	if k := h.mustDEK(q); k.Version != 1 {
		t.Fatalf("version %d", k.Version)
	}
	_, err := h.db.CountMessages(t.Context(), "payment", "acme", 1, 1<<30-2*agent.MaxMessages)
	must(t, err)
	for want := uint32(1); want <= 2; want++ {
		if k := h.mustDEK(q); k.Version != want {
			t.Errorf("version %d, want %d", k.Version, want)
		}
	}
}

// notices follows the stream of the sidecar that holds keys, from after what a new
// stream begins with.
func (h *house) notices() (heard <-chan wire.Update, before wire.Forget) {
	h.t.Helper()
	heard = h.watch("service/payments")
	return heard, *next(h.t, heard, "forget").Forget
}

func (h *house) forgot(id uint64) {
	h.t.Helper()
	must(h.t, h.call("service/payments", http.MethodPost, wire.PathHeartbeat, wire.Heartbeat{Plane: "sidecar/payments", Instance: "i", Forgot: id}, nil))
}

func TestShredPerson(t *testing.T) {
	h := personal(t)
	k, other := h.mustDEK(alice), h.mustDEK(bob)
	h.forgot(0)
	heard, _ := h.notices()
	done := make(chan wire.Shredded, 1)
	go func() {
		var s wire.Shredded
		if err := h.admin(http.MethodPost, wire.AdminShred, oneself, &s); err != nil {
			t.Error(err)
		}
		done <- s
	}()
	f := next(t, heard, "forget").Forget
	if !slices.Equal(f.DEKs, []wire.DEKTarget{tenant}) {
		t.Errorf("planes heard %+v", f)
	}
	h.forgot(f.ID)
	s := <-done
	if s.Keys != 1 || s.Planes != 1 || len(s.Waiting) != 0 || s.Irrecoverable.Before(h.now().Add(6*24*time.Hour)) {
		t.Errorf("%+v", s)
	}
	for name, q := range map[string]agent.DEKRequest{"to seal": alice, "to open": version(alice, k.Version)} {
		if _, err := h.dek(q); statusOf(err) != http.StatusNotFound {
			t.Errorf("a key %s after the end: %v, want 404", name, err)
		}
	}
	if again := h.mustDEK(bob); !bytes.Equal(again.Key, other.Key) {
		t.Error("another person lost their key")
	}
	list := h.events("dek.shred")
	if len(list) != 1 || list[0].Trace != s.Certificate || list[0].Detail["person"] == "" || list[0].Detail["person"] == "user:alice" {
		t.Errorf("on record: %+v", list)
	}
	h.mustAdmin(wire.AdminReopen, oneself, nil)
	if fresh := h.mustDEK(alice); fresh.Version != agent.SubjectKey|2 || bytes.Equal(fresh.Key, k.Key) {
		t.Errorf("begun anew with version %x", fresh.Version)
	}
}

func TestShredTenant(t *testing.T) {
	h := personal(t)
	k, below := h.mustDEK(acme), h.mustDEK(alice)
	h.mustDEK(search)
	h.mustDEK(agent.DEKRequest{Tenant: "globex"})
	h.forgot(0)
	var s wire.Shredded
	h.mustAdmin(wire.AdminShred, wire.DEKTarget{Tenant: "acme"}, &s)
	if diff := cmp.Diff([]string{"sidecar/payments"}, s.Waiting); diff != "" || s.Keys != 3 {
		t.Errorf("a plane that says nothing is not waited for for ever, and named: %s; %d keys", diff, s.Keys)
	}
	for name, q := range map[string]agent.DEKRequest{"to seal": acme, "to open": version(acme, k.Version), "a person": alice, "a person's old": version(alice, below.Version), "search": search} {
		if _, err := h.dek(q); statusOf(err) != http.StatusNotFound {
			t.Errorf("%s: %v, want 404", name, err)
		}
	}
	h.mustDEK(agent.DEKRequest{Tenant: "globex"})
	if _, f := h.notices(); f.ID == 0 || !slices.Contains(f.DEKs, tenant) {
		t.Errorf("a plane that was away hears %+v", f)
	}
	var list []wire.DEKInfo
	must(t, h.admin(http.MethodGet, wire.AdminDEKs+"?tenant=acme", nil, &list))
	if len(list) != 1 || list[0].Shredded.IsZero() || len(list[0].Versions) != 0 {
		t.Errorf("listed as %+v", list)
	}
	h.wantEvent("POST "+wire.AdminShred, audit.Allowed, "data.envelope", "")
}

// TestRewrap moves every key to another key file, as a newer version of the KEK
// is one, in as many calls as it takes.
func TestRewrap(t *testing.T) {
	h := personal(t)
	k, below := h.mustDEK(acme), h.mustDEK(alice)
	d, err := h.db.DEK(t.Context(), "payment", "acme", 1)
	must(t, err)
	d.KEK = "an older one"
	_, err = h.db.SwapDEK(t.Context(), d, d.Wrapped)
	must(t, err)
	var r wire.Rewrapped
	h.mustAdmin(wire.AdminRewrap, struct{}{}, &r)
	if r.Done != 1 || r.Left != 0 {
		t.Errorf("%+v", r)
	}
	moved, err := h.db.DEK(t.Context(), "payment", "acme", 1)
	must(t, err)
	if moved.KEK != r.KEK || bytes.Equal(moved.Wrapped, d.Wrapped) {
		t.Errorf("wrapped by %s as before", moved.KEK)
	}
	if now := h.mustDEK(acme); !bytes.Equal(now.Key, k.Key) {
		t.Error("another key came out")
	}
	if now := h.mustDEK(alice); !bytes.Equal(now.Key, below.Key) {
		t.Error("another key of a person came out")
	}
	h.mustAdmin(wire.AdminRewrap, struct{}{}, &r)
	if r.Done != 0 {
		t.Errorf("again: %+v", r)
	}
}

// backup takes all pages.
func (h *house) backup() (pages []wire.DEKPage) {
	h.t.Helper()
	var head wire.DEKPageHead
	for !head.Last {
		var page wire.DEKPage
		h.mustAdmin(wire.AdminBackup, head, &page)
		pages, head = append(pages, page), page.DEKPageHead
	}
	return pages
}

func (h *house) restoreAll(pages []wire.DEKPage) (sum wire.Restored) {
	h.t.Helper()
	for _, p := range pages {
		var r wire.Restored
		h.mustAdmin(wire.AdminRestore, p, &r)
		sum.Restored, sum.Present, sum.Shredded = sum.Restored+r.Restored, sum.Present+r.Present, sum.Shredded+r.Shredded
	}
	return sum
}

// TestBackup: keys that were lost come back, those that were shredded do not.
func TestBackup(t *testing.T) {
	h := personal(t)
	h.mustDEK(alice)
	k := h.mustDEK(bob)
	h.mustDEK(agent.DEKRequest{Tenant: "globex"})
	pages := h.backup()
	if got := h.restoreAll(pages); got != (wire.Restored{Present: 4}) {
		t.Errorf("with all there: %+v", got)
	}
	h.mustAdmin(wire.AdminShred, oneself, nil)
	h.mustAdmin(wire.AdminShred, wire.DEKTarget{Item: "payment", Tenant: "globex"}, nil)
	h.mustAdmin(wire.AdminReopen, wire.DEKTarget{Item: "payment", Tenant: "globex"}, nil)
	if got := h.restoreAll(pages); got != (wire.Restored{Present: 2, Shredded: 2}) {
		t.Errorf("after shredding: %+v", got)
	}
	if _, err := h.dek(alice); statusOf(err) != http.StatusNotFound {
		t.Errorf("a shredded person: %v", err)
	}
	if now := h.mustDEK(bob); !bytes.Equal(now.Key, k.Key) {
		t.Error("another person's key changed")
	}
	for name, change := range map[string]func(*wire.DEKPage){
		"a later end":   func(p *wire.DEKPage) { p.Expires = p.Expires.Add(time.Hour) },
		"another order": func(p *wire.DEKPage) { p.N++ },
		"other rows":    func(p *wire.DEKPage) { p.Rows = json.RawMessage(`{}`) },
		"no MAC":        func(p *wire.DEKPage) { p.MAC = nil },
	} {
		page := pages[1]
		change(&page)
		if err := h.admin(http.MethodPost, wire.AdminRestore, page, nil); statusOf(err) != http.StatusBadRequest {
			t.Errorf("%s: %v, want 400", name, err)
		}
	}
	h.pass(7*24*time.Hour + time.Second)
	if err := h.admin(http.MethodPost, wire.AdminRestore, pages[0], nil); statusOf(err) != http.StatusForbidden {
		t.Errorf("after its end: %v, want 403", err)
	}
}
