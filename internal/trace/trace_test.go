package trace

import (
	"net/http"
	"testing"
)

func TestOf(t *testing.T) {
	const id = "4bf92f3577b34da6a3ce929d0e0e4736"
	for name, tc := range map[string]struct {
		header string
		taken  bool
	}{
		"well formed":   {"00-" + id + "-00f067aa0ba902b7-01", true},
		"what we write": {Parent(id), true},
		"none":          {"", false},
		"all zero":      {"00-00000000000000000000000000000000-00f067aa0ba902b7-01", false},
		"upper case":    {"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", false},
		"log forgery":   {"00-x\" level=INFO msg=\"all is well  -00f067aa0ba902b7-01", false},
		"too short":     {"00-" + id, false},
	} {
		t.Run(name, func(t *testing.T) {
			got := Of(http.Header{Header: {tc.header}})
			if (got == id) != tc.taken || !isID(got) {
				t.Errorf("got %q, taken %v, want %v", got, got == id, tc.taken)
			}
		})
	}
	if Parent("") != "" || Parent("4bf9") != "" {
		t.Error("what is no id has a parent")
	}
}
