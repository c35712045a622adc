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
	"maps"
	"math"
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
)

// record is the JSON of one line.
type record struct {
	Question pdp.Question     `json:"question"`
	Decision rampart.Decision `json:"decision"`
	Hidden   []string         `json:"hidden,omitzero"` // "attrs.total": in Sealed, not in Question
	Sealed   []byte           `json:"sealed,omitzero"`
}

// own returns q with maps of its own, since the asker's may change. What is out
// of all bounds, which no policy was asked about, is left out.
func own(q pdp.Question) pdp.Question {
	if q.Request == nil {
		return q
	}
	r, left := *q.Request, maxNodes
	attrs, ok1 := clone(r.Resource.Attrs, 0, &left)
	about, ok2 := clone(r.Context, 0, &left)
	if !ok1 || !ok2 {
		attrs, about = nil, nil
	}
	r.Resource.Attrs, _ = attrs.(map[string]any)
	r.Context, _ = about.(map[string]any)
	r.Relations = maps.Clone(r.Relations)
	q.Request = &r
	return q
}

// clone copies JSON-like values.
func clone(v any, depth int, left *int) (any, bool) {
	if *left--; *left < 0 || depth > maxNested {
		return nil, false
	}
	switch v := v.(type) {
	case map[string]any:
		if v == nil {
			return v, true
		}
		out := make(map[string]any, len(v))
		for name, e := range v {
			c, ok := clone(e, depth+1, left)
			if !ok {
				return nil, false
			}
			out[name] = c
		}
		return out, true
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			c, ok := clone(e, depth+1, left)
			if !ok {
				return nil, false
			}
			out[i] = c
		}
		return out, true
	}
	return v, true
}

// appendRecord appends the line of one decision.
func appendRecord(buf []byte, q pdp.Question, d rampart.Decision, schema *authz.Schema, seal *sealer) ([]byte, error) {
	r := record{Question: q, Decision: d}
	if q.Request != nil {
		if err := r.hide(schema, seal); err != nil {
			return buf, err
		}
	}
	text, err := json.Marshal(r)
	if err != nil {
		return buf, err
	}
	if len(text) > lineBytes {
		return buf, fmt.Errorf("the record has %d bytes, more than %d", len(text), lineBytes)
	}
	sum := sum(text)
	buf = hex.AppendEncode(buf, sum[:])
	buf = append(buf, ' ')
	buf = append(buf, text...)
	return append(buf, '\n'), nil
}

func sum(text []byte) (out [sha256.Size]byte) {
	h := sha256.New()
	h.Write([]byte(prefix))
	h.Write(text)
	h.Sum(out[:0])
	return out
}

// hidden are the values that the record holds sealed.
type hidden struct {
	Attrs   map[string]any `json:"attrs,omitzero"`
	Context map[string]any `json:"context,omitzero"`
}

// hide moves what is classified out of the question into the sealed part. What
// nobody declared may be anything, so it is classified.
func (r *record) hide(schema *authz.Schema, seal *sealer) error {
	q := *r.Question.Request
	var h hidden
	q.Resource.Attrs, h.Attrs = part(q.Resource.Attrs, func(name string) bool { return open(schema, q.Resource.Type, name) })
	q.Context, h.Context = part(q.Context, func(name string) bool { return name == "now" })
	r.Question.Request = &q
	for _, name := range slices.Sorted(maps.Keys(h.Attrs)) {
		r.Hidden = append(r.Hidden, "attrs."+name)
	}
	for _, name := range slices.Sorted(maps.Keys(h.Context)) {
		r.Hidden = append(r.Hidden, "context."+name)
	}
	if r.Hidden == nil {
		return nil
	}
	text, err := json.Marshal(h)
	if err != nil {
		return err
	}
	r.Sealed, err = seal.seal(text, r.Question.ID)
	return err
}

// open reports whether an attribute's values may be read by whoever reads the
// log.
func open(schema *authz.Schema, typ, name string) bool {
	if schema == nil {
		return false
	}
	a, ok := schema.Types[typ].Attrs[name]
	return ok && !a.PII && (a.Class == "" || a.Class.Rank() < rampart.ClassConfidential.Rank())
}

// part splits a map, with numbers in exact form.
func part(values map[string]any, open func(string) bool) (shown, sealed map[string]any) {
	if values == nil {
		return nil, nil
	}
	shown = map[string]any{}
	for name, v := range values {
		if open(name) {
			shown[name] = exact(v)
			continue
		}
		if sealed == nil {
			sealed = map[string]any{}
		}
		sealed[name] = exact(v)
	}
	return shown, sealed
}

// exact renders a float so that it is read as one: 3.0, not 3, which is an
// integer to policies.
func exact(v any) any {
	switch v := v.(type) {
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil // no policy was asked about it
		}
		text := strconv.FormatFloat(v, 'g', -1, 64)
		if !strings.ContainsAny(text, ".e") {
			text += ".0"
		}
		return json.RawMessage(text)
	case map[string]any:
		out := make(map[string]any, len(v))
		for name, e := range v {
			out[name] = exact(e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = exact(e)
		}
		return out
	}
	return v
}

// inexact is the reverse of exact, after decoding with json.Number.
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

func (s *sealer) seal(text []byte, id string) ([]byte, error) {
	if s.left == 0 {
		var salt [saltSize]byte
		rand.Read(salt[:])
		if err := s.derive(salt); err != nil {
			return nil, err
		}
		s.left = perSalt
	}
	s.left--
	n := saltSize + s.aead.NonceSize()
	out := make([]byte, n, n+len(text)+s.aead.Overhead())
	copy(out, s.salt[:])
	rand.Read(out[saltSize:])
	return s.aead.Seal(out, out[saltSize:], text, []byte(id)), nil
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
