package audit

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"time"
)

// run is the committer. It ends when Close has closed wake and the last batch
// is written.
func (l *Log) run() {
	defer close(l.done)
	late := time.NewTimer(time.Hour)
	defer late.Stop()
	for range l.wake {
		late.Reset(company)
		select {
		case <-l.hurry:
		case <-late.C:
		}
		l.commitNext()
	}
	l.commitNext()
	if l.segment.file != nil {
		l.segment.file.Close()
	}
}

func (l *Log) commitNext() {
	l.mu.Lock()
	b := l.next
	if len(b.events) == 0 {
		l.mu.Unlock()
		return
	}
	l.next, l.writing = newBatch(), b
	l.mu.Unlock()
	close(b.taken)
	if err := l.commit(b.events); err != nil {
		b.err = unavailable(err)
		l.lost += b.async
		l.fail(err, len(b.events))
	}
	close(b.done)
}

// commit makes events durable as the next records, in one write and one fsync.
func (l *Log) commit(events [][]byte) error {
	events, err := l.ready(events)
	if err != nil {
		return err
	}
	head, buf := l.head, l.buf[:0]
	for _, e := range events {
		r := record{seq: head.Seq + 1, prev: head.Hash, event: e}
		r.hash = r.sum()
		buf = r.appendTo(buf)
		head = Head{r.seq, r.hash}
	}
	l.buf = buf
	if err := l.segment.append(buf); err != nil {
		return err
	}
	l.lost = 0
	l.mu.Lock()
	defer l.mu.Unlock()
	l.head, l.failure = head, nil
	return nil
}

// ready makes sure that there is a segment with room, after a failed write a
// new one, whose first record tells of the gap.
func (l *Log) ready(events [][]byte) ([][]byte, error) {
	if l.segment.file == nil {
		if err := l.segment.repair(); err != nil {
			return nil, err
		}
		note, err := l.note("audit.gap", map[string]string{
			"lost": strconv.Itoa(l.lost), "after": strconv.FormatUint(l.head.Seq, 10), "file": segmentName(l.segment.number),
		})
		if err != nil {
			return nil, err
		}
		return append([][]byte{note}, events...), l.segment.rotate()
	}
	size := int64(0)
	for _, e := range events {
		size += int64(len(e)) + maxLine - maxEvent
	}
	if l.segment.size > 0 && l.segment.size+size > l.max {
		return events, l.segment.rotate()
	}
	return events, nil
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
