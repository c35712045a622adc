package store

import (
	"context"
	"errors"
	"time"
)

// ErrShredded is the answer of whoever would write a key for a tenant or person
// whose keys were destroyed, and for whom nobody has asked to begin anew.
var ErrShredded = errors.New("store: the keys were shredded")

// DEK is a data encryption key of one (item, tenant), wrapped under the KEK. The
// newest version seals; those before it open.
type DEK struct {
	Item     string
	Tenant   string
	Version  uint32
	KEK      string // id of the key that wrapped it
	Wrapped  []byte
	Messages int64 // that may have been sealed with it: whoever seals reserves them in blocks
	Created  time.Time
}

// Subkey is a key below those of a tenant, wrapped under its DEK: of one person,
// or, when Who is "", of the tenant's blind indexes.
type Subkey struct {
	Item    string
	Tenant  string
	Who     string // keyed hash of the person's id: a table of keys needs no names
	Version uint32
	DEK     uint32 // version of the DEK that wraps it
	Wrapped []byte
	Created time.Time
}

// KeySet is what is known of the keys of a tenant, or, when Who is not "", of a
// person whose keys were destroyed. It outlives them.
type KeySet struct {
	Item     string
	Tenant   string
	Who      string
	Last     uint32    // newest version that there ever was; none has its number again
	Shredded time.Time // last; what was made before it does not come back, from a backup either. Zero: never
	Closed   bool      // shredded, and not begun anew since
}

// DEKs keeps wrapped data keys. What a method says of one step holds against
// other processes too: no key is written once Shred has returned.
type DEKs interface {
	// DEK returns one version, or the newest when version is 0, or ErrNotFound.
	DEK(ctx context.Context, item, tenant string, version uint32) (DEK, error)
	// PutDEK inserts a version; one that exists is ErrExists. It is ErrShredded when
	// the tenant's set is closed, or d is older than its last shredding.
	PutDEK(ctx context.Context, d DEK) error
	// SwapDEK stores d's KEK and wrapped key if the wrapped key is still old, and
	// reports whether it was.
	SwapDEK(ctx context.Context, d DEK, old []byte) (bool, error)
	// CountMessages adds n to what a version may have sealed, and returns the sum.
	CountMessages(ctx context.Context, item, tenant string, version uint32, n int64) (int64, error)
	// ListDEKs returns at most limit keys after one in the order of item, tenant,
	// version, whose item and tenant are these, if they are not "".
	ListDEKs(ctx context.Context, item, tenant string, after DEK, limit int) ([]DEK, error)

	// Subkey returns one version, or the newest when version is 0, or ErrNotFound.
	Subkey(ctx context.Context, item, tenant, who string, version uint32) (Subkey, error)
	// PutSubkey is PutDEK for a Subkey: the tenant's set counts, and the person's.
	PutSubkey(ctx context.Context, k Subkey) error
	// ListSubkeys returns at most limit keys after one in the order of item, tenant,
	// who, version.
	ListSubkeys(ctx context.Context, after Subkey, limit int) ([]Subkey, error)

	// KeySet returns what is known of a tenant (who is "") or person, or ErrNotFound.
	KeySet(ctx context.Context, item, tenant, who string) (KeySet, error)
	// ListKeySets returns at most limit sets after one in the order of item, tenant,
	// who, whose item and tenant are these, if they are not "".
	ListKeySets(ctx context.Context, item, tenant string, after KeySet, limit int) ([]KeySet, error)
	// Shred deletes every version of a tenant's keys with all below them, or of one
	// person's, closes the set, and returns how many keys it deleted. There need not
	// have been any.
	Shred(ctx context.Context, item, tenant, who string, at time.Time) (keys int, err error)
	// PutKeySet takes in what a backup knows of a set: numbers that were used stay
	// used, and what was shredded later than here is shredded here too.
	PutKeySet(ctx context.Context, k KeySet) error
	// Reopen lets keys be made again for whom Shred closed the set, and reports
	// whether it was closed.
	Reopen(ctx context.Context, item, tenant, who string) (bool, error)
}

// Notice is something that other processes have to tell their planes.
type Notice struct {
	ID   uint64 // grows, and becomes visible in its order
	Text []byte // JSON object
	At   time.Time
}

// Notices passes on what caches must forget, from one control plane to the
// others and to planes that were away.
type Notices interface {
	// PutNotice stores a text and returns its ID. It deletes what is older than
	// keep.
	PutNotice(ctx context.Context, text []byte, at time.Time, keep time.Duration) (uint64, error)
	// Notices returns those after an ID, in order.
	Notices(ctx context.Context, after uint64) ([]Notice, error)
}
