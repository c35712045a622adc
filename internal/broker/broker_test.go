package broker_test

import (
	"regexp"
	"testing"

	"github.com/rampart-security/rampart/internal/broker"
)

// TestConsumer: valid for the broker and different for different flows.
func TestConsumer(t *testing.T) {
	valid := regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	type flow struct{ service, topic string }
	seen := map[string]flow{}
	for _, f := range []flow{
		{"cat", "a.b"}, {"cat", "a_b"}, {"cat", "a-b"}, {"cat", "a_2eb"}, {"cat", "ab"}, {"cat-a", "b"}, {"cat_2da", "b"}, {"ev>cat", "*"},
	} {
		got := broker.Consumer(f.service, f.topic)
		if !valid.MatchString(got) {
			t.Errorf("%v: %q is no name", f, got)
		}
		if other, ok := seen[got]; ok {
			t.Errorf("%v and %v are both %q", other, f, got)
		}
		seen[got] = f
	}
}
