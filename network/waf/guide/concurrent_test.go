package guide

import (
	"fmt"
	"sync"
	"testing"
)

// TestManyAtOnce asks one guide from many goroutines, each with texts that nobody
// asked before: what the automata and the memory learn for one is no answer to
// another.
func TestManyAtOnce(t *testing.T) {
	_, g := fixture()
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for n := range 20 {
				good, bad := typed(), typed()
				note(fmt.Sprintf("Please leave parcel %d-%d with Mrs. O'Neill, she is at home until five", worker, n))(good)
				note(fmt.Sprintf("%d' UNION SELECT %d, password FROM users -- ", worker, n))(bad)
				if !g.Clean(good) || g.Clean(bad) {
					t.Errorf("worker %d, text %d: clean %t and %t, want true and false", worker, n, g.Clean(good), g.Clean(bad))
					return
				}
			}
		})
	}
	all.Wait()
}
