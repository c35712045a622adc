package idempotency

import (
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/fairshare"
	"github.com/rampart-security/rampart/internal/problem"
)

// limits bound a File.
type limits struct {
	keys, few       int64 // remembered at once; those that one owner may have before it counts as many
	bytes, fewBytes int64 // the same of their answers
	file            int64 // of the file, above which it is compacted, and refuses if that does not help
}

// holding is what an owner holds, or all of them.
type holding struct{ keys, bytes int64 }

// manyLocked reports whether the keys of an owner take up their share.
func (f *File) manyLocked(o Owner) bool {
	return f.owners[o].keys >= fairshare.Of(f.limits.keys, f.held.keys, f.limits.few)
}

// longLocked reports whether the answers of an owner take up their share.
func (f *File) longLocked(o Owner) bool {
	return f.owners[o].bytes >= fairshare.Of(f.limits.bytes, f.held.bytes, f.limits.fewBytes)
}

// putLocked remembers a key, in the place of what was there.
func (f *File) putLocked(id ID, rec *record) {
	f.dropLocked(id)
	f.records[id] = rec
	f.holdLocked(rec.owner, holding{1, rec.bytes})
}

// holdLocked counts what an owner holds more, or less.
func (f *File) holdLocked(o Owner, more holding) {
	f.held.keys += more.keys
	f.held.bytes += more.bytes
	h := f.owners[o]
	if h.keys, h.bytes = h.keys+more.keys, h.bytes+more.bytes; h.keys > 0 {
		f.owners[o] = h
		return
	}
	delete(f.owners, o)
}

func (f *File) dropLocked(id ID) {
	rec, ok := f.records[id]
	if !ok {
		return
	}
	delete(f.records, id)
	f.holdLocked(rec.owner, holding{-1, -rec.bytes})
}

// answeredLocked notes where the answer of a key is, unless the key is forgotten.
func (f *File) answeredLocked(id ID, rec *record, offset int64, length int) {
	if f.records[id] != rec {
		return
	}
	f.weighLocked(rec, length)
	rec.offset, rec.length, rec.lease = offset, length, 0
}

// weighLocked counts the answer of a record that is remembered.
func (f *File) weighLocked(rec *record, length int) {
	f.holdLocked(rec.owner, holding{0, int64(length) - rec.bytes})
	rec.bytes = int64(length)
}

// TooMany is what a Store refuses an owner with that holds its part: its keys must not
// fill the store for others.
func TooMany() error {
	return problem.With(rampart.Errorf(rampart.Limited, control, "too many idempotency keys of yours are kept; the oldest end first"), problem.Details{RetryAfter: time.Minute, Limit: "idempotency"})
}
