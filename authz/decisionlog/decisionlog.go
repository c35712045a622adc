// Package decisionlog answers "What was decided, and from what?" It keeps each
// decision of a plane with the whole Question behind it, so that the decision
// can be made again, byte for byte.
//
// A plane's log is a folder of segments, 00000001.log and so on, mode 0600. One
// line is one record:
//
//	SHA-256 of "rampart-decision-1\n" and the JSON, hex; a space; JSON
//
// The hash finds a record that was damaged; who changed what, and that nothing
// was cut out, is for the audit log to prove. Values of classified or undeclared
// attributes are not in the JSON: they are sealed under a key that lies beside
// the segments (AES-256-GCM), and readers see that they were there.
//
// Writing is asynchronous. Observe returns before a record is on disk, and fails
// when it cannot be put in line: no decision is dropped in silence. A process
// that is killed loses what is in line, mostly of 50 ms, a machine that loses
// power up to 250 ms more, and what the disk had of those in parts is a
// damaged record to readers; the audit log has those decisions: it waits for the
// disk where that matters.
package decisionlog

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/pdp"
	"github.com/rampart-security/rampart/internal/statedir"
)

// Defaults and bounds.
const (
	DefaultKeep  = 30 * 24 * time.Hour
	DefaultBytes = 256 << 20 // of all segments of one plane, but for the newest

	segmentBytes = 16 << 20
	lineBytes    = 2 * recordBytes        // one record, whatever else is sealed of it when it is written
	inLine       = 4096                   // records that wait for the disk
	perBatch     = 512                    // records that share one write
	syncEvery    = 250 * time.Millisecond // a record that was written waits so long, at most, for the disk
	maxWait      = time.Second            // Observe waits so long at most
	retryEvery   = 250 * time.Millisecond // after a failed write
	sweepEvery   = 10 * time.Minute
	youngest     = time.Hour // what was decided since should be on record, whatever is written
	// The first in line waits so long for others, at most: waking for each costs
	// more than writing it.
	linger = 50 * time.Millisecond
)

// Errors of Observe. Each denies.
var (
	ErrFull   = errors.New("decisionlog: more decisions than the disk takes")
	ErrClosed = errors.New("decisionlog: the log is closed")
)

// Settings may change while a log is open.
type Settings struct {
	Schema *authz.Schema // says which attributes are sealed; without it, all are
	Deny   bool          // when the line is full, fail at once; otherwise wait for the disk, a second at most
	Keep   time.Duration // 0: DefaultKeep
}

// Options of Open. State and Plane are required.
type Options struct {
	State    *statedir.Dir
	Plane    string          // "gateway/edge"
	Settings func() Settings // if nil, the zero Settings
	MaxBytes int64           // of all segments but the newest, which has 16 MiB at most; 0: DefaultBytes
	// Each is called with every decision once it is on record, from the log's
	// own goroutine; it is left out when the line is half full. It must keep
	// neither, nor what they point to. If nil, nobody is.
	Each   func(pdp.Question, rampart.Decision)
	Logger *slog.Logger // if nil, slog.Default
	Now    func() time.Time
}

// Log is the open log of one plane. Safe for concurrent use. Close must be
// called.
type Log struct {
	opt    Options
	folder Folder
	out    segments
	enc    *encoder
	spare  sync.Pool             // *entry, all zero
	linger *time.Timer           // the first in line has waited long enough
	armed  atomic.Bool           // linger is set for whatever is in line
	hurry  chan struct{}         // ends a linger
	failed atomic.Pointer[error] // why the disk takes nothing, now
	done   chan struct{}         // closed when the writer has ended

	mu     sync.RWMutex // held to read while something is put in line, to write to close the line
	closed bool
	line   chan *entry
}

// entry is one decision on its way to the disk, or a call of flush.
type entry struct {
	question pdp.Question
	decision rampart.Decision
	request  authz.Request // what question.Request points to
	flushed  chan struct{}
}

// FolderName names a plane's folder below folder, "decisions" or "policies".
func FolderName(folder, plane string) string {
	return folder + "/" + strings.ReplaceAll(plane, "/", "_")
}

// Open opens the log of a plane, making it when it is not there. A record that
// a crash cut off is removed; any other damage stays for readers to report.
func Open(opt Options) (*Log, error) {
	if opt.State == nil || opt.Plane == "" || strings.Contains(opt.Plane, "..") {
		return nil, errors.New("decisionlog: a state folder and the plane's name are required")
	}
	if opt.Settings == nil {
		opt.Settings = func() Settings { return Settings{} }
	}
	if opt.MaxBytes == 0 {
		opt.MaxBytes = DefaultBytes
	}
	if opt.Logger == nil {
		opt.Logger = slog.Default()
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	key, err := openKey(opt.State, FolderName("decisions", opt.Plane)+"/key")
	if err != nil {
		return nil, fmt.Errorf("decisionlog: key: %w", err)
	}
	l := &Log{opt: opt, done: make(chan struct{}), linger: stopped(), hurry: make(chan struct{}, 1), line: make(chan *entry, inLine)}
	l.folder = Folder{path: opt.State.Path(FolderName("decisions", opt.Plane)), key: key}
	l.out, l.enc = segments{folder: l.folder.path}, newEncoder(key)
	if err := l.out.recover(); err != nil {
		return nil, fmt.Errorf("decisionlog: %w", err)
	}
	go l.write()
	return l, nil
}

// stopped is a timer that is to be set.
func stopped() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// openKey reads the key of a log, or makes it at the first start.
func openKey(state *statedir.Dir, name string) ([]byte, error) {
	key, err := os.ReadFile(state.Path(name))
	if errors.Is(err, fs.ErrNotExist) {
		key = make([]byte, keySize)
		rand.Read(key)
		return key, state.WriteFile(name, key, 0o600)
	}
	if err == nil && len(key) != keySize {
		return nil, fmt.Errorf("%s has %d bytes, not %d", name, len(key), keySize)
	}
	return key, err
}

// Observe puts a decision in line. It fits pdp.Options.Observe. The values of q
// and d may change as soon as it returns. An error means that the decision is
// not on record and must not be acted upon.
func (l *Log) Observe(ctx context.Context, q pdp.Question, d rampart.Decision) error {
	if err := l.failed.Load(); err != nil {
		return fmt.Errorf("decisionlog: %w", *err)
	}
	e := l.blank()
	e.question, e.decision = q, d
	e.own()
	if err := l.fits(e); err != nil {
		return err
	}
	return l.put(ctx, e, l.opt.Settings().Deny)
}

// blank returns an entry to fill.
func (l *Log) blank() *entry {
	if e, ok := l.spare.Get().(*entry); ok {
		return e
	}
	return new(entry)
}

func (l *Log) put(ctx context.Context, e *entry, deny bool) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return ErrClosed
	}
	urgent := e.flushed != nil // e is the writer's once it is in line
	select {
	case l.line <- e:
		l.wake(urgent || len(l.line) > inLine/4)
		return nil
	default:
	}
	l.hasten()
	if deny {
		return ErrFull
	}
	patience := time.NewTimer(maxWait)
	defer patience.Stop()
	select {
	case l.line <- e:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrFull, ctx.Err())
	case <-patience.C:
		return ErrFull
	}
}

// wake has the writer look at the line: now, or once for all that come while the
// first of them waits. It is called after something was put there, and the writer
// disarms before it looks: whatever it does not see arms anew.
func (l *Log) wake(now bool) {
	if now {
		l.hasten()
		return
	}
	if l.armed.CompareAndSwap(false, true) {
		l.linger.Reset(linger)
	}
}

// hasten ends the writer's linger, or its next.
func (l *Log) hasten() {
	select {
	case l.hurry <- struct{}{}:
	default:
	}
}

// Flush waits until all that was observed before is on disk.
func (l *Log) Flush(ctx context.Context) error {
	flushed := make(chan struct{})
	if err := l.put(ctx, &entry{flushed: flushed}, false); err != nil {
		return err
	}
	select {
	case <-flushed:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("decisionlog: %w", ctx.Err())
	}
}

// Close writes what waits and closes the log; what is observed later fails.
func (l *Log) Close() error {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.line)
		l.hasten()
	}
	l.mu.Unlock()
	<-l.done
	return l.out.close()
}

// Find returns the decision with this id, however new. See Folder.Find.
func (l *Log) Find(ctx context.Context, id string) (Entry, error) {
	if err := l.Flush(ctx); err != nil {
		return Entry{}, err
	}
	return l.folder.Find(id)
}

// Last returns the newest n decisions, newest first. See Folder.Last.
func (l *Log) Last(ctx context.Context, n int) ([]Entry, error) {
	if n <= 0 {
		return nil, nil
	}
	if err := l.Flush(ctx); err != nil {
		return nil, err
	}
	return l.folder.Last(n)
}

// Oldest returns the version of the bundle behind the oldest decision on record,
// or 0. See Folder.Oldest.
func (l *Log) Oldest() uint64 { return l.folder.Oldest() }
