package strictjson

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// escape writes a member name as a JSON pointer token (RFC 6901, section 3).
var escape = strings.NewReplacer("~", "~0", "/", "~1")

// text parses a string. The common one, without escapes, is one slice.
func (d *decoder) text() (string, *Error) {
	d.pos++ // the quote
	start := d.pos
	d.plain()
	for d.pos < len(d.data) {
		switch c := d.data[d.pos]; {
		case c == '"':
			s := d.data[start:d.pos]
			d.pos++
			return s, nil
		case c == '\\':
			return d.escaped(start)
		default:
			if err := d.rune(); err != nil {
				return "", err
			}
		}
	}
	return "", d.fail("string not closed")
}

// plain steps over characters that need no look, which most strings have only.
func (d *decoder) plain() {
	for d.pos < len(d.data) {
		c := d.data[d.pos]
		if c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			return
		}
		d.pos++
	}
}

// escaped goes on from the first escape of the string that began at start.
func (d *decoder) escaped(start int) (string, *Error) {
	var b strings.Builder
	for d.pos < len(d.data) {
		switch c := d.data[d.pos]; {
		case c == '"':
			b.WriteString(d.data[start:d.pos])
			d.pos++
			return b.String(), nil
		case c == '\\':
			b.WriteString(d.data[start:d.pos])
			r, err := d.escape()
			if err != nil {
				return "", err
			}
			b.WriteRune(r)
			start = d.pos
		default:
			if err := d.rune(); err != nil {
				return "", err
			}
		}
	}
	return "", d.fail("string not closed")
}

// rune steps over one unescaped character.
func (d *decoder) rune() *Error {
	if c := d.data[d.pos]; c < utf8.RuneSelf {
		if c < ' ' {
			return d.fail("control character in a string")
		}
		d.pos++
		return nil
	}
	r, size := utf8.DecodeRuneInString(d.data[d.pos:])
	if r == utf8.RuneError && size == 1 {
		return d.fail("invalid UTF-8")
	}
	d.pos += size
	return nil
}

func (d *decoder) escape() (rune, *Error) {
	d.pos++ // the backslash
	c := d.peek()
	d.pos++
	switch c {
	case '"', '\\', '/':
		return rune(c), nil
	case 'b':
		return '\b', nil
	case 'f':
		return '\f', nil
	case 'n':
		return '\n', nil
	case 'r':
		return '\r', nil
	case 't':
		return '\t', nil
	case 'u':
		return d.unicode()
	}
	d.pos = min(d.pos-1, len(d.data))
	return 0, d.fail("unknown escape")
}

// unicode parses the digits of \u, and a whole surrogate pair: half of one is
// no character, and readers disagree about what to make of it.
func (d *decoder) unicode() (rune, *Error) {
	r, err := d.hex4()
	if err != nil || !utf16.IsSurrogate(r) {
		return r, err
	}
	if !d.skip('\\') || !d.skip('u') {
		return 0, d.fail("lone surrogate")
	}
	low, err := d.hex4()
	if err != nil {
		return 0, err
	}
	pair := utf16.DecodeRune(r, low)
	if pair == utf8.RuneError {
		return 0, d.fail("lone surrogate")
	}
	return pair, nil
}

func (d *decoder) hex4() (rune, *Error) {
	if d.pos+4 > len(d.data) {
		return 0, d.fail("escape cut short")
	}
	n, err := strconv.ParseUint(d.data[d.pos:d.pos+4], 16, 16)
	if err != nil {
		return 0, d.fail("escape is not hexadecimal")
	}
	d.pos += 4
	return rune(n), nil
}

// folded watches the member names of one object for case variants. Most
// objects have lower-case names only, which are their own fold: then the object
// itself is the index and names stays nil.
type folded struct {
	names map[string]bool
}

// clash says which rule name breaks beside the members of obj, "" if none, and
// remembers name.
func (f *folded) clash(obj map[string]any, name string) string {
	if _, ok := obj[name]; ok {
		return "member name twice"
	}
	fold := foldName(name)
	if f.names == nil {
		if fold == name {
			return ""
		}
		f.names = make(map[string]bool, len(obj)+1)
		for k := range obj {
			f.names[k] = true
		}
	}
	if f.names[fold] {
		return "member names that differ only by case"
	}
	f.names[fold] = true
	return ""
}

// foldName maps all names that strings.EqualFold holds equal to one of them,
// in lower case where it is ASCII. It returns name itself when that is the one.
func foldName(name string) string {
	if isLower(name) {
		return name
	}
	return strings.Map(foldRune, name)
}

// isLower reports whether name is ASCII without capitals.
func isLower(name string) bool {
	for i := range len(name) {
		if c := name[i]; c >= utf8.RuneSelf || 'A' <= c && c <= 'Z' {
			return false
		}
	}
	return true
}

func foldRune(r rune) rune {
	if 'A' <= r && r <= 'Z' {
		return r + 'a' - 'A'
	}
	if r < utf8.RuneSelf {
		return r
	}
	least := r
	for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
		least = min(least, next)
	}
	if 'A' <= least && least <= 'Z' { // the Kelvin sign and the long s
		return least + 'a' - 'A'
	}
	return least
}
