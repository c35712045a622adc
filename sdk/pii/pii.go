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

// Overhead is how many bytes longer a sealed field is than its text.
const Overhead = envelope.Overhead

// Keys seals, opens and checks. Keys are cached for five minutes. It is safe
// for concurrent use.
type Keys struct {
	svc  *sdk.Service
	seal envelope.Keys
	now  func() time.Time

	mu   sync.Mutex
	macs map[macName]macKey // guarded by mu
}

type macName struct {
	item, tenant string
	version      uint32 // 0 is the active one, whichever that is
}

type macKey struct {
	key     []byte
	version uint32
	until   time.Time
}

// New returns Keys of svc's sidecar. It panics when svc is nil.
func New(svc *sdk.Service) *Keys {
	if svc == nil {
		panic("pii: nil service")
	}
	k := &Keys{svc: svc, now: time.Now, macs: make(map[macName]macKey)}
	k.seal = envelope.NewKeys(k.fetch, envelope.KeysOptions{})
	return k
}

func (k *Keys) fetch(ctx context.Context, item, tenant string, version uint32) ([]byte, uint32, error) {
	var dek agent.DEK
	err := k.svc.Call(ctx, http.MethodPost, agent.PathDEK, agent.DEKRequest{Item: item, Tenant: tenant, Version: version}, &dek)
	return dek.Key, dek.Version, err
}

// Seal encrypts a field of at most 1 MiB for its cell. Sealed bytes begin with
// 1 and are Overhead longer; let a CHECK in the database demand both.
func (k *Keys) Seal(ctx context.Context, c Cell, text []byte) ([]byte, error) {
	if k.svc.Off(sealing) {
		return bytes.Clone(text), nil
	}
	return envelope.Seal(ctx, k.seal, c, text)
}

// Open decrypts what Seal made for the same cell. Unavailable means that the
// key could not be had; any other error, that the value is not what was sealed.
func (k *Keys) Open(ctx context.Context, c Cell, sealed []byte) ([]byte, error) {
	if k.svc.Off(sealing) {
		return bytes.Clone(sealed), nil
	}
	return envelope.Open(ctx, k.seal, c, sealed)
}

// RowMAC returns the checksum of a row: of its tenant and of fields, in this
// order. Name the table and the primary key among them, or rows can be
// exchanged. It sees neither an old row put back whole nor a row deleted: an
// append-only table does.
func (k *Keys) RowMAC(ctx context.Context, item, tenant string, fields ...string) ([]byte, error) {
	if k.svc.Off(checking) {
		return []byte{}, nil
	}
	key, err := k.macKey(ctx, macName{item, tenant, 0})
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
	key, err := k.macKey(ctx, macName{item, tenant, version})
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

// macKey returns a checksum key: one derived for this use, so that no key
// serves two purposes.
func (k *Keys) macKey(ctx context.Context, name macName) (macKey, error) {
	k.mu.Lock()
	found, ok := k.macs[name]
	k.mu.Unlock()
	if ok && k.now().Before(found.until) {
		return found, nil
	}
	dek, version, err := k.fetch(ctx, name.item, name.tenant, name.version)
	if err != nil {
		return macKey{}, err
	}
	defer clear(dek)
	derived, err := envelope.DeriveKey(dek, macLabel)
	if err != nil {
		return macKey{}, err
	}
	if version == 0 || name.version != 0 && version != name.version {
		return macKey{}, rampart.Errorf(rampart.Unavailable, checking, "the sidecar gave a key of another version")
	}
	got := macKey{key: derived, version: version, until: k.now().Add(keep)}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.macs) >= maxKeys {
		clear(k.macs) // rare, and they are asked for again
	}
	k.macs[name] = got
	return got, nil
}
