package audit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// markName is the file beside the segments that says up to where they were made
// durable: the number of the segment and the bytes of it, in markSize bytes.
//
// A machine that loses power may keep any of the pages that were not flushed: later
// ones without earlier ones, so that sound records lie behind zeros. Behind the mark
// that is a crash; before it somebody has been at the file. The mark is written
// after each flush and not flushed itself: it may be some seconds behind after such
// a crash, never ahead. It is no proof of anything: whoever can write it can also
// cut the log, and the head that was reported to the control plane shows both.
const (
	markName   = "durable"
	markFormat = "%06d %020d\n"
	markSize   = 6 + 1 + 20 + 1
)

// mark is a place in the log.
type mark struct {
	segment int
	size    int64
}

// openMark makes the mark, and makes it durable, so that there is one after a crash.
func (s *segmentFile) openMark() error {
	f, err := os.OpenFile(filepath.Join(s.folder, markName), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	s.mark = f
	s.tell()
	return errors.Join(s.sync(f), syncFolder(s.folder))
}

// tell moves the mark. One that stays behind makes recovery more lenient about the
// end of the log, and nothing else, so a failure is not worth an audit log's.
func (s *segmentFile) tell() {
	if s.mark != nil {
		_, _ = s.mark.WriteAt(fmt.Appendf(nil, markFormat, s.number, s.durable), 0)
	}
}

// readMark returns the mark of a folder. Without one that can be read, as older
// versions left none, nothing counts as a crash that could be something else.
func readMark(folder string) (m mark, ok bool, err error) {
	f, err := os.Open(filepath.Join(folder, markName))
	if errors.Is(err, fs.ErrNotExist) {
		return m, false, nil
	}
	if err != nil {
		return m, false, fmt.Errorf("audit: %w", err)
	}
	defer f.Close()
	b := make([]byte, markSize+1)
	n, err := io.ReadFull(f, b)
	if n != markSize || !errors.Is(err, io.ErrUnexpectedEOF) {
		return m, false, nil
	}
	text := string(b[:n])
	_, err = fmt.Sscanf(text, "%d %d\n", &m.segment, &m.size)
	return m, err == nil && m.segment > 0 && m.size >= 0 && fmt.Sprintf(markFormat, m.segment, m.size) == text, nil
}
