package embedded

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
)

const (
	maxPath  = 256      // bytes
	maxValue = 64 << 10 // bytes
	sealV1   = 0x01
	attempts = 5 // of Put when others write the same path
)

// Meta describes a stored secret.
type Meta struct {
	Path    string
	Version int       // newest
	Created time.Time // of that version
}

// Rows is the database under a Store. It sees sealed bytes only.
// Implementations are safe for concurrent use.
type Rows interface {
	// PutSecret stores a version. It must be the successor of the newest
	// one, 1 for a new path; else the error is of kind Conflict.
	PutSecret(ctx context.Context, path string, version int, sealed []byte, now time.Time) error

	// GetSecret returns the newest version. An unknown path is an error of
	// kind NotFound.
	GetSecret(ctx context.Context, path string) (version int, sealed []byte, err error)

	// ListSecrets returns all paths in order.
	ListSecrets(ctx context.Context) ([]Meta, error)
}

// Store is a secrets.Provider over Rows. Each version of each secret is sealed
// under a key of its own, which is wrapped by the KEK; path and version are
// bound to it, so that no row can take the place of another. Its methods may
// be called concurrently.
type Store struct {
	Now func() time.Time // if nil, time.Now; set it before first use

	kek  secrets.KEK
	rows Rows
}

// NewStore returns a store. Neither argument may be nil.
func NewStore(kek secrets.KEK, rows Rows) *Store {
	if kek == nil || rows == nil {
		panic("embedded: nil KEK or rows")
	}
	return &Store{kek: kek, rows: rows}
}

// Put stores value, of 1 byte to 64 KiB, as the next version of path and
// returns that version. A path is up to 256 bytes: segments of letters, digits
// and . _ - between slashes.
func (s *Store) Put(ctx context.Context, path string, value []byte) (version int, err error) {
	if err := checkPath(path); err != nil {
		return 0, err
	}
	if len(value) == 0 || len(value) > maxValue {
		return 0, rampart.Errorf(rampart.Invalid, control, "a secret has 1 to %d bytes", maxValue)
	}
	for range attempts {
		version, err = s.putNext(ctx, path, value)
		if rampart.KindOf(err) != rampart.Conflict {
			return version, err
		}
	}
	return 0, err
}

func (s *Store) putNext(ctx context.Context, path string, value []byte) (int, error) {
	newest, _, err := s.rows.GetSecret(ctx, path)
	if err != nil && rampart.KindOf(err) != rampart.NotFound {
		return 0, err
	}
	if err != nil {
		newest = 0
	}
	sealed, err := s.seal(ctx, path, newest+1, value)
	if err != nil {
		return 0, err
	}
	now := time.Now
	if s.Now != nil {
		now = s.Now
	}
	return newest + 1, s.rows.PutSecret(ctx, path, newest+1, sealed, now())
}

// Get returns the newest version of path.
func (s *Store) Get(ctx context.Context, path string) (secrets.Secret, error) {
	if err := checkPath(path); err != nil {
		return secrets.Secret{}, err
	}
	version, sealed, err := s.rows.GetSecret(ctx, path)
	if err != nil {
		return secrets.Secret{}, err
	}
	value, err := s.open(ctx, path, version, sealed)
	if err != nil {
		return secrets.Secret{}, err
	}
	defer clear(value)
	return secrets.New(value, version), nil
}

// Fetch implements secrets.Backend.
func (s *Store) Fetch(ctx context.Context, ref secrets.Ref) (secrets.Secret, error) {
	if ref.Field != "" {
		return secrets.Secret{}, rampart.Errorf(rampart.Invalid, control, "a secret of the embedded store has no fields: remove what follows the #")
	}
	return s.Get(ctx, ref.Path)
}

// List describes all secrets, in order of path.
func (s *Store) List(ctx context.Context) ([]Meta, error) { return s.rows.ListSecrets(ctx) }

func checkPath(path string) error {
	ok := len(path) <= maxPath
	for seg := range strings.SplitSeq(path, "/") {
		ok = ok && seg != "" && seg != "." && seg != ".."
	}
	for _, r := range path {
		ok = ok && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-/", r))
	}
	if !ok {
		return rampart.Errorf(rampart.Invalid, control, "a secret's path is letters, digits and . _ - in segments between slashes, at most %d bytes", maxPath)
	}
	return nil
}

// aad binds path and version. A length stands before the path, so that no
// other pair gives the same bytes.
func aad(path string, version int) []byte {
	b := append([]byte("rampart-secret-v1\n"), sealV1)
	b = binary.BigEndian.AppendUint32(b, uint32(len(path)))
	b = append(b, path...)
	return binary.BigEndian.AppendUint64(b, uint64(version))
}

// seal returns 0x01 || length of the wrapped key, u16 big endian || wrapped
// key || nonce || ciphertext || tag.
func (s *Store) seal(ctx context.Context, path string, version int, value []byte) ([]byte, error) {
	dek := make([]byte, keySize)
	defer clear(dek)
	if _, err := rand.Read(dek); err != nil {
		return nil, err
	}
	bind := aad(path, version)
	wrapped, err := s.kek.Wrap(ctx, dek, bind)
	if err != nil {
		return nil, err
	}
	if len(wrapped) > 1<<16-1 {
		return nil, rampart.Errorf(rampart.Internal, control, "the wrapped key is too long")
	}
	aead, err := newGCM(dek)
	if err != nil {
		return nil, err
	}
	out := binary.BigEndian.AppendUint16([]byte{sealV1}, uint16(len(wrapped)))
	out = append(out, wrapped...)
	return aead.Seal(out, nil, value, bind), nil
}

var errSealed = errors.New("the sealed value is not in a known format")

func (s *Store) open(ctx context.Context, path string, version int, sealed []byte) ([]byte, error) {
	wrapped, box, err := split(sealed)
	if err != nil {
		return nil, unreadable(err)
	}
	bind := aad(path, version)
	dek, err := s.kek.Unwrap(ctx, wrapped, bind)
	if rampart.KindOf(err) == rampart.Unavailable {
		return nil, err
	}
	if err != nil {
		return nil, unreadable(err)
	}
	defer clear(dek)
	aead, err := newGCM(dek)
	if err != nil {
		return nil, unreadable(err)
	}
	value, err := aead.Open(nil, nil, box, bind)
	if err != nil {
		return nil, unreadable(err)
	}
	return value, nil
}

func split(sealed []byte) (wrapped, box []byte, err error) {
	if len(sealed) < 3 || sealed[0] != sealV1 {
		return nil, nil, errSealed
	}
	n := int(binary.BigEndian.Uint16(sealed[1:]))
	rest := sealed[3:]
	if len(rest) < n {
		return nil, nil, errSealed
	}
	return rest[:n], rest[n:], nil
}

func unreadable(err error) error {
	return &rampart.Error{Kind: rampart.Internal, Control: control, Msg: "secret cannot be opened", Err: err}
}
