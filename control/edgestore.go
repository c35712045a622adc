package control

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/store"
)

// Bounds of what gateways share. A name takes three values; a hundred names,
// their challenges and a change of authority fit many times over.
const (
	maxEdgeValue = 64 << 10
	maxEdgeKeys  = 2000
	maxEdgeKey   = 400
	maxEdgeLease = 5 * time.Minute
	maxOwner     = 64
)

const controlEdge = "secret.manager"

// edgeKeyForm is words between slashes; none is "." or "..".
var edgeKeyForm = regexp.MustCompile(`^[A-Za-z0-9@_+=-][A-Za-z0-9@._+=-]*(/[A-Za-z0-9@_+=-][A-Za-z0-9@._+=-]*){0,7}$`)

// serveEdgeStore keeps the account and the certificates that all gateways
// share. Only gateways may ask.
func (p *Plane) serveEdgeStore(w http.ResponseWriter, r *http.Request, id identity) error {
	var q wire.EdgeStoreRequest
	if err := readJSON(r, &q); err != nil {
		return err
	}
	e := audit.Event{Class: audit.ClassKey, Action: "edge_store." + edgeWord(q.Op), Control: controlEdge, Subject: id.id, Peer: r.RemoteAddr, Resource: "edge:" + clipped(q.Key, maxEdgeKey)}
	if id.kind != "gateway" {
		return p.refuse(r.Context(), e, rampart.Errorf(rampart.Denied, "mtls.peer_declared", "control: only gateways share certificates"))
	}
	if err := checkEdge(q); err != nil {
		return p.refuse(r.Context(), e, err)
	}
	if err := p.mayAct(r.Context(), id); err != nil {
		return p.refuse(r.Context(), e, err)
	}
	a, err := p.edgeStore(r.Context(), q, e)
	if err != nil {
		return p.edgeError(r.Context(), e, err)
	}
	defer clear(a.Value)
	return writeJSON(w, a)
}

// edgeWord is an operation as the log names it.
func edgeWord(op string) string {
	switch op {
	case wire.EdgeLoad, wire.EdgeStore, wire.EdgeDelete, wire.EdgeList, wire.EdgeStat, wire.EdgeLock, wire.EdgeUnlock:
		return op
	}
	return "unknown"
}

func clipped(s string, n int) string { return strings.ToValidUTF8(s[:min(len(s), n)], "?") }

func checkEdge(q wire.EdgeStoreRequest) error {
	invalid := func(why string) error { return rampart.Errorf(rampart.Invalid, controlEdge, "control: %s", why) }
	all := q.Op == wire.EdgeList && q.Key == ""
	switch {
	case edgeWord(q.Op) == "unknown":
		return invalid("unknown operation")
	case !all && (len(q.Key) > maxEdgeKey || !edgeKeyForm.MatchString(q.Key)):
		return invalid("a key is words of letters, digits and @._+=- between slashes")
	case q.Op == wire.EdgeStore && (len(q.Value) == 0 || len(q.Value) > maxEdgeValue):
		return invalid("a value has 1 to 65536 bytes")
	case (q.Op == wire.EdgeLock || q.Op == wire.EdgeUnlock) && (q.Owner == "" || len(q.Owner) > maxOwner):
		return invalid("a lock has an owner of 1 to 64 bytes")
	}
	return nil
}

// privateKey is in every PEM block of a private key, whatever its kind.
var privateKey = []byte("PRIVATE KEY-----")

// edgeStore does what was asked. Whatever changes is on record before it is
// done, and a private key that is handed out before it is; the rest is public.
func (p *Plane) edgeStore(ctx context.Context, q wire.EdgeStoreRequest, e audit.Event) (a wire.EdgeStoreAnswer, err error) {
	now := p.opt.Now()
	switch q.Op {
	case wire.EdgeLoad:
		a.Value, a.Modified, err = p.openEdge(ctx, q.Key)
		if err == nil && bytes.Contains(a.Value, privateKey) {
			e.Outcome = audit.Allowed
			err = p.opt.Audit.Record(ctx, e)
		}
	case wire.EdgeStat:
		return p.statEdge(ctx, q.Key)
	case wire.EdgeList:
		a.Keys, err = p.listEdge(ctx, q)
	case wire.EdgeLock:
		// A gateway's clock says how long, ours by when.
		until := q.Until
		if latest := now.Add(maxEdgeLease); until.After(latest) || until.Before(now) {
			until = latest
		}
		a.Fence, err = p.opt.Store.LockEdge(ctx, q.Key, q.Owner, until, now)
	case wire.EdgeUnlock:
		err = p.opt.Store.UnlockEdge(ctx, q.Key, q.Owner)
	case wire.EdgeStore, wire.EdgeDelete:
		e.Outcome, e.Detail = audit.Allowed, map[string]string{"bytes": strconv.Itoa(len(q.Value)), "fence": strconv.FormatUint(q.Fence, 10)}
		if err := p.opt.Audit.Record(ctx, e); err != nil {
			return a, err
		}
		err = p.changeEdge(ctx, q, now)
	}
	return a, err
}

func (p *Plane) changeEdge(ctx context.Context, q wire.EdgeStoreRequest, now time.Time) error {
	if q.Op == wire.EdgeDelete {
		return p.opt.Store.DeleteEdge(ctx, q.Key, q.Fence, now)
	}
	sealed, err := sealEdge(ctx, p.keys.kek, q.Key, q.Value)
	if err != nil {
		return err
	}
	return p.opt.Store.PutEdge(ctx, store.EdgeValue{Key: q.Key, Sealed: sealed, Modified: now}, q.Fence, maxEdgeKeys)
}

func (p *Plane) openEdge(ctx context.Context, key string) ([]byte, time.Time, error) {
	v, err := p.opt.Store.EdgeValue(ctx, key)
	if err != nil {
		return nil, time.Time{}, err
	}
	plain, err := unsealEdge(ctx, p.keys.kek, key, v.Sealed)
	return plain, v.Modified, err
}

func (p *Plane) statEdge(ctx context.Context, key string) (a wire.EdgeStoreAnswer, err error) {
	v, err := p.opt.Store.EdgeValue(ctx, key)
	if err == nil {
		return wire.EdgeStoreAnswer{Modified: v.Modified, Size: int64(len(v.Sealed))}, nil
	}
	if !errors.Is(err, store.ErrNotFound) {
		return a, err
	}
	if a.Keys, err = p.opt.Store.EdgeKeys(ctx, key, 1); err == nil && len(a.Keys) == 0 {
		err = store.ErrNotFound
	}
	return a, err
}

// listEdge lists what lies in a folder, and with Deeper what lies below that.
func (p *Plane) listEdge(ctx context.Context, q wire.EdgeStoreRequest) ([]string, error) {
	keys, err := p.opt.Store.EdgeKeys(ctx, q.Key, maxEdgeKeys)
	if err != nil || q.Deeper {
		return keys, err
	}
	head := q.Key + "/"
	if q.Key == "" {
		head = ""
	}
	var out []string
	for _, k := range keys {
		name, _, _ := strings.Cut(strings.TrimPrefix(k, head), "/")
		if at := head + name; len(out) == 0 || out[len(out)-1] != at {
			out = append(out, at)
		}
	}
	return out, nil
}

// localNames are localhost and the gateway's names below it or the trust domain:
// the local CA's own constraints keep it from vouching for others.
func localNames(sys *spec.System) []string {
	out := []string{"localhost"}
	for _, name := range sys.Services[sys.Gateway()].Names {
		for _, top := range []string{"localhost", sys.Info.TrustDomain} {
			if name != "localhost" && (name == top || strings.HasSuffix(name, "."+top)) {
				out = append(out, name)
			}
		}
	}
	return out
}

// namedIssuer is the edge's public address at a name and the port of a listener.
func namedIssuer(name, listen string) string {
	_, port, err := net.SplitHostPort(listen)
	if err != nil || port == "" || port == "443" {
		return "https://" + name + "/"
	}
	return "https://" + net.JoinHostPort(name, port) + "/"
}

// boundedEdge keeps what a gateway says of its certificates within bounds.
func boundedEdge(id identity, certs []wire.EdgeCert) []wire.EdgeCert {
	if id.kind != "gateway" {
		return nil
	}
	certs = certs[:min(len(certs), wire.MaxEdgeCerts)]
	for i := range certs {
		certs[i].Name, certs[i].Error = clipped(certs[i].Name, 300), clipped(certs[i].Error, wire.MaxReason)
		certs[i].Source = clipped(certs[i].Source, 20)
	}
	return certs
}

// edgeError types what the store said. That something is not there is an answer
// as good as another; a fence in the way is on record.
func (p *Plane) edgeError(ctx context.Context, e audit.Event, err error) error {
	switch {
	case errors.Is(err, store.ErrNotFound):
		return rampart.Errorf(rampart.NotFound, controlEdge, "control: no such key")
	case errors.Is(err, store.ErrFenced):
		return p.refuse(ctx, e, rampart.Errorf(rampart.Conflict, controlEdge, "control: another gateway has the lock by now"))
	case errors.Is(err, store.ErrFull):
		return p.refuse(ctx, e, rampart.Errorf(rampart.Limited, controlEdge, "control: gateways share no more than %d values", maxEdgeKeys))
	}
	if _, ok := errors.AsType[*rampart.Error](err); ok {
		return err
	}
	return unavailable(err)
}

// A sealed value is its own data key, wrapped by the KEK, and the value under
// that key: KEKs of clouds take no more than some kilobytes.
//
//	1 byte version, 2 bytes length of the wrapped key, wrapped key, nonce, ciphertext and tag
const edgeV1 = 1

// edgeAAD binds a value to its key: moved to another, it does not open.
func edgeAAD(key string) []byte { return []byte("rampart-edge-v1\n" + key) }

func edgeAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func sealEdge(ctx context.Context, kek secrets.KEK, name string, value []byte) ([]byte, error) {
	key := make([]byte, 32)
	defer clear(key)
	rand.Read(key)
	wrapped, err := kek.Wrap(ctx, key, edgeAAD(name))
	if err != nil {
		return nil, err
	}
	if len(wrapped) > 1<<16-1 {
		return nil, errors.New("the wrapped key is too long")
	}
	aead, err := edgeAEAD(key)
	if err != nil {
		return nil, err
	}
	out := append(binary.BigEndian.AppendUint16([]byte{edgeV1}, uint16(len(wrapped))), wrapped...)
	return aead.Seal(out, nil, value, edgeAAD(name)), nil
}

func unsealEdge(ctx context.Context, kek secrets.KEK, name string, sealed []byte) ([]byte, error) {
	damaged := rampart.Errorf(rampart.Internal, controlEdge, "control: the stored value of %s does not open", name)
	if len(sealed) < 3 || sealed[0] != edgeV1 {
		return nil, damaged
	}
	n, rest := int(binary.BigEndian.Uint16(sealed[1:])), sealed[3:]
	if len(rest) < n {
		return nil, damaged
	}
	key, err := kek.Unwrap(ctx, rest[:n], edgeAAD(name))
	if rampart.KindOf(err) == rampart.Unavailable && err != nil {
		return nil, err
	}
	defer clear(key)
	if err != nil || len(key) != 32 {
		return nil, damaged
	}
	aead, err := edgeAEAD(key)
	if err != nil {
		return nil, damaged
	}
	plain, err := aead.Open(nil, nil, rest[n:], edgeAAD(name))
	if err != nil {
		return nil, damaged
	}
	return plain, nil
}
