// Package fairshare says how much of a bounded resource one caller may hold, so that
// no few callers can take all of it: the share of each shrinks as it fills, and the
// last quarter is for those who hold little.
//
// A fixed share leaves nothing once as many callers as it divides into have taken
// theirs. This is the dynamic threshold by which switches share their buffers
// (Choudhury and Hahne, 1998). What is held here may not drain for a day, and then the
// threshold alone is eaten a third at a time; hence the last quarter.
package fairshare

// Of returns what one caller may hold of bound while used of it is taken by all: as
// long as more than a quarter is free, half of what is free beyond that quarter, and
// never less than few; then few, and less as the quarter fills, but always 1 while
// anything is free. Nothing once all is taken.
//
// One caller alone comes to a quarter of bound. The last quarter lasts for at least
// bound/4/few callers who take all they can get, after any number of large ones.
func Of(bound, used, few int64) int64 {
	free, kept := bound-used, bound/4
	switch {
	case free <= 0:
		return 0
	case free > kept:
		return max((free-kept)/2, few, 1)
	}
	return max(few*free/kept, 1)
}
