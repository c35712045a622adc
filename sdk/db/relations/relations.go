// Package relations keeps who stands in which relation to what ("user:bob" is a
// "viewer" of "order:17") in the service's own database, and tells the sidecar,
// which decides by it.
//
// A relation is written in the transaction of the row that it belongs to: after
// a crash there are both or neither. Each write has a revision, and revisions
// follow the order of commits, so that whoever has seen one has seen all before
// it. authz.AtLeast of a revision asks for decisions that know of it.
package relations

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/sdk"
	"github.com/rampart-security/rampart/sdk/db"
)

// MaxWrite bounds the tuples of one Write, deletions included.
const MaxWrite = 100

// keepLog is how many revisions the log holds at least. A sidecar that is
// further behind is told everything anew.
const keepLog = 10_000

// Tuple says that Subject stands in Relation to Object, in the forms of the
// OpenFGA modelling language.
type Tuple struct {
	Object    string         // "order:17"
	Relation  string         // "viewer"
	Subject   string         // "user:bob", "team:red#member" or "user:*"
	Condition string         // of the model, under which it holds; "" for none
	Context   map[string]any // parameters of Condition that the tuple itself fixes
}

// Store keeps tuples and keeps the sidecar informed. It is safe for concurrent
// use, and owns one goroutine until Close.
type Store struct {
	db  *db.DB
	svc *sdk.Service
	log *slog.Logger
	now func() time.Time

	keep uint64 // revisions that the log holds at least

	cancel context.CancelFunc
	done   chan struct{}

	turn chan struct{}       // held by the one that talks to the sidecar; guards below
	at   uint64              // revision that the sidecar has
	told bool                // whether the sidecar was told everything once
	said time.Time           // when it was told something last
	odd  agent.TupleRejected // what was logged last of tuples that the sidecar does not count

	mu  sync.Mutex
	err error // guarded by mu: why the sidecar is behind; nil when it is not
}

// schema is the same in both dialects. rampart_tuple_rev has one row: taking a
// revision locks it until the transaction ends, which makes revisions follow
// commits (a sequence would not: a smaller number may commit later).
const schema = `
CREATE TABLE IF NOT EXISTS rampart_tuples (
	object_type      TEXT   NOT NULL,
	object_id        TEXT   NOT NULL,
	relation         TEXT   NOT NULL,
	subject_type     TEXT   NOT NULL,
	subject_id       TEXT   NOT NULL,
	subject_relation TEXT   NOT NULL,
	condition        TEXT   NOT NULL,
	condition_ctx    TEXT   NOT NULL,
	rev              BIGINT NOT NULL,
	PRIMARY KEY (object_type, object_id, relation, subject_type, subject_id, subject_relation)
);
CREATE INDEX IF NOT EXISTS rampart_tuples_of ON rampart_tuples (subject_type, subject_id, subject_relation, relation, object_type, object_id);
CREATE TABLE IF NOT EXISTS rampart_tuple_log (
	rev           BIGINT NOT NULL,
	line          BIGINT NOT NULL,
	op            TEXT   NOT NULL CHECK (op IN ('write', 'delete')),
	object        TEXT   NOT NULL,
	relation      TEXT   NOT NULL,
	subject       TEXT   NOT NULL,
	condition     TEXT   NOT NULL,
	condition_ctx TEXT   NOT NULL,
	at            BIGINT NOT NULL,
	PRIMARY KEY (rev, line)
);
CREATE TABLE IF NOT EXISTS rampart_tuple_rev (
	one    INTEGER PRIMARY KEY CHECK (one = 1),
	rev    BIGINT  NOT NULL,
	source TEXT    NOT NULL
);`

// Open makes the tables rampart_tuples, rampart_tuple_log and rampart_tuple_rev
// in d unless they are there, and starts to follow them. It tries to bring the
// sidecar up to date before it returns; a sidecar that does not answer is tried
// again by and by, and until then decisions that need a relation are denied.
// log gets what went wrong in between; nil drops it.
func Open(ctx context.Context, svc *sdk.Service, d *db.DB, log *slog.Logger) (*Store, error) {
	if svc.Info().Relations == nil {
		return nil, fmt.Errorf("relations: rampart.yaml names no model of relations: set authz.model to an .fga file")
	}
	s := &Store{db: d, svc: svc, log: log, now: time.Now, keep: keepLog, done: make(chan struct{}), turn: make(chan struct{}, 1)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := s.migrate(ctx); err != nil {
		return nil, fmt.Errorf("relations: %w", err)
	}
	first, stop := context.WithTimeout(ctx, firstSync)
	defer stop()
	s.settle(ctx, s.Sync(first))
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	go s.follow(life)
	return s, nil
}

// Close stops following. The database stays open.
func (s *Store) Close() error {
	s.cancel()
	<-s.done
	return nil
}

// Err returns why the sidecar does not know the newest revision, or nil.
func (s *Store) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *Store) migrate(ctx context.Context) error {
	return s.db.Update(ctx, func(tx *sql.Tx) error {
		if s.db.Kind() == db.Postgres {
			// Replicas start together, and IF NOT EXISTS does not wait.
			if _, err := tx.ExecContext(ctx, `SELECT pg_advisory_xact_lock(7268)`); err != nil {
				return err
			}
		}
		if _, err := tx.ExecContext(ctx, schema); err != nil {
			return err
		}
		var id [16]byte
		rand.Read(id[:]) // never fails: crypto/rand aborts the program instead
		_, err := tx.ExecContext(ctx, `INSERT INTO rampart_tuple_rev (one, rev, source) VALUES (1, 0, $1) ON CONFLICT (one) DO NOTHING`,
			hex.EncodeToString(id[:]))
		return err
	})
}

// Update runs f in a transaction of the database, as db.DB.Update does, and
// then brings the sidecar up to date. What f did is committed when Update
// returns nil, whatever the sidecar says: one that does not answer now is told
// later.
func (s *Store) Update(ctx context.Context, f func(*sql.Tx) error) error {
	if err := s.db.Update(ctx, f); err != nil {
		return err
	}
	s.settle(ctx, s.Sync(ctx))
	return nil
}

// Write writes and deletes tuples in tx, the caller's transaction, and returns
// the revision that has them once tx commits. Writing what is there, or deleting
// what is not, is no error; a tuple in both lists is there afterwards. Writers
// wait for each other from here until their transactions end, so Write comes
// last in a transaction. Call Sync after the commit, or use Update.
func (s *Store) Write(ctx context.Context, tx *sql.Tx, writes, deletes []Tuple) (rev uint64, err error) {
	changes, err := s.changes(writes, deletes)
	if err != nil {
		return 0, fmt.Errorf("relations: %w", err)
	}
	if len(changes) == 0 {
		return 0, fmt.Errorf("relations: nothing to write")
	}
	err = tx.QueryRowContext(ctx, `UPDATE rampart_tuple_rev SET rev = rev + 1 WHERE one = 1 RETURNING rev`).Scan(&rev)
	if err != nil {
		return 0, fmt.Errorf("relations: %w", err)
	}
	for line, c := range changes {
		if err := c.write(ctx, tx, rev, line, s.now().UnixMilli()); err != nil {
			return 0, fmt.Errorf("relations: %w", err)
		}
	}
	return rev, nil
}

// change is one line of the log, taken apart.
type change struct {
	agent.TupleWrite
	object, subject ref
	context         string // JSON; "" for none
}

// changes checks what is to be written. Deletions come first.
func (s *Store) changes(writes, deletes []Tuple) ([]change, error) {
	if n := len(writes) + len(deletes); n > MaxWrite {
		return nil, fmt.Errorf("%d tuples at once, want at most %d", n, MaxWrite)
	}
	var out []change
	for i, t := range append(append([]Tuple(nil), deletes...), writes...) {
		c, err := s.change(t, i < len(deletes))
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

func (s *Store) change(t Tuple, remove bool) (change, error) {
	c := change{TupleWrite: agent.TupleWrite{Delete: remove, Object: t.Object, Relation: t.Relation, Subject: t.Subject, Condition: t.Condition, Context: t.Context}}
	var err error
	if c.object, c.subject, err = t.parse(); err != nil {
		return c, err
	}
	if err := allowed(s.svc.Info().Relations, c.object.kind, t.Relation); err != nil && !remove {
		return c, err
	}
	if len(t.Context) > 0 {
		b, err := json.Marshal(t.Context)
		if err != nil || len(b) > maxContext {
			return c, fmt.Errorf("the context of a tuple of %s is no JSON of at most %d bytes", t.Object, maxContext)
		}
		c.context = string(b)
	}
	return c, nil
}

func (c change) write(ctx context.Context, tx *sql.Tx, rev uint64, line int, at int64) error {
	op := "write"
	if c.Delete {
		op = "delete"
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO rampart_tuple_log (rev, line, op, object, relation, subject, condition, condition_ctx, at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		rev, line, op, c.Object, c.Relation, c.Subject, c.Condition, c.context, at)
	if err != nil {
		return err
	}
	key := []any{c.object.kind, c.object.id, c.Relation, c.subject.kind, c.subject.id, c.subject.relation}
	if c.Delete {
		_, err = tx.ExecContext(ctx, `DELETE FROM rampart_tuples WHERE object_type = $1 AND object_id = $2 AND relation = $3 AND subject_type = $4 AND subject_id = $5 AND subject_relation = $6`, key...)
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO rampart_tuples (object_type, object_id, relation, subject_type, subject_id, subject_relation, condition, condition_ctx, rev)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
		ON CONFLICT (object_type, object_id, relation, subject_type, subject_id, subject_relation)
		DO UPDATE SET condition = excluded.condition, condition_ctx = excluded.condition_ctx, rev = excluded.rev`,
		append(key, c.Condition, c.context, rev)...)
	return err
}
