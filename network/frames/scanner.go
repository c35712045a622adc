package frames

import "time"

// preface is what a client sends first (RFC 9113 section 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Kinds of frames (RFC 9113 section 6), and flags of theirs.
const (
	frameData         = 0
	frameHeaders      = 1
	frameReset        = 3
	frameSettings     = 4
	framePing         = 6
	frameGoAway       = 7
	frameContinuation = 9

	flagEndStream  = 1
	flagEndHeaders = 4
)

const (
	headBytes     = 9
	smallData     = 64   // bytes of a DATA frame that is not worth its head
	settingsCost  = 20   // frames as which one of SETTINGS counts: it is applied and answered
	pingCost      = 2    // and one of PING
	bytesPerFrame = 1024 // of answers, for which a client may send one frame more; some open two windows for each 4 KiB, or for less
)

// frame is what is read of a frame.
type frame struct {
	kind, flags byte
	length      int
	code        uint32 // of RST_STREAM and GOAWAY, where it is known
}

// cost is how much a frame counts that a client sends. Requests and bodies cost
// nothing here: they have limits of their own.
func (f frame) cost() float64 {
	switch f.kind {
	case frameHeaders:
		return 0
	case frameData:
		if f.length >= smallData || f.flags&flagEndStream != 0 {
			return 0
		}
	case frameSettings:
		return settingsCost
	case framePing:
		return pingCost
	}
	return 1
}

// scanner follows frames through bytes, however they are split. It trusts no
// length: net/http refuses those that are too long, and here they are skipped.
type scanner struct {
	skip int // bytes of the preface to come
	head [headBytes]byte
	have int // bytes of head
	left int // bytes of the payload to come
	cur  frame
	code int // bytes of the payload that are known, up to the end of the error code

	inBlock bool
	pieces  int // of the header block that is open, or was the last
	block   int // bytes of it
}

// open reports whether something was begun that must end soon. The payload of
// DATA may take its time: bodies have a pace of their own.
func (s *scanner) open() bool {
	return s.skip > 0 || s.have > 0 || s.inBlock || s.left > 0 && s.cur.kind != frameData
}

// feed takes bytes and calls each for every frame, as soon as enough of it is
// known. It stops at the first rule broken.
func (s *scanner) feed(b []byte, each func(frame) Rule) Rule {
	n := min(s.skip, len(b))
	if at := len(preface) - s.skip; s.skip > 0 && string(b[:n]) != preface[at:at+n] {
		return Preface
	}
	s.skip -= n
	b = b[n:]
	for len(b) > 0 {
		if s.left > 0 {
			n, r := s.payload(b, each)
			if r != 0 {
				return r
			}
			b = b[n:]
			continue
		}
		n := copy(s.head[s.have:], b)
		s.have += n
		b = b[n:]
		if s.have < headBytes {
			return 0
		}
		if r := s.begin(each); r != 0 {
			return r
		}
	}
	return 0
}

// begin takes a whole head.
func (s *scanner) begin(each func(frame) Rule) Rule {
	s.have = 0
	s.left = int(s.head[0])<<16 | int(s.head[1])<<8 | int(s.head[2])
	s.cur = frame{kind: s.head[3], flags: s.head[4], length: s.left}
	s.code = 0
	s.blocks()
	if end := s.cur.codeEnd(); end > 0 && s.left >= end {
		return 0 // its code comes next
	}
	return each(s.cur)
}

// blocks follows header blocks.
func (s *scanner) blocks() {
	switch s.cur.kind {
	case frameHeaders:
		s.pieces, s.block = 0, 0
	case frameContinuation:
	default:
		return
	}
	s.pieces++
	s.block += s.cur.length
	s.inBlock = s.cur.flags&flagEndHeaders == 0
}

// codeEnd is where the error code ends in the payload (RFC 9113 sections 6.4 and 6.8);
// 0: there is none.
func (f frame) codeEnd() int {
	switch f.kind {
	case frameReset:
		return 4
	case frameGoAway:
		return 8
	}
	return 0
}

// payload takes bytes of the payload, and reads the error code, if there is one.
func (s *scanner) payload(b []byte, each func(frame) Rule) (int, Rule) {
	n := min(s.left, len(b))
	s.left -= n
	end := s.cur.codeEnd()
	if s.cur.length < end {
		return n, 0 // it was told with its head
	}
	for _, x := range b[:n] {
		if s.code == end {
			break
		}
		s.cur.code = s.cur.code<<8 | uint32(x) // of 8 bytes, the last 4 stay
		if s.code++; s.code == end {
			if r := each(s.cur); r != 0 {
				return n, r
			}
		}
	}
	return n, 0
}

// bucket is what may be spent: so much at once, so much a second, and what was
// earned, which lasts: a client may take megabytes and open its windows for them
// later, when its reader comes to them.
type bucket struct {
	left, most, rate float64
	earned           float64
	at               time.Time
}

func (b *bucket) take(cost float64, now time.Time, rule Rule) Rule {
	b.left = min(b.most, b.left+b.rate*max(0, now.Sub(b.at).Seconds()))
	b.at = now
	if b.left+b.earned < cost {
		return rule
	}
	paid := min(b.earned, cost)
	b.earned -= paid
	b.left -= cost - paid
	return 0
}

func (b *bucket) earn(n float64) { b.earned += n }
