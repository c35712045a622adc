package control

import (
	"fmt"
	"testing"
	"time"
)

// TestStrangersCannotFillTheMemory: there is room for who is known.
func TestStrangersCannotFillTheMemory(t *testing.T) {
	g := newGuesses(time.Now)
	refused := false
	for i := 0; !refused && i <= maxGuessKeys; i++ {
		_, err := g.take(fmt.Sprint("name", i), fmt.Sprint("ip", i), false)
		refused = err != nil
	}
	if !refused || len(g.tries) > maxGuessKeys {
		t.Fatalf("refused %t with %d keys", refused, len(g.tries))
	}
	if _, err := g.take("ann", "home", true); err != nil {
		t.Errorf("known: %v", err)
	}
	if _, err := g.take("ann", "away", false); err == nil {
		t.Error("a stranger found room where there is none")
	}
}
