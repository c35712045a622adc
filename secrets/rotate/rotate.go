// Package rotate answers "How is a credential replaced while it is in use?" It
// carries a rotation through its steps: the next credential is made, tried,
// published, and only when nobody uses the old one any more that is revoked.
//
// Each step is a row that moves by compare-and-set, so that of several control
// planes one acts, and whoever is killed in the middle leaves a row from which
// the next one goes on: each step may be done again. Up to publishing, the
// credential in use is not touched; a test that fails ends the rotation there.
package rotate

import (
	"context"
	"time"

	"github.com/rampart-security/rampart"
)

// control is the id of this control in rampart.yaml and in errors.
const control = "secret.manager"

// Step is what a rotation does next.
type Step string

// Steps, in their order.
const (
	Idle    Step = "idle"    // until it is due
	Create  Step = "create"  // the next credential is made
	Test    Step = "test"    // and tried
	Publish Step = "publish" // readers get it from now on
	Drain   Step = "drain"   // until no reader uses the old one
	Revoke  Step = "revoke"  // the old one ends
)

// State is a rotation as its row tells it. The zero State names nothing.
type State struct {
	Name     string    `json:"-"` // "store:NAME" or "data:NAME", as in rampart.yaml
	Rev      int64     `json:"-"` // the Rows' own: grows with every change
	Step     Step      `json:"step"`
	Current  string    `json:"current,omitempty"`  // user in use; "" when values have none
	Next     string    `json:"next,omitempty"`     // user that is prepared
	Old      string    `json:"old,omitempty"`      // user that is to be revoked
	Version  int       `json:"version,omitempty"`  // published; 0: none yet
	Previous int       `json:"previous,omitempty"` // version that is to be revoked; 0: none
	Since    time.Time `json:"since,omitzero"`     // of the step
	Due      time.Time `json:"due,omitzero"`       // idle: of the next rotation; otherwise: of the next try after a failure
	Error    string    `json:"error,omitempty"`    // of the last try
	Failures int       `json:"failures,omitempty"` // tries in a row that failed
	Holder   string    `json:"holder,omitempty"`   // control plane that acts
	Until    time.Time `json:"until,omitzero"`     // it acts until then at the latest
}

// Use is what one plane says of the oldest version that it and its service use.
type Use struct {
	Name    string // of the rotation
	Plane   string
	Version int
	Seen    time.Time
}

// Rows keep rotations. Implementations are safe for concurrent use, also by
// several processes.
type Rows interface {
	// AddRotation inserts s if its name is new, and reports whether it was.
	AddRotation(ctx context.Context, s State) (bool, error)
	// Rotation returns one; an unknown name is an error of kind NotFound.
	Rotation(ctx context.Context, name string) (State, error)
	// Rotations returns all, by name.
	Rotations(ctx context.Context) ([]State, error)
	// SwapRotation stores s if the row's Rev is still s.Rev, and reports whether it
	// was: of two who read one row, one moves it.
	SwapRotation(ctx context.Context, s State) (bool, error)
	// PutRotationUse stores what a plane says, in the place of what it said before.
	PutRotationUse(ctx context.Context, u Use) error
	// RotationUses returns what planes say of one rotation, by plane.
	RotationUses(ctx context.Context, name string) ([]Use, error)
}

// Hooks are what a rotation does at the place where the credential counts. Each
// may be called again after it succeeded, or halfway. Errors are of kind
// Unavailable when trying again may help; they and their text hold no secret.
type Hooks interface {
	// Create makes c the credential of c.User, who is nobody's yet.
	Create(ctx context.Context, c Credential) error
	// Test uses c as readers will. An error that is not Unavailable ends the
	// rotation; the credential in use stays.
	Test(ctx context.Context, c Credential) error
	// Publish is called once c is what readers get.
	Publish(ctx context.Context, c Credential) error
	// Revoke ends what user could do with the credential from before, connections
	// that are open included.
	Revoke(ctx context.Context, user string) error
}

// Nothing are hooks for values that count nowhere but at their readers. The zero
// value is ready.
type Nothing struct{}

// Create implements Hooks.
func (Nothing) Create(context.Context, Credential) error { return nil }

// Test implements Hooks.
func (Nothing) Test(context.Context, Credential) error { return nil }

// Publish implements Hooks.
func (Nothing) Publish(context.Context, Credential) error { return nil }

// Revoke implements Hooks.
func (Nothing) Revoke(context.Context, string) error { return nil }

var _ Hooks = Nothing{}

func unavailable(msg string, err error) error {
	return &rampart.Error{Kind: rampart.Unavailable, Control: control, Msg: msg, Err: err}
}
