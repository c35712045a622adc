package audit

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"time"
)

// run is the committer. It ends when Close has closed quit and the last batch is
// durable. It wakes when somebody waits, when a batch has waited for company long
// enough, and when what it wrote is due to be flushed.
func (l *Log) run() {
	defer close(l.done)
	for open := true; open; {
		due := false
		select {
		case <-l.hurry:
		case <-l.late.C:
		case <-l.settle.C:
			due = true
		case <-l.quit:
			due, open = true, false
		}
		l.commitNext(due)
	}
	l.segment.close()
}

// commitNext writes the batch that has filled. If it is due, what was written
// before is flushed too, even if there is nothing new.
func (l *Log) commitNext(due bool) {
	b := l.take(due)
	if b == nil {
		return
	}
	if len(b.ends) > 0 || l.loose > 0 {
		l.try(b, due)
	}
	l.mu.Lock()
	if len(b.ends) == 0 && l.failure != nil {
		b.err = unavailable(l.failure) // somebody waits for what has failed meanwhile
	}
	l.settled, l.spare, b.room = l.loose == 0, b.emptied(), room{}
	l.mu.Unlock()
	close(b.done)
}

// take begins a new batch, and returns the one that has filled, or nil if nothing
// is to be done.
func (l *Log) take(due bool) *batch {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.next
	if len(b.ends) == 0 && !b.sync && (l.settled || !due) {
		return nil
	}
	l.late.Stop()
	l.next, l.writing, l.settled = l.newBatchLocked(), b, false
	// After a failure nothing is taken to be well before it is durable.
	b.sync = b.sync || l.failure != nil
	close(b.taken)
	return b
}

func (l *Log) try(b *batch, due bool) {
	err := l.commit(b, due)
	if err == nil {
		return
	}
	b.err = unavailable(err)
	l.lost += l.loose + b.async
	l.loose, l.tip = 0, l.head
	l.fail(err, len(b.ends))
}

// commit makes the events of b the next records, in one write, and makes all that
// was written durable if somebody waits for b or it is due.
func (l *Log) commit(b *batch, due bool) error {
	l.buf = reused(l.buf)
	if err := l.ready(b); err != nil {
		return err
	}
	start := 0
	for _, end := range b.ends {
		l.link(b.text[start:end])
		start = end
	}
	if err := l.segment.write(l.buf); err != nil {
		return err
	}
	if due || b.sync {
		return l.flush()
	}
	if l.loose == 0 {
		l.settle.Reset(syncEvery)
	}
	l.loose += len(b.ends)
	return nil
}

// link appends event to l.buf as the next record.
func (l *Log) link(event []byte) {
	r := record{seq: l.tip.Seq + 1, prev: l.tip.Hash, event: event}
	r.hash = l.hash.sum(&r)
	l.buf = r.appendTo(l.buf)
	l.tip = Head{r.seq, r.hash}
}

// flush makes all that was written durable.
func (l *Log) flush() error {
	if err := l.segment.settle(); err != nil {
		return err
	}
	l.settle.Stop()
	l.lost, l.loose = 0, 0
	l.mu.Lock()
	defer l.mu.Unlock()
	l.head, l.failure = l.tip, nil
	return nil
}

// ready makes sure that there is a segment with room for b. After a failed write
// that is a new one, whose first record tells of the gap.
func (l *Log) ready(b *batch) error {
	if l.segment.file == nil {
		return l.restart()
	}
	size := int64(len(b.text) + len(b.ends)*(maxLine-maxEvent))
	if l.segment.size == 0 || l.segment.size+size <= l.max {
		return nil
	}
	// A segment that has a successor is durable to its last byte: only the newest
	// one may be torn by a crash.
	if err := l.flush(); err != nil {
		return err
	}
	return l.segment.rotate()
}

// restart begins a segment after one that has failed.
func (l *Log) restart() error {
	if err := l.segment.repair(); err != nil {
		return err
	}
	note, err := l.note("audit.gap", map[string]string{
		"lost": strconv.Itoa(l.lost), "after": strconv.FormatUint(l.head.Seq, 10), "file": segmentName(l.segment.number),
	})
	if err != nil {
		return err
	}
	l.link(note)
	return l.segment.rotate()
}

// fail makes the log refuse events: for a while, or, when someone else has
// been at the file, for good.
func (l *Log) fail(err error, events int) {
	l.logger.LogAttrs(context.Background(), slog.LevelError, "audit: batch failed",
		slog.Any("error", err), slog.Int("events", events), slog.String("file", l.segment.path()))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failure = err
	l.retry = l.now().Add(retryAfter)
	if errors.Is(err, errTampered) {
		l.retry = time.Time{}
	}
}
