package framing

import "bytes"

// phase is where in a message the machine stands.
type phase uint8

const (
	requestLine phase = iota // the zero value: a message begins
	fieldLine
	sized     // a body by Content-Length
	chunkSize // its line
	chunkData
	chunkEnd // CRLF after the data
	lastLine // CRLF after the chunk of size 0
)

// Bounds of one line of chunked framing: 8 digits and CRLF, or only CRLF.
const (
	maxDigits    = 8
	maxChunkLine = maxDigits + 2
	keepLine     = 4 << 10 // a line buffer beyond this is not kept between requests
)

// machine follows the framing of HTTP/1 requests on one connection. It takes
// bytes in pieces of any size and stops where a message ends, so that nobody
// reads across that point before the message is answered.
type machine struct {
	limit int // of a head, bytes

	phase phase
	line  []byte // of the current line, what earlier pieces brought
	head  int    // bytes of the head up to the current line
	left  uint64 // of the body or chunk
	facts facts
}

// facts are what the head has said so far about its framing.
type facts struct {
	old    bool // HTTP/1.0
	host   bool
	sized  bool
	coded  bool
	length uint64
}

// atStart reports that nothing of a message has been taken.
func (m *machine) atStart() bool { return m.phase == requestLine && len(m.line) == 0 }

// inBody reports that a head has been taken whole and its body has not.
func (m *machine) inBody() bool { return m.phase >= sized }

// feed takes bytes from b and returns how many: up to the end of the message,
// or all. What comes with a Rule other than 0 must not be passed on, and the
// machine is of no use after it.
func (m *machine) feed(b []byte) (n int, r Rule) {
	for n < len(b) {
		k, done, r := m.step(b[n:])
		n += k
		if done || r != 0 {
			return n, r
		}
	}
	return n, 0
}

func (m *machine) step(b []byte) (n int, done bool, r Rule) {
	if m.phase == sized || m.phase == chunkData {
		return m.skip(b)
	}
	i := bytes.IndexByte(b, '\n')
	if i < 0 {
		return len(b), false, m.keep(b)
	}
	line := b[:i+1]
	if len(m.line) > 0 {
		if r := m.keep(line); r != 0 {
			return i + 1, false, r
		}
		line = m.line
	}
	done, r = m.take(line)
	m.line = m.line[:0]
	if done {
		m.rest()
	}
	return i + 1, done, r
}

// skip passes body bytes on unseen.
func (m *machine) skip(b []byte) (n int, done bool, r Rule) {
	n = int(min(uint64(len(b)), m.left))
	m.left -= uint64(n)
	switch {
	case m.left > 0:
		return n, false, 0
	case m.phase == chunkData:
		m.phase = chunkEnd
		return n, false, 0
	}
	m.phase = requestLine
	return n, true, 0
}

// keep remembers the piece of a line whose end has not come.
func (m *machine) keep(b []byte) Rule {
	n := len(m.line) + len(b)
	switch {
	case m.inBody() && n > maxChunkLine:
		return m.longChunkLine(b)
	case !m.inBody() && m.head+n > m.limit:
		return HeadTooLong
	}
	m.line = append(m.line, b...)
	// net/http judges these two bytes as soon as it has them.
	switch broken := !bytes.HasPrefix([]byte("\r\n"), m.line); {
	case broken && m.phase == chunkEnd:
		return ChunkLine
	case broken && m.phase == lastLine && m.line[0] != '\n':
		return Trailers
	}
	return 0
}

// longChunkLine tells what is wrong with a line that is longer than any good one.
func (m *machine) longChunkLine(b []byte) Rule {
	line := append(m.line, b[:min(len(b), maxChunkLine)]...)
	if !bytes.HasSuffix(line, []byte("\n")) {
		line = append(line, "\r\n"...) // judged for what it says, not for how it ends
	}
	if _, r := m.take(line); r != 0 {
		return r
	}
	return ChunkLine
}

// rest keeps an idle connection small.
func (m *machine) rest() {
	if cap(m.line) > keepLine {
		m.line = nil
	}
}

// take judges one whole line.
func (m *machine) take(line []byte) (done bool, r Rule) {
	switch m.phase {
	case chunkSize:
		return false, m.takeChunkSize(line)
	case chunkEnd:
		if string(line) != "\r\n" {
			return false, ChunkLine
		}
		m.phase = chunkSize
		return false, 0
	case lastLine:
		return m.takeLast(line)
	}
	if m.head += len(line); m.head > m.limit {
		return false, HeadTooLong
	}
	if m.phase == requestLine {
		return false, m.takeRequestLine(line)
	}
	return m.takeField(line)
}

func (m *machine) takeLast(line []byte) (done bool, r Rule) {
	switch string(line) {
	case "\r\n":
		m.phase = requestLine
		return true, 0
	case "\n":
		return false, BareLFTrailer
	}
	return false, Trailers
}

func (m *machine) takeRequestLine(line []byte) Rule {
	m.facts = facts{}
	text, ok := bytes.CutSuffix(line, []byte("\r\n"))
	switch {
	case len(text) == 0 || string(text) == "\n":
		return EmptyLine
	case !ok:
		return BareLF
	}
	sp := bytes.IndexByte(text, ' ')
	end := bytes.LastIndexByte(text, ' ')
	if sp <= 0 || end == sp || !isToken(text[:sp]) {
		return RequestLine
	}
	if r := m.takeVersion(text[:sp], text[end+1:]); r != 0 {
		return r
	}
	m.phase = fieldLine
	return checkTarget(text[:sp], text[sp+1:end])
}

func (m *machine) takeVersion(method, version []byte) Rule {
	switch string(version) {
	case "HTTP/1.1":
		return 0
	case "HTTP/1.0":
		m.facts.old = true
		return 0
	}
	if string(method) == "PRI" {
		return Preface
	}
	name, number, _ := bytes.Cut(version, []byte("/"))
	if string(name) == "HTTP" && len(number) == 3 && isDigit(number[0]) && number[1] == '.' && isDigit(number[2]) {
		return Version
	}
	return RequestLine
}

// takeField judges a field line, or the empty line after the last.
func (m *machine) takeField(line []byte) (done bool, r Rule) {
	if len(line) < 2 || line[len(line)-2] != '\r' {
		return false, BareLF
	}
	line = line[:len(line)-2]
	if len(line) == 0 {
		return m.endHead()
	}
	if line[0] == ' ' || line[0] == '\t' {
		return false, Fold
	}
	colon := 0
	for colon < len(line) && classes[line[colon]]&token != 0 {
		colon++
	}
	if colon == 0 || colon == len(line) || line[colon] != ':' {
		return false, FieldLine
	}
	if bytes.IndexByte(line[:colon], '_') >= 0 {
		return false, Underscore
	}
	value := line[colon+1:]
	if !isText(value) {
		return false, FieldValue
	}
	return false, m.note(line[:colon], value)
}

// note remembers what a field says about framing.
func (m *machine) note(name, value []byte) Rule {
	switch len(name) {
	case len("host"):
		if isName(name, "host") {
			return m.noteHost(trim(value))
		}
	case len("expect"):
		if isName(name, "expect") && !isName(trim(value), "100-continue") {
			return Expectation
		}
	case len("trailer"):
		if isName(name, "trailer") {
			return Trailers
		}
	case len("content-length"):
		if isName(name, "content-length") {
			return m.noteLength(trim(value))
		}
	case len("transfer-encoding"):
		if isName(name, "transfer-encoding") {
			return m.noteCoding(trim(value))
		}
	}
	return 0
}

func (m *machine) noteHost(value []byte) Rule {
	if m.facts.host || len(value) == 0 {
		return Host
	}
	for _, c := range value {
		if classes[c]&hostByte == 0 {
			return Host
		}
	}
	m.facts.host = true
	return 0
}

func (m *machine) noteLength(value []byte) Rule {
	if m.facts.sized {
		return LengthTwice
	}
	if len(value) == 0 || len(value) > 18 { // 18 digits fit an int64
		return Length
	}
	var n uint64
	for _, c := range value {
		if !isDigit(c) {
			return Length
		}
		n = n*10 + uint64(c-'0')
	}
	if value[0] == '0' && len(value) > 1 {
		return LengthZeros
	}
	m.facts.sized, m.facts.length = true, n
	return 0
}

func (m *machine) noteCoding(value []byte) Rule {
	if m.facts.coded || !m.facts.old && !isName(value, "chunked") {
		return Coding
	}
	m.facts.coded = true
	return 0
}

// endHead settles how the body is framed (RFC 9112 section 6.3).
func (m *machine) endHead() (done bool, r Rule) {
	f := &m.facts
	switch {
	case f.old && f.coded && f.sized:
		return false, BothOn10
	case f.old && f.coded:
		return false, CodingOn10
	case f.coded && f.sized:
		return false, LengthAndCoding
	case !f.host:
		return false, Host
	}
	m.head = 0
	switch {
	case f.coded:
		m.phase = chunkSize
		return false, 0
	case f.length > 0:
		m.phase, m.left = sized, f.length
		return false, 0
	}
	m.phase = requestLine
	return true, 0
}

func (m *machine) takeChunkSize(line []byte) Rule {
	text, ok := bytes.CutSuffix(line, []byte("\r\n"))
	switch {
	case bytes.IndexByte(line, ';') >= 0:
		return ChunkExtension
	case !ok:
		return ChunkLine
	}
	size := bytes.Trim(text, " \t")
	var n uint64
	for _, c := range size {
		d, ok := hexDigit(c)
		if !ok {
			return ChunkLine
		}
		n = n<<4&(1<<40-1) | uint64(d)
	}
	switch {
	case len(size) == 0:
		return ChunkLine
	case len(size) != len(text) || len(size) > maxDigits || size[0] == '0' && len(size) > 1:
		return ChunkPadding
	case n == 0:
		m.phase = lastLine
		return 0
	}
	m.phase, m.left = chunkData, n
	return 0
}
