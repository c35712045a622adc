package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
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
	h := sha256.New()
	var head [len(hashDomain) + 8 + sha256.Size]byte
	n := copy(head[:], hashDomain)
	binary.BigEndian.PutUint64(head[n:], r.seq)
	copy(head[n+8:], r.prev[:])
	h.Write(head[:])
	h.Write(r.event)
	var out [sha256.Size]byte
	h.Sum(out[:0])
	return out
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

// encode renders e as the bytes that will be hashed. An event over maxEvent is
// cut: an attacker's long input must neither fill the disk nor keep his deed
// out of the log. What is cut is replaced by its beginning, length and hash.
func encode(e Event) ([]byte, error) {
	b, err := json.Marshal(e)
	if err != nil || len(b) <= maxEvent {
		return b, err
	}
	e.Detail = cutValues(e.Detail)
	short, err := json.Marshal(e)
	if err != nil || len(short) <= maxEvent {
		return short, err
	}
	for _, s := range []*string{&e.Action, &e.Control, &e.Flow, &e.Layer, &e.Code, &e.Subject, &e.Actor, &e.Resource, &e.Trace, &e.Peer} {
		*s = cut(*s)
	}
	e.Policies = nil
	e.Detail = map[string]string{"cut": cut(string(b))}
	return json.Marshal(e)
}

func cutValues(m map[string]string) map[string]string {
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[k] = cut(v)
	}
	return out
}

// cut shortens a long string to its first 256 bytes, its length and hash.
func cut(s string) string {
	const keep = 256
	if len(s) <= keep+128 {
		return s
	}
	return fmt.Sprintf("%s...[%d bytes, sha256 %x]", s[:keep], len(s), sha256.Sum256([]byte(s)))
}
