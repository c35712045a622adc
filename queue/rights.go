package queue

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"slices"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/broker"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/tls/svid"
)

// allowPeer lets in the services that a flow connects with this queue.
func (q *Queue) allowPeer(id string) error {
	if len(rightsOf(q.opt.Link.State().System, q.opt.Store, id)) > 0 {
		return nil
	}
	q.record(audit.Event{Class: audit.ClassNetwork, Action: "handshake", Outcome: audit.Refused, Control: "mtls.peer_declared", Subject: id, Resource: q.opt.Store})
	return rampart.Errorf(rampart.Denied, "mtls.peer_declared", "no flow connects %s with queue %s", id, q.opt.Store)
}

// insider is the user of connections inside this process. No SPIFFE ID is such.
const insider = "queue"

// authenticator maps a verified certificate to an account of its own. The
// connection inside this process, which has no certificate, gets the account
// that holds the streams.
type authenticator struct{ q *Queue }

// Check implements server.Authentication.
func (a authenticator) Check(c server.ClientAuthentication) bool {
	state := c.GetTLSConnectionState()
	if state == nil {
		inProcess := c.Kind() == server.CLIENT && c.RemoteAddress() != nil && c.RemoteAddress().Network() == "pipe"
		if inProcess {
			c.RegisterUser(&server.User{Username: insider, Account: a.q.srv.GlobalAccount()})
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
	rights := rightsOf(a.q.opt.Link.State().System, a.q.opt.Store, id)
	if len(rights) == 0 {
		return false
	}
	acc, err := a.q.account(id, rights)
	if err != nil {
		a.q.opt.Logger.LogAttrs(context.Background(), slog.LevelError, "account", slog.String("peer", id), slog.Any("error", err))
		return false
	}
	c.RegisterUser(&server.User{Username: id, Account: acc, Permissions: permissions(id, rights)})
	return a.q.keepPeer(c.GetID(), *state) == nil
}

// right is one subject that an identity may publish to.
type right struct {
	subject string
	answers server.ServiceRespType // how many a request has
}

// rightsOf is empty for an identity that no flow connects with the store.
func rightsOf(sys *spec.System, store, id string) []right {
	if sys == nil {
		return nil
	}
	var out []right
	add := func(subject string, answers server.ServiceRespType) {
		r := right{subject, answers}
		if !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	for _, f := range sys.Flows {
		switch {
		case f.To == store && sys.ServiceID(f.From) == id:
			add(f.Topic, server.Singleton)
		case f.From == store && sys.ServiceID(f.To) == id:
			name := broker.Stream(store) + "." + broker.Consumer(f.To, f.Topic)
			add("$JS.API.CONSUMER.INFO."+name, server.Singleton)
			add("$JS.API.CONSUMER.MSG.NEXT."+name, server.Streamed)
			add("$JS.ACK."+name+".>", server.Singleton)
			add(sys.DeadLetter(store, f.Topic), server.Singleton)
		}
	}
	return out
}

func permissions(id string, rights []right) *server.Permissions {
	var publish []string
	for _, r := range rights {
		publish = append(publish, r.subject)
	}
	return &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: publish},
		Subscribe: &server.SubjectPermission{Allow: []string{broker.InboxPrefix(id) + ".>"}},
	}
}

// account returns the account of an identity with these rights. It holds no
// streams; it imports the subjects of its rights from the account that does.
//
// Permissions alone would not do. They bind what a client publishes, but the
// server itself publishes the answer, to whatever reply subject the client
// named. In an account of its own an answer reaches what the identity may reach
// anyway; the subjects that rule streams mean nothing there.
func (q *Queue) account(id string, rights []right) (*server.Account, error) {
	name := accountName(id, rights)
	q.mu.Lock()
	defer q.mu.Unlock()
	acc, _ := q.srv.LookupOrRegisterAccount(name)
	if q.complete[name] {
		return acc, nil
	}
	owner := q.srv.GlobalAccount()
	for _, r := range rights {
		if err := owner.AddServiceExportWithResponse(r.subject, r.answers, []*server.Account{acc}); err != nil {
			return nil, err
		}
		if err := acc.AddServiceImport(owner, r.subject, r.subject); err != nil {
			return nil, err
		}
	}
	q.complete[name] = true
	return acc, nil
}

// accountName differs where the rights do: an account never has more than one
// file gave it, though imports cannot be taken back.
func accountName(id string, rights []right) string {
	h := sha256.New()
	for _, r := range rights {
		h.Write([]byte(r.subject + "\n"))
	}
	return id + "#" + hex.EncodeToString(h.Sum(nil)[:16])
}

// dropStale ends connections whose rights are not those of the file any more.
func (q *Queue) dropStale(sys *spec.System) {
	conns, err := q.srv.Connz(&server.ConnzOptions{Username: true})
	if err != nil {
		return // the server is ending
	}
	for _, c := range conns.Conns {
		if c.AuthorizedUser == "" || c.AuthorizedUser == insider {
			continue
		}
		if c.Account != accountName(c.AuthorizedUser, rightsOf(sys, q.opt.Store, c.AuthorizedUser)) {
			q.srv.DisconnectClientByID(c.Cid) // one that is gone already is fine
		}
	}
}
