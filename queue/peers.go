package queue

import (
	"context"
	"crypto/tls"
	"maps"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/tls/profile"
	"github.com/rampart-security/rampart/tls/svid"
)

// peers are who is at the other end of the broker's connections, so that those
// who are not welcome any more can be cut off: the broker judges handshakes alone,
// and its connections live for long. The zero value is ready.
type peers struct {
	mu   sync.Mutex // guards below
	open map[uint64]tls.ConnectionState
}

// maxPeers is twice what the broker has at once; beyond it those that are gone
// are forgotten, which otherwise happens with every epoch.
const maxPeers = 2048

func (p *peers) add(id uint64, state tls.ConnectionState, gone func(id uint64) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open == nil {
		p.open = map[uint64]tls.ConnectionState{}
	}
	if len(p.open) >= maxPeers {
		maps.DeleteFunc(p.open, func(id uint64, _ tls.ConnectionState) bool { return gone(id) })
	}
	p.open[id] = state
}

func (p *peers) all() map[uint64]tls.ConnectionState {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.open)
}

func (p *peers) remove(id uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, id)
}

// A connection outlives its peer's certificate by peerGrace at most: a plane that
// lives has a newer one long before, and has come again with it. Then whoever is
// left was not given one.
const (
	peerGrace = 30 * time.Second
	peerEvery = 10 * time.Second
)

// followPeers judges every connection anew whenever an epoch begins, and ends
// those whose certificates have ended, until ctx ends. One that is refused is cut off at once: what it was about to publish or
// acknowledge does not count, and messages that it held come again.
func (q *Queue) followPeers(ctx context.Context) {
	src := q.opt.Link.Source()
	tick := time.NewTicker(peerEvery)
	defer tick.Stop()
	for {
		changed := src.Changed()
		q.dropRefused(src, time.Now())
		select {
		case <-changed:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (q *Queue) gone(id uint64) bool { return q.srv.GetClient(id) == nil }

// keepPeer remembers a connection, and judges its peer once more: an epoch may
// have begun since the handshake, when nobody could find the connection yet.
func (q *Queue) keepPeer(id uint64, state tls.ConnectionState) error {
	q.peers.add(id, state, q.gone)
	return profile.RecheckClient(q.opt.Link.Source(), q.allowPeer, state)
}

// expired refuses a peer whose certificate ended a while ago.
func expired(state tls.ConnectionState, at time.Time) error {
	if end := state.PeerCertificates[0].NotAfter; at.After(end.Add(peerGrace)) {
		return rampart.Errorf(rampart.Unauthenticated, "mtls.required", "the certificate of this connection ended at %s", end.UTC().Format(time.RFC3339))
	}
	return nil
}

func (q *Queue) dropRefused(src *svid.Source, at time.Time) {
	for id, state := range q.peers.all() {
		if q.gone(id) {
			q.peers.remove(id)
			continue
		}
		control, err := "mtls.peer_declared", profile.RecheckClient(src, q.allowPeer, state)
		if err == nil {
			control, err = "mtls.required", expired(state, at)
		}
		if err == nil {
			continue
		}
		state.HandshakeComplete = true
		peer, _ := svid.PeerOf(&state)
		q.record(audit.Event{Class: audit.ClassNetwork, Action: "connection.drop", Outcome: audit.Refused, Control: control,
			Subject: peer.ID, Resource: q.opt.Store, Detail: map[string]string{"error": err.Error()}})
		q.srv.DisconnectClientByID(id) // one that is gone already is fine
		q.peers.remove(id)
	}
}
