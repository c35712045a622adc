// Package pii protects what a service stores: it seals fields that identify
// people (control data.envelope), and gives rows a checksum that a change made
// around the service breaks (control db.row_mac). The keys belong to a tenant
// and data item and come from the sidecar.
package pii

import (
	"bytes"
	"context"
	"crypto/hmac"
	"encoding/binary"
	"net/http"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/data/envelope"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/sdk"
)

const (
	sealing  = "data.envelope"
	checking = "db.row_mac"

	macLabel   = "row-mac"
	macVersion = 4 // bytes of a key version before a checksum
	keep       = 5 * time.Minute
	maxKeys    = 10_000
)

// Cell names where a sealed field stands. Item is a key of data in
// rampart.yaml. A value that is moved to another cell does not open there.
type Cell = envelope.Cell

// ErrNoKey is in the chain of Open's error when the value's key was shredded, or
// never made.
var ErrNoKey = envelope.ErrKey

// Overhead is how many bytes longer a sealed field is than its text.
const Overhead = envelope.Overhead

// Keys seals, opens and checks. Keys are cached for five minutes. It is safe
// for concurrent use.
type Keys struct {
	svc  *sdk.Service
	seal *envelope.Cache
	now  func() time.Time

	mu   sync.Mutex // guards below
	keys map[derivedName]derivedKey
	gone uint64 // how often something was forgotten
}

// derivedName is a key for another use than sealing.
type derivedName struct {
	item, tenant string
	label        string // of the use
	version      uint32 // 0 is the active one, whichever that is
}

type derivedKey struct {
	key     []byte
	version uint32
	until   time.Time
}

// New returns Keys of svc's sidecar. It panics when svc is nil.
func New(svc *sdk.Service) *Keys {
	if svc == nil {
		panic("pii: nil service")
	}
	k := &Keys{svc: svc, now: time.Now, keys: make(map[derivedName]derivedKey)}
	k.seal = envelope.NewKeys(k.fetchSealing, envelope.KeysOptions{})
	svc.OnForget(k.forget)
	return k
}

// forget drops keys that were shredded or replaced, before the sidecar is told
// that it was done.
func (k *Keys) forget(a agent.ForgetAnswer) {
	if a.All {
		k.seal.ForgetAll()
	}
	for _, d := range a.DEKs {
		k.seal.Forget(d.Item, d.Tenant)
	}
	if !a.All && len(a.DEKs) == 0 {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.gone++
	clear(k.keys) // few, and they are asked for again
}

func (k *Keys) fetchSealing(ctx context.Context, q envelope.Query) ([]byte, uint32, error) {
	return k.fetch(ctx, agent.DEKRequest{Item: q.Item, Tenant: q.Tenant, Subject: q.Subject, Version: q.Version, Messages: q.Messages})
}

func (k *Keys) fetch(ctx context.Context, q agent.DEKRequest) ([]byte, uint32, error) {
	var dek agent.DEK
	err := k.svc.Call(ctx, http.MethodPost, agent.PathDEK, q, &dek)
	return dek.Key, dek.Version, err
}

// Seal encrypts a field of at most 1 MiB for its cell. Sealed bytes begin with
// 1 and are Overhead longer; let a CHECK in the database demand both.
func (k *Keys) Seal(ctx context.Context, c Cell, text []byte) ([]byte, error) {
	if k.svc.Off(sealing) {
		return bytes.Clone(text), nil
	}
	if c.Subject == "" && k.svc.Info().Shred[c.Item] == "subject" {
		return nil, rampart.Errorf(rampart.Internal, sealing, "pii: data of %s is sealed for a person; say whose it is in Subject", c.Item)
	}
	return envelope.Seal(ctx, k.seal, k.ofWhom(c), text)
}

// Open decrypts what Seal made for the same cell. Unavailable means that the
// key could not be had, ErrNoKey that there is none, as after a shredding; any
// other error, that the value is not what was sealed.
func (k *Keys) Open(ctx context.Context, c Cell, sealed []byte) ([]byte, error) {
	if k.svc.Off(sealing) {
		return bytes.Clone(sealed), nil
	}
	return envelope.Open(ctx, k.seal, c, sealed)
}

// ofWhom leaves the person out where people have no keys of their own.
func (k *Keys) ofWhom(c Cell) Cell {
	if k.svc.Info().Shred[c.Item] != "subject" {
		c.Subject = ""
	}
	return c
}

// RowMAC returns the checksum of a row: of its tenant and of fields, in this
// order. Name the table and the primary key among them, or rows can be
// exchanged. It sees neither an old row put back whole nor a row deleted: an
// append-only table does.
func (k *Keys) RowMAC(ctx context.Context, item, tenant string, fields ...string) ([]byte, error) {
	if k.svc.Off(checking) {
		return []byte{}, nil
	}
	key, err := k.derived(ctx, derivedName{item, tenant, macLabel, 0})
	if err != nil {
		return nil, err
	}
	out := binary.BigEndian.AppendUint32(nil, key.version)
	return append(out, sum(key.key, tenant, fields)...), nil
}

// CheckRowMAC demands that mac is the checksum of these fields. Unavailable
// means that the key could not be had; any other error, that the row was
// changed around the service and must not be used.
func (k *Keys) CheckRowMAC(ctx context.Context, item, tenant string, mac []byte, fields ...string) error {
	if k.svc.Off(checking) {
		return nil
	}
	if len(mac) <= macVersion {
		return rampart.Errorf(rampart.Internal, checking, "the row has no checksum")
	}
	version := binary.BigEndian.Uint32(mac)
	if version == 0 {
		return rampart.Errorf(rampart.Internal, checking, "the row's checksum names no key")
	}
	key, err := k.derived(ctx, derivedName{item, tenant, macLabel, version})
	if err != nil {
		return err
	}
	if !hmac.Equal(mac[macVersion:], sum(key.key, tenant, fields)) {
		return rampart.Errorf(rampart.Internal, checking, "the row does not match its checksum")
	}
	return nil
}

func sum(key []byte, tenant string, fields []string) []byte {
	all := make([][]byte, 0, 1+len(fields))
	all = append(all, []byte(tenant))
	for _, f := range fields {
		all = append(all, []byte(f))
	}
	return envelope.MAC(key, all...)
}

// derived returns a key that is derived for one use, so that none serves two
// purposes: from the tenant's data key, or that of its blind indexes.
func (k *Keys) derived(ctx context.Context, name derivedName) (derivedKey, error) {
	k.mu.Lock()
	found, ok := k.keys[name]
	gone := k.gone
	k.mu.Unlock()
	if ok && k.now().Before(found.until) {
		return found, nil
	}
	search := name.label != macLabel
	dek, version, err := k.fetch(ctx, agent.DEKRequest{Item: name.item, Tenant: name.tenant, Version: name.version, Search: search})
	if err != nil {
		return derivedKey{}, err
	}
	defer clear(dek)
	key, err := envelope.DeriveKey(dek, name.label)
	if err != nil {
		return derivedKey{}, err
	}
	if version == 0 || name.version != 0 && version != name.version {
		return derivedKey{}, rampart.Errorf(rampart.Unavailable, checking, "the sidecar gave a key of another version")
	}
	got := derivedKey{key: key, version: version, until: k.now().Add(keep)}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.gone != gone {
		return got, nil // it was forgotten while it was on its way: once, and no more
	}
	if len(k.keys) >= maxKeys {
		clear(k.keys) // rare, and they are asked for again
	}
	k.keys[name] = got
	return got, nil
}
