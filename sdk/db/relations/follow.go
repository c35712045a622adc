package relations

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
)

const (
	poll      = 250 * time.Millisecond // other replicas write too
	beat      = time.Second            // the sidecar denies when it hears nothing for agent.TuplesStale
	firstSync = 5 * time.Second
	part      = 1000 // changes of one push; no less than MaxWrite
)

// head is where the database stands.
type head struct {
	rev    uint64
	oldest uint64 // revision in the log; 0 when it is empty
	source string
}

// follow tells the sidecar what was written, by this process or by another,
// until ctx ends.
func (s *Store) follow(ctx context.Context) {
	defer close(s.done)
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.settle(ctx, s.Sync(ctx))
		}
	}
}

// settle notes the outcome of a Sync, and logs it when it is news.
func (s *Store) settle(ctx context.Context, err error) {
	s.mu.Lock()
	before := s.err
	s.err = err
	s.mu.Unlock()
	if err != nil && before == nil && ctx.Err() == nil {
		s.log.LogAttrs(ctx, slog.LevelWarn, "the sidecar does not know the newest relations", slog.Any("error", err))
	}
}

// Sync returns when the sidecar knows every revision that was committed before
// the call.
func (s *Store) Sync(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return fmt.Errorf("relations: %w", ctx.Err())
	}
	if err := s.sync(ctx); err != nil {
		return fmt.Errorf("relations: %w", err)
	}
	return nil
}

func (s *Store) sync(ctx context.Context) error {
	h, err := s.head(ctx)
	if err != nil {
		return err
	}
	err = s.advance(ctx, h)
	if rampart.KindOf(err) == rampart.Conflict { // the sidecar is a new one, or was told by another process
		s.told = false
		err = s.advance(ctx, h)
	}
	if err != nil {
		return err
	}
	return s.compact(ctx, h)
}

func (s *Store) advance(ctx context.Context, h head) error {
	switch {
	case !s.told || h.rev < s.at || s.at+1 < h.oldest:
		return s.reset(ctx, h)
	case s.at < h.rev:
		return s.push(ctx, h)
	case s.now().Sub(s.said) >= beat:
		return s.send(ctx, agent.TuplesPush{Source: h.source, From: s.at, To: s.at})
	}
	return nil
}

func (s *Store) head(ctx context.Context) (h head, err error) {
	err = s.db.View(ctx, func(tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, `SELECT rev, source, COALESCE((SELECT MIN(rev) FROM rampart_tuple_log), 0) FROM rampart_tuple_rev`).
			Scan(&h.rev, &h.source, &h.oldest)
	})
	return h, err
}

// push sends what was written since the sidecar's revision, in parts of whole
// revisions.
func (s *Store) push(ctx context.Context, h head) error {
	for s.at < h.rev {
		changes, to, err := s.since(ctx, s.at)
		if err != nil {
			return err
		}
		if err := s.send(ctx, agent.TuplesPush{Source: h.source, From: s.at, To: to, Changes: changes}); err != nil {
			return err
		}
		s.at = to
	}
	return nil
}

// reset tells everything. The tuples are read page by page, in a transaction
// each, so that no writer waits; what changed meanwhile comes last, from the
// log, and makes the whole exact at one revision: writing and deleting again
// changes nothing.
func (s *Store) reset(ctx context.Context, h head) error {
	sent := uint64(0)
	more := func(changes []agent.TupleWrite) error {
		err := s.send(ctx, agent.TuplesPush{Source: h.source, Reset: true, More: true, From: sent, Changes: changes})
		sent++
		return err
	}
	var after [6]any
	for page, err := s.page(ctx, nil, &after); len(page) > 0 || err != nil; page, err = s.page(ctx, after[:], &after) {
		if err != nil {
			return err
		}
		if err := more(page); err != nil {
			return err
		}
	}
	end, err := s.head(ctx)
	if err != nil {
		return err
	}
	at := h.rev
	for at < end.rev {
		changes, to, err := s.since(ctx, at)
		if err != nil {
			return err
		}
		if err := more(changes); err != nil {
			return err
		}
		at = to
	}
	if err := s.send(ctx, agent.TuplesPush{Source: h.source, Reset: true, From: sent, To: at}); err != nil {
		return err
	}
	s.at, s.told = at, true
	return nil
}

func (s *Store) send(ctx context.Context, p agent.TuplesPush) error {
	var state agent.TuplesState
	err := s.svc.Call(ctx, http.MethodPost, agent.PathTuples, p, &state)
	if err == nil {
		s.said = s.now()
		s.complain(ctx, state.Rejected)
	}
	return err
}

// complain logs that tuples do not count, once for as long as the first is the
// same: a sidecar that starts anew is told of all of them again.
func (s *Store) complain(ctx context.Context, r *agent.TuplesRejected) {
	if r == nil || len(r.First) == 0 || r.First[0] == s.odd {
		return
	}
	s.odd = r.First[0]
	s.log.LogAttrs(ctx, slog.LevelWarn, "relations that do not count: rampart.yaml has no place for them", slog.Int("count", r.Count),
		slog.String("object", s.odd.Object), slog.String("relation", s.odd.Relation), slog.String("subject", s.odd.Subject), slog.String("reason", s.odd.Reason))
}

// page reads the tuples behind a key, and leaves the last one's in next.
func (s *Store) page(ctx context.Context, after []any, next *[6]any) (out []agent.TupleWrite, err error) {
	const columns = `SELECT object_type, object_id, relation, subject_type, subject_id, subject_relation, condition, condition_ctx FROM rampart_tuples `
	const order = ` ORDER BY object_type, object_id, relation, subject_type, subject_id, subject_relation LIMIT `
	query, args := columns+order+`$1`, []any{part}
	if after != nil {
		query = columns + `WHERE (object_type, object_id, relation, subject_type, subject_id, subject_relation) > ($2, $3, $4, $5, $6, $7)` + order + `$1`
		args = append(args, after...)
	}
	err = s.read(ctx, query, args, func(scan func(...any) error) error {
		var object, subject ref
		var w agent.TupleWrite
		var about string
		if err := scan(&object.kind, &object.id, &w.Relation, &subject.kind, &subject.id, &subject.relation, &w.Condition, &about); err != nil {
			return err
		}
		*next = [6]any{object.kind, object.id, w.Relation, subject.kind, subject.id, subject.relation}
		w.Object, w.Subject = object.String(), subject.String()
		out = append(out, w)
		return contextOf(about, &out[len(out)-1])
	})
	return out, err
}

// since reads whole revisions behind one, and says which is the last.
func (s *Store) since(ctx context.Context, rev uint64) (out []agent.TupleWrite, to uint64, err error) {
	var revs []uint64
	const query = `SELECT rev, op, object, relation, subject, condition, condition_ctx FROM rampart_tuple_log WHERE rev > $1 ORDER BY rev, line LIMIT $2`
	err = s.read(ctx, query, []any{rev, part}, func(scan func(...any) error) error {
		var at uint64
		var op, about string
		var w agent.TupleWrite
		if err := scan(&at, &op, &w.Object, &w.Relation, &w.Subject, &w.Condition, &about); err != nil {
			return err
		}
		w.Delete = op == "delete"
		out, revs = append(out, w), append(revs, at)
		return contextOf(about, &out[len(out)-1])
	})
	if err == nil && (len(revs) == 0 || revs[0] != rev+1) {
		err = rampart.Errorf(rampart.Conflict, "", "the log of relations no longer reaches back to revision %d", rev)
	}
	if err != nil {
		return nil, 0, err
	}
	n := len(out)
	if n == part { // the last revision may be cut: one is never longer than a part
		for n > 1 && revs[n-1] == revs[len(revs)-1] {
			n--
		}
	}
	return out[:n], revs[n-1], nil
}

func contextOf(text string, w *agent.TupleWrite) error {
	if text == "" {
		return nil
	}
	return json.Unmarshal([]byte(text), &w.Context)
}

// read calls each for every row of a query, in a transaction of its own.
func (s *Store) read(ctx context.Context, query string, args []any, each func(scan func(...any) error) error) error {
	return s.db.View(ctx, func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, query, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			if err := each(rows.Scan); err != nil {
				return err
			}
		}
		return errors.Join(rows.Err(), rows.Close())
	})
}

// compact cuts the log once it is twice as long as it must be.
func (s *Store) compact(ctx context.Context, h head) error {
	if h.oldest == 0 || h.rev-h.oldest < 2*s.keep {
		return nil
	}
	return s.db.Update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM rampart_tuple_log WHERE rev <= $1`, h.rev-s.keep)
		return err
	})
}
