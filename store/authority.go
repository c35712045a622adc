package store

import (
	"context"
	"time"
)

// Certificate is one that the authority issued, as it is written down before it
// is delivered.
type Certificate struct {
	Issuer   string    // key id of the certificate that signed it, hex
	Serial   string    // hex
	Root     string    // key id of the root, hex
	ID       string    // SPIFFE ID, or a common name
	Kind     string    // join | renew | kubernetes | unix | edge | database | written | own
	Issued   time.Time // as its dates say, for cut-offs of its holder; zero: written down before there was this
	NotAfter time.Time
}

// Acknowledged is what one process of a plane said last of its certificates.
type Acknowledged struct {
	Plane    string // "sidecar/orders"
	Instance string // random per process
	Version  uint64 // of the trust bundle that it goes by
	Root     string // key id of the root of its own certificate, hex; "": not said
	Until    time.Time
	Seen     time.Time
}

// Issued keeps which certificates are out, and who goes by which trust bundle,
// for all control planes together.
type Issued interface {
	// PutIssued inserts certificates, all or none; one that exists is ErrExists.
	PutIssued(ctx context.Context, list []Certificate) error
	// LiveIssued returns the certificates that are not expired below the root with
	// a key id, "" for any, by ID and end, at most limit.
	LiveIssued(ctx context.Context, root string, now time.Time, limit int) ([]Certificate, error)
	// CountIssued counts those that are not expired.
	CountIssued(ctx context.Context, now time.Time) (int, error)
	// IssuedSerial returns one certificate, or ErrNotFound.
	IssuedSerial(ctx context.Context, issuer, serial string) (Certificate, error)
	// SweepIssued forgets what ended a day ago, and processes that were not seen
	// for as long.
	SweepIssued(ctx context.Context, now time.Time) error
	// PutAcknowledged stores what a process said last.
	PutAcknowledged(ctx context.Context, a Acknowledged) error
	// AllAcknowledged returns what is known of each process, by plane and instance.
	AllAcknowledged(ctx context.Context) ([]Acknowledged, error)
}
