package framing

import "encoding/binary"

// class sorts bytes.
type class uint8

const (
	token      class = 1 << iota // tchar: RFC 9110 section 5.6.2
	text                         // of a field value: RFC 9110 section 5.5
	hostByte                     // of host[:port]: a reg-name without escapes, or an IP literal
	targetByte                   // of a request target: RFC 3986 section 2, and what browsers send beside it
	hexByte
)

// classes is a constant in all but name: nothing writes to it.
var classes = classify()

func classify() (t [256]class) {
	for c := range len(t) {
		b := byte(c)
		letter := 'a' <= b|0x20 && b|0x20 <= 'z'
		if letter || isDigit(b) {
			t[c] |= token | hostByte
		}
		if b == '\t' || b >= ' ' && b != 0x7f {
			t[c] |= text
		}
		if b > ' ' && b < 0x7f && b != '#' && b != '\\' {
			t[c] |= targetByte
		}
		if isDigit(b) || 'a' <= b|0x20 && b|0x20 <= 'f' && letter {
			t[c] |= hexByte
		}
	}
	for _, b := range []byte("!#$%&'*+-.^_`|~") {
		t[b] |= token
	}
	for _, b := range []byte(".-:[]") {
		t[b] |= hostByte
	}
	return t
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func hexDigit(c byte) (byte, bool) {
	switch {
	case isDigit(c):
		return c - '0', true
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10, true
	}
	return 0, false
}

func isToken(b []byte) bool {
	for _, c := range b {
		if classes[c]&token == 0 {
			return false
		}
	}
	return len(b) > 0
}

// isText looks at eight bytes at once, as most of a head are values. Whatever
// may hold a control character is looked at byte by byte.
func isText(b []byte) bool {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	for len(b) >= 8 {
		x := binary.LittleEndian.Uint64(b)
		del := x ^ 0x7f*ones
		if ((x-0x20*ones)&^x|(del-ones)&^del)&high != 0 && !isTextSlow(b[:8]) {
			return false
		}
		b = b[8:]
	}
	return isTextSlow(b)
}

func isTextSlow(b []byte) bool {
	all := text
	for _, c := range b {
		all &= classes[c]
	}
	return all != 0
}

// isName reports whether b is name, which is in lower case, in any case of ASCII.
func isName(b []byte, name string) bool {
	if len(b) != len(name) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != name[i] {
			return false
		}
	}
	return true
}

// trim takes optional whitespace off a value (RFC 9110 section 5.6.3).
func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// checkTarget admits the origin-form alone (RFC 9112 section 3.2.1), made of
// what a URI is made of. What it means is package canonical's to say.
//
// RFC 9112 section 3.2.2 has servers accept the absolute-form. We do not: only
// clients of forward proxies send it, and it names the host a second time.
func checkTarget(method, target []byte) Rule {
	switch {
	case len(target) == 0:
		return RequestLine
	case string(method) == "CONNECT" || string(target) == "*":
		return AuthorityForm
	case target[0] == '/':
		return checkBytes(target)
	}
	for i, c := range target {
		if c == ':' && i > 0 {
			return Absolute
		}
		if classes[c]&token == 0 {
			break
		}
	}
	return RequestLine
}

func checkBytes(target []byte) Rule {
	bad := Target
	for i, c := range target {
		switch {
		case classes[c]&targetByte == 0:
			if c == ' ' || c == '\t' {
				return RequestLine
			}
			return bad
		case c == '?':
			bad = Query
		case c == '%' && !isEscape(target[i:]):
			return bad
		}
	}
	return 0
}

func isEscape(b []byte) bool {
	return len(b) >= 3 && classes[b[1]]&hexByte != 0 && classes[b[2]]&hexByte != 0
}
