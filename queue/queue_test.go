package queue_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rampart-security/rampart/control/controltest"
	"github.com/rampart-security/rampart/internal/broker"
	"github.com/rampart-security/rampart/internal/planelink"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/queue"
	"github.com/rampart-security/rampart/tls/profile"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func create(t *testing.T, h *controltest.House, dir string) *queue.Queue {
	t.Helper()
	q, err := queue.New(queue.Options{Store: "events", Link: h.Link(h.Options("store/events", "queue/events")), Audit: h.Log("queue/events"),
		Logger: h.Logger, Listen: "127.0.0.1:0", Dir: dir, Key: strings.Repeat("k", 32)})
	must(t, err)
	return q
}

func run(t *testing.T, q *queue.Queue) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- q.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func start(t *testing.T, h *controltest.House, dir string) (q *queue.Queue, stop func()) {
	t.Helper()
	q = create(t, h, dir)
	return q, run(t, q)
}

// peer is a service at the broker.
type peer struct {
	t  *testing.T
	nc *nats.Conn
	js jetstream.JetStream
}

func dial(h *controltest.House, link *planelink.Link, q *queue.Queue, name string) (*nats.Conn, error) {
	return nats.Connect("tls://"+q.Addr(), nats.Secure(profile.MTLSClient(link.Source(), h.System.StoreID("events"))), nats.TLSHandshakeFirst(),
		nats.CustomInboxPrefix("_INBOX_"+name), nats.NoReconnect(), nats.Timeout(30*time.Second))
}

func connect(t *testing.T, h *controltest.House, q *queue.Queue, name string) *peer {
	t.Helper()
	p := &peer{t: t}
	nc, err := dial(h, h.Link(h.Options("service/"+name, "sidecar/"+name)), q, name)
	must(t, err)
	t.Cleanup(nc.Close)
	nc.SetErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}) // see refused; without one it prints
	p.nc = nc
	p.js, err = jetstream.New(nc)
	must(t, err)
	return p
}

// refused runs f and reports whether the broker complained of a permission. What it
// has to say of f it says before it answers the ping of Flush, and the connection
// keeps it before it tells its error handler.
func (p *peer) refused(f func() error) bool {
	p.t.Helper()
	before := p.nc.LastError()
	must(p.t, f())
	must(p.t, p.nc.Flush())
	bad := p.nc.LastError()
	return bad != before && errors.Is(bad, nats.ErrPermissionViolation) //nolint:errorlint // each complaint is an error of its own
}

// TestPermissions: a certificate may do what its flows say, nothing else.
func TestPermissions(t *testing.T) {
	h := controltest.Start(t, controltest.File(t))
	q, _ := start(t, h, t.TempDir())
	shop, mailer := connect(t, h, q, "shop"), connect(t, h, q, "mailer")
	pub := func(p *peer, subject string) func() error {
		return func() error { return p.nc.Publish(subject, []byte("x")) }
	}
	sub := func(p *peer, subject string) func() error {
		return func() error { _, err := p.nc.SubscribeSync(subject); return err }
	}
	for name, tc := range map[string]struct {
		p       *peer
		do      func() error
		refused bool
	}{
		"a producer publishes its topic":              {shop, pub(shop, "orders.sold"), false},
		"a producer publishes another's topic":        {shop, pub(shop, "orders.restocked"), true},
		"a consumer publishes the topic":              {mailer, pub(mailer, "orders.sold"), true},
		"a consumer sets messages aside":              {mailer, pub(mailer, "dead.orders.sold"), false},
		"a producer fills the dead letter":            {shop, pub(shop, "dead.orders.sold"), true},
		"one reads one's own answers":                 {mailer, sub(mailer, "_INBOX_mailer.x"), false},
		"one reads another's answers":                 {mailer, sub(mailer, "_INBOX_shop.>"), true},
		"one reads all":                               {shop, sub(shop, ">"), true},
		"one reads the topic past its consumer":       {mailer, sub(mailer, "orders.sold"), true},
		"one makes a stream":                          {shop, pub(shop, "$JS.API.STREAM.CREATE.MINE"), true},
		"one purges the stream":                       {shop, pub(shop, "$JS.API.STREAM.PURGE.EVENTS"), true},
		"one deletes messages":                        {mailer, pub(mailer, "$JS.API.STREAM.MSG.DELETE.EVENTS"), true},
		"a producer takes from the consumer":          {shop, pub(shop, "$JS.API.CONSUMER.MSG.NEXT.EVENTS."+name), true},
		"a producer acknowledges for the consumer":    {shop, pub(shop, "$JS.ACK.EVENTS."+name+".1.1.1.1.0"), true},
		"one speaks to the system account of the hub": {shop, pub(shop, "$SYS.REQ.SERVER.PING"), true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tc.p.refused(tc.do); got != tc.refused {
				t.Errorf("refused %v, want %v", got, tc.refused)
			}
		})
	}
	t.Run("a plane without a flow to the queue", func(t *testing.T) {
		nc, err := dial(h, h.Link(h.Options("gateway/edge", "gateway/edge")), q, "edge")
		if err == nil {
			_, err = nc.RTT() // TLS 1.3: the server's refusal comes after the client is done
			nc.Close()
		}
		if err == nil {
			t.Error("let in")
		}
		h.Until("the refusal is on record", func() bool {
			for _, e := range h.Events("queue_events") {
				if e.Outcome == audit.Refused && e.Control == "mtls.peer_declared" && e.Subject == h.System.ServiceID("edge") {
					return true
				}
			}
			return false
		})
	})
}

// TestRestart: what was acknowledged is there after a restart, once.
func TestRestart(t *testing.T) {
	h := controltest.Start(t, controltest.File(t))
	dir := t.TempDir()
	q, stop := start(t, h, dir)
	shop := connect(t, h, q, "shop")
	h.Until("the stream is made", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := shop.js.Publish(ctx, "orders.sold", []byte("one"), jetstream.WithMsgID("1"))
		return err == nil
	})
	ack, err := shop.js.Publish(t.Context(), "orders.sold", []byte("one"), jetstream.WithMsgID("1"))
	if err != nil || !ack.Duplicate {
		t.Errorf("the same again: %+v, %v", ack, err)
	}
	stop()
	q, _ = start(t, h, dir)
	mailer := connect(t, h, q, "mailer")
	var cons jetstream.Consumer
	h.Until("the consumer is there", func() bool {
		cons, err = mailer.js.Consumer(t.Context(), "EVENTS", broker.Consumer("mailer", "orders.sold"))
		return err == nil
	})
	got := take(t, cons)
	if len(got) != 1 || string(got[0].Data()) != "one" {
		t.Fatalf("%d messages after the restart", len(got))
	}
	must(t, got[0].DoubleAck(t.Context()))
	if rest := take(t, cons); len(rest) != 0 {
		t.Errorf("%d messages too many", len(rest))
	}
}

func take(t *testing.T, cons jetstream.Consumer) []jetstream.Msg {
	t.Helper()
	batch, err := cons.Fetch(4, jetstream.FetchMaxWait(300*time.Millisecond))
	must(t, err)
	var out []jetstream.Msg
	for m := range batch.Messages() {
		out = append(out, m)
	}
	return out
}

func TestListensOnLoopbackOnly(t *testing.T) {
	h := controltest.Start(t, controltest.File(t))
	link := h.Link(h.Options("store/events", "queue/events"))
	_, err := queue.New(queue.Options{Store: "events", Link: link, Audit: h.Log("queue/events"), Logger: h.Logger, Listen: "0.0.0.0:0", Dir: t.TempDir(), Key: "k"})
	if err == nil || !strings.Contains(err.Error(), "loopback") {
		t.Errorf("got %v", err)
	}
}

// A disk without room for what is set aside is named, with what to do.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	q := create(t, controltest.Start(t, controltest.File(t)), dir)
	queue.SetMaxBytes(q, 1<<60)
	err := queue.Provision(t.Context(), q)
	for _, want := range []string{"the disk of " + dir + " is too full", "MiB is free", "make room"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
