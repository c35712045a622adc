package sidecar

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/broker"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/internal/trace"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/network/message"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/tls/ca"
	"github.com/rampart-security/rampart/tls/profile"
	"github.com/rampart-security/rampart/tls/svid"
	"github.com/rampart-security/rampart/validate/openapi"
	"github.com/rampart-security/rampart/validate/strictjson"
)

const (
	maxMessage    = 256 << 10
	maxDeliveries = 10
	joseType      = "application/jose"
)

// subscription is one flow from a queue into the service, with what a message
// must pass before the service sees it.
type subscription struct {
	flow   spec.Flow
	store  string
	dead   string
	verify func(raw []byte, stored time.Time) (message.Message, error)
	seen   *message.Verifier // holds what was delivered
	schema *openapi.Schema   // nil: none declared
	guard  cel.Program       // nil: none declared
}

// newSubscription compiles a flow. before, which may be nil, is whose place it
// takes: what that one has seen is no news to this one.
func newSubscription(sys *spec.System, f spec.Flow, src *svid.Source, before *subscription) (*subscription, error) {
	sub := &subscription{flow: f, store: f.From, dead: sys.DeadLetter(f.From, f.Topic)}
	accept := map[string]bool{}
	for _, name := range f.Message.AcceptFrom {
		accept[sys.ServiceID(name)] = true
	}
	opt := message.VerifierOptions{Source: src, Accept: accept, Topic: f.Topic, Window: time.Duration(f.Message.ReplayWindow)}
	if before != nil {
		opt.After = before.seen
	}
	sub.seen = message.NewVerifier(opt)
	sub.verify = sub.seen.Verify
	if sys.Off("message.signature") {
		sub.verify = func(raw []byte, _ time.Time) (message.Message, error) {
			m := message.Unverified(raw)
			m.Producer = "unsigned" // the service's guard takes nothing from nobody, and would hide that the control is gone
			return m, nil
		}
	}
	if f.Message.Schema != "" && !sys.Off("message.schema") {
		doc, _ := sys.Resource(f.Message.Schema)
		schema, err := openapi.CompileSchema(f.Message.Schema, doc)
		if err != nil {
			return nil, err
		}
		sub.schema = schema
	}
	if f.Guard != nil && !sys.Off("message.recipient_guard") {
		g, err := compileGuard(f.Guard.Recipient)
		if err != nil {
			return nil, fmt.Errorf("guard.recipient: %w", err)
		}
		sub.guard = g
	}
	return sub, nil
}

// compileGuard types the guard: message is the payload, subject is for whom
// the producer acted, as its sidecar signed it.
func compileGuard(expr string) (cel.Program, error) {
	env, err := cel.NewEnv(cel.Variable("message", cel.MapType(cel.StringType, cel.DynType)), cel.Variable("subject", cel.StringType))
	if err != nil {
		return nil, err
	}
	ast, iss := env.Compile(expr)
	if iss.Err() != nil {
		return nil, iss.Err()
	}
	if ast.OutputType() != cel.BoolType {
		return nil, errors.New("the expression must be a condition")
	}
	return env.Program(ast, cel.CostLimit(10_000))
}

// CheckGuard reports whether a guard's expression compiles, for `rampart check`.
func CheckGuard(expr string) error {
	_, err := compileGuard(expr)
	return err
}

// judge runs a raw message through signature, replay, schema and guard.
func (sub *subscription) judge(raw []byte, stored time.Time) (message.Message, error) {
	m, err := sub.verify(raw, stored)
	if err != nil {
		return m, err
	}
	doc, err := strictjson.Decode(m.Payload)
	if err != nil {
		return m, &rampart.Error{Kind: rampart.Invalid, Control: "message.schema", Msg: "the payload is not strict JSON", Err: err}
	}
	if sub.schema != nil {
		if err := sub.schema.Validate(doc); err != nil {
			return m, &rampart.Error{Kind: rampart.Invalid, Control: "message.schema", Msg: "the payload does not fit its schema", Err: err}
		}
	}
	if sub.guard == nil {
		return m, nil
	}
	out, _, err := sub.guard.Eval(map[string]any{"message": plain(doc), "subject": m.Subject})
	if ok, isBool := valueOf(out); err != nil || !isBool || !ok {
		return m, &rampart.Error{Kind: rampart.Denied, Control: "message.recipient_guard", Msg: "the recipient is not the one the producer acted for", Err: err}
	}
	return m, nil
}

func valueOf(v interface{ Value() any }) (value, isBool bool) {
	if v == nil {
		return false, false
	}
	value, isBool = v.Value().(bool)
	return value, isBool
}

// plain turns exact JSON numbers into what CEL computes with.
func plain(v any) any {
	switch x := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(x))
		for k, e := range x {
			out[k] = plain(e)
		}
		return out
	case []any:
		out := make([]any, len(x))
		for i, e := range x {
			out[i] = plain(e)
		}
		return out
	case interface{ Float64() (float64, error) }:
		f, err := x.Float64()
		if err != nil {
			return nil
		}
		return f
	}
	return v
}

// signMessage signs a payload for whom the caller acts, so that a service can
// keep it in its outbox together with what it books.
func (s *Sidecar) signMessage(w http.ResponseWriter, r *http.Request) {
	signed, err := s.signed(r)
	if err != nil {
		s.refuseMessage(w, r, err)
		return
	}
	w.Header().Set("Content-Type", joseType)
	w.Write(signed)
}

func (s *Sidecar) signed(r *http.Request) ([]byte, error) {
	t := s.table.Load()
	flow, ok := t.publishes[r.PathValue("store")+"/"+r.PathValue("topic")]
	if !ok {
		return nil, rampart.Errorf(rampart.Denied, "egress.allow", "no flow publishes %s to %s", r.PathValue("topic"), r.PathValue("store"))
	}
	if err := s.mayLeave(t, flow); err != nil {
		return nil, err
	}
	id, err := s.identified(r.Header.Get(agent.HeaderIdentity))
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxMessage/2))
	if err != nil {
		return nil, &rampart.Error{Kind: rampart.Invalid, Control: "message.schema", Msg: "the payload is too long", Err: err}
	}
	source := s.opt.Link.Now().Pinned()
	signer := message.Signer{Source: source, Now: func() time.Time { return signedAt(source, s.opt.Now()) }}
	return signer.Sign(flow.Topic, id.Principal.Subject, body)
}

// signedAt is now, or when the certificate that signs was issued: one that came
// back after a revocation is dated just past the cut-off, which lies some seconds
// ahead, and its messages must be past it too.
func signedAt(source *svid.Source, now time.Time) time.Time {
	own, err := source.Current()
	if err != nil {
		return now // signing fails
	}
	if issued := own.Certificate.Leaf.NotBefore.Add(ca.Skew); issued.After(now) {
		return issued
	}
	return now
}

// publish stores a message in the queue and answers once it is durable there.
func (s *Sidecar) publish(w http.ResponseWriter, r *http.Request) {
	t := s.table.Load()
	store, topic := r.PathValue("store"), r.PathValue("topic")
	flow, ok := t.publishes[store+"/"+topic]
	if !ok {
		s.refuseMessage(w, r, rampart.Errorf(rampart.Denied, "egress.allow", "no flow publishes %s to %s", topic, store))
		return
	}
	err := s.mayLeave(t, flow)
	var raw []byte
	if err == nil {
		raw, err = s.signedOrSign(r)
	}
	if err == nil {
		err = s.store(r.Context(), store, topic, raw)
	}
	if err != nil {
		s.refuseMessage(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// signedOrSign takes a message that this plane signed before, for this topic,
// as it is. A copy of one is dropped by the broker or refused by the consumer.
func (s *Sidecar) signedOrSign(r *http.Request) ([]byte, error) {
	if r.Header.Get("Content-Type") != joseType {
		return s.signed(r)
	}
	raw, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxMessage))
	if err != nil {
		return nil, &rampart.Error{Kind: rampart.Invalid, Control: "message.signature", Msg: "the message is too long", Err: err}
	}
	t := s.table.Load()
	if t.sys.Off("message.signature") {
		return raw, nil
	}
	own := message.NewVerifier(message.VerifierOptions{
		Source: s.opt.Link.Source(),
		Accept: map[string]bool{t.id: true}, Topic: r.PathValue("topic"), Window: time.Minute,
	})
	_, err = own.Authentic(raw)
	return raw, err
}

func (s *Sidecar) refuseMessage(w http.ResponseWriter, r *http.Request, err error) {
	e := audit.Event{Class: "message", Action: "publish " + r.PathValue("topic"), Outcome: audit.Refused, Subject: s.table.Load().id,
		Resource: r.PathValue("store"), Trace: trace.Of(r.Header), Detail: map[string]string{"error": err.Error()}}
	if re, ok := asError(err); ok {
		e.Control = re.Control
	}
	s.record(r.Context(), e)
	problem.Write(w, err, e.Trace)
}

// queues keeps one connection per store.
type queues struct {
	mu     sync.Mutex // guards byName
	byName map[string]queueConn
}

// queueConn is a connection and when another is to take over: a while before the
// certificates end that it was made with, as the broker cuts it off then.
type queueConn struct {
	*nats.Conn
	until time.Time
}

const (
	queueAhead = time.Minute      // of the end of the certificates
	queueRest  = 30 * time.Second // in which what is under way on the old connection ends
	queuePause = 10 * time.Second // between two that take over, when there is no newer certificate
)

// lives reports whether the connection leads to where the queue is now.
func (c queueConn) lives(addr string) bool {
	return c.Conn != nil && c.IsConnected() && strings.HasSuffix(c.ConnectedUrl(), addr)
}

// leave closes the connection: one that is lost at once, one that was replaced
// when what is under way on it has ended.
func (c queueConn) leave(addr string) {
	switch {
	case c.Conn == nil:
	case c.lives(addr):
		time.AfterFunc(queueRest, c.Close)
	default:
		c.Close()
	}
}

// queue connects to an embedded queue with this plane's SVID. A connection that
// is lost is closed: the queue may come back elsewhere, where only the next call
// finds it, and whoever waits for an answer learns at once that none comes.
func (s *Sidecar) queue(name string) (jetstream.JetStream, error) {
	st := s.opt.Link.State()
	addr := st.Endpoints.Queues[name]
	if addr == "" {
		return nil, rampart.Errorf(rampart.Unavailable, "", "queue %s is not up yet", name)
	}
	s.queues.mu.Lock()
	defer s.queues.mu.Unlock()
	old := s.queues.byName[name]
	if old.lives(addr) && s.opt.Now().Before(old.until) {
		return jetstream.New(old.Conn)
	}
	fresh, err := s.dialQueue(addr, st.System.StoreID(name))
	if err != nil && old.lives(addr) {
		return jetstream.New(old.Conn) // until the broker ends it
	}
	old.leave(addr)
	if err != nil {
		delete(s.queues.byName, name)
		return nil, &rampart.Error{Kind: rampart.Unavailable, Msg: "the queue does not answer", Err: err}
	}
	if s.queues.byName == nil {
		s.queues.byName = map[string]queueConn{}
	}
	s.queues.byName[name] = fresh
	return jetstream.New(fresh.Conn)
}

// dialQueue connects with the newest certificate.
func (s *Sidecar) dialQueue(addr, id string) (queueConn, error) {
	mine, err := s.opt.Link.Source().Current()
	if err != nil {
		return queueConn{}, err
	}
	cfg := profile.MTLSClient(s.opt.Link.Source(), id)
	nc, err := nats.Connect("tls://"+addr, nats.Secure(cfg), nats.TLSHandshakeFirst(), nats.CustomInboxPrefix(broker.InboxPrefix(s.table.Load().id)), nats.NoReconnect(), nats.Timeout(3*time.Second))
	if err != nil {
		return queueConn{}, err
	}
	end := mine.NotAfter
	if state, err := nc.TLSConnectionState(); err == nil && state.PeerCertificates[0].NotAfter.Before(end) {
		end = state.PeerCertificates[0].NotAfter
	}
	until := end.Add(-queueAhead)
	if least := s.opt.Now().Add(queuePause); until.Before(least) {
		until = least
	}
	return queueConn{nc, until}, nil
}

// moved reports whether another connection to a queue has taken over from js's, or
// is to.
func (s *Sidecar) moved(store string, js jetstream.JetStream) bool {
	s.queues.mu.Lock()
	defer s.queues.mu.Unlock()
	c := s.queues.byName[store]
	return c.Conn != js.Conn() || !s.opt.Now().Before(c.until)
}

func (s *Sidecar) store(ctx context.Context, store, topic string, raw []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	js, err := s.queue(store)
	if err != nil {
		return err
	}
	// The id lets the broker drop the copy of an outbox that missed the answer.
	sum := sha256.Sum256(raw)
	if _, err := js.Publish(ctx, topic, raw, jetstream.WithMsgID(hex.EncodeToString(sum[:16]))); err != nil {
		return &rampart.Error{Kind: rampart.Unavailable, Msg: "the queue did not take the message", Err: err}
	}
	return nil
}

// consume follows every subscription until ctx ends, and those of a new
// configuration when one arrives.
func (s *Sidecar) consume(ctx context.Context) error {
	for ctx.Err() == nil {
		round, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		for _, sub := range s.table.Load().consumes {
			wg.Go(func() { s.keepFollowing(round, sub) })
		}
		select {
		case <-ctx.Done():
		case <-s.reloaded:
		}
		cancel()
		wg.Wait()
	}
	return nil
}

func (s *Sidecar) keepFollowing(ctx context.Context, sub *subscription) {
	for ctx.Err() == nil {
		if err := s.follow(ctx, sub); err != nil && ctx.Err() == nil {
			s.opt.Logger.LogAttrs(ctx, slog.LevelWarn, "queue", slog.Any("error", err))
		}
		wait(ctx, 300*time.Millisecond)
	}
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// follow pulls from one durable consumer until the connection breaks. It takes
// one message at a time: the time to acknowledge runs from the fetch on, so one
// that waited here behind a slow one would be delivered twice.
func (s *Sidecar) follow(ctx context.Context, sub *subscription) error {
	js, err := s.queue(sub.store)
	if err != nil {
		return err
	}
	setup, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	cons, err := js.Consumer(setup, broker.Stream(sub.store), broker.Consumer(sub.flow.To, sub.flow.Topic))
	if err != nil {
		return err
	}
	for ctx.Err() == nil && !s.moved(sub.store, js) {
		if s.opt.Link.Disabled() != nil || s.opt.Link.Bound(s.table.Load().sys, sub.flow) != nil {
			wait(ctx, 300*time.Millisecond) // messages keep; who sent them, or we, may have been disabled
			continue
		}
		batch, err := cons.Fetch(1, jetstream.FetchMaxWait(2*time.Second))
		if err != nil {
			return err
		}
		for m := range batch.Messages() {
			s.deliver(ctx, js, sub, m)
		}
		if err := batch.Error(); err != nil && !errors.Is(err, nats.ErrTimeout) {
			return err
		}
	}
	return nil
}

// deliver judges one message: the service gets it, or the dead letter does.
func (s *Sidecar) deliver(ctx context.Context, js jetstream.JetStream, sub *subscription, m jetstream.Msg) {
	meta, err := m.Metadata()
	if err != nil {
		m.Nak()
		return
	}
	msg, err := sub.judge(m.Data(), meta.Timestamp)
	if err == nil && s.opt.Link.State().Revoked("svid", msg.Producer, msg.IssuedAt) {
		err = rampart.Errorf(rampart.Denied, "message.signature", "the producer was disabled since")
	}
	if err != nil && rampart.KindOf(err) == rampart.Unavailable {
		m.NakWithDelay(time.Second) // it could not be judged; nothing is wrong with it
		return
	}
	if err != nil {
		s.deadLetter(ctx, js, m, sub, msg, err)
		return
	}
	switch err := s.hand(ctx, sub, msg); {
	case err == nil:
		m.Ack()
	case meta.NumDelivered >= maxDeliveries:
		s.deadLetter(ctx, js, m, sub, msg, err)
	default:
		m.NakWithDelay(time.Duration(meta.NumDelivered) * 500 * time.Millisecond)
	}
}

// deadLetter sets a refused message aside with the reason, on record.
func (s *Sidecar) deadLetter(ctx context.Context, js jetstream.JetStream, m jetstream.Msg, sub *subscription, msg message.Message, why error) {
	e := audit.Event{Class: "message", Action: "consume " + sub.flow.Topic, Outcome: audit.Refused, Flow: sub.flow.ID, Subject: msg.Subject, Actor: msg.Producer,
		Resource: msg.ID, Detail: map[string]string{"error": why.Error(), "dead_letter": sub.dead}}
	if re, ok := asError(why); ok {
		e.Control = re.Control
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := js.PublishMsg(ctx, &nats.Msg{Subject: sub.dead, Data: m.Data(), Header: nats.Header{"Rampart-Refused": {e.Control}, "Rampart-Topic": {sub.flow.Topic}}})
	if err == nil {
		err = s.opt.Audit.Record(ctx, e)
	}
	if err != nil {
		s.opt.Logger.LogAttrs(ctx, slog.LevelError, "dead letter", slog.Any("error", err))
		m.NakWithDelay(time.Second)
		return
	}
	m.Ack()
}

// hand gives the payload to the service.
func (s *Sidecar) hand(ctx context.Context, sub *subscription, m message.Message) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.opt.Upstream+agent.MessagePath+sub.flow.Topic, bytes.NewReader(m.Payload))
	if err != nil {
		return err
	}
	id := trace.Of(req.Header)
	req.Header.Set(trace.Header, trace.Parent(id))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(agent.HeaderIdentity, s.sign(agent.Identified{
		Principal: rampart.Principal{Kind: rampart.KindService, Subject: m.Producer}, Caller: m.Producer, Flow: sub.flow.ID, Topic: sub.flow.Topic, Trace: id, Expires: s.opt.Now().Add(identityLife),
	}))
	res, err := await(s.opt.Service, sub.flow, loopback).RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	io.Copy(io.Discard, io.LimitReader(res.Body, maxMessage))
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("the service answered %s", res.Status)
	}
	s.record(ctx, audit.Event{Class: "authz_allow", Action: "consume " + sub.flow.Topic, Outcome: audit.Allowed, Flow: sub.flow.ID, Subject: m.Subject, Actor: m.Producer, Resource: m.ID, Trace: id})
	return nil
}
