package cedar

import "strings"

// nearest returns the one of names that word most likely means, or "". Names
// may be two letters off, short ones less.
func nearest(word string, names []string) string {
	best, found := 3, ""
	for _, name := range names {
		limit := min(2, len(name)/2, len(word)/2)
		if d := distance(strings.ToLower(word), strings.ToLower(name)); d <= limit && d < best {
			best, found = d, name
		}
	}
	return found
}

// distance counts the letters to insert, delete or replace (Levenshtein). Words
// beyond 64 bytes are far from everything.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
