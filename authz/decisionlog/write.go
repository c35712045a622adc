package decisionlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// write is the log's goroutine: it ends when the log is closed and nothing is in
// line.
func (l *Log) write() {
	defer close(l.done)
	settle, broom := stopped(), time.NewTicker(sweepEvery)
	defer broom.Stop()
	l.sweep(l.opt.Now())
	for loose, open := false, true; open; {
		due := false
		select {
		case <-l.late.C:
		case <-l.hurry:
		case <-settle.C:
			due = true
		case <-broom.C:
			l.sweep(l.opt.Now())
		case <-l.quit:
			due, open = true, false
		}
		b := l.take()
		if !l.store(b.text, due || b.waits) {
			l.opt.Logger.LogAttrs(context.Background(), slog.LevelError, "decisions lost: the log was closed while the disk took nothing", slog.Int("decisions", b.n))
		}
		loose = l.out.await(settle, loose)
		l.tell(b)
	}
}

// take begins a new batch and returns the one in line.
func (l *Log) take() *batch {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.late.Stop()
	b := l.next
	l.next, l.spare = newBatch(l.spare), nil
	close(b.taken)
	return b
}

// store writes b, and makes durable what was written if it is due. While the
// disk fails it tries again, and Observe fails meanwhile; it gives up when the
// log is closed.
func (l *Log) store(b []byte, due bool) bool {
	for {
		var err error
		if b, err = l.append(b); err == nil && due {
			err = l.out.sync()
		}
		if err == nil {
			l.failed.Store(nil)
			return true
		}
		if l.failed.Swap(&err) == nil {
			l.opt.Logger.LogAttrs(context.Background(), slog.LevelError, "the decision log cannot be written: every decision is denied", slog.Any("error", err))
		}
		if l.isClosed() {
			return false
		}
		time.Sleep(retryEvery)
	}
}

// append writes b and returns what of it is left when that fails. What there is
// no more room for goes as soon as a segment is full.
func (l *Log) append(b []byte) (rest []byte, err error) {
	for len(b) > 0 {
		number := l.out.number
		b, err = l.out.append(b)
		if l.out.number != number {
			l.sweep(l.opt.Now())
		}
		if err != nil {
			return b, err
		}
	}
	return nil, nil
}

func (l *Log) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

// tell passes a batch on that is on record, and keeps its memory for another.
func (l *Log) tell(b *batch) {
	close(b.done)
	for i := range b.told {
		if l.crowded() {
			break
		}
		l.opt.Each(b.told[i].question, b.told[i].decision)
	}
	if cap(b.text) > maxSpare {
		return // a rare large one
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.spare = b.text[:0]
}

// crowded reports whether the line is half full.
func (l *Log) crowded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next.n >= l.most/2
}

// sweep removes segments that are older than is kept, or too many.
func (l *Log) sweep(now time.Time) {
	keep := l.opt.Settings().Keep
	if keep <= 0 {
		keep = DefaultKeep
	}
	cut, last, err := l.out.sweep(now.Add(-keep), l.opt.MaxBytes)
	if err != nil {
		l.opt.Logger.LogAttrs(context.Background(), slog.LevelError, "old decisions cannot be removed", slog.Any("error", err))
	}
	if cut == 0 {
		return
	}
	level, what := slog.LevelWarn, "decisions were removed before their time: the log is full"
	if now.Sub(last) < youngest {
		level, what = slog.LevelError, "DECISIONS OF THE LAST HOUR WERE REMOVED: somebody asks more than the log has room for"
	}
	l.opt.Logger.LogAttrs(context.Background(), level, what, slog.String("plane", l.opt.Plane), slog.Int("segments", cut), slog.Time("newest_removed", last), slog.Int64("max_bytes", l.opt.MaxBytes))
}

// segments are the files of a log. Only its goroutine writes them.
type segments struct {
	folder string
	number int // of the newest; 0: there is none
	file   *os.File
	size   int64                // of file
	dirty  bool                 // something of it may not be durable
	fsync  func(*os.File) error // if nil, (*os.File).Sync
}

func segmentName(n int) string { return fmt.Sprintf("%08d.log", n) }

// list returns the numbers of the segments, oldest first.
func (s *segments) list() ([]int, error) {
	names, err := os.ReadDir(s.folder)
	if err != nil {
		return nil, err
	}
	var out []int
	for _, e := range names {
		text, ok := strings.CutSuffix(e.Name(), ".log")
		if n, err := strconv.Atoi(text); ok && err == nil && n > 0 && segmentName(n) == e.Name() {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out, nil
}

// recover opens the newest segment and cuts off what a crash left unfinished:
// a line without its end.
func (s *segments) recover() error {
	list, err := s.list()
	if err != nil || len(list) == 0 {
		return err
	}
	s.number = list[len(list)-1]
	name := filepath.Join(s.folder, segmentName(s.number))
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	s.size, err = soundSize(f)
	if err == nil {
		err = f.Truncate(s.size)
	}
	if err == nil {
		_, err = f.Seek(s.size, io.SeekStart)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	s.file = f
	return nil
}

// soundSize returns the length up to the last end of a line, looking backwards.
func soundSize(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	buf := make([]byte, 4096)
	for end := info.Size(); end > 0; {
		n := min(end, int64(len(buf)))
		if _, err := f.ReadAt(buf[:n], end-n); err != nil {
			return 0, err
		}
		if i := strings.LastIndexByte(string(buf[:n]), '\n'); i >= 0 {
			return end - n + int64(i) + 1, nil
		}
		end -= n
	}
	return 0, nil
}

// append writes the lines of b that there is room for at the end of the newest
// segment, or of a new one when that is full or has failed: after an error nobody
// knows what of it the disk holds. It returns the lines that are left.
func (s *segments) append(b []byte) (rest []byte, err error) {
	n := fitting(b, segmentBytes-s.size)
	if s.file == nil || n == 0 {
		if err := s.rotate(); err != nil {
			return b, err
		}
		n = fitting(b, segmentBytes)
	}
	if _, err := s.file.Write(b[:n]); err != nil {
		s.file.Truncate(s.size) // else half a record stays, or one shows up twice
		s.close()
		return b, err
	}
	s.size, s.dirty = s.size+int64(n), true
	return b[n:], nil
}

// fitting returns how many bytes of b are whole lines within room. Each line is
// smaller than a segment.
func fitting(b []byte, room int64) int {
	if int64(len(b)) <= room {
		return len(b)
	}
	return bytes.LastIndexByte(b[:max(0, room)], '\n') + 1
}

// await sets timer for what was written and is not durable, unless it is set, as was
// says. It returns whether there is such.
func (s *segments) await(timer *time.Timer, was bool) bool {
	switch {
	case !s.dirty:
		timer.Stop()
	case !was:
		timer.Reset(syncEvery)
	}
	return s.dirty
}

// sync makes durable what was written. A second fsync on the same file could
// report success for what the kernel has dropped, so the next record goes into
// another.
func (s *segments) sync() error {
	if !s.dirty {
		return nil
	}
	s.dirty = false
	fsync := s.fsync
	if fsync == nil {
		fsync = (*os.File).Sync
	}
	if err := fsync(s.file); err != nil {
		s.close()
		return err
	}
	return nil
}

func (s *segments) rotate() error {
	if err := errors.Join(s.sync(), s.close()); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(s.folder, segmentName(s.number+1)), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	s.number, s.file, s.size = s.number+1, f, 0
	folder, err := os.Open(s.folder)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

func (s *segments) close() error {
	s.dirty = false
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	s.file = nil
	return err
}

// sweep removes segments written before then, and the oldest while all are
// larger than limit. It returns how many went for want of room, and when the last
// of them was written. The newest stays.
func (s *segments) sweep(before time.Time, limit int64) (cut int, last time.Time, err error) {
	list, err := s.list()
	if err != nil {
		return 0, last, err
	}
	sizes, total := map[int]os.FileInfo{}, int64(0)
	for _, n := range list {
		info, err := os.Stat(filepath.Join(s.folder, segmentName(n)))
		if err != nil {
			return 0, last, err
		}
		sizes[n], total = info, total+info.Size()
	}
	for _, n := range list {
		old, full := sizes[n].ModTime().Before(before), total > limit
		if n == s.number || !old && !full {
			break
		}
		if err := os.Remove(filepath.Join(s.folder, segmentName(n))); err != nil {
			return cut, last, err
		}
		total -= sizes[n].Size()
		if !old {
			cut, last = cut+1, sizes[n].ModTime()
		}
	}
	return cut, last, nil
}
