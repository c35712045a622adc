package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"

	"github.com/rampart-security/rampart"
)

// Head is the newest durable record of a plane's log. The zero Head is that of
// an empty log.
type Head struct {
	Seq  uint64
	Hash [32]byte
}

// after moves the head to r, if r is its successor.
func (h *Head) after(r record) error {
	if r.seq != h.Seq+1 {
		return &recordError{RuleSequence, r.seq, fmt.Sprintf("record %d follows record %d", r.seq, h.Seq)}
	}
	if r.prev != h.Hash {
		return &recordError{RuleChain, r.seq, fmt.Sprintf("prev is not the hash of record %d", h.Seq)}
	}
	h.Seq, h.Hash = r.seq, r.hash
	return nil
}

// recovered is where a log stands when it is opened.
type recovered struct {
	segment int   // number of the newest segment, 0 when there is none
	size    int64 // its sound length in bytes
	torn    int64 // bytes behind that which nobody was told to be durable
	head    Head
}

// recoverFolder finds the head of a plane's log. It reads the newest segment
// that holds records in full, and of the one before it the last record: the
// time to start does not grow with the age of the log. VerifyDir reads all.
func recoverFolder(folder, plane string) (recovered, error) {
	list, err := segments(folder)
	if err != nil {
		return recovered{}, corrupt(folder, err)
	}
	out := recovered{segment: len(list)}
	full, err := lastFull(folder, len(list))
	if err != nil || full == 0 {
		return out, err
	}
	before, err := lastFull(folder, full-1)
	if err != nil {
		return out, err
	}
	if before != 0 {
		if out.head, err = lastHead(filepath.Join(folder, segmentName(before))); err != nil {
			return out, err
		}
	}
	settled, err := durableIn(folder, full)
	if err != nil {
		return out, err
	}
	size, torn, err := out.head.scan(filepath.Join(folder, segmentName(full)), plane, settled)
	if err != nil {
		return out, err
	}
	if full == len(list) {
		out.size, out.torn = size, torn
		return out, nil
	}
	if torn != 0 {
		return out, corrupt(segmentName(full), errors.New("it ends in a broken record though a segment follows"))
	}
	return out, nil
}

// durableIn returns how many bytes of segment n were made durable, for all that is
// known. What is behind may be torn in any way after a loss of power.
func durableIn(folder string, n int) (int64, error) {
	m, ok, err := readMark(folder)
	switch {
	case err != nil:
		return 0, err
	case !ok || m.segment > n:
		return math.MaxInt64, nil
	case m.segment < n:
		return 0, nil
	}
	return m.size, nil
}

// lastFull returns the highest segment number up to n whose file is not empty,
// or 0.
func lastFull(folder string, n int) (int, error) {
	for ; n > 0; n-- {
		info, err := os.Stat(filepath.Join(folder, segmentName(n)))
		if err != nil {
			return 0, fmt.Errorf("audit: %w", err)
		}
		if info.Size() > 0 {
			return n, nil
		}
	}
	return 0, nil
}

// lastHead reads the last record of a closed segment.
func lastHead(path string) (Head, error) {
	f, err := os.Open(path)
	if err != nil {
		return Head{}, fmt.Errorf("audit: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Head{}, fmt.Errorf("audit: %w", err)
	}
	start := max(0, info.Size()-2*maxLine)
	buf := make([]byte, info.Size()-start)
	if _, err := f.ReadAt(buf, start); err != nil {
		return Head{}, fmt.Errorf("audit: %w", err)
	}
	body, ok := bytes.CutSuffix(buf, []byte("\n"))
	if !ok {
		return Head{}, corrupt(filepath.Base(path), errTorn)
	}
	r, err := parseRecord(body[bytes.LastIndexByte(body, '\n')+1:])
	if err == nil && r.sum() != r.hash {
		err = errors.New("the hash does not fit the record")
	}
	if err != nil {
		return Head{}, corrupt(filepath.Base(path)+" last line", err)
	}
	return Head{r.seq, r.hash}, nil
}

// scan moves h over the records of one segment and returns the length of the
// sound part and of what must be cut behind it. Of its first settled bytes, a
// broken record with a sound one behind it was durable once: that is corruption,
// not a crash.
func (h *Head) scan(path, plane string, settled int64) (size, torn int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, 0, fmt.Errorf("audit: %w", err)
	}
	defer f.Close()
	lines := newLineReader(f)
	for {
		r, err := lines.readRecord()
		if errors.Is(err, io.EOF) {
			return lines.next, 0, nil
		}
		if err == nil {
			err = h.accept(r, plane)
		}
		if err == nil {
			continue
		}
		where := corrupt(fmt.Sprintf("%s line %d byte %d", filepath.Base(path), lines.line, lines.offset), err)
		if !isBroken(err) {
			return 0, 0, where
		}
		size = lines.offset
		more, err := soundBehind(lines)
		if err != nil {
			return 0, 0, fmt.Errorf("audit: %s: %w", filepath.Base(path), err)
		}
		if more && size < settled {
			return 0, 0, where
		}
		return size, lines.next - size, nil
	}
}

// accept moves h to r and makes sure that r is a record of this plane.
func (h *Head) accept(r record, plane string) error {
	if err := h.after(r); err != nil {
		return err
	}
	found, err := planeOf(r)
	if err == nil && found != plane {
		err = foreign(r, found)
	}
	return err
}

func planeOf(r record) (string, error) {
	var e struct {
		Plane string `json:"plane"`
	}
	if err := json.Unmarshal(r.event, &e); err != nil {
		return "", &recordError{RuleEvent, r.seq, "the event is not JSON of an event"}
	}
	return e.Plane, nil
}

func foreign(r record, plane string) error {
	return &recordError{RuleEvent, r.seq, fmt.Sprintf("the event belongs to plane %q", plane)}
}

// isBroken reports whether err is about bytes that are no record, as a crash
// leaves them, rather than about a sound record in the wrong place.
func isBroken(err error) bool {
	if e, ok := errors.AsType[*recordError](err); ok {
		return e.rule == RuleShape || e.rule == RuleHash
	}
	return errors.Is(err, errTorn) || errors.Is(err, errLong)
}

// soundBehind reads to the end and reports whether a sound record is there.
func soundBehind(lines *lineReader) (bool, error) {
	found := false
	for {
		_, err := lines.readRecord()
		switch {
		case err == nil:
			found = true
		case errors.Is(err, io.EOF):
			return found, nil
		case !isBroken(err):
			return false, err
		}
	}
}

// corrupt is the error that keeps a plane from starting on a damaged log.
func corrupt(where string, err error) error {
	return &rampart.Error{
		Kind: rampart.Internal, Control: control, Err: err,
		Msg: "audit: " + where + " is damaged; keep the folder as evidence and move it away to start a new log",
	}
}
