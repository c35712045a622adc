package memory

import (
	"testing"

	"github.com/rampart-security/rampart/store"
	"github.com/rampart-security/rampart/store/storetest"
)

func TestStore(t *testing.T) {
	storetest.TestShared(t, func(*testing.T) (a, b store.Shared) { st := New(); return st, st })
}
