package guide

import "strings"

// jsDecode decodes the escapes of JavaScript once, to one byte each.
func jsDecode(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '\\' && i+1 < len(s) {
			var n int
			c, n = jsEscape(s[i+1:])
			i += n
		}
		out = append(out, c)
	}
	return string(out)
}

// jsEscape reads what follows a backslash: the byte, and how long it was.
func jsEscape(s string) (c byte, n int) {
	switch {
	case s[0] == 'u' && braced(s[1:]) > 0:
		n = braced(s[1:])
		return lowByte(s[2 : 2+n]), n + len("u{}")
	case s[0] == 'u' && len(s) >= 5 && allHex(s[1:5]):
		return lowByte(s[1:5]), 5
	case s[0] == 'x' && len(s) >= 3 && allHex(s[1:3]):
		return lowByte(s[1:3]), 3
	case octal(s) > 0:
		for _, d := range []byte(s[:octal(s)]) {
			c = c<<3 | (d - '0')
		}
		return c, octal(s)
	}
	if at := strings.IndexByte("abfnrtv", s[0]); at >= 0 {
		return "\a\b\f\n\r\t\v"[at], 1
	}
	return s[0], 1
}

// braced is how many digits, up to six, stand in {} at the beginning of s.
func braced(s string) int {
	n := 0
	for n < 6 && n+1 < len(s) && isHex(s[n+1]) {
		n++
	}
	if s == "" || s[0] != '{' || n+1 >= len(s) || s[n+1] != '}' {
		return 0
	}
	return n
}

// lowByte is the last byte of a hexadecimal number; of a full-width form of
// ASCII, the ASCII.
func lowByte(hex string) byte {
	code := 0
	for i := range len(hex) {
		code = code<<4 | int(unhex(hex[i]))
	}
	if code >= 0xff01 && code <= 0xff5e {
		return byte(code) + 0x20
	}
	return byte(code)
}

// octal is how many digits of an octal number of one byte s begins with.
func octal(s string) int {
	n := 0
	for n < 3 && n < len(s) && s[n] >= '0' && s[n] <= '7' {
		n++
	}
	if n == 3 && s[0] > '3' {
		return 2
	}
	return n
}
