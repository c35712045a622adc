// Package queue runs an embedded NATS JetStream server as one store of the
// system: mutual TLS by SVID, and each service may publish or consume exactly
// what a flow declares, nothing else.
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
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/planelink"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/tls/profile"
	"github.com/rampart-security/rampart/tls/svid"
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
	opt Options
	srv *server.Server
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
	q := &Queue{opt: opt}
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

// Run makes the streams and consumers of the file and serves until ctx ends.
func (q *Queue) Run(ctx context.Context) error {
	defer q.srv.WaitForShutdown()
	defer q.srv.Shutdown()
	setup, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := q.provision(setup); err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	<-ctx.Done()
	return nil
}

// provision declares what the file says, over a connection inside the process.
func (q *Queue) provision(ctx context.Context) error {
	nc, err := nats.Connect("", nats.InProcessServer(q.srv))
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	sys := q.opt.Link.State().System
	stream := strings.ToUpper(q.opt.Store)
	topics := topicsOf(sys, q.opt.Store)
	if len(topics) == 0 {
		return nil
	}
	base := jetstream.StreamConfig{Storage: jetstream.FileStorage, MaxBytes: maxBytes, MaxAge: maxAge, Discard: jetstream.DiscardNew}
	main, dead := base, base
	main.Name, main.Subjects = stream, topics
	dead.Name, dead.Subjects = stream+"_DEAD", deadLetters(sys, q.opt.Store)
	for _, cfg := range []jetstream.StreamConfig{main, dead} {
		if _, err := js.CreateOrUpdateStream(ctx, cfg); err != nil {
			return fmt.Errorf("stream %s: %w", cfg.Name, err)
		}
	}
	for _, f := range sys.FlowsFrom(q.opt.Store) {
		_, err := js.CreateOrUpdateConsumer(ctx, stream, jetstream.ConsumerConfig{
			Durable: Consumer(f), FilterSubject: f.Topic, AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait, MaxAckPending: 256,
		})
		if err != nil {
			return fmt.Errorf("consumer of flow %s: %w", f.ID, err)
		}
	}
	return nil
}

// Consumer names the durable consumer of a flow from a queue.
func Consumer(f spec.Flow) string { return f.To + "-" + f.ID }

// InboxPrefix is where answers to this identity arrive.
func InboxPrefix(id string) string { return "_INBOX_" + id[strings.LastIndexByte(id, '/')+1:] }

func topicsOf(sys *spec.System, store string) []string {
	var out []string
	for _, f := range sys.FlowsTo(store) {
		out = append(out, f.Topic)
	}
	return out
}

func deadLetters(sys *spec.System, store string) []string {
	var out []string
	for _, topic := range topicsOf(sys, store) {
		if d := sys.DeadLetter(store, topic); !slices.Contains(out, d) {
			out = append(out, d)
		}
	}
	return out
}

// allowPeer lets in the services that a flow connects with this queue.
func (q *Queue) allowPeer(id string) error {
	if permissionsFor(q.opt.Link.State().System, q.opt.Store, id) == nil {
		ctx := context.Background()
		e := audit.Event{Class: audit.ClassNetwork, Action: "handshake", Outcome: audit.Refused, Control: "mtls.peer_declared", Subject: id, Resource: q.opt.Store}
		if err := q.opt.Audit.Record(ctx, e); err != nil {
			q.opt.Logger.LogAttrs(ctx, slog.LevelError, "audit", slog.Any("error", err))
		}
		return rampart.Errorf(rampart.Denied, "mtls.peer_declared", "no flow connects %s with queue %s", id, q.opt.Store)
	}
	return nil
}

// authenticator maps a verified certificate to what its flows permit. The
// connection inside this process, which has no certificate, may do all.
type authenticator struct{ q *Queue }

// Check implements server.Authentication.
func (a authenticator) Check(c server.ClientAuthentication) bool {
	state := c.GetTLSConnectionState()
	if state == nil {
		inProcess := c.Kind() == server.CLIENT && c.RemoteAddress() != nil && c.RemoteAddress().Network() == "pipe"
		if inProcess {
			c.RegisterUser(&server.User{Username: "queue"})
		}
		return inProcess
	}
	if len(state.PeerCertificates) == 0 {
		return false
	}
	id, err := svid.PeerID(state.PeerCertificates[0])
	if err != nil {
		return false
	}
	perm := permissionsFor(a.q.opt.Link.State().System, a.q.opt.Store, id)
	if perm == nil {
		return false
	}
	c.RegisterUser(&server.User{Username: id, Permissions: perm})
	return true
}

// permissionsFor is nil for an identity that no flow connects with the store.
func permissionsFor(sys *spec.System, store, id string) *server.Permissions {
	if sys == nil {
		return nil
	}
	var publish []string
	stream := strings.ToUpper(store)
	for _, f := range sys.Flows {
		switch {
		case f.To == store && sys.ServiceID(f.From) == id:
			publish = append(publish, f.Topic)
		case f.From == store && sys.ServiceID(f.To) == id:
			name := stream + "." + Consumer(f)
			publish = append(publish, "$JS.API.CONSUMER.INFO."+name, "$JS.API.CONSUMER.MSG.NEXT."+name, "$JS.ACK."+name+".>", sys.DeadLetter(store, f.Topic))
		}
	}
	if publish == nil {
		return nil
	}
	return &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: publish},
		Subscribe: &server.SubjectPermission{Allow: []string{InboxPrefix(id) + ".>"}}, // nobody reads another's answers
	}
}
