package guide

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/corazawaf/coraza/v3"
	"golang.org/x/net/html"
)

// transform is one t: of SecLang, in two readings: what it makes of an
// alphabet, and what it makes of a value.
type transform struct {
	name string
	// alphabet returns the bytes that may stand in the result of a value over
	// in, and whether every such value is left as it is.
	alphabet func(in alphabet) (out alphabet, same bool)
	// apply returns the result; false if this value is beyond the guide.
	apply func(s string) (string, bool)
}

// transforms are those that the guide knows, by lower-case name. Each apply is
// held against Coraza's own by a fuzz test. fit is Coraza's table; nil is none.
func transforms(fit *bestFit) map[string]transform {
	var blank = runes(" \t\n\v\f\r").with(high) // Unicode has spaces beyond ASCII
	rows := []transform{
		{"lowercase", lowerAlphabet, exact(strings.ToLower)},
		{"removenulls", needs(runes("\x00"), alphabet.itself), exact(func(s string) string { return strings.ReplaceAll(s, "\x00", "") })},
		{"removewhitespace", needs(blank, alphabet.itself), exact(removeWhitespace)},
		{"compresswhitespace", needs(blank, adds(" ")), exact(compressWhitespace)},
		{"replacecomments", needsAll("/*", adds(" ")), exact(replaceComments)},
		{"removecommentschar", commentsAlphabet, exact(removeCommentsChar)},
		{"cmdline", cmdAlphabet, exact(cmdLine)},
		{"normalizepath", needs(runes("/."), adds(".")), exact(normalizePath)},
		{"normalisepath", needs(runes("/."), adds(".")), exact(normalizePath)},
		{"normalizepathwin", needs(runes(`/.\: `), adds("./")), exact(normalizePathWin)},
		{"normalisepathwin", needs(runes(`/.\: `), adds("./")), exact(normalizePathWin)},
		{"urldecodeuni", urlAlphabet, fit.urlDecodeUni},
		{"utf8tounicode", needs(alphabet{}.with(high), adds("%u0123456789abcdef")), exact(utf8ToUnicode)},
		{"htmlentitydecode", needs(runes("&"), anything), exact(html.UnescapeString)},
		{"jsdecode", needs(runes(`\`), anything), exact(jsDecode)},
		{"cssdecode", needs(runes(`\`), anything), beyond(`\`)},
		{"escapeseqdecode", needs(runes(`\`), anything), beyond(`\`)},
		// Never the same and not closed on any alphabet.
		{"base64decode", never(anything), exact(base64Decode)},
		{"length", never(func(alphabet) alphabet { return runes("0123456789") }), exact(func(s string) string { return strconv.Itoa(len(s)) })},
	}
	out := make(map[string]transform, len(rows))
	for _, r := range rows {
		out[r.name] = r
	}
	return out
}

func exact(fn func(string) string) func(string) (string, bool) {
	return func(s string) (string, bool) { return fn(s), true }
}

// beyond is a transformation that the guide knows only where it does nothing.
func beyond(escape string) func(string) (string, bool) {
	return func(s string) (string, bool) { return s, !strings.Contains(s, escape) }
}

// needs leaves a value alone unless it holds one of trigger.
func needs(trigger alphabet, out func(alphabet) alphabet) func(alphabet) (alphabet, bool) {
	return func(in alphabet) (alphabet, bool) {
		if !in.meets(trigger) {
			return in, true
		}
		return out(in), false
	}
}

// needsAll leaves a value alone unless it holds all of trigger.
func needsAll(trigger string, out func(alphabet) alphabet) func(alphabet) (alphabet, bool) {
	return func(in alphabet) (alphabet, bool) {
		for _, c := range trigger {
			if !in.has(c) {
				return in, true
			}
		}
		return out(in), false
	}
}

func never(out func(alphabet) alphabet) func(alphabet) (alphabet, bool) {
	return func(in alphabet) (alphabet, bool) { return out(in), false }
}

func adds(s string) func(alphabet) alphabet {
	return func(in alphabet) alphabet { return in.or(runes(s)) }
}

func anything(alphabet) alphabet { return everything() }

func lowerAlphabet(in alphabet) (alphabet, bool) {
	if !in.meets(runes("ABCDEFGHIJKLMNOPQRSTUVWXYZ").with(high)) {
		return in, true
	}
	return in.lower(), false
}

func cmdAlphabet(in alphabet) (alphabet, bool) {
	if !in.meets(runes("ABCDEFGHIJKLMNOPQRSTUVWXYZ\"'\\^ ,;\t\r\n/(")) {
		return in, true
	}
	return in.lower().or(runes(" ")), false
}

func commentsAlphabet(in alphabet) (alphabet, bool) {
	return in, !in.meets(runes("#-")) && !(in.has('/') && in.has('*'))
}

func urlAlphabet(in alphabet) (alphabet, bool) {
	if in.has('%') {
		return everything(), false
	}
	if in.has('+') {
		return in.or(runes(" ")), false
	}
	return in, true
}

func removeWhitespace(s string) string {
	if isASCII(s) {
		out := make([]byte, 0, len(s))
		for i := range len(s) {
			if !isBlank(s[i]) {
				out = append(out, s[i])
			}
		}
		return string(out)
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return -1
		}
		return r
	}, s)
}

// compressWhitespace makes one space of the blanks of Latin-1 that stand
// together, a lone byte 0xA0 among them.
func compressWhitespace(s string) string {
	out := make([]byte, 0, len(s))
	after := false
	for i := 0; i < len(s); {
		n := 1
		blank := isBlank(s[i]) || s[i] == 0xa0
		if s[i] >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			n, blank = size, blank || r == 0x85 || r == 0xa0
		}
		switch {
		case !blank:
			out = append(out, s[i:i+n]...)
		case !after:
			out = append(out, ' ')
		}
		after = blank
		i += n
	}
	return string(out)
}

func isBlank(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

// replaceComments makes each /* */ one space, an open one too.
func replaceComments(s string) string {
	var out strings.Builder
	for {
		head, tail, found := strings.Cut(s, "/*")
		out.WriteString(head)
		if !found {
			return out.String()
		}
		out.WriteByte(' ')
		_, s, _ = strings.Cut(tail, "*/")
	}
}

func removeCommentsChar(s string) string {
	out := make([]byte, 0, len(s))
next:
	for i := 0; i < len(s); {
		for _, mark := range [...]string{"/*", "*/", "<!--", "-->", "--", "#"} {
			if strings.HasPrefix(s[i:], mark) {
				i += len(mark)
				continue next
			}
		}
		out = append(out, s[i])
		i++
	}
	return string(out)
}

// cmdLine drops quotes, backslashes and carets, folds delimiters into one
// space, none before / or (, and lowers ASCII.
func cmdLine(s string) string {
	out := make([]byte, 0, len(s))
	space := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case '"', '\'', '\\', '^':
		case ' ', ',', ';', '\t', '\r', '\n':
			if !space {
				out = append(out, ' ')
			}
			space = true
		case '/', '(':
			if space {
				out = out[:len(out)-1]
			}
			out, space = append(out, c), false
		default:
			out, space = append(out, lower(c)), false
		}
	}
	return string(out)
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

func normalizePath(s string) string {
	if s == "" {
		return s
	}
	clean := path.Clean(s)
	if clean == "." {
		return ""
	}
	if s[len(s)-1] == '/' {
		return clean + "/"
	}
	return clean
}

// normalizePathWin also drops what Windows drops: alternate data streams, and
// dots and spaces at the end of a component.
func normalizePathWin(s string) string {
	if isName(s) {
		return s
	}
	s = withoutStream(normalizePath(strings.ReplaceAll(s, `\`, "/")))
	if !endsLoosely(s) {
		return s
	}
	var kept []string
	for seg := range strings.SplitSeq(s, "/") {
		if strings.Trim(seg, ".") == "" {
			kept = append(kept, seg)
		} else if t := strings.TrimRight(seg, ". "); t != "" {
			kept = append(kept, t)
		}
	}
	return strings.Join(kept, "/")
}

// isName reports whether s is one component, of no drive and no stream, that ends
// as Windows leaves it; or nothing.
func isName(s string) bool {
	if s == "" {
		return true
	}
	last := s[len(s)-1]
	return last != '.' && last != ' ' && strings.IndexByte(s, '/') < 0 && strings.IndexByte(s, '\\') < 0 && strings.IndexByte(s, ':') < 0
}

func endsLoosely(s string) bool {
	for seg := range strings.SplitSeq(s, "/") {
		if strings.Trim(seg, ".") != "" && strings.TrimRight(seg, ". ") != seg {
			return true
		}
	}
	return false
}

func withoutStream(s string) string {
	drive := ""
	if len(s) >= 2 && s[1] == ':' && unicode.IsLetter(rune(s[0])) && s[0] < 0x80 {
		drive, s = s[:2], s[2:]
	}
	s, slash := strings.CutSuffix(s, "/")
	base := s[strings.LastIndexByte(s, '/')+1:]
	if name, _, stream := strings.Cut(base, ":"); stream {
		s = s[:len(s)-len(base)+len(name)]
	}
	if slash {
		s += "/"
	}
	return drive + s
}

// bestFit is what Coraza makes of %uXXXX, by code: one byte each.
type bestFit [1 << 16]byte

// learnFit has Coraza decode all codes once.
func learnFit() (*bestFit, error) {
	w, err := coraza.NewWAF(coraza.NewWAFConfig().WithDirectives(
		`SecRuleEngine DetectionOnly
SecRule ARGS:v "@unconditionalMatch" "id:1,phase:1,log,pass,t:none,t:urlDecodeUni"`))
	if err != nil {
		return nil, err
	}
	var all strings.Builder
	for code := range len(bestFit{}) {
		fmt.Fprintf(&all, "%%u%04x", code)
	}
	tx := w.NewTransaction()
	tx.AddGetRequestArgument("v", all.String())
	tx.ProcessRequestHeaders()
	fit := &bestFit{}
	for _, m := range tx.MatchedRules() {
		if n := copy(fit[:], m.MatchedDatas()[0].Value()); n == len(fit) {
			return fit, tx.Close()
		}
	}
	return nil, errors.Join(errors.New("Coraza does not decode %uXXXX to one byte each"), tx.Close())
}

// urlDecodeUni decodes +, %XX and %uXXXX once. Without a table a value with %u
// is beyond it.
func (f *bestFit) urlDecodeUni(s string) (string, bool) {
	if !strings.ContainsAny(s, "%+") {
		return s, true
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); {
		c, n := s[i], 1
		switch {
		case c == '+':
			c = ' '
		case c != '%':
		case i+1 < len(s) && lower(s[i+1]) == 'u':
			if f == nil {
				return "", false
			}
			if n = 1; i+5 < len(s) && allHex(s[i+2:i+6]) {
				c, n = f[int(unhex(s[i+2]))<<12|int(unhex(s[i+3]))<<8|int(unhex(s[i+4]))<<4|int(unhex(s[i+5]))], 6
			}
		case i+2 < len(s) && allHex(s[i+1:i+3]):
			c, n = unhex(s[i+1])<<4|unhex(s[i+2]), 3
		}
		out = append(out, c)
		i += n
	}
	return string(out), true
}

func allHex(s string) bool {
	for i := range len(s) {
		if !isHex(s[i]) {
			return false
		}
	}
	return true
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return lower(c) - 'a' + 10
}

func utf8ToUnicode(s string) string {
	if isASCII(s) {
		return s
	}
	out := make([]byte, 0, len(s)+8)
	for _, r := range s {
		if r < 0x80 {
			out = append(out, byte(r))
			continue
		}
		hex := strconv.FormatInt(int64(r), 16)
		out = append(out, "%u0000"[:2+max(0, 4-len(hex))]...)
		out = append(out, hex...)
	}
	return string(out)
}

// base64Decode decodes up to the first byte that is not of the alphabet.
// Line ends are skipped.
func base64Decode(s string) string {
	out := make([]byte, 0, len(s)*3/4+3)
	acc, n := 0, 0
	for i := 0; i < len(s); i++ {
		if s[i] == '\r' || s[i] == '\n' {
			continue
		}
		v := base64Value(s[i])
		if v < 0 {
			break
		}
		if acc, n = acc<<6|v, n+1; n == 4 {
			out = append(out, byte(acc>>16), byte(acc>>8), byte(acc))
			acc, n = 0, 0
		}
	}
	switch n {
	case 2:
		out = append(out, byte(acc>>4))
	case 3:
		out = append(out, byte(acc>>10), byte(acc>>2))
	}
	return string(out)
}

func base64Value(c byte) int {
	switch {
	case c >= 'A' && c <= 'Z':
		return int(c - 'A')
	case c >= 'a' && c <= 'z':
		return int(c-'a') + 26
	case c >= '0' && c <= '9':
		return int(c-'0') + 52
	case c == '+':
		return 62
	case c == '/':
		return 63
	}
	return -1
}

func isASCII(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
