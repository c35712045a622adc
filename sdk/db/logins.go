package db

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/sdk"
	"github.com/rampart-security/rampart/sdk/secrets"
)

const (
	maxLifetime = 30 * time.Minute // of a connection; the control plane revokes a password some minutes after that
	reportEvery = 20 * time.Second // a process that is silent for a minute counts as ended
	askTimeout  = 10 * time.Second
)

// logins follows the credential of one database: which is the newest, and with
// which there are still connections. Safe for concurrent use.
type logins struct {
	svc     *sdk.Service
	name    string // at agent.PathSecret; "": there is no password
	process string
	idle    int // connections that the pool keeps

	mu       sync.Mutex // guards below
	version  int        // newest that was seen
	open     map[int]int
	reported int // oldest that was told; -1: nothing was
	conns    *sql.DB
	cancel   func()
	stop     context.CancelFunc
	changed  chan struct{} // holds one when something is to be told
	ended    chan struct{}
}

func newLogins(svc *sdk.Service, name string, idle int) *logins {
	id := make([]byte, 8)
	rand.Read(id)
	return &logins{svc: svc, name: name, idle: idle, process: hex.EncodeToString(id), open: map[int]int{}, reported: -1,
		changed: make(chan struct{}, 1), ended: make(chan struct{})}
}

// watch follows what is to be forgotten until close. Each new connection asks for
// the credential anyway: this is for those that are open.
func (l *logins) watch(conns *sql.DB) {
	if l.name == "" {
		close(l.ended)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	l.mu.Lock()
	l.conns, l.stop = conns, stop
	l.mu.Unlock()
	go l.keepTelling(ctx)
	l.cancel = l.svc.OnForget(func(a agent.ForgetAnswer) {
		if !a.All && !slices.Contains(a.Secrets, l.name) {
			return
		}
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		// When the sidecar cannot say, the next connection asks again; those that
		// are open end at their age.
		_, _ = l.get(ctx)
	})
}

// close ends what watch began.
func (l *logins) close() {
	if l.name == "" {
		return
	}
	l.cancel()
	l.stop()
	<-l.ended
}

// take is get for a new connection, which counts from now on until closed. While
// one was on its way to us a newer one may have been seen, and told to be the
// oldest in use: then it asks again.
func (l *logins) take(ctx context.Context) (secrets.Secret, error) {
	for {
		s, err := l.get(ctx)
		if err != nil || l.opened(s.Version()) {
			return s, err
		}
	}
}

// get returns the credential of the moment, the zero Secret where there is none.
func (l *logins) get(ctx context.Context) (secrets.Secret, error) {
	if l.name == "" {
		return secrets.Secret{}, nil
	}
	s, err := secrets.Get(ctx, l.svc, l.name)
	if err == nil {
		l.saw(s)
	}
	return s, err
}

// instead is take after the database refused what take returned. Without a newer
// one it is the zero Secret.
func (l *logins) instead(ctx context.Context, old secrets.Secret) (secrets.Secret, error) {
	s, err := secrets.GetInstead(ctx, l.svc, l.name, old.Version())
	if err != nil || s.Version() <= old.Version() {
		return secrets.Secret{}, err
	}
	l.saw(s)
	return l.take(ctx)
}

// saw notes a credential. A newer one retires the connections of older ones:
// those that are idle at once, the others when their use ends.
func (l *logins) saw(s secrets.Secret) {
	l.mu.Lock()
	conns, newer := l.conns, s.Version() > l.version
	l.version = max(l.version, s.Version())
	l.mu.Unlock()
	if conns == nil {
		return
	}
	if end := ends(s.Until(), time.Now()); !end.IsZero() {
		conns.SetConnMaxLifetime(min(maxLifetime, max(time.Until(end), time.Second)))
	}
	if newer {
		conns.SetMaxIdleConns(0) // closes those that are idle
		conns.SetMaxIdleConns(l.idle)
		l.tell()
	}
}

func (l *logins) newest() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.version
}

// opened counts a connection, unless a newer version has been seen.
func (l *logins) opened(version int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if version < l.version {
		return false
	}
	l.open[version]++
	return true
}

func (l *logins) closed(version int) {
	l.mu.Lock()
	if l.open[version]--; l.open[version] <= 0 {
		delete(l.open, version)
	}
	news := l.oldestLocked() != l.reported
	l.mu.Unlock()
	if news {
		l.tell()
	}
}

// oldestLocked is the oldest version with a connection, or the newest seen.
func (l *logins) oldestLocked() int {
	oldest := l.version
	for v := range maps.Keys(l.open) {
		oldest = min(oldest, v)
	}
	return oldest
}

func (l *logins) tell() {
	select {
	case l.changed <- struct{}{}:
	default: // somebody else's news says the same
	}
}

// keepTelling tells the sidecar the oldest version in use, when it changes and
// now and then. What it cannot tell delays the end of an old password, and
// nothing else.
func (l *logins) keepTelling(ctx context.Context) {
	defer close(l.ended)
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-l.changed:
		}
		l.mu.Lock()
		oldest := l.oldestLocked()
		l.mu.Unlock()
		if oldest == 0 {
			continue // none was fetched yet, or versions do not count there
		}
		told := agent.SecretsInUse{Process: l.process, Versions: map[string]int{l.name: oldest}}
		if l.svc.Call(ctx, http.MethodPost, agent.PathInUse, told, nil) == nil {
			l.mu.Lock()
			l.reported = oldest
			l.mu.Unlock()
		}
	}
}
