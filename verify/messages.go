package verify

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rampart-security/rampart/spec"
)

func messageProbes() []Probe {
	return []Probe{
		{ID: "P-151", Title: "an unsigned, altered or wrongly sent message goes to the dead letter", SeedRow: "payment: 5 queue poisoning", Controls: []string{"message.signature"},
			Proves: []string{"PAY-6", "owasp2021:A08"}, Vantage: asQueue, Safety: intrusive, Needs: needMail, Run: forgedMessages},
		{ID: "P-152", Title: "a well-signed message that breaks its schema goes to the dead letter", SeedRow: "payment: 5 queue poisoning", Controls: []string{"message.schema"},
			Proves: []string{"PAY-6", "owasp2021:A08"}, Vantage: asService, Safety: intrusive, Needs: all(needMail, needSchema), Run: malformedMessages},
		{ID: "P-161", Title: "a message for one subject is not delivered to another", SeedRow: "payment: 6 wrong recipient", Controls: []string{"message.recipient_guard"},
			Proves: []string{"PAY-7", "owasp2021:A01"}, Vantage: asService, Safety: intrusive, Needs: all(needMail, needGuard), Run: misdelivered},
		{ID: "P-162", Title: "a message is delivered once, and not at all when it is old", SeedRow: "payment: 5 queue poisoning", Controls: []string{"message.replay", "message.signature"},
			Proves: []string{"PAY-6", "owasp2021:A08"}, Vantage: asQueue, Safety: intrusive, Needs: needMail, Run: replayedMessage,
			Blind: "what was seen is remembered by who signed it, within the check of the signature"},
	}
}

// route is the way of a topic: from the producer into the queue and on to the
// consumer.
type route struct {
	in, out spec.Flow
	sender  string // a service whose signature counts
}

// mailRoute finds a topic that a service publishes and another consumes.
func mailRoute(sys *spec.System) (route, bool) {
	for _, out := range sys.Flows {
		if sys.Stores[out.From].Kind != "nats" || out.Message == nil || len(out.Message.AcceptFrom) == 0 {
			continue
		}
		for _, in := range sys.FlowsTo(out.From) {
			if in.Topic == out.Topic && slices.Contains(out.Message.AcceptFrom, in.From) {
				return route{in, out, in.From}, true
			}
		}
	}
	return route{}, false
}

func needMail(sys *spec.System) (bool, string) {
	_, ok := mailRoute(sys)
	return ok, "no flow delivers messages from a queue"
}

func needSchema(sys *spec.System) (bool, string) {
	r, _ := mailRoute(sys)
	return r.out.Message.Schema != "", "the message has no schema"
}

func needGuard(sys *spec.System) (bool, string) {
	r, _ := mailRoute(sys)
	return r.out.Guard != nil && len(guardFields(r)) > 0, "the flow has no guard that compares a field with the subject"
}

// guardField finds the fields that a guard reads from the message.
var guardField = regexp.MustCompile(`message\.([A-Za-z_][A-Za-z0-9_]*)`)

func guardFields(r route) []string {
	var out []string
	if r.out.Guard == nil {
		return nil
	}
	for _, m := range guardField.FindAllStringSubmatch(r.out.Guard.Recipient, -1) {
		out = append(out, m[1])
	}
	return out
}

// post is a connection to the queue as the producer, whose identity a
// compromised one has.
type post struct {
	route
	env    *Env
	sender *workload
	conn   *nats.Conn
	js     jetstream.JetStream
}

func (e *Env) openPost(ctx context.Context) (*post, error) {
	r, _ := mailRoute(e.sys)
	w, err := e.join(ctx, "service/"+r.sender)
	if err != nil {
		return nil, err
	}
	cfg := e.clientTLS(w, e.sys.StoreID(r.out.From))
	nc, err := nats.Connect("tls://"+e.running.Queues[r.out.From], nats.Secure(cfg), nats.TLSHandshakeFirst(), nats.CustomInboxPrefix("_INBOX_"+r.sender), nats.NoReconnect(), nats.Timeout(5*time.Second))
	if err != nil {
		return nil, fmt.Errorf("the queue takes no connection from its producer: %w", err)
	}
	e.atClose(nc.Close)
	js, err := jetstream.New(nc)
	return &post{r, e, w, nc, js}, err
}

// letter is a message that the consumer should take: a payload that fits the
// schema and, where there is a guard, names its subject.
func (p *post) letter() (queued, error) {
	subject := "user:verify-" + randomID(4)
	payload := map[string]any{"verify": randomID(4)}
	if name := p.out.Message.Schema; name != "" {
		text, _ := p.env.sys.Resource(name)
		var s map[string]any
		if err := json.Unmarshal(text, &s); err != nil {
			return queued{}, fmt.Errorf("%s: %w", name, err)
		}
		v, err := (document{s}).resolve(s, 0).sample(0)
		if err != nil {
			return queued{}, fmt.Errorf("%s: %w", name, err)
		}
		if m, ok := v.(map[string]any); ok {
			payload = m
		}
	}
	for _, field := range guardFields(p.route) {
		payload[field] = subject
	}
	return queued{id: "verify-" + randomID(12), topic: p.out.Topic, issued: p.env.now().Unix(), subject: subject, payload: payload}, nil
}

// send puts raw bytes into the queue.
func (p *post) send(ctx context.Context, raw string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := p.js.Publish(ctx, p.out.Topic, []byte(raw)); err != nil {
		return fmt.Errorf("the queue did not take the message: %w", err)
	}
	return nil
}

// deliveryWait is how long a consumer may take: it may have been started a
// moment ago, and be connecting.
const deliveryWait = 15 * time.Second

// delivered sends a letter that must arrive: the positive control.
func (p *post) delivered(ctx context.Context) error {
	q, err := p.letter()
	if err != nil {
		return err
	}
	raw, err := q.sign(p.sender)
	if err != nil {
		return err
	}
	if err := p.send(ctx, raw); err != nil {
		return err
	}
	_, ok, err := p.env.trail.wait(ctx, deliveryWait, arrival(q.id))
	if err != nil || !ok {
		return fmt.Errorf("a genuine message of %s was not delivered: %w", p.sender.path, orMissing(err))
	}
	p.env.note("a genuine message: delivered")
	return nil
}

func orMissing(err error) error {
	if err == nil {
		return fmt.Errorf("no event in %s", deliveryWait)
	}
	return err
}

func arrival(id string) func(event) bool {
	return func(v event) bool {
		return v.Resource == id && v.Outcome == "allowed" && strings.HasPrefix(v.Action, "consume ")
	}
}

// burial fits the refusal of a message that was sent after a moment. One whose
// signature does not count has no id on record, so probes send such messages
// one at a time.
func (p *post) burial(id string, sent time.Time) func(event) bool {
	return func(v event) bool {
		return v.refused() && v.Action == "consume "+p.out.Topic && v.Time.After(sent) && (v.Resource == id || v.Resource == "")
	}
}

// buried sends a message that must not arrive and looks where it went.
func (p *post) buried(ctx context.Context, name, raw, id, want string) (Result, error) {
	p.env.mail.Lock()
	defer p.env.mail.Unlock()
	gone := p.burial(id, time.Now())
	if err := p.send(ctx, raw); err != nil {
		return Result{}, err
	}
	end := func(v event) bool { return gone(v) || arrival(id)(v) }
	v, ok, err := p.env.trail.wait(ctx, deliveryWait, end)
	if err != nil {
		return Result{}, err
	}
	p.env.note("%s: %s by %s", name, v.Outcome, orNobody(v.Control))
	switch {
	case !ok:
		return unsure("%s: neither delivered nor in the dead letter", name), nil
	case !v.refused():
		return failed("%s: was delivered", name), nil
	case v.Control == want:
		return passed("%s: to the dead letter by %s", name, want), nil
	case place(v.Control) > place(want):
		return failed("%s: %s let it through; %s stopped it", name, want, v.Control), nil
	}
	return unsure("%s: masked by %s", name, orNobody(v.Control)), nil
}

// place is the order in which a consumer's sidecar judges.
func place(control string) int {
	return slices.Index([]string{"message.signature", "message.replay", "message.schema", "message.recipient_guard"}, control)
}

// letters sends each and demands that all are buried.
func (p *post) letters(ctx context.Context, want string, list []hostile) (Result, error) {
	for _, h := range list {
		verdict, err := p.buried(ctx, h.name, h.raw, h.id, want)
		if err != nil || verdict.Verdict != Pass {
			return verdict, err
		}
	}
	return passed("%d messages went to the dead letter by %s", len(list), want), nil
}

type hostile struct{ name, raw, id string }

func forgedMessages(ctx context.Context, e *Env) (Result, error) {
	p, err := e.openPost(ctx)
	if err != nil {
		return Result{}, err
	}
	if err := p.delivered(ctx); err != nil {
		return Result{}, err
	}
	list, err := p.forgeries(ctx)
	if err != nil {
		return Result{}, err
	}
	return p.letters(ctx, "message.signature", list)
}

// forgeries are genuine letters but for who signed them, or what.
func (p *post) forgeries(ctx context.Context) ([]hostile, error) {
	stranger, err := foreign(p.env.sys.ServiceID(p.route.sender))
	if err != nil {
		return nil, err
	}
	signers := map[string]*workload{"signed under another CA": stranger}
	for _, name := range p.env.services() {
		if !slices.Contains(p.out.Message.AcceptFrom, name) {
			if signers["signed by "+name+", who may not send it"], err = p.env.join(ctx, "service/"+name); err != nil {
				return nil, err
			}
			break
		}
	}
	var out []hostile
	add := func(name string, make func(queued) (string, error)) error {
		q, err := p.letter()
		if err != nil {
			return err
		}
		raw, err := make(q)
		out = append(out, hostile{name, raw, q.id})
		return err
	}
	for name, w := range signers {
		if err := add(name, func(q queued) (string, error) { return q.sign(w) }); err != nil {
			return nil, err
		}
	}
	if err := add("unsigned", func(q queued) (string, error) { return q.jws(nil).unsigned() }); err != nil {
		return nil, err
	}
	err = add("altered after signing", func(q queued) (string, error) {
		raw, err := q.sign(p.sender)
		if err != nil {
			return "", err
		}
		q.subject += "-altered"
		return withPayload(raw, q.jws(nil))
	})
	return out, err
}

func malformedMessages(ctx context.Context, e *Env) (Result, error) {
	p, err := e.openPost(ctx)
	if err != nil {
		return Result{}, err
	}
	if err := p.delivered(ctx); err != nil {
		return Result{}, err
	}
	var list []hostile
	for _, spoil := range []struct {
		name string
		do   func(map[string]any) any
	}{
		{"an unknown field", func(m map[string]any) any { return altered(m, "verify_extra", true) }},
		{"a field of another type", func(m map[string]any) any {
			for name := range m {
				return altered(m, name, []any{})
			}
			return nil
		}},
		{"an empty object", func(map[string]any) any { return map[string]any{} }},
	} {
		q, err := p.letter()
		if err != nil {
			return Result{}, err
		}
		payload, _ := q.payload.(map[string]any)
		q.payload = spoil.do(payload)
		raw, err := q.sign(p.sender)
		if err != nil {
			return Result{}, err
		}
		list = append(list, hostile{spoil.name, raw, q.id})
	}
	return p.letters(ctx, "message.schema", list)
}

func misdelivered(ctx context.Context, e *Env) (Result, error) {
	p, err := e.openPost(ctx)
	if err != nil {
		return Result{}, err
	}
	if err := p.delivered(ctx); err != nil {
		return Result{}, err
	}
	q, err := p.letter()
	if err != nil {
		return Result{}, err
	}
	payload, _ := q.payload.(map[string]any)
	for _, field := range guardFields(p.route) {
		payload[field] = "user:verify-somebody-else"
	}
	raw, err := q.sign(p.sender)
	if err != nil {
		return Result{}, err
	}
	return p.letters(ctx, "message.recipient_guard", []hostile{{"for another recipient than the producer acted for", raw, q.id}})
}

func replayedMessage(ctx context.Context, e *Env) (Result, error) {
	p, err := e.openPost(ctx)
	if err != nil {
		return Result{}, err
	}
	q, err := p.letter()
	if err != nil {
		return Result{}, err
	}
	raw, err := q.sign(p.sender)
	if err != nil {
		return Result{}, err
	}
	if err := p.send(ctx, raw); err != nil {
		return Result{}, err
	}
	if _, ok, err := e.trail.wait(ctx, deliveryWait, arrival(q.id)); err != nil || !ok {
		return unsure("the genuine message was not delivered"), err
	}
	e.note("a genuine message: delivered")
	verdict, err := p.secondTime(ctx, raw, q.id)
	if err != nil || verdict.Verdict != Pass {
		return verdict, err
	}
	old, err := p.letter()
	if err != nil {
		return Result{}, err
	}
	old.issued -= int64(time.Duration(p.out.Message.ReplayWindow)/time.Second) + 60
	return p.oldLetter(ctx, old)
}

// secondTime sends the very bytes again. Both deliveries would be on record
// under the same id, so they are counted.
func (p *post) secondTime(ctx context.Context, raw, id string) (Result, error) {
	p.env.mail.Lock()
	defer p.env.mail.Unlock()
	gone := p.burial(id, time.Now())
	if err := p.send(ctx, raw); err != nil {
		return Result{}, err
	}
	deadline := time.Now().Add(deliveryWait)
	for time.Now().Before(deadline) {
		v, ok, err := p.env.trail.wait(ctx, 200*time.Millisecond, gone)
		if err != nil {
			return Result{}, err
		}
		if ok {
			p.env.note("the same bytes again: refused by %s", v.Control)
			return verdictOnReplay(v), nil
		}
		got, err := p.env.trail.match(arrival(id))
		if err != nil {
			return Result{}, err
		}
		if len(got) > 1 {
			return failed("the same message was delivered twice"), nil
		}
	}
	return unsure("the second copy was neither delivered nor refused"), nil
}

func verdictOnReplay(v event) Result {
	if v.Control != "message.replay" {
		return unsure("masked by %s", v.Control)
	}
	return passed("refused by %s", v.Control)
}

// oldLetter is a message from before the window. Its certificate may be
// younger than it claims to be, in which case the signature is what fails:
// time is bound either way.
func (p *post) oldLetter(ctx context.Context, q queued) (Result, error) {
	raw, err := q.sign(p.sender)
	if err != nil {
		return Result{}, err
	}
	verdict, err := p.buried(ctx, "one signed before the window", raw, q.id, "message.replay")
	if err != nil || verdict.Verdict == Fail {
		return verdict, err
	}
	return passed("the same bytes again and a message from before the window are not delivered"), nil
}
