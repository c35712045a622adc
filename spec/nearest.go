package spec

import (
	"fmt"
	"slices"
	"strings"

	"github.com/rampart-security/rampart/internal/nearest"
)

// maxListed bounds the names that one fix lists.
const maxListed = 24

// Nearest returns the candidate that is most likely meant by name, as package
// nearest guesses it.
func Nearest(name string, candidates []string) (string, bool) { return nearest.To(name, candidates) }

// suggest words the fix for an unknown name: the nearest candidate, else all.
func suggest(name string, candidates []string, what string) string {
	if best, ok := Nearest(name, candidates); ok {
		return fmt.Sprintf("did you mean %q?", best)
	}
	if len(candidates) == 0 {
		return "nothing of the kind is declared; declare it first"
	}
	sorted := slices.Sorted(slices.Values(candidates))
	if len(sorted) > maxListed {
		return fmt.Sprintf("%s: %s, and %d more", what, strings.Join(sorted[:maxListed], ", "), len(sorted)-maxListed)
	}
	return what + ": " + strings.Join(sorted, ", ")
}
