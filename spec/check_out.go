package spec

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// maxNonceWindow bounds the memory of nonces.
const maxNonceWindow = time.Hour

var (
	injectForm  = regexp.MustCompile(`^header:[A-Za-z][A-Za-z0-9-]{0,62}$`)
	callForm    = regexp.MustCompile(`^(GET|HEAD|POST|PUT|PATCH|DELETE) /\S*$`)
	readForm    = regexp.MustCompile(`^GET /\S*$`)
	pointerForm = regexp.MustCompile(`^(/([^~/]|~[01])*)+$`)
	memberForm  = regexp.MustCompile(`^/[^~/]+$`)
)

// egress checks a flow to an external party: nothing leaves that is not
// written here.
func (c *checker) egress(key string, f Flow) {
	if !c.need(key, "egress", f.Egress != nil, "{ methods: [POST], paths: [/v1/PATH] }") {
		return
	}
	e, at := f.Egress, key+".egress"
	c.need(at, "methods", len(e.Methods) > 0, "[POST]")
	for i, m := range e.Methods {
		c.oneOf(index(at+".methods", i), m, httpMethods...)
	}
	c.need(at, "paths", len(e.Paths) > 0, "[/v1/PATH]")
	for i, p := range e.Paths {
		if !egressPath(p) {
			c.bad(index(at+".paths", i), fmt.Sprintf("%q is no path", shorten(p)), `write an exact path, or a prefix that ends in "/*"; no .., // or query`)
		}
	}
	c.oneOf(at+".private_ips", e.PrivateIPs, "never")
	if f.Inject != nil {
		c.inject(key+".inject", *f.Inject)
	}
}

func egressPath(p string) bool {
	exact := strings.TrimSuffix(p, "/*")
	if strings.Contains(exact, "*") || strings.Contains(p, "//") || !pathForm.MatchString(p) {
		return false
	}
	return !slices.ContainsFunc(strings.Split(exact, "/"), func(s string) bool { return s == "." || s == ".." })
}

func (c *checker) inject(key string, in Inject) {
	if c.need(key, "secret", in.Secret != "", "DATA, an item of kind credential") && !c.credentials[in.Secret] {
		// The value is not repeated: a key pasted here must not reach a log.
		c.unknown(key+".secret", "want the name of a data item of kind credential", in.Secret, c.credentials, "the credentials are")
	}
	if c.need(key, "into", in.Into != "", "header:Authorization") {
		c.match(key+".into", in.Into, injectForm, "write header:NAME, such as header:Authorization")
	}
}

// query checks a flow to a database.
func (c *checker) query(key string, f Flow) {
	c.number(key+".db.pool", f.DB.Pool, 1, 1000)
	if c.s.Stores[f.To].Kind == "postgres" {
		c.within(key+".db.timeout", f.DB.Timeout, 10*time.Millisecond, time.Hour)
	} else if f.DB.Timeout != 0 {
		c.bad(key+".db.timeout", "only postgres breaks a statement off", "remove it")
	}
	c.match(key+".db.role", f.DB.Role, tableForm, "write a database role in lower case, such as payments_rw")
	for i, item := range f.Carries {
		if _, ok := c.s.Data[item]; ok && !slices.Contains(c.s.Stores[f.To].Holds, item) {
			c.bad(index(key+".carries", i), fmt.Sprintf("%q does not hold %q", f.To, item), fmt.Sprintf("add it to holds of stores.%s", f.To))
		}
	}
}

// message checks a flow to or from a queue.
func (c *checker) message(key string, f Flow, kind flowKind) {
	if c.need(key, "topic", f.Topic != "", "NAME.EVENT") {
		c.match(key+".topic", f.Topic, topicForm, "write words separated by dots, without wildcards, such as payments.completed")
	}
	if f.Guard != nil {
		c.need(key+".guard", "recipient", strings.TrimSpace(f.Guard.Recipient) != "", `"message.recipient == subject"`)
	}
	if f.Message == nil {
		return
	}
	at := key + ".message"
	c.checkResource(at+".schema", f.Message.Schema, ".json")
	c.oneOf(at+".sign", f.Message.Sign, "svid")
	c.oneOf(at+".refuse", f.Message.Refuse, "dead_letter")
	if kind == flowPublish {
		c.only(at, "the producer's side of a queue only signs", "accept_from", "replay_window", "refuse")
		return
	}
	c.only(at, "the consumer's side of a queue verifies, it does not sign", "sign")
	if !verifies(f) {
		c.only(at, "without accept_from nothing is verified, so nothing is refused", "replay_window", "refuse")
	}
	if f.Message.ReplayWindow != 0 {
		c.within(at+".replay_window", f.Message.ReplayWindow, time.Second, 24*time.Hour) // every message id of the window is kept
	}
}

// channel is one topic of one queue.
type channel struct{ queue, topic string }

// queues checks both ends of each channel against each other. A signature that
// nobody checks is no control, and one that nobody makes stops all messages.
func (c *checker) queues() {
	in, out := map[channel][]int{}, map[channel][]int{}
	topics := map[string]map[string]bool{} // queue -> topics that are published to it
	for i, f := range c.s.Flows {
		switch c.s.flowKindOf(f) {
		case flowPublish:
			in[channel{f.To, f.Topic}] = append(in[channel{f.To, f.Topic}], i)
			if topics[f.To] == nil {
				topics[f.To] = map[string]bool{}
			}
			topics[f.To][f.Topic] = true
		case flowDeliver:
			out[channel{f.From, f.Topic}] = append(out[channel{f.From, f.Topic}], i)
		}
	}
	for ch, takers := range out {
		for _, i := range takers {
			c.delivered(i, in[ch], topics[ch.queue])
		}
	}
	for ch, makers := range in {
		for _, i := range makers {
			c.signed(i, out[ch])
		}
	}
}

// delivered checks flow i, which takes messages that the flows in makers put
// into the queue.
func (c *checker) delivered(i int, makers []int, topics map[string]bool) {
	f, key := c.s.Flows[i], index("flows", i)
	if !topicForm.MatchString(f.Topic) {
		return // message reports it
	}
	if len(makers) == 0 {
		c.unknown(key+".topic", fmt.Sprintf("nothing publishes %q to %q", shorten(f.Topic), f.From), f.Topic, topics, "published are")
		return
	}
	if !verifies(f) {
		return
	}
	producers := map[string]bool{}
	for _, m := range makers {
		producers[c.s.Flows[m].From] = true
	}
	c.refs(key+".message.accept_from", f.Message.AcceptFrom, "producer", producers)
	for _, m := range makers {
		if !signs(c.s.Flows[m]) {
			id := c.s.Flows[m].ID
			c.bad(key+".message.accept_from", fmt.Sprintf("flow %s publishes these messages unsigned, so all of them would be refused", id), fmt.Sprintf("add sign: svid to message of flow %s", id))
			return
		}
	}
}

// signed checks flow i, whose messages the flows in takers take.
func (c *checker) signed(i int, takers []int) {
	f := c.s.Flows[i]
	for _, t := range takers {
		if signs(f) && !verifies(c.s.Flows[t]) {
			id := c.s.Flows[t].ID
			c.bad(index("flows", i)+".message.sign", fmt.Sprintf("flow %s takes these messages and verifies nothing", id), fmt.Sprintf("add accept_from: [%s] to message of flow %s", f.From, id))
			return
		}
	}
}

func signs(f Flow) bool    { return f.Message != nil && f.Message.Sign != "" }
func verifies(f Flow) bool { return f.Message != nil && len(f.Message.AcceptFrom) > 0 }

// verify checks what probes are told about the system.
func (c *checker) verify() {
	sc := c.s.Verify.Scenario
	if sc == nil {
		return
	}
	const key = "verify.scenario"
	c.facts(key+".user", sc.User)
	if c.need(key, "call", sc.Call != "", `"POST /PATH"`) {
		c.match(key+".call", sc.Call, callForm, `write a method and a path, such as "POST /payments"`)
	}
	c.match(key+".amount", sc.Amount, pointerForm, "write a JSON pointer, such as /amount")
	c.match(key+".ledger", sc.Ledger, readForm, `write a read, such as "GET /payments"`)
	c.match(key+".object", sc.Object, readForm, `write a read, such as "GET /orders/${order_id}"`)
	c.match(key+".list", sc.List, readForm, `write a read, such as "GET /orders"`)
	personal := map[string]bool{}
	for _, d := range c.s.Data {
		for _, field := range d.PII {
			personal[field] = true
		}
	}
	for field, pointer := range sc.PII {
		c.ref(join(key+".pii", field), field, "field of data.*.pii", personal)
		c.match(join(key+".pii", field), pointer, memberForm, "write a JSON pointer to a member of body, such as /email")
	}
	for i, step := range sc.Prepare {
		at := index(key+".prepare", i)
		if c.need(at, "call", step.Call != "", `"POST /PATH"`) {
			c.match(at+".call", step.Call, callForm, `write a method and a path, such as "POST /orders"`)
		}
		for name, pointer := range step.Take {
			c.match(join(at+".take", name), name, nameForm, "rename it: lower-case letters, digits, _ and -")
			c.match(join(at+".take", name), pointer, pointerForm, "write a JSON pointer, such as /id")
		}
	}
}

// facts checks a user's roles.
func (c *checker) facts(key string, u DemoUser) {
	c.granted(key+".roles", u)
}

func (c *checker) demo() {
	for name, u := range c.s.Demo.Users {
		c.facts(join("demo.users", name), u)
	}
	clients := map[string]bool{}
	for name, p := range c.s.Principals {
		if p.Kind == "client" {
			clients[name] = true
		}
	}
	for name, client := range c.s.Demo.Clients {
		key := join("demo.clients", name)
		if c.need(key, "principal", client.Principal != "", "NAME, a principal of kind client") {
			c.ref(key+".principal", client.Principal, "client", clients)
		}
	}
}
