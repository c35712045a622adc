package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes the test binary the program itself, so that scripts run what
// users run.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"rampart": main})
}

// TestScripts runs test/e2e/*.txtar: everything that a user types and that
// needs no running system.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "../../test/e2e"})
}
