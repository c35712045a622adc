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
	folder   string
	number   int         // 0 before the first segment exists
	file     *os.File    // nil before the first segment and after a failed write
	info     os.FileInfo // of file when it was opened: device and inode
	size     int64       // bytes written
	durable  int64       // of them, known to be on disk
	tampered bool        // it was found changed by someone else
	mark     *os.File    // tells whoever recovers what is durable
	sync     func(*os.File) error
}

func (s *segmentFile) path() string { return filepath.Join(s.folder, segmentName(s.number)) }

// open continues an existing segment at size and cuts what is behind. What is there
// may be in the memory of the kernel only, left by a process that was killed.
func (s *segmentFile) open(number int, size int64) error {
	s.number, s.size = number, size
	f, err := os.OpenFile(s.path(), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	info, err := s.cutTo(f)
	if err == nil {
		err = s.sync(f)
	}
	if err != nil {
		f.Close()
		return err
	}
	s.file, s.info, s.durable = f, info, size
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

// write appends b. The kernel has it then, whatever becomes of this process. After
// an error the segment is closed.
func (s *segmentFile) write(b []byte) error {
	if s.tampered {
		return errTampered
	}
	if len(b) == 0 {
		return nil
	}
	if _, err := s.file.Write(b); err != nil {
		s.drop()
		return err
	}
	s.size += int64(len(b))
	return nil
}

// settle makes durable what was written, and then makes sure that it is in its
// place: nobody would find records in a file that was removed while we wrote.
func (s *segmentFile) settle() error {
	if s.tampered {
		return errTampered
	}
	if err := s.sync(s.file); err != nil {
		s.drop()
		return err
	}
	if !s.unchanged() {
		s.tampered = true
		return errTampered
	}
	s.durable = s.size
	s.tell()
	return nil
}

// drop closes the segment after an error. What the disk holds behind durable is
// unknown then, and a second fsync on the same descriptor could report success for
// pages that the kernel has dropped.
func (s *segmentFile) drop() {
	s.file.Close()
	s.file, s.size = nil, s.durable
}

func (s *segmentFile) close() {
	for _, f := range []*os.File{s.file, s.mark} {
		if f != nil {
			f.Close()
		}
	}
}

// unchanged compares device, inode and length with what we left.
func (s *segmentFile) unchanged() bool {
	now, err := os.Lstat(s.path())
	return err == nil && os.SameFile(now, s.info) && now.Size() == s.size
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
	s.number, s.size, s.durable, s.file, s.info = s.number+1, 0, 0, f, info
	return nil
}
