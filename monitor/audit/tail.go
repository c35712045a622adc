package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

const (
	poll  = 200 * time.Millisecond // between looks at the files when following
	slack = time.Minute            // by which records of one plane may be out of order
)

// TailOptions says what Tail hands out. The zero value means every event up to
// the moment at which Tail has caught up with the writers.
type TailOptions struct {
	Follow bool             // go on with events to come, until ctx is done
	Since  time.Time        // events before it are left out
	Filter func(Event) bool // if not nil, events for which it is false are left out
}

// Pos is where a record stands.
type Pos struct {
	Plane  string `json:"plane"`
	File   string `json:"file"` // "gateway_edge/000001.jsonl"
	Line   int    `json:"line"` // 1-based
	Offset int64  `json:"offset"`
	Seq    uint64 `json:"seq"`
}

// Tail calls fn for the events of all planes under dir, the audit folder, in
// order of time; what comes in late while following is handed out late. It
// ends with the first error of fn, or at a record whose hash does not fit its
// content. It does not check the chain: VerifyDir does. When following, the
// end of ctx is no error.
func Tail(ctx context.Context, dir string, opt TailOptions, fn func(Event, Pos) error) error {
	t := &tailer{dir: dir, opt: opt, fn: fn, cursors: make(map[string]*cursor)}
	defer t.close()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		if err := t.drain(ctx); err != nil || !opt.Follow {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

type tailer struct {
	dir     string
	opt     TailOptions
	fn      func(Event, Pos) error
	cursors map[string]*cursor // by folder
}

func (t *tailer) close() {
	for _, c := range t.cursors {
		c.close()
	}
}

// drain hands out all that is there, oldest first.
func (t *tailer) drain(ctx context.Context) error {
	if err := t.discover(); err != nil {
		return err
	}
	for _, c := range t.cursors {
		c.dry = false
	}
	for ctx.Err() == nil {
		c, err := t.oldest()
		if err != nil || c == nil {
			return err
		}
		e, pos := c.event, c.pos
		c.ready = false
		if e.Time.Before(t.opt.Since) || t.opt.Filter != nil && !t.opt.Filter(e) {
			continue
		}
		if err := t.fn(e, pos); err != nil {
			return err
		}
	}
	if t.opt.Follow {
		return nil
	}
	return ctx.Err()
}

// discover adds planes that have appeared.
func (t *tailer) discover() error {
	folders, err := planeFolders(t.dir)
	if err != nil {
		return err
	}
	for _, name := range folders {
		if t.cursors[name] != nil {
			continue
		}
		start, err := startSegment(filepath.Join(t.dir, name), t.opt.Since)
		if err != nil {
			return fmt.Errorf("audit: %w", err)
		}
		t.cursors[name] = &cursor{dir: t.dir, folder: name, segment: start}
	}
	return nil
}

// oldest returns the cursor with the oldest event at hand, or nil.
func (t *tailer) oldest() (*cursor, error) {
	var first *cursor
	for _, c := range t.cursors {
		if err := c.fill(); err != nil {
			return nil, err
		}
		if c.ready && (first == nil || c.event.Time.Before(first.event.Time)) {
			first = c
		}
	}
	return first, nil
}

// startSegment finds the first segment that can hold events from since on.
func startSegment(folder string, since time.Time) (int, error) {
	list, err := segments(folder)
	if _, ok := errors.AsType[*orderError](err); err != nil && !ok {
		return 0, err
	}
	for n := len(list); n > 1; n-- {
		c := &cursor{dir: filepath.Dir(folder), folder: filepath.Base(folder), segment: n}
		err := c.fill()
		c.close()
		if err != nil {
			return 0, err
		}
		if c.ready && c.event.Time.Before(since.Add(-slack)) {
			return n, nil
		}
	}
	return 1, nil
}

// cursor reads one plane's log.
type cursor struct {
	dir, folder string
	segment     int
	file        *os.File // nil before the segment is open
	lines       *lineReader
	closed      bool // a later segment exists: this one does not grow
	dry         bool // there was no more at this look
	ready       bool // event and pos are the next to hand out
	event       Event
	pos         Pos
}

func (c *cursor) close() {
	if c.file != nil {
		c.file.Close()
		c.file = nil
	}
}

// fill reads the next event if there is one and none is at hand.
func (c *cursor) fill() error {
	for !c.ready && !c.dry {
		err := c.open()
		if errors.Is(err, os.ErrNotExist) {
			c.dry = true
			return nil
		}
		if err != nil {
			return fmt.Errorf("audit: %w", err)
		}
		r, err := c.lines.readRecord()
		switch {
		case err == nil:
			return c.take(r)
		case errors.Is(err, io.EOF), errors.Is(err, errTorn):
			if err := c.atEnd(errors.Is(err, errTorn)); err != nil {
				return err
			}
		default:
			return c.wrong(err)
		}
	}
	return nil
}

func (c *cursor) open() error {
	if c.file != nil {
		return nil
	}
	f, err := os.Open(filepath.Join(c.dir, c.folder, segmentName(c.segment)))
	if err != nil {
		return err
	}
	c.file, c.lines, c.closed = f, newLineReader(f), false
	return nil
}

func (c *cursor) take(r record) error {
	var e Event
	if err := json.Unmarshal(r.event, &e); err != nil {
		return c.wrong(err)
	}
	c.event, c.ready = e, true
	c.pos = Pos{Plane: e.Plane, File: c.name(), Line: c.lines.line, Offset: c.lines.offset, Seq: r.seq}
	return nil
}

func (c *cursor) name() string { return c.folder + "/" + segmentName(c.segment) }

func (c *cursor) wrong(err error) error {
	return fmt.Errorf("audit: %s line %d, byte %d: %w", c.name(), c.lines.line, c.lines.offset, err)
}

// atEnd is called where no whole line follows. A segment that has a successor
// does not grow any more: once it was read to its end after the successor
// appeared, the cursor goes on there. Else the cursor is dry until the next
// look.
func (c *cursor) atEnd(torn bool) error {
	if torn {
		if c.closed {
			return c.wrong(errTorn)
		}
		if err := c.lines.again(c.file); err != nil {
			return c.wrong(err)
		}
	}
	if c.closed {
		c.close()
		c.segment++
		return nil
	}
	_, err := os.Stat(filepath.Join(c.dir, c.folder, segmentName(c.segment+1)))
	c.closed = err == nil
	c.dry = err != nil
	return nil
}
