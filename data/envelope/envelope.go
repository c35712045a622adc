// Package envelope answers "Who can read this column with a copy of the
// database?" It seals single values under keys of their tenant and data item,
// bound to the cell they stand in.
//
// Format v1:
//
//	0x01 || version of the key, u32 big endian || nonce, 12 || ciphertext || tag, 16
//
// AES-256-GCM. The associated data are the first five bytes, then tenant, data
// item, table, column and row, each behind its length, u32 big endian. A value
// that is moved to another cell does not open; an older value of the same cell
// does.
//
// A version with its highest bit set is that of one person's key, any other that
// of the tenant's: data that was sealed before people had keys of their own
// stays readable.
//
// Row ids must be known before the row is written: random or time-ordered
// UUIDs, not the database's counter. A key's version must be replaced before
// it has sealed 2^32 values, since nonces are random.
package envelope

import (
	"context"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
)

const (
	control = "data.envelope"

	formatV1   = 0x01
	headerSize = 1 + 4
	keySize    = 32

	// Overhead is how many bytes longer a sealed value is.
	Overhead = headerSize + 12 + 16

	// MaxPlaintext bounds a value, in bytes.
	MaxPlaintext = 1 << 20
)

// Causes of failures, for operators: they are in the chain of the error but
// not in what a caller is shown.
var (
	ErrFormat   = errors.New("not a sealed value of format v1")
	ErrKey      = errors.New("no key of that version") // never made, or shredded
	ErrTampered = errors.New("changed, or moved from another cell")
	ErrTooLong  = errors.New("value is too long")
)

// Whose says whose key it is: a tenant's, for one data item, or one person's.
type Whose struct {
	Item    string // key of data in rampart.yaml
	Tenant  string
	Subject string // "": the tenant's
}

// Keys finds keys. Implementations are safe for concurrent use. Their AEADs
// choose the nonce themselves and put it first, as those of
// cipher.NewGCMWithRandomNonce do.
type Keys interface {
	// Active returns the key to seal one value with, and its version, from 1.
	Active(ctx context.Context, of Whose) (version uint32, aead cipher.AEAD, err error)

	// ByVersion returns the key that a value was sealed with.
	ByVersion(ctx context.Context, of Whose, version uint32) (cipher.AEAD, error)
}

// Cell names where a value stands.
type Cell struct {
	Tenant string // the organization to whom the data belong
	Item   string // key of data in rampart.yaml
	Table  string
	Column string
	Row    string

	// Subject is the person whose data it is, for items with shred: subject: the
	// person's own key seals then. "": the tenant's does. It is not among the
	// associated data; the key tells people apart.
	Subject string
}

func (c Cell) whose() Whose { return Whose{c.Item, c.Tenant, c.Subject} }

// whoseAt is whose key has sealed a value with this version.
func (c Cell) whoseAt(version uint32) (Whose, bool) {
	of := c.whose()
	if version&agent.SubjectKey == 0 {
		of.Subject = ""
		return of, true
	}
	return of, of.Subject != ""
}

// Seal encrypts plaintext, of at most MaxPlaintext bytes, for cell.
func Seal(ctx context.Context, keys Keys, cell Cell, plaintext []byte) ([]byte, error) {
	if len(plaintext) > MaxPlaintext {
		return nil, failure(ErrTooLong)
	}
	version, aead, err := keys.Active(ctx, cell.whose())
	if err != nil {
		return nil, failure(err)
	}
	out := make([]byte, headerSize, Overhead+len(plaintext))
	out[0] = formatV1
	binary.BigEndian.PutUint32(out[1:], version)
	return aead.Seal(out, nil, plaintext, cell.bind(out)), nil
}

// Open decrypts what Seal made for the same cell. Whatever is wrong, the
// caller is told the same; the error's kind is Unavailable when no key could
// be fetched, else Internal.
func Open(ctx context.Context, keys Keys, cell Cell, sealed []byte) ([]byte, error) {
	if len(sealed) < Overhead || len(sealed) > Overhead+MaxPlaintext || sealed[0] != formatV1 {
		return nil, failure(ErrFormat)
	}
	header, box := sealed[:headerSize], sealed[headerSize:]
	version := binary.BigEndian.Uint32(header[1:])
	of, ok := cell.whoseAt(version)
	if version == 0 || !ok { // in a request for a key 0 means the active one
		return nil, failure(ErrKey)
	}
	aead, err := keys.ByVersion(ctx, of, version)
	if err != nil {
		return nil, failure(err)
	}
	plaintext, err := aead.Open(nil, nil, box, cell.bind(header))
	if err != nil {
		return nil, failure(ErrTampered)
	}
	return plaintext, nil
}

// bind returns the associated data. Lengths, not separators: "a|b" and "c"
// must differ from "a" and "b|c".
func (c Cell) bind(header []byte) []byte {
	size := headerSize + 5*4 + len(c.Tenant) + len(c.Item) + len(c.Table) + len(c.Column) + len(c.Row)
	b := append(make([]byte, 0, size), header...)
	for _, s := range [...]string{c.Tenant, c.Item, c.Table, c.Column, c.Row} {
		b = appendLength(b, s)
	}
	return b
}

func appendLength(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}

// Lengths joins texts, each behind its length, as the associated data are.
func Lengths(texts ...string) []byte {
	var b []byte
	for _, s := range texts {
		b = appendLength(b, s)
	}
	return b
}

// failure hides the cause from the caller and keeps it for the operator.
func failure(err error) error {
	kind := rampart.Internal
	if rampart.KindOf(err) == rampart.Unavailable {
		kind = rampart.Unavailable
	}
	return &rampart.Error{Kind: kind, Control: control, Msg: "protected value is not available", Err: err}
}

// MAC returns the HMAC-SHA256 of fields under key, each field behind its
// length: it seals a row whose columns must stay readable. The key must be one
// of its own, from DeriveKey; compare with hmac.Equal.
func MAC(key []byte, fields ...[]byte) []byte {
	h := hmac.New(sha256.New, key)
	var size [4]byte
	for _, f := range fields {
		binary.BigEndian.PutUint32(size[:], uint32(len(f)))
		h.Write(size[:])
		h.Write(f)
	}
	return h.Sum(nil)
}

// DeriveKey returns a key of 32 bytes for another use of a data encryption
// key, which must have 32 bytes itself (HKDF-SHA256, RFC 5869). Equal labels
// give equal keys.
func DeriveKey(dek []byte, label string) ([]byte, error) {
	if len(dek) != keySize {
		return nil, rampart.Errorf(rampart.Internal, control, "a data encryption key has %d bytes", keySize)
	}
	return hkdf.Key(sha256.New, dek, nil, "rampart-v1 "+label, keySize)
}
