package planelink

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"net/http/httptrace"
	"slices"
	"sync/atomic"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/spec"
)

// maxLine bounds one update; the largest is a configuration with its files.
const maxLine = 64 << 20

// maxBackoff bounds the pause between two attempts: a control plane that is back
// must be heard well within the bound of sensitive flows.
const maxBackoff = 500 * time.Millisecond

// maxLag is how long a line may have been under way. A stream that is later is
// given up: its beats say nothing about now.
const maxLag = 5 * time.Second

func (l *Link) watchLoop(ctx context.Context) error {
	backoff := 50 * time.Millisecond
	for tries := 1; ctx.Err() == nil; tries++ {
		started := l.opt.Now()
		err := l.watch(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if rampart.KindOf(err) == rampart.Invalid {
			return err // the file itself is refused: serving on would be serving something else
		}
		l.opt.Logger.LogAttrs(ctx, slog.LevelWarn, "control stream lost", slog.Any("error", err))
		if l.opt.Now().Sub(started) > 5*time.Second {
			backoff, tries = 50*time.Millisecond, 1
		}
		if tries%8 == 0 && l.turnedAway(ctx) { // it may have been told before it heard why
			l.renewal.now()
		}
		sleep(ctx, backoff)
		backoff = min(2*backoff, maxBackoff)
	}
	return nil
}

// watch follows one connection until it breaks. A stream that is silent for
// five beats counts as broken, and so does one that skipped a number: what was
// in the gap only a new stream can tell, which begins with the whole state.
func (l *Link) watch(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silence := time.AfterFunc(maxLag, cancel)
	defer silence.Stop()
	var asked atomic.Int64
	asked.Store(l.opt.Now().UnixNano())
	sent := func(httptrace.WroteRequestInfo) { asked.Store(l.opt.Now().UnixNano()) } // a handshake is no delay of news
	res, err := l.Now().request(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: sent}), http.MethodGet, wire.PathWatch, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	pos := position{asked: time.Unix(0, asked.Load())}
	lines := bufio.NewScanner(io.LimitReader(res.Body, math.MaxInt64))
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		silence.Reset(maxLag)
		var u wire.Update
		if err := json.Unmarshal(lines.Bytes(), &u); err != nil {
			return fmt.Errorf("planelink: bad update: %w", err)
		}
		at, err := pos.next(u)
		if err != nil {
			return err
		}
		if err := l.apply(u); err != nil {
			return err
		}
		if !pos.whole {
			continue
		}
		if lag := l.opt.Now().Sub(at); lag > maxLag {
			return fmt.Errorf("planelink: the stream is %v behind", lag.Round(time.Millisecond))
		}
		l.lastBeat.Store(at.UnixNano())
		if u.Kind == "beat" {
			l.tick(u.ServerTime)
		}
	}
	return cmpErr(lines.Err(), io.ErrUnexpectedEOF)
}

// position says where in one stream a plane is.
type position struct {
	asked time.Time // when this plane asked for the stream, by its own clock
	first time.Time // of the first line, by the control plane's
	seq   uint64
	whole bool // the revocations in force have arrived
}

// next moves on by one line and returns the time, by this plane's clock, at
// which the control plane had sent it at the latest. It counts from the asking,
// before which no answer was sent, so that neither clocks that differ nor a
// network that holds lines back make old news look new.
func (p *position) next(u wire.Update) (time.Time, error) {
	if p.first.IsZero() {
		p.first, p.seq = u.ServerTime, u.Seq
	}
	if u.Seq > p.seq+1 {
		return time.Time{}, fmt.Errorf("planelink: the stream went from %d to %d", p.seq, u.Seq)
	}
	p.seq = max(p.seq, u.Seq)
	p.whole = p.whole || u.Kind == "revoked"
	return p.asked.Add(u.ServerTime.Sub(p.first)), nil
}

func (l *Link) apply(u wire.Update) error {
	next := *l.State()
	switch u.Kind {
	case "config":
		sys, err := l.admit(u.Config)
		if err != nil && next.System != nil {
			l.stay(err)
			return nil
		}
		if err != nil {
			return err
		}
		l.refused.Store(nil)
		if cur := next.System; cur != nil && cur.Bundle().Digest == sys.Bundle().Digest {
			return nil // a stream that begins anew repeats it; limits and nonces must not begin anew too
		}
		next.System = sys
	case "keys":
		if u.Keys == nil {
			return errors.New("planelink: update without keys")
		}
		next.published = *u.Keys
	case "policies":
		next.Policies, next.Shadow = u.Policies, u.Shadow
	case "endpoints":
		if u.Endpoints == nil {
			return errors.New("planelink: update without endpoints")
		}
		next.Endpoints = *u.Endpoints
	case "forget":
		if u.Forget != nil {
			l.forgetNow(*u.Forget)
		}
		return nil
	case "trust":
		return l.believe(u.Trust)
	case "revoked":
		next.revoke(u.Revoked, l.opt.Now())
		next.Epoch++
	default:
		return nil // beats carry nothing but their arrival
	}
	next.Keys = next.trusted()
	l.setState(&next)
	l.judgeAnew(u)
	return nil
}

// revoke adds to what is revoked, without what has outlived all that it voids.
// Other states share the map that was there.
func (s *State) revoke(list []wire.Revocation, now time.Time) {
	all := maps.Clone(s.revoked)
	if all == nil {
		all = map[revokedID]wire.Revocation{}
	}
	maps.DeleteFunc(all, func(_ revokedID, r wire.Revocation) bool { return now.After(r.Expires) })
	for _, r := range list {
		id := revokedID{r.Kind, r.ID}
		all[id] = later(all[id], r)
	}
	s.revoked, s.keysLost = all, false
	for id := range all {
		s.keysLost = s.keysLost || id.kind == "kid"
	}
}

// trusted returns the published keys without those that were revoked. A key that
// was stolen signs with any date, so no cut-off counts. A set that does not parse
// is left to the verifiers, which refuse it.
func (s *State) trusted() wire.Keys {
	keys := s.published
	keys.Internal, keys.Edge, keys.Policy = s.withoutRevoked(keys.Internal), s.withoutRevoked(keys.Edge), s.withoutRevoked(keys.Policy)
	return keys
}

func (s *State) withoutRevoked(jwks []byte) []byte {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if len(s.revoked) == 0 || json.Unmarshal(jwks, &set) != nil {
		return jwks
	}
	kept := slices.DeleteFunc(slices.Clone(set.Keys), func(key json.RawMessage) bool {
		var id struct {
			Kid string `json:"kid"`
		}
		if json.Unmarshal(key, &id) != nil {
			return true
		}
		_, revoked := s.revoked[revokedID{"kid", id.Kid}]
		return revoked
	})
	if len(kept) == len(set.Keys) {
		return jwks
	}
	set.Keys = kept
	b, err := json.Marshal(set)
	if err != nil {
		return nil
	}
	return b
}

// later joins two revocations of one id: a stream that begins anew may bring an
// older one after a newer one, which must not bring anything back to life.
func later(a, b wire.Revocation) wire.Revocation {
	if a.NotBefore.After(b.NotBefore) {
		b.NotBefore = a.NotBefore
	}
	if a.Expires.After(b.Expires) {
		b.Expires = a.Expires
	}
	return b
}

// stay keeps the configuration in force when a newer one is refused: it was good,
// and ending would take it away from everybody. Heartbeats say so.
func (l *Link) stay(err error) {
	why := reason(err)
	l.refused.Store(&why)
	l.opt.Logger.LogAttrs(context.Background(), slog.LevelError, "new configuration refused, the last good one stays", slog.Any("error", err))
}

// admit parses a configuration and refuses one that switches controls off
// outside a throw-away state folder.
func (l *Link) admit(b *spec.Bundle) (*spec.System, error) {
	if b == nil {
		return nil, rampart.Errorf(rampart.Invalid, "", "planelink: update without configuration")
	}
	sys, err := spec.FromBundle(*b)
	if err != nil {
		return nil, &rampart.Error{Kind: rampart.Invalid, Msg: "planelink: configuration refused", Err: err}
	}
	if err := sys.AdmitUnsafe(l.opt.Throwaway); err != nil {
		return nil, &rampart.Error{Kind: rampart.Invalid, Msg: "planelink: configuration refused", Err: err}
	}
	if off := sys.Unsafe.Disable; len(off) > 0 {
		l.opt.Logger.LogAttrs(context.Background(), slog.LevelError, "UNSAFE: CONTROLS ARE OFF in this throw-away system", slog.Any("controls", off))
	}
	return sys, nil
}

func (l *Link) beatLoop(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if err := l.beat(ctx); err != nil && ctx.Err() == nil {
			l.opt.Logger.LogAttrs(ctx, slog.LevelDebug, "heartbeat failed", slog.Any("error", err))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (l *Link) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	hb := wire.Heartbeat{Plane: l.opt.Plane, Instance: l.instance, Trust: l.trustState()}
	l.sayConfig(&hb)
	if p := l.policies.Load(); p != nil {
		hb.Policy, hb.Shadow, hb.Refused = p.version, p.shadow, p.refused
	}
	if e := l.edge.Load(); e != nil {
		hb.Edge = *e
	}
	if l.opt.ListenAddr != nil {
		hb.Listen = l.opt.ListenAddr()
	}
	if l.opt.AuditHead != nil {
		seq, head := l.opt.AuditHead()
		hb.AuditSeq, hb.AuditHead = seq, head[:]
	}
	l.reportForget(&hb)
	l.reportBans(&hb)
	l.reportHealth(&hb)
	return l.Call(ctx, http.MethodPost, wire.PathHeartbeat, hb, nil)
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// cmpErr returns the first error that is not nil.
func cmpErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
