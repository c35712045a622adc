package openapi

import "math"

// exact is a number: n / 10^places, exactly.
type exact struct {
	n      int64
	places int
}

// tens are the powers of ten that one can need.
var tens = [...]int64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18}

// newExact reads a number of JSON. One of more than 18 digits, and one with an
// exponent, is not ok.
func newExact(s string) (d exact, ok bool) {
	negative := len(s) > 0 && s[0] == '-'
	if negative {
		s = s[1:]
	}
	point := -1
	for i := range len(s) {
		switch {
		case i > 18 || i == 18 && point < 0:
			return exact{}, false
		case isDigit(s[i]):
			d.n = 10*d.n + int64(s[i]-'0')
		case s[i] == '.' && point < 0 && i > 0:
			point = i
		default:
			return exact{}, false
		}
	}
	if s == "" || point == len(s)-1 || len(s) > 1 && s[0] == '0' && point != 1 {
		return exact{}, false
	}
	if point >= 0 {
		d.places = len(s) - 1 - point
	}
	if negative {
		d.n = -d.n
	}
	return d, true
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func (d exact) isWhole() bool { return d.n%tens[d.places] == 0 }

// scaled is d.n for that many places, which are no fewer than d has.
func (d exact) scaled(places int) (n int64, ok bool) {
	by := tens[places-d.places]
	return d.n * by, d.n <= math.MaxInt64/by && d.n >= -math.MaxInt64/by
}

// limit is a rule that numbers keep.
type limit struct {
	rule comparison
	at   exact
}

type comparison uint8

const (
	atLeast comparison = iota
	atMost
	moreThan
	lessThan
	multipleOf
)

// allows reports whether d keeps the rule for sure.
func (l limit) allows(d exact) bool {
	places := max(d.places, l.at.places)
	x, ok := d.scaled(places)
	y, fits := l.at.scaled(places)
	if !ok || !fits {
		return false
	}
	switch l.rule {
	case atLeast:
		return x >= y
	case atMost:
		return x <= y
	case moreThan:
		return x > y
	case lessThan:
		return x < y
	}
	return y != 0 && x%y == 0
}
