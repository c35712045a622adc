package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rampart-security/rampart"
)

const (
	defaultSegment = 64 << 20 // bytes
	maxBatch       = 8192     // records
	maxBatchBytes  = 4 << 20
	retryAfter     = time.Second // between attempts to leave a failed segment
	// Events for which nobody waits do so for each other: at some hundred requests
	// a second a flush for each costs more than all else that is done for it.
	company = 10 * time.Millisecond
)

// Options of a Log. The zero Options is ready to use.
type Options struct {
	Now        func() time.Time // if nil, time.Now
	MaxSegment int64            // bytes after which a new file is started; if 0, 64 MiB
	Logger     *slog.Logger     // if nil, nothing is logged
}

// Log is the audit log of one plane. Its methods may be called concurrently.
//
// One goroutine writes. Whoever calls Record while it waits for the disk goes
// into the next batch together; nobody who waits for the disk ever waits for
// company. Events for which nobody waits are written when one comes for which
// somebody does, after ten milliseconds at the latest: a process that is killed
// loses so much of them.
//
// When a write or fsync fails, the batch fails and every Record after it, for
// a second. Then the log cuts the segment, through a new descriptor, to the
// length known to be durable, starts a new segment that continues the chain
// from there, and records the gap. When the open segment was removed, replaced
// or changed by someone else, the log refuses every event until it is opened
// again.
type Log struct {
	plane  string
	now    func() time.Time
	logger *slog.Logger
	max    int64
	folder *os.File      // holds the lock
	wake   chan struct{} // a batch has something; closed by Close
	hurry  chan struct{} // and somebody waits for it
	done   chan struct{} // the committer has ended

	mu      sync.Mutex
	next    *batch
	writing *batch // taken last; nil: none was
	head    Head
	failure error     // why events are refused; nil when they are not
	retry   time.Time // when to try again after a failure; zero: never
	closed  bool

	requests, strangers flood // refusals that are counted

	// The rest belongs to the committer.
	segment segmentFile
	buf     []byte
	lost    int // events that were accepted without waiting and then lost
}

// batch is a group of events with one fsync.
type batch struct {
	events [][]byte
	size   int
	async  int           // events for which nobody waits
	taken  chan struct{} // closed when the committer has it: there is room in the next
	done   chan struct{} // closed when err is set
	err    error
}

func newBatch() *batch {
	return &batch{taken: make(chan struct{}), done: make(chan struct{})}
}

func (b *batch) full() bool { return len(b.events) >= maxBatch || b.size >= maxBatchBytes }

// Open opens or creates the log of plane, such as "gateway/edge", under dir,
// the audit folder of the state folder. A torn record at the very end, which
// was never acknowledged, is cut, and the cut is recorded; any other damage is
// an error that names file, line and byte. A second writer is refused.
func Open(dir, plane string, opt Options) (*Log, error) {
	name, err := folderOf(plane)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	if err := syncFolder(dir); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	folder, err := lockFolder(path)
	if err != nil {
		return nil, err
	}
	l := newLog(plane, folder, opt)
	if err := l.recover(); err != nil {
		folder.Close()
		return nil, err
	}
	go l.run()
	return l, nil
}

func newLog(plane string, folder *os.File, opt Options) *Log {
	l := &Log{
		plane: plane, now: opt.Now, logger: opt.Logger, max: opt.MaxSegment, folder: folder,
		wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1), done: make(chan struct{}), next: newBatch(),
		segment: segmentFile{folder: folder.Name(), sync: (*os.File).Sync},
	}
	if l.now == nil {
		l.now = time.Now
	}
	if l.logger == nil {
		l.logger = slog.New(slog.DiscardHandler)
	}
	if l.max <= 0 {
		l.max = defaultSegment
	}
	l.requests.all, l.requests.window = floodAll, floodWindow
	l.strangers.all, l.strangers.window = strangeAll, strangeWindow
	return l
}

// lockFolder makes this process the one writer. The kernel frees the lock when
// the process ends, however it ends.
func lockFolder(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, rampart.Errorf(rampart.Conflict, control, "audit: another process writes %s", path)
		}
		return nil, fmt.Errorf("audit: lock %s: %w", path, err)
	}
	return f, nil
}

func (l *Log) recover() error {
	at, err := recoverFolder(l.segment.folder, l.plane)
	if err != nil {
		return err
	}
	l.head = at.head
	if at.segment == 0 {
		err = l.segment.rotate()
	} else {
		err = l.segment.open(at.segment, at.size)
	}
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	if at.torn == 0 {
		return nil
	}
	l.logger.LogAttrs(context.Background(), slog.LevelWarn, "audit: torn record cut",
		slog.String("file", l.segment.path()), slog.Int64("bytes", at.torn))
	note, err := l.note("audit.cut", map[string]string{"file": segmentName(at.segment), "bytes": strconv.FormatInt(at.torn, 10)})
	if err != nil {
		return err
	}
	return l.commit([][]byte{note})
}

// note is an event of the log about itself.
func (l *Log) note(action string, detail map[string]string) ([]byte, error) {
	return encode(Event{
		Time: l.now().UTC(), Plane: l.plane, Class: ClassConfig, Action: action,
		Outcome: Failed, Control: control, Detail: detail,
	})
}

// Record appends e. It sets Time and Plane, and Trace from ctx unless e has
// one. A refusal, and every class but ClassAuthzAllow and ClassAPIRead, is
// durable when Record returns nil; the others are in the same log, in the same
// order, but nobody waits for the disk. When the queue is full, all wait.
//
// The event is taken even if ctx is done already, since a client that hangs up
// must not thereby erase its trace; only the wait ends with ctx. Errors are of
// kind Unavailable, except for an event that is wrong in itself.
func (l *Log) Record(ctx context.Context, e Event) error {
	if err := e.validate(); err != nil {
		return err
	}
	e.Time, e.Plane = l.now().UTC(), l.plane
	if e.Trace == "" {
		e.Trace = rampart.TraceFrom(ctx)
	}
	if e.Outcome == Refused && l.counted(e) {
		return nil
	}
	b, err := l.put(ctx, e)
	if err != nil || !e.waits() {
		return err
	}
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return unavailable(fmt.Errorf("the disk did not answer in time: %w", ctx.Err()))
	}
}

// put adds e to the batch that is filling.
func (l *Log) put(ctx context.Context, e Event) (*batch, error) {
	event, err := encode(e)
	if err != nil {
		return nil, &rampart.Error{Kind: rampart.Internal, Control: control, Msg: "audit: the event cannot be encoded", Err: err}
	}
	for {
		b, room, err := l.tryPut(event, e.waits())
		if err != nil || room {
			return b, err
		}
		select {
		case <-b.taken:
		case <-ctx.Done():
			return nil, unavailable(fmt.Errorf("the queue is full: %w", ctx.Err()))
		}
	}
}

func (l *Log) tryPut(event []byte, waits bool) (b *batch, room bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, false, unavailable(errors.New("the log is closed"))
	}
	if l.failure != nil && (l.retry.IsZero() || l.now().Before(l.retry)) {
		return nil, false, unavailable(l.failure)
	}
	if l.next.full() {
		signal(l.hurry)
		return l.next, false, nil
	}
	l.addLocked(event, waits)
	return l.next, true, nil
}

func (l *Log) addLocked(event []byte, waits bool) {
	l.next.events = append(l.next.events, event)
	l.next.size += len(event)
	if waits {
		signal(l.hurry)
	} else {
		l.next.async++
	}
	signal(l.wake)
}

// signal tells the committer. What it was told and has not heard is for whatever
// fills now, at worst a batch that goes early.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it has been told
	}
}

func unavailable(err error) error {
	return &rampart.Error{Kind: rampart.Unavailable, Control: control, Msg: "the audit log is not available", Err: err}
}

// Head returns the newest durable record.
func (l *Log) Head() (seq uint64, hash [32]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head.Seq, l.head.Hash
}

// Flush waits until the events that were accepted before are on disk, and returns
// why they are not. Refusals that are being counted are none yet.
func (l *Log) Flush(ctx context.Context) error {
	l.mu.Lock()
	b := l.next
	if len(b.events) == 0 {
		b = l.writing
	}
	l.mu.Unlock()
	if b == nil {
		return nil
	}
	signal(l.hurry)
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return unavailable(ctx.Err())
	}
}

// Close writes what was accepted, counted refusals included, and ends the log.
// It returns why the log was refusing events, if it was. Closing twice is
// harmless.
func (l *Log) Close() error {
	l.mu.Lock()
	first := !l.closed
	if first {
		l.flushLocked(&l.requests)
		l.flushLocked(&l.strangers)
		l.closed = true
		signal(l.hurry)
		close(l.wake)
	}
	l.mu.Unlock()
	<-l.done
	l.mu.Lock()
	defer l.mu.Unlock()
	if first {
		l.folder.Close()
	}
	return l.failure
}
