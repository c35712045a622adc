// Package audit answers "What happened, and can anybody have edited the
// answer?" It is the append-only, hash-linked log that every plane writes, and
// the means to verify and follow it.
//
// Each plane has a folder of its own under audit/, named after the plane with
// "/" written as "_", with segments 000001.jsonl, 000002.jsonl and so on. One
// line is one record:
//
//	{"seq":N,"prev":"<hex>","event":{...},"hash":"<hex>"}
//
// where hash is the SHA-256 of "rampart-audit-v1\n", the sequence number in
// eight bytes big endian, the 32 bytes of prev, and the bytes of the event
// exactly as they stand. prev is the hash of the record before, over the
// borders of files; of the first record it is 32 zero bytes. Sequence numbers
// start at 1.
//
// The chain finds an edit anywhere inside. It cannot find a tail that was cut
// off whole, or a log that was rewritten from some record on: for that, planes
// report their head to the control plane, and VerifyDir compares.
//
// Audit is not logging: a security event that cannot be made durable fails the
// request that caused it. What is recorded of requests that were let through is
// the kernel's after 50 ms, and durable 250 ms later: see Log.
package audit

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
)

// Classes of events. Record returns for ClassAuthzAllow and ClassAPIRead at
// once; every other class waits for the disk, and with it all that came before.
const (
	ClassAuthentication = "authentication"
	ClassAuthzDeny      = "authz_deny"
	ClassAuthzAllow     = "authz_allow"
	ClassAPIRead        = "api_read"
	ClassAdmin          = "admin"
	ClassSecret         = "secret"
	ClassKey            = "key"
	ClassMoney          = "money"
	ClassConfig         = "config"
	ClassNetwork        = "network"
	ClassMessage        = "message"
	ClassLimit          = "limit"
	ClassValidation     = "validation"
	ClassVerify         = "verify"
	ClassWAF            = "waf"
)

// Outcome says how an action ended.
type Outcome string

// The outcomes. The zero Outcome is none of them and is not recorded.
const (
	Allowed Outcome = "allowed"
	Refused Outcome = "refused"
	Failed  Outcome = "error"
)

// Event is one thing that happened. Class, Action and Outcome are required;
// Time, Plane and Trace are filled by Record. Values of Detail must not be
// secrets or personal data: subjects are named by opaque ids.
type Event struct {
	Time     time.Time           `json:"time"`
	Plane    string              `json:"plane"` // "gateway/edge"
	Class    string              `json:"class"`
	Action   string              `json:"action"` // "session.login", "POST /api/payments"
	Outcome  Outcome             `json:"outcome"`
	Control  string              `json:"control,omitzero"`  // id of the control that decided, such as "authn.jwt"
	Flow     string              `json:"flow,omitzero"`     // id of the flow in rampart.yaml
	Layer    string              `json:"layer,omitzero"`    // a rampart.Layer
	Code     string              `json:"code,omitzero"`     // machine-readable reason
	Subject  string              `json:"subject,omitzero"`  // for whom it was done: "user:ID", "client:ID" or a SPIFFE ID
	Actor    string              `json:"actor,omitzero"`    // who did it, where that is someone else
	Resource string              `json:"resource,omitzero"` // "order:ID"
	Policies []rampart.PolicyRef `json:"policies,omitempty"`
	Trace    string              `json:"trace,omitzero"` // W3C trace id, 32 hex digits
	Peer     string              `json:"peer,omitzero"`  // "ip:port" of the client's socket
	Detail   map[string]string   `json:"detail,omitempty"`

	// Decision, unless it is empty, is recorded as Detail["decision"]: most events
	// have no other detail, and need no map for it. Events that are read have it there.
	Decision string `json:"-"`

	// Sum is of an event that stands for many refusals, such as the beginning of a ban:
	// it is recorded by itself, and not counted with others in a flood.
	Sum bool `json:"-"`
}

// Recorder takes events. A nil error from Record for an event that must be
// durable means that it is; on any error the caller must not go on with what
// the event describes.
type Recorder interface {
	Record(ctx context.Context, e Event) error
}

var classes = []string{
	ClassAuthentication, ClassAuthzDeny, ClassAuthzAllow, ClassAPIRead, ClassAdmin, ClassSecret, ClassKey,
	ClassMoney, ClassConfig, ClassNetwork, ClassMessage, ClassLimit, ClassValidation, ClassVerify, ClassWAF,
}

// validate refuses what no reader of the log could sort.
func (e *Event) validate() error {
	if !slices.Contains(classes, e.Class) {
		return rampart.Errorf(rampart.Internal, control, "audit: class %q is not known", e.Class)
	}
	if e.Outcome != Allowed && e.Outcome != Refused && e.Outcome != Failed {
		return rampart.Errorf(rampart.Internal, control, "audit: outcome %q is not known", string(e.Outcome))
	}
	if e.Action == "" {
		return rampart.Errorf(rampart.Internal, control, "audit: an event needs an action")
	}
	return nil
}

// waits reports whether the event must be durable before Record returns. A
// refusal always must, whatever class its plane gave it.
func (e *Event) waits() bool {
	return e.Outcome == Refused || e.Class != ClassAuthzAllow && e.Class != ClassAPIRead
}

// control is the id of this control in rampart.yaml and in errors.
const control = "audit.log"

// folderOf names the folder of a plane.
func folderOf(plane string) (string, error) {
	ok := plane != "" && len(plane) <= 128 && plane[0] != '.'
	for _, r := range plane {
		ok = ok && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./", r))
	}
	if !ok {
		return "", rampart.Errorf(rampart.Invalid, control, "audit: %q is not the name of a plane", plane)
	}
	return strings.ReplaceAll(plane, "/", "_"), nil
}
