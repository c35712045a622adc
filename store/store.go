// Package store is the contract of the control plane's database: what it must
// keep through a kill -9, in one interface that drivers implement and
// storetest.Test judges.
//
// Every method that changes something returns after the change is durable.
// Nothing in a store is a usable credential: passwords are argon2id, ids and
// keys are HMACs, and whatever must be readable is sealed under the KEK.
package store

import (
	"context"
	"errors"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/apikey"
	"github.com/rampart-security/rampart/authn/guess"
	"github.com/rampart-security/rampart/authn/mfa"
	"github.com/rampart-security/rampart/authn/session"
	"github.com/rampart-security/rampart/authn/ticket"
	"github.com/rampart-security/rampart/secrets/embedded"
	"github.com/rampart-security/rampart/token"
)

// Answers of a Store that callers tell apart.
var (
	ErrNotFound = errors.New("store: not found")
	ErrExists   = errors.New("store: exists already")
)

// Store is the whole database. Safe for concurrent use.
type Store interface {
	session.Store
	apikey.Store
	token.Store
	guess.Store
	mfa.Store
	ticket.Store
	embedded.Rows
	Accounts
	Links
	JoinTokens
	Seals
	DEKs
	Notices
	EdgeStore
	Heads
	Issued
	Meta
	Rotations
	Close() error
}

// User is a local account.
type User struct {
	Facts rampart.Principal // Subject is "user:" + Name
	Name  string
	Hash  string // argon2id, PHC form
	Tag   string // "verify" for probe identities
	// Disabled accounts keep their data and can do nothing with it.
	Disabled bool
	// Changed is when rights, password or standing last changed: what was proved
	// before says nothing about the account as it is.
	Changed time.Time
	// Version is the Store's: it grows with every change, and no two accounts of
	// one name share any.
	Version int64
}

// Accounts keeps people and clients.
type Accounts interface {
	// CreateUser inserts u; a name that exists is ErrExists. Factors and links
	// that an earlier account of the name left behind go.
	CreateUser(ctx context.Context, u User) error
	// SwapUser stores u if the account's Version is still u.Version, and reports
	// whether it was: of two who read it, change it and write it, one loses and
	// reads again. An account that is gone does not come back.
	SwapUser(ctx context.Context, u User) (bool, error)
	// User returns one account, or ErrNotFound.
	User(ctx context.Context, name string) (User, error)
	// Users returns all accounts by name.
	Users(ctx context.Context) ([]User, error)
	// PutClient inserts c, or replaces the one with its id.
	PutClient(ctx context.Context, c token.Client) error
	// DeleteUser deletes an account with all that would pass to the next one of
	// its name: factors, links, sessions, codes and refresh families. It
	// reports whether the account was there. Tokens that are out are the caller's
	// to revoke.
	DeleteUser(ctx context.Context, name string) (bool, error)
	// Clients returns all clients by id.
	Clients(ctx context.Context) ([]token.Client, error)
	// DeleteClient deletes a client with its API keys, codes and refresh families,
	// and reports whether it was there. Tokens that are out are the caller's to
	// revoke.
	DeleteClient(ctx context.Context, id string) (bool, error)
}

// Link says that whom an identity provider calls Upstream is a local subject.
type Link struct {
	Issuer    string
	Upstream  string // the provider's "sub"
	Subject   string // "user:NAME"
	Created   time.Time
	LastLogin time.Time // zero: never
}

// Links keeps which accounts of identity providers belong to whom.
type Links interface {
	// PutLink inserts l; an (Issuer, Upstream) that exists is ErrExists, whoever
	// it belongs to. A subject without an account is ErrNotFound: the next of
	// that name would inherit the link.
	PutLink(ctx context.Context, l Link) error
	// Link returns one link, or ErrNotFound.
	Link(ctx context.Context, issuer, upstream string) (Link, error)
	// Links returns the subject's links, oldest first.
	Links(ctx context.Context, subject string) ([]Link, error)
	// TouchLink moves LastLogin forward. A link that is gone stays gone.
	TouchLink(ctx context.Context, issuer, upstream string, at time.Time) error
	// DeleteLink deletes a link and reports whether it was there.
	DeleteLink(ctx context.Context, issuer, upstream string) (bool, error)
}

// JoinTokens keeps one-time tokens by their SHA-256.
type JoinTokens interface {
	// PutJoinToken stores a token's hash with the one identity it admits.
	PutJoinToken(ctx context.Context, hash [32]byte, identity string, expires time.Time) error
	// UseJoinToken spends a token in one conditional step and returns its
	// identity; unknown, spent and expired are all ErrNotFound.
	UseJoinToken(ctx context.Context, hash [32]byte, now time.Time) (identity string, err error)
}

// Seals keeps what only the KEK opens: the CA, signing keys, HMAC keys.
type Seals interface {
	// Sealed returns the sealed value of name, or ErrNotFound.
	Sealed(ctx context.Context, name string) ([]byte, error)
	// SealNames returns all names, in order.
	SealNames(ctx context.Context) ([]string, error)
	// PutSealed inserts a value; a name that exists is ErrExists.
	PutSealed(ctx context.Context, name string, value []byte) error
	// ReplaceSealed overwrites the value of a name that exists.
	ReplaceSealed(ctx context.Context, name string, value []byte) error
	// SwapSealed overwrites the value of name if it is still old, and reports
	// whether it was. A nil old inserts a name that is not there.
	SwapSealed(ctx context.Context, name string, old, value []byte) (bool, error)
}

// Head is what a plane last said of itself: where it listens, and the newest
// audit record that is durable there. The record convicts whoever cuts the end
// off that plane's log.
type Head struct {
	Plane    string
	Instance string
	Listen   string   // "" if it does not
	Seq      uint64   // 0: no record yet
	Hash     [32]byte // of record Seq
	Forgot   uint64   // newest Notice that it carried out
	Seen     time.Time
}

// Heads keeps one head per plane.
type Heads interface {
	// PutHead stores h and returns what is known of the plane from then on. Seq
	// and Hash only move forward: a plane whose log went backwards does not
	// erase the proof, and the answer differs from h.
	PutHead(ctx context.Context, h Head) (Head, error)
	// Heads returns all heads by plane.
	Heads(ctx context.Context) ([]Head, error)
}

// Meta keeps facts about the database itself.
type Meta interface {
	// PinMeta stores value under key at the first call, and returns what is
	// stored from then on.
	PinMeta(ctx context.Context, key, value string) (string, error)
}
