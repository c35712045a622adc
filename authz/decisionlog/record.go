package decisionlog

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/pdp"
)

const (
	keySize = 32
	prefix  = "rampart-decision-1\n"
	hexSize = 2 * sha256.Size
	// Members of the maps that hold values of unknown form and size.
	maxNodes  = 20_000
	maxNested = 64
	maxSpare  = 4 << 20         // bytes of a batch whose memory is used again
	maxKept   = 4 * recordBytes // and of a record
)

// record is the JSON of one line.
type record struct {
	Question pdp.Question     `json:"question"`
	Decision rampart.Decision `json:"decision"`
	Hidden   []string         `json:"hidden,omitzero"` // "attrs.total": in Sealed, not in Question
	Sealed   []byte           `json:"sealed,omitzero"`
}

// bound leaves out of q what is out of all bounds, which no policy was asked about.
func bound(q *pdp.Question) {
	if q.Request == nil {
		return
	}
	left := maxNodes
	if within(q.Request.Resource.Attrs, 0, &left) && within(q.Request.Context, 0, &left) {
		return
	}
	r := *q.Request
	r.Resource.Attrs, r.Context = nil, nil
	q.Request = &r
}

// within reports whether a JSON-like value is within the bounds.
func within(v any, depth int, left *int) bool {
	if *left--; *left < 0 || depth > maxNested {
		return false
	}
	switch v := v.(type) {
	case map[string]any:
		for _, e := range v {
			if !within(e, depth+1, left) {
				return false
			}
		}
	case []any:
		for _, e := range v {
			if !within(e, depth+1, left) {
				return false
			}
		}
	}
	return true
}

// owned is a decision with maps of its own, since the asker's may change.
func owned(q pdp.Question, d rampart.Decision) *entry {
	if q.Request != nil {
		r := *q.Request
		r.Resource.Attrs, _ = clone(r.Resource.Attrs).(map[string]any)
		r.Context, _ = clone(r.Context).(map[string]any)
		r.Relations = maps.Clone(r.Relations)
		q.Request = &r
	}
	return &entry{q, d}
}

// clone copies a JSON-like value, which is bounded.
func clone(v any) any {
	switch v := v.(type) {
	case map[string]any:
		if v == nil {
			return v
		}
		out := make(map[string]any, len(v))
		for name, e := range v {
			out[name] = clone(e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = clone(e)
		}
		return out
	}
	return v
}

// Where values of unknown form and size stand.
const (
	inAttrs   = "attrs"
	inContext = "context"
)

// encoder renders records. It is for one goroutine.
type encoder struct {
	text
	seal   sealer
	hash   hash.Hash
	domain []byte // prefix
	sum    [sha256.Size]byte
	plain  text // what is sealed
	sealed []byte
	hidden []string
}

func newEncoder(key []byte) *encoder {
	return &encoder{seal: sealer{key: key}, hash: sha256.New(), domain: []byte(prefix)}
}

// begin empties e. It lets go of what a rare large record took.
func (e *encoder) begin() {
	for _, b := range [...]*[]byte{&e.buf, &e.plain.buf, &e.sealed} {
		if *b = (*b)[:0]; cap(*b) > maxKept {
			*b = nil
		}
	}
}

// record appends the line of one decision to e.buf, or nothing and an error.
func (e *encoder) record(q *pdp.Question, d *rampart.Decision, schema *authz.Schema) error {
	start := len(e.buf)
	e.buf = append(e.buf, room...)
	e.err = e.hide(q, schema)
	e.line(q, d, schema)
	text := e.buf[start+len(room):]
	if n := len(room) + len(text) + 1; n > recordBytes {
		e.fail(fmt.Errorf("%w: its record would have %d bytes, and %d is the most; ask with a smaller context, with fewer or smaller attributes", ErrLarge, n, recordBytes))
	}
	if e.err != nil {
		e.buf = e.buf[:start]
		return e.err
	}
	hex.Encode(e.buf[start:], digest(e.hash, e.domain, text, e.sum[:0]))
	e.buf = append(e.buf, '\n')
	return nil
}

// room is where the hash and the space behind it go.
var room = strings.Repeat(" ", hexSize+1)

// line appends what record has; e.hidden and e.sealed are made.
func (e *encoder) line(q *pdp.Question, d *rampart.Decision, schema *authz.Schema) {
	e.buf = append(e.buf, `{"question":`...)
	e.question(q, func(member, name string) bool { return open(schema, q, member, name) })
	e.buf = append(e.buf, `,"decision":`...)
	e.decision(d)
	if len(e.hidden) > 0 {
		e.buf = append(e.buf, `,"hidden":`...)
		e.strings(e.hidden)
		e.buf = append(e.buf, `,"sealed":`...)
		e.bytes(e.sealed)
	}
	e.buf = append(e.buf, '}')
}

func sum(text []byte) (out [sha256.Size]byte) {
	digest(sha256.New(), []byte(prefix), text, out[:0])
	return out
}

func digest(h hash.Hash, domain, text, to []byte) []byte {
	h.Reset()
	h.Write(domain)
	h.Write(text)
	return h.Sum(to)
}

// hidden are the values that the record holds sealed.
type hidden struct {
	Attrs   map[string]any `json:"attrs,omitzero"`
	Context map[string]any `json:"context,omitzero"`
}

// hide seals what of a question is classified. What nobody declared may be
// anything, so it is classified.
func (e *encoder) hide(q *pdp.Question, schema *authz.Schema) error {
	e.hidden = e.hidden[:0]
	if q.Request == nil {
		return nil
	}
	t, first := &e.plain, true
	t.buf, t.err = append(t.buf[:0], '{'), nil
	e.hideIn(q, schema, &first, inAttrs, q.Request.Resource.Attrs)
	e.hideIn(q, schema, &first, inContext, q.Request.Context)
	t.buf = append(t.buf, '}')
	if first || t.err != nil {
		return t.err
	}
	var err error
	e.sealed, err = e.seal.seal(e.sealed[:0], t.buf, q.ID)
	return err
}

// hideIn appends to e.plain what of values is not open.
func (e *encoder) hideIn(q *pdp.Question, schema *authz.Schema, first *bool, member string, values map[string]any) {
	start := len(e.hidden)
	for name := range values {
		if !open(schema, q, member, name) {
			e.hidden = append(e.hidden, member+"."+name)
		}
	}
	if len(e.hidden) == start {
		return
	}
	slices.Sort(e.hidden[start:])
	e.plain.name(first, `"`+member+`":`)
	members(&e.plain, values, func(name string) bool { return !open(schema, q, member, name) }, e.plain.value)
}

// open reports whether a value may be read by whoever reads the log: of the
// context, only the time.
func open(schema *authz.Schema, q *pdp.Question, member, name string) bool {
	if member == inContext {
		return name == "now"
	}
	if schema == nil {
		return false
	}
	a, ok := schema.Types[q.Request.Resource.Type].Attrs[name]
	return ok && !a.PII && (a.Class == "" || a.Class.Rank() < rampart.ClassConfidential.Rank())
}

// inexact is the reverse of text.value, after decoding with json.Number.
func inexact(v any) any {
	switch v := v.(type) {
	case json.Number:
		if i, err := strconv.ParseInt(string(v), 10, 64); err == nil {
			return i
		}
		f, _ := v.Float64()
		return f
	case map[string]any:
		for name, e := range v {
			v[name] = inexact(e)
		}
	case []any:
		for i, e := range v {
			v[i] = inexact(e)
		}
	}
	return v
}

// errRecord says what is wrong with a line.
var errRecord = errors.New("its hash does not fit: the record was damaged or changed")

// parseRecord reads one line, without its end.
func parseRecord(line []byte, seal *sealer) (Entry, error) {
	if len(line) <= hexSize || line[hexSize] != ' ' {
		return Entry{}, errRecord
	}
	text := line[hexSize+1:]
	want := sum(text)
	if got, err := hex.DecodeString(string(line[:hexSize])); err != nil || subtle.ConstantTimeCompare(got, want[:]) != 1 {
		return Entry{}, errRecord
	}
	var r record
	if err := decode(text, &r); err != nil {
		return Entry{}, err
	}
	e := Entry{Question: r.Question, Decision: r.Decision, Hidden: r.Hidden}
	if q := e.Question.Request; q != nil {
		inexact(q.Resource.Attrs)
		inexact(q.Context)
	}
	return e, e.reveal(r.Sealed, seal)
}

func decode(text []byte, to any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	return d.Decode(to)
}

// reveal puts sealed values back where they were.
func (e *Entry) reveal(sealed []byte, seal *sealer) error {
	if sealed == nil || e.Question.Request == nil {
		return nil
	}
	text, err := seal.open(sealed, e.Question.ID)
	if err != nil {
		return err
	}
	var h hidden
	if err := decode(text, &h); err != nil {
		return err
	}
	inexact(h.Attrs)
	inexact(h.Context)
	r := e.Question.Request
	r.Resource.Attrs, r.Context = merged(r.Resource.Attrs, h.Attrs), merged(r.Context, h.Context)
	return nil
}

func merged(shown, hidden map[string]any) map[string]any {
	if shown == nil {
		return hidden
	}
	maps.Copy(shown, hidden)
	return shown
}

// perSalt is how many values one derived key seals: far fewer than the 2^32
// after which random nonces may meet (NIST SP 800-38D section 8.3).
const perSalt = 1 << 24

// saltSize is the size of the salt in front of sealed values.
const saltSize = 16

// sealer seals and opens values under keys derived from the key of the log. It
// is for one goroutine.
type sealer struct {
	key  []byte
	salt [saltSize]byte
	left int // that salt may still seal
	id   []byte
	aead cipher.AEAD
}

// derive takes a salt into use.
func (s *sealer) derive(salt [saltSize]byte) error {
	if s.aead != nil && s.salt == salt {
		return nil
	}
	mac := hmac.New(sha256.New, s.key)
	mac.Write([]byte(prefix + "seal\n"))
	mac.Write(salt[:])
	block, err := aes.NewCipher(mac.Sum(nil))
	if err != nil {
		return err
	}
	s.salt = salt
	s.aead, err = cipher.NewGCM(block)
	return err
}

// seal appends the sealed text to out.
func (s *sealer) seal(out, text []byte, id string) ([]byte, error) {
	if s.left == 0 {
		var salt [saltSize]byte
		rand.Read(salt[:])
		if err := s.derive(salt); err != nil {
			return nil, err
		}
		s.left = perSalt
	}
	s.left--
	out = append(out, s.salt[:]...)
	nonce := len(out)
	out = append(out, make([]byte, s.aead.NonceSize())...)
	rand.Read(out[nonce:])
	s.id = append(s.id[:0], id...)
	return s.aead.Seal(out, out[nonce:], text, s.id), nil
}

func (s *sealer) open(sealed []byte, id string) ([]byte, error) {
	if len(sealed) < saltSize {
		return nil, errors.New("the sealed values are cut off")
	}
	if err := s.derive([saltSize]byte(sealed)); err != nil {
		return nil, err
	}
	sealed = sealed[saltSize:]
	if n := s.aead.NonceSize(); len(sealed) >= n {
		if text, err := s.aead.Open(nil, sealed[:n], sealed[n:], []byte(id)); err == nil {
			return text, nil
		}
	}
	return nil, errors.New("the sealed values do not open with the key of this log")
}
