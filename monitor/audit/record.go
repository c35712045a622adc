package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"math"
	"strconv"
)

// The fixed pieces of a line. A record has one spelling only, so that no byte
// of the file is outside the hash or these constants.
const (
	pieceSeq   = `{"seq":`
	piecePrev  = `,"prev":"`
	pieceEvent = `","event":`
	pieceHash  = `,"hash":"`
	pieceEnd   = `"}`
	tailLen    = len(pieceHash) + 2*sha256.Size + len(pieceEnd)

	hashDomain = "rampart-audit-v1\n"

	maxEvent = 64 << 10       // bytes of one encoded event
	maxLine  = maxEvent + 512 // bytes of one line with its newline
)

// record is one line of a segment.
type record struct {
	seq   uint64
	prev  [sha256.Size]byte
	event []byte // JSON, exactly as it stands in the file
	hash  [sha256.Size]byte
}

// sum computes the hash that a record must carry.
func (r *record) sum() [sha256.Size]byte {
	var h hasher
	return h.sum(r)
}

// hasher computes the hashes of many records. The zero value is ready; it is for
// one goroutine.
type hasher struct {
	hash hash.Hash
	head [len(hashDomain) + 8 + sha256.Size]byte // what comes before the event
	out  [sha256.Size]byte
}

func (h *hasher) sum(r *record) [sha256.Size]byte {
	if h.hash == nil {
		h.hash = sha256.New()
	}
	n := copy(h.head[:], hashDomain)
	binary.BigEndian.PutUint64(h.head[n:], r.seq)
	copy(h.head[n+8:], r.prev[:])
	h.hash.Reset()
	h.hash.Write(h.head[:])
	h.hash.Write(r.event)
	h.hash.Sum(h.out[:0])
	return h.out
}

// appendTo appends the line of r, newline included.
func (r *record) appendTo(b []byte) []byte {
	b = append(b, pieceSeq...)
	b = strconv.AppendUint(b, r.seq, 10)
	b = append(b, piecePrev...)
	b = hex.AppendEncode(b, r.prev[:])
	b = append(b, pieceEvent...)
	b = append(b, r.event...)
	b = append(b, pieceHash...)
	b = hex.AppendEncode(b, r.hash[:])
	b = append(b, pieceEnd...)
	return append(b, '\n')
}

// parseRecord reads a line without its newline. The event aliases line. It
// checks the shape, not the hash.
func parseRecord(line []byte) (record, error) {
	var r record
	rest, ok := bytes.CutPrefix(line, []byte(pieceSeq))
	if !ok {
		return r, fmt.Errorf("a record starts with %s", pieceSeq)
	}
	digits, rest, ok := bytes.Cut(rest, []byte(piecePrev))
	if !ok {
		return r, fmt.Errorf("%q is missing after seq", piecePrev)
	}
	seq, err := parseSeq(digits)
	if err != nil {
		return r, err
	}
	r.seq = seq
	if len(rest) < 2*sha256.Size+len(pieceEvent)+tailLen {
		return r, fmt.Errorf("the record is cut short")
	}
	prev, rest := rest[:2*sha256.Size], rest[2*sha256.Size:]
	if !parseHash(&r.prev, prev) {
		return r, fmt.Errorf("prev is not 64 lower-case hex digits")
	}
	if rest, ok = bytes.CutPrefix(rest, []byte(pieceEvent)); !ok {
		return r, fmt.Errorf("%q is missing after prev", pieceEvent)
	}
	event, tail := rest[:len(rest)-tailLen], rest[len(rest)-tailLen:]
	hash, okHead := bytes.CutPrefix(tail, []byte(pieceHash))
	hash, okEnd := bytes.CutSuffix(hash, []byte(pieceEnd))
	if !okHead || !okEnd || !parseHash(&r.hash, hash) {
		return r, fmt.Errorf("the record does not end with its hash")
	}
	r.event = event
	return r, nil
}

// parseSeq reads a positive decimal number in its one spelling.
func parseSeq(b []byte) (uint64, error) {
	n, err := strconv.ParseUint(string(b), 10, 64)
	if err != nil || n == 0 || n == math.MaxUint64 || b[0] == '0' || b[0] == '+' {
		return 0, fmt.Errorf("seq is not a positive decimal number")
	}
	return n, nil
}

func parseHash(dst *[sha256.Size]byte, src []byte) bool {
	for _, c := range src {
		if c >= 'A' && c <= 'F' {
			return false
		}
	}
	if len(src) != 2*sha256.Size {
		return false
	}
	_, err := hex.Decode(dst[:], src)
	return err == nil
}
