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
// Writing is asynchronous. Observe renders the record and puts it in line; it
// returns before that is on disk, and fails when it cannot be put there: no
// decision is dropped in silence. A process
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
	// How large one record may be. A decision that rests on more is none: whoever
	// asks could write the log full with a few questions.
	recordBytes = 64 << 10
	inLine      = 4096                   // records that wait for the disk
	inLineBytes = 32 << 20               // of them: a disk that takes nothing must not take the memory
	enough      = 256 << 10              // bytes in line that wait for no others: more saves nothing
	syncEvery   = 250 * time.Millisecond // a record that was written waits so long, at most, for the disk
	maxWait     = time.Second            // Observe waits so long at most
	retryEvery  = 250 * time.Millisecond // after a failed write
	sweepEvery  = 10 * time.Minute
	youngest    = time.Hour // what was decided since should be on record, whatever is written
	// The first in line waits so long for others, at most: waking for each costs
	// more than writing it.
	linger = 50 * time.Millisecond
)

// Lag is how long after its answer a decision is in the files of a log at the latest,
// while the disk keeps up. Whoever reads them and has heard the id asks again then.
const Lag = 4 * linger

// Errors of Observe. Each denies.
var (
	ErrFull   = errors.New("decisionlog: more decisions than the disk takes")
	ErrClosed = errors.New("decisionlog: the log is closed")
	// ErrLarge: the record would be too large; it is in the chain of the error.
	ErrLarge = errors.New("the question is too large to keep")
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
	Each func(pdp.Question, rampart.Decision)
	// Wanted says, when a decision is observed, whether Each is to be called with
	// it: what nobody wants is not kept until then. If nil, all are wanted.
	Wanted func() bool
	Logger *slog.Logger // if nil, slog.Default
	Now    func() time.Time
}

// Log is the open log of one plane. Safe for concurrent use. Close must be
// called.
type Log struct {
	opt    Options
	folder Folder
	out    segments
	// *encoder, each used by one call of Observe at a time: what it renders is
	// copied into the line before it is given back.
	encoders sync.Pool
	late     *time.Timer           // the first in line has waited long enough
	hurry    chan struct{}         // somebody waits for the disk, or much is in line
	quit     chan struct{}         // closed by Close
	done     chan struct{}         // closed when the writer has ended
	failed   atomic.Pointer[error] // why the disk takes nothing, now
	most     int                   // records in line

	mu     sync.Mutex
	closed bool
	next   *batch // the line
	spare  []byte // for the text of the batch after
}

// batch is the decisions that share a write.
type batch struct {
	text  []byte // their records
	n     int
	told  []entry       // those of them that Each is called with
	waits bool          // somebody waits for the disk
	taken chan struct{} // closed when the writer has it: there is room in the next
	done  chan struct{} // closed when it is written
}

func newBatch(text []byte) *batch {
	return &batch{text: text, taken: make(chan struct{}), done: make(chan struct{})}
}

// entry is a decision as it was observed.
type entry struct {
	question pdp.Question
	decision rampart.Decision
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
	l := newLog(opt, inLine)
	l.folder = Folder{path: opt.State.Path(FolderName("decisions", opt.Plane)), key: key}
	l.out = segments{folder: l.folder.path}
	l.encoders.New = func() any { return newEncoder(key) }
	if err := l.out.recover(); err != nil {
		return nil, fmt.Errorf("decisionlog: %w", err)
	}
	go l.write()
	return l, nil
}

func newLog(opt Options, most int) *Log {
	return &Log{
		opt: opt, most: most, next: newBatch(nil), late: stopped(),
		hurry: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
	}
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
	s := l.opt.Settings()
	e := l.encoders.Get().(*encoder)
	defer l.encoders.Put(e)
	e.begin()
	bound(&q)
	if err := e.record(&q, &d, s.Schema); err != nil {
		return fmt.Errorf("decisionlog: %w", err)
	}
	var told *entry
	if l.opt.Each != nil && (l.opt.Wanted == nil || l.opt.Wanted()) {
		told = owned(q, d)
	}
	return l.put(ctx, e.buf, told, s.Deny)
}

// put waits for room in line, unless it is to deny.
func (l *Log) put(ctx context.Context, line []byte, told *entry, deny bool) error {
	full, err := l.tryPut(line, told)
	if full == nil || err != nil {
		return err
	}
	if deny {
		return ErrFull
	}
	patience := time.NewTimer(maxWait)
	defer patience.Stop()
	for full != nil && err == nil {
		select {
		case <-full.taken:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrFull, ctx.Err())
		case <-patience.C:
			return ErrFull
		}
		full, err = l.tryPut(line, told)
	}
	return err
}

// tryPut puts a record in line, or returns the batch that is full. It wakes the
// writer once for a batch: when the first in it has waited long enough, or when
// there is much.
func (l *Log) tryPut(line []byte, told *entry) (full *batch, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, ErrClosed
	}
	b := l.next
	if b.n >= l.most || len(b.text) >= inLineBytes {
		l.hasten()
		return b, nil
	}
	small := len(b.text) < enough
	b.text, b.n = append(b.text, line...), b.n+1
	if told != nil {
		b.told = append(b.told, *told)
	}
	switch {
	case b.n == l.most/4 || small && len(b.text) >= enough:
		l.hasten()
	case b.n == 1:
		l.late.Reset(linger)
	}
	return nil, nil
}

// hasten has the writer take what is in line now. What it was told and has not
// heard is for whatever is in line then.
func (l *Log) hasten() {
	select {
	case l.hurry <- struct{}{}:
	default:
	}
}

// Flush waits until all that was observed before is on disk.
func (l *Log) Flush(ctx context.Context) error {
	b, err := l.awaited()
	if err != nil {
		return err
	}
	select {
	case <-b.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("decisionlog: %w", ctx.Err())
	}
}

// awaited is the batch with which all that was observed before is on disk.
func (l *Log) awaited() (*batch, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, ErrClosed
	}
	l.next.waits = true
	l.hasten()
	return l.next, nil
}

// Close writes what waits and closes the log; what is observed later fails.
func (l *Log) Close() error {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.quit)
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
