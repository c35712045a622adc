package guide

import "testing"

// TestPlansStay: the values of one request are of several alphabets, and what was
// made for one is there for the next request.
func TestPlansStay(t *testing.T) {
	var c class
	values := []string{"3f0c1c1a-7d0e-4e0c-9d55-0f6c1c0b6a11", "2026-11-29T12:00:00Z", "EUR", "card", "MUG-1", "true", "1299", "1299.50",
		"a@b.example", "+43 1 5550", "https://shop.example/a/b?c=d", "Mrs. O'Neill, next door", "application/json", "en-US,en;q=0.9", "[1,2]", "a_b", "50%", "x=1&y=2", "\u00e4"}
	made := map[string]*plan{}
	for _, v := range values {
		made[v] = c.plan(alphabetOf(v).coarse())
	}
	for _, v := range values {
		if c.plan(alphabetOf(v).coarse()) != made[v] {
			t.Errorf("the plan for %q was made twice", v)
		}
	}
}
