package decisionlog

import (
	"slices"
	"testing"
)

// TestIDs: the beginning of an id finds those that have it, newest first, and no
// more than were asked for.
func TestIDs(t *testing.T) {
	s := state(t)
	l := openLog(t, Options{State: s})
	for _, n := range []int{1, 12, 13, 200} {
		must(t, l.Observe(t.Context(), ask(n), answer(ask(n))))
	}
	must(t, l.Flush(t.Context()))
	folder, err := OpenFolder(s.Path("decisions", "sidecar_orders"))
	must(t, err)
	for prefix, want := range map[string][]string{
		"D00001":   {"D000013", "D000012"},
		"D00000":   {"D000001"},
		"D0":       {"D000200", "D000013"},
		"user:ann": nil, // in every line, and no id
		"D9":       nil,
		"":         nil,
	} {
		got, err := folder.IDs(prefix, 2)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v, want %v", prefix, got, err, want)
		}
	}
}
