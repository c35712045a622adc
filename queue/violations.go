package queue

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/rampart-security/rampart/monitor/audit"
)

// Bounds of what one loud peer can write to the audit log.
const (
	maxPending    = 64
	betweenEvents = 50 * time.Millisecond
)

// violations takes the one thing that the server tells nowhere but in its log:
// that a client tried what it may not. It implements server.Logger and never
// blocks the server: what comes faster than it is recorded is counted.
type violations struct {
	pending chan string
	lost    atomic.Int64
}

// A violation as the server words it: address, connection, what
// the client calls itself, and what was tried.
var violation = regexp.MustCompile(`^(\S+) - cid:(\d+) - .*(Publish|Subscription) Violation.* - (?:Subject|Reply) (.{1,300})`)

// Errorf implements server.Logger.
func (v *violations) Errorf(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	if !violation.MatchString(line) {
		return
	}
	select {
	case v.pending <- line:
	default:
		v.lost.Add(1)
	}
}

// Noticef implements server.Logger; the rest of the server's log says nothing
// that the streams and the audit log do not.
func (v *violations) Noticef(string, ...any) {}

// Warnf implements server.Logger.
func (v *violations) Warnf(string, ...any) {}

// Fatalf implements server.Logger.
func (v *violations) Fatalf(string, ...any) {}

// Debugf implements server.Logger.
func (v *violations) Debugf(string, ...any) {}

// Tracef implements server.Logger.
func (v *violations) Tracef(string, ...any) {}

// recordViolations puts them on record until ctx ends.
func (q *Queue) recordViolations(ctx context.Context) {
	pause := time.NewTicker(betweenEvents)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case line := <-q.violations.pending:
			q.record(q.violationEvent(line))
		}
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
	}
}

func (q *Queue) violationEvent(line string) audit.Event {
	m := violation.FindStringSubmatch(line)
	action := map[string]string{"Publish": "publish", "Subscription": "subscribe"}[m[3]]
	e := audit.Event{Class: audit.ClassNetwork, Action: action, Outcome: audit.Refused, Control: "mtls.peer_declared",
		Resource: q.opt.Store, Peer: m[1], Detail: map[string]string{"tried": m[4]}}
	if n := q.violations.lost.Swap(0); n > 0 {
		e.Detail["more"] = strconv.FormatInt(n, 10)
	}
	cid, err := strconv.ParseUint(m[2], 10, 64)
	if err != nil {
		return e
	}
	conns, err := q.srv.Connz(&server.ConnzOptions{CID: cid, Username: true, State: server.ConnAll})
	if err == nil && len(conns.Conns) == 1 {
		e.Subject = conns.Conns[0].AuthorizedUser
	}
	return e
}
