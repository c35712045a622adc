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
	enough         = 256 << 10   // bytes after which a batch waits for no company: more saves nothing
	retryAfter     = time.Second // between attempts to leave a failed segment
	// Events for which nobody waits do so for each other: at some hundred requests
	// a second a write for each costs more than all else that is done for it, and one
	// of 64 KiB less than half of five with as much.
	company = 50 * time.Millisecond
	// What was written and nobody waits for is flushed so much later, at most: a
	// flush costs as much as fifty requests, and only a machine that loses power, or
	// whose kernel dies, can tell the difference.
	syncEvery = 250 * time.Millisecond

	maxSpare = 1 << 20 // bytes of a buffer that is kept when little of it is needed
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
// somebody does, when they are 256 KiB, or after 50 ms at the latest, and flushed
// with the next event for which somebody waits, 250 ms after they were written at
// the latest. A process that is killed loses 50 ms of them, a machine that loses
// power 300; what was waited for is on disk, and with it all before it.
//
// When a write or fsync fails, the batch fails and every Record after it, for
// a second. Then the log cuts the segment, through a new descriptor, to the
// length known to be durable, starts a new segment that continues the chain
// from there, and records the gap. When the open segment was removed, replaced
// or changed by someone else, the log refuses every event until it is opened
// again; it looks after each flush, before it answers those who wait for it.
type Log struct {
	plane  string
	now    func() time.Time
	logger *slog.Logger
	max    int64
	folder *os.File      // holds the lock
	hurry  chan struct{} // somebody waits for the batch, or it is large enough
	late   *time.Timer   // the batch has waited for company long enough
	quit   chan struct{} // closed by Close
	done   chan struct{} // the committer has ended
	texts  sync.Pool     // *text

	mu      sync.Mutex
	next    *batch
	writing *batch    // taken last; nil: none was
	spare   room      // for the next batch
	settled bool      // all of the batches that were taken is durable, or has failed
	head    Head      // newest durable record
	failure error     // why events are refused; nil when they are not
	retry   time.Time // when to try again after a failure; zero: never
	closed  bool

	requests, strangers flood // refusals that are counted

	// The rest belongs to the committer.
	segment segmentFile
	settle  *time.Timer // what was written is due to be flushed
	tip     Head        // newest record that was written
	loose   int         // records between head and tip: nobody waits for them
	buf     []byte
	hash    hasher
	lost    int // events that were accepted without waiting and then lost
}

// batch is a group of events with one write.
type batch struct {
	room
	async int           // events for which nobody waits
	sync  bool          // somebody waits for the disk
	taken chan struct{} // closed when the committer has it: there is room in the next
	done  chan struct{} // closed when err is set
	err   error
}

// room holds events, encoded, one behind the other.
type room struct {
	text []byte
	ends []int // where each ends
}

// emptied is the room to use again.
func (r room) emptied() room {
	if r.text = reused(r.text); r.text == nil {
		return room{}
	}
	return room{r.text, r.ends[:0]}
}

// reused empties b to be used again, or lets go of it when a flood made it large
// and is over.
func reused(b []byte) []byte {
	if cap(b) > maxSpare && len(b) < cap(b)/8 {
		return nil
	}
	return b[:0]
}

// newBatchLocked takes what room there is.
func (l *Log) newBatchLocked() *batch {
	b := &batch{room: l.spare, taken: make(chan struct{}), done: make(chan struct{})}
	l.spare = room{}
	return b
}

func (b *batch) add(event []byte) {
	b.text = append(b.text, event...)
	b.ends = append(b.ends, len(b.text))
}

func (b *batch) full() bool { return len(b.ends) >= maxBatch || len(b.text) >= maxBatchBytes }

// Open opens or creates the log of plane, such as "gateway/edge", under dir,
// the audit folder of the state folder. What a crash tore at the very end, which
// nobody was told to be durable, is cut, and the cut is recorded; any other damage
// is an error that names file, line and byte. A second writer is refused.
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
		hurry: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
		late: stopped(), settle: stopped(), settled: true,
		segment: segmentFile{folder: folder.Name(), sync: (*os.File).Sync},
	}
	l.texts.New = func() any { return new(text) }
	l.next = l.newBatchLocked()
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

// stopped is a timer that is to be set.
func stopped() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
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
	l.head, l.tip = at.head, at.head
	if at.segment == 0 {
		err = l.segment.rotate()
	} else {
		err = l.segment.open(at.segment, at.size)
	}
	if err == nil {
		err = l.segment.openMark()
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
	var b batch
	b.add(note)
	return l.commit(&b, true)
}

// note is an event of the log about itself.
func (l *Log) note(action string, detail map[string]string) ([]byte, error) {
	return new(text).encode(Event{
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
	if e.Outcome == Refused && !e.Sum && l.counted(e) {
		return nil
	}
	b, err := l.put(ctx, &e)
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
func (l *Log) put(ctx context.Context, e *Event) (*batch, error) {
	t := l.texts.Get().(*text)
	defer l.give(t)
	event, err := t.encode(*e)
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

// give hands t back for the next event, unless a rare large one made it large.
func (l *Log) give(t *text) {
	if cap(t.buf) <= 2*maxEvent {
		l.texts.Put(t)
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

// addLocked wakes the committer once for a batch: now if somebody waits or it has
// become large enough, else when the first event in it has waited long enough.
func (l *Log) addLocked(event []byte, waits bool) {
	b := l.next
	small := len(b.text) < enough
	b.add(event)
	if waits {
		b.sync = true
		signal(l.hurry)
		return
	}
	b.async++
	switch {
	case small && len(b.text) >= enough:
		signal(l.hurry)
	case len(b.ends) == 1:
		l.late.Reset(company)
	}
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

// Head returns the newest durable record: what was written and not flushed yet is
// not counted. Planes report it, and a log that is shorter than what was reported
// was cut; a machine that loses power must not look like that.
func (l *Log) Head() (seq uint64, hash [32]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head.Seq, l.head.Hash
}

// Flush waits until the events that were accepted before are on disk, and returns
// why they are not. Refusals that are being counted are none yet.
func (l *Log) Flush(ctx context.Context) error {
	b := l.hasten()
	if b == nil {
		return nil
	}
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return unavailable(ctx.Err())
	}
}

// hasten has flushed what was accepted, and returns the batch with which that is
// done; nil when there was none.
func (l *Log) hasten() *batch {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.next.ends) == 0 && (l.settled || l.closed) {
		return l.writing
	}
	l.next.sync = true
	signal(l.hurry)
	return l.next
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
		close(l.quit)
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
