package queue_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/rampart-security/rampart/control/controltest"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/queue"
	"github.com/rampart-security/rampart/spec"
)

// hub sees the streams as the queue itself does.
type hub struct {
	t  *testing.T
	js jetstream.JetStream
}

func inside(t *testing.T, q *queue.Queue) hub {
	t.Helper()
	nc, err := queue.Inside(q)
	must(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	must(t, err)
	return hub{t, js}
}

// state says what an attack on the streams would change.
func (h hub) state(stream, consumer string) string {
	s, err := h.js.Stream(h.t.Context(), stream)
	if err != nil {
		return err.Error()
	}
	out := fmt.Sprint(s.CachedInfo().Created, s.CachedInfo().State.FirstSeq, s.CachedInfo().State.NumDeleted)
	if consumer == "" {
		return out
	}
	c, err := s.Consumer(h.t.Context(), consumer)
	if err != nil {
		return err.Error()
	}
	return out + fmt.Sprint(c.CachedInfo().Created)
}

func (h hub) ready() bool {
	_, err := h.js.Consumer(h.t.Context(), "EVENTS", name)
	return err == nil
}

// name of the durable consumer of the shop's flow 8.
const name = "mailer-orders_2esold"

// TestAnswersRuleNothing: the broker sends its answers with full rights to
// whatever reply subject a client names. None may be an order to the broker.
func TestAnswersRuleNothing(t *testing.T) {
	h := controltest.Start(t, controltest.File(t))
	q, _ := start(t, h, t.TempDir())
	in := inside(t, q)
	h.Until("the streams are there", in.ready)
	shop, mailer := connect(t, h, q, "shop"), connect(t, h, q, "mailer")
	const next = "$JS.API.CONSUMER.MSG.NEXT.EVENTS." + name
	publish := func(data string) {
		t.Helper()
		_, err := shop.js.Publish(t.Context(), "orders.sold", []byte(data))
		must(t, err)
	}
	for i := range 5 {
		publish(fmt.Sprint(i))
	}
	for range 3 {
		_, err := mailer.js.Publish(t.Context(), "dead.orders.sold", []byte("x"))
		must(t, err)
	}
	drain := func() error {
		sub, err := mailer.nc.SubscribeSync("_INBOX_mailer.drain")
		if err != nil {
			return err
		}
		defer sub.Unsubscribe()
		if err := mailer.nc.PublishRequest(next, sub.Subject, []byte(`{"batch":200,"no_wait":true}`)); err != nil {
			return err
		}
		for {
			m, err := sub.NextMsg(3 * time.Second)
			if err != nil {
				return err
			}
			if m.Header.Get("Status") != "" {
				return nil
			}
		}
	}
	ask := func(body, reply string) func() error { // the answer is a status: headers, no body
		return func() error {
			if err := drain(); err != nil {
				return err
			}
			return mailer.nc.PublishRequest(next, reply, []byte(body))
		}
	}
	ack := func(reply string) func() error { // the answer has no body at all
		return func() error {
			must(t, shop.nc.Flush())
			inbox := "_INBOX_mailer.ack"
			sub, err := mailer.nc.SubscribeSync(inbox)
			if err != nil {
				return err
			}
			defer sub.Unsubscribe()
			publish("taken")
			if err := mailer.nc.PublishRequest(next, inbox, []byte(`{"batch":1,"expires":2000000000}`)); err != nil {
				return err
			}
			m, err := sub.NextMsg(3 * time.Second)
			if err != nil {
				return err
			}
			return mailer.nc.PublishRequest(m.Reply, reply, nil)
		}
	}
	stored := func(p *peer, subject, data, reply string) func() error { // the answer names stream and number
		return func() error { return p.nc.PublishRequest(subject, reply, []byte(data)) }
	}
	const soon, now = `{"batch":1,"expires":50000000}`, `{"batch":1,"no_wait":true}`
	for what, do := range map[string]func() error{
		"an empty fetch deletes the stream":           ask(now, "$JS.API.STREAM.DELETE.EVENTS"),
		"an empty fetch deletes the dead letter":      ask(now, "$JS.API.STREAM.DELETE.EVENTS_DEAD"),
		"an empty fetch purges the stream":            ask(now, "$JS.API.STREAM.PURGE.EVENTS"),
		"an empty fetch purges the dead letter":       ask(now, "$JS.API.STREAM.PURGE.EVENTS_DEAD"),
		"an empty fetch deletes the consumer":         ask(now, "$JS.API.CONSUMER.DELETE.EVENTS."+name),
		"an acknowledgement deletes the stream":       ack("$JS.API.STREAM.DELETE.EVENTS"),
		"an acknowledgement deletes the dead letter":  ack("$JS.API.STREAM.DELETE.EVENTS_DEAD"),
		"an acknowledgement purges the stream":        ack("$JS.API.STREAM.PURGE.EVENTS"),
		"an acknowledgement deletes the consumer":     ack("$JS.API.CONSUMER.DELETE.EVENTS." + name),
		"a receipt purges the stream":                 stored(shop, "orders.sold", "x", "$JS.API.STREAM.PURGE.EVENTS"),
		"a receipt deletes its message":               stored(shop, "orders.sold", "x", "$JS.API.STREAM.MSG.DELETE.EVENTS"),
		"a dead letter's receipt purges dead letters": stored(mailer, "dead.orders.sold", "x", "$JS.API.STREAM.PURGE.EVENTS_DEAD"),
		"a dead letter's receipt deletes it":          stored(mailer, "dead.orders.sold", "x", "$JS.API.STREAM.MSG.DELETE.EVENTS_DEAD"),
		"a timeout deletes the stream":                ask(soon, "$JS.API.STREAM.DELETE.EVENTS"),
		"a timeout deletes the dead letter":           ask(soon, "$JS.API.STREAM.DELETE.EVENTS_DEAD"),
	} {
		t.Run(what, func(t *testing.T) {
			before, dead := in.state("EVENTS", name), in.state("EVENTS_DEAD", "")
			must(t, do())
			must(t, shop.nc.Flush())
			must(t, mailer.nc.Flush())
			for end := time.Now().Add(150 * time.Millisecond); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
				if got := in.state("EVENTS", name); got != before {
					t.Fatalf("the stream was %s and is %s", before, got)
				}
				if got := in.state("EVENTS_DEAD", ""); got != dead {
					t.Fatalf("the dead letter was %s and is %s", dead, got)
				}
			}
		})
	}
}

// TestViolationsAreOnRecord: what the broker refuses a service is an event.
func TestViolationsAreOnRecord(t *testing.T) {
	h := controltest.Start(t, controltest.File(t))
	q, _ := start(t, h, t.TempDir())
	mailer := connect(t, h, q, "mailer")
	must(t, mailer.nc.Publish("$JS.API.STREAM.DELETE.EVENTS", nil))
	must(t, mailer.nc.PublishRequest("dead.orders.sold", "_R_.x.y", nil))
	_, err := mailer.nc.SubscribeSync("orders.%d.>")
	must(t, err)
	for action, subject := range map[string]string{"publish": "$JS.API.STREAM.DELETE.EVENTS", "publish ": "_R_.x.y", "subscribe": "orders."} {
		h.Until(subject+" is on record", func() bool {
			for _, e := range h.Events("queue_events") {
				if e.Class == audit.ClassNetwork && e.Control == "mtls.peer_declared" && e.Outcome == audit.Refused && e.Action == strings.TrimSpace(action) &&
					e.Subject == h.System.ServiceID("mailer") && strings.Contains(e.Detail["tried"], subject) && e.Peer != "" {
					return true
				}
			}
			return false
		})
	}
}

// TestRightsEndWithTheirFlow: a connection from before a change of the file has
// no rights that the file does not give any more.
func TestRightsEndWithTheirFlow(t *testing.T) {
	h := controltest.Start(t, controltest.File(t))
	q, _ := start(t, h, t.TempDir())
	in := inside(t, q)
	h.Until("the streams are there", in.ready)
	stock, shop := connect(t, h, q, "stock"), connect(t, h, q, "shop")
	_, err := stock.js.Publish(t.Context(), "orders.restocked", []byte("x"))
	must(t, err)
	h.System, err = spec.Load(controltest.File(t, "from: stock, to: events, topic: orders.restocked", "from: shop, to: events, topic: orders.returned"))
	must(t, err)
	h.Restart()
	h.Until("its connection is closed", stock.nc.IsClosed)
	h.Until("another's too, to come back with more", shop.nc.IsClosed)
	if !in.js.Conn().IsConnected() {
		t.Error("the queue has cut itself off")
	}
	shop = connect(t, h, q, "shop")
	h.Until("the new topic is there", func() bool {
		_, err := shop.js.Publish(t.Context(), "orders.returned", []byte("x"))
		return err == nil
	})
}

// TestProvisionedAgain: what somebody took away comes back, on record.
func TestProvisionedAgain(t *testing.T) {
	h := controltest.Start(t, controltest.File(t))
	q, _ := start(t, h, t.TempDir())
	in := inside(t, q)
	h.Until("the streams are there", in.ready)
	told := func(what string) bool {
		for _, e := range h.Events("queue_events") {
			if e.Action == "provision what was missing" && e.Outcome == audit.Failed && e.Resource == what {
				return true
			}
		}
		return false
	}
	h.Until("the consumer is told to be missing", func() bool {
		in.js.DeleteConsumer(t.Context(), "EVENTS", name) // again and again: it may be being made the first time
		return told("consumer " + name)
	})
	h.Until("the consumer is back", in.ready)
	if told("stream EVENTS") {
		t.Error("a stream that is there is told to be missing")
	}
	must(t, in.js.DeleteStream(t.Context(), "EVENTS_DEAD"))
	must(t, in.js.DeleteStream(t.Context(), "EVENTS"))
	h.Until("the streams are back", func() bool { return in.ready() && told("stream EVENTS") && told("stream EVENTS_DEAD") })
}

// TestDeadLetterNeverBlocks: a full dead letter forgets the oldest, and that it
// fills up is on record once.
func TestDeadLetterNeverBlocks(t *testing.T) {
	h := controltest.Start(t, controltest.File(t))
	q := create(t, h, t.TempDir())
	queue.SetMaxBytes(q, 64<<10)
	run(t, q)
	in := inside(t, q)
	h.Until("the streams are there", in.ready)
	mailer := connect(t, h, q, "mailer")
	for range 40 {
		_, err := mailer.js.Publish(t.Context(), "dead.orders.sold", make([]byte, 4<<10))
		must(t, err)
	}
	if s, err := in.js.Stream(t.Context(), "EVENTS_DEAD"); err != nil || s.CachedInfo().State.FirstSeq == 1 {
		t.Errorf("the oldest is still there, %v", err)
	}
	count := func() (n int) {
		for _, e := range h.Events("queue_events") {
			if e.Action == "dead letter nearly full" && e.Resource == "EVENTS_DEAD" {
				n++
			}
		}
		return n
	}
	h.Until("it is on record", func() bool { return count() == 1 })
}

// TestFlowWithoutID: what `rampart check` accepts, the broker accepts.
func TestFlowWithoutID(t *testing.T) {
	h := controltest.Start(t, controltest.File(t, "id: 8\n    from: events", "from: events"))
	q, _ := start(t, h, t.TempDir())
	h.Until("the consumer is there", inside(t, q).ready)
}
