package audit

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxSegments bounds the six-digit numbers of segment files.
const maxSegments = 999_999

func segmentName(n int) string { return fmt.Sprintf("%06d.jsonl", n) }

// segments lists the segment numbers of a plane's folder in order. They must
// run from 1 without a gap; a file that ends like a segment and is none is an
// error too, as another reader might take it for one.
func segments(folder string) ([]int, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	var list []int
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".jsonl") {
			continue
		}
		var n int
		if _, err := fmt.Sscanf(e.Name(), "%06d.jsonl", &n); err != nil || segmentName(n) != e.Name() || !e.Type().IsRegular() {
			return list, &orderError{e.Name(), "is not a segment"}
		}
		list = append(list, n)
	}
	slices.Sort(list)
	for i, n := range list {
		if n != i+1 {
			return list[:i], &orderError{segmentName(i + 1), "is missing"}
		}
	}
	return list, nil
}

// orderError says which file breaks the row of segments.
type orderError struct{ file, what string }

func (e *orderError) Error() string { return e.file + " " + e.what }

// Lines that are no records.
var (
	errTorn = errors.New("the last line does not end with a newline")
	errLong = fmt.Errorf("a line is longer than %d bytes", maxLine)
)

// lineReader reads the lines of one segment and knows where it is.
type lineReader struct {
	r      *bufio.Reader
	offset int64 // of the current line's first byte
	next   int64 // of the line after it
	line   int   // 1-based number of the current line
}

func newLineReader(r io.Reader) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, maxLine)}
}

// again goes back to the start of the current line of f, which has been
// written to since.
func (l *lineReader) again(f io.ReadSeeker) error {
	if _, err := f.Seek(l.offset, io.SeekStart); err != nil {
		return err
	}
	l.r.Reset(f)
	l.next = l.offset
	l.line--
	return nil
}

// read returns the next line without its newline, valid until the next call.
// At the end it returns io.EOF; the bytes behind the last newline come with
// errTorn, an overlong line, skipped, with errLong.
func (l *lineReader) read() ([]byte, error) {
	l.offset = l.next
	b, err := l.r.ReadSlice('\n')
	l.next += int64(len(b))
	if len(b) > 0 {
		l.line++
	}
	switch {
	case err == nil:
		return b[:len(b)-1], nil
	case errors.Is(err, io.EOF) && len(b) > 0:
		return b, errTorn
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, l.skip()
	}
	return nil, err
}

// skip passes over the rest of an overlong line.
func (l *lineReader) skip() error {
	for {
		b, err := l.r.ReadSlice('\n')
		l.next += int64(len(b))
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		return errLong
	}
}

// readRecord returns the next record if it is sound in itself: well-formed and
// with the hash that its own content asks for.
func (l *lineReader) readRecord() (record, error) {
	line, err := l.read()
	if err != nil {
		return record{}, err
	}
	r, err := parseRecord(line)
	if err != nil {
		return r, &recordError{RuleShape, r.seq, err.Error()}
	}
	if r.sum() != r.hash {
		return r, &recordError{RuleHash, r.seq, "the hash does not fit the record"}
	}
	return r, nil
}

// recordError says which rule a single record breaks.
type recordError struct {
	rule Rule
	seq  uint64 // 0 when it cannot be read
	what string
}

func (e *recordError) Error() string { return e.what }

// syncFolder makes the creation or removal of files in folder durable.
func syncFolder(folder string) error {
	f, err := os.Open(filepath.Clean(folder))
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
