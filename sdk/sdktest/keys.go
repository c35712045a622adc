package sdktest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/rampart-security/rampart/internal/agent"
)

// dataKeys are what the control plane would keep: which version of each key
// seals, and whose are shredded. The zero value is ready; Agent.mu guards it.
type dataKeys struct {
	newest map[keyOwner]uint32
	closed map[keyOwner]bool
}

// keyOwner is a tenant's data item, or one person of it.
type keyOwner struct{ item, tenant, subject string }

// RekeyDEKs makes a new version of a tenant's key, of its people's and of its
// blind indexes, and tells the service.
func (a *Agent) RekeyDEKs(item, tenant string) {
	a.mu.Lock()
	d := &a.dataKeys
	if d.newest == nil {
		d.newest = map[keyOwner]uint32{}
	}
	o := keyOwner{item: item, tenant: tenant}
	d.newest[o] = d.versionLocked(o) + 1
	a.mu.Unlock()
	a.Tell(ForgetAnswer{DEKs: []agent.DEKRequest{{Item: item, Tenant: tenant}}})
}

// ShredDEKs destroys a tenant's keys, or those of one person, and tells the
// service.
func (a *Agent) ShredDEKs(item, tenant, subject string) {
	a.mu.Lock()
	d := &a.dataKeys
	if d.closed == nil {
		d.closed = map[keyOwner]bool{}
	}
	d.closed[keyOwner{item, tenant, subject}] = true
	a.mu.Unlock()
	a.Tell(ForgetAnswer{DEKs: []agent.DEKRequest{{Item: item, Tenant: tenant}}})
}

func (d *dataKeys) versionLocked(o keyOwner) uint32 { return max(d.newest[o], 1) }

// shreddedLocked reports whether a key of o's is gone: o's own, or its tenant's.
func (d *dataKeys) shreddedLocked(o keyOwner) bool {
	return d.closed[o] || d.closed[keyOwner{item: o.item, tenant: o.tenant}]
}

func (a *Agent) dek(w http.ResponseWriter, r *http.Request) {
	var q agent.DEKRequest
	if !read(w, r, &q) {
		return
	}
	a.mu.Lock()
	newest := a.dataKeys.versionLocked(keyOwner{item: q.Item, tenant: q.Tenant})
	gone := a.dataKeys.shreddedLocked(keyOwner{q.Item, q.Tenant, q.Subject})
	a.mu.Unlock()
	if q.Subject != "" {
		newest |= agent.SubjectKey
	}
	version := q.Version
	if version == 0 {
		version = newest
	}
	if gone || version > newest {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	h := hmac.New(sha256.New, a.root)
	fmt.Fprintf(h, "%q %q %q %d %t", q.Item, q.Tenant, q.Subject, version, q.Search)
	json.NewEncoder(w).Encode(agent.DEK{Key: h.Sum(nil), Version: version})
}
