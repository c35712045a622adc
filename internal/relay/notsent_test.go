package relay_test

import (
	"fmt"
	"testing"

	"github.com/rampart-security/rampart/internal/hop"
	"github.com/rampart-security/rampart/internal/relay"
)

// TestNotSent: a key under which nothing left is free again; one whose request may
// have been carried out is not.
func TestNotSent(t *testing.T) {
	if got := relay.OutcomeOf(fmt.Errorf("hop: %w", hop.ErrNotSent)); got != relay.NotSent {
		t.Errorf("nothing was sent: %v", got)
	}
	if got := relay.OutcomeOf(fmt.Errorf("hop: closed")); got != relay.Unknown {
		t.Errorf("it may have been: %v", got)
	}
}
