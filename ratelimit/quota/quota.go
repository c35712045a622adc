// Package quota counts what a key may use per period of the calendar, in a file
// of one process, so that neither a restart nor a crash gives it back.
//
// Use is written ahead, in lots of a hundredth of the quota: a lot is on disk
// before the first of it is given out. So nothing is ever given out twice, however
// the process ends; a crash costs the key what is left of its lot, at most one
// part in a hundred. A quota that cannot be recorded is not granted: a full disk
// refuses, and says so.
package quota

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rampart-security/rampart/ratelimit"
)

// Bounds of a file.
const (
	maxKeys = 1 << 16 // per limiter and period
	maxName = 512     // bytes of a limiter's name and a key
	maxLine = 2*maxName + 128
	compact = 1 << 20 // bytes of superfluous lines that are worth a rewrite
)

// Options of a File.
type Options struct {
	Now func() time.Time // if nil, time.Now; the wall clock counts: days end by it
}

// File keeps the counts of several limiters. Safe for concurrent use; one process
// at a time may have it open.
type File struct {
	name string
	now  func() time.Time

	mu     sync.Mutex
	f      *os.File
	size   int64 // bytes of it
	useful int64 // after the last rewrite
	lots   map[lot]int
	failed error // of the newest write; nil: it was good
}

// lot is who has how much on disk.
type lot struct {
	limiter string
	period  int64 // number of the period since 1970, in UTC
	key     string
}

// Open reads the file at name, which need not exist, and begins a new one in its
// place that holds what still counts. A line that is cut off at the end is what a
// crash leaves behind; any other that cannot be read is an error.
func Open(name string, opt Options) (*File, error) {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	q := &File{name: name, now: opt.Now, lots: map[lot]int{}}
	old, err := os.Open(name)
	if err == nil {
		q.lots, err = read(old)
		old.Close()
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("quota: %s: %w", name, err)
	}
	if err := q.rewrite(); err != nil {
		return nil, fmt.Errorf("quota: %w", err)
	}
	return q, nil
}

// Close closes the file. Limiters refuse from then on.
func (q *File) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.failed = os.ErrClosed
	return q.f.Close()
}

// Err returns why the newest lot could not be recorded, nil if it was.
func (q *File) Err() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.failed
}

// read reads lines of "limiter TAB period TAB key TAB total TAB checksum"; a later
// line of the same lot replaces an earlier one.
func read(r io.Reader) (map[lot]int, error) {
	lots := map[lot]int{}
	b := bufio.NewReaderSize(r, maxLine)
	for n := 1; ; n++ {
		line, err := b.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return lots, nil // what a crash cut off was never given out
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		k, total, err := parse(string(bytes.TrimSuffix(line, []byte("\n"))))
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		lots[k] = max(lots[k], total)
	}
}

func parse(line string) (lot, int, error) {
	text, sum, ok := cutLast(line)
	if !ok || sum != checksum(text) {
		return lot{}, 0, errors.New("the checksum is wrong; remove the file to begin anew, which gives back what was used")
	}
	parts := strings.Split(text, "\t")
	if len(parts) != 4 || len(parts[0]) > maxName || len(parts[2]) > maxName {
		return lot{}, 0, errors.New("want four fields")
	}
	period, err := strconv.ParseInt(parts[1], 10, 64)
	total, err2 := strconv.Atoi(parts[3])
	if err != nil || err2 != nil || period < 0 || total < 0 {
		return lot{}, 0, errors.New("want numbers")
	}
	return lot{parts[0], period, parts[2]}, total, nil
}

func cutLast(line string) (text, last string, ok bool) {
	i := strings.LastIndexByte(line, '\t')
	if i < 0 {
		return "", "", false
	}
	return line[:i], line[i+1:], true
}

func checksum(text string) string {
	return strconv.FormatUint(uint64(crc32.ChecksumIEEE([]byte(text))), 16)
}

func (k lot) line(total int) string {
	text := k.limiter + "\t" + strconv.FormatInt(k.period, 10) + "\t" + k.key + "\t" + strconv.Itoa(total)
	return text + "\t" + checksum(text) + "\n"
}

// rewrite replaces the file by one without superfluous lines.
func (q *File) rewrite() error {
	var b bytes.Buffer
	for k, total := range q.lots {
		b.WriteString(k.line(total))
	}
	tmp := q.name + ".new"
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b.Bytes())
	if err := errors.Join(err, f.Sync(), os.Rename(tmp, q.name), syncFolder(filepath.Dir(q.name))); err != nil {
		return errors.Join(err, f.Close())
	}
	if q.f != nil {
		q.f.Close()
	}
	q.f, q.size, q.useful = f, int64(b.Len()), int64(b.Len())
	return nil
}

func syncFolder(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// reserve has total of k on disk. A write that failed halfway is followed by no
// other in the same file, which would hide it: the file is written anew.
func (q *File) reserve(k lot, total int) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if errors.Is(q.failed, os.ErrClosed) {
		return q.failed
	}
	before, had := q.lots[k]
	q.lots[k] = total
	if q.failed != nil || q.size > 2*q.useful+compact {
		q.failed = q.rewrite()
	} else {
		n, err := q.f.WriteString(k.line(total))
		q.size += int64(n)
		q.failed = errors.Join(err, q.f.Sync())
	}
	if q.failed == nil {
		return nil
	}
	if q.lots[k] = before; !had {
		delete(q.lots, k)
	}
	return q.failed
}

// used returns what is on disk of k.
func (q *File) used(k lot) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.lots[k]
}

// forget drops the lots of a limiter from before a period.
func (q *File) forget(limiter string, period int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for k := range q.lots {
		if k.limiter == limiter && k.period < period {
			delete(q.lots, k)
		}
	}
}

// Limiter is a ratelimit.Limiter that admits a number per period of the calendar,
// in UTC.
type Limiter struct {
	file   *File
	name   string
	limit  int
	period time.Duration
	lot    int

	mu     sync.Mutex
	number int64 // of the period; never goes back
	keys   map[string]*use
}

type use struct{ used, reserved int }

// Limiter returns a limiter whose counts stand in q under name, which holds no
// tab or line break. A limit or period below 1 refuses everything.
func (q *File) Limiter(name string, limit int, period time.Duration) *Limiter {
	if period < time.Second {
		limit, period = 0, time.Second
	}
	return &Limiter{file: q, name: name, limit: max(0, limit), period: period, lot: max(1, limit/100), keys: map[string]*use{}}
}

// Allow admits or refuses cost for key. One call in a hundredth of the quota
// waits for the disk.
func (l *Limiter) Allow(key string, cost int) ratelimit.Verdict {
	cost = max(1, cost)
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.file.now()
	l.turn(now.UnixNano() / int64(l.period))
	left := time.Duration((l.number+1)*int64(l.period) - now.UnixNano())
	v := ratelimit.Verdict{Limit: l.limit, Window: l.period, Reset: left, RetryAfter: left}
	u := l.use(key)
	if u == nil {
		return v
	}
	v.Remaining = max(0, l.limit-u.used)
	if cost > v.Remaining {
		return v
	}
	if u.used+cost > u.reserved && !l.reserve(key, u, cost) {
		v.RetryAfter = time.Second // the disk is full, or broken: closed
		return v
	}
	u.used += cost
	v.OK, v.RetryAfter, v.Remaining = true, 0, v.Remaining-cost
	return v
}

// turn begins a period. A clock that steps back begins none.
func (l *Limiter) turn(number int64) {
	if number <= l.number {
		return
	}
	l.number = number
	clear(l.keys)
	l.file.forget(l.name, number)
}

// use returns what key has used; what an earlier process reserved counts as used.
// It is nil for a key that could not be read back, or when there are too many.
func (l *Limiter) use(key string) *use {
	if u, ok := l.keys[key]; ok {
		return u
	}
	if len(key)+len(l.name) > maxName || strings.ContainsAny(key+l.name, "\t\n") || len(l.keys) >= maxKeys {
		return nil
	}
	n := l.file.used(lot{l.name, l.number, key})
	l.keys[key] = &use{n, n}
	return l.keys[key]
}

func (l *Limiter) reserve(key string, u *use, cost int) bool {
	total := min(l.limit, u.used+max(cost, l.lot))
	if l.file.reserve(lot{l.name, l.number, key}, total) != nil {
		return false
	}
	u.reserved = total
	return true
}
