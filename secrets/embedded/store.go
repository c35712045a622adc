package embedded

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"slices"
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

// Row is one version of one secret as the database keeps it.
type Row struct {
	Path    string
	Version int
	Sealed  []byte
}

// Rows is the database under a Store. It sees sealed bytes only, and keeps at
// least the newest 20 versions of a path. Implementations are safe for
// concurrent use.
type Rows interface {
	// PutSecret stores a version. It must be the successor of the newest
	// one, destroyed or not, 1 for a new path; else the error is of kind
	// Conflict.
	PutSecret(ctx context.Context, path string, version int, sealed []byte, now time.Time) error

	// GetSecret returns a version, or the newest when version is 0. sealed is
	// empty for one that was destroyed. An unknown path or version is an error
	// of kind NotFound.
	GetSecret(ctx context.Context, path string, version int) (found int, sealed []byte, err error)

	// ListSecrets returns all paths in order whose newest version is not
	// destroyed.
	ListSecrets(ctx context.Context) ([]secrets.Listed, error)

	// DestroySecret overwrites a version, or all of them when version is 0. The
	// error is of kind NotFound when there was none.
	DestroySecret(ctx context.Context, path string, version int) error

	// SecretRows returns at most limit rows after one in the order of path and
	// version, without those that were destroyed.
	SecretRows(ctx context.Context, after Row, limit int) ([]Row, error)

	// SwapSecret stores the sealed value of a version if it is still old, and
	// reports whether it was.
	SwapSecret(ctx context.Context, r Row, old []byte) (bool, error)
}

// Store is a secrets.Writer over Rows. Each version of each secret is sealed
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

// Put implements secrets.Writer. A value has 1 byte to 64 KiB, a path up to 256
// bytes: segments of letters, digits and . _ - between slashes. The newest fifty
// versions are kept. Numbers of destroyed versions are not used again; where all
// are, there is none.
func (s *Store) Put(ctx context.Context, path string, value []byte, after int) (version int, err error) {
	if err := checkPath(path); err != nil {
		return 0, err
	}
	if len(value) == 0 || len(value) > maxValue {
		return 0, rampart.Errorf(rampart.Invalid, control, "a secret has 1 to %d bytes", maxValue)
	}
	for range attempts {
		version, err = s.putNext(ctx, path, value, after)
		if rampart.KindOf(err) != rampart.Conflict || after >= 0 {
			return version, err
		}
	}
	return 0, err
}

func (s *Store) putNext(ctx context.Context, path string, value []byte, after int) (int, error) {
	newest, old, err := s.rows.GetSecret(ctx, path, 0)
	if err != nil && rampart.KindOf(err) != rampart.NotFound {
		return 0, err
	}
	if err != nil {
		newest = 0
	}
	if after >= 0 && after != newest && !(after == 0 && len(old) == 0) {
		return 0, rampart.Errorf(rampart.Conflict, control, "the newest version is %d", newest)
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

// Get returns the newest version of path. One that was destroyed is NotFound:
// the value before it was replaced for a reason.
func (s *Store) Get(ctx context.Context, path string) (secrets.Secret, error) {
	return s.get(ctx, path, 0)
}

func (s *Store) get(ctx context.Context, path string, version int) (secrets.Secret, error) {
	if err := checkPath(path); err != nil {
		return secrets.Secret{}, err
	}
	found, sealed, err := s.rows.GetSecret(ctx, path, version)
	if err != nil {
		return secrets.Secret{}, err
	}
	if len(sealed) == 0 {
		return secrets.Secret{}, rampart.Errorf(rampart.NotFound, control, "version %d of this secret was destroyed", found)
	}
	value, err := s.open(ctx, path, found, sealed)
	if err != nil {
		return secrets.Secret{}, err
	}
	defer clear(value)
	return secrets.New(value, found), nil
}

// Fetch implements secrets.Backend.
func (s *Store) Fetch(ctx context.Context, ref secrets.Ref) (secrets.Secret, error) {
	return s.fetch(ctx, ref, 0)
}

// FetchVersion implements secrets.Versions.
func (s *Store) FetchVersion(ctx context.Context, ref secrets.Ref, version int) (secrets.Secret, error) {
	if version < 1 {
		return secrets.Secret{}, rampart.Errorf(rampart.Invalid, control, "versions count from 1")
	}
	return s.fetch(ctx, ref, version)
}

func (s *Store) fetch(ctx context.Context, ref secrets.Ref, version int) (secrets.Secret, error) {
	if ref.Field != "" {
		return secrets.Secret{}, rampart.Errorf(rampart.Invalid, control, "a secret of the embedded store has no fields: remove what follows the #")
	}
	return s.get(ctx, ref.Path, version)
}

// List implements secrets.Writer.
func (s *Store) List(ctx context.Context, prefix string) ([]secrets.Listed, error) {
	all, err := s.rows.ListSecrets(ctx)
	if err != nil || prefix == "" {
		return all, err
	}
	return slices.DeleteFunc(all, func(l secrets.Listed) bool { return !strings.HasPrefix(l.Path, prefix+"/") }), nil
}

// Destroy implements secrets.Writer.
func (s *Store) Destroy(ctx context.Context, path string, version int) error {
	if err := checkPath(path); err != nil {
		return err
	}
	if version < 0 {
		return rampart.Errorf(rampart.Invalid, control, "versions count from 1")
	}
	return s.rows.DestroySecret(ctx, path, version)
}

// batch is how many rows Rewrap reads at once.
const batch = 100

// Rewrap wraps the keys of versions anew, as the KEK does it now, where due says
// so of what is wrapped. Values are not opened. It may be ended and begin again
// at any time: each row is replaced by itself, and only if nobody else did it
// meanwhile.
func (s *Store) Rewrap(ctx context.Context, due func(wrapped []byte) bool) error {
	var last Row
	for {
		rows, err := s.rows.SecretRows(ctx, last, batch)
		if err != nil || len(rows) == 0 {
			return err
		}
		for _, r := range rows {
			last = r
			if wrapped, _, err := split(r.Sealed); err == nil && !due(wrapped) {
				continue
			}
			if err := s.rewrap(ctx, r); err != nil {
				return err
			}
		}
	}
}

func (s *Store) rewrap(ctx context.Context, r Row) error {
	wrapped, box, err := split(r.Sealed)
	if err != nil {
		return unreadable(err)
	}
	again, err := s.wrapAnew(ctx, wrapped, aad(r.Path, r.Version))
	if err != nil {
		return err
	}
	_, err = s.rows.SwapSecret(ctx, Row{r.Path, r.Version, join(again, box)}, r.Sealed)
	return err
}

// wrapAnew leaves it to a KEK that can do so without showing the key.
func (s *Store) wrapAnew(ctx context.Context, wrapped, bind []byte) ([]byte, error) {
	if k, ok := s.kek.(secrets.Rewrapper); ok {
		return k.Rewrap(ctx, wrapped, bind)
	}
	dek, err := s.kek.Unwrap(ctx, wrapped, bind)
	if err != nil {
		return nil, err
	}
	defer clear(dek)
	return s.kek.Wrap(ctx, dek, bind)
}

// Wraps calls each with the wrapped key of every version.
func (s *Store) Wraps(ctx context.Context, each func(wrapped []byte)) error {
	var last Row
	for {
		rows, err := s.rows.SecretRows(ctx, last, batch)
		if err != nil || len(rows) == 0 {
			return err
		}
		for _, r := range rows {
			if wrapped, _, err := split(r.Sealed); err == nil {
				each(wrapped)
			}
			last = r
		}
	}
}

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
	aead, err := newGCM(dek)
	if err != nil {
		return nil, err
	}
	if len(wrapped) > 1<<16-1 {
		return nil, rampart.Errorf(rampart.Internal, control, "the wrapped key is too long")
	}
	return aead.Seal(join(wrapped, nil), nil, value, bind), nil
}

func join(wrapped, box []byte) []byte {
	out := binary.BigEndian.AppendUint16([]byte{sealV1}, uint16(len(wrapped)))
	return append(append(out, wrapped...), box...)
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
