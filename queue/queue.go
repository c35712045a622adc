// Package queue runs an embedded NATS JetStream server as one store of the
// system: mutual TLS by SVID, and each service may publish or consume exactly
// what a flow declares, nothing else. Each has an account of its own in the
// broker, which imports those subjects from the one that holds the streams.
//
// Streams and consumers are made here from rampart.yaml, so that no service
// needs the right to make any. Messages are on disk before they are
// acknowledged; a killed queue comes back with all of them.
package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/rampart-security/rampart/internal/planelink"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/tls/profile"
)

// Bounds of one queue.
const (
	maxPayload = 512 << 10
	maxBytes   = 1 << 30
	maxAge     = 7 * 24 * time.Hour
	ackWait    = 15 * time.Second
)

// Options configure a Queue. All are required.
type Options struct {
	Store  string // its name in rampart.yaml
	Link   *planelink.Link
	Audit  audit.Recorder
	Logger *slog.Logger
	Listen string // host:port on loopback
	Dir    string // folder of the messages
	Key    string // encrypts them there (AES-256-GCM by the server)
}

// Queue is one running server.
type Queue struct {
	opt        Options
	srv        *server.Server
	violations *violations
	maxBytes   int64 // of each stream

	mu       sync.Mutex
	complete map[string]bool // guarded by mu; names of accounts that have all their imports

	peers peers
}

// New starts the server. Close or Run's end stops it.
func New(opt Options) (*Queue, error) {
	if opt.Link == nil || opt.Audit == nil || opt.Logger == nil || opt.Key == "" {
		return nil, errors.New("queue: link, audit log, logger and key are required")
	}
	host, port, err := splitPort(opt.Listen)
	if err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	q := &Queue{opt: opt, violations: &violations{pending: make(chan string, maxPending)}, maxBytes: maxBytes, complete: map[string]bool{}}
	srv, err := server.NewServer(&server.Options{
		ServerName: opt.Store, Host: host, Port: port, JetStream: true, StoreDir: opt.Dir, JetStreamKey: opt.Key, JetStreamCipher: server.AES,
		MaxPayload: maxPayload, MaxConn: 1024, NoSigs: true, NoLog: true, SyncAlways: true,
		TLSConfig: profile.MTLSServer(opt.Link.Source(), q.allowPeer), TLSVerify: true, TLSHandshakeFirst: true, TLSTimeout: 5,
		CustomClientAuthentication: authenticator{q},
		AllowNonTLS:                false,
	})
	if err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	q.srv = srv
	srv.SetLogger(q.violations, false, false)
	srv.Start()
	if !srv.ReadyForConnections(10 * time.Second) {
		srv.Shutdown()
		return nil, errors.New("queue: the server did not come up in ten seconds")
	}
	return q, nil
}

func splitPort(listen string) (string, int, error) {
	addr, err := net.ResolveTCPAddr("tcp", listen)
	if err != nil {
		return "", 0, err
	}
	if !addr.IP.IsLoopback() {
		return "", 0, fmt.Errorf("%s is not a loopback address", listen)
	}
	port := addr.Port
	if port == 0 {
		port = server.RANDOM_PORT
	}
	return addr.IP.String(), port, nil
}

// Addr is where the server listens.
func (q *Queue) Addr() string { return q.srv.Addr().String() }

// Run makes the streams and consumers of the file, looks after them and serves
// until ctx ends.
func (q *Queue) Run(ctx context.Context) error {
	defer q.srv.WaitForShutdown()
	defer q.srv.Shutdown()
	k, end, err := q.newKeeper()
	if err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	defer end()
	if err := k.first(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // it was told to end
		}
		return fmt.Errorf("queue: %w", err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { q.recordViolations(ctx) })
	wg.Go(func() { q.followPeers(ctx) })
	k.watch(ctx)
	return nil
}

// record puts an event on record; that it cannot be is a line in the log.
func (q *Queue) record(e audit.Event) {
	ctx := context.Background()
	if err := q.opt.Audit.Record(ctx, e); err != nil {
		q.opt.Logger.LogAttrs(ctx, slog.LevelError, "audit", slog.Any("error", err))
	}
}
