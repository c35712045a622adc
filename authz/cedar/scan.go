package cedar

import (
	"strings"
	"unicode/utf8"
)

// token is one token of policy text that Cedar's own parser has accepted. The
// AST keeps no positions, so this scanner finds again where things stand.
type token struct {
	start, end int // bytes of the text
	line       int // 1-based
}

// lex splits policy text into tokens and drops comments. It never fails: bytes
// that are no part of Cedar become tokens of their own.
func lex(src string) []token {
	var out []token
	line := 1
	for i := 0; i < len(src); {
		end, skip := lexeme(src[i:])
		if !skip {
			out = append(out, token{i, i + end, line})
		}
		line += strings.Count(src[i:i+end], "\n")
		i += end
	}
	return out
}

// lexeme returns the length of the first lexeme of s, and whether it is space
// or a comment. s is not empty.
func lexeme(s string) (n int, skip bool) {
	switch c := s[0]; {
	case c == ' ' || c == '\t' || c == '\r' || c == '\n':
		return 1, true
	case strings.HasPrefix(s, "//"):
		return until(s, "\n"), true
	case strings.HasPrefix(s, "/*"):
		return 2 + until(s[2:], "*/"), true
	case c == '"':
		return quoted(s), false
	case isWordByte(c):
		return word(s), false
	}
	if len(s) > 1 && strings.Contains(" && || == != <= >= :: ", " "+s[:2]+" ") {
		return 2, false
	}
	_, size := utf8.DecodeRuneInString(s)
	return size, false
}

// until returns the length of s up to and with the first end.
func until(s, end string) int {
	i := strings.Index(s, end)
	if i < 0 {
		return len(s)
	}
	return i + len(end)
}

// quoted returns the length of the string literal that s begins with.
func quoted(s string) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(s)
}

func word(s string) int {
	i := 0
	for i < len(s) && isWordByte(s[i]) {
		i++
	}
	return i
}

func isWordByte(c byte) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c >= utf8.RuneSelf
}

// source is one policy file as tokens.
type source struct {
	text   string
	tokens []token
}

// span is a half-open range of tokens.
type span struct{ from, to int }

// statement is one policy of a source.
type statement struct {
	annotations []span
	effect      int // token of permit or forbid
	scope       span
	clauses     []clause
	end         int // token of the semicolon
}

// clause is one `when` or `unless`.
type clause struct {
	word int  // token of the keyword
	body span // between the braces
}

func (s source) at(i int) string {
	if i >= len(s.tokens) {
		return ""
	}
	return s.text[s.tokens[i].start:s.tokens[i].end]
}

// statements finds the policies of a file, in order.
func (s source) statements() []statement {
	var out []statement
	for i := 0; i < len(s.tokens); {
		var st statement
		st, i = s.statement(i)
		out = append(out, st)
	}
	return out
}

func (s source) statement(i int) (statement, int) {
	var st statement
	for s.at(i) == "@" {
		from := i
		if i += 2; s.at(i) == "(" {
			i = s.closing(i) + 1
		}
		st.annotations = append(st.annotations, span{from, i})
	}
	st.effect = i
	close := s.closing(i + 1)
	st.scope = span{min(i+2, close), close}
	i = close + 1
	for s.at(i) == "when" || s.at(i) == "unless" {
		close = s.closing(i + 1)
		st.clauses = append(st.clauses, clause{i, span{min(i+2, close), close}})
		i = close + 1
	}
	st.end = i
	return st, i + 1
}

// closing returns the token that closes the bracket at token i, or the number
// of tokens.
func (s source) closing(i int) int {
	depth := 0
	for ; i < len(s.tokens); i++ {
		switch s.at(i) {
		case "(", "[", "{":
			depth++
		case ")", "]", "}":
			if depth--; depth <= 0 {
				return i
			}
		}
	}
	return i
}

// conjuncts splits an expression at the && that join it, in brackets or not.
func (s source) conjuncts(e span) []span {
	e = s.bare(e)
	var out []span
	from := e.from
	for i := e.from; i < e.to; i++ {
		switch s.at(i) {
		case "(", "[", "{":
			i = min(s.closing(i), e.to)
		case "||", "if":
			return []span{e} // && binds more tightly, so the whole is one
		case "&&":
			out = append(out, span{from, i})
			from = i + 1
		}
	}
	if len(out) == 0 {
		return []span{e}
	}
	var parts []span
	for _, part := range append(out, span{from, e.to}) {
		parts = append(parts, s.conjuncts(part)...)
	}
	return parts
}

// bare takes away brackets around the whole of e.
func (s source) bare(e span) span {
	for e.to-e.from > 2 && s.at(e.from) == "(" && s.closing(e.from) == e.to-1 {
		e = span{e.from + 1, e.to - 1}
	}
	return e
}

// cut returns the text of e without comments and line breaks.
func (s source) cut(e span) string {
	var b strings.Builder
	for i := e.from; i < min(e.to, len(s.tokens)); i++ {
		if i > e.from && s.tokens[i].start > s.tokens[i-1].end {
			b.WriteByte(' ')
		}
		b.WriteString(s.at(i))
	}
	return b.String()
}

// line returns the line on which token i stands, or 0.
func (s source) line(i int) int {
	if i >= len(s.tokens) {
		return 0
	}
	return s.tokens[i].line
}
