package control

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/ratelimit"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/store"
)

// dataControl is the control that data keys belong to.
const dataControl = "data.envelope"

const (
	dekSize    = 32
	maxTenant  = 128 // bytes; of an item too
	maxPerson  = 256 // bytes
	maxSeals   = 1 << 30
	dekRounds  = 4 // of those who make a key at once, one wins each
	maxWraps   = 1000
	wrapLabel  = "rampart-subkey-v1"
	sealedWho  = "hmac:subject"
	maxVersion = agent.SubjectKey - 1 // of keys below those of tenants

	// keysPerMinute bounds what a service that makes tenants or people up leaves in
	// the table of keys. A tenant's first key counts as many of people: it takes a
	// call of the KEK, and has a row of its own in each list.
	keysPerMinute = 12_000
	tenantCounts  = 20
)

// deks wraps the keys below those of tenants, without asking the KEK each time.
// Safe for concurrent use.
type deks struct {
	who   []byte            // keys the hash that stands for a person
	fresh ratelimit.Limiter // first keys, by who asks for them

	mu    sync.Mutex
	wraps map[dekName]wrap // guarded by mu
}

type dekName struct {
	item, tenant string
	version      uint32
}

// wrap is derived from a tenant's key for this use alone.
type wrap struct {
	aead  cipher.AEAD
	until time.Time
}

// drop forgets what is derived from the keys of these tenants.
func (d *deks) drop(targets []wire.DEKTarget) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name := range d.wraps {
		for _, t := range targets {
			if t.Item == name.item && t.Tenant == name.tenant {
				delete(d.wraps, name)
			}
		}
	}
}

// serveDEK hands a data key to a sidecar whose flows reach a database with the
// item.
func (p *Plane) serveDEK(w http.ResponseWriter, r *http.Request, id identity) error {
	var q agent.DEKRequest
	if err := readJSON(r, &q); err != nil {
		return err
	}
	if err := boundDEK(q); err != nil {
		return err
	}
	e := audit.Event{Class: audit.ClassKey, Action: "dek.read", Control: aclControl, Subject: id.id, Resource: "dek:" + q.Item, Peer: r.RemoteAddr, Detail: p.about(q)}
	if !ownKey(id, q) && (id.kind != "service" || !p.mayDEK(id.name, q.Item)) {
		return p.refuse(r.Context(), e, rampart.Errorf(rampart.Denied, aclControl, "control: no flow of %s grants keys of %q", id.name, q.Item))
	}
	k, err := p.dataKey(withMaker(r.Context(), id.id), q)
	if err != nil {
		return p.refuse(r.Context(), e, err)
	}
	defer clear(k.Key)
	e.Outcome = audit.Allowed
	if err := p.opt.Audit.Record(r.Context(), e); err != nil {
		return err
	}
	return writeJSON(w, k)
}

// ownKey reports whether a queue asks for the one key that encrypts its messages
// on disk.
func ownKey(id identity, q agent.DEKRequest) bool {
	return id.kind == "store" && q == agent.DEKRequest{Item: wire.OwnItem, Tenant: "queue/" + id.name}
}

func boundDEK(q agent.DEKRequest) error {
	switch {
	case len(q.Tenant) > maxTenant || len(q.Item) > maxTenant || len(q.Subject) > maxPerson:
		return rampart.Errorf(rampart.Invalid, dataControl, "control: item and tenant have at most %d bytes, a subject %d", maxTenant, maxPerson)
	case q.Messages < 0 || q.Messages > agent.MaxMessages:
		return rampart.Errorf(rampart.Invalid, dataControl, "control: messages are reserved by 0 to %d", agent.MaxMessages)
	case q.Search && q.Subject != "":
		return rampart.Errorf(rampart.Invalid, dataControl, "control: blind indexes have one key for all of a tenant's people")
	}
	return nil
}

// about says in the log whose key it was. A person is named by the hash: the log
// outlives whoever asks to be forgotten.
func (p *Plane) about(q agent.DEKRequest) map[string]string {
	d := map[string]string{"tenant": q.Tenant}
	if q.Subject != "" {
		d["person"] = p.hashed(q.Item, q.Tenant, q.Subject)
	}
	if q.Search {
		d["search"] = "true"
	}
	return d
}

// dataKey finds the key that is asked for, and makes it if it is an active one
// that is not there.
func (p *Plane) dataKey(ctx context.Context, q agent.DEKRequest) (agent.DEK, error) {
	item := p.system().Data[q.Item]
	switch {
	case q.Search && len(item.Search) == 0:
		return agent.DEK{}, rampart.Errorf(rampart.Denied, dataControl, "control: no field of %s is searched; name it in search", q.Item)
	case q.Search:
		return p.subkey(ctx, q, "", q.Version)
	case q.Subject == "":
		return p.tenantKey(ctx, q)
	case item.Shred != spec.ShredSubject:
		return agent.DEK{}, rampart.Errorf(rampart.Denied, dataControl, "control: people have no keys of their own in %s; say shred: subject", q.Item)
	case q.Version != 0 && q.Version&agent.SubjectKey == 0:
		return agent.DEK{}, rampart.Errorf(rampart.Invalid, dataControl, "control: this is no version of a person's key")
	}
	k, err := p.subkey(ctx, q, p.hashed(q.Item, q.Tenant, q.Subject), q.Version&^agent.SubjectKey)
	k.Version |= agent.SubjectKey
	return k, err
}

// hashed stands for a subject's id: the tables of keys, their backups
// and the log name nobody.
func (p *Plane) hashed(item, tenant, subject string) string {
	h := hmac.New(sha256.New, p.deks.who)
	h.Write(lengths("rampart-person-v1", item, tenant, subject))
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// tenantKey returns a tenant's key, and reserves what is to be sealed with it. A
// key that has sealed enough makes room for its successor.
func (p *Plane) tenantKey(ctx context.Context, q agent.DEKRequest) (agent.DEK, error) {
	for range dekRounds {
		d, err := p.dek(ctx, q.Item, q.Tenant, q.Version)
		if err != nil {
			return agent.DEK{}, err
		}
		if q.Version == 0 && q.Messages > 0 {
			sum, err := p.opt.Store.CountMessages(ctx, d.Item, d.Tenant, d.Version, q.Messages)
			if err != nil {
				return agent.DEK{}, p.unkept(err)
			}
			if sum > maxSeals {
				if err := p.makeDEK(ctx, d.Item, d.Tenant, d.Version+1); err != nil && !errors.Is(err, store.ErrExists) {
					return agent.DEK{}, p.unkept(err)
				}
				continue
			}
		}
		key, err := p.keys.kek.Unwrap(ctx, d.Wrapped, dekAAD(d))
		return agent.DEK{Key: key, Version: d.Version}, err
	}
	return agent.DEK{}, rampart.Errorf(rampart.Unavailable, dataControl, "control: the key is being replaced; try again")
}

// dek returns the row of a tenant's key; version 0 is the active one, which is
// made if there is none.
func (p *Plane) dek(ctx context.Context, item, tenant string, version uint32) (store.DEK, error) {
	for range dekRounds {
		d, err := p.opt.Store.DEK(ctx, item, tenant, version)
		if err == nil {
			return d, nil
		}
		if !errors.Is(err, store.ErrNotFound) || version != 0 {
			return store.DEK{}, p.unkept(err)
		}
		set, err := p.opt.Store.KeySet(ctx, item, tenant, "")
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return store.DEK{}, p.unkept(err)
		}
		if err := p.mayMake(ctx, tenantCounts); err != nil {
			return store.DEK{}, err
		}
		if err := p.makeDEK(ctx, item, tenant, set.Last+1); err != nil && !errors.Is(err, store.ErrExists) {
			return store.DEK{}, p.unkept(err)
		}
	}
	return store.DEK{}, rampart.Errorf(rampart.Unavailable, dataControl, "control: the key is being made; try again")
}

// unkept words the store's answers. Keys that were destroyed are not there, which
// no later try changes.
func (p *Plane) unkept(err error) error {
	switch {
	case errors.Is(err, store.ErrNotFound):
		return rampart.Errorf(rampart.NotFound, dataControl, "control: no such key version")
	case errors.Is(err, store.ErrShredded):
		return rampart.Errorf(rampart.NotFound, dataControl, "control: the keys were shredded; rampart dek reopen lets new ones be made")
	case rampart.KindOf(err) == rampart.Internal:
		return unavailable(err)
	}
	return err
}

// makerKey is where serveDEK leaves who asks.
type makerKey struct{}

func withMaker(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, makerKey{}, id)
}

// mayMake bounds how many first keys one service makes.
func (p *Plane) mayMake(ctx context.Context, cost int) error {
	by, _ := ctx.Value(makerKey{}).(string)
	if v := p.deks.fresh.Allow(by, cost); !v.OK {
		return rampart.Errorf(rampart.Limited, dataControl, "control: first keys of %d tenants or %d people a minute are the most for one service: try again in %s", keysPerMinute/tenantCounts, keysPerMinute, v.RetryAfter.Round(time.Second))
	}
	return nil
}

// makeDEK makes one version.
func (p *Plane) makeDEK(ctx context.Context, item, tenant string, version uint32) error {
	if version == 0 || version > maxVersion {
		return rampart.Errorf(rampart.Conflict, dataControl, "control: the versions of the key are used up")
	}
	key := newKey()
	defer clear(key)
	d := store.DEK{Item: item, Tenant: tenant, Version: version, KEK: p.keys.kek.KeyID(), Created: p.opt.Now()}
	wrapped, err := p.keys.kek.Wrap(ctx, key, dekAAD(d))
	if err != nil {
		return err
	}
	d.Wrapped = wrapped
	return p.opt.Store.PutDEK(ctx, d)
}

func newKey() []byte {
	key := make([]byte, dekSize)
	rand.Read(key)
	return key
}

// subkey returns a key below a tenant's: of a person, or, when who is "", of the
// blind indexes. The active one is made if there is none under the tenant's
// active key, so that whoever rekeys a tenant rekeys its people.
func (p *Plane) subkey(ctx context.Context, q agent.DEKRequest, who string, version uint32) (agent.DEK, error) {
	for range dekRounds {
		k, err := p.opt.Store.Subkey(ctx, q.Item, q.Tenant, who, version)
		if err != nil && (version != 0 || !errors.Is(err, store.ErrNotFound)) {
			return agent.DEK{}, p.unkept(err)
		}
		wrappedBy := k.DEK
		if version == 0 {
			wrappedBy = 0 // the active one
		}
		under, err := p.dek(ctx, q.Item, q.Tenant, wrappedBy)
		if err != nil {
			return agent.DEK{}, err
		}
		if k.Version != 0 && k.DEK == under.Version {
			return p.openSubkey(ctx, under, k)
		}
		if k.Version == 0 {
			if err := p.mayMake(ctx, 1); err != nil {
				return agent.DEK{}, err
			}
		}
		if err := p.makeSubkey(ctx, under, who, k.Version); err != nil && !errors.Is(err, store.ErrExists) {
			return agent.DEK{}, p.unkept(err)
		}
	}
	return agent.DEK{}, rampart.Errorf(rampart.Unavailable, dataControl, "control: the key is being made; try again")
}

func (p *Plane) openSubkey(ctx context.Context, under store.DEK, k store.Subkey) (agent.DEK, error) {
	aead, err := p.wrapper(ctx, under)
	if err != nil {
		return agent.DEK{}, err
	}
	key, err := aead.Open(nil, nil, k.Wrapped, subkeyAAD(k))
	if err != nil {
		return agent.DEK{}, rampart.Errorf(rampart.Internal, dataControl, "control: a key of %s does not open: its row was changed", k.Item)
	}
	return agent.DEK{Key: key, Version: k.Version}, nil
}

// makeSubkey makes the version after last, or after what was shredded.
func (p *Plane) makeSubkey(ctx context.Context, under store.DEK, who string, last uint32) error {
	if last == 0 && who != "" {
		set, err := p.opt.Store.KeySet(ctx, under.Item, under.Tenant, who)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		last = set.Last
	}
	if last >= maxVersion {
		return rampart.Errorf(rampart.Conflict, dataControl, "control: the versions of the key are used up")
	}
	aead, err := p.wrapper(ctx, under)
	if err != nil {
		return err
	}
	k := store.Subkey{Item: under.Item, Tenant: under.Tenant, Who: who, Version: last + 1, DEK: under.Version, Created: p.opt.Now()}
	key := newKey()
	defer clear(key)
	k.Wrapped = aead.Seal(nil, nil, key, subkeyAAD(k))
	return p.opt.Store.PutSubkey(ctx, k)
}

// wrapper returns what wraps the keys below d. It is kept for as long as a plane
// keeps keys: one call of the KEK then serves all people of a tenant.
func (p *Plane) wrapper(ctx context.Context, d store.DEK) (cipher.AEAD, error) {
	name := dekName{d.Item, d.Tenant, d.Version}
	p.deks.mu.Lock()
	w, ok := p.deks.wraps[name]
	p.deks.mu.Unlock()
	if ok && p.opt.Now().Before(w.until) {
		return w.aead, nil
	}
	key, err := p.keys.kek.Unwrap(ctx, d.Wrapped, dekAAD(d))
	if err != nil {
		return nil, err
	}
	defer clear(key)
	aead, err := wrapperOf(key)
	if err != nil {
		return nil, err
	}
	p.deks.mu.Lock()
	defer p.deks.mu.Unlock()
	if p.deks.wraps == nil || len(p.deks.wraps) >= maxWraps {
		p.deks.wraps = map[dekName]wrap{} // rare, and they are made again
	}
	p.deks.wraps[name] = wrap{aead, p.opt.Now().Add(keyTTL)}
	return aead, nil
}

func wrapperOf(dek []byte) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, dek, nil, wrapLabel, dekSize)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// dekAAD binds a wrapped key to its row: copied to another, it does not open.
func dekAAD(d store.DEK) []byte {
	return binary.BigEndian.AppendUint32(dekLabel(d.Item, d.Tenant), d.Version)
}

// dekLabel begins the labels of all versions of a tenant's key.
func dekLabel(item, tenant string) []byte { return lengths("rampart-dek-v1", item, tenant) }

func subkeyAAD(k store.Subkey) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(lengths(wrapLabel, k.Item, k.Tenant, k.Who), k.Version), k.DEK)
}

// lengths joins texts behind a label, each behind its length, which keeps
// neighbours apart where a separator would not.
func lengths(label string, texts ...string) []byte {
	b := []byte(label)
	for _, s := range texts {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	return b
}
