package audit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// errTampered says that the file being written is no longer the file that was
// opened, or not as long as it was left. The log does not go on after that.
var errTampered = errors.New("the open segment was removed, replaced or changed by someone else")

// segmentFile is the segment being written. Only the committer uses it.
type segmentFile struct {
	folder string
	number int         // 0 before the first segment exists
	file   *os.File    // nil before the first segment and after a failed write
	info   os.FileInfo // of file when it was opened: device and inode
	size   int64       // bytes known to be durable
	sync   func(*os.File) error
}

func (s *segmentFile) path() string { return filepath.Join(s.folder, segmentName(s.number)) }

// open continues an existing segment at size and cuts what is behind.
func (s *segmentFile) open(number int, size int64) error {
	s.number, s.size = number, size
	f, err := os.OpenFile(s.path(), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	info, err := s.cutTo(f)
	if err != nil {
		f.Close()
		return err
	}
	s.file, s.info = f, info
	return nil
}

func (s *segmentFile) cutTo(f *os.File) (os.FileInfo, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() < s.size {
		return nil, errTampered
	}
	if info.Size() == s.size {
		return info, nil
	}
	if err := f.Truncate(s.size); err != nil {
		return nil, err
	}
	return info, s.sync(f)
}

// append writes b and makes it durable. After an error the segment is closed:
// what the disk holds behind size is unknown then, and a second fsync on the
// same descriptor could report success for pages that the kernel has dropped.
func (s *segmentFile) append(b []byte) error {
	if err := s.unchanged(); err != nil {
		return err
	}
	_, err := s.file.Write(b)
	if err == nil {
		err = s.sync(s.file)
	}
	if err != nil {
		s.file.Close()
		s.file = nil
		return err
	}
	s.size += int64(len(b))
	return s.unchanged() // removed while we wrote: nobody would find these records
}

// unchanged compares device, inode and length with what we left.
func (s *segmentFile) unchanged() error {
	now, err := os.Lstat(s.path())
	if err != nil || !os.SameFile(now, s.info) || now.Size() != s.size {
		return errTampered
	}
	return nil
}

// repair cuts a segment after a failed write to what is known to be durable,
// through a new descriptor, so that the chain goes on in the next segment
// without a break and no record that was reported as failed shows up later.
func (s *segmentFile) repair() error {
	f, err := os.OpenFile(s.path(), os.O_WRONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return errTampered
	}
	if err != nil {
		return err
	}
	defer f.Close()
	now, err := f.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(now, s.info) {
		return errTampered
	}
	if _, err := s.cutTo(f); err != nil {
		return err
	}
	return s.sync(f)
}

// rotate starts the next segment and closes the present one, which is durable
// to its last byte.
func (s *segmentFile) rotate() error {
	if s.number == maxSegments {
		return fmt.Errorf("segment %d is the last one possible: archive the folder", s.number)
	}
	name := filepath.Join(s.folder, segmentName(s.number+1))
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil {
		err = syncFolder(s.folder)
	}
	if err != nil {
		f.Close()
		return errors.Join(err, os.Remove(name))
	}
	if s.file != nil {
		s.file.Close()
	}
	s.number, s.size, s.file, s.info = s.number+1, 0, f, info
	return nil
}
