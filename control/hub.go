package control

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/tls/svid"
)

// backlog is how many updates a watcher may be behind. A slower one is cut off
// and starts anew with the full state.
const backlog = 256

// maxWatches is how many streams one plane may hold. It needs one; those of a
// process that was killed end within lineTimeout.
const maxWatches = 8

// lineTimeout bounds how long one write to a watcher may take.
const lineTimeout = 10 * time.Second

// hub passes changes on to watchers. Safe for concurrent use.
type hub struct {
	now func() time.Time

	mu        sync.Mutex // guards the fields below
	seq       uint64
	endpoints wire.Endpoints
	watchers  map[chan wire.Update]string // whose: SPIFFE ID
}

func newHub(now func() time.Time) *hub {
	return &hub{
		now:       now,
		endpoints: wire.Endpoints{Sidecars: map[string]string{}, Queues: map[string]string{}},
		watchers:  map[chan wire.Update]string{},
	}
}

// watch subscribes a plane; cancel must be called. The channel is closed when
// the watcher is too slow.
func (h *hub) watch(id string) (updates <-chan wire.Update, cancel func(), err error) {
	ch := make(chan wire.Update, backlog)
	h.mu.Lock()
	defer h.mu.Unlock()
	held := 0
	for _, whose := range h.watchers {
		if whose == id {
			held++
		}
	}
	if held >= maxWatches {
		return nil, nil, rampart.Errorf(rampart.Limited, "limit.pool", "control: a plane may watch %d times at once", maxWatches)
	}
	h.watchers[ch] = id
	return ch, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.watchers, ch)
	}, nil
}

func (h *hub) publishLocked(u wire.Update) {
	h.seq++
	u.Seq, u.ServerTime = h.seq, h.now().UTC()
	for ch := range h.watchers {
		select {
		case ch <- u:
		default:
			delete(h.watchers, ch)
			close(ch)
		}
	}
}

func (h *hub) beat() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.publishLocked(wire.Update{Kind: "beat"})
}

// revoked publishes a revocation that is durable.
func (h *hub) revoked(_ context.Context, v wire.Revocation) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.publishLocked(wire.Update{Kind: "revoked", Revoked: []wire.Revocation{v}})
	return nil
}

// endpoint notes where a plane listens and publishes a change.
func (h *hub) endpoint(id identity, listen string) {
	if listen == "" || id.kind == "gateway" {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	book := h.endpoints.Sidecars
	if id.kind == "store" {
		book = h.endpoints.Queues
	}
	if book[id.name] == listen {
		return
	}
	book[id.name] = listen
	h.publishLocked(wire.Update{Kind: "endpoints", Endpoints: h.endpointsLocked()})
}

// endpointsLocked returns a copy that nobody changes.
func (h *hub) endpointsLocked() *wire.Endpoints {
	return &wire.Endpoints{Sidecars: maps.Clone(h.endpoints.Sidecars), Queues: maps.Clone(h.endpoints.Queues)}
}

// state returns the seq and endpoints as they are now.
func (h *hub) state() (uint64, *wire.Endpoints) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.seq, h.endpointsLocked()
}

// serveWatch streams the full state, then changes. It subscribes before it
// reads the state, so that nothing falls in between; what then comes twice is
// harmless.
func (p *Plane) serveWatch(w http.ResponseWriter, r *http.Request, id identity) error {
	updates, cancel, err := p.hub.watch(id.id)
	if err != nil {
		return p.refuse(r.Context(), audit.Event{Class: audit.ClassLimit, Action: "watch", Subject: id.id, Peer: r.RemoteAddr}, err)
	}
	defer cancel()
	revocations, err := p.tokens.Revocations(r.Context())
	if err != nil {
		return err
	}
	lately, err := p.lately(r.Context())
	if err != nil {
		return err
	}
	seq, endpoints := p.hub.state()
	bundle, keys := p.system().Bundle(), p.publicKeys()
	newest, shadow := p.policiesFor(id)
	out := lines{w: w, control: http.NewResponseController(w)}
	w.Header().Set("Content-Type", "application/x-ndjson")
	if err := out.control.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	for _, u := range []wire.Update{
		{Kind: "keys", Keys: &keys},
		{Kind: "policies", Policies: newest, Shadow: shadow},
		{Kind: "config", Config: &bundle},
		{Kind: "trust", Trust: p.trust()},
		{Kind: "endpoints", Endpoints: endpoints},
		{Kind: "revoked", Revoked: revocations},
		{Kind: "forget", Forget: &lately},
	} {
		u.Seq, u.ServerTime = seq, p.opt.Now().UTC()
		if out.write(u) != nil {
			return nil // the plane has gone and will come again
		}
	}
	peer, _ := svid.PeerOf(r.TLS)
	expired := time.NewTimer(time.Until(peer.NotAfter)) // the plane comes again with its next certificate
	defer expired.Stop()
	for {
		select {
		case <-r.Context().Done():
			return nil
		case <-expired.C:
			return nil
		case u, ok := <-updates:
			if !ok || out.write(u) != nil {
				return nil
			}
		}
	}
}

// lines writes one JSON object per line, each at once.
type lines struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func (l lines) write(u wire.Update) error {
	b, err := json.Marshal(u)
	if err != nil {
		return err
	}
	if err := l.control.SetWriteDeadline(time.Now().Add(lineTimeout)); err != nil {
		return err
	}
	if _, err := l.w.Write(append(b, '\n')); err != nil {
		return err
	}
	return l.control.Flush()
}
