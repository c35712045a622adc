package idempotency

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
)

// File is a Store in one append-only file of JSON lines, for one process at a
// time. It survives kill -9 and loss of power: each change is written and synced
// before it counts, many waiting changes with one sync. Answers stay on disk;
// memory holds a few words per key.
//
// Nothing is evicted: a key that were forgotten early would let its request run
// twice. A full File refuses new keys, and before that whoever holds their share of
// it, which shrinks as it fills (package fairshare). An owner who came to hold it while
// a request ran has that request's answer forgotten, and never that it ran.
type File struct {
	path   string
	limits limits

	io sync.Mutex // held while writing; taken before mu

	mu      sync.Mutex
	file    *os.File
	records map[ID]*record
	owners  map[Owner]holding // those who hold something
	held    holding           // of all of them
	size    int64             // of the file once next is written
	next    *batch            // lines that wait for a sync
	lease   uint64
	swept   time.Time // when expired keys were last dropped
	shrunk  time.Time // when the file was last compacted
	broken  error     // the file cannot be trusted any more
}

// record is what memory holds of a key.
type record struct {
	hash   [sha256.Size]byte
	owner  Owner
	begun  time.Time
	keep   time.Duration
	within time.Duration // the lease's length
	lease  uint64        // of the holder in flight; 0 when done, or when its process died
	offset int64         // of the line with the answer
	length int           // of that line; 0 while in flight
	bytes  int64         // of it, from when it waits for its sync
}

// batch is a group of lines that one sync makes durable.
type batch struct {
	offset  int64
	lines   []byte
	apply   []func() // with mu held, once the lines are durable
	written bool
	err     error
}

// line is one line of the file.
type line struct {
	Op       string        `json:"op"` // begin | done | abandon
	ID       string        `json:"id"`
	Hash     string        `json:"hash,omitzero"`
	Owner    string        `json:"owner,omitzero"`
	Begun    time.Time     `json:"begun,omitzero"`
	Keep     time.Duration `json:"keep,omitzero"`
	Lease    time.Duration `json:"lease,omitzero"` // 0: Lease
	Response *Response     `json:"response,omitzero"`
}

// NewFile opens or creates the file, drops what has expired from it, and
// returns its Store. A line that a crash cut short is dropped; any other damage
// is an error. The folder must exist. Answers come sealed
// from the Guard; the file has mode 0600 all the same.
func NewFile(path string) (*File, error) {
	return open(path, limits{keys: MaxKeys, few: FewKeys, bytes: MaxBytes, fewBytes: FewBytes, file: MaxBytes * 3 / 2}, time.Now())
}

func open(path string, l limits, now time.Time) (*File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("idempotency: %w", err)
	}
	f := &File{path: path, limits: l, file: file, records: map[ID]*record{}, owners: map[Owner]holding{}, next: &batch{}, swept: now, shrunk: now}
	if err := f.load(); err != nil {
		file.Close()
		return nil, fmt.Errorf("idempotency: %s: %w", filepath.Base(path), err)
	}
	f.sweepLocked(now)
	if err := f.compactLocked(); err != nil {
		f.file.Close()
		return nil, fmt.Errorf("idempotency: %s: %w", filepath.Base(path), err)
	}
	return f, nil
}

// Close closes the file. Every change that was reported is durable already.
func (f *File) Close() error {
	f.io.Lock()
	defer f.io.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken = os.ErrClosed
	return f.file.Close()
}

// Begin implements Store.
func (f *File) Begin(_ context.Context, r Request, now time.Time) (Claim, error) {
	if err := f.makeRoom(now); err != nil {
		return Claim{}, err
	}
	claim, b, err := f.begin(r, now)
	if err != nil && f.sweptAgain(now) {
		claim, b, err = f.begin(r, now)
	}
	if err != nil || claim.State != New {
		return claim, err
	}
	return claim, f.commit(b)
}

func (f *File) begin(r Request, now time.Time) (Claim, *batch, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken != nil {
		return Claim{}, nil, Unavailable(f.broken)
	}
	old, taken := f.records[r.ID]
	if taken && !old.isFree(now) {
		claim, err := f.foundLocked(r, old)
		return claim, nil, err
	}
	if !taken && f.held.keys >= f.limits.keys || f.held.bytes >= f.limits.bytes || f.size >= f.limits.file {
		return Claim{}, nil, Unavailable(errors.New("full"))
	}
	if f.manyLocked(r.Owner) && !(taken && old.owner == r.Owner) || f.longLocked(r.Owner) {
		return Claim{}, nil, TooMany()
	}
	f.lease++
	rec := &record{hash: r.Hash, owner: r.Owner, begun: now, keep: r.Keep, within: leaseOf(r.Lease), lease: f.lease}
	b, err := f.appendLocked(rec.line(r.ID))
	if err != nil {
		return Claim{}, nil, err
	}
	f.putLocked(r.ID, rec)
	return Claim{State: New, ID: r.ID, Lease: rec.lease}, b, nil
}

// isFree reports whether a key may be used as if it were new.
func (r *record) isFree(now time.Time) bool {
	if r.length == 0 {
		return now.Sub(r.begun) >= r.within
	}
	return now.Sub(r.begun) >= r.keep
}

func leaseOf(d time.Duration) time.Duration {
	if d <= 0 {
		return Lease
	}
	return d
}

// line is how a record begins on disk.
func (r *record) line(id ID) line {
	return line{Op: "begin", ID: hex.EncodeToString(id[:]), Hash: hex.EncodeToString(r.hash[:]), Owner: hex.EncodeToString(r.owner[:]), Begun: r.begun, Keep: r.keep, Lease: r.within}
}

// foundLocked says what a request finds at a taken key. Another body is told
// first: whoever sends it is mistaken however the first request ends.
func (f *File) foundLocked(r Request, rec *record) (Claim, error) {
	switch {
	case rec.hash != r.Hash:
		return Claim{State: Mismatch, ID: r.ID}, nil
	case rec.length == 0:
		return Claim{State: InFlight, ID: r.ID}, nil
	}
	text := make([]byte, rec.length)
	if _, err := f.file.ReadAt(text, rec.offset); err != nil {
		return Claim{}, Unavailable(err)
	}
	var l line
	if err := json.Unmarshal(text, &l); err != nil || l.Response == nil {
		return Claim{}, Unavailable(fmt.Errorf("answer is damaged: %v", err))
	}
	return Claim{State: Done, ID: r.ID, Response: *l.Response}, nil
}

// Finish implements Store.
func (f *File) Finish(_ context.Context, c Claim, r Response) error {
	b, err := f.finish(c, r)
	if err != nil || b == nil {
		return err
	}
	return f.commit(b)
}

func (f *File) finish(c Claim, r Response) (*batch, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	rec, held := f.heldLocked(c)
	if !held {
		return nil, nil
	}
	if f.longLocked(rec.owner) {
		r = r.Forgotten()
	}
	offset := f.size
	b, err := f.appendLocked(line{Op: "done", ID: hex.EncodeToString(c.ID[:]), Response: &r})
	if err != nil {
		return nil, err
	}
	length := int(f.size - offset)
	f.weighLocked(rec, length) // before it is durable: many may be about to be
	// Others may see the answer only once it is durable.
	b.apply = append(b.apply, func() { f.answeredLocked(c.ID, rec, offset, length) })
	return b, nil
}

// Abandon implements Store.
func (f *File) Abandon(_ context.Context, c Claim) error {
	f.mu.Lock()
	if _, held := f.heldLocked(c); !held {
		f.mu.Unlock()
		return nil
	}
	f.dropLocked(c.ID)
	b, err := f.appendLocked(line{Op: "abandon", ID: hex.EncodeToString(c.ID[:])})
	f.mu.Unlock()
	if err != nil {
		return err
	}
	return f.commit(b)
}

func (f *File) heldLocked(c Claim) (*record, bool) {
	rec, ok := f.records[c.ID]
	return rec, ok && c.Lease != 0 && rec.lease == c.Lease
}

// appendLocked adds a line to the batch that waits.
func (f *File) appendLocked(l line) (*batch, error) {
	if f.broken != nil {
		return nil, Unavailable(f.broken)
	}
	text, err := json.Marshal(l)
	if err != nil {
		return nil, Unavailable(err)
	}
	text = append(text, '\n')
	if len(f.next.lines) == 0 {
		f.next.offset = f.size
	}
	f.next.lines = append(f.next.lines, text...)
	f.size += int64(len(text))
	return f.next, nil
}

// commit returns once b is durable. Whoever gets the lock first writes for all
// who wait for it: a group commit without a goroutine to own.
func (f *File) commit(b *batch) error {
	f.io.Lock()
	defer f.io.Unlock()
	if b.written {
		return b.err
	}
	f.mu.Lock()
	f.next = &batch{}
	file := f.file
	f.mu.Unlock()
	b.written = true
	_, err := file.WriteAt(b.lines, b.offset)
	if err == nil {
		err = file.Sync()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		// What reached the disk is unknown, and a second sync may lie about it.
		f.broken, b.err = err, Unavailable(err)
		return b.err
	}
	for _, apply := range b.apply {
		apply()
	}
	return nil
}

// Unavailable is what a Store refuses with when it cannot do its work: closed.
func Unavailable(err error) error {
	return &rampart.Error{Kind: rampart.Unavailable, Control: control, Msg: "idempotency keys cannot be recorded, so the request is not carried out", Err: err}
}

// sweptAgain drops expired keys before somebody is refused for want of room, at most
// once a second: it walks through all.
func (f *File) sweptAgain(now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken != nil || now.Sub(f.swept) < time.Second {
		return false
	}
	f.sweepLocked(now)
	return true
}

// makeRoom drops expired keys once a minute, and compacts a file that has reached
// its bound, at most once a minute.
func (f *File) makeRoom(now time.Time) error {
	f.mu.Lock()
	full := f.size >= f.limits.file && now.Sub(f.shrunk) >= time.Minute
	if full || now.Sub(f.swept) >= time.Minute {
		f.sweepLocked(now)
	}
	f.mu.Unlock()
	if !full {
		return nil
	}
	f.io.Lock()
	defer f.io.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.next.lines) > 0 || f.broken != nil {
		return nil // lines wait for a sync; the next request tries again
	}
	f.shrunk = now
	if err := f.compactLocked(); err != nil {
		f.broken = err
		return Unavailable(err)
	}
	return nil
}

func (f *File) sweepLocked(now time.Time) {
	f.swept = now
	for id, rec := range f.records {
		if rec.isFree(now) {
			f.dropLocked(id)
		}
	}
}

// load reads the file. Only its last line may be damaged, by a crash.
func (f *File) load() error {
	r := bufio.NewReaderSize(f.file, 1<<16)
	for n := 1; ; n++ {
		text, err := r.ReadBytes('\n')
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil // text was never reported as written
			}
			return err
		}
		if err := f.replayLine(text); err != nil {
			if rest, _ := r.Peek(1); len(rest) == 0 {
				return nil
			}
			return fmt.Errorf("line %d: %w", n, err)
		}
		f.size += int64(len(text))
	}
}

func (f *File) replayLine(text []byte) error {
	var l line
	if err := json.Unmarshal(text, &l); err != nil {
		return errors.New("not a record")
	}
	id, ok := digest(l.ID)
	if !ok {
		return errors.New("bad id")
	}
	switch l.Op {
	case "begin":
		hash, ok := digest(l.Hash)
		if !ok {
			return errors.New("bad hash")
		}
		rec := &record{hash: hash, begun: l.Begun, keep: l.Keep, within: leaseOf(l.Lease)}
		if rec.owner, ok = ownerOf(l.Owner); !ok {
			return errors.New("bad owner")
		}
		f.putLocked(id, rec)
	case "done":
		if rec, ok := f.records[id]; ok && l.Response != nil {
			f.answeredLocked(id, rec, f.size, len(text))
		}
	case "abandon":
		f.dropLocked(id)
	default:
		return errors.New("unknown operation")
	}
	return nil
}

// ownerOf reads an owner in hexadecimal; files of an earlier release have none.
func ownerOf(text string) (o Owner, ok bool) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(o) && len(b) != 0 {
		return o, false
	}
	copy(o[:], b)
	return o, true
}

// digest reads a SHA-256 in hexadecimal.
func digest(text string) (d [sha256.Size]byte, ok bool) {
	if len(text) != 2*len(d) {
		return d, false
	}
	_, err := hex.Decode(d[:], []byte(text))
	return d, err == nil
}

// compactLocked replaces the file by one that holds what is remembered. Both
// locks are held, or nobody else has the File yet.
func (f *File) compactLocked() error {
	tmp, err := os.OpenFile(f.path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	moved, size, err := f.copyTo(tmp)
	if err == nil {
		err = tmp.Sync()
	}
	if err == nil {
		err = os.Rename(tmp.Name(), f.path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(f.path))
	}
	if err != nil {
		tmp.Close()
		return err
	}
	f.file.Close()
	f.file, f.size = tmp, size
	for id, offset := range moved {
		f.records[id].offset = offset
	}
	return nil
}

// copyTo writes all records and returns where the answers are now.
func (f *File) copyTo(w io.Writer) (moved map[ID]int64, size int64, err error) {
	moved = map[ID]int64{}
	out := bufio.NewWriterSize(w, 1<<16)
	for id, rec := range f.records {
		var buf bytes.Buffer
		if err := json.NewEncoder(&buf).Encode(rec.line(id)); err != nil {
			return nil, 0, err
		}
		if rec.length > 0 {
			moved[id] = size + int64(buf.Len())
			if _, err := io.Copy(&buf, io.NewSectionReader(f.file, rec.offset, int64(rec.length))); err != nil {
				return nil, 0, err
			}
		}
		n, err := out.Write(buf.Bytes())
		if err != nil {
			return nil, 0, err
		}
		size += int64(n)
	}
	return moved, size, out.Flush()
}

// syncDir makes a rename durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
